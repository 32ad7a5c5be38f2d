//! `gleaner status`: how far the newest run of an output is. Everything is read from the store,
//! so it works from any machine and whatever became of the run.

use std::fmt::Write as _;

use gleaner_storage::{Output, OutputError, layout};
use serde::Serialize;

use crate::commands::endpoint_status::{self, EndpointsStatus};
use crate::journal::{PhaseStarted, RunEnded, RunStarted};
use crate::progress::{bytes, count};

/// How far an output is.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// URI of the output.
    pub output: String,
    /// The newest version.
    pub version: Option<VersionStatus>,
    /// The newest run.
    pub run: Option<RunStatus>,
    /// What was spent at endpoints, if the job has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointsStatus>,
}

/// A published version, in short.
#[derive(Debug, Clone, Serialize)]
pub struct VersionStatus {
    /// Its number.
    pub number: u64,
    /// When it was published: RFC 3339, UTC.
    pub published_at: String,
    /// Name and rows of each stage's table.
    pub stages: Vec<(String, u64)>,
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct RunStatus {
    /// What it wrote when it started.
    pub started: RunStarted,
    /// Its phases so far.
    pub phases: Vec<PhaseStatus>,
    /// Failed attempts of tasks.
    pub n_failures: u64,
    /// What it wrote when it ended. Absent: it goes on, or it was killed.
    pub ended: Option<RunEnded>,
}

/// A map phase of a run.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseStatus {
    /// What was written when it started.
    pub started: PhaseStarted,
    /// Tasks of which there is an attempt.
    pub n_done: u64,
}

/// Looks at an output.
///
/// # Errors
///
/// Of the store.
pub async fn status(output: &Output) -> Result<StatusReport, OutputError> {
    let version = output.latest_version().await?.map(|version| VersionStatus {
        number: version.number,
        published_at: version.published_at,
        stages: version
            .stage_order
            .iter()
            .filter_map(|stage| Some((stage.clone(), version.tables.get(stage)?.rows)))
            .collect(),
    });
    Ok(StatusReport {
        output: output.uri().to_owned(),
        version,
        run: newest_run(output).await?,
        endpoints: endpoint_status::endpoints(output).await?,
    })
}

/// The journal of the run that started last.
///
/// # Errors
///
/// Of the store.
pub async fn newest_run(output: &Output) -> Result<Option<RunStatus>, OutputError> {
    let mut events = output.list(layout::RUNS).await?;
    events.sort_by(|a, b| a.path.cmp(&b.path));
    // By the store's clock: each machine that starts runs has its own.
    let starts = events.iter().filter(|event| {
        layout::parse_run_event(&event.path).is_some_and(|(_, it)| it == layout::RUN_STARTED)
    });
    let starts: Vec<_> = starts.collect();
    let newest_ms = starts.iter().map(|event| event.modified_ms).max();
    // Many stores tell whole seconds.
    let mut newest: Option<RunStarted> = None;
    for event in starts.iter().filter(|it| Some(it.modified_ms) == newest_ms) {
        let started: Option<RunStarted> = output.get_json(&event.path, "event of a run").await?;
        newest = newest
            .into_iter()
            .chain(started)
            .max_by(|a, b| a.started_at.cmp(&b.started_at));
    }
    let Some(started) = newest else {
        return Ok(None);
    };
    let prefix = format!("{}/{}/phase-", layout::RUNS, started.run);
    let mut phases = Vec::new();
    for event in events
        .iter()
        .filter(|event| event.path.starts_with(&prefix))
    {
        let phase: Option<PhaseStarted> = output.get_json(&event.path, "event of a run").await?;
        if let Some(started) = phase {
            phases.push(PhaseStatus {
                n_done: n_done(output, &started).await?,
                started,
            });
        }
    }
    let failures = output.list(&layout::failures(&started.run)).await?;
    let end = layout::run_event(&started.run, layout::RUN_ENDED);
    Ok(Some(RunStatus {
        phases,
        n_failures: failures.len() as u64,
        ended: output.get_json(&end, "event of a run").await?,
        started,
    }))
}

/// Only tasks of the phase's plan count: its folder may hold attempts of other plans.
async fn n_done(output: &Output, phase: &PhaseStarted) -> Result<u64, OutputError> {
    let attempts = output.attempts(&phase.folder).await?;
    let folder = layout::plan_folder(&phase.stage, &phase.phase, &phase.plan);
    let mut n_done = 0;
    for object in output.list(&folder).await? {
        if object.path.ends_with("/plan.json") {
            continue;
        }
        let tasks: Option<Vec<gleaner_schemas::Task>> =
            output.get_json(&object.path, "chunk of a plan").await?;
        let tasks = tasks.unwrap_or_default();
        n_done += tasks
            .iter()
            .filter(|task| attempts.contains_key(&task.id))
            .count() as u64;
    }
    Ok(n_done)
}

impl StatusReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("{}\n", self.output);
        match &self.version {
            None => text.push_str("  nothing is published\n"),
            Some(version) => {
                let _ = writeln!(
                    text,
                    "  version {} was published at {}",
                    version.number, version.published_at
                );
                for (stage, rows) in &version.stages {
                    let _ = writeln!(text, "    {stage}: {} rows", count(*rows));
                }
            }
        }
        if let Some(endpoints) = &self.endpoints {
            endpoints.render(&mut text);
        }
        let Some(run) = &self.run else {
            text.push_str("  no run has started\n");
            return text;
        };
        let _ = writeln!(
            text,
            "  run {} started at {}",
            run.started.run, run.started.started_at
        );
        for phase in &run.phases {
            let started = &phase.started;
            let rows = started
                .n_rows
                .map_or_else(String::new, |n| format!(", {} rows", count(n)));
            let percent = 100 * phase.n_done / started.n_tasks.max(1);
            let _ = writeln!(
                text,
                "    {}/{}: {} of {} tasks ({percent}%){rows}, {}",
                started.stage,
                started.phase,
                phase.n_done,
                started.n_tasks,
                bytes(started.bytes)
            );
        }
        if run.n_failures > 0 {
            let _ = writeln!(text, "    {} attempts failed", run.n_failures);
        }
        let _ = match &run.ended {
            Some(ended) => writeln!(
                text,
                "  it ended at {} with exit code {}: {}",
                ended.ended_at, ended.exit_code, ended.message
            ),
            None => writeln!(
                text,
                "  it has not ended: it goes on (process {} of its machine), or it was killed; \
                 `gleaner run` goes on where it was",
                run.started.pid
            ),
        };
        text
    }
}
