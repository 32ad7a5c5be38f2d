//! `gleaner report`: what a version holds and how it came to be, as one HTML file.
//!
//! 1. Every file of [`sections`] asks for its numbers by SQL over the published tables ([`Input`]),
//!    side by side, and writes its part of the page.
//! 2. [`page`] puts them together with the style and the numbers themselves, as JSON.
//!
//! The page needs nothing else: no script runs, nothing is loaded. It is a function of the version
//! and of what workers recorded, so two reports of a version are equal.

mod distribution;
mod examples;
mod html;
mod input;
mod page;
mod sections;
mod spreads;
mod svg;

use std::fmt::Write as _;
use std::sync::Arc;

use gleaner_schemas::FailureKind;
use gleaner_storage::{StoreError, Stores, redact, stores};
use object_store::ObjectStoreExt as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::opened::{Opened, current_dir};
use crate::progress::bytes;
use crate::run_error::RunError;
use input::Input;
use sections::{SECTIONS, Section};

/// Where a report is written unless another place is named.
pub const FILE: &str = "report.html";

/// A report of a version.
#[derive(Debug, Clone)]
pub struct Report {
    job: String,
    output: String,
    version: u64,
    published_at: String,
    sections: Vec<Section>,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Version of the output.
    pub version: u64,
    /// Absolute URI of the file.
    pub to: String,
    /// Its bytes.
    pub bytes: u64,
}

/// Asks for everything that the report of a version tells, with up to `n_examples` documents of
/// each tenth of each score.
///
/// # Errors
///
/// Of the queries or the store.
pub async fn gather(opened: Opened, n_examples: u64) -> Result<Report, RunError> {
    let input = Arc::new(Input::new(opened, n_examples)?);
    let gathering: Vec<_> = SECTIONS
        .iter()
        .map(|gather| tokio::spawn(gather(Arc::clone(&input))))
        .collect();
    let mut sections = Vec::new();
    // All are awaited, also after the first error: none goes on behind the program's back.
    let mut failed = None;
    for part in gathering {
        match part.await {
            Ok(Ok(found)) => sections.extend(found),
            Ok(Err(error)) => failed = failed.or(Some(error)),
            Err(error) => {
                let error = RunError::Internal(format!("a section of the report ended: {error}"));
                failed = failed.or(Some(error));
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let version = input.version();
    Ok(Report {
        job: version.job.clone(),
        output: input.opened.output.uri().to_owned(),
        version: version.number,
        published_at: version.published_at.clone(),
        sections,
    })
}

impl Report {
    /// The numbers, without the page.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let sections = self.sections.iter().map(|section| {
            json!({
                "section": section.name,
                "stage": section.stage,
                "title": section.title,
                "numbers": section.numbers,
            })
        });
        json!({
            "job": self.job,
            "output": self.output,
            "version": self.version,
            "published_at": self.published_at,
            "sections": sections.collect::<Vec<_>>(),
        })
    }

    /// The page.
    #[must_use]
    pub fn to_html(&self) -> String {
        page::page(self)
    }

    /// Writes the page to a file or a URI, whole or not at all.
    ///
    /// # Errors
    ///
    /// If it cannot be written there.
    pub async fn write(&self, stores: &Stores, to: &str) -> Result<Written, RunError> {
        const HELP: &str = "give a file or a URI";
        if to.is_empty() || to.ends_with('/') {
            return Err(RunError::usage(
                format!("cannot write a report to {:?}", redact::redact(to)),
                "name a file, such as report.html",
            ));
        }
        let uri = stores::absolute_uri(to, &current_dir()?)
            .map_err(|error| RunError::usage(error.to_string(), HELP))?;
        let (store, path) = stores
            .resolve(&uri)
            .map_err(|error| RunError::usage(error.to_string(), HELP))?;
        let html = self.to_html();
        let n_bytes = html.len() as u64;
        store.put(&path, html.into()).await.map_err(|error| {
            let error = StoreError::of(&error);
            let message = format!("cannot write {uri}: {error}");
            match error.kind() {
                FailureKind::Transient => RunError::Unreachable(message),
                _ => RunError::usage(
                    message,
                    "is there space, and are you allowed to write there?",
                ),
            }
        })?;
        Ok(Written {
            version: self.version,
            to: uri,
            bytes: n_bytes,
        })
    }
}

impl Written {
    /// The result as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let to = self.to.strip_prefix("file://").unwrap_or(&self.to);
        let _ = writeln!(
            text,
            "wrote the report of version {} to {to}, {}",
            self.version,
            bytes(self.bytes)
        );
        text
    }
}
