//! What a text copies of its source, and what texts have in common.

/// Extractive fragments of a text (Grusky et al., arXiv 1804.11283): read from the left, the longest
/// run of words that is in the source, then on behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Copying {
    /// Lengths of the fragments, in words, as they stand in the text.
    pub fragments: Vec<u32>,
    /// Words of the text.
    pub length: usize,
    /// The longest run of words that is in both.
    pub longest_run: usize,
}

impl Copying {
    /// The share of the text's words that lie in fragments. 0 for a text without words.
    #[must_use]
    pub fn coverage(&self) -> f64 {
        self.per_word(|fragment| fragment)
    }

    /// The mean length of the fragment that a word lies in: the sum of the squared lengths over the
    /// text's. 0 for a text without words.
    #[must_use]
    pub fn density(&self) -> f64 {
        self.per_word(|fragment| fragment * fragment)
    }

    fn per_word(&self, term: impl Fn(f64) -> f64) -> f64 {
        let sum: f64 = self
            .fragments
            .iter()
            .map(|&fragment| term(fragment.into()))
            .sum();
        sum / self.length.max(1) as f64
    }
}

/// The state without words; it is its own suffix.
const ROOT: u32 = 0;

/// All runs of words of a source, to compare any number of texts with: a suffix automaton. Time and
/// memory are linear in the source (about 150 bytes per word), and a comparison's time in the text,
/// whatever they repeat.
#[derive(Debug, Clone)]
pub struct CopyIndex {
    states: Vec<State>,
}

/// Runs of words that end at the same places of the source.
#[derive(Debug, Clone, Default)]
struct State {
    /// The longest of them, in words.
    length: u32,
    /// The state of the longest end of them that is also elsewhere.
    suffix: u32,
    /// By word that may follow, ascending.
    next: Vec<(u32, u32)>,
}

impl State {
    fn next(&self, word: u32) -> Option<u32> {
        let found = self.next.binary_search_by_key(&word, |&(word, _)| word);
        found.ok().map(|idx| self.next[idx].1)
    }

    fn set_next(&mut self, word: u32, state: u32) {
        match self.next.binary_search_by_key(&word, |&(word, _)| word) {
            Ok(idx) => self.next[idx].1 = state,
            Err(idx) => self.next.insert(idx, (word, state)),
        }
    }
}

impl CopyIndex {
    /// Indexes a source.
    #[must_use]
    pub fn new(source: &[u32]) -> Self {
        let mut index = Self {
            states: vec![State::default()],
        };
        let mut whole = ROOT;
        for &word in source {
            whole = index.append(whole, word);
        }
        index
    }

    /// Appends a word to the source, whose state is `whole`; returns the new one.
    fn append(&mut self, whole: u32, word: u32) -> u32 {
        let new = self.add(State {
            length: self.states[whole as usize].length + 1,
            ..State::default()
        });
        let mut end = Some(whole);
        while let Some(state) = end {
            if let Some(known) = self.states[state as usize].next(word) {
                let suffix = self.exact(state, known, word);
                self.states[new as usize].suffix = suffix;
                return new;
            }
            self.states[state as usize].set_next(word, new);
            end = (state != ROOT).then(|| self.states[state as usize].suffix);
        }
        new
    }

    /// The state of exactly the runs of `from` and `word`; `known` may have longer ones too, and is
    /// split then.
    fn exact(&mut self, from: u32, known: u32, word: u32) -> u32 {
        let length = self.states[from as usize].length + 1;
        if self.states[known as usize].length == length {
            return known;
        }
        let split = self.add(State {
            length,
            ..self.states[known as usize].clone()
        });
        self.states[known as usize].suffix = split;
        let mut end = Some(from);
        while let Some(state) = end {
            if self.states[state as usize].next(word) != Some(known) {
                break;
            }
            self.states[state as usize].set_next(word, split);
            end = (state != ROOT).then(|| self.states[state as usize].suffix);
        }
        split
    }

    fn add(&mut self, state: State) -> u32 {
        self.states.push(state);
        self.states.len() as u32 - 1
    }

    /// What a text copies of the source. Both must be numbered by the same [`super::Words`].
    #[must_use]
    pub fn copying(&self, text: &[u32]) -> Copying {
        let (mut fragments, mut state, mut length) = (Vec::new(), ROOT, 0);
        for &word in text {
            let mut next = self.states[state as usize].next(word);
            if next.is_none() && length > 0 {
                fragments.push(length);
                length = 0;
                next = self.states[ROOT as usize].next(word);
            }
            length += u32::from(next.is_some());
            state = next.unwrap_or(ROOT);
        }
        if length > 0 {
            fragments.push(length);
        }
        Copying {
            fragments,
            length: text.len(),
            longest_run: self.longest_run(text),
        }
    }

    /// Of all runs, also those that begin within a fragment.
    fn longest_run(&self, text: &[u32]) -> usize {
        let (mut state, mut length, mut longest) = (ROOT, 0, 0);
        for &word in text {
            loop {
                let here = &self.states[state as usize];
                if let Some(next) = here.next(word) {
                    (state, length) = (next, length + 1);
                    break;
                }
                if state == ROOT {
                    length = 0;
                    break;
                }
                state = here.suffix;
                length = self.states[state as usize].length;
            }
            longest = longest.max(length);
        }
        longest as usize
    }
}

/// The mean Jaccard similarity of the word sets of any two of one query's documents: whether grades
/// differ in more than a few words. `None` for fewer than two. In time of the square of the
/// documents, which are as many as there are grades.
#[must_use]
pub fn mean_pairwise_overlap<T: AsRef<[u32]>>(documents: &[T]) -> Option<f64> {
    let set = |document: &T| {
        let mut set = document.as_ref().to_vec();
        set.sort_unstable();
        set.dedup();
        set
    };
    let mut sets: Vec<Vec<u32>> = documents.iter().map(set).collect();
    // The sum then does not depend on the order of documents.
    sets.sort_unstable();
    let (mut sum, mut n_pairs) = (0.0, 0_u64);
    for (idx, a) in sets.iter().enumerate() {
        for b in &sets[..idx] {
            sum += jaccard(a, b);
            n_pairs += 1;
        }
    }
    (n_pairs > 0).then(|| sum / n_pairs as f64)
}

/// The share of the union that is in both of two sets, given sorted and without repetitions.
/// Empty sets are the same: 1.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut rest_a, mut rest_b, mut n_common) = (a, b, 0_usize);
    while let ([first_a, tail_a @ ..], [first_b, tail_b @ ..]) = (rest_a, rest_b) {
        match first_a.cmp(first_b) {
            std::cmp::Ordering::Less => rest_a = tail_a,
            std::cmp::Ordering::Greater => rest_b = tail_b,
            std::cmp::Ordering::Equal => {
                n_common += 1;
                (rest_a, rest_b) = (tail_a, tail_b);
            }
        }
    }
    match a.len() + b.len() - n_common {
        0 => 1.0,
        n_union => n_common as f64 / n_union as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::Words;
    use proptest::prelude::*;

    fn copying(source: &str, text: &str) -> Copying {
        let mut words = Words::default();
        CopyIndex::new(&words.of(source)).copying(&words.of(text))
    }

    #[test]
    fn fragments_are_those_of_the_reference() {
        let found = copying(
            "the quick brown fox jumps over the lazy dog",
            "the lazy fox jumps over a dog",
        );
        assert_eq!(found.fragments, [2, 3, 1]);
        assert_eq!(found.coverage(), 6.0 / 7.0);
        assert_eq!(found.density(), 2.0);
        assert_eq!(found.longest_run, 3);
    }

    #[test]
    fn what_shares_nothing_copies_nothing() {
        for (source, text) in [("", "a b"), ("a b", ""), ("a b", "c d"), ("", "")] {
            let found = copying(source, text);
            assert_eq!(
                (found.coverage(), found.density(), found.longest_run),
                (0.0, 0.0, 0)
            );
        }
        let found = copying("a b c", "a b c");
        assert_eq!((found.coverage(), found.density()), (1.0, 3.0));
        // The longest run begins within a fragment.
        let found = copying("a b x b c d", "a b c d");
        assert_eq!((found.fragments, found.longest_run), (vec![2, 2], 3));
    }

    #[test]
    fn overlap_is_of_sets() {
        assert_eq!(mean_pairwise_overlap(&[vec![1, 2]]), None);
        assert_eq!(
            mean_pairwise_overlap(&[vec![1, 2, 2], vec![2, 1]]),
            Some(1.0)
        );
        let documents = [vec![1, 2], vec![2, 3], vec![4]];
        assert_eq!(mean_pairwise_overlap(&documents), Some(1.0 / 9.0));
    }

    /// As defined: at each place, every place of the source.
    fn naive(source: &[u32], text: &[u32]) -> (Vec<u32>, usize) {
        let run = |from: usize| {
            let common = |start: usize| {
                let pairs = source[start..].iter().zip(&text[from..]);
                pairs.take_while(|(a, b)| a == b).count()
            };
            (0..source.len()).map(common).max().unwrap_or(0)
        };
        let longest = (0..text.len()).map(run).max().unwrap_or(0);
        let (mut fragments, mut place) = (Vec::new(), 0);
        while place < text.len() {
            let length = run(place);
            if length > 0 {
                fragments.push(length as u32);
            }
            place += length.max(1);
        }
        (fragments, longest)
    }

    proptest! {
        #[test]
        fn an_automaton_finds_what_a_search_finds(
            source in proptest::collection::vec(0_u32..4, 0..30),
            text in proptest::collection::vec(0_u32..5, 0..30),
        ) {
            let found = CopyIndex::new(&source).copying(&text);
            prop_assert_eq!((found.fragments, found.longest_run), naive(&source, &text));
        }
    }
}
