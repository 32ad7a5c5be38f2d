//! `gleaner sql`: a query, or a prompt, over one version and what is attached to it.

use crate::commands::opened::{Opened, current_dir};
use crate::diagnostics::Diagnostics;
use crate::run_error::RunError;
use crate::sql::format::Format;
use crate::sql::options::{AttachArgument, Attached, SessionOptions};
use crate::sql::parameters::Parameters;
use crate::sql::{Session, prompt};

/// What is asked, and of what.
#[derive(Debug, Clone)]
pub struct QueryArguments {
    /// Directory or URI of the output.
    pub output: String,
    /// Number of its version; absent: the newest.
    pub version: Option<u64>,
    /// The query; absent: a prompt.
    pub query: Option<String>,
    /// How rows are written.
    pub format: Format,
    /// Whether queries may name files by their paths.
    pub allow_paths: bool,
    /// Values of `$name`.
    pub parameters: Parameters,
    /// Other outputs.
    pub attach: Vec<AttachArgument>,
}

/// Answers one query on the standard output, or runs the prompt.
///
/// # Errors
///
/// If there is no such version, of the query, or of the stores.
pub async fn query(arguments: QueryArguments, diagnostics: &Diagnostics) -> Result<(), RunError> {
    let opened = Opened::new(&arguments.output, arguments.version).await?;
    let mut attached = Vec::with_capacity(arguments.attach.len());
    for other in arguments.attach {
        let Opened {
            output, version, ..
        } = Opened::new(&other.output, other.version).await?;
        attached.push(Attached {
            name: other.name,
            output,
            version,
        });
    }
    let options = SessionOptions {
        base_dir: match arguments.allow_paths {
            true => Some(current_dir()?),
            false => None,
        },
        attached,
        parameters: arguments.parameters,
        ..SessionOptions::default()
    };
    let session = Session::open_with(&opened.stores, &opened.output, &opened.version, options)?;
    match arguments.query {
        Some(query) => prompt::print_query(&session, &query, arguments.format).await,
        None => prompt::run(&session, arguments.format, diagnostics).await,
    }
}
