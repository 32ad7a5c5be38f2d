//! Records of attempts, for people. They are written together, so that they cost few requests;
//! a worker that is killed loses those that it had not yet written, and nothing depends on them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use gleaner_schemas::{AttemptRecord, RunId};
use gleaner_storage::{Output, layout};
use tokio::time::Instant;

use crate::entropy::Entropy;

/// So many records are written at once, or sooner.
const RECORDS_PER_OBJECT: usize = 256;
/// A record waits no longer than this while the worker is busy.
const RECORD_AGE_MAX: Duration = Duration::from_secs(60);
/// In the first minutes of a run, when people watch, a record waits for this part of the time that
/// the worker has worked for it: the page is fresh, for a dozen objects of each worker in all.
const RECORD_AGE_SHARE: u32 = 8;
/// But not for less than this.
const RECORD_AGE_MIN: Duration = Duration::from_secs(5);
/// Runs whose beginning is remembered.
const RUNS_MAX: usize = 64;
/// Records that are kept while they cannot be written; beyond, the newest are lost.
const RECORDS_MAX: usize = 4096;
/// Characters of a host's name that become a part of a key.
const HOST_LENGTH_MAX: usize = 40;

/// Told of each attempt at once, in the same process. Must not block.
pub trait AttemptObserver: Debug + Send + Sync {
    /// An attempt has ended.
    fn attempt_ended(&self, record: &AttemptRecord);
}

/// Collects records of attempts and writes them beside the journals of their runs.
#[derive(Debug)]
pub struct AttemptLog {
    worker: String,
    started: (DateTime<Utc>, Instant),
    observer: Option<Arc<dyn AttemptObserver>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<(String, RunId), Pending>,
    /// Objects that were to be written and may be there or not: written again, they are the same.
    unwritten: Vec<Batch>,
    /// When the worker had its first record of a run, the latest run last.
    begun: VecDeque<((String, RunId), Instant)>,
    /// Records of both.
    n_pending: usize,
    next_sequence: u64,
}

/// An object of records.
#[derive(Debug)]
struct Batch {
    run: RunId,
    sequence: u64,
    records: Pending,
}

/// Objects on their way to the store. What of it is not there when this is dropped, in the middle of a
/// write too, waits for the next one.
struct OnItsWay<'a> {
    log: &'a AttemptLog,
    batches: VecDeque<Batch>,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let mut state = self.log.lock();
        let batches = self.batches.drain(..);
        state.unwritten.extend(batches);
    }
}

#[derive(Debug)]
struct Pending {
    output: Output,
    since: Instant,
    records: Vec<AttemptRecord>,
}

impl AttemptLog {
    /// The log of the process `worker`, a single part of a path such as [`worker_name`] makes.
    /// `now` is the time of the call: later times are counted from it.
    #[must_use]
    pub fn new(worker: String, now: DateTime<Utc>) -> Self {
        Self {
            worker,
            started: (now, Instant::now()),
            observer: None,
            state: Mutex::default(),
        }
    }

    /// The same log, that tells `observer` of each attempt.
    #[must_use]
    pub fn observed_by(mut self, observer: Arc<dyn AttemptObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The name of the process.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// The time of an instant as documents of an output write it.
    #[must_use]
    pub fn time_of(&self, instant: Instant) -> String {
        let (time, at) = self.started;
        let since = chrono::TimeDelta::from_std(instant.saturating_duration_since(at));
        let time = since.map_or(time, |since| time + since);
        time.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// Takes a record. It is dropped if too many wait already.
    pub fn add(&self, output: &Output, run: &RunId, record: AttemptRecord) {
        if let Some(observer) = &self.observer {
            observer.attempt_ended(&record);
        }
        let mut state = self.lock();
        if state.n_pending >= RECORDS_MAX {
            return;
        }
        state.n_pending += 1;
        let key = (output.uri().to_owned(), run.clone());
        if !state.begun.iter().any(|(known, _)| *known == key) {
            if state.begun.len() >= RUNS_MAX {
                state.begun.pop_front();
            }
            state.begun.push_back((key.clone(), Instant::now()));
        }
        let pending = state.pending.entry(key).or_insert_with(|| Pending {
            output: output.clone(),
            since: Instant::now(),
            records: Vec::new(),
        });
        pending.records.push(record);
    }

    /// Writes records that have waited long enough, or all. Those that cannot be written wait for
    /// the next call.
    pub async fn write(&self, all: bool) {
        let mut on_its_way = OnItsWay {
            log: self,
            batches: self.take(all),
        };
        for _ in 0..on_its_way.batches.len() {
            let Some(batch) = on_its_way.batches.front() else {
                return;
            };
            let path = layout::attempt_records(&batch.run, &self.worker, batch.sequence);
            let records = &batch.records;
            let put = records.output.put(&path, lines(&records.records)).await;
            let Some(mut batch) = on_its_way.batches.pop_front() else {
                return;
            };
            let mut state = self.lock();
            match put {
                Ok(()) => state.n_pending -= batch.records.records.len(),
                Err(error) => {
                    tracing::warn!(%error, run = %batch.run, "cannot record attempts, trying again later");
                    // Not due at once: whatever is in the way stays there for a while.
                    batch.records.since = Instant::now();
                    state.unwritten.push(batch);
                }
            }
        }
    }

    fn take(&self, all: bool) -> VecDeque<Batch> {
        let mut state = self.lock();
        let age_max = |key: &(String, RunId)| {
            let begun = state.begun.iter().find(|(known, _)| known == key);
            let worked = begun.map_or(Duration::ZERO, |(_, begun)| begun.elapsed());
            (worked / RECORD_AGE_SHARE).clamp(RECORD_AGE_MIN, RECORD_AGE_MAX)
        };
        let is_due = |key: &(String, RunId), pending: &Pending| {
            all || pending.records.len() >= RECORDS_PER_OBJECT
                || pending.since.elapsed() >= age_max(key)
        };
        let due: Vec<_> = state
            .pending
            .iter()
            .filter(|(key, pending)| is_due(key, pending))
            .map(|(key, _)| key.clone())
            .collect();
        let unwritten = std::mem::take(&mut state.unwritten).into_iter();
        let (again, not_due): (Vec<Batch>, Vec<Batch>) =
            unwritten.partition(|it| all || it.records.since.elapsed() >= RECORD_AGE_MAX);
        state.unwritten = not_due;
        let mut batches = VecDeque::from(again);
        for key in due {
            if let Some(records) = state.pending.remove(&key) {
                let sequence = state.next_sequence;
                state.next_sequence += 1;
                batches.push_back(Batch {
                    run: key.1,
                    sequence,
                    records,
                });
            }
        }
        batches
    }

    /// A thread that panicked under the lock leaves at most a wrong count behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lines(records: &[AttemptRecord]) -> Bytes {
    let mut text = String::new();
    for record in records {
        // A record is made of texts and finite numbers, which JSON can always say.
        if let Ok(line) = serde_json::to_string(record) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text.into()
}

/// A name for this process that no other process has: host, process id, random digits.
#[must_use]
pub fn worker_name(entropy: &dyn Entropy) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_default();
    name(&host, std::process::id(), entropy.next_u64())
}

fn name(host: &str, pid: u32, random: u64) -> String {
    let host: String = host
        .trim()
        .chars()
        .take(HOST_LENGTH_MAX)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let host = if host.is_empty() { "host" } else { &host };
    format!("{host}-{pid}-{:08x}", random >> 32)
}

/// The most memory that this process has used since it started, in bytes, where the system tells.
#[must_use]
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_peak_memory(&status)
}

fn parse_peak_memory(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gleaner_schemas::{AttemptOutcome, Fingerprint};
    use gleaner_storage::Stores;
    use object_store::memory::InMemory;
    use object_store::throttle::{ThrottleConfig, ThrottledStore};

    use super::*;

    fn output() -> Output {
        let stores = Stores::from_env().with("sim://store", Arc::new(InMemory::new()));
        Output::open(&stores, "sim://store/out").unwrap()
    }

    fn record(number: u64) -> AttemptRecord {
        AttemptRecord {
            format: AttemptRecord::FORMAT,
            task: Fingerprint::of("task", &number).into(),
            attempt: None,
            stage: "stage".to_owned(),
            phase: "phase".to_owned(),
            worker: "host-1-0".to_owned(),
            started_at: String::new(),
            seconds: 0.5,
            rows: None,
            bytes_in: number,
            bytes_out: None,
            worker_peak_memory_bytes: None,
            worker_throttled: None,
            outcome: AttemptOutcome::Cancelled,
            failure: None,
        }
    }

    fn log() -> AttemptLog {
        AttemptLog::new("host-1-0".to_owned(), DateTime::UNIX_EPOCH)
    }

    async fn written(output: &Output) -> Vec<AttemptRecord> {
        let mut records = Vec::new();
        for object in output.list(layout::RUNS).await.unwrap() {
            assert!(layout::parse_attempt_records(&object.path).is_some());
            let text = output.get(&object.path).await.unwrap().unwrap();
            let lines = std::str::from_utf8(&text).unwrap().lines();
            records.extend(lines.map(|line| serde_json::from_str(line).unwrap()));
        }
        records
    }

    #[tokio::test(start_paused = true)]
    async fn records_are_written_together_and_in_time() {
        let (output, log, run) = (output(), log(), RunId::new(1));
        for number in 0..3 {
            log.add(&output, &run, record(number));
        }
        log.write(false).await;
        assert_eq!(written(&output).await, []);
        tokio::time::advance(RECORD_AGE_MIN).await;
        log.write(false).await;
        assert_eq!(written(&output).await, [record(0), record(1), record(2)]);
        for number in 0..RECORDS_PER_OBJECT as u64 {
            log.add(&output, &run, record(number));
        }
        log.write(false).await;
        assert_eq!(written(&output).await.len(), 3 + RECORDS_PER_OBJECT);
        assert_eq!(output.list(layout::RUNS).await.unwrap().len(), 2);
        log.add(&output, &RunId::new(2), record(9));
        log.write(true).await;
        assert_eq!(output.list(layout::RUNS).await.unwrap().len(), 3);
    }

    /// A worker whose tasks are slow tells soon of the first ones, and has written few objects by the
    /// time that the run is old.
    #[tokio::test(start_paused = true)]
    async fn a_young_run_is_told_of_sooner_than_an_old_one() {
        let (output, log, run) = (output(), log(), RunId::new(1));
        let mut n_objects = Vec::new();
        for second in 0..3600 {
            log.add(&output, &run, record(second));
            tokio::time::advance(Duration::from_secs(1)).await;
            log.write(false).await;
            if [6, 600, 1200, 3599].contains(&second) {
                n_objects.push(output.list(layout::RUNS).await.unwrap().len());
            }
        }
        let [first, young, old, older] = n_objects[..] else {
            panic!("{n_objects:?}");
        };
        assert_eq!(first, 1);
        assert!(young <= 40, "{n_objects:?}");
        // As many as without a share of the time: one a minute.
        assert!((39..=41).contains(&(older - old)), "{n_objects:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_kept_up_to_a_bound() {
        let (broken, log, run) = (output(), log(), RunId::new(1));
        let missing = Stores::from_env();
        // No directory can be made below a file.
        let refusing = Output::open(&missing, "file:///dev/null/out").unwrap();
        for number in 0..RECORDS_MAX as u64 + 10 {
            log.add(&refusing, &run, record(number));
        }
        log.write(true).await;
        assert_eq!(log.lock().n_pending, RECORDS_MAX);
        log.add(&broken, &run, record(0));
        assert_eq!(log.lock().n_pending, RECORDS_MAX);
    }

    /// As a worker does that ends while it writes.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_dropped_loses_nothing_and_doubles_nothing() {
        let second = Duration::from_secs(1);
        let slow = ThrottleConfig {
            wait_put_per_call: 2 * second,
            ..ThrottleConfig::default()
        };
        let store = Arc::new(ThrottledStore::new(InMemory::new(), slow));
        let stores = Stores::from_env().with("sim://store", store);
        let (output, log) = (Output::open(&stores, "sim://store/out").unwrap(), log());
        for number in 0..3 {
            log.add(&output, &RunId::new(1 + number % 2), record(number));
        }
        // In the middle of the first object, then of the second.
        for (limit, n_written) in [(second, 0), (3 * second, 1)] {
            assert!(tokio::time::timeout(limit, log.write(true)).await.is_err());
            assert_eq!(output.list(layout::RUNS).await.unwrap().len(), n_written);
        }
        log.add(&output, &RunId::new(1), record(3));
        log.write(true).await;
        let written = written(&output).await;
        let mut numbers: Vec<u64> = written.iter().map(|record| record.bytes_in).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(log.lock().n_pending, 0);
    }

    #[test]
    fn times_are_counted_from_the_start() {
        let log = log();
        let later = log.started.1 + Duration::from_millis(1500);
        assert_eq!(log.time_of(later), "1970-01-01T00:00:01.500Z");
    }

    #[test]
    fn a_host_can_be_called_anything() {
        assert_eq!(
            name("gpu-3.lab\n", 7, 0xabcd_0000_0000_0000),
            "gpu-3-lab-7-abcd0000"
        );
        assert_eq!(name("../../etc", 7, 0), "------etc-7-00000000");
        assert_eq!(name("", 7, 0), "host-7-00000000");
        assert!(name(&"x".repeat(300), 7, 0).len() < 64);
    }

    #[test]
    fn the_peak_of_memory_is_read() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse_peak_memory(status), Some(2048 * 1024));
        assert_eq!(parse_peak_memory("VmHWM:\t x kB\n"), None);
        assert_eq!(parse_peak_memory(""), None);
    }
}
