//! What a reduce reads, and what it gives: part of the interface of a stage, [`crate::stage`].

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use bytes::Bytes;
use gleaner_schemas::{Failure, TableFile, Version};
use serde_json::Value;

use crate::phase_input::ReadObject;

/// The objects that a reduce reads, in the order of the plan's tasks.
pub trait ReduceInputs {
    /// Calls `each` with every batch of every pinned object of a map phase, and the object's number
    /// among [`ReduceInputs::objects`].
    ///
    /// # Errors
    ///
    /// Of the reads, or what `each` returns.
    fn for_each_of_object(
        &mut self,
        phase: &str,
        each: &mut dyn FnMut(usize, RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure>;

    /// The same, with the same errors, where nothing is to be said of single objects.
    fn for_each(
        &mut self,
        phase: &str,
        each: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.for_each_of_object(phase, &mut |_, batch| each(batch))
    }

    /// The batches of a side input.
    ///
    /// # Errors
    ///
    /// Of the reads.
    fn side_input(&mut self, name: &str) -> Result<Vec<RecordBatch>, Failure>;

    /// The pinned objects of a map phase, in the order of the plan's tasks.
    ///
    /// # Errors
    ///
    /// If the reduce does not read the phase.
    fn objects(&mut self, phase: &str) -> Result<Vec<ReadObject>, Failure>;

    /// What objects tell beside their rows ([`told`](crate::stage::MapStage::told)), one for each; objects of older
    /// programs may tell nothing.
    ///
    /// # Errors
    ///
    /// Of the reads; also if an object is gone.
    fn told(&mut self, objects: &[ReadObject], key: &str) -> Result<Vec<Option<String>>, Failure>;

    /// Calls `each` with every batch of some objects that a phase has, or had in an earlier run.
    ///
    /// # Errors
    ///
    /// Of the reads, or what `each` returns; also if an object is gone.
    fn for_each_in(
        &mut self,
        objects: &[ReadObject],
        each: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure>;

    /// What an earlier reduce kept of a phase, if it did ([`ReduceInputs::keep_sums`]). It may only make
    /// a result come faster: the result must be the same without it.
    fn kept_sums(&mut self, phase: &str) -> Option<KeptSums>;

    /// Keeps what the objects of a phase add up to, for a later reduce over most of them.
    fn keep_sums(&mut self, phase: &str, sums: &[RecordBatch]);

    /// The newest published version, if there is one. It may only make a result come faster: the
    /// result must be the same without it.
    fn published(&self) -> Option<&Version>;

    /// The rows of a small object of a published table, after checking the hash of its bytes.
    ///
    /// # Errors
    ///
    /// Of the reads, or if the object is not the one that was published.
    fn published_table(&mut self, file: &TableFile) -> Result<Vec<RecordBatch>, Failure>;
}

/// What some objects add up to.
#[derive(Debug, Clone)]
pub struct KeptSums {
    /// The objects.
    pub objects: Vec<ReadObject>,
    /// Their sums, as the stage wrote them.
    pub sums: Vec<RecordBatch>,
}

/// The result of a reduce.
#[derive(Debug, Clone, Default)]
pub struct ReduceOutput {
    /// Small facts; they are stored as JSON and come back in [`reduces`](crate::stage::Completed::reduces).
    pub facts: Value,
    /// Tables by name; each becomes one Parquet object.
    pub tables: BTreeMap<String, Vec<RecordBatch>>,
    /// Files of a language model by name; they are stored side by side in a folder of their own,
    /// which is named by their contents.
    pub files: BTreeMap<String, Bytes>,
}
