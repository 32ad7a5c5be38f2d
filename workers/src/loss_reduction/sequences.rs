//! Sequences of exactly `context` tokens, packed across documents as the reference packs them:
//! documents joined by the end-of-sequence token, the last part dropped. Attention crosses the
//! borders of documents; the first token of a sequence is not predicted.
//!
//! What is packed together is one row group of the input, or one file where there are none: so the
//! sequences do not depend on how tasks are cut. What does not fill a sequence at its end is a row
//! without losses, and so is a document that cannot be read: every document is in the spans of some
//! row. Lanes count documents, not sequences: one is ok if any of its tokens is in a sequence with
//! losses.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder, StructBuilder, UInt32Builder,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use gleaner_models::windows::{PackedSequence, Packer, Span};
use gleaner_schemas::{Failure, Lanes};

use super::params::ScoreParams;
use super::rows::{Rows, Scored, span_fields};
use super::scorer::{Scorer, TOKENS_AT_A_TIME};
use crate::stage::Emit;

/// What is known of a document besides its tokens.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) doc_id: Arc<str>,
    pub(super) file: Arc<str>,
    pub(super) row: u64,
    pub(super) n_bytes: u64,
    pub(super) n_ids: usize,
    pub(super) is_truncated: bool,
}

/// A row in the making.
#[derive(Debug)]
enum Row {
    Sequence(PackedSequence),
    Rejected(Document, String),
}

/// What became of a document; the best of its rows counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Rejected,
    Ineligible,
    Ok,
}

/// A document that rows to come have parts of.
#[derive(Debug)]
struct Open {
    document: Document,
    lane: Option<Lane>,
}

/// Documents on their way into sequences.
#[derive(Debug)]
pub(super) struct Sequences {
    packer: Packer,
    n_documents: u64,
    documents: BTreeMap<u64, Open>,
    rows: Vec<Row>,
}

impl Sequences {
    pub(super) fn new(eos: u32, context: u32) -> Self {
        Self {
            packer: Packer::new(eos, context as usize),
            n_documents: 0,
            documents: BTreeMap::new(),
            rows: Vec::new(),
        }
    }

    /// Adds a document.
    pub(super) fn add(&mut self, document: Document, ids: &[u32]) {
        let number = self.n_documents;
        self.n_documents += 1;
        let lane = None;
        self.documents.insert(number, Open { document, lane });
        let full = self.packer.push(number, ids);
        self.rows.extend(full.into_iter().map(Row::Sequence));
    }

    /// Adds a document that cannot be read.
    pub(super) fn reject(&mut self, document: Document, reason: String) {
        self.rows.push(Row::Rejected(document, reason));
    }

    /// Scores sequences while there are many.
    pub(super) fn emit(
        &mut self,
        scorer: &Scorer,
        schema: &SchemaRef,
        lanes: &mut Lanes,
        emit: Emit<'_>,
    ) -> Result<(), Failure> {
        let at_a_time = (TOKENS_AT_A_TIME / scorer.params.context as usize).max(1);
        while self.rows.len() >= at_a_time {
            let rows: Vec<Row> = self.rows.drain(..at_a_time).collect();
            emit(self.score(&rows, scorer, schema, lanes)?)?;
        }
        Ok(())
    }

    /// The next document is packed with none of those before.
    pub(super) fn end_part(
        &mut self,
        scorer: &Scorer,
        schema: &SchemaRef,
        lanes: &mut Lanes,
        emit: Emit<'_>,
    ) -> Result<(), Failure> {
        let next = Packer::new(scorer.eos, scorer.params.context as usize);
        let packer = std::mem::replace(&mut self.packer, next);
        self.rows.extend(packer.finish().map(Row::Sequence));
        self.emit(scorer, schema, lanes, emit)
    }

    /// Scores what is left.
    pub(super) fn finish(
        &mut self,
        scorer: &Scorer,
        schema: &SchemaRef,
        lanes: &mut Lanes,
        emit: Emit<'_>,
    ) -> Result<(), Failure> {
        self.end_part(scorer, schema, lanes, emit)?;
        let rows = std::mem::take(&mut self.rows);
        if !rows.is_empty() {
            emit(self.score(&rows, scorer, schema, lanes)?)?;
        }
        count(lanes, std::mem::take(&mut self.documents));
        Ok(())
    }

    fn score(
        &mut self,
        rows: &[Row],
        scorer: &Scorer,
        schema: &SchemaRef,
        lanes: &mut Lanes,
    ) -> Result<RecordBatch, Failure> {
        let params = &scorer.params;
        let context = params.context as usize;
        let full: Vec<&[u32]> = rows
            .iter()
            .filter_map(|row| match row {
                Row::Sequence(sequence) if sequence.ids.len() == context => {
                    Some(sequence.ids.as_slice())
                }
                _ => None,
            })
            .collect();
        let losses = scorer.losses(&full)?;
        let mut by_model: Vec<_> = losses.into_iter().map(Vec::into_iter).collect();
        let mut batch = Batch::new(params);
        for row in rows {
            match row {
                Row::Rejected(document, reason) => {
                    let scored = Scored::Rejected(reason.clone());
                    (lanes.rows_in, lanes.rejected) = (lanes.rows_in + 1, lanes.rejected + 1);
                    let whole = Span {
                        document: 0,
                        document_start: 0,
                        start: 0,
                        n_tokens: 0,
                    };
                    batch.push(params, &[(document, whole)], &scored);
                }
                Row::Sequence(sequence) => {
                    let scored = if sequence.ids.len() == context {
                        let losses = by_model.iter_mut().map(|it| it.next().unwrap_or_default());
                        scorer.outcome(false, losses.collect())
                    } else {
                        Scored::Ineligible(format!(
                            "the last {} tokens of a row group or file fill no sequence",
                            sequence.ids.len()
                        ))
                    };
                    self.note(sequence, &scored);
                    let spans: Vec<(&Document, Span)> = sequence
                        .spans
                        .iter()
                        .filter_map(|span| {
                            Some((&self.documents.get(&span.document)?.document, *span))
                        })
                        .collect();
                    batch.push(params, &spans, &scored);
                    self.forget_before(sequence, lanes);
                }
            }
        }
        batch.finish(params, schema)
    }

    /// Takes in what became of the documents in a sequence.
    fn note(&mut self, sequence: &PackedSequence, scored: &Scored) {
        let lane = match scored {
            Scored::Losses(_) => Lane::Ok,
            Scored::Ineligible(_) => Lane::Ineligible,
            Scored::Rejected(_) => Lane::Rejected,
        };
        for span in &sequence.spans {
            if let Some(open) = self.documents.get_mut(&span.document) {
                open.lane = open.lane.max(Some(lane));
            }
        }
    }

    /// Rows come in the order of the documents: those before a row's last one come no more.
    fn forget_before(&mut self, sequence: &PackedSequence, lanes: &mut Lanes) {
        if let Some(last) = sequence.spans.last() {
            let open = self.documents.split_off(&last.document);
            count(lanes, std::mem::replace(&mut self.documents, open));
        }
    }
}

/// Counts documents that come no more.
fn count(lanes: &mut Lanes, documents: BTreeMap<u64, Open>) {
    for open in documents.into_values() {
        lanes.rows_in += 1;
        match open.lane {
            Some(Lane::Ok) => lanes.ok += 1,
            Some(Lane::Ineligible) | None => lanes.ineligible += 1,
            Some(Lane::Rejected) => lanes.rejected += 1,
        }
    }
}

/// The columns of a batch in the making.
struct Batch {
    names: StringBuilder,
    spans: ListBuilder<StructBuilder>,
    rows: Rows,
}

impl Batch {
    fn new(params: &ScoreParams) -> Self {
        let item = Field::new_list_field(DataType::Struct(span_fields()), false);
        let structs = StructBuilder::from_fields(span_fields(), 0);
        Self {
            names: StringBuilder::new(),
            spans: ListBuilder::new(structs).with_field(item),
            rows: Rows::new(params),
        }
    }

    fn push(&mut self, params: &ScoreParams, spans: &[(&Document, Span)], scored: &Scored) {
        // The first token of a sequence is the first of no other one.
        let name = spans
            .first()
            .map(|(document, span)| format!("{}@{}", document.doc_id, span.document_start));
        self.names.append_value(name.unwrap_or_default());
        let n_bytes = spans
            .iter()
            .map(|(document, span)| bytes_of(document, span))
            .sum();
        let is_truncated = spans.iter().any(|(document, _)| document.is_truncated);
        self.rows.push(params, n_bytes, is_truncated, scored);
        for (document, span) in spans {
            self.push_span(document, span);
        }
        self.spans.append(true);
    }

    fn push_span(&mut self, document: &Document, span: &Span) {
        let structs = self.spans.values();
        for (idx, text) in [(0, &document.doc_id), (1, &document.file)] {
            if let Some(column) = structs.field_builder::<StringBuilder>(idx) {
                column.append_value(text);
            }
        }
        if let Some(column) = structs.field_builder::<UInt64Builder>(2) {
            column.append_value(document.row);
        }
        for (idx, number) in [(3, span.document_start), (4, span.n_tokens)] {
            if let Some(column) = structs.field_builder::<UInt32Builder>(idx) {
                column.append_value(u32::try_from(number).unwrap_or(u32::MAX));
            }
        }
        structs.append(true);
    }

    fn finish(mut self, params: &ScoreParams, schema: &SchemaRef) -> Result<RecordBatch, Failure> {
        let names: StringArray = self.names.finish();
        let first: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(self.spans.finish())];
        self.rows.finish(params, schema, first, Vec::new())
    }
}

/// A document's bytes are shared out over its tokens.
fn bytes_of(document: &Document, span: &Span) -> u64 {
    let n_ids = document.n_ids.max(1) as u128;
    let before = |n: usize| u128::from(document.n_bytes) * (n.min(document.n_ids) as u128) / n_ids;
    let bytes = before(span.document_start + span.n_tokens) - before(span.document_start);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
