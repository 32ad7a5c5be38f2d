//! Run events, as version 2-0-2 of the standard has them.

use chrono::{DateTime, Utc};
use gleaner_schemas::RunId;
use serde_json::{Map, Value, json};

use super::datasets::Dataset;
use super::facet;
use crate::journal::rfc3339;

/// Who says so.
pub(super) const PRODUCER: &str =
    concat!(env!("CARGO_PKG_REPOSITORY"), "#", env!("CARGO_PKG_VERSION"));
const SCHEMA: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";

/// What happened to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventType {
    Start,
    Complete,
    Fail,
    Abort,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::Complete => "COMPLETE",
            Self::Fail => "FAIL",
            Self::Abort => "ABORT",
        }
    }
}

/// A job as receivers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobName {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// An event.
#[derive(Debug)]
pub(super) struct RunEvent {
    pub(super) event_type: EventType,
    pub(super) time: DateTime<Utc>,
    pub(super) run_id: String,
    pub(super) job: JobName,
    /// `JOB`, or the kind of a stage.
    pub(super) job_type: &'static str,
    pub(super) sql: Option<String>,
    /// The job that a stage belongs to, and its run.
    pub(super) parent: Option<(JobName, String)>,
    pub(super) error: Option<String>,
    pub(super) inputs: Vec<Dataset>,
    pub(super) outputs: Vec<Dataset>,
}

impl RunEvent {
    pub(super) fn to_json(&self) -> Value {
        let mut run_facets = Map::new();
        let engine = json!({"name": "gleaner", "version": env!("CARGO_PKG_VERSION")});
        let engine = facet("1-1-1/ProcessingEngineRunFacet", engine);
        run_facets.insert("processing_engine".to_owned(), engine);
        if let Some((job, run_id)) = &self.parent {
            let parent = json!({
                "run": {"runId": run_id},
                "job": {"namespace": job.namespace, "name": job.name},
            });
            let parent = facet("1-0-1/ParentRunFacet", parent);
            run_facets.insert("parent".to_owned(), parent);
        }
        if let Some(message) = &self.error {
            let error = json!({"message": message, "programmingLanguage": "Rust"});
            let error = facet("1-0-1/ErrorMessageRunFacet", error);
            run_facets.insert("errorMessage".to_owned(), error);
        }
        let mut job_facets = Map::new();
        let job_type = json!({
            "processingType": "BATCH",
            "integration": "GLEANER",
            "jobType": self.job_type.to_ascii_uppercase(),
        });
        let job_type = facet("2-0-3/JobTypeJobFacet", job_type);
        job_facets.insert("jobType".to_owned(), job_type);
        if let Some(query) = &self.sql {
            let sql = facet("1-0-1/SQLJobFacet", json!({ "query": query }));
            job_facets.insert("sql".to_owned(), sql);
        }
        let datasets =
            |datasets: &[Dataset]| datasets.iter().map(Dataset::to_json).collect::<Vec<_>>();
        json!({
            "eventType": self.event_type.as_str(),
            "eventTime": rfc3339(self.time),
            "run": {"runId": self.run_id, "facets": run_facets},
            "job": {
                "namespace": self.job.namespace,
                "name": self.job.name,
                "facets": job_facets,
            },
            "inputs": datasets(&self.inputs),
            "outputs": datasets(&self.outputs),
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
        })
    }
}

/// The id of a run, or of a stage in it: a UUID (version 8) that follows from ours.
pub(super) fn run_id(run: &RunId, stage: Option<&str>) -> String {
    let text = format!("{run}/{}", stage.unwrap_or_default());
    let hash = blake3::hash(text.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_and_differ() {
        let ids = [
            run_id(&RunId::new(1), None),
            run_id(&RunId::new(1), Some("a")),
            run_id(&RunId::new(2), None),
        ];
        for (idx, id) in ids.iter().enumerate() {
            assert_eq!(id.len(), 36, "{id}");
            assert_eq!(&id[14..15], "8", "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
            assert!(!ids[..idx].contains(id), "{id}");
        }
        assert_eq!(ids[0], run_id(&RunId::new(1), None));
    }
}
