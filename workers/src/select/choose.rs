//! Map `choose`, the stage's table: the chosen rows, with their documents if asked for.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, Float64Array, RecordBatch, StringArray, StringBuilder,
    UInt64Array,
};
use arrow::compute::{
    SortColumn, cast, concat_batches, lexsort_to_indices, take, take_record_batch,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_schemas::columns::{DOC_ID, INPUT_FILE, INPUT_ROW, N_TOKENS, SOURCE, with_field_ids};
use gleaner_schemas::{Failure, Fingerprint, Lanes};
use serde::{Deserialize, Serialize};

use super::chosen_documents::ChosenDocuments;
use super::effect::Taken;
use super::groups::{ByGroup, GroupMap};
use super::histogram::chosen_by;
use super::scores::{Ordering, Scores, Standing};
use super::sort_key::{Cut, SortKey};
use crate::batch_columns::{arrow_failure, numbers, permanent, texts};
use crate::importance_weights::{CHUNK_END, CHUNK_START};
use crate::stage::{Emit, MapContext, MapStage};

/// Column of the score that decided.
pub(crate) const SCORE: &str = "score";
/// Column of the score plus noise.
pub(crate) const KEY: &str = "key";
/// Column of the target that chose the row, where there are several.
pub(crate) const TARGET: &str = "target";

/// Parameters of the map `choose`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChooseParams {
    pub(crate) ordering: Ordering,
    /// Scores of this and above are chosen. Absent: what the cuts take, which are decided over all
    /// scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at_least: Option<f64>,
    /// Columns of the scores that are read.
    pub(crate) columns: Vec<String>,
    /// The corpus, if its columns are wanted.
    pub(crate) corpus: Option<Schema>,
    /// The corpus's column of the text.
    pub(crate) text: String,
}

impl ChooseParams {
    fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column == name)
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.has(CHUNK_START) && self.has(CHUNK_END)
    }

    /// Columns of the selection itself, in their order.
    fn own_fields(&self) -> Vec<Field> {
        let mut fields = vec![
            Field::new(DOC_ID, DataType::Utf8, false),
            Field::new(SCORE, DataType::Float64, false),
            Field::new(KEY, DataType::Float64, false),
        ];
        if self.ordering.targets.len() > 1 {
            fields.push(Field::new(TARGET, DataType::Utf8, false));
        }
        if self.has(N_TOKENS) {
            fields.push(Field::new(N_TOKENS, DataType::UInt32, true));
        }
        let corpus_has_source = self
            .corpus
            .as_ref()
            .is_some_and(|corpus| corpus.field_with_name(SOURCE).is_ok());
        if self.has(SOURCE) && !corpus_has_source {
            fields.push(Field::new(SOURCE, DataType::Utf8, true));
        }
        if self.is_chunked() {
            fields.push(Field::new(CHUNK_START, DataType::UInt64, true));
            fields.push(Field::new(CHUNK_END, DataType::UInt64, true));
        }
        if self.has(INPUT_FILE) && self.has(INPUT_ROW) {
            fields.push(Field::new(INPUT_FILE, DataType::Utf8, true));
            fields.push(Field::new(INPUT_ROW, DataType::UInt64, true));
        }
        fields
    }

    /// The schema of the selection.
    pub(crate) fn schema(&self) -> SchemaRef {
        let mut fields = self.own_fields();
        for field in self.corpus.iter().flat_map(|corpus| corpus.fields()) {
            let name = corpus_column(field.name());
            fields.push(Field::new(name, field.data_type().clone(), true));
        }
        with_field_ids(&Schema::new(fields))
    }
}

/// The name of a column of the corpus in a selection: its own, unless the selection has such a
/// column.
#[must_use]
pub fn corpus_column(name: &str) -> String {
    let own = [
        DOC_ID,
        SCORE,
        KEY,
        TARGET,
        N_TOKENS,
        CHUNK_START,
        CHUNK_END,
        INPUT_FILE,
        INPUT_ROW,
    ];
    if own.contains(&name) {
        format!("corpus_{name}")
    } else {
        name.to_owned()
    }
}

/// The map over scores.
#[derive(Debug)]
pub(crate) struct ChooseStage {
    ordering: Ordering,
    cuts: Vec<GroupMap<Cut>>,
    at_least: Option<f64>,
    own: SchemaRef,
    schema: SchemaRef,
    documents: Option<(ChosenDocuments, SchemaRef)>,
    /// Column of the text, if texts are to be cut to their chunks.
    chunked_text: Option<String>,
    chosen: Vec<RecordBatch>,
    sort_key: SortKey,
    lanes: Lanes,
    /// What is taken, and what it has to come to.
    planned: Option<(Taken, Fingerprint)>,
}

impl ChooseStage {
    /// A map that takes what `cuts` take, by target.
    pub(crate) fn new(
        params: ChooseParams,
        cuts: Vec<ByGroup<Cut>>,
        context: &MapContext<'_>,
    ) -> Self {
        let schema = params.schema();
        let own = Arc::new(Schema::new(params.own_fields()));
        let chunked_text = params.is_chunked().then(|| params.text.clone());
        let effect = context.task.shard.effect.clone();
        let planned = effect.map(|effect| (Taken::new(cuts.len()), effect));
        let corpus = params.corpus.map(Arc::new);
        Self {
            ordering: params.ordering,
            cuts: cuts.into_iter().map(GroupMap::from).collect(),
            at_least: params.at_least,
            own,
            schema,
            documents: corpus.map(|corpus| (ChosenDocuments::of(context), corpus)),
            chunked_text,
            chosen: Vec::new(),
            sort_key: SortKey::default(),
            lanes: Lanes::default(),
            planned,
        }
    }

    /// The target that chooses a row, with the key.
    fn choice(&mut self, scores: &Scores, row: usize) -> Option<(usize, f64)> {
        let Some(threshold) = self.at_least else {
            return chosen_by(scores, &self.ordering, &self.cuts, row, &mut self.sort_key);
        };
        (0..self.ordering.targets.len()).find_map(|idx| {
            let score = scores.score(idx, row)?;
            (score >= threshold).then_some((idx, score))
        })
    }

    /// The columns of the selection itself for the chosen rows of a batch.
    fn own_rows(
        &self,
        scores: &Scores,
        rows: &UInt64Array,
        choices: &[(usize, f64)],
    ) -> Result<RecordBatch, Failure> {
        let pairs = || rows.values().iter().zip(choices);
        let taken = |array: &dyn Array| take(array, rows, None).map_err(arrow_failure);
        let missing = |name: &str| permanent(format!("the scores have no column {name}"));
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in self.own.fields() {
            let optional = |array: &Option<UInt64Array>| match array {
                Some(array) => taken(array),
                None => Err(missing(field.name())),
            };
            let optional_text = |array: &Option<StringArray>| match array {
                Some(array) => taken(array),
                None => Err(missing(field.name())),
            };
            let column: ArrayRef = match field.name().as_str() {
                DOC_ID => taken(&scores.doc_id)?,
                SCORE => Arc::new(Float64Array::from_iter(
                    pairs().map(|(row, (idx, _))| scores.score(*idx, *row as usize)),
                )),
                KEY => Arc::new(Float64Array::from_iter_values(
                    choices.iter().map(|it| it.1),
                )),
                TARGET => {
                    let names = choices
                        .iter()
                        .map(|it| self.ordering.targets[it.0].name.as_str());
                    Arc::new(StringArray::from_iter_values(names))
                }
                N_TOKENS => {
                    let column = optional(&scores.n_tokens)?;
                    cast(&column, &DataType::UInt32).map_err(arrow_failure)?
                }
                SOURCE => optional_text(&scores.source)?,
                CHUNK_START => optional(&scores.chunk_start)?,
                CHUNK_END => optional(&scores.chunk_end)?,
                INPUT_FILE => optional_text(&scores.input_file)?,
                INPUT_ROW => optional(&scores.input_row)?,
                other => return Err(missing(other)),
            };
            columns.push(column);
        }
        RecordBatch::try_new(Arc::clone(&self.own), columns).map_err(arrow_failure)
    }

    fn with_documents(
        &self,
        own: &RecordBatch,
        documents: &RecordBatch,
    ) -> Result<RecordBatch, Failure> {
        let mut columns = own.columns().to_vec();
        for (field, column) in documents
            .schema_ref()
            .fields()
            .iter()
            .zip(documents.columns())
        {
            let is_cut = self.chunked_text.as_ref() == Some(field.name());
            columns.push(if is_cut {
                chunks(own, column)?
            } else {
                Arc::clone(column)
            });
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_failure)
    }
}

impl MapStage for ChooseStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        let scores = Scores::of(batch, &self.ordering)?;
        let (mut rows, mut choices) = (Vec::new(), Vec::new());
        for row in 0..scores.n_rows() {
            self.lanes.rows_in += 1;
            let choice = match scores.standing(row) {
                Standing::Candidate => self.choice(&scores, row),
                Standing::Ineligible => None,
                Standing::Rejected => {
                    self.lanes.rejected += 1;
                    continue;
                }
            };
            if let Some(choice) = choice {
                self.lanes.ok += 1;
                if let Some((taken, _)) = &mut self.planned {
                    taken.add(choice.0, scores.group(row));
                }
                rows.push(row as u64);
                choices.push(choice);
            } else {
                self.lanes.ineligible += 1;
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let own = self.own_rows(&scores, &UInt64Array::from(rows), &choices)?;
        if self.documents.is_some() {
            self.chosen.push(own);
            return Ok(());
        }
        let columns = own.columns().to_vec();
        emit(RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_failure)?)
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        // The task's name stands for these rows, whatever the cuts are.
        if let Some((taken, effect)) = self.planned.take()
            && taken.effect().as_ref() != Some(&effect)
        {
            return Err(permanent(
                "the cuts take other rows of these scores than were counted; report this as a bug",
            ));
        }
        let chosen = std::mem::take(&mut self.chosen);
        let Some((documents, corpus)) = self.documents.as_ref().filter(|_| !chosen.is_empty())
        else {
            return Ok(());
        };
        let (own, places) = by_place(&concat_batches(&self.own, &chosen).map_err(arrow_failure)?)?;
        documents.for_each(&places, corpus, &mut |range, documents| {
            let own = own.slice(range.start, range.len());
            emit(self.with_documents(&own, &documents)?)
        })
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// Rows in the order of their places, and the places.
pub(crate) fn by_place(rows: &RecordBatch) -> Result<(RecordBatch, Vec<(String, u64)>), Failure> {
    let column = |name: &str| {
        let values = rows.column_by_name(name).map(Arc::clone);
        let values = values.ok_or_else(|| permanent(format!("the scores have no column {name}")));
        values.map(|values| SortColumn {
            values,
            options: None,
        })
    };
    let mut order = vec![column(INPUT_FILE)?, column(INPUT_ROW)?];
    if rows.column_by_name(CHUNK_START).is_some() {
        order.push(column(CHUNK_START)?);
    }
    let indices = lexsort_to_indices(&order, None).map_err(arrow_failure)?;
    let rows = take_record_batch(rows, &indices).map_err(arrow_failure)?;
    let files = texts(&rows, INPUT_FILE)?;
    let numbers = numbers(&rows, INPUT_ROW)?;
    if files.null_count() > 0 || numbers.null_count() > 0 {
        return Err(permanent("a row does not tell where its document stands"));
    }
    let places = (0..rows.num_rows())
        .map(|row| (files.value(row).to_owned(), numbers.value(row)))
        .collect();
    Ok((rows, places))
}

/// The texts, each cut to the chunk that its row stands for.
pub(crate) fn chunks(own: &RecordBatch, column: &ArrayRef) -> Result<ArrayRef, Failure> {
    let starts = numbers(own, CHUNK_START)?;
    let ends = numbers(own, CHUNK_END)?;
    let text = cast(column, &DataType::Utf8).map_err(arrow_failure)?;
    let text = text.as_string::<i32>();
    let mut cut = StringBuilder::new();
    for row in 0..own.num_rows() {
        if text.is_null(row) || starts.is_null(row) || ends.is_null(row) {
            cut.append_null();
            continue;
        }
        let bound = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let chunk = text
            .value(row)
            .get(bound(starts.value(row))..bound(ends.value(row)));
        cut.append_value(chunk.ok_or_else(|| permanent("a chunk is not within its document"))?);
    }
    Ok(Arc::new(cut.finish()))
}
