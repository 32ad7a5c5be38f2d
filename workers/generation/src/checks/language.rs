//! Whether a text is in the language asked for: by its script, and where several languages share
//! one, by their small words.
//!
//! This is a cheap check that errs to the side of "yes": it flags a text only if most of it is in
//! another script, or if the small words of one other language are at least twice as many, and two
//! more, than those of the expected one. Neighbours such as Danish and Norwegian are not told apart,
//! short texts only by their script, languages outside the table not at all.

use std::collections::HashMap;
use std::sync::OnceLock;

use unicode_script::{Script, UnicodeScript};

use super::words::Tokens;
use crate::language::{LANGUAGES, Language, LanguageFacts, facts};

/// Fewest tokens of a text that is checked: names and terms are written alike in many languages.
const TOKENS_MIN: usize = 3;
/// Fewest small words of another language that mean something.
const SMALL_WORDS_MIN: usize = 3;
/// Han characters from which Japanese without any kana is none.
const HAN_WITHOUT_KANA_MIN: usize = 16;
/// Tokens of a text that are looked at.
const TOKENS_MAX: usize = 4_096;

/// Whether a text is in another language than asked for. `source` is what it was written for.
#[must_use]
pub fn wrong_language(text: &Tokens, language: &Language, source: &Tokens) -> bool {
    let profile = Profile::new(text);
    if profile.n_tokens < TOKENS_MIN {
        return false;
    }
    match language {
        Language::Named(name) => facts(name).is_some_and(|facts| profile.is_not(facts)),
        Language::Same => {
            let source = Profile::new(source);
            match source.guess() {
                Some(facts) => profile.is_not(facts),
                None => source
                    .dominant()
                    .is_some_and(|script| profile.lacks(&[script])),
            }
        }
    }
}

/// What is counted of a text.
#[derive(Debug)]
struct Profile {
    /// Tokens with a letter.
    n_tokens: usize,
    /// Tokens of each script, most first.
    scripts: Vec<(Script, usize)>,
    /// Small words of each language of the table.
    small_words: Vec<usize>,
}

/// The script of a token's first letter that has one of its own.
fn script(token: &str) -> Option<Script> {
    if token.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Some(Script::Latin);
    }
    token
        .chars()
        .filter(|c| c.is_alphabetic())
        .map(|c| c.script())
        .find(|script| !matches!(script, Script::Common | Script::Inherited | Script::Unknown))
}

/// For each small word the languages that have it, a bit for each place of the table.
fn small_words() -> &'static HashMap<&'static str, u64> {
    static WORDS: OnceLock<HashMap<&'static str, u64>> = OnceLock::new();
    WORDS.get_or_init(|| {
        let mut words: HashMap<&str, u64> = HashMap::new();
        for (place, language) in LANGUAGES.iter().enumerate() {
            for word in language.stop_words.split_whitespace() {
                *words.entry(word).or_default() |= 1 << place;
            }
        }
        words
    })
}

impl Profile {
    fn new(text: &Tokens) -> Self {
        let mut profile = Self {
            n_tokens: 0,
            scripts: Vec::new(),
            small_words: vec![0; LANGUAGES.len()],
        };
        for token in text.iter().take(TOKENS_MAX) {
            let Some(script) = script(token) else {
                continue;
            };
            profile.n_tokens += 1;
            match profile
                .scripts
                .iter_mut()
                .find(|(known, _)| *known == script)
            {
                Some((_, count)) => *count += 1,
                None => profile.scripts.push((script, 1)),
            }
            let mut languages = small_words().get(token).copied().unwrap_or_default();
            while languages != 0 {
                profile.small_words[languages.trailing_zeros() as usize] += 1;
                languages &= languages - 1;
            }
        }
        // By number, then by the order of appearance: the sort is stable.
        profile
            .scripts
            .sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        profile
    }

    fn count(&self, scripts: &[Script]) -> usize {
        let of_scripts = self
            .scripts
            .iter()
            .filter(|(script, _)| scripts.contains(script));
        of_scripts.map(|(_, count)| count).sum()
    }

    fn dominant(&self) -> Option<Script> {
        self.scripts.first().map(|(script, _)| *script)
    }

    /// Whether too little of the text is in the scripts. Names and terms in Latin letters stand in
    /// texts of all languages, so a quarter is enough for other scripts.
    fn lacks(&self, scripts: &[Script]) -> bool {
        let share = if scripts.contains(&Script::Latin) {
            2
        } else {
            4
        };
        self.count(scripts) * share < self.n_tokens
    }

    fn is_not(&self, expected: &'static LanguageFacts) -> bool {
        let n_han = self.count(&[Script::Han]);
        let n_kana = self.count(&[Script::Hiragana, Script::Katakana]);
        let is_other_han_language = match expected.code {
            "ja" => n_kana == 0 && n_han >= HAN_WITHOUT_KANA_MIN,
            // Some kana may be quoted.
            "zh" => n_kana * 5 > n_han,
            _ => false,
        };
        if self.lacks(expected.scripts) || is_other_han_language {
            return true;
        }
        let mut n_expected = 0;
        let mut n_other = 0;
        for (language, &count) in LANGUAGES.iter().zip(&self.small_words) {
            if language.code == expected.code {
                n_expected = count;
            } else if shares_script(language, expected) {
                n_other = n_other.max(count);
            }
        }
        !expected.stop_words.is_empty()
            && n_other >= SMALL_WORDS_MIN
            && n_other >= 2 * n_expected + 2
    }

    /// The language of the text, if that is clear.
    fn guess(&self) -> Option<&'static LanguageFacts> {
        let dominant = self.dominant()?;
        if matches!(dominant, Script::Han | Script::Hiragana | Script::Katakana) {
            let n_kana = self.count(&[Script::Hiragana, Script::Katakana]);
            return facts(if n_kana * 10 > self.count(&[Script::Han]) {
                "ja"
            } else {
                "zh"
            });
        }
        let of_script = || {
            LANGUAGES
                .iter()
                .zip(&self.small_words)
                .filter(|(language, _)| language.scripts.contains(&dominant))
        };
        let (best, &n_best) = of_script().max_by_key(|&(_, &count)| count)?;
        let n_second = of_script()
            .filter(|(language, _)| language.code != best.code)
            .map(|(_, &count)| count)
            .max();
        let is_clear = match n_second {
            // No other language has this script.
            None => true,
            Some(n_second) => n_best >= SMALL_WORDS_MIN && n_best * 2 >= n_second * 3,
        };
        is_clear.then_some(best)
    }
}

fn shares_script(a: &LanguageFacts, b: &LanguageFacts) -> bool {
    a.scripts.iter().any(|script| b.scripts.contains(script))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str =
        "Plants turn light into sugar, and the oxygen that is left is given to the air.";
    const GERMAN: &str = "Pflanzen machen aus Licht Zucker, und der Sauerstoff, der übrig ist, wird an die Luft gegeben.";
    const FRENCH: &str =
        "Les plantes font du sucre avec la lumière, et l'oxygène qui reste est rendu à l'air.";
    const SPANISH: &str =
        "Las plantas hacen azúcar con la luz, y el oxígeno que queda se da al aire.";
    const RUSSIAN: &str =
        "Растения делают сахар из света, а кислород отдают в воздух, но это не всё, что они могут.";
    const UKRAINIAN: &str = "Рослини роблять цукор зі світла, і кисень, що залишається, віддають у повітря, але це не все.";
    const ARABIC: &str =
        "تصنع النباتات السكر من الضوء في النهار، وهذا هو الغذاء الذي تعيش على ما فيه.";
    const PERSIAN: &str =
        "گیاهان از نور قند می سازند و این غذا را برای رشد خود به کار می برند که آن است.";
    const HEBREW: &str = "צמחים הופכים אור לסוכר ומשחררים חמצן לאוויר";
    const CHINESE: &str = "植物利用光能制造糖分，并且把剩下的氧气释放到空气之中。";
    const JAPANESE: &str = "植物は光を使って糖を作り、残った酸素を空気に出す。";
    const KOREAN: &str = "식물은 빛으로 당을 만들고 남은 산소를 공기로 내보낸다.";
    const THAI: &str = "พืชใช้แสงสร้างน้ำตาลและปล่อยออกซิเจน";
    const HINDI: &str = "पौधे प्रकाश से शर्करा बनाते हैं और बची हुई ऑक्सीजन को हवा में छोड़ते हैं।";

    const ALL: [(&str, &str); 14] = [
        ("en", ENGLISH),
        ("de", GERMAN),
        ("fr", FRENCH),
        ("es", SPANISH),
        ("ru", RUSSIAN),
        ("uk", UKRAINIAN),
        ("ar", ARABIC),
        ("fa", PERSIAN),
        ("he", HEBREW),
        ("zh", CHINESE),
        ("ja", JAPANESE),
        ("ko", KOREAN),
        ("th", THAI),
        ("hi", HINDI),
    ];

    #[test]
    fn each_text_is_in_its_own_language_and_in_no_other() {
        for (code, text) in ALL {
            for (expected, _) in ALL {
                let language = Language::Named(expected.to_owned());
                let is_wrong = wrong_language(&Tokens::new(text), &language, &Tokens::new(""));
                assert_eq!(
                    is_wrong,
                    code != expected,
                    "{code} text, {expected} expected"
                );
            }
        }
    }

    #[test]
    fn the_language_of_the_source_is_expected_where_none_is_named() {
        for (code, text) in ALL {
            for (source_code, source) in ALL {
                let is_wrong =
                    wrong_language(&Tokens::new(text), &Language::Same, &Tokens::new(source));
                assert_eq!(is_wrong, code != source_code, "{code} for {source_code}");
            }
        }
    }

    #[test]
    fn doubtful_texts_are_not_flagged() {
        let check = |text: &str, language: &str| {
            let language = Language::parse(language).unwrap();
            let source = Tokens::new("Nintendo Switch");
            assert!(
                !wrong_language(&Tokens::new(text), &language, &source),
                "{text}"
            );
        };
        check("photosynthesis", "ja");
        check("iPhone 15 Pro Max 価格", "ja");
        check("Python 列表推导式", "zh");
        check("Restaurant Berlin Kreuzberg", "en");
        check("123 456 789", "ru");
        check(ENGLISH, "Klingon");
        check("東京都庁", "ja");
        check("", "de");
        // The source says nothing but its script.
        check(GERMAN, "same");
    }
}
