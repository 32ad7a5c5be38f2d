//! Whether a query is a piece of its document.

use super::words::Tokens;

/// Share of the query's tokens from which a common run is a copy.
pub const COPIED_SHARE_MIN: f64 = 0.8;
/// The same as a fraction, to decide in integers.
const COPIED_SHARE: (usize, usize) = (4, 5);
/// Words from which a query can be a copy: shorter ones are names and terms, which a document about
/// them has to use.
const QUERY_WORDS_MIN: usize = 3;
/// Tokens of the query that are compared: it bounds the work at this many steps for each token of
/// the document.
const QUERY_TOKENS_MAX: usize = 512;

/// Length of the longest run of tokens that both texts have.
#[must_use]
pub fn longest_common_run(source: &Tokens, query: &Tokens) -> usize {
    let mut query_hashes = query.hashes();
    query_hashes.truncate(QUERY_TOKENS_MAX);
    longest_run(&source.hashes(), &query_hashes)
}

/// The same of any two lists of tokens' hashes, in as many steps as they have pairs.
pub(super) fn longest_run(a: &[u64], b: &[u64]) -> usize {
    // runs[i]: length of the common run that ends at the last token of `a` and at token i - 1 of `b`.
    let mut runs = vec![0_usize; b.len() + 1];
    let mut longest = 0;
    for a_hash in a {
        for (index, b_hash) in b.iter().enumerate().rev() {
            runs[index + 1] = if b_hash == a_hash { runs[index] + 1 } else { 0 };
            longest = longest.max(runs[index + 1]);
        }
    }
    longest
}

/// Whether at least [`COPIED_SHARE_MIN`] of the query's tokens stand in the source as one run.
#[must_use]
pub fn query_copied(source: &Tokens, query: &Tokens) -> bool {
    if query.n_words() < QUERY_WORDS_MIN {
        return false;
    }
    let n_compared = query.len().min(QUERY_TOKENS_MAX);
    let (numerator, denominator) = COPIED_SHARE;
    longest_common_run(source, query) * denominator >= n_compared * numerator
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_is_found() {
        let check = |source: &str, query: &str, expected: usize| {
            assert_eq!(
                longest_common_run(&Tokens::new(source), &Tokens::new(query)),
                expected
            );
        };
        check("the quick brown fox jumps", "a quick brown fox", 3);
        check("a b a b c", "a b c", 3);
        check("a a a", "a a a a", 3);
        check("x y z", "", 0);
        check("", "x", 0);
        check("b a", "a b", 1);
    }

    #[test]
    fn copies_are_told_from_questions() {
        let source =
            "Photosynthesis is the process by which plants turn light into chemical energy.";
        let check = |source: &str, query: &str, expected: bool| {
            assert_eq!(
                query_copied(&Tokens::new(source), &Tokens::new(query)),
                expected,
                "{query}"
            );
        };
        check(source, "the process by which plants turn light", true);
        check(source, "The process, by which PLANTS turn light?", true);
        // Four of five tokens are the bound; three of four are below.
        check(source, "do plants turn light into", true);
        check(source, "do plants turn light", false);
        check(source, "how do leaves make sugar from light", false);
        // A term of the document is no copy.
        check(source, "photosynthesis process", false);
        check(source, "light into", false);
        let chinese = "光合作用是植物利用光能合成有机物的过程。";
        check(chinese, "植物利用光能合成有机物", true);
        check(chinese, "叶子怎么制造养分和氧气", false);
        check(chinese, "光合作用", false);
        check(
            "القاهرة هي عاصمة جمهورية مصر العربية",
            "هي عاصمة جمهورية مصر",
            true,
        );
        check(
            "القاهرة هي عاصمة جمهورية مصر العربية",
            "أين تقع العاصمة المصرية",
            false,
        );
    }

    proptest::proptest! {
        #[test]
        fn a_part_of_a_text_is_a_copy(
            words in proptest::collection::vec("[a-z]{1,6}", 4..30),
            from in 0_usize..1_000,
        ) {
            let from = from % (words.len() - 3);
            proptest::prop_assert!(query_copied(
                &Tokens::new(&words.join(" ")),
                &Tokens::new(&words[from..].join(" ")),
            ));
        }
    }
}
