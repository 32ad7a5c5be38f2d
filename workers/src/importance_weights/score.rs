//! Map `score`, the stage's table: one row per document or chunk, in one pass over the text.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float32Builder, Float64Builder, RecordBatch, StringArray,
    StringBuilder, UInt32Array, UInt64Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_algorithms::FeatureExtractor;
use gleaner_algorithms::importance::log_weight_per_token;
use gleaner_algorithms::quality::{chunk_words, quality};
use gleaner_schemas::columns::{
    DOC_ID, INPUT_FILE, INPUT_ROW, N_BYTES, N_TOKENS, REASON, SOURCE, STATUS, TEXT, with_field_ids,
};
use gleaner_schemas::{ColumnSums, Failure, Lanes};
use gleaner_storage::encode::NGRAMS;
use serde::{Deserialize, Serialize};

use super::model::{Features, LogRatios};
use super::ngram_counts::NgramCounter;
use crate::batch_columns::{arrow_failure, permanent, text_at, text_views, texts};
use crate::stage::{Emit, MapContext, MapStage};

/// First byte of a chunk in the document's text, and the one behind its last.
pub(crate) const CHUNK_START: &str = "chunk_start";
/// See [`CHUNK_START`].
pub(crate) const CHUNK_END: &str = "chunk_end";

/// Chunks that are held before they are handed on.
const CHUNKS_MAX: usize = 1 << 16;

/// Parameters of the map `score`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoreParams {
    pub(crate) features: Features,
    /// What the names of the weights end in; one entry, empty, for a single model.
    pub(crate) suffixes: Vec<String>,
    pub(crate) min_tokens: u32,
    pub(crate) chunk_words: Option<u64>,
    pub(crate) quality: bool,
}

impl ScoreParams {
    pub(crate) fn schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new(DOC_ID, DataType::Utf8, false),
            Field::new(SOURCE, DataType::Utf8, true),
            Field::new(N_TOKENS, DataType::UInt32, false),
            Field::new(N_BYTES, DataType::UInt64, false),
        ];
        let suffixes = || self.suffixes.iter();
        fields.extend(
            suffixes().map(|it| Field::new(format!("log_weight{it}"), DataType::Float64, true)),
        );
        fields
            .extend(suffixes().map(|it| {
                Field::new(format!("log_weight_per_token{it}"), DataType::Float64, true)
            }));
        fields.push(Field::new("eligible", DataType::Boolean, false));
        if self.chunk_words.is_some() {
            fields.push(Field::new(CHUNK_START, DataType::UInt64, true));
            fields.push(Field::new(CHUNK_END, DataType::UInt64, true));
        }
        if self.quality {
            for name in ["repeating", "informative", "numeric"] {
                fields.push(Field::new(name, DataType::Float32, true));
            }
        }
        fields.extend([
            Field::new(STATUS, DataType::Utf8, false),
            Field::new(REASON, DataType::Utf8, true),
            Field::new(INPUT_FILE, DataType::Utf8, false),
            Field::new(INPUT_ROW, DataType::UInt64, false),
        ]);
        with_field_ids(&Schema::new(fields))
    }
}

/// The map over documents.
#[derive(Debug)]
pub(crate) struct ScoreStage {
    params: ScoreParams,
    schema: SchemaRef,
    extractor: FeatureExtractor,
    model: Arc<LogRatios>,
    ngrams: NgramCounter,
    /// Weights per token of eligible texts, for each column of weights.
    scores: Vec<ColumnSums>,
    /// What stands in the footer, once everything was scored.
    told: Option<String>,
    lanes: Lanes,
}

impl ScoreStage {
    pub(crate) fn new(params: ScoreParams, context: &MapContext<'_>) -> Result<Self, Failure> {
        let model = LogRatios::load(context.side_inputs, &params.features, &params.suffixes)?;
        Ok(Self {
            schema: params.schema(),
            extractor: params.features.extractor()?,
            ngrams: NgramCounter::new(params.features.buckets),
            scores: vec![ColumnSums::default(); params.suffixes.len()],
            model,
            told: None,
            lanes: Lanes::default(),
            params,
        })
    }

    fn score(&mut self, text: &str, rows: &mut Rows) {
        let features = self.extractor.extract(text);
        let n_tokens = features.n_tokens;
        // A document without a token has nothing to be judged by.
        let is_eligible = n_tokens >= self.params.min_tokens.max(1);
        let scores = &mut self.scores;
        self.ngrams
            .weigh(features.buckets, &self.model, |idx, weight| {
                let per_token = log_weight_per_token(weight, n_tokens);
                rows.weights[idx].append_value(weight);
                rows.weights_per_token[idx].append_option(per_token);
                if let Some(per_token) = per_token.filter(|_| is_eligible) {
                    scores[idx].add_value(per_token);
                }
            });
        rows.n_tokens.push(n_tokens);
        rows.n_bytes.push(text.len() as u64);
        rows.eligible.push(is_eligible);
        if is_eligible {
            self.lanes.ok += 1;
            rows.status.append_value("ok");
            rows.reason.append_null();
        } else {
            self.lanes.ineligible += 1;
            rows.status.append_value("ineligible");
            rows.reason.append_value(&rows.too_short);
        }
        if self.params.quality {
            let shares = quality(self.extractor.tokens().iter());
            rows.quality[0].append_option(shares.map(|it| it.repeating));
            rows.quality[1].append_option(shares.map(|it| it.informative));
            rows.quality[2].append_option(shares.map(|it| it.numeric));
        }
    }

    fn reject(&mut self, reason: &str, rows: &mut Rows) {
        self.lanes.rejected += 1;
        for weights in rows.weights.iter_mut().chain(&mut rows.weights_per_token) {
            weights.append_null();
        }
        for quality in &mut rows.quality {
            quality.append_null();
        }
        rows.n_tokens.push(0);
        rows.n_bytes.push(0);
        rows.eligible.push(false);
        rows.status.append_value("rejected");
        rows.reason.append_value(reason);
    }

    fn emit(
        &mut self,
        rows: Rows,
        batch: &RecordBatch,
        chunks: Option<Chunks>,
        emit: Emit<'_>,
    ) -> Result<(), Failure> {
        self.lanes.rows_in += rows.n_tokens.len() as u64;
        emit(rows.finish(&self.schema, batch, chunks)?)
    }
}

impl MapStage for ScoreStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        let doc_ids = texts(batch, DOC_ID)?;
        let text = text_views(batch, TEXT)?;
        let reasons = texts(batch, REASON)?;
        let n_words = self
            .params
            .chunk_words
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let mut rows = Rows::new(&self.params, batch.num_rows());
        let mut chunks = n_words.map(|_| Chunks::default());
        for row in 0..batch.num_rows() {
            let rejected =
                text_at(&reasons, row).or_else(|| text.is_null(row).then_some("the text is null"));
            if let Some(reason) = rejected {
                if let Some(chunks) = &mut chunks {
                    chunks.push(row, doc_ids.value(row).to_owned(), None);
                }
                self.reject(reason, &mut rows);
                continue;
            }
            let text = text.value(row);
            let (Some(chunks), Some(n_words)) = (&mut chunks, n_words) else {
                self.score(text, &mut rows);
                continue;
            };
            // A text without words is one empty chunk: every document comes out.
            let mut ranges = chunk_words(text, n_words).peekable();
            let blank = ranges.peek().is_none().then_some(0..0);
            for (idx, range) in ranges.chain(blank).enumerate() {
                let doc_id = format!("{}#{idx}", doc_ids.value(row));
                chunks.push(row, doc_id, Some(range.clone()));
                self.score(&text[range], &mut rows);
                // A text may have any number of chunks.
                if rows.n_tokens.len() == CHUNKS_MAX {
                    let full = std::mem::replace(&mut rows, Rows::new(&self.params, CHUNKS_MAX));
                    self.emit(full, batch, Some(std::mem::take(chunks)), emit)?;
                }
            }
        }
        self.emit(rows, batch, chunks, emit)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<(), Failure> {
        self.told = Some(self.ngrams.told(&self.model, &self.scores)?);
        Ok(())
    }

    fn told(&mut self) -> Vec<(&'static str, String)> {
        let told = self.told.take();
        told.map(|it| (NGRAMS, it)).into_iter().collect()
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// Rows in the making.
struct Rows {
    n_tokens: Vec<u32>,
    n_bytes: Vec<u64>,
    weights: Vec<Float64Builder>,
    weights_per_token: Vec<Float64Builder>,
    eligible: Vec<bool>,
    quality: Vec<Float32Builder>,
    status: StringBuilder,
    reason: StringBuilder,
    too_short: String,
}

/// Which rows of the input the chunks come from.
#[derive(Default)]
struct Chunks {
    rows: Vec<u64>,
    doc_ids: StringBuilder,
    start: Vec<Option<u64>>,
    end: Vec<Option<u64>>,
}

impl Chunks {
    fn push(&mut self, row: usize, doc_id: String, range: Option<Range<usize>>) {
        self.rows.push(row as u64);
        self.doc_ids.append_value(doc_id);
        self.start
            .push(range.as_ref().map(|range| range.start as u64));
        self.end.push(range.map(|range| range.end as u64));
    }
}

impl Rows {
    fn new(params: &ScoreParams, n_rows: usize) -> Self {
        let weights = || {
            params
                .suffixes
                .iter()
                .map(|_| Float64Builder::with_capacity(n_rows))
        };
        let n_quality = if params.quality { 3 } else { 0 };
        Self {
            n_tokens: Vec::with_capacity(n_rows),
            n_bytes: Vec::with_capacity(n_rows),
            weights: weights().collect(),
            weights_per_token: weights().collect(),
            eligible: Vec::with_capacity(n_rows),
            quality: (0..n_quality)
                .map(|_| Float32Builder::with_capacity(n_rows))
                .collect(),
            status: StringBuilder::new(),
            reason: StringBuilder::new(),
            too_short: match params.min_tokens.max(1) {
                1 => "no token".to_owned(),
                n => format!("fewer than {n} tokens"),
            },
        }
    }

    /// Puts the columns of the input beside what was computed.
    fn finish(
        mut self,
        schema: &SchemaRef,
        batch: &RecordBatch,
        chunks: Option<Chunks>,
    ) -> Result<RecordBatch, Failure> {
        let input = |name: &str| {
            batch
                .column_by_name(name)
                .map(Arc::clone)
                .ok_or_else(|| permanent(format!("a batch has no column {name}")))
        };
        let (mut doc_id, mut source) = (input(DOC_ID)?, input(SOURCE)?);
        let (mut input_file, mut input_row) = (input(INPUT_FILE)?, input(INPUT_ROW)?);
        let mut chunk_columns: Vec<ArrayRef> = Vec::new();
        if let Some(mut chunks) = chunks {
            let rows = UInt64Array::from(chunks.rows);
            for column in [&mut source, &mut input_file, &mut input_row] {
                *column = take(column, &rows, None).map_err(arrow_failure)?;
            }
            doc_id = Arc::new(chunks.doc_ids.finish());
            chunk_columns.push(Arc::new(UInt64Array::from(chunks.start)));
            chunk_columns.push(Arc::new(UInt64Array::from(chunks.end)));
        }
        let mut columns: Vec<ArrayRef> = vec![
            doc_id,
            source,
            Arc::new(UInt32Array::from(self.n_tokens)),
            Arc::new(UInt64Array::from(self.n_bytes)),
        ];
        for weights in self.weights.iter_mut().chain(&mut self.weights_per_token) {
            columns.push(Arc::new(weights.finish()));
        }
        columns.push(Arc::new(BooleanArray::from(self.eligible)));
        columns.extend(chunk_columns);
        for quality in &mut self.quality {
            columns.push(Arc::new(quality.finish()));
        }
        let (status, reason): (StringArray, StringArray) =
            (self.status.finish(), self.reason.finish());
        columns.extend([
            Arc::new(status) as ArrayRef,
            Arc::new(reason),
            input_file,
            input_row,
        ]);
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(arrow_failure)
    }
}
