//! Language models of jobs: where their files are, what is known of them, how a task gets at one.

mod facts;
mod loaded;

pub(crate) use facts::failure_kind;
pub(crate) use facts::failure_of;
pub use facts::{InspectedModel, ModelFacts, ModelFile, ModelPlace, inspect, inspect_encoder};
pub use loaded::{Device, Dtype, check_accelerator};
pub(crate) use loaded::{LoadedModel, load, load_options, told_of};
