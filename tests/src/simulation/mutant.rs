//! Planted bugs: what people who write such systems get wrong. The simulation is worth something
//! if it finds them.

/// A bug that a simulation is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Readers take every attempt that a listing of the folder shows, pinned or not.
    Glob,
    /// A delivery is acknowledged when it is taken, before its object is whole.
    AcknowledgeEarly,
    /// A phase's manifest is put over the one that is there.
    ManifestOverwritten,
    /// A version that exists already is taken for another's, without reading it: the answer to
    /// our own put may have been lost.
    LostUnread,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Glob,
        Self::AcknowledgeEarly,
        Self::ManifestOverwritten,
        Self::LostUnread,
    ];

    /// What the simulation says when it has found the bug.
    #[must_use]
    pub fn symptom(self) -> &'static str {
        match self {
            Self::Glob => "no manifest pins",
            Self::AcknowledgeEarly => "was acknowledged without an outcome",
            Self::ManifestOverwritten => "was changed",
            Self::LostUnread => "says what the one before it says",
        }
    }
}
