//! Map and reduce `demonstrations`: pairs of a document and a query from a dataset, whose text is
//! the document and whose source is the query.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_generation::prompt::Demonstration;
use gleaner_schemas::columns::{DOC_ID, REASON, SOURCE, TEXT, with_field_ids};
use gleaner_schemas::{Failure, Lanes};

use super::write_stage::QUERY;
use crate::batch_columns::{arrow_failure, permanent, text_at, text_views, texts};
use crate::stage::{Derived, Emit, MapStage, ReduceInputs, SideInputs};

/// Name of map, reduce, table and side input.
pub(crate) const DEMONSTRATIONS: &str = "demonstrations";
/// Pairs that are kept: every task holds all of them.
const PAIRS_MAX: usize = 10_000;
/// Longest text of a pair.
const TEXT_BYTES_MAX: usize = 16 << 10;

fn schema() -> SchemaRef {
    with_field_ids(&Schema::new(vec![
        Field::new(DOC_ID, DataType::Utf8, false),
        Field::new(TEXT, DataType::Utf8, false),
        Field::new(QUERY, DataType::Utf8, false),
    ]))
}

fn batch(pairs: &[(String, String, String)]) -> Result<RecordBatch, Failure> {
    let column = |of: fn(&(String, String, String)) -> &str| -> ArrayRef {
        Arc::new(pairs.iter().map(of).map(Some).collect::<StringArray>())
    };
    let columns = vec![column(|it| &it.0), column(|it| &it.1), column(|it| &it.2)];
    RecordBatch::try_new(schema(), columns).map_err(arrow_failure)
}

/// Pairs as a table of this reduce.
pub(super) fn batch_of(pairs: &[Demonstration]) -> Result<RecordBatch, Failure> {
    let triples: Vec<_> = pairs
        .iter()
        .map(|it| (it.id.clone(), it.document.clone(), it.query.clone()))
        .collect();
    batch(&triples)
}

/// The pairs of such a table.
pub(super) fn pairs_of(batches: &[RecordBatch]) -> Result<Vec<Demonstration>, Failure> {
    let mut pairs = Vec::new();
    for rows in batches {
        let (ids, documents) = (texts(rows, DOC_ID)?, texts(rows, TEXT)?);
        let queries = texts(rows, QUERY)?;
        for row in 0..rows.num_rows() {
            pairs.push(Demonstration {
                id: ids.value(row).to_owned(),
                document: documents.value(row).to_owned(),
                query: queries.value(row).to_owned(),
                label: None,
            });
        }
    }
    Ok(pairs)
}

/// The map.
#[derive(Debug, Default)]
pub(crate) struct DemonstrationsStage {
    lanes: Lanes,
}

impl MapStage for DemonstrationsStage {
    fn output(&self) -> SchemaRef {
        schema()
    }

    fn process(&mut self, rows: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        let (ids, documents) = (texts(rows, DOC_ID)?, text_views(rows, TEXT)?);
        let (queries, reasons) = (texts(rows, SOURCE)?, texts(rows, REASON)?);
        let mut pairs = Vec::new();
        for row in 0..rows.num_rows() {
            self.lanes.rows_in += 1;
            let query = text_at(&queries, row).filter(|query| !query.trim().is_empty());
            let is_fine = documents.is_valid(row) && reasons.is_null(row);
            let (Some(query), true) = (query, is_fine) else {
                self.lanes.rejected += 1;
                continue;
            };
            let document = documents.value(row);
            if document.len() > TEXT_BYTES_MAX || query.len() > TEXT_BYTES_MAX {
                self.lanes.ineligible += 1;
                continue;
            }
            self.lanes.ok += 1;
            pairs.push((
                ids.value(row).to_owned(),
                document.to_owned(),
                query.to_owned(),
            ));
        }
        emit(batch(&pairs)?)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// The table of all pairs: those with the smallest ids, if there are too many.
pub(crate) fn reduce(inputs: &mut dyn ReduceInputs) -> Result<RecordBatch, Failure> {
    let mut pairs = Vec::new();
    inputs.for_each(DEMONSTRATIONS, &mut |rows| {
        let (ids, documents) = (texts(&rows, DOC_ID)?, texts(&rows, TEXT)?);
        let queries = texts(&rows, QUERY)?;
        for row in 0..rows.num_rows() {
            let text = |column: &StringArray| column.value(row).to_owned();
            pairs.push((text(&ids), text(&documents), text(&queries)));
        }
        if pairs.len() > 2 * PAIRS_MAX {
            pairs.sort();
            pairs.truncate(PAIRS_MAX);
        }
        Ok(())
    })?;
    pairs.sort();
    pairs.dedup_by(|a, b| a.0 == b.0);
    pairs.truncate(PAIRS_MAX);
    if pairs.is_empty() {
        return Err(permanent(
            "the dataset of demonstrations has no pair: its `columns: {text: ..., source: ...}` \
             name a document and a query for it",
        ));
    }
    batch(&pairs)
}

/// The pairs, as a task is given them.
pub(crate) fn load(side_inputs: &dyn SideInputs) -> Result<Vec<Demonstration>, Failure> {
    let derived = side_inputs.derived(DEMONSTRATIONS, "pairs", &mut |batches| {
        Ok(Derived::of_batches(Arc::new(pairs_of(batches)?), batches))
    })?;
    let pairs = derived
        .value
        .downcast::<Vec<Demonstration>>()
        .map_err(|_| permanent("the demonstrations are of another type"))?;
    Ok(pairs.as_ref().clone())
}
