//! What the work took, and which tasks were given up.

use std::time::Duration;

use serde::Serialize;

use super::{Section, numbers};
use crate::progress::{bytes, duration};
use crate::report::html::{Cell, Table, whole};
use crate::report::input::{Input, count, float, text};
use crate::run_error::RunError;

/// Tasks that were given up and are shown.
const QUARANTINED_MAX: usize = 20;

#[derive(Debug, Serialize)]
struct Tasks {
    stages: Vec<StageTasks>,
    quarantined: Vec<Quarantined>,
}

#[derive(Debug, Serialize)]
struct StageTasks {
    stage: String,
    tasks: u64,
    quarantined: u64,
    /// Tasks whose time is known.
    timed: u64,
    attempts: u64,
    workers: u64,
    seconds: Option<f64>,
    median_seconds: Option<f64>,
    longest_seconds: Option<f64>,
    bytes_in: u64,
    worker_peak_memory_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Quarantined {
    stage: String,
    task: String,
    failure: String,
    inputs: String,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let sql = "SELECT t.stage AS stage, count(*) AS tasks, \
               count(*) FILTER (WHERE t.status = 'quarantined') AS quarantined, \
               count(t.seconds) AS timed, sum(t.attempts) AS attempts, \
               count(DISTINCT t.worker) AS workers, sum(t.seconds) AS seconds, \
               median(t.seconds) AS median_seconds, max(t.seconds) AS longest_seconds, \
               sum(t.bytes_in) AS bytes_in, \
               max(t.worker_peak_memory_bytes) AS worker_peak_memory_bytes \
               FROM gleaner.tasks t JOIN gleaner.stages s ON s.stage = t.stage \
               GROUP BY t.stage, s.position ORDER BY s.position";
    let rows = input.rows(sql).await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let stages: Vec<StageTasks> = rows
        .iter()
        .map(|row| StageTasks {
            stage: text(row, "stage").unwrap_or_default(),
            tasks: count(row, "tasks"),
            quarantined: count(row, "quarantined"),
            timed: count(row, "timed"),
            attempts: count(row, "attempts"),
            workers: count(row, "workers"),
            seconds: float(row, "seconds"),
            median_seconds: float(row, "median_seconds"),
            longest_seconds: float(row, "longest_seconds"),
            bytes_in: count(row, "bytes_in"),
            worker_peak_memory_bytes: count(row, "worker_peak_memory_bytes"),
        })
        .collect();
    let mut found = Tasks {
        quarantined: Vec::new(),
        stages,
    };
    if found.stages.iter().any(|stage| stage.quarantined > 0) {
        let sql = format!(
            "SELECT stage, task, failure, array_to_string(inputs, ', ') AS inputs FROM \
             gleaner.tasks WHERE status = 'quarantined' ORDER BY stage, task LIMIT {QUARANTINED_MAX}"
        );
        let rows = input.rows(&sql).await?;
        let quarantined = rows.iter().map(|row| Quarantined {
            stage: text(row, "stage").unwrap_or_default(),
            task: text(row, "task").unwrap_or_default(),
            failure: text(row, "failure").unwrap_or_default(),
            inputs: text(row, "inputs").unwrap_or_default(),
        });
        found.quarantined = quarantined.collect();
    }
    Ok(vec![Section {
        name: "tasks",
        stage: None,
        title: "Tasks and time".to_owned(),
        numbers: numbers(&found)?,
        body: render(&found),
    }])
}

fn time(seconds: Option<f64>) -> String {
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(span)) if span < Duration::from_secs(1) => format!("{} ms", span.as_millis()),
        Some(Ok(span)) => duration(span),
        _ => "–".to_owned(),
    }
}

fn render(tasks: &Tasks) -> String {
    let titles = [
        "stage",
        "#tasks",
        "#given up",
        "#attempts",
        "#workers",
        "#time of all",
        "#median",
        "#longest",
        "#read",
        "#peak memory",
    ];
    let mut html = String::from(
        "<p>As the workers recorded it, of the tasks that wrote the stages' tables. What an \
         earlier version had is from the run that did it.</p>\n",
    );
    let mut table = Table::new("Tasks by stage", &titles);
    let known = |n: u64, text: String| match n {
        0 => "–".to_owned(),
        _ => text,
    };
    for stage in &tasks.stages {
        table.row([
            Cell::Text(stage.stage.clone()),
            Cell::Number(whole(stage.tasks)),
            Cell::Number(whole(stage.quarantined)),
            Cell::Number(known(stage.attempts, whole(stage.attempts))),
            Cell::Number(known(stage.workers, whole(stage.workers))),
            Cell::Number(time(stage.seconds)),
            Cell::Number(time(stage.median_seconds)),
            Cell::Number(time(stage.longest_seconds)),
            Cell::Number(known(stage.bytes_in, bytes(stage.bytes_in))),
            Cell::Number(known(
                stage.worker_peak_memory_bytes,
                bytes(stage.worker_peak_memory_bytes),
            )),
        ]);
    }
    html.push_str(&table.finish());
    if !tasks.quarantined.is_empty() {
        let titles = ["stage", "task", "why", "files"];
        let mut table = Table::new("Tasks that were given up", &titles);
        for task in &tasks.quarantined {
            table.row([
                Cell::Text(task.stage.clone()),
                Cell::Text(task.task.clone()),
                Cell::Text(task.failure.clone()),
                Cell::Text(task.inputs.clone()),
            ]);
        }
        html.push_str(&table.finish());
    }
    html
}
