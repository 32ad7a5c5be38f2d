//! What cuts come to in a shard: how many rows of each group each target takes there.
//!
//! Rows have a total order and a cut takes the first ones, so these numbers say which rows of a shard
//! are taken, whatever the cut is. A selection that is decided anew writes only those objects again
//! whose numbers are others. They are known before any row is read again: the histograms of the
//! shards, and the lists of their rows near the cut, are there already.

use std::collections::HashMap;

use gleaner_schemas::{Failure, Fingerprint};
use serde::{Deserialize, Serialize};

use super::groups::{ByGroup, Group, GroupMap};
use super::histogram::binaries;
use super::sort_key::{Cut, Hex};
use crate::batch_columns::{numbers, permanent, text_at, texts};
use crate::stage::ReduceInputs;

/// Effects of shards in their order, as one text: there may be a million.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Effects(pub(crate) Vec<Fingerprint>);

impl From<Effects> for String {
    fn from(effects: Effects) -> Self {
        effects.0.iter().map(ToString::to_string).collect()
    }
}

impl TryFrom<String> for Effects {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.as_bytes().chunks(Fingerprint::LENGTH);
        let effects = parts.map(|part| {
            let part = std::str::from_utf8(part).map_err(|error| error.to_string())?;
            part.parse::<Fingerprint>()
                .map_err(|error| error.to_string())
        });
        Ok(Self(effects.collect::<Result<_, _>>()?))
    }
}

/// The effect of the targets so far and of the next one, which takes so many rows of each group.
/// Groups are in their order, and each has some.
fn with_target(before: Option<&Fingerprint>, taken: &[(&Group, u64)]) -> Fingerprint {
    Fingerprint::of("effect of a selection", &(before, taken))
}

/// Counts what a task takes, to be compared with what it was planned to take.
#[derive(Debug)]
pub(crate) struct Taken(Vec<GroupMap<u64>>);

impl Taken {
    pub(crate) fn new(n_targets: usize) -> Self {
        Self((0..n_targets).map(|_| GroupMap::default()).collect())
    }

    pub(crate) fn add(&mut self, target_idx: usize, group: Option<&str>) {
        if let Some(groups) = self.0.get_mut(target_idx) {
            *groups.get_or_insert_with(group, || 0) += 1;
        }
    }

    pub(crate) fn effect(self) -> Option<Fingerprint> {
        let mut effect = None;
        for groups in self.0 {
            let taken = groups.into_sorted();
            let taken: Vec<(&Group, u64)> = taken.iter().map(|(group, n)| (group, *n)).collect();
            effect = Some(with_target(effect.as_ref(), &taken));
        }
        effect
    }
}

/// A map whose objects tell of the rows of each shard that were in question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Level {
    pub(crate) phase: String,
    /// What the keys in question began with, by group. Absent: all were.
    pub(crate) prefixes: Option<ByGroup<Hex>>,
    /// Whether it lists rows rather than counting them.
    pub(crate) is_list: bool,
}

/// Parameters of the reduce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EffectParams {
    /// Of the targets before.
    pub(crate) before: Option<Effects>,
    /// Of this target.
    pub(crate) cuts: ByGroup<Cut>,
    /// The maps by which they were found, from the widest on.
    pub(crate) levels: Vec<Level>,
}

/// The effect of the cuts on each shard.
pub(crate) fn effects(
    params: EffectParams,
    inputs: &mut dyn ReduceInputs,
) -> Result<Effects, Failure> {
    let EffectParams {
        before,
        cuts,
        levels,
    } = params;
    let prefixes: Vec<GroupMap<Hex>> = levels
        .iter()
        .map(|level| level.prefixes.clone().unwrap_or_default().into())
        .collect();
    let mut sums = Sums::new(cuts);
    for (idx, level) in levels.iter().enumerate() {
        sums.resize(inputs.objects(&level.phase)?.len())?;
        let deeper = prefixes.get(idx + 1);
        inputs.for_each_of_object(&level.phase, &mut |object, batch| {
            let groups = texts(&batch, "group")?;
            if level.is_list {
                let keys = binaries(&batch, "key")?;
                for row in 0..batch.num_rows() {
                    let key = keys.value(row);
                    sums.add(object, text_at(&groups, row), 1, key, key)?;
                }
                return Ok(());
            }
            let n_rows = numbers(&batch, "n_rows")?;
            let first = binaries(&batch, "first_key")?;
            let last = binaries(&batch, "last_key")?;
            for row in 0..batch.num_rows() {
                let group = text_at(&groups, row);
                let is_told_deeper = deeper
                    .and_then(|prefixes| prefixes.get(group))
                    .is_some_and(|prefix| first.value(row).starts_with(&prefix.0));
                if !is_told_deeper {
                    let (first, last) = (first.value(row), last.value(row));
                    sums.add(object, group, n_rows.value(row), first, last)?;
                }
            }
            Ok(())
        })?;
    }
    let n_shards = sums.taken.len();
    let before = match before {
        None => None,
        Some(before) if before.0.len() == n_shards => Some(before.0),
        Some(before) => return Err(other_number(before.0.len(), n_shards)),
    };
    Ok(sums.into_effects(before.as_deref()))
}

fn other_number(expected: usize, found: usize) -> Failure {
    permanent(format!(
        "the scores were counted in {expected} objects and then in {found}"
    ))
}

/// Rows that are taken of each group, by shard.
struct Sums {
    cuts: GroupMap<Cut>,
    /// Groups by their numbers.
    groups: Vec<Group>,
    numbers: HashMap<Group, u32>,
    taken: Vec<Vec<(u32, u64)>>,
}

impl Sums {
    fn new(cuts: ByGroup<Cut>) -> Self {
        Self {
            cuts: cuts.into(),
            groups: Vec::new(),
            numbers: HashMap::new(),
            taken: Vec::new(),
        }
    }

    fn resize(&mut self, n_shards: usize) -> Result<(), Failure> {
        match self.taken.len() {
            0 => self.taken.resize_with(n_shards, Vec::new),
            n if n != n_shards => return Err(other_number(n, n_shards)),
            _ => {}
        }
        Ok(())
    }

    /// Adds the rows from `first` to `last`, of which the cut takes all or none.
    fn add(
        &mut self,
        shard: usize,
        group: Option<&str>,
        n_rows: u64,
        first: &[u8],
        last: &[u8],
    ) -> Result<(), Failure> {
        let Some(cut) = self.cuts.get(group) else {
            return Ok(());
        };
        match (cut.takes(first), cut.takes(last)) {
            (false, false) => return Ok(()),
            (true, true) => {}
            _ => {
                return Err(permanent(
                    "a selection ends among rows that were not told apart",
                ));
            }
        }
        let group = group.map(str::to_owned);
        let number = match self.numbers.get(&group) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
                self.groups.push(group.clone());
                self.numbers.insert(group, number);
                number
            }
        };
        let Some(taken) = self.taken.get_mut(shard) else {
            return Err(other_number(self.taken.len(), shard + 1));
        };
        match taken.iter_mut().find(|(known, _)| *known == number) {
            Some((_, n)) => *n += n_rows,
            None => taken.push((number, n_rows)),
        }
        Ok(())
    }

    fn into_effects(self, before: Option<&[Fingerprint]>) -> Effects {
        let groups = &self.groups;
        let effect = |(shard, taken): (usize, Vec<(u32, u64)>)| {
            let named = taken.into_iter().filter(|(_, n)| *n > 0);
            let mut taken: Vec<(&Group, u64)> = named
                .map(|(number, n)| (&groups[number as usize], n))
                .collect();
            taken.sort_unstable();
            with_target(before.map(|before| &before[shard]), &taken)
        };
        Effects(self.taken.into_iter().enumerate().map(effect).collect())
    }
}

#[cfg(test)]
mod tests;
