//! Groups of rows: a quota, a histogram, a cut for each.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// A group of rows with a quota of its own: the value of the column, if rows are grouped and
/// have one.
pub(crate) type Group = Option<String>;

/// A value for each group, as a list of pairs: JSON has no null keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ByGroup<T>(pub(crate) Vec<(Group, T)>);

impl<T> Default for ByGroup<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> FromIterator<(Group, T)> for ByGroup<T> {
    fn from_iter<I: IntoIterator<Item = (Group, T)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

/// [`ByGroup`] for lookups of each row.
#[derive(Debug)]
pub(crate) struct GroupMap<T> {
    none: Option<T>,
    named: HashMap<String, T>,
}

impl<T> GroupMap<T> {
    pub(crate) fn get(&self, group: Option<&str>) -> Option<&T> {
        match group {
            None => self.none.as_ref(),
            Some(name) => self.named.get(name),
        }
    }

    pub(crate) fn get_or_insert_with(
        &mut self,
        group: Option<&str>,
        new: impl FnOnce() -> T,
    ) -> &mut T {
        match group {
            None => self.none.get_or_insert_with(new),
            Some(name) => self.named.entry(name.to_owned()).or_insert_with(new),
        }
    }

    /// Number of groups.
    pub(crate) fn len(&self) -> usize {
        self.named.len() + usize::from(self.none.is_some())
    }

    /// In the order of the groups, so that results do not depend on hashes.
    pub(crate) fn into_sorted(self) -> Vec<(Group, T)> {
        let named: BTreeMap<String, T> = self.named.into_iter().collect();
        let none = self.none.map(|value| (None, value));
        let named = named.into_iter().map(|(name, value)| (Some(name), value));
        none.into_iter().chain(named).collect()
    }
}

impl<T> Default for GroupMap<T> {
    fn default() -> Self {
        Self {
            none: None,
            named: HashMap::new(),
        }
    }
}

impl<T> From<ByGroup<T>> for GroupMap<T> {
    fn from(entries: ByGroup<T>) -> Self {
        let mut map = Self::default();
        for (group, value) in entries.0 {
            match group {
                None => map.none = Some(value),
                Some(name) => {
                    map.named.insert(name, value);
                }
            }
        }
        map
    }
}
