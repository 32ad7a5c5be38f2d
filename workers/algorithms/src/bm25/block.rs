//! Documents of a shard, a block at a time: what they have of the vocabulary, and an index over it.

use super::TermCounter;
use super::scorer::{Scorer, saturation};

/// Bytes of memory per pair of a document and one of its terms: in the documents' lists, and in
/// the index.
pub(super) const POSTING_BYTES: usize = size_of::<(u32, u32)>() + size_of::<Posting>();
/// Bytes of memory per document besides its id and its terms: two ends of lists, length, length
/// penalty, place in the order of ids, partial score, place in the list of candidates.
pub(super) const DOCUMENT_BYTES: usize = 2 * size_of::<usize>() + 4 + 8 + 4 + 8 + 4;
/// Bytes of memory per term of the vocabulary: where its list begins, what it adds at most.
pub(super) const TERM_BYTES: usize = size_of::<usize>() + size_of::<f32>();

/// Documents as lists of terms.
#[derive(Debug)]
pub(super) struct Block {
    ids: String,
    id_ends: Vec<usize>,
    lengths: Vec<u32>,
    /// Terms with their frequencies, ascending within each document.
    frequencies: Vec<(u32, u32)>,
    frequency_ends: Vec<usize>,
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            ids: String::new(),
            id_ends: vec![0],
            lengths: Vec::new(),
            frequencies: Vec::new(),
            frequency_ends: vec![0],
        }
    }

    pub(super) fn add(&mut self, counter: &mut TermCounter, id: &str, text: &str) {
        self.ids.push_str(id);
        self.id_ends.push(self.ids.len());
        let length = counter.for_each_frequency(text, |term, frequency| {
            self.frequencies.push((term, frequency));
        });
        self.lengths.push(length);
        self.frequency_ends.push(self.frequencies.len());
    }

    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.id_ends.truncate(1);
        self.lengths.clear();
        self.frequencies.clear();
        self.frequency_ends.truncate(1);
    }

    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Bytes that the block and its index take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.ids.len() + self.len() * DOCUMENT_BYTES + self.frequencies.len() * POSTING_BYTES
    }

    pub(super) fn id(&self, document: u32) -> &str {
        let document = document as usize;
        &self.ids[self.id_ends[document]..self.id_ends[document + 1]]
    }

    /// The document's terms with their frequencies, ascending.
    pub(super) fn frequencies(&self, document: u32) -> &[(u32, u32)] {
        let document = document as usize;
        &self.frequencies[self.frequency_ends[document]..self.frequency_ends[document + 1]]
    }
}

/// A document that has a term.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Posting {
    pub(super) document: u32,
    /// The term's saturation in the document, rounded up: times the term's weight it bounds what
    /// the term adds to the score.
    pub(super) impact: f32,
}

/// An inverted index of a block; its memory is used again for the next one.
#[derive(Debug)]
pub(super) struct Index {
    /// By term of the vocabulary, where its list begins; one more for the end of the last.
    starts: Vec<usize>,
    postings: Vec<Posting>,
    /// By term of the vocabulary, the largest impact; 0 without documents.
    impact_max: Vec<f32>,
    /// By document.
    length_penalties: Vec<f64>,
    /// Documents in the order of their ids; empty unless asked for.
    by_id: Vec<u32>,
}

impl Index {
    pub(super) fn new(n_terms: usize) -> Self {
        Self {
            starts: vec![0; n_terms + 1],
            postings: Vec::new(),
            impact_max: vec![0.0; n_terms],
            length_penalties: Vec::new(),
            by_id: Vec::new(),
        }
    }

    /// Indexes the block; `with_order` makes [`Self::n_below`] known.
    pub(super) fn fill(&mut self, block: &Block, scorer: &Scorer, with_order: bool) {
        let penalties = block
            .lengths
            .iter()
            .map(|&length| scorer.length_penalty(length));
        self.length_penalties.clear();
        self.length_penalties.extend(penalties);

        // Count, then place: afterwards each start has moved to the end of its list, which is
        // where the next one begins.
        self.starts.fill(0);
        for &(term, _) in &block.frequencies {
            self.starts[term as usize + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut self.starts {
            sum += *start;
            *start = sum;
        }
        self.impact_max.fill(0.0);
        self.postings.clear();
        self.postings
            .resize(block.frequencies.len(), Posting::default());
        for (document, &penalty) in (0_u32..).zip(&self.length_penalties) {
            for &(term, frequency) in block.frequencies(document) {
                let impact = round_up(saturation(frequency, penalty));
                let start = &mut self.starts[term as usize];
                self.postings[*start] = Posting { document, impact };
                *start += 1;
                let impact_max = &mut self.impact_max[term as usize];
                *impact_max = impact_max.max(impact);
            }
        }
        self.starts.rotate_right(1);
        self.starts[0] = 0;

        self.by_id.clear();
        if with_order {
            self.by_id.extend((0_u32..).take(block.len()));
            self.by_id
                .sort_unstable_by(|&a, &b| block.id(a).cmp(block.id(b)));
        }
    }

    /// Documents with the term, ascending.
    pub(super) fn postings(&self, term: u32) -> &[Posting] {
        let term = term as usize;
        &self.postings[self.starts[term]..self.starts[term + 1]]
    }

    /// The largest impact of the term in this block.
    pub(super) fn impact_max(&self, term: u32) -> f32 {
        self.impact_max[term as usize]
    }

    pub(super) fn length_penalty(&self, document: u32) -> f64 {
        self.length_penalties[document as usize]
    }

    /// Documents of the block whose id is smaller.
    pub(super) fn n_below(&self, block: &Block, id: &str) -> u64 {
        self.by_id
            .partition_point(|&document| block.id(document) < id) as u64
    }
}

/// The smallest number of 32 bits that is not below.
fn round_up(value: f64) -> f32 {
    let rounded = value as f32;
    if f64::from(rounded) < value {
        rounded.next_up()
    } else {
        rounded
    }
}
