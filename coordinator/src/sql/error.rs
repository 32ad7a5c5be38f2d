//! What can be wrong with a query, in words that help.

use datafusion::common::{DataFusionError, SchemaError};
use gleaner_schemas::FailureKind;
use gleaner_schemas::failure::error_chain;
use gleaner_storage::redact::redact;
use gleaner_storage::{OutputError, StoreError};

use crate::run_error::RunError;

/// A query cannot be run, or failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The query, or the data that it meets, is not what it must be.
    #[error("{message}{}", help.as_ref().map(|help| format!("; {help}")).unwrap_or_default())]
    Query {
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// A store cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}

impl SqlError {
    /// An error of the query, with advice.
    pub(crate) fn query(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Query {
            message: message.into(),
            help: Some(help.into()),
        }
    }
}

impl From<SqlError> for RunError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Query { message, help } => Self::Usage { message, help },
            SqlError::Unreachable(message) => Self::Unreachable(message),
            SqlError::Internal(message) => Self::Internal(message),
        }
    }
}

impl From<OutputError> for SqlError {
    fn from(error: OutputError) -> Self {
        match error.kind() {
            FailureKind::Transient => Self::Unreachable(error_chain(&error)),
            _ => Self::Query {
                message: error_chain(&error),
                help: None,
            },
        }
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        of(&error)
    }
}

fn of(error: &DataFusionError) -> SqlError {
    if let Some(error) = store_error(error) {
        return of_store(error);
    }
    match error {
        DataFusionError::Diagnostic(_, inner) | DataFusionError::Context(_, inner) => of(inner),
        DataFusionError::Shared(inner) => of(inner),
        DataFusionError::Collection(errors) if !errors.is_empty() => of(&errors[0]),
        DataFusionError::SchemaError(schema_error, _) => of_schema(schema_error),
        DataFusionError::SQL(parser_error, _) => SqlError::Query {
            message: format!(
                "the query is not SQL: {}",
                sentence(&parser_error.to_string())
            ),
            help: None,
        },
        DataFusionError::Internal(message) => SqlError::Internal(first_part(message)),
        DataFusionError::External(error) => match error.downcast_ref::<DataFusionError>() {
            Some(inner) => of(inner),
            None => SqlError::Query {
                message: error_chain(error.as_ref()),
                help: None,
            },
        },
        DataFusionError::ResourcesExhausted(message) => SqlError::query(
            first_part(message),
            "ask for fewer rows or columns at a time",
        ),
        other => SqlError::Query {
            message: redact(&sentence(&first_part(&other.strip_backtrace()))),
            help: None,
        },
    }
}

/// The error of a store that is the cause of another, however deep it is wrapped.
fn store_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a object_store::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<object_store::Error>() {
            return Some(found);
        }
        // This one passes over the error that it wraps.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn of_schema(error: &SchemaError) -> SqlError {
    if let SchemaError::FieldNotFound {
        field,
        valid_fields,
    } = error
    {
        let mut names: Vec<&str> = valid_fields
            .iter()
            .map(|field| field.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        let nearest = nearest(&field.name, names.iter().copied());
        let hint = match nearest {
            Some(name) if name.to_lowercase() == field.name.to_lowercase() => format!(
                "did you mean \"{name}\"? names with upper-case letters need double quotes; "
            ),
            Some(name) => format!("did you mean {name}? "),
            None => String::new(),
        };
        return SqlError::query(
            format!("there is no column {}", field.flat_name()),
            format!("{hint}the columns here are {}", names.join(", ")),
        );
    }
    SqlError::Query {
        message: error.to_string(),
        help: None,
    }
}

fn of_store(error: &object_store::Error) -> SqlError {
    let store_error = StoreError::of(error);
    let message = store_error.to_string();
    match (store_error.kind(), error) {
        (FailureKind::Transient, _) => SqlError::Unreachable(message),
        (_, object_store::Error::NotFound { .. }) => SqlError::query(
            message,
            "a file that the version names is gone; `gleaner verify` lists what is missing",
        ),
        (_, object_store::Error::Precondition { .. }) => SqlError::query(
            message,
            "a file of the corpus changed since the version was published; run the job again",
        ),
        _ => SqlError::Query {
            message,
            help: None,
        },
    }
}

/// Planner messages may go on with a backtrace or with a note to developers.
fn first_part(message: &str) -> String {
    let end = message.find("\n\nbacktrace").unwrap_or(message.len());
    let end = message[..end]
        .find("This issue was likely caused by a bug")
        .unwrap_or(end);
    message[..end].trim().trim_end_matches('.').to_owned()
}

fn sentence(message: &str) -> String {
    let mut message = message;
    for prefix in [
        "Error during planning: ",
        "Execution error: ",
        "sql parser error: ",
        "This feature is not implemented: ",
    ] {
        message = message.strip_prefix(prefix).unwrap_or(message);
    }
    message.to_owned()
}

pub(super) fn first_word(sql: &str) -> String {
    let word: String = sql
        .trim_start()
        .chars()
        .take_while(|c| c.is_ascii_alphabetic())
        .collect();
    word.to_uppercase()
}

/// The name that is nearest to `wanted`, if one is near.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    names
        .map(|name| {
            (
                strsim::damerau_levenshtein(&wanted, &name.to_lowercase()),
                name,
            )
        })
        .filter(|(distance, name)| *distance <= 1 + name.len().min(wanted.len()) / 3)
        .min()
        .map(|(_, name)| name)
}
