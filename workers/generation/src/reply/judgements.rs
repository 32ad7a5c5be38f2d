//! Grades of a judge's reply.

use super::texts::{LABEL_KEYS, member, resolve, written};
use super::tree::{Tree, candidates};
use super::{Finish, Reply, ReplyProblem, reply_flags, unreadable, without_json};
use crate::flags::Flags;
use crate::prompt::AskedJudgements;

/// What a judge said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedJudgements {
    /// The grade of each pair, in the order of the request's pairs; none where the reply has none
    /// that could be read, or two that differ.
    pub grades: Vec<Option<i8>>,
    /// What is noted about the reply.
    pub flags: Flags,
    /// What is wrong with it, the first the most telling.
    pub problems: Vec<ReplyProblem>,
}

/// The grades of a judge's reply.
#[must_use]
pub fn parse_judgements(reply: &Reply<'_>, asked: &AskedJudgements) -> ParsedJudgements {
    let failed = |problem, flags| ParsedJudgements {
        grades: vec![None; asked.order.len()],
        flags,
        problems: vec![problem],
    };
    if let Some(problem) = unreadable(reply) {
        return failed(problem, reply_flags(reply, false, true));
    }
    // The most verdicts win: prose may hold something in brackets before the reply.
    let mut best = None;
    let mut n_most = 0;
    for found in candidates(reply.text) {
        let verdicts = Verdicts::collect(&found.tree, asked);
        let n_verdicts = verdicts.of_place.iter().map(Vec::len).sum();
        if best.is_none() || n_verdicts > n_most {
            n_most = n_verdicts;
            best = Some((found, verdicts));
        }
    }
    let Some((found, verdicts)) = best else {
        return failed(without_json(reply), reply_flags(reply, false, false));
    };
    let conforms = !found.is_repaired && verdicts.conform && n_most == asked.order.len();
    let is_array = matches!(found.tree, Tree::Array(_));
    let flags = reply_flags(reply, found.is_repaired || is_array, conforms);
    let mut parsed = ParsedJudgements {
        grades: vec![None; asked.order.len()],
        flags,
        problems: Vec::new(),
    };
    if let Some(detail) = verdicts.unknown {
        parsed
            .problems
            .push(ReplyProblem::SchemaViolation { detail });
    }
    for (place, (&index, given)) in asked.order.iter().zip(&verdicts.of_place).enumerate() {
        let label = asked.entry_key(place);
        match given.as_slice() {
            [] => parsed.problems.push(ReplyProblem::GradeMissing {
                label,
                found: 0,
                asked: 1,
            }),
            [first, others @ ..] if others.iter().all(|other| other == first) => {
                parsed.grades[index] = Some(*first);
            }
            _ => parsed.problems.push(ReplyProblem::GradeDoubled {
                label,
                found: given.len(),
                asked: 1,
            }),
        }
    }
    let is_cut = found.ends_in_string || reply.finish == Finish::Truncated;
    if is_cut && !parsed.problems.is_empty() {
        parsed.problems.insert(0, ReplyProblem::Truncated);
    }
    parsed
}

/// What was said of the pair at each place of the prompt.
#[derive(Debug)]
struct Verdicts {
    of_place: Vec<Vec<i8>>,
    /// Whether each verdict stands where the schema wants it.
    conform: bool,
    /// A label of no grade.
    unknown: Option<String>,
}

impl Verdicts {
    fn collect(tree: &Tree, asked: &AskedJudgements) -> Self {
        let mut verdicts = Self {
            of_place: vec![Vec::new(); asked.order.len()],
            conform: true,
            unknown: None,
        };
        verdicts.take_all(tree, asked, true);
        verdicts
    }

    /// `is_outermost`: one thing around all verdicts is looked into, not more.
    fn take_all(&mut self, tree: &Tree, asked: &AskedJudgements, is_outermost: bool) {
        let n_pairs = asked.order.len();
        match tree {
            // One pair, and the verdict without the pair around it.
            Tree::Object(members) if n_pairs == 1 && member(members, LABEL_KEYS).is_some() => {
                self.conform = false;
                self.take(0, tree, asked);
            }
            Tree::Object(members) => {
                for (key, value) in members {
                    match (0..n_pairs).find(|&place| asked.entry_key(place) == key.trim()) {
                        Some(place) => self.take(place, value, asked),
                        None => self.conform = false,
                    }
                }
                let is_without = self.of_place.iter().all(Vec::is_empty);
                if let [(_, inner @ (Tree::Object(_) | Tree::Array(_)))] = members.as_slice()
                    && is_outermost
                    && is_without
                {
                    self.take_all(inner, asked, false);
                }
            }
            Tree::Array(elements) => {
                self.conform = false;
                // Without keys, places count; a list of another length says nothing.
                if elements.len() == n_pairs {
                    for (place, element) in elements.iter().enumerate() {
                        self.take(place, element, asked);
                    }
                }
            }
            Tree::Text { .. } | Tree::Number(_) | Tree::Word(_) => self.conform = false,
        }
    }

    fn take(&mut self, place: usize, value: &Tree, asked: &AskedJudgements) {
        let label = match value {
            Tree::Object(members) => {
                self.conform &= members.len() == 1 && members[0].0 == LABEL_KEYS[0];
                member(members, LABEL_KEYS).and_then(written)
            }
            other => {
                self.conform = false;
                written(other)
            }
        };
        match label.map(|label| (label, resolve(&asked.scale, label))) {
            Some((label, Some(grade))) => {
                self.conform &= label == grade.label;
                self.of_place[place].push(grade.grade);
            }
            Some((label, None)) => {
                self.conform = false;
                let shown: String = label.chars().take(super::BEGINNING_CHARS).collect();
                self.unknown
                    .get_or_insert(format!("`{shown}` is no label of the scale"));
            }
            None => self.conform = false,
        }
    }
}
