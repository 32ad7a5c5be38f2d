//! Checks of `deploy/` without a cluster.
//!
//! 1. [`overlay`]: an overlay as `kubectl kustomize` renders it, and the pods within it.
//! 2. [`typed`]: every document fits the published types: what is misspelt vanishes on the way
//!    through them.
//! 3. [`sources`]: what the programs' sources and the documents say: options, variables, exit
//!    codes, bounds, versions.
//! 4. [`checks`]: the one against the other. Each finding is a sentence that names the object.
//!
//! The renderings lie in `rendered/`, so that all of this runs where there is no kubectl; where
//! there is one, a test compares them with what it makes of `deploy/kubernetes` today.

// Everything here serves tests: what cannot go on panics with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod checks;
pub mod compose;
pub mod kubectl;
pub mod overlay;
pub mod sources;
pub mod typed;
pub mod yaml;

use std::fs;
use std::path::PathBuf;

/// The overlays of `deploy/kubernetes/overlays`.
pub const OVERLAYS: [&str; 5] = ["aws", "gcp", "local", "spot", "without-keda"];

/// A path of the repository.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.join("../..").join(path)
}

/// A file of the repository.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn read(path: &str) -> String {
    let whole = repository(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
}
