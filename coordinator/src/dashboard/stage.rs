//! How far stages and their phases are.

use std::time::Duration;

use gleaner_schemas::{Lanes, Reuse};
use serde::Serialize;

use super::causes::begin;
use super::history::Speed;
use crate::dispatch::Work;
use crate::driver::FinishedStage;
use crate::ledger::{Effort, TaskCounts};

/// Phases of a stage that are shown: the last ones.
const PHASES_SHOWN: usize = 12;
/// Characters of names that are shown.
const NAME_LENGTH: usize = 80;
/// A time that is left is told after this long, when a speed is known.
const ETA_AFTER: Duration = Duration::from_secs(2);

/// Something of which so much is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    /// Done, by this run and before.
    pub(super) done: u64,
    /// Of that, before this run.
    pub(super) reused: u64,
    /// Given up.
    pub(super) given_up: u64,
    /// All; absent where that is not known before it is read.
    pub(super) total: Option<u64>,
}

impl Part {
    fn of(total: Option<u64>) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.reused += other.reused;
        self.given_up += other.given_up;
        self.total = self.total.zip(other.total).map(|(a, b)| a + b);
    }
}

/// A map phase.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) name: String,
    tasks: Part,
    rows: Part,
    bytes: Part,
    pub(super) counts: TaskCounts,
    pub(super) effort: Effort,
    /// Tasks that were ever given up, of which the causes are known.
    pub(super) n_causes: usize,
    /// Tasks that were given up, and have a result all the same.
    pub(super) n_came_back: usize,
    /// When it began, counted from the begin of the run.
    began: Duration,
    /// How long it took.
    lasted: Option<Duration>,
    speed: Speed,
    /// Whether what is done is about to be told again.
    is_told_again: bool,
    /// What this run did at most: a phase that is planned anew tells again what is done.
    most: (u64, u64),
}

/// A map phase, in short.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PhaseView {
    name: String,
    /// Tasks with a result.
    tasks: Part,
    rows: Part,
    bytes: Part,
    n_waiting: usize,
    n_offered: usize,
    seconds: f64,
    is_done: bool,
    /// While it goes on: rows and bytes per second of lately, seconds that are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<f64>,
}

impl Phase {
    /// A phase that begins, or begins again with other tasks.
    pub(super) fn new(
        name: &str,
        (n_tasks, n_rows, bytes): (u64, Option<u64>, u64),
        began: Duration,
    ) -> Self {
        Self {
            name: name.to_owned(),
            tasks: Part::of(Some(n_tasks)),
            rows: Part::of(n_rows),
            bytes: Part::of(Some(bytes)),
            counts: TaskCounts::default(),
            effort: Effort::default(),
            n_causes: 0,
            n_came_back: 0,
            began,
            lasted: None,
            speed: Speed::default(),
            is_told_again: false,
            most: (0, 0),
        }
    }

    /// The same phase with other tasks. What is done is told again, and stands as it was until then.
    pub(super) fn planned_anew(&mut self, (n_tasks, n_rows, bytes): (u64, Option<u64>, u64)) {
        self.tasks.total = Some(n_tasks);
        self.rows.total = n_rows;
        self.bytes.total = Some(bytes);
        self.is_told_again = true;
        self.n_came_back = 0;
        self.forget_given_up();
    }

    /// The whole phase was there before this run.
    pub(super) fn reused(mut self) -> Self {
        for part in [&mut self.tasks, &mut self.rows, &mut self.bytes] {
            part.done = part.total.unwrap_or(0);
            part.reused = part.done;
        }
        self.lasted = Some(Duration::ZERO);
        self
    }

    /// So much was there before.
    pub(super) fn was_there(&mut self, n_tasks: u64, work: Work) {
        self.tasks.reused = n_tasks;
        self.rows.reused = work.rows;
        self.bytes.reused = work.bytes;
    }

    /// So much more is done. Returns the rows and bytes that this run has done since it last told.
    pub(super) fn advance(
        &mut self,
        (n_tasks, n_rows, bytes): (u64, u64, u64),
        now: Duration,
    ) -> (u64, u64) {
        if std::mem::take(&mut self.is_told_again) {
            for part in [&mut self.tasks, &mut self.rows, &mut self.bytes] {
                part.done = 0;
            }
        }
        self.tasks.done += n_tasks;
        self.rows.done += n_rows;
        self.bytes.done += bytes;
        let rows = self.rows.done.saturating_sub(self.rows.reused);
        let bytes = self.bytes.done.saturating_sub(self.bytes.reused);
        let (most_rows, most_bytes) = self.most;
        self.most = (rows.max(most_rows), bytes.max(most_bytes));
        let seconds = now.saturating_sub(self.began).as_secs_f64();
        self.speed.add(seconds, self.most.0, self.most.1);
        (self.most.0 - most_rows, self.most.1 - most_bytes)
    }

    /// A task with so many rows and bytes was given up.
    pub(super) fn given_up(&mut self, rows: u64, bytes: u64) {
        self.rows.given_up += rows;
        self.bytes.given_up += bytes;
    }

    /// What was given up is counted again.
    pub(super) fn forget_given_up(&mut self) {
        self.n_causes = 0;
        self.rows.given_up = 0;
        self.bytes.given_up = 0;
    }

    /// What the ledger says.
    pub(super) fn know(&mut self, counts: TaskCounts, effort: Effort) {
        self.counts = counts;
        self.effort = effort;
        self.tasks.given_up = counts.quarantined as u64;
    }

    pub(super) fn finish(&mut self, now: Duration) {
        self.lasted
            .get_or_insert_with(|| now.saturating_sub(self.began));
    }

    fn view(&self, now: Duration) -> PhaseView {
        let lasted = self.lasted.unwrap_or(now.saturating_sub(self.began));
        let is_done = self.lasted.is_some();
        let speed = (!is_done).then(|| self.speed.at(lasted.as_secs_f64()));
        let speed = speed.flatten();
        PhaseView {
            name: begin(&self.name, NAME_LENGTH),
            tasks: self.tasks,
            rows: self.rows,
            bytes: self.bytes,
            n_waiting: self.counts.waiting,
            n_offered: self.counts.offered,
            seconds: lasted.as_secs_f64(),
            is_done,
            rows_per_second: speed.map(|(rows, _)| rows),
            bytes_per_second: speed.map(|(_, bytes)| bytes),
            eta_seconds: speed.and_then(|(_, speed)| self.eta(speed, lasted)),
        }
    }

    fn eta(&self, bytes_per_second: f64, lasted: Duration) -> Option<f64> {
        let left = self.bytes.total?;
        let left = left.saturating_sub(self.bytes.done + self.bytes.given_up);
        let is_known = lasted >= ETA_AFTER && bytes_per_second > 0.0;
        is_known.then(|| left as f64 / bytes_per_second)
    }
}

/// A stage of the job.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) name: String,
    kind: String,
    state: StageState,
    /// What it is at besides map phases.
    step: Option<String>,
    pub(super) phases: Vec<Phase>,
    result: Option<ResultView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum StageState {
    Waiting,
    Running,
    Done,
}

/// What came of a stage.
#[derive(Debug, Clone, Serialize)]
struct ResultView {
    rows: u64,
    lanes: Lanes,
    n_quarantined: u64,
    reuse: Reuse,
    work: Work,
}

/// A stage, in short.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StageView {
    name: String,
    kind: String,
    state: StageState,
    /// What it is at, if that is no phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    /// Sums over its phases so far.
    tasks: Part,
    rows: Part,
    bytes: Part,
    /// Phases that are not among `phases`, which are the last ones.
    n_earlier_phases: usize,
    phases: Vec<PhaseView>,
    /// What came of it, at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<ResultView>,
}

impl Stage {
    /// A stage that waits for its turn.
    pub(super) fn new(name: &str, kind: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            state: StageState::Waiting,
            step: None,
            phases: Vec::new(),
            result: None,
        }
    }

    pub(super) fn start(&mut self) {
        self.state = StageState::Running;
        self.step = Some("planning".to_owned());
    }

    /// It is at something that the coordinator does by itself, or at a phase.
    pub(super) fn step(&mut self, step: Option<&str>) {
        self.step = step.map(ToOwned::to_owned);
    }

    pub(super) fn finish(&mut self, finished: &FinishedStage, now: Duration) {
        // Where nothing had to be done, nobody told of phases.
        if self.phases.is_empty() {
            let manifests = finished.manifests.iter();
            self.phases.extend(manifests.map(|(_, manifest)| {
                let n_tasks = manifest.attempts.len() + manifest.quarantined.len();
                Phase::new(&manifest.phase, (n_tasks as u64, None, 0), now).reused()
            }));
        }
        self.state = StageState::Done;
        self.step = None;
        let files = finished.completed.tables.get(&self.name);
        self.result = Some(ResultView {
            rows: files.map_or(0, |files| files.iter().map(|file| file.rows).sum()),
            lanes: finished.completed.lanes,
            n_quarantined: finished.quarantined.len() as u64,
            reuse: finished.reuse,
            work: finished.work,
        });
    }

    pub(super) fn n_quarantined(&self) -> u64 {
        self.result.as_ref().map_or_else(
            || self.phases.iter().map(|it| it.tasks.given_up).sum(),
            |result| result.n_quarantined,
        )
    }

    pub(super) fn view(&self, now: Duration) -> StageView {
        let n_earlier_phases = self.phases.len().saturating_sub(PHASES_SHOWN);
        let shown = self.phases.iter().skip(n_earlier_phases);
        let mut sums = [Part::of(Some(0)); 3];
        for phase in &self.phases {
            let parts = [phase.tasks, phase.rows, phase.bytes];
            for (sum, part) in sums.iter_mut().zip(parts) {
                sum.add(part);
            }
        }
        let [tasks, rows, bytes] = sums;
        StageView {
            name: begin(&self.name, NAME_LENGTH),
            kind: self.kind.clone(),
            state: self.state,
            step: self.step.as_deref().map(|step| begin(step, NAME_LENGTH)),
            tasks,
            rows,
            bytes,
            n_earlier_phases,
            phases: shown.map(|phase| phase.view(now)).collect(),
            result: self.result.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_phase_that_is_planned_anew_counts_nothing_twice() {
        let mut phase = Phase::new("score", (4, Some(40), 400), Duration::ZERO);
        let work = Work {
            rows: 10,
            bytes: 100,
            seconds: 0.0,
        };
        phase.was_there(1, work);
        assert_eq!(phase.advance((1, 10, 100), seconds(1)), (0, 0));
        assert_eq!(phase.advance((1, 10, 100), seconds(2)), (10, 100));
        phase.given_up(10, 100);
        phase.planned_anew((5, Some(40), 400));
        // What is done is shown until it is told again.
        assert_eq!((phase.tasks.done, phase.tasks.total), (2, Some(5)));
        assert_eq!(phase.bytes.given_up, 0);
        phase.was_there(1, work);
        assert_eq!(phase.advance((2, 20, 200), seconds(3)), (0, 0));
        assert_eq!((phase.tasks.done, phase.rows.done), (2, 20));
        assert_eq!(phase.advance((3, 20, 200), seconds(4)), (20, 200));
        assert_eq!(phase.bytes.done, 400);
    }

    #[test]
    fn a_time_that_is_left_is_of_the_bytes_that_are_left() {
        let mut phase = Phase::new("score", (10, None, 1_000), Duration::ZERO);
        phase.advance((1, 0, 100), seconds(1));
        assert!(phase.view(seconds(1)).eta_seconds.is_none());
        phase.advance((4, 0, 400), seconds(5));
        phase.given_up(0, 100);
        let left = phase.view(seconds(5)).eta_seconds.unwrap();
        assert!((left - 4.0).abs() < 1e-9, "{left}");
        phase.finish(seconds(6));
        let view = phase.view(seconds(100));
        assert!(view.eta_seconds.is_none() && view.is_done);
        assert!((view.seconds - 6.0).abs() < 1e-9, "{}", view.seconds);
    }
}
