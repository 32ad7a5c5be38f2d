//! What is noted about a reply or a text: facts for filters, none of them an error.

use std::fmt;

macro_rules! flags {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A fact about a reply or about a text in it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Flag {
            $($(#[$doc])* $variant,)*
        }

        impl Flag {
            /// All flags, in the order in which sets list them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in tables and job files.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The flag of a name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

flags! {
    /// The reply was no JSON before it was mended.
    JsonRepaired = "json_repaired",
    /// The server was given a schema, and the reply is not of it.
    SchemaIgnoredByServer = "schema_ignored_by_server",
    /// The server gave a reason for the end of the reply that nobody knows.
    UnknownFinishReason = "unknown_finish_reason",
    /// Not in the language asked for.
    WrongLanguage = "wrong_language",
    /// Fewer than half the words asked for.
    TooShort = "too_short",
    /// More than one and a half times the words asked for.
    TooLong = "too_long",
    /// The query is, for the most part, a run of words of the document.
    QueryCopied = "query_copied",
    /// The model talks about its task.
    MetaTalk = "meta_talk",
    /// The text names its grade.
    GradeWordLeak = "grade_word_leak",
    /// The text is that of a demonstration.
    FewShotLeak = "few_shot_leak",
    /// The same text stands under a smaller id.
    Duplicate = "duplicate",
    /// Nearly the same text stands under a smaller id.
    NearDuplicate = "near_duplicate",
    /// It says the same again and again.
    Repetition = "repetition",
    /// The query does not find its document.
    RoundTripMiss = "round_trip_miss",
    /// The judge gave another grade than the one asked for.
    JudgeDisagrees = "judge_disagrees",
    /// The judge gave no grade that could be read.
    JudgeFailed = "judge_failed",
}

impl fmt::Display for Flag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl serde::Serialize for Flag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|flag| flag.as_str()).collect();
            serde::de::Error::custom(format!(
                "no flag is named `{name}`: known are {}",
                known.join(", ")
            ))
        })
    }
}

impl schemars::JsonSchema for Flag {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Flag".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<&str> = Self::ALL.iter().map(|flag| flag.as_str()).collect();
        schemars::json_schema!({ "enum": names })
    }
}

/// A set of flags, iterated in the order of [`Flag::ALL`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Adds a flag.
    pub fn insert(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u8;
    }

    /// Adds a flag if `holds`.
    pub fn insert_if(&mut self, holds: bool, flag: Flag) {
        if holds {
            self.insert(flag);
        }
    }

    /// Whether a flag is among them.
    #[must_use]
    pub fn contains(self, flag: Flag) -> bool {
        self.0 & (1 << flag as u8) != 0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flags of both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The flags in order.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL
            .iter()
            .copied()
            .filter(move |&flag| self.contains(flag))
    }
}

impl FromIterator<Flag> for Flags {
    fn from_iter<I: IntoIterator<Item = Flag>>(flags: I) -> Self {
        let mut set = Self::NONE;
        for flag in flags {
            set.insert(flag);
        }
        set
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_set()
            .entries(self.iter().map(Flag::as_str))
            .finish()
    }
}

impl fmt::Display for Flags {
    /// Names with commas between.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, flag) in self.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(formatter, "{comma}{flag}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_flags() {
        for &flag in Flag::ALL {
            assert_eq!(Flag::from_name(flag.as_str()), Some(flag));
            let json = serde_json::to_string(&flag).unwrap();
            assert_eq!(serde_json::from_str::<Flag>(&json).unwrap(), flag);
        }
        let error = serde_json::from_str::<Flag>("\"metatalk\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("meta_talk"), "{error}");
    }

    #[test]
    fn sets_list_flags_in_one_order() {
        let set: Flags = [Flag::Repetition, Flag::JsonRepaired].into_iter().collect();
        assert_eq!(set.to_string(), "json_repaired,repetition");
        assert!(set.contains(Flag::Repetition) && !set.contains(Flag::TooLong));
        assert!(Flags::NONE.is_empty() && Flags::NONE.to_string().is_empty());
    }
}
