//! What a session is opened with besides its version: memory, paths, other outputs, parameters.

use std::path::PathBuf;

use gleaner_schemas::Version;
use gleaner_storage::Output;

use crate::sql::error::SqlError;
use crate::sql::parameters::Parameters;
use crate::sql::{CATALOG, PUBLIC, SYSTEM};

/// What a session is opened with besides its version. The default is nothing.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// What queries must keep within; what they can spill, they do.
    pub memory_bytes: Option<usize>,
    /// Parts that a query works on at a time [default: one per core]. With one, rows come and sums
    /// are made in the order of the files.
    pub target_partitions: Option<usize>,
    /// What paths are relative to, where queries may name files by their paths.
    pub base_dir: Option<PathBuf>,
    /// Other outputs beside this one.
    pub attached: Vec<Attached>,
    /// Values of `$name` in queries.
    pub parameters: Parameters,
}

/// A version whose tables a query names with a schema, `name.table`.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The schema.
    pub name: String,
    /// Where its tables lie.
    pub output: Output,
    /// Which tables there are.
    pub version: Version,
}

/// An output that is to be attached, as a user writes it: `name=OUTPUT`, or `name=OUTPUT@N` for an
/// older version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachArgument {
    /// The schema.
    pub name: String,
    /// Directory or URI of the output.
    pub output: String,
    /// Number of its version; absent: the newest.
    pub version: Option<u64>,
}

impl std::str::FromStr for AttachArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const USAGE: &str = "write it as name=OUTPUT, or name=OUTPUT@N for version N";
        let Some((name, output)) = text.split_once('=') else {
            return Err(USAGE.to_owned());
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || [CATALOG, PUBLIC, SYSTEM, "information_schema"].contains(&name) {
            return Err(format!(
                "{name:?} cannot name another output: take lower-case letters, digits and _, and \
                 none of {PUBLIC}, {SYSTEM}, {CATALOG}, information_schema"
            ));
        }
        // A directory whose name ends like a version is told by a slash after it.
        let (output, version) = match output.rsplit_once('@') {
            Some((output, number)) if !number.is_empty() => match number.parse() {
                Ok(number) => (output, Some(number)),
                Err(_) => (text.split_once('=').map_or("", |it| it.1), None),
            },
            _ => (output, None),
        };
        if output.is_empty() {
            return Err(USAGE.to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            output: output.to_owned(),
            version,
        })
    }
}

/// Two outputs of one name would hide each other.
pub(crate) fn check_names(attached: &[Attached]) -> Result<(), SqlError> {
    for (idx, other) in attached.iter().enumerate() {
        if attached[..idx].iter().any(|it| it.name == other.name) {
            return Err(SqlError::query(
                format!("two outputs are attached as {}", other.name),
                "give each a name of its own",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_attached_with_a_name_and_perhaps_a_version() {
        let check = |text: &str, name: &str, output: &str, version: Option<u64>| {
            let expected = AttachArgument {
                name: name.to_owned(),
                output: output.to_owned(),
                version,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        };
        check("old=out", "old", "out", None);
        check("old=out@3", "old", "out", Some(3));
        check("old=out@3/", "old", "out@3/", None);
        check("run_2=s3://b/a=b@x/out", "run_2", "s3://b/a=b@x/out", None);
        for wrong in [
            "out",
            "=out",
            "old=",
            "old=@3",
            "Old=out",
            "2=out",
            "public=out",
            "gleaner=out",
        ] {
            assert!(wrong.parse::<AttachArgument>().is_err(), "{wrong}");
        }
    }
}
