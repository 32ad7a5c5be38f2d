//! `gleaner schema`.

use clap::ValueEnum;
use gleaner_schemas::job;
use gleaner_workers::registry;

use crate::commands::job_reference;
use crate::run_error::RunError;

/// How the job file is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaFormat {
    /// JSON Schema, for editors.
    Json,
    /// A reference, for people.
    Markdown,
}

/// The description of the job file.
///
/// # Errors
///
/// Never in practice: the schema is plain data.
pub fn describe(format: SchemaFormat) -> Result<String, RunError> {
    match format {
        SchemaFormat::Json => job_schema(),
        SchemaFormat::Markdown => {
            let schema = job::json_schema(registry::params_schemas());
            Ok(job_reference::render(&schema))
        }
    }
}

/// The JSON Schema of the job file, with the parameters of every kind of stage.
///
/// # Errors
///
/// Never in practice: the schema is plain data.
pub fn job_schema() -> Result<String, RunError> {
    let schema = job::json_schema(registry::params_schemas());
    serde_json::to_string_pretty(&schema)
        .map(|text| text + "\n")
        .map_err(|error| RunError::Internal(format!("cannot write the schema: {error}")))
}
