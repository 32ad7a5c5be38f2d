//! Whether a text goes round in circles.

use super::words::Tokens;

/// Share of distinct trigrams below which a text repeats itself.
pub const DISTINCT_TRIGRAMS_MIN: f64 = 0.5;

/// Distinct trigrams of tokens over all trigrams; 1 if there are none.
#[must_use]
pub fn distinct_trigrams(text: &Tokens) -> f64 {
    let hashes = text.hashes();
    let mut trigrams: Vec<&[u64]> = hashes.windows(3).collect();
    let n_trigrams = trigrams.len();
    trigrams.sort_unstable();
    trigrams.dedup();
    if n_trigrams == 0 {
        1.0
    } else {
        trigrams.len() as f64 / n_trigrams as f64
    }
}

/// Whether fewer than [`DISTINCT_TRIGRAMS_MIN`] of the trigrams are distinct.
#[must_use]
pub fn repetition(text: &Tokens) -> bool {
    distinct_trigrams(text) < DISTINCT_TRIGRAMS_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_distinct_trigrams() {
        let check =
            |text: &str, expected: f64| assert_eq!(distinct_trigrams(&Tokens::new(text)), expected);
        check("a b c a b c", 0.75);
        check("a b", 1.0);
        check("", 1.0);
        check("a a a a", 0.5);
        check("好好好好好", 1.0 / 3.0);
    }

    #[test]
    fn loops_are_told_from_texts() {
        assert!(repetition(&Tokens::new(&"the same again ".repeat(5))));
        assert!(repetition(&Tokens::new(&"同じことを繰り返す。".repeat(4))));
        assert!(repetition(&Tokens::new("לא לא לא לא לא")));
        assert!(!repetition(&Tokens::new("a a a a")));
        let text = "what is the capital of the north of the country";
        assert!(!repetition(&Tokens::new(text)));
        assert!(!repetition(&Tokens::new(
            "植物利用光能合成有机物并且释放氧气"
        )));
    }
}
