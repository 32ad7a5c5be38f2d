//! Several prompts for the same thing, each item with one of them.

use super::template::Prompt;
use crate::draw;

/// Most prompts of an ensemble.
const MEMBERS_MAX: usize = 64;

/// Prompts with weights.
#[derive(Debug, Clone)]
pub struct Ensemble {
    members: Vec<(Prompt, f64)>,
}

/// Why prompts are no ensemble.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EnsembleError {
    /// None, or too many.
    #[error("an ensemble has 1 to {MEMBERS_MAX} prompts, found {found}")]
    NumberOfMembers {
        /// How many there are.
        found: usize,
    },
    /// A weight that is none.
    #[error("the weight of prompt `{prompt}` is {weight}, expected a finite number above 0")]
    Weight {
        /// Name of the prompt.
        prompt: String,
        /// Its weight.
        weight: f64,
    },
    /// The same prompt twice.
    #[error("prompt `{prompt_id}` stands twice in the ensemble: give it one weight")]
    Twice {
        /// Its id.
        prompt_id: String,
    },
    /// Prompts for different things.
    #[error("prompt `{prompt}` is for {found}, the first one of the ensemble for {expected}")]
    Kinds {
        /// Name of the prompt.
        prompt: String,
        /// What it is for.
        found: &'static str,
        /// What the first one is for.
        expected: &'static str,
    },
}

impl Ensemble {
    /// Prompts of one kind with their weights: shares of the items, relative to each other.
    pub fn new(members: Vec<(Prompt, f64)>) -> Result<Self, EnsembleError> {
        let found = members.len();
        let Some((first, _)) = members.first().filter(|_| found <= MEMBERS_MAX) else {
            return Err(EnsembleError::NumberOfMembers { found });
        };
        for (index, (prompt, weight)) in members.iter().enumerate() {
            if !(weight.is_finite() && *weight > 0.0) {
                let prompt = prompt.name().to_owned();
                return Err(EnsembleError::Weight {
                    prompt,
                    weight: *weight,
                });
            }
            if prompt.kind() != first.kind() {
                return Err(EnsembleError::Kinds {
                    prompt: prompt.name().to_owned(),
                    found: prompt.kind().as_str(),
                    expected: first.kind().as_str(),
                });
            }
            if members[..index]
                .iter()
                .any(|(other, _)| other.id() == prompt.id())
            {
                return Err(EnsembleError::Twice {
                    prompt_id: prompt.id().to_owned(),
                });
            }
        }
        Ok(Self { members })
    }

    /// The prompts with their weights.
    #[must_use]
    pub fn members(&self) -> &[(Prompt, f64)] {
        &self.members
    }

    /// The prompt of an item: a pure function of (seed, item id), whatever the order of members.
    ///
    /// Each member draws an exponential variable with its weight as the rate, the smallest wins:
    /// with the probability of its weight's share. A new member takes items over and leaves all
    /// others where they were.
    #[must_use]
    pub fn choose(&self, seed: u64, item_id: &str) -> &Prompt {
        let key = |(prompt, weight): &(Prompt, f64)| {
            -draw::unit(&format!("prompt/{}", prompt.id()), seed, item_id).ln() / weight
        };
        let mut chosen = &self.members[0];
        let mut smallest = key(chosen);
        for member in &self.members[1..] {
            let key = key(member);
            let is_smaller = key < smallest || (key == smallest && member.0.id() < chosen.0.id());
            if is_smaller {
                (chosen, smallest) = (member, key);
            }
        }
        &chosen.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::{PromptKind, built_in_prompts};

    fn shares(ensemble: &Ensemble, n_items: usize) -> Vec<f64> {
        let mut counts = vec![0_usize; ensemble.members().len()];
        for item in 0..n_items {
            let chosen = ensemble.choose(7, &format!("doc-{item}"));
            let is_chosen = |(prompt, _): &(Prompt, f64)| prompt.id() == chosen.id();
            counts[ensemble.members().iter().position(is_chosen).unwrap()] += 1;
        }
        counts
            .into_iter()
            .map(|count| count as f64 / n_items as f64)
            .collect()
    }

    fn members(weights: [f64; 2]) -> Vec<(Prompt, f64)> {
        built_in_prompts(PromptKind::QueriesJoint)
            .into_iter()
            .zip(weights)
            .collect()
    }

    #[test]
    fn weights_are_shares_of_items() {
        let shares = shares(&Ensemble::new(members([3.0, 1.0])).unwrap(), 4_000);
        // Six standard deviations: 0.041.
        assert!((shares[0] - 0.75).abs() < 0.041, "{shares:?}");
    }

    #[test]
    fn the_order_of_members_does_not_count() {
        let forward = Ensemble::new(members([2.0, 1.0])).unwrap();
        let mut reversed = members([2.0, 1.0]);
        reversed.reverse();
        let backward = Ensemble::new(reversed).unwrap();
        for item in 0..100 {
            let item_id = format!("doc-{item}");
            assert_eq!(
                forward.choose(7, &item_id).id(),
                backward.choose(7, &item_id).id()
            );
        }
    }

    #[test]
    fn ensembles_without_sense_are_refused() {
        let check = |members: Vec<(Prompt, f64)>, expected: &str| {
            let error = Ensemble::new(members).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(vec![], "found 0");
        check(
            members([0.0, 1.0]),
            "is 0, expected a finite number above 0",
        );
        check(members([f64::NAN, 1.0]), "is NaN");
        let twice = vec![members([1.0, 1.0]).remove(0), members([1.0, 1.0]).remove(0)];
        check(twice, "stands twice");
        let judge = built_in_prompts(PromptKind::Judge).remove(0);
        let mixed = vec![members([1.0, 1.0]).remove(0), (judge, 1.0)];
        check(
            mixed,
            "is for judge, the first one of the ensemble for queries_joint",
        );
    }
}
