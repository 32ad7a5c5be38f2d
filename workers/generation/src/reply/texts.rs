//! Queries and passages of a reply.

use super::tree::{Found, Tree, candidates};
use super::{Reply, ReplyProblem, reply_flags, unreadable, without_json};
use crate::flags::Flags;
use crate::prompt::AskedTexts;
use crate::prompt::TextKind;
use crate::scale::Grade;
use crate::text::{normalize_passage, normalize_query};

/// A text that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Label asked for.
    pub label: String,
    /// Grade asked for.
    pub grade: i8,
    /// Which of several of the same label.
    pub index: u16,
    /// The text, normalised.
    pub text: String,
    /// What is noted about the reply that it comes from.
    pub flags: Flags,
}

/// What a reply holds of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parsed {
    /// Texts that are as asked, most relevant first.
    pub items: Vec<Item>,
    /// What is noted about the reply.
    pub flags: Flags,
    /// What is wrong with it, the first the most telling. The items are sound even if there are
    /// problems: whoever does not ask again may keep them.
    pub problems: Vec<ReplyProblem>,
}

impl Parsed {
    /// Whether all that was asked for is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.problems.is_empty()
    }

    fn failed(problem: ReplyProblem, flags: Flags) -> Self {
        Self {
            items: Vec::new(),
            flags,
            problems: vec![problem],
        }
    }
}

/// The queries or passages of a reply. They come as rows only if they are what was asked: known
/// label, not more of it than asked for, whole, not empty, not longer than asked for.
#[must_use]
pub fn parse_texts(reply: &Reply<'_>, asked: &AskedTexts) -> Parsed {
    if let Some(problem) = unreadable(reply) {
        return Parsed::failed(problem, reply_flags(reply, false, true));
    }
    let mut first = None;
    for found in candidates(reply.text) {
        let mut entries = Entries {
            asked,
            entries: Vec::new(),
            other_labels: Vec::new(),
        };
        entries.collect(&found.tree, None);
        if !entries.entries.is_empty() {
            return sort_out(reply, asked, &found, entries);
        }
        first.get_or_insert((found, entries));
    }
    match first {
        Some((found, entries)) => sort_out(reply, asked, &found, entries),
        None => Parsed::failed(without_json(reply), reply_flags(reply, false, false)),
    }
}

/// A text with the grade that the reply gives it.
#[derive(Debug)]
struct Entry {
    grade: i8,
    text: String,
    /// Characters as they were written, which the schema bounds: normalising may add some.
    n_chars: usize,
    is_whole: bool,
}

/// Looks for texts in whatever shape they come.
#[derive(Debug)]
struct Entries<'a> {
    asked: &'a AskedTexts,
    entries: Vec<Entry>,
    /// Labels that were not asked for.
    other_labels: Vec<String>,
}

/// Names of the member with the label.
pub(super) const LABEL_KEYS: [&str; 3] = ["label", "grade", "relevance"];

/// The member of one of some names, the first name first.
pub(super) fn member<'a>(
    members: &'a [(String, Tree)],
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a Tree> {
    names.into_iter().find_map(|name| {
        members
            .iter()
            .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
            .map(|(_, tree)| tree)
    })
}

/// What a label or a number is meant to say.
pub(super) fn written(tree: &Tree) -> Option<&str> {
    match tree {
        Tree::Text { value, .. } | Tree::Number(value) | Tree::Word(value) => Some(value),
        Tree::Array(_) | Tree::Object(_) => None,
    }
}

/// The grade that a label, or a number, means.
pub(super) fn resolve<'a>(scale: &'a crate::scale::Scale, written: &str) -> Option<&'a Grade> {
    scale
        .by_label(written)
        .or_else(|| scale.by_number(written.trim().parse().ok()?))
}

impl<'a> Entries<'a> {
    /// `hint`: grade that the keys around say.
    fn collect(&mut self, tree: &Tree, hint: Option<i8>) {
        match tree {
            Tree::Text { value, is_whole } => {
                if let Some(grade) = hint {
                    self.push(grade, value, *is_whole);
                }
            }
            Tree::Number(_) | Tree::Word(_) => {}
            Tree::Array(elements) => {
                elements
                    .iter()
                    .for_each(|element| self.collect(element, hint));
            }
            Tree::Object(members) => self.collect_object(members, hint),
        }
    }

    fn collect_object(&mut self, members: &[(String, Tree)], hint: Option<i8>) {
        let kind = self.asked.kind;
        let text_keys = std::iter::once(kind.key()).chain(kind.other_keys().iter().copied());
        if let Some(Tree::Text { value, is_whole }) = member(members, text_keys) {
            let label = member(members, LABEL_KEYS).and_then(written);
            let grade = match label {
                Some(label) => resolve(&self.asked.scale, label).map(|grade| grade.grade),
                None => hint,
            };
            match (grade, label) {
                (Some(grade), _) => self.push(grade, value, *is_whole),
                (None, Some(label)) => self.other_labels.push(label.to_owned()),
                (None, None) => {}
            }
            return;
        }
        for (key, value) in members {
            let by_key = resolve(&self.asked.scale, key).map(|grade| grade.grade);
            let grade = by_key.or_else(|| self.grade_of_slot(key)).or(hint);
            // A bare label outside of an entry is no text.
            let is_label = LABEL_KEYS
                .iter()
                .any(|name| key.trim().eq_ignore_ascii_case(name));
            if !is_label {
                self.collect(value, grade);
            }
        }
    }

    fn grade_of_slot(&self, key: &str) -> Option<i8> {
        let slots = (0..).zip(&self.asked.slots);
        slots
            .filter(|&(index, _)| self.asked.entry_key(index) == key.trim())
            .map(|(_, grade)| grade.grade)
            .next()
    }

    fn push(&mut self, grade: i8, text: &str, is_whole: bool) {
        if self.asked.grades().any(|asked| asked.grade == grade) {
            let n_chars = text.chars().count();
            let text = match self.asked.kind {
                TextKind::Query => normalize_query(text),
                TextKind::Passage => normalize_passage(text),
            };
            self.entries.push(Entry {
                grade,
                text,
                n_chars,
                is_whole,
            });
        } else if let Some(other) = self.asked.scale.by_number(grade) {
            self.other_labels.push(other.label.clone());
        }
    }
}

fn sort_out(reply: &Reply<'_>, asked: &AskedTexts, found: &Found, entries: Entries<'_>) -> Parsed {
    let conforms = !found.is_repaired && conforms(&found.tree, asked);
    let is_array = matches!(found.tree, Tree::Array(_));
    let flags = reply_flags(reply, found.is_repaired || is_array, conforms);
    let mut parsed = Parsed {
        flags,
        ..Parsed::default()
    };
    let is_cut = found.ends_in_string || reply.finish == super::Finish::Truncated;
    if entries.entries.is_empty() && !is_cut {
        let detail = match entries.other_labels.first() {
            Some(label) => not_asked(label, asked),
            None => format!("no entry has a label and a `{}`", asked.kind.key()),
        };
        parsed
            .problems
            .push(ReplyProblem::SchemaViolation { detail });
        return parsed;
    }
    if let Some(label) = entries.other_labels.first() {
        let detail = not_asked(label, asked);
        parsed
            .problems
            .push(ReplyProblem::SchemaViolation { detail });
    }
    let per_label = usize::from(asked.per_label);
    for grade in asked.grades() {
        let of_grade: Vec<&Entry> = entries
            .entries
            .iter()
            .filter(|entry| entry.grade == grade.grade)
            .collect();
        let label = grade.label.clone();
        let n_found = of_grade.len();
        if n_found > per_label {
            // Nobody can tell which of them is meant.
            let problem = ReplyProblem::GradeDoubled {
                label,
                found: n_found,
                asked: per_label,
            };
            parsed.problems.push(problem);
            continue;
        }
        let usable: Vec<&Entry> = of_grade
            .into_iter()
            .filter(|entry| entry.is_whole && !entry.text.is_empty())
            .collect();
        if usable.len() < per_label {
            let found = usable.len();
            parsed.problems.push(ReplyProblem::GradeMissing {
                label,
                found,
                asked: per_label,
            });
        }
        for (index, entry) in (0_u16..).zip(usable) {
            let n_chars = entry.n_chars;
            if n_chars > asked.chars_max {
                let detail = format!(
                    "the text of `{}` has {n_chars} characters, at most {} were asked for",
                    grade.label, asked.chars_max
                );
                parsed
                    .problems
                    .push(ReplyProblem::SchemaViolation { detail });
                continue;
            }
            parsed.items.push(Item {
                label: grade.label.clone(),
                grade: grade.grade,
                index,
                text: entry.text.clone(),
                flags,
            });
        }
    }
    // A model that fills the rest with white space reaches the limit with all there.
    if is_cut && !parsed.problems.is_empty() {
        parsed.problems.insert(0, ReplyProblem::Truncated);
    }
    parsed
}

fn not_asked(label: &str, asked: &AskedTexts) -> String {
    const SHOWN_CHARS: usize = 40;
    let label: String = label.chars().take(SHOWN_CHARS).collect();
    let labels: Vec<&str> = asked.grades().map(|grade| grade.label.as_str()).collect();
    format!(
        "label `{label}` was not asked for; expected {}",
        labels.join(", ")
    )
}

/// Whether a reply is of the schema, to the letter.
fn conforms(tree: &Tree, asked: &AskedTexts) -> bool {
    let Tree::Object(entries) = tree else {
        return false;
    };
    let is_entry = |key: &str, label: &str, tree: &Tree| match tree {
        Tree::Object(members) => {
            let is_label = |tree: &Tree| matches!(tree, Tree::Text { value, .. } if value == label);
            let is_text = |tree: &Tree| matches!(tree, Tree::Text { value, .. } if value.chars().count() <= asked.chars_max);
            members.len() == 2
                && members
                    .iter()
                    .any(|(name, tree)| name == "label" && is_label(tree))
                && members
                    .iter()
                    .any(|(name, tree)| name == key && is_text(tree))
        }
        _ => false,
    };
    entries.len() == asked.slots.len()
        && (0..).zip(&asked.slots).all(|(index, grade)| {
            let slot_key = asked.entry_key(index);
            let is_slot = |(key, tree): &(String, Tree)| {
                *key == slot_key && is_entry(asked.kind.key(), &grade.label, tree)
            };
            entries.iter().filter(|entry| is_slot(entry)).count() == 1
        })
}
