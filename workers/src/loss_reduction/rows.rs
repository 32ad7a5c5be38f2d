//! Rows of the stage's table: the schema, and columns in the making.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float32Builder, Float64Array, ListBuilder, RecordBatch,
    StringBuilder, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use gleaner_models::windows::{LossReduction, loss_reduction};
use gleaner_schemas::Failure;
use gleaner_schemas::columns::{
    DOC_ID, INPUT_FILE, INPUT_ROW, N_BYTES, N_TOKENS, REASON, SEQUENCE_ID, SOURCE, SPANS, STATUS,
    with_field_ids,
};

use super::params::{ScoreParams, Unit};
use crate::batch_columns::arrow_failure;

/// Name of the model whose losses are subtracted from.
pub(crate) const PRIOR: &str = "prior";
/// Name of the model whose losses are subtracted.
pub(crate) const CONDITIONAL: &str = "conditional";
/// The score.
pub(crate) const LOSS_REDUCTION: &str = "loss_reduction";

/// Name of the column of a model's mean loss.
pub(crate) fn nll_column(model: &str) -> String {
    format!("{model}_nll")
}

fn token_losses_column(model: &str) -> String {
    format!("token_nll_{model}")
}

fn token_losses_item() -> Field {
    Field::new_list_field(DataType::Float32, false)
}

/// Fields of one of a sequence's spans.
pub(super) fn span_fields() -> Fields {
    Fields::from(vec![
        Field::new(DOC_ID, DataType::Utf8, false),
        Field::new(INPUT_FILE, DataType::Utf8, false),
        Field::new(INPUT_ROW, DataType::UInt64, false),
        Field::new("first_token", DataType::UInt32, false),
        Field::new(N_TOKENS, DataType::UInt32, false),
    ])
}

impl ScoreParams {
    /// Whether there is a reduction: of the losses of two models.
    pub(super) fn has_reduction(&self) -> bool {
        let has = |name: &str| self.models.iter().any(|model| model == name);
        has(PRIOR) && has(CONDITIONAL)
    }

    /// The schema of the stage's table.
    pub(crate) fn schema(&self) -> SchemaRef {
        let mut fields = match self.unit {
            Unit::Document => vec![
                Field::new(DOC_ID, DataType::Utf8, false),
                Field::new(SOURCE, DataType::Utf8, true),
            ],
            Unit::Sequence => vec![
                Field::new(SEQUENCE_ID, DataType::Utf8, false),
                Field::new_list(
                    SPANS,
                    Field::new_list_field(DataType::Struct(span_fields()), false),
                    false,
                ),
            ],
        };
        fields.push(Field::new(N_TOKENS, DataType::UInt32, false));
        fields.push(Field::new(N_BYTES, DataType::UInt64, false));
        for model in &self.models {
            fields.push(Field::new(nll_column(model), DataType::Float64, true));
        }
        if self.has_reduction() {
            fields.push(Field::new(LOSS_REDUCTION, DataType::Float64, true));
            fields.push(Field::new("win_fraction", DataType::Float32, true));
            fields.push(Field::new("top_decile_share", DataType::Float32, true));
        }
        if self.models.iter().any(|model| model == PRIOR) {
            fields.push(Field::new("perplexity", DataType::Float64, true));
        }
        if self.token_losses {
            for model in &self.models {
                let name = token_losses_column(model);
                fields.push(Field::new_list(name, token_losses_item(), true));
            }
        }
        fields.extend([
            Field::new("truncated", DataType::Boolean, false),
            Field::new("eligible", DataType::Boolean, false),
            Field::new(STATUS, DataType::Utf8, false),
            Field::new(REASON, DataType::Utf8, true),
        ]);
        if self.unit == Unit::Document {
            fields.push(Field::new(INPUT_FILE, DataType::Utf8, false));
            fields.push(Field::new(INPUT_ROW, DataType::UInt64, false));
        }
        with_field_ids(&Schema::new(fields))
    }
}

/// What became of a document or a sequence.
#[derive(Debug)]
pub(super) enum Scored {
    /// Losses per model, in the order of [`ScoreParams::models`], of every predicted token.
    Losses(Vec<Vec<f32>>),
    /// It has no loss, for this reason.
    Ineligible(String),
    /// It cannot be scored, for this reason.
    Rejected(String),
}

/// Columns in the making that both units have.
#[derive(Debug)]
pub(super) struct Rows {
    n_tokens: Vec<u32>,
    n_bytes: Vec<u64>,
    nll: Vec<Vec<Option<f64>>>,
    pairs: Vec<Option<LossReduction>>,
    token_losses: Vec<ListBuilder<Float32Builder>>,
    truncated: Vec<bool>,
    eligible: Vec<bool>,
    status: StringBuilder,
    reason: StringBuilder,
}

/// Positions of the prior and the conditional model among the models.
#[derive(Debug, Clone, Copy)]
struct PairIndices {
    prior: usize,
    conditional: usize,
}

impl PairIndices {
    fn of(params: &ScoreParams) -> Option<Self> {
        let find = |name: &str| params.models.iter().position(|model| model == name);
        Some(Self {
            prior: find(PRIOR)?,
            conditional: find(CONDITIONAL)?,
        })
    }
}

fn mean(losses: &[f32]) -> Option<f64> {
    let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
    (!losses.is_empty()).then(|| sum / losses.len() as f64)
}

impl Rows {
    pub(super) fn new(params: &ScoreParams) -> Self {
        let builder = || ListBuilder::new(Float32Builder::new()).with_field(token_losses_item());
        let n_lists = if params.token_losses {
            params.models.len()
        } else {
            0
        };
        Self {
            n_tokens: Vec::new(),
            n_bytes: Vec::new(),
            nll: params.models.iter().map(|_| Vec::new()).collect(),
            pairs: Vec::new(),
            token_losses: (0..n_lists).map(|_| builder()).collect(),
            truncated: Vec::new(),
            eligible: Vec::new(),
            status: StringBuilder::new(),
            reason: StringBuilder::new(),
        }
    }

    /// Adds a row.
    pub(super) fn push(
        &mut self,
        params: &ScoreParams,
        n_bytes: u64,
        truncated: bool,
        scored: &Scored,
    ) {
        self.n_bytes.push(n_bytes);
        self.truncated.push(truncated);
        let (status, reason) = match scored {
            Scored::Losses(losses) => {
                self.push_losses(params, losses);
                ("ok", None)
            }
            Scored::Ineligible(reason) => {
                self.push_nothing();
                ("ineligible", Some(reason))
            }
            Scored::Rejected(reason) => {
                self.push_nothing();
                ("rejected", Some(reason))
            }
        };
        self.eligible.push(status == "ok");
        self.status.append_value(status);
        self.reason.append_option(reason);
    }

    fn push_losses(&mut self, params: &ScoreParams, losses: &[Vec<f32>]) {
        let n_tokens = losses.first().map_or(0, Vec::len);
        self.n_tokens
            .push(u32::try_from(n_tokens).unwrap_or(u32::MAX));
        for (column, losses) in self.nll.iter_mut().zip(losses) {
            column.push(mean(losses));
        }
        // Losses that are not finite are rejected before they come here.
        self.pairs.push(PairIndices::of(params).and_then(|pair| {
            let reduced = loss_reduction(&losses[pair.prior], &losses[pair.conditional]);
            reduced.ok().flatten()
        }));
        for (column, losses) in self.token_losses.iter_mut().zip(losses) {
            column.values().append_slice(losses);
            column.append(true);
        }
    }

    fn push_nothing(&mut self) {
        self.n_tokens.push(0);
        for column in &mut self.nll {
            column.push(None);
        }
        self.pairs.push(None);
        for column in &mut self.token_losses {
            column.append(false);
        }
    }

    /// The batch of these rows: `first` are the columns before those of losses, `last` those
    /// behind the reasons.
    pub(super) fn finish(
        mut self,
        params: &ScoreParams,
        schema: &SchemaRef,
        first: Vec<ArrayRef>,
        last: Vec<ArrayRef>,
    ) -> Result<RecordBatch, Failure> {
        let mut columns = first;
        columns.push(Arc::new(UInt32Array::from(self.n_tokens)));
        columns.push(Arc::new(UInt64Array::from(self.n_bytes)));
        let perplexity = params
            .models
            .iter()
            .position(|model| model == PRIOR)
            .map(|prior| {
                self.nll[prior]
                    .iter()
                    .map(|nll| nll.map(f64::exp))
                    .collect()
            });
        for nll in self.nll {
            columns.push(Arc::new(Float64Array::from(nll)));
        }
        if params.has_reduction() {
            let pairs = || self.pairs.iter();
            let reduction: Float64Array =
                pairs().map(|it| it.map(|it| it.loss_reduction)).collect();
            let wins: Float32Array = pairs().map(|it| it.map(|it| it.win_fraction)).collect();
            let top: Float32Array = pairs().map(|it| it.map(|it| it.top_decile_share)).collect();
            columns.extend([
                Arc::new(reduction) as ArrayRef,
                Arc::new(wins),
                Arc::new(top),
            ]);
        }
        if let Some(perplexity) = perplexity {
            let perplexity: Float64Array = perplexity;
            columns.push(Arc::new(perplexity));
        }
        for lists in &mut self.token_losses {
            columns.push(Arc::new(lists.finish()));
        }
        columns.extend([
            Arc::new(BooleanArray::from(self.truncated)) as ArrayRef,
            Arc::new(BooleanArray::from(self.eligible)),
            Arc::new(self.status.finish()),
            Arc::new(self.reason.finish()),
        ]);
        columns.extend(last);
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(arrow_failure)
    }
}
