//! Where input rows end up.

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// Row counts by lane: `rows_in = ok + ineligible + rejected + failed` (invariant 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lanes {
    /// Rows read that belong to the input (rows excluded by `where` do not).
    pub rows_in: u64,
    /// Rows with a result.
    pub ok: u64,
    /// Rows that the method leaves out by its own rule (too short, not selected).
    pub ineligible: u64,
    /// Rows that cannot be processed, each with its reason.
    pub rejected: u64,
    /// Rows of tasks that were quarantined.
    pub failed: u64,
    /// Rows that the `where` predicate excluded; not part of `rows_in`.
    #[serde(default)]
    pub excluded: u64,
}

impl Lanes {
    /// Whether every row is in exactly one lane.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.rows_in == self.ok + self.ineligible + self.rejected + self.failed
    }
}

impl Add for Lanes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rows_in: self.rows_in + other.rows_in,
            ok: self.ok + other.ok,
            ineligible: self.ineligible + other.ineligible,
            rejected: self.rejected + other.rejected,
            failed: self.failed + other.failed,
            excluded: self.excluded + other.excluded,
        }
    }
}

impl AddAssign for Lanes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Lanes {
    fn sum<I: Iterator<Item = Self>>(lanes: I) -> Self {
        lanes.fold(Self::default(), Add::add)
    }
}
