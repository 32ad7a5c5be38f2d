//! Whether a model talks about its task instead of doing it: "Here is a passage ...", "As an AI
//! ...". Phrases are known in English, German, French, Spanish, Italian, Portuguese, Dutch, Russian,
//! Arabic, Chinese, Japanese and Korean; other languages pass.

/// What opens a text, and what must be named soon after, so that "Here is where the river ends"
/// passes.
const OPENINGS: &[(&[&str], &[&str])] = &[
    (
        &[
            "here is",
            "here's",
            "here are",
            "below is",
            "below are",
            "the following is",
            "the following are",
        ],
        &[
            "passage",
            "passages",
            "query",
            "queries",
            "paragraph",
            "document",
            "text",
            "json",
        ],
    ),
    (
        &["hier ist", "hier sind", "nachfolgend", "im folgenden"],
        &[
            "passage",
            "text",
            "textpassage",
            "abschnitt",
            "absatz",
            "suchanfrage",
            "suchanfragen",
            "anfrage",
        ],
    ),
    (
        &["voici", "ci-dessous"],
        &[
            "passage",
            "texte",
            "requête",
            "requêtes",
            "paragraphe",
            "extrait",
        ],
    ),
    (
        &["aquí está", "aquí tienes", "aquí hay", "a continuación"],
        &[
            "pasaje",
            "texto",
            "consulta",
            "consultas",
            "párrafo",
            "fragmento",
        ],
    ),
    (
        &["ecco", "di seguito"],
        &["passaggio", "testo", "query", "brano", "paragrafo"],
    ),
    (
        &["aqui está", "aqui estão", "aqui vai", "segue"],
        &["passagem", "texto", "consulta", "consultas", "parágrafo"],
    ),
    (
        &["hier is", "hier zijn", "hieronder"],
        &["passage", "tekst", "zoekopdracht", "alinea"],
    ),
    (
        &["вот", "ниже"],
        &["отрывок", "текст", "запрос", "запросы", "абзац"],
    ),
    (
        &["إليك", "فيما يلي", "هذا هو"],
        &["نص", "النص", "فقرة", "الفقرة", "استعلام", "المقطع", "مقطع"],
    ),
    (
        &["以下是", "这是一", "下面是", "以下為"],
        &["段落", "查询", "查詢", "文本", "文章", "文档"],
    ),
    (
        &["以下は", "以下に", "こちらが", "これは"],
        &["文章", "クエリ", "パッセージ", "テキスト", "段落"],
    ),
    (
        &["다음은", "아래는"],
        &["구절", "질의", "문단", "쿼리", "검색어", "지문"],
    ),
];
/// Characters after the opening within which the thing must be named.
const NAMED_WITHIN_CHARS: usize = 40;

/// What opens an answer to a person.
const ACKNOWLEDGEMENTS: &[&str] = &[
    "sure!",
    "sure, here",
    "sure: here",
    "certainly!",
    "certainly, here",
    "of course!",
    "of course, here",
    "absolutely!",
    "natürlich!",
    "natürlich, hier",
    "gerne!",
    "bien sûr !",
    "bien sûr!",
    "bien sûr, voici",
    "¡claro!",
    "claro, aquí",
    "¡por supuesto!",
    "certo!",
    "claro!",
    "конечно!",
    "конечно, вот",
    "بالتأكيد!",
    "بالطبع!",
    "当然可以",
    "好的，以下",
    "もちろんです",
    "承知しました",
    "かしこまりました",
    "물론입니다",
    "네, 다음은",
];

/// What betrays the task wherever it stands.
const ANYWHERE: &[&str] = &[
    "as an ai language model",
    "as an ai assistant",
    "as a language model",
    "as an ai, i",
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i cannot fulfill",
    "i can't fulfill",
    "this passage is relevant",
    "this passage is not relevant",
    "this passage does not answer",
    "this passage answers",
    "this document is relevant",
    "this document is not relevant",
    "the passage above",
    "the above passage",
    "the given query",
    "the given document",
    "the provided document",
    "the provided query",
    "the user's query",
    "the search query asks",
    "(word count",
    "word count:",
    "let me know if you would like me to",
    "let me know if you need any changes",
    "als ki-sprachmodell",
    "als sprachmodell",
    "en tant que modèle de langage",
    "en tant qu'ia",
    "como modelo de lenguaje",
    "como modelo de linguagem",
    "come modello linguistico",
    "als ai-taalmodel",
    "как языковая модель",
    "باعتباري نموذج",
    "كنموذج لغوي",
    "作为一个ai",
    "作为ai",
    "作为人工智能",
    "作为一个人工智能",
    "aiとして",
    "ai言語モデル",
    "ai 언어 모델",
    "ai로서",
];

/// Whether a text talks about the task.
#[must_use]
pub fn meta_talk(text: &str) -> bool {
    let lower = text.to_lowercase().replace('’', "'");
    // Quotes, stars and brackets before the first word do not count, inverted marks do.
    let start = lower.trim_start_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '¡' | '¿'));
    ACKNOWLEDGEMENTS.iter().any(|phrase| starts_with_phrase(start, phrase))
        || ANYWHERE.iter().any(|phrase| has_phrase(&lower, phrase))
        || opens(start)
        // "Sure, here is a query" has an opening behind the acknowledgement.
        || lower.split_once(',').is_some_and(|(before, after)| {
            before.chars().count() <= ACKNOWLEDGEMENT_CHARS_MAX && opens(after.trim_start())
        })
}

/// Longest word before a comma that an opening may follow.
const ACKNOWLEDGEMENT_CHARS_MAX: usize = 12;

fn opens(start: &str) -> bool {
    OPENINGS.iter().any(|(openings, things)| {
        openings
            .iter()
            .filter(|opening| starts_with_phrase(start, opening))
            .any(|opening| {
                let rest = &start[opening.len()..];
                let end = rest
                    .char_indices()
                    .nth(NAMED_WITHIN_CHARS)
                    .map_or(rest.len(), |(end, _)| end);
                things.iter().any(|thing| has_phrase(&rest[..end], thing))
            })
    })
}

fn starts_with_phrase(text: &str, phrase: &str) -> bool {
    text.strip_prefix(phrase)
        .is_some_and(|rest| ends_word(phrase, rest))
}

fn has_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let starts_word = !is_spaced(phrase.chars().next()) || !is_spaced(before);
        starts_word && ends_word(phrase, &text[at + phrase.len()..])
    })
}

/// Whether a phrase ends where a word does; scripts without spaces have no such places.
fn ends_word(phrase: &str, rest: &str) -> bool {
    !is_spaced(phrase.chars().next_back()) || !is_spaced(rest.chars().next())
}

/// Whether a character is part of a word of a script that puts spaces between words. Endings are
/// glued to words in Korean, so that it is treated like one without.
fn is_spaced(c: Option<char>) -> bool {
    use unicode_script::{Script, UnicodeScript};
    c.is_some_and(|c| {
        c.is_alphanumeric()
            && !matches!(
                c.script(),
                Script::Han | Script::Hiragana | Script::Katakana | Script::Hangul
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talk_about_the_task_is_found() {
        for text in [
            "Here is a passage about volcanoes: ...",
            "Here’s the query:",
            "**Here are four queries**",
            "Sure, here is a short text on bread.",
            "Sure! Volcanoes form ...",
            "As an AI language model, I cannot",
            "Volcanoes form. This passage is relevant because it says how.",
            "Volcanoes form. (Word count: 104)",
            "Hier ist eine Passage über Vulkane",
            "Voici un passage sur les volcans",
            "Aquí tienes un pasaje sobre los volcanes",
            "Ecco un testo sui vulcani",
            "Aqui está uma passagem sobre vulcões",
            "Hier is een tekst over vulkanen",
            "Вот отрывок о вулканах",
            "إليك نص عن البراكين",
            "以下是一段关于火山的段落：",
            "作为一个AI语言模型，我不能",
            "以下は火山についての文章です。",
            "다음은 화산에 대한 구절입니다.",
        ] {
            assert!(meta_talk(text), "{text}");
        }
    }

    #[test]
    fn texts_that_only_sound_like_it_pass() {
        for text in [
            "Here is where the river meets the sea.",
            "Here are the Alps at their highest.",
            "Sure signs of spring",
            "Of course the earth is round.",
            "Certainly the oldest bridge of the town",
            "the passage of time in ancient Rome",
            "how to write a SQL query",
            "An airport has a passage below its tarmac.",
            "Hier ist es im Sommer sehr heiß.",
            "Voici comment les volcans se forment.",
            "Вот почему вулканы извергаются.",
            "以下是火山形成的三个原因。",
            "これは火山の写真だ。",
            "البراكين تتكون عند حدود الصفائح",
            "",
        ] {
            assert!(!meta_talk(text), "{text}");
        }
    }
}
