//! Terms as numbers.

use std::collections::HashMap;

use crate::bm25::Analyzer;

/// Numbers terms in the order of their coming. About 60 bytes per distinct term.
#[derive(Debug, Clone, Default)]
pub struct Words {
    analyzer: Analyzer,
    numbers: HashMap<String, u32>,
    terms: Vec<String>,
}

impl Words {
    /// The terms of a text, as [`Analyzer`] finds them. Equal terms have equal numbers, in all texts
    /// that go through the same `Words`.
    #[must_use]
    pub fn of(&mut self, text: &str) -> Vec<u32> {
        let Self {
            analyzer,
            numbers,
            terms,
        } = self;
        let mut words = Vec::new();
        analyzer.for_each_term(text, |term| {
            let number = numbers.get(term).copied().unwrap_or_else(|| {
                let number = terms.len() as u32;
                numbers.insert(term.to_owned(), number);
                terms.push(term.to_owned());
                number
            });
            words.push(number);
        });
        words
    }

    /// The terms of these numbers, with spaces between them; others are left out.
    #[must_use]
    pub fn text(&self, words: &[u32]) -> String {
        let term = |&word: &u32| self.terms.get(word as usize).map(String::as_str);
        words.iter().filter_map(term).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_terms_have_equal_numbers() {
        let mut words = Words::default();
        assert_eq!(words.of("The cat, the dog"), [0, 1, 0, 2]);
        assert_eq!(words.of("DOG cat 猫"), [2, 1, 3]);
        assert_eq!(words.text(&[2, 3, 9]), "dog 猫");
    }
}
