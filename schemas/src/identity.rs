//! Names of things, each with a type of its own, and the hash that they are derived from.
//!
//! They are the bytes, not the text that they are written as: a phase may have a million tasks, and each is named
//! several times.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An identifier that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is malformed: expected {expected}")]
pub struct IdentityError {
    kind: &'static str,
    text: String,
    expected: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; $length / 2]);

        impl $name {
            /// Number of hexadecimal digits of its text form.
            pub const LENGTH: usize = $length;
        }

        /// As lower-case hexadecimal digits.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                from_hex(text).map(Self).ok_or_else(|| IdentityError {
                    kind: $kind,
                    text: text.to_owned(),
                    expected: concat!($length, " lower-case hexadecimal digits"),
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdentityError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

identifier!(
    /// What a task computes, from what: a hash of stage kind, code version, parameters, side
    /// inputs and shard. Equal ids mean equal rows (invariant 4).
    TaskId, "task id", 32
);
identifier!(
    /// One execution of a task: eight random digits, so that no two attempts share a name, then
    /// the [`ContentHash`] of the object, so that a name alone tells whether bytes are intact.
    AttemptId, "attempt id", 40
);
identifier!(
    /// A phase's plan: a hash of the ids of its tasks.
    PlanId, "plan id", 32
);
identifier!(
    /// One invocation of the coordinator; random.
    RunId, "run id", 16
);
identifier!(
    /// BLAKE3 of an object's bytes, cut to 128 bits.
    ContentHash, "content hash", 32
);
identifier!(
    /// BLAKE3 of a canonical JSON text, cut to 128 bits.
    Fingerprint, "fingerprint", 32
);

impl ContentHash {
    /// Hashes the bytes of a whole object.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(&blake3::hash(bytes))
    }

    /// The same, where the bytes were hashed piece by piece.
    #[must_use]
    pub fn of_hash(hash: &blake3::Hash) -> Self {
        Self(first_bytes(hash))
    }
}

impl AttemptId {
    /// The id of an attempt that wrote `content`; `nonce` is random.
    #[must_use]
    pub fn new(nonce: u32, content: &ContentHash) -> Self {
        let mut bytes = [0; Self::LENGTH / 2];
        bytes[..4].copy_from_slice(&nonce.to_be_bytes());
        bytes[4..].copy_from_slice(&content.0);
        Self(bytes)
    }

    /// The hash of the object's bytes that the attempt recorded in its name.
    #[must_use]
    pub fn content(&self) -> ContentHash {
        let mut bytes = [0; ContentHash::LENGTH / 2];
        bytes.copy_from_slice(&self.0[4..]);
        ContentHash(bytes)
    }
}

impl RunId {
    /// The run id with the given random bits.
    #[must_use]
    pub fn new(random: u64) -> Self {
        Self(random.to_be_bytes())
    }
}

impl Fingerprint {
    /// Hashes `value` as canonical JSON (keys sorted, no white space). `domain` keeps hashes of
    /// different kinds of things apart.
    ///
    /// # Panics
    ///
    /// Never for the types of this crate: they are plain data with string keys.
    #[must_use]
    pub fn of<T: Serialize + ?Sized>(domain: &str, value: &T) -> Self {
        let text = format!("{domain}\n{}", canonical(value));
        Self(first_bytes(&blake3::hash(text.as_bytes())))
    }

    /// The same as [`Fingerprint::of`] a list of the items, which need not be in memory at once.
    #[must_use]
    pub fn of_list<T: Serialize>(domain: &str, items: impl Iterator<Item = T>) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain.as_bytes()).update(b"\n");
        hash_list(&mut hasher, items);
        Self(first_bytes(&hasher.finalize()))
    }

    /// The same as [`Fingerprint::of`] the pair of a head and a list of the items.
    #[must_use]
    pub fn of_head_and_list<H: Serialize, T: Serialize>(
        domain: &str,
        head: &H,
        items: impl Iterator<Item = T>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain.as_bytes()).update(b"\n[");
        hasher.update(canonical(head).as_bytes()).update(b",");
        hash_list(&mut hasher, items);
        hasher.update(b"]");
        Self(first_bytes(&hasher.finalize()))
    }
}

impl From<Fingerprint> for TaskId {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint.0)
    }
}

impl From<Fingerprint> for PlanId {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint.0)
    }
}

/// The first half of a hash: 128 bits.
fn first_bytes(hash: &blake3::Hash) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes
}

/// The bytes that `2 * N` lower-case hexadecimal digits are.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (value(pair[0])? << 4) | value(pair[1])?;
    }
    Some(bytes)
}

fn hash_list<T: Serialize>(hasher: &mut blake3::Hasher, items: impl Iterator<Item = T>) {
    hasher.update(b"[");
    for (idx, item) in items.enumerate() {
        if idx > 0 {
            hasher.update(b",");
        }
        hasher.update(canonical(&item).as_bytes());
    }
    hasher.update(b"]");
}

fn canonical<T: Serialize + ?Sized>(value: &T) -> String {
    let mut text = String::new();
    // Serialisation fails only for maps with keys that are not strings; the null that stands in
    // for such a value would still be a stable hash.
    write_canonical(
        &serde_json::to_value(value).unwrap_or(Value::Null),
        &mut text,
    );
    text
}

/// Sorted explicitly: whether `serde_json` keeps insertion order depends on a feature that any
/// crate of a build may switch on.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Object(entries) => {
            let mut keys: Vec<&String> = entries.keys().collect();
            keys.sort_unstable();
            text.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(&entries[key], text);
            }
            text.push('}');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fingerprints_ignore_key_order_and_see_everything_else() {
        let one = Fingerprint::of("x", &json!({"a": 1, "b": [1, 2]}));
        assert_eq!(one, Fingerprint::of("x", &json!({"b": [1, 2], "a": 1})));
        assert_ne!(one, Fingerprint::of("y", &json!({"a": 1, "b": [1, 2]})));
        assert_ne!(one, Fingerprint::of("x", &json!({"a": 1, "b": [2, 1]})));
        assert_ne!(one, Fingerprint::of("x", &json!({"a": "1", "b": [1, 2]})));
    }

    #[test]
    fn lists_hash_the_same_item_by_item() {
        for items in [vec![], vec!["a"], vec!["a", "b\"", "c"]] {
            let pairs = || items.iter().map(|item| (item, 1));
            let collected: Vec<_> = pairs().collect();
            let whole = Fingerprint::of("x", &collected);
            assert_eq!(Fingerprint::of_list("x", pairs()), whole);
            let head = json!({"b": 1, "a": null});
            let whole = Fingerprint::of("x", &(&head, collected));
            assert_eq!(Fingerprint::of_head_and_list("x", &head, pairs()), whole);
        }
    }

    #[test]
    fn an_attempt_id_carries_its_content_hash() {
        let content = ContentHash::of(b"rows");
        let attempt = AttemptId::new(7, &content);
        assert_eq!(attempt.content(), content);
        let text = attempt.to_string();
        assert_eq!(text.len(), AttemptId::LENGTH);
        assert_eq!(text[8..], content.to_string());
        assert_eq!(text.parse::<AttemptId>(), Ok(attempt));
    }

    #[test]
    fn malformed_identifiers_are_refused() {
        assert!("xyz".parse::<TaskId>().is_err());
        assert!("A".repeat(32).parse::<TaskId>().is_err());
        assert!(serde_json::from_value::<TaskId>(json!("../../etc/passwd")).is_err());
    }
}
