//! `gleaner schema`.

use gleaner_schemas::job;
use gleaner_workers::registry;

use crate::run_error::RunError;

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
