//! Identities of what was written: functions of what was asked, so that a retry, another worker
//! or another run gives the same ones. They start with a letter and have neither tabs nor spaces:
//! trainers read ids that look like numbers or dates as such.

/// What makes a query this query and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryIdentity<'a> {
    /// The document that it was written for.
    pub document_id: &'a str,
    /// The prompt.
    pub prompt_id: &'a str,
    /// The label asked for.
    pub label: &'a str,
    /// Which one of several for the same label, over all completions.
    pub sample: u16,
    /// Seed of the stage.
    pub seed: u64,
}

/// Hexadecimal digits of an id: 128 bits, so that a doubled id is not to be expected even among
/// 10^12 queries.
const ID_DIGITS: usize = 32;

/// `q` and 32 hexadecimal digits.
#[must_use]
pub fn query_id(identity: &QueryIdentity<'_>) -> String {
    let QueryIdentity {
        document_id,
        prompt_id,
        label,
        sample,
        seed,
    } = identity;
    let mut hasher = blake3::Hasher::new();
    for field in [document_id, prompt_id, label] {
        // Lengths keep neighbouring fields apart.
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.update(&sample.to_le_bytes());
    hasher.update(&seed.to_le_bytes());
    format!("q{}", &hasher.finalize().to_hex()[..ID_DIGITS])
}

/// Id of a query that the user brought, if its own would not do (empty, or with white space, or
/// not starting with a letter): `q` and a hash of it. A sound one is kept.
#[must_use]
pub fn sound_query_id(own_id: &str) -> String {
    let starts_with_letter = own_id.chars().next().is_some_and(char::is_alphabetic);
    if starts_with_letter && !own_id.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return own_id.to_owned();
    }
    format!(
        "q{}",
        &blake3::hash(own_id.as_bytes()).to_hex()[..ID_DIGITS]
    )
}

/// `<query id>_l_<grade>_d_<index>`: the form of which the reference trainer can read the grade.
#[must_use]
pub fn document_id(query_id: &str, grade: i8, index: u16) -> String {
    format!("{query_id}_l_{grade}_d_{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: QueryIdentity<'_> = QueryIdentity {
        document_id: "file.parquet#12",
        prompt_id: "queries_joint-0a1b2c3d",
        label: "exact",
        sample: 0,
        seed: 7,
    };

    #[test]
    fn ids_do_not_change_between_releases() {
        assert_eq!(query_id(&IDENTITY), "q698fd5105d09117b4189bb187f9fb6b6");
        assert_eq!(document_id("q1", 3, 0), "q1_l_3_d_0");
    }

    #[test]
    fn each_field_counts() {
        let others = [
            QueryIdentity {
                document_id: "file.parquet#13",
                ..IDENTITY
            },
            QueryIdentity {
                prompt_id: "queries_joint-0a1b2c3e",
                ..IDENTITY
            },
            QueryIdentity {
                label: "substitute",
                ..IDENTITY
            },
            QueryIdentity {
                sample: 1,
                ..IDENTITY
            },
            QueryIdentity {
                seed: 8,
                ..IDENTITY
            },
            QueryIdentity {
                document_id: "file.parquet#12q",
                prompt_id: "ueries_joint-0a1b2c3d",
                ..IDENTITY
            },
        ];
        let mut ids: Vec<String> = others.iter().map(query_id).collect();
        ids.push(query_id(&IDENTITY));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), others.len() + 1);
    }

    #[test]
    fn ids_of_users_are_kept_where_trainers_can_read_them() {
        assert_eq!(sound_query_id("PLAIN-12"), "PLAIN-12");
        for own_id in ["007", "", "2020-01-01", "a b", "a\tb"] {
            let id = sound_query_id(own_id);
            assert!(
                id.starts_with('q') && id.len() == 1 + ID_DIGITS,
                "{own_id}: {id}"
            );
        }
        assert_ne!(sound_query_id("007"), sound_query_id("7"));
    }
}
