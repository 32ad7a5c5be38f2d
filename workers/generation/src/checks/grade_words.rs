//! Whether a text names the grade that was asked for, from which a trained model would learn to
//! look for the name.
//!
//! Labels of several words ("perfectly relevant") betray the task wherever they stand. Labels of
//! one word ("exact", "related") are words of any text: they count at the beginning as a heading
//! ("Exact: ..."), or after a word for grades.

use super::words::Tokens;
use crate::scale::Scale;

/// Runs of tokens that speak of relevance to a query.
const TALK_OF_RELEVANCE: &[&str] = &[
    "relevant to the query",
    "relevant to this query",
    "relevant to your query",
    "relevant to the search query",
    "irrelevant to the query",
    "relevance grade",
    "relevance score",
    "relevance label",
    "relevance level",
    "relevance rating",
    "graded relevance",
];

/// Words after which a label or number is a grade.
const GRADE_NOUNS: &[&str] = &["grade", "label", "relevance"];
/// What may stand between.
const LINKS: &[&str] = &["is", "of", "level"];
/// Tokens at the beginning within which "grade 3" is a heading; later on it may be a school's.
const HEADING_TOKENS: usize = 2;

/// Whether a text names a grade of `scale` or talks of relevance to a query.
#[must_use]
pub fn grade_word_leak(text: &str, scale: &Scale) -> bool {
    let tokens = Tokens::new(text);
    let tokens: Vec<&str> = tokens.iter().collect();
    let has_run = |run: &[&str]| tokens.windows(run.len()).any(|window| window == run);
    if TALK_OF_RELEVANCE
        .iter()
        .any(|talk| has_run(&talk.split(' ').collect::<Vec<_>>()))
    {
        return true;
    }
    scale.grades().iter().any(|grade| {
        // An underscore parts tokens, so labels become runs of words.
        let label = Tokens::new(&grade.label);
        let label: Vec<&str> = label.iter().collect();
        let number = grade.grade.to_string();
        if label.len() > 1 && has_run(&label) {
            return true;
        }
        let is_heading = tokens.starts_with(&label) && starts_as_heading(text, &label);
        is_heading
            || follows_noun(&tokens, &label, usize::MAX)
            || follows_noun(&tokens, &[&number], HEADING_TOKENS)
    })
}

/// Whether what ends the label at the beginning of a text is a colon, a bracket or the line.
fn starts_as_heading(text: &str, label: &[&str]) -> bool {
    let text = text.to_lowercase();
    let Some(last) = label.last() else {
        return false;
    };
    let Some(end) = text.find(last).map(|start| start + last.len()) else {
        return false;
    };
    let rest = text[end..].trim_start_matches([' ', '*', '_']);
    rest.starts_with([':', '：', ']', ')', '】', '\n', '-', '–', '—'])
}

/// Whether `value` stands after a word for grades that is among the first `n_tokens` tokens.
fn follows_noun(tokens: &[&str], value: &[&str], n_tokens: usize) -> bool {
    tokens
        .iter()
        .enumerate()
        .take(n_tokens)
        .any(|(index, token)| {
            let rest = &tokens[index + 1..];
            let rest = match rest.first() {
                Some(link) if LINKS.contains(link) => &rest[1..],
                _ => rest,
            };
            GRADE_NOUNS.contains(token) && !value.is_empty() && rest.starts_with(value)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale::Grade;

    fn check(scale: &Scale, text: &str, expected: bool) {
        assert_eq!(grade_word_leak(text, scale), expected, "{text}");
    }

    #[test]
    fn grades_of_the_built_in_scales() {
        let trec = Scale::trec();
        check(
            &trec,
            "This perfectly relevant text tells of volcanoes.",
            true,
        );
        check(&trec, "Highly-relevant: volcanoes", true);
        check(&trec, "highly_relevant", true);
        check(&trec, "Grade 3: Volcanoes form where plates part.", true);
        check(&trec, "Relevance level 0. Bread is baked.", true);
        check(&trec, "Irrelevant: bread is baked.", true);
        check(&trec, "[related] bread", true);
        check(&trec, "The label is irrelevant, they said.", true);
        check(&trec, "Nothing here is relevant to the query.", true);
        check(&trec, "It got a relevance score of two.", true);
        // Words of any text.
        check(
            &trec,
            "Volcanoes are related to plates; their colour is irrelevant.",
            false,
        );
        check(&trec, "Pupils of grade 3 learn about volcanoes.", false);
        check(&trec, "Steel of high grade, relevant laws.", false);
        check(&trec, "", false);
        let esci = Scale::esci();
        check(&esci, "exact change for the bus", false);
        check(&esci, "Exact: change for the bus", true);
        check(&esci, "label: substitute", true);
        check(&esci, "substitute for butter", false);
    }

    #[test]
    fn grades_of_a_scale_in_another_language() {
        let grade = |grade, label: &str| Grade {
            grade,
            label: label.to_owned(),
            definition: "...".to_owned(),
        };
        let chinese = Scale::new("zh", vec![grade(1, "完全相关"), grade(0, "不相关")]).unwrap();
        check(&chinese, "这段完全相关的文字讲火山。", true);
        check(&chinese, "这段文字讲火山。", false);
        let arabic = Scale::new("ar", vec![grade(1, "وثيق الصلة"), grade(0, "مختلف")]).unwrap();
        check(&arabic, "هذا نص وثيق الصلة", true);
        check(&arabic, "هذا نص عن البراكين", false);
    }
}
