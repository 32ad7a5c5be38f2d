//! How often a document has the terms of the queries that were written for it: all that BM25 needs to
//! know of it later, when the queries of all documents are there.

use std::sync::Arc;

use gleaner_algorithms::bm25::{TermCounter, Vocabulary, query_terms};
use gleaner_schemas::Failure;

use super::writing::Row;
use crate::batch_columns::permanent;

/// How often the document has the terms of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceTerms {
    /// Terms of the document.
    pub(crate) length: u32,
    /// Of each distinct term of the query, in their order.
    pub(crate) frequencies: Vec<u32>,
}

/// Counts the terms of all queries in their document, once.
pub(super) fn add_source_terms(document: &str, rows: &mut [Row]) -> Result<(), Failure> {
    let terms: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.text.as_deref().map(query_terms).unwrap_or_default())
        .collect();
    let vocabulary =
        Vocabulary::new(terms.iter().flatten()).map_err(|error| permanent(error.to_string()))?;
    let mut counter = TermCounter::new(Arc::new(vocabulary));
    let counted = counter.count(document);
    for (row, terms) in rows.iter_mut().zip(terms) {
        if row.text.is_none() {
            continue;
        }
        let vocabulary = Arc::clone(counter.vocabulary());
        let frequency = |term: &String| {
            let term = vocabulary.idx(term);
            term.map_or(0, |term| counted.frequency(term))
        };
        row.source_terms = Some(SourceTerms {
            length: counted.length,
            frequencies: terms.iter().map(frequency).collect(),
        });
    }
    Ok(())
}
