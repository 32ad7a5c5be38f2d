//! Documents of chosen rows, read from where they stand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use gleaner_schemas::{Failure, FailureKind, Place, SourceFile};

use crate::batch_columns::arrow_failure;
use crate::stage::{DocumentLookup, MapContext};

/// Files that rows of a task point to.
#[derive(Debug)]
pub(crate) struct ChosenDocuments {
    documents: Arc<dyn DocumentLookup>,
    files: BTreeMap<String, Arc<SourceFile>>,
}

impl ChosenDocuments {
    pub(crate) fn of(context: &MapContext<'_>) -> Self {
        let companions = context.task.shard.companions.iter();
        Self {
            documents: Arc::clone(&context.documents),
            files: companions
                .map(|file| (file.name.clone(), Arc::clone(file)))
                .collect(),
        }
    }

    /// Calls `each` with ranges of `places` and the documents that stand there, one row for each
    /// place. Places are sorted and may repeat.
    pub(crate) fn for_each(
        &self,
        places: &[(String, u64)],
        schema: &SchemaRef,
        each: &mut dyn FnMut(Range<usize>, RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut start = 0;
        for of_file in places.chunk_by(|a, b| a.0 == b.0) {
            let (name, _) = &of_file[0];
            let file = self.files.get(name).ok_or_else(|| {
                let message = "a row points to this file, which is no part of the corpus now";
                Failure::new(FailureKind::Permanent, message).at(Place::file(name))
            })?;
            self.of_file(file, of_file, start, schema, each)?;
            start += of_file.len();
        }
        Ok(())
    }

    fn of_file(
        &self,
        file: &SourceFile,
        places: &[(String, u64)],
        first: usize,
        schema: &SchemaRef,
        each: &mut dyn FnMut(Range<usize>, RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut rows: Vec<u64> = places.iter().map(|(_, row)| *row).collect();
        rows.dedup();
        let (mut n_read, mut n_given) = (0, 0);
        self.documents.for_each(file, &rows, schema, &mut |batch| {
            let read = &rows[n_read..n_read + batch.num_rows()];
            n_read += batch.num_rows();
            let start = n_given;
            let mut indices = Vec::with_capacity(read.len());
            for (idx, row) in read.iter().enumerate() {
                while places.get(n_given).is_some_and(|(_, place)| place == row) {
                    indices.push(idx as u64);
                    n_given += 1;
                }
            }
            let batch = if indices.len() == batch.num_rows() {
                batch
            } else {
                take_record_batch(&batch, &UInt64Array::from(indices)).map_err(arrow_failure)?
            };
            each(first + start..first + n_given, batch)
        })?;
        if n_given == places.len() {
            return Ok(());
        }
        let message = format!(
            "the file gave {n_given} of {} rows that were scored; did it change?",
            places.len()
        );
        Err(Failure::new(FailureKind::Permanent, message).at(Place::file(&file.name)))
    }
}
