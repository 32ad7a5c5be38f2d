//! Names of things, each with a type of its own, and the hash that they are derived from.

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
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Number of hexadecimal digits of its text form.
            pub const LENGTH: usize = $length;

            /// The text form: lower-case hexadecimal digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if text.len() == $length && is_hex {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdentityError {
                        kind: $kind,
                        text: text.to_owned(),
                        expected: concat!($length, " lower-case hexadecimal digits"),
                    })
                }
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
                id.0
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
        Self(hex(blake3::hash(bytes).as_bytes(), Self::LENGTH))
    }
}

impl AttemptId {
    /// The id of an attempt that wrote `content`; `nonce` is random.
    #[must_use]
    pub fn new(nonce: u32, content: &ContentHash) -> Self {
        Self(format!("{nonce:08x}{content}"))
    }

    /// The hash of the object's bytes that the attempt recorded in its name.
    #[must_use]
    pub fn content(&self) -> ContentHash {
        ContentHash(self.0[8..].to_owned())
    }
}

impl RunId {
    /// The run id with the given random bits.
    #[must_use]
    pub fn new(random: u64) -> Self {
        Self(format!("{random:016x}"))
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
        let mut text = String::from(domain);
        text.push('\n');
        // Serialisation fails only for maps with keys that are not strings; the null that stands
        // in for such a value would still be a stable hash.
        write_canonical(
            &serde_json::to_value(value).unwrap_or(Value::Null),
            &mut text,
        );
        Self(hex(blake3::hash(text.as_bytes()).as_bytes(), Self::LENGTH))
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

fn hex(bytes: &[u8], n_digits: usize) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(n_digits);
    for byte in &bytes[..n_digits / 2] {
        let _ = write!(text, "{byte:02x}");
    }
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
    fn an_attempt_id_carries_its_content_hash() {
        let content = ContentHash::of(b"rows");
        let attempt = AttemptId::new(7, &content);
        assert_eq!(attempt.content(), content);
        assert_eq!(attempt.as_str().parse::<AttemptId>(), Ok(attempt));
    }

    #[test]
    fn malformed_identifiers_are_refused() {
        assert!("xyz".parse::<TaskId>().is_err());
        assert!("A".repeat(32).parse::<TaskId>().is_err());
        assert!(serde_json::from_value::<TaskId>(json!("../../etc/passwd")).is_err());
    }
}
