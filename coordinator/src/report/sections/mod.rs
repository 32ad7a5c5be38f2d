//! The sections of a report. Each is a file with a function that asks for its numbers and writes
//! its part of the page; what an output does not have, no section is about.

mod agreement;
mod generation;
mod generation_measures;
mod lanes;
mod losses;
mod notes;
mod operation;
mod overview;
mod selections;
mod tasks;
mod training;
mod weights;

use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use super::input::Input;
use crate::run_error::RunError;

/// A part of the page, about one stage or the whole.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    /// What it is, for programs.
    pub(crate) name: &'static str,
    /// The stage that it is about.
    pub(crate) stage: Option<String>,
    /// Its heading.
    pub(crate) title: String,
    /// Its numbers.
    pub(crate) numbers: Value,
    /// Its HTML, without the heading.
    pub(crate) body: String,
}

/// What a file of sections makes of a version.
type Gathered = Result<Vec<Section>, RunError>;

/// The work of a file of sections. It is given the version by a pointer of its own: they work side
/// by side.
pub(crate) type Gather = fn(Arc<Input>) -> Pin<Box<dyn Future<Output = Gathered> + Send>>;

/// Every file of sections, in the order of the page.
pub(crate) const SECTIONS: &[Gather] = &[
    |input| Box::pin(async move { overview::sections(&input).await }),
    |input| Box::pin(async move { lanes::sections(&input).await }),
    |input| Box::pin(async move { selections::sections(&input).await }),
    |input| Box::pin(async move { weights::sections(&input).await }),
    |input| Box::pin(async move { losses::sections(&input).await }),
    |input| Box::pin(async move { agreement::sections(&input).await }),
    |input| Box::pin(async move { training::sections(&input).await }),
    |input| Box::pin(async move { generation::sections(&input).await }),
    |input| Box::pin(async move { tasks::sections(&input).await }),
    |input| Box::pin(async move { notes::sections(&input).await }),
];

/// Numbers as a section keeps them.
fn numbers(of: &impl serde::Serialize) -> Result<Value, RunError> {
    serde_json::to_value(of)
        .map_err(|error| RunError::Internal(format!("cannot write numbers: {error}")))
}
