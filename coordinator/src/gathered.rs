//! Rows of the small objects of a map phase, side by side.
//!
//! The reduces of a selection read the same thousands of objects several times, and all but a few of these
//! are those that the last run read. So they are held once they were read, and kept in one object of the
//! output, which holds copies by attempt. An attempt's id is a hash of what it wrote, so a copy is as good
//! as the object; what has no copy is read. Where the object is missing or damaged, everything is read, and
//! nothing else changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use gleaner_schemas::{AttemptId, Failure, Lanes, PhaseManifest, PlanId, TaskId};
use gleaner_storage::table::{self, BlockingIo};
use gleaner_storage::{Output, TableEncoder, layout};
use serde_json::json;

/// Fewer objects are read as fast as the one that holds copies.
const OBJECTS_MIN: usize = 64;
/// What is not smaller than this, in memory, is not held.
const BYTES_MAX: usize = 64 << 20;
/// Objects without a copy that are held before they are handed out: they are read side by side.
const OBJECTS_AT_A_TIME: usize = 1024;
/// Rows that lie together.
const BATCH_ROWS: usize = 8192;
/// Copies are kept anew when more than this part of the objects had none.
const PART_NEW: usize = 50;
/// Key-value metadata: tasks, attempts and numbers of rows, in their order.
const COPIED: &str = "gleaner.copied";

/// Takes a batch and the number of the object that it is of.
type Each<'a> = &'a mut dyn FnMut(usize, RecordBatch) -> Result<(), Failure>;

/// What was read of the phases of a stage. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct GatheredPhases(Arc<Mutex<BTreeMap<PlanId, Arc<Gathered>>>>);

impl GatheredPhases {
    /// Calls `each` with every batch of a phase's objects, in order.
    ///
    /// # Errors
    ///
    /// If an object cannot be read, or what `each` returns.
    pub fn for_each(
        &self,
        output: &Output,
        io: &BlockingIo,
        manifest: &PhaseManifest,
        each: Each<'_>,
    ) -> Result<(), Failure> {
        let objects = manifest.attempts.iter();
        let objects: Vec<(String, u64)> = objects
            .map(|pinned| (output.uri_of(&layout::pinned(pinned)), pinned.bytes))
            .collect();
        if objects.len() < OBJECTS_MIN {
            return table::for_each_of_object(io, &objects, each);
        }
        if let Some(held) = self.held(&manifest.plan)
            && held.n_objects == objects.len()
        {
            return held.for_each(each);
        }
        let copies = Copies::read(output, io, manifest);
        let mut gatherer = Gatherer::default();
        let mut take = |object: usize, batch: RecordBatch| {
            gatherer.add(object, &batch);
            each(object, batch)
        };
        let n_read = match copies.of.is_empty() {
            true => {
                table::for_each_of_object(io, &objects, &mut take)?;
                objects.len()
            }
            false => beside_copies(io, manifest, &objects, &copies, &mut take)?,
        };
        let Some(gathered) = gatherer.finish(objects.len()) else {
            return Ok(());
        };
        if n_read > objects.len() / PART_NEW
            && let Err(failure) = gathered.keep(output, io, manifest)
        {
            tracing::info!(%failure, "rows of a phase are not kept beside each other");
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(manifest.plan.clone(), Arc::new(gathered));
        Ok(())
    }

    fn held(&self, plan: &PlanId) -> Option<Arc<Gathered>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(plan).map(Arc::clone)
    }
}

/// Calls `each` with what has a copy, and with what has none once that was read, in order. Returns how many
/// objects were read.
fn beside_copies(
    io: &BlockingIo,
    manifest: &PhaseManifest,
    objects: &[(String, u64)],
    copies: &Copies,
    each: Each<'_>,
) -> Result<usize, Failure> {
    let mut n_read = 0;
    let attempts = manifest.attempts.chunks(OBJECTS_AT_A_TIME);
    for (some_idx, (attempts, objects)) in
        attempts.zip(objects.chunks(OBJECTS_AT_A_TIME)).enumerate()
    {
        let copied: Vec<Option<(usize, usize)>> = attempts
            .iter()
            .map(|pinned| copies.of(&pinned.task, &pinned.attempt))
            .collect();
        let missing = objects.iter().zip(&copied);
        let missing: Vec<(String, u64)> = missing
            .filter(|(_, copied)| copied.is_none())
            .map(|(object, _)| object.clone())
            .collect();
        let mut read: Vec<Vec<RecordBatch>> = vec![Vec::new(); missing.len()];
        table::for_each_of_object(io, &missing, &mut |idx, batch| {
            read[idx].push(batch);
            Ok(())
        })?;
        n_read += missing.len();
        let mut read = read.into_iter();
        for (idx, copied) in copied.into_iter().enumerate() {
            let object = some_idx * OBJECTS_AT_A_TIME + idx;
            match copied {
                Some((first, n_rows)) => {
                    for batch in copies.rows.slices(first, n_rows) {
                        each(object, batch)?;
                    }
                }
                None => {
                    for batch in read.next().into_iter().flatten() {
                        each(object, batch)?;
                    }
                }
            }
        }
    }
    Ok(n_read)
}

/// Rows in some batches, by their numbers.
#[derive(Debug, Default)]
struct Rows {
    batches: Vec<RecordBatch>,
    /// The number of the first row of each batch, and of the one after the last.
    starts: Vec<usize>,
}

impl Rows {
    fn push(&mut self, batch: RecordBatch) {
        let start = self.starts.last().copied().unwrap_or(0);
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.starts.push(start + batch.num_rows());
        self.batches.push(batch);
    }

    fn n_rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Some rows from `first` on, without copying any.
    fn slices(&self, first: usize, n_rows: usize) -> impl Iterator<Item = RecordBatch> {
        let end = first + n_rows;
        let idx = self.starts.partition_point(|start| *start <= first);
        let batches = self.batches.iter().zip(&self.starts);
        batches
            .skip(idx.saturating_sub(1))
            .take_while(move |(_, start)| **start < end)
            .filter_map(move |(batch, start)| {
                let from = first.saturating_sub(*start);
                let to = (end - start).min(batch.num_rows());
                (from < to).then(|| batch.slice(from, to - from))
            })
    }
}

/// All rows of the objects of a phase.
#[derive(Debug)]
struct Gathered {
    n_objects: usize,
    rows: Rows,
    /// Number of an object and of its rows, for each stretch of rows of one object.
    stretches: Vec<(usize, usize)>,
}

impl Gathered {
    fn for_each(&self, each: Each<'_>) -> Result<(), Failure> {
        let mut first = 0;
        for (object, n_rows) in &self.stretches {
            for batch in self.rows.slices(first, *n_rows) {
                each(*object, batch)?;
            }
            first += n_rows;
        }
        Ok(())
    }

    fn keep(
        &self,
        output: &Output,
        io: &BlockingIo,
        manifest: &PhaseManifest,
    ) -> Result<(), Failure> {
        let Some(first) = self.rows.batches.first() else {
            return Ok(());
        };
        let mut encoder = TableEncoder::new(first.schema(), u64::MAX)?;
        for batch in &self.rows.batches {
            encoder.write(batch)?;
        }
        let mut n_rows = vec![0; self.n_objects];
        for (object, n) in &self.stretches {
            n_rows[*object] += n;
        }
        let attempts = manifest.attempts.iter().zip(&n_rows);
        let copied: Vec<(&TaskId, &AttemptId, usize)> = attempts
            .map(|(pinned, n)| (&pinned.task, &pinned.attempt, *n))
            .collect();
        encoder.tell(COPIED, json!(copied).to_string());
        let bytes = encoder.finish(&Lanes::default(), &json!({}))?;
        io.run(output.put(&layout::copies(&manifest.stage, &manifest.phase), bytes))
    }
}

/// Gathers rows while there are not too many.
#[derive(Debug, Default)]
struct Gatherer {
    has_failed: bool,
    open: Vec<RecordBatch>,
    n_open: usize,
    bytes: usize,
    rows: Rows,
    stretches: Vec<(usize, usize)>,
}

impl Gatherer {
    fn add(&mut self, object: usize, batch: &RecordBatch) {
        if self.has_failed || batch.num_rows() == 0 {
            return;
        }
        match self.stretches.last_mut() {
            Some((last, n_rows)) if *last == object => *n_rows += batch.num_rows(),
            _ => self.stretches.push((object, batch.num_rows())),
        }
        self.n_open += batch.num_rows();
        self.open.push(batch.clone());
        if self.n_open >= BATCH_ROWS {
            self.close();
        }
    }

    /// Puts what is open together: thousands of small batches take many times the memory of one.
    fn close(&mut self) {
        let Some(first) = self.open.first() else {
            return;
        };
        match concat_batches(&first.schema(), &self.open) {
            Ok(batch) => {
                self.bytes += batch.get_array_memory_size();
                self.rows.push(batch);
                self.has_failed |= self.bytes > BYTES_MAX;
            }
            Err(_) => self.has_failed = true,
        }
        self.open.clear();
        self.n_open = 0;
        if self.has_failed {
            self.rows = Rows::default();
            self.stretches = Vec::new();
        }
    }

    fn finish(mut self, n_objects: usize) -> Option<Gathered> {
        self.close();
        (!self.has_failed).then_some(Gathered {
            n_objects,
            rows: self.rows,
            stretches: self.stretches,
        })
    }
}

/// Copies of objects that an earlier run read.
#[derive(Debug, Default)]
struct Copies {
    rows: Rows,
    /// First row and number of rows.
    of: HashMap<(TaskId, AttemptId), (usize, usize)>,
}

impl Copies {
    fn read(output: &Output, io: &BlockingIo, manifest: &PhaseManifest) -> Self {
        let key = layout::copies(&manifest.stage, &manifest.phase);
        Self::of_bytes(output, io, &key).unwrap_or_else(|failure| {
            tracing::info!(%failure, "objects of a phase are read one by one");
            Self::default()
        })
    }

    fn of_bytes(output: &Output, io: &BlockingIo, key: &str) -> Result<Self, Failure> {
        let mut copies = Self::default();
        let Some(bytes) = io.run(output.get(key))? else {
            return Ok(copies);
        };
        let (told, batches) = table::decode(key, bytes, COPIED)?;
        let told: Vec<(TaskId, AttemptId, usize)> = told
            .and_then(|told| serde_json::from_str(&told).ok())
            .unwrap_or_default();
        for batch in batches {
            copies.rows.push(batch);
        }
        let mut first = 0;
        for (task, attempt, n_rows) in told {
            copies.of.insert((task, attempt), (first, n_rows));
            first += n_rows;
        }
        // Of another number of rows, nobody knows whose they are.
        match first == copies.rows.n_rows() {
            true => Ok(copies),
            false => Ok(Self::default()),
        }
    }

    fn of(&self, task: &TaskId, attempt: &AttemptId) -> Option<(usize, usize)> {
        self.of.get(&(task.clone(), attempt.clone())).copied()
    }
}

#[cfg(test)]
mod tests;
