//! What the rows of a table come to: sums that add up over objects, and can be taken away again.
//!
//! They are whole numbers, so that a sum does not depend on the order in which objects are added, nor
//! on whether it was counted anew or carried from version to version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::lanes::Lanes;

/// Values are counted in millionths.
const UNIT: f64 = 1e6;

/// Sums over the values of a column that are numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSums {
    /// Values.
    pub n: u64,
    /// Their sum, in millionths.
    #[serde(with = "decimal")]
    pub sum: i128,
    /// The sum of their squares, in millionths of millionths.
    #[serde(with = "decimal")]
    pub squares: i128,
}

impl ColumnSums {
    /// Adds a value. What is no number is left out.
    pub fn add_value(&mut self, value: f64) {
        let scaled = (value * UNIT).round();
        // What is beyond this is no figure that anybody compares.
        const SCALED_MAX: f64 = 1e15;
        if !scaled.is_finite() {
            return;
        }
        // Within the range of an `i128`, as it was just made sure.
        let scaled = scaled.clamp(-SCALED_MAX, SCALED_MAX) as i128;
        self.n += 1;
        self.sum = self.sum.saturating_add(scaled);
        self.squares = self.squares.saturating_add(scaled * scaled);
    }

    /// The mean, if there is a value.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum as f64 / UNIT / self.n as f64)
    }

    /// The standard deviation, if there is a value.
    #[must_use]
    pub fn deviation(&self) -> Option<f64> {
        let mean = self.mean()?;
        let square = self.squares as f64 / (UNIT * UNIT) / self.n as f64;
        Some((square - mean * mean).max(0.0).sqrt())
    }

    fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            n: self.n.checked_add(other.n)?,
            sum: self.sum.checked_add(other.sum)?,
            squares: self.squares.checked_add(other.squares)?,
        })
    }

    fn minus(self, other: Self) -> Option<Self> {
        Some(Self {
            n: self.n.checked_sub(other.n)?,
            sum: self.sum.checked_sub(other.sum)?,
            squares: self.squares.checked_sub(other.squares)?,
        })
    }

    /// Adds others, or takes them away; `false` if they cannot have been among these.
    #[must_use]
    pub fn apply(&mut self, other: Self, is_added: bool) -> bool {
        let applied = if is_added {
            self.plus(other)
        } else {
            self.minus(other)
        };
        applied.inspect(|sums| *self = *sums).is_some()
    }

    /// Nothing is left of columns that were in no row.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `i128` is no number that JSON is sure to keep.
mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// What the rows of an object, or of a table, come to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Rows.
    pub rows: u64,
    /// Rows without a value, by column; columns that always have one are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nulls: BTreeMap<String, u64>,
    /// Sums of the columns that hold numbers to compare, and of the bytes of texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sums: BTreeMap<String, ColumnSums>,
    /// Rows by their source, where there is a column for it. [`Figures::OTHER`] stands for those
    /// that one object has too many of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, u64>,
}

impl Figures {
    /// Sources that one object tells apart.
    pub const SOURCES_MAX: usize = 256;
    /// All further sources.
    pub const OTHER: &str = "(other)";
    /// Rows without a source.
    pub const NONE: &str = "(none)";

    /// Adds those of an object, or takes them away; `false` if they cannot have been among these,
    /// and then these are no longer of use.
    #[must_use]
    pub fn apply(&mut self, other: &Self, is_added: bool) -> bool {
        let count = |mine: &mut u64, theirs: u64| {
            let applied = if is_added {
                mine.checked_add(theirs)
            } else {
                mine.checked_sub(theirs)
            };
            applied.inspect(|sum| *mine = *sum).is_some()
        };
        let mut is_good = count(&mut self.rows, other.rows);
        for (mine, theirs) in [
            (&mut self.nulls, &other.nulls),
            (&mut self.sources, &other.sources),
        ] {
            for (name, n) in theirs {
                is_good &= count(mine.entry(name.clone()).or_default(), *n);
            }
            mine.retain(|_, n| *n > 0);
        }
        for (column, sums) in &other.sums {
            let mine = self.sums.entry(column.clone()).or_default();
            is_good &= mine.apply(*sums, is_added);
        }
        self.sums.retain(|_, sums| !sums.is_empty());
        is_good
    }
}

/// What a guardrail looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Files of the corpus.
    CorpusFiles,
    /// Rows of a stage's table.
    Rows,
    /// Share of a stage's input rows that were rejected.
    RejectedShare,
    /// Share of a table's rows without a value in a column.
    NullShare,
    /// Mean length of the texts behind a table's rows.
    MeanLength,
    /// Mean of a column of scores.
    MeanScore,
    /// A source's share of a table's rows.
    SourceShare,
    /// How far today's n-grams are from those that the model was fitted on: Kullback-Leibler
    /// divergence in nats.
    DriftKl,
    /// Share of today's n-grams that the model never saw.
    DriftUnseen,
    /// How far today's scores are from those when the model was fitted, in standard deviations.
    DriftScore,
}

impl Figure {
    /// The name, as stored and as shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CorpusFiles => "corpus_files",
            Self::Rows => "rows",
            Self::RejectedShare => "rejected_share",
            Self::NullShare => "null_share",
            Self::MeanLength => "mean_length",
            Self::MeanScore => "mean_score",
            Self::SourceShare => "source_share",
            Self::DriftKl => "drift_kl",
            Self::DriftUnseen => "drift_unseen",
            Self::DriftScore => "drift_score",
        }
    }
}

/// What crossing a bound means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Beyond {
    /// The user is told.
    Warn,
    /// Nothing is published.
    Stop,
}

/// A figure of a version beside that of the version before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The stage; absent where the whole job is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What was looked at.
    pub figure: Figure,
    /// The column or the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// What the last version had; of a drift, what the model was fitted on.
    pub before: Option<f64>,
    /// What it is now.
    pub now: Option<f64>,
    /// The least that is let pass, if there is such a bound.
    pub least: Option<f64>,
    /// The most that is let pass, if there is such a bound.
    pub most: Option<f64>,
    /// What crossing means.
    pub beyond: Beyond,
    /// Whether it is crossed.
    pub is_crossed: bool,
}

impl Check {
    /// Whether the publication must not be.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.is_crossed && self.beyond == Beyond::Stop
    }
}

/// The share of input rows that were rejected.
#[must_use]
pub fn rejected_share(lanes: &Lanes) -> f64 {
    if lanes.rows_in == 0 {
        0.0
    } else {
        lanes.rejected as f64 / lanes.rows_in as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures(values: &[f64]) -> Figures {
        let mut sums = ColumnSums::default();
        for value in values {
            sums.add_value(*value);
        }
        Figures {
            rows: values.len() as u64,
            nulls: BTreeMap::from([("a".to_owned(), 1)]),
            sums: BTreeMap::from([("x".to_owned(), sums)]),
            sources: BTreeMap::from([("s".to_owned(), values.len() as u64)]),
        }
    }

    proptest! {
        #[test]
        fn what_was_added_can_be_taken_away(
            a in prop::collection::vec(-1e6..1e6_f64, 1..20),
            b in prop::collection::vec(-1e6..1e6_f64, 1..20),
        ) {
            let mut sum = figures(&a);
            prop_assert!(sum.apply(&figures(&b), true));
            prop_assert!(sum.apply(&figures(&a), false));
            prop_assert_eq!(sum, figures(&b));
        }
    }

    #[test]
    fn what_was_never_added_cannot_be_taken_away() {
        let mut sum = figures(&[1.0]);
        assert!(!sum.apply(&figures(&[1.0, 2.0]), false));
    }

    #[test]
    fn moments_are_those_of_the_values() {
        let sums = figures(&[-350.25, -349.75, f64::NAN, f64::INFINITY]).sums["x"];
        assert_eq!(sums.n, 2);
        assert_eq!(sums.mean(), Some(-350.0));
        assert!((sums.deviation().unwrap() - 0.25).abs() < 1e-9);
        assert_eq!(ColumnSums::default().mean(), None);
        let json = serde_json::to_string(&sums).unwrap();
        assert_eq!(serde_json::from_str::<ColumnSums>(&json).unwrap(), sums);
    }
}
