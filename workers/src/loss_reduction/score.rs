//! Map `score`, the stage's table. Text is tokenised once; each model then scores the same tokens.
//!
//! A slot's memory has room for the models, a quarter of the rest for the ids and losses of the
//! documents at hand, and what is left for input and output. Documents are taken a few at a time
//! ([`ScoreStage::group_bytes`]); one whose losses alone would not fit is rejected with the figure.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::SchemaRef;
use gleaner_models::Encoded;
use gleaner_schemas::columns::{DOC_ID, INPUT_FILE, INPUT_ROW, REASON, SOURCE, TEXT};
use gleaner_schemas::{Failure, Lanes};

use super::params::{ScoreParams, Unit};
use super::rows::{Rows, Scored};
use super::scorer::Scorer;
use super::sequences::{Document, Sequences};
use crate::batch_columns::{numbers, permanent, text_at, text_views, texts};
use crate::stage::{Emit, MapContext, MapStage};

/// Bytes of text whose documents are tokenised and scored together.
const GROUP_BYTES: Range<u64> = 64 << 10..1 << 20;

/// The map over documents.
pub(crate) struct ScoreStage {
    scorer: Scorer,
    schema: SchemaRef,
    lanes: Lanes,
    sequences: Option<Sequences>,
    /// Of the slot's memory, what the models do not take.
    left_bytes: u64,
    memory_bytes: u64,
}

/// Some rows of a batch.
struct Group<'a> {
    rows: Range<usize>,
    views: &'a StringViewArray,
    reasons: &'a StringArray,
}

/// A document on its way to the models.
enum Tokens {
    Ids(Encoded),
    Rejected(String),
}

impl ScoreStage {
    pub(crate) fn new(params: ScoreParams, context: &MapContext<'_>) -> Result<Self, Failure> {
        let (scorer, left_bytes) = Scorer::load(&params, params.models.clone(), context)?;
        Ok(Self {
            schema: params.schema(),
            lanes: Lanes::default(),
            sequences: (params.unit == Unit::Sequence)
                .then(|| Sequences::new(scorer.eos, params.context)),
            left_bytes,
            memory_bytes: context.memory_bytes,
            scorer,
        })
    }

    /// Bytes for the ids and losses of the documents at hand.
    fn documents_bytes(&self) -> u64 {
        self.left_bytes / 4
    }

    /// Tokens of one document that fit.
    fn document_tokens_max(&self) -> usize {
        let params = &self.scorer.params;
        let n_models = params.models.len() as u64;
        // Its id, its losses, the place in the order of its reductions, and its losses as a column.
        let lists = if params.token_losses { 4 * n_models } else { 0 };
        let token_bytes = 4 + 4 * n_models + 8 + lists;
        usize::try_from(self.documents_bytes() / token_bytes).unwrap_or(usize::MAX)
    }

    /// Bytes of text that are taken at a time: even where each is a token, they fit.
    fn group_bytes(&self) -> u64 {
        let bytes = self.documents_bytes() / 64;
        bytes.clamp(GROUP_BYTES.start, GROUP_BYTES.end)
    }

    /// The ids of the documents of a group.
    fn tokens(&self, group: &Group<'_>) -> Vec<Tokens> {
        let rejected = |row: usize| {
            let is_null = || group.views.is_null(row).then_some("the text is null");
            text_at(group.reasons, row).or_else(is_null)
        };
        let rows = group.rows.clone();
        let kept: Vec<&str> = rows
            .clone()
            .filter(|&row| rejected(row).is_none())
            .map(|row| group.views.value(row))
            .collect();
        let max_tokens = self.scorer.params.max_tokens.map(|max| max as usize);
        let fitting = self.document_tokens_max();
        let n_ids_max = max_tokens.map_or(fitting, |max| max.min(fitting));
        let mut encoded = self.scorer.models[0].encode(&kept, n_ids_max).into_iter();
        let mut of_row = |row: usize| -> Result<Encoded, String> {
            if let Some(reason) = rejected(row) {
                return Err(reason.to_owned());
            }
            let encoded = encoded.next().unwrap_or_else(|| Ok(Encoded::default()));
            let encoded = encoded.map_err(|error| error.to_string())?;
            if encoded.is_cut && max_tokens.is_none_or(|max| max > fitting) {
                return Err(format!(
                    "the text has more than {fitting} tokens, whose losses do not fit into the \
                     slot's memory; set `max_tokens` or raise `memory` in the job file"
                ));
            }
            Ok(encoded)
        };
        rows.map(|row| of_row(row).map_or_else(Tokens::Rejected, Tokens::Ids))
            .collect()
    }

    fn add_to_sequences(
        &mut self,
        batch: &RecordBatch,
        group: &Group<'_>,
        emit: Emit<'_>,
    ) -> Result<(), Failure> {
        let tokens = self.tokens(group);
        let Some(sequences) = &mut self.sequences else {
            return Ok(());
        };
        let doc_ids = texts(batch, DOC_ID)?;
        let (files, rows) = (texts(batch, INPUT_FILE)?, numbers(batch, INPUT_ROW)?);
        for (row, tokens) in group.rows.clone().zip(tokens) {
            let mut document = Document {
                doc_id: doc_ids.value(row).into(),
                file: files.value(row).into(),
                row: rows.value(row),
                n_bytes: 0,
                n_ids: 0,
                is_truncated: false,
            };
            match tokens {
                Tokens::Ids(encoded) => {
                    document.n_bytes = group.views.value(row).len() as u64;
                    document.n_ids = encoded.ids.len();
                    document.is_truncated = encoded.is_cut;
                    sequences.add(document, &encoded.ids);
                }
                Tokens::Rejected(reason) => sequences.reject(document, reason),
            }
            sequences.emit(&self.scorer, &self.schema, &mut self.lanes, emit)?;
        }
        Ok(())
    }

    /// What each document comes to.
    fn score(&self, documents: &[Tokens]) -> Result<Vec<Scored>, Failure> {
        let ids = documents.iter().map(|tokens| match tokens {
            Tokens::Ids(encoded) => Some(encoded.ids.as_slice()),
            Tokens::Rejected(_) => None,
        });
        let losses = self.scorer.document_losses(&ids.collect::<Vec<_>>())?;
        let documents = documents.iter().zip(losses);
        Ok(documents
            .map(|(tokens, losses)| match tokens {
                Tokens::Ids(_) => self.scorer.outcome(true, losses),
                Tokens::Rejected(reason) => Scored::Rejected(reason.clone()),
            })
            .collect())
    }

    fn score_documents(
        &mut self,
        batch: &RecordBatch,
        group: &Group<'_>,
        emit: Emit<'_>,
    ) -> Result<(), Failure> {
        let tokens = self.tokens(group);
        let scored = self.score(&tokens)?;
        let params = &self.scorer.params;
        let mut rows = Rows::new(params);
        for (row, (tokens, scored)) in group.rows.clone().zip(tokens.iter().zip(scored)) {
            count(&mut self.lanes, &scored);
            let (n_bytes, is_cut) = match tokens {
                Tokens::Ids(encoded) => (group.views.value(row).len() as u64, encoded.is_cut),
                Tokens::Rejected(_) => (0, false),
            };
            rows.push(params, n_bytes, is_cut, &scored);
        }
        let input = |name: &str| -> Result<ArrayRef, Failure> {
            let column = batch.column_by_name(name);
            let column =
                column.ok_or_else(|| permanent(format!("a batch has no column {name}")))?;
            Ok(column.slice(group.rows.start, group.rows.len()))
        };
        let first: Vec<ArrayRef> = vec![input(DOC_ID)?, input(SOURCE)?];
        let last: Vec<ArrayRef> = vec![input(INPUT_FILE)?, input(INPUT_ROW)?];
        emit(rows.finish(params, &self.schema, first, last)?)
    }
}

/// Rows that are taken together: as many as have about `group_bytes` of text.
fn groups(views: &StringViewArray, group_bytes: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for row in 0..views.len() {
        // The lower half of a view is the length of its text.
        let length = u64::from(views.views()[row] as u32);
        if row > start && bytes + length > group_bytes {
            groups.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes += length;
    }
    if start < views.len() {
        groups.push(start..views.len());
    }
    groups
}

impl MapStage for ScoreStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        let views = text_views(batch, TEXT)?;
        let reasons = texts(batch, REASON)?;
        for rows in groups(&views, self.group_bytes()) {
            let group = Group {
                rows,
                views: &views,
                reasons: &reasons,
            };
            if self.sequences.is_some() {
                self.add_to_sequences(batch, &group, emit)?;
            } else {
                self.score_documents(batch, &group, emit)?;
            }
        }
        Ok(())
    }

    fn part_ended(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        match &mut self.sequences {
            Some(sequences) => {
                sequences.end_part(&self.scorer, &self.schema, &mut self.lanes, emit)
            }
            None => Ok(()),
        }
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes - self.left_bytes + self.documents_bytes()
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        // The last part has ended, unless there was none.
        match &mut self.sequences {
            Some(sequences) => sequences.finish(&self.scorer, &self.schema, &mut self.lanes, emit),
            None => Ok(()),
        }
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// Counts a document in its lane.
pub(super) fn count(lanes: &mut Lanes, scored: &Scored) {
    lanes.rows_in += 1;
    match scored {
        Scored::Losses(_) => lanes.ok += 1,
        Scored::Ineligible(_) => lanes.ineligible += 1,
        Scored::Rejected(_) => lanes.rejected += 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_taken_by_the_bytes_of_their_texts() {
        let check = |lengths: &[usize], expected: &[(usize, usize)]| {
            let texts: Vec<String> = lengths.iter().map(|&n| "x".repeat(n)).collect();
            let views: StringViewArray = texts.iter().map(Some).collect();
            let found = groups(&views, 10).into_iter();
            let found: Vec<(usize, usize)> = found.map(|rows| (rows.start, rows.end)).collect();
            assert_eq!(found, expected, "{lengths:?}");
        };
        check(&[], &[]);
        check(&[3, 3, 3], &[(0, 3)]);
        check(&[3, 8, 2, 1], &[(0, 1), (1, 3), (3, 4)]);
        check(&[50, 50], &[(0, 1), (1, 2)]);
        check(&[0, 0, 50, 0], &[(0, 2), (2, 3), (3, 4)]);
    }
}
