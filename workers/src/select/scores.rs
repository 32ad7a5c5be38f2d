//! The table of scores that a selection reads: which columns, and its rows one by one.

use arrow::array::{Array, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use gleaner_algorithms::resample::gumbel;
use gleaner_schemas::Failure;
use gleaner_schemas::columns::{
    DOC_ID, INPUT_FILE, INPUT_ROW, N_BYTES, N_TOKENS, SEQUENCE_ID, SOURCE, STATUS,
};
use serde::{Deserialize, Serialize};

use super::params::{Method, Unit};
use super::sort_key::{SortKey, TieBreak};
use crate::batch_columns::{
    floats, optional_booleans, optional_numbers, optional_texts, permanent, text_at, texts,
};
use crate::importance_weights::{CHUNK_END, CHUNK_START};

const ELIGIBLE: &str = "eligible";

/// A target and its column of scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetColumn {
    /// Name of the target; empty where there is one column.
    pub(crate) name: String,
    pub(crate) column: String,
}

/// How rows become sort keys: everything that the order depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ordering {
    pub(crate) method: Method,
    pub(crate) seed: u64,
    pub(crate) temperature: f64,
    pub(crate) targets: Vec<TargetColumn>,
    pub(crate) group_by: Option<String>,
}

impl Ordering {
    /// The score plus noise.
    pub(crate) fn key(&self, target_idx: usize, score: f64, doc_id: &str) -> f64 {
        match self.method {
            Method::Resample => {
                let target = &self.targets[target_idx].name;
                score / self.temperature + gumbel(self.seed, target, doc_id)
            }
            Method::TopK | Method::BottomK | Method::Threshold => score,
        }
    }

    /// Columns to read of a table with this schema.
    pub(crate) fn columns(&self, schema: &SchemaRef) -> Vec<String> {
        let usual = [
            DOC_ID,
            SEQUENCE_ID,
            SOURCE,
            N_TOKENS,
            N_BYTES,
            ELIGIBLE,
            STATUS,
            CHUNK_START,
            CHUNK_END,
            INPUT_FILE,
            INPUT_ROW,
        ];
        let mut columns: Vec<String> = Vec::new();
        let wanted = usual
            .into_iter()
            .chain(self.targets.iter().map(|target| target.column.as_str()))
            .chain(self.group_by.as_deref());
        for name in wanted {
            if schema.field_with_name(name).is_ok() && !columns.iter().any(|it| it == name) {
                columns.push(name.to_owned());
            }
        }
        columns
    }
}

/// The columns of a batch of scores.
#[derive(Debug)]
pub(crate) struct Scores {
    pub(crate) doc_id: StringArray,
    pub(crate) source: Option<StringArray>,
    pub(crate) n_tokens: Option<UInt64Array>,
    pub(crate) n_bytes: Option<UInt64Array>,
    pub(crate) chunk_start: Option<UInt64Array>,
    pub(crate) chunk_end: Option<UInt64Array>,
    pub(crate) input_file: Option<StringArray>,
    pub(crate) input_row: Option<UInt64Array>,
    scores: Vec<Float64Array>,
    group: Option<StringArray>,
    eligible: Option<BooleanArray>,
    status: Option<StringArray>,
}

/// Where a row of the scores stands before anything is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Candidate,
    Ineligible,
    Rejected,
}

impl Scores {
    pub(crate) fn of(batch: &RecordBatch, ordering: &Ordering) -> Result<Self, Failure> {
        let scores: Result<Vec<_>, Failure> = ordering
            .targets
            .iter()
            .map(|target| floats(batch, &target.column))
            .collect();
        let group = match &ordering.group_by {
            Some(column) => Some(texts(batch, column)?),
            None => None,
        };
        Ok(Self {
            // What is chosen may be sequences that were packed from documents.
            doc_id: match optional_texts(batch, DOC_ID)? {
                Some(doc_ids) => doc_ids,
                None => texts(batch, SEQUENCE_ID)?,
            },
            source: optional_texts(batch, SOURCE)?,
            n_tokens: optional_numbers(batch, N_TOKENS)?,
            n_bytes: optional_numbers(batch, N_BYTES)?,
            chunk_start: optional_numbers(batch, CHUNK_START)?,
            chunk_end: optional_numbers(batch, CHUNK_END)?,
            input_file: optional_texts(batch, INPUT_FILE)?,
            input_row: optional_numbers(batch, INPUT_ROW)?,
            scores: scores?,
            group,
            eligible: optional_booleans(batch, ELIGIBLE)?,
            status: optional_texts(batch, STATUS)?,
        })
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.doc_id.len()
    }

    /// A row without an id or without any score cannot be chosen.
    pub(crate) fn standing(&self, row: usize) -> Standing {
        match self.status.as_ref().and_then(|status| text_at(status, row)) {
            Some("rejected" | "failed") => return Standing::Rejected,
            Some("ineligible") => return Standing::Ineligible,
            _ => {}
        }
        let is_eligible = self
            .eligible
            .as_ref()
            .is_none_or(|eligible| eligible.is_valid(row) && eligible.value(row));
        let has_score = (0..self.scores.len()).any(|idx| self.score(idx, row).is_some());
        if is_eligible && has_score && self.doc_id.is_valid(row) {
            Standing::Candidate
        } else {
            Standing::Ineligible
        }
    }

    /// The score of a row for a target, if it is a number.
    pub(crate) fn score(&self, target_idx: usize, row: usize) -> Option<f64> {
        let scores = &self.scores[target_idx];
        scores
            .is_valid(row)
            .then(|| scores.value(row))
            .filter(|score| !score.is_nan())
    }

    pub(crate) fn group(&self, row: usize) -> Option<&str> {
        text_at(self.group.as_ref()?, row)
    }

    /// What a row takes of the budget.
    pub(crate) fn cost(&self, unit: Unit, row: usize) -> Result<u64, Failure> {
        let (column, name) = match unit {
            Unit::Documents => return Ok(1),
            Unit::Tokens => (&self.n_tokens, N_TOKENS),
            Unit::Bytes => (&self.n_bytes, N_BYTES),
        };
        match column {
            Some(column) if column.is_valid(row) => Ok(column.value(row)),
            Some(_) => Ok(0),
            None => Err(permanent(format!("the scores have no column {name}"))),
        }
    }

    /// Sets the sort key of a row for a target. `None` without a score.
    pub(crate) fn sort_key(
        &self,
        ordering: &Ordering,
        target_idx: usize,
        row: usize,
        sort_key: &mut SortKey,
    ) -> Option<f64> {
        let doc_id = self.doc_id.value(row);
        let key = ordering.key(target_idx, self.score(target_idx, row)?, doc_id);
        let input_file = self
            .input_file
            .as_ref()
            .and_then(|files| text_at(files, row));
        let tie = TieBreak {
            doc_id,
            input_file: input_file.unwrap_or_default(),
            input_row: self.input_row.as_ref().map_or(0, |rows| rows.value(row)),
        };
        sort_key.set(ordering.method, key, tie).then_some(key)
    }
}
