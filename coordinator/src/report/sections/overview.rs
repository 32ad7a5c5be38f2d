//! What the version is: job, time, files, stages.

use serde::Serialize;

use super::{Section, numbers};
use crate::progress::bytes;
use crate::report::html::{Cell, Table, facts, whole};
use crate::report::input::{Input, count, text};
use crate::run_error::RunError;

#[derive(Debug, Serialize)]
struct Overview {
    job: String,
    output: String,
    version: u64,
    published_at: String,
    run: String,
    gleaner_version: String,
    corpus_files: u64,
    corpus_bytes: u64,
    table_bytes: u64,
    stages: Vec<Stage>,
}

#[derive(Debug, Serialize)]
struct Stage {
    stage: String,
    kind: String,
    rows: u64,
    bytes: u64,
    files: u64,
    since_version: u64,
    since: String,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let sql = "SELECT stage, kind, rows, bytes, n_files, since_version, since FROM \
               gleaner.stages ORDER BY position";
    let stages = input.rows(sql).await?;
    let stages = stages.iter().map(|row| Stage {
        stage: text(row, "stage").unwrap_or_default(),
        kind: text(row, "kind").unwrap_or_default(),
        rows: count(row, "rows"),
        bytes: count(row, "bytes"),
        files: count(row, "n_files"),
        since_version: count(row, "since_version"),
        since: text(row, "since").unwrap_or_default(),
    });
    let version = input.version();
    let overview = Overview {
        job: version.job.clone(),
        output: input.opened.output.uri().to_owned(),
        version: version.number,
        published_at: version.published_at.clone(),
        run: version.run.to_string(),
        gleaner_version: version.gleaner_version.clone(),
        corpus_files: version.corpus.len() as u64,
        corpus_bytes: version.corpus.iter().map(|file| file.bytes).sum(),
        table_bytes: version.tables.values().map(|table| table.bytes).sum(),
        stages: stages.collect(),
    };
    Ok(vec![Section {
        name: "overview",
        stage: None,
        title: "What this is".to_owned(),
        numbers: numbers(&overview)?,
        body: render(&overview),
    }])
}

fn render(overview: &Overview) -> String {
    let mut html = facts(&[
        ("job", overview.job.clone()),
        ("version", overview.version.to_string()),
        ("published", moment(&overview.published_at)),
        (
            "by",
            format!("gleaner {}, run {}", overview.gleaner_version, overview.run),
        ),
        (
            "corpus",
            format!(
                "{} files, {}",
                whole(overview.corpus_files),
                bytes(overview.corpus_bytes)
            ),
        ),
        ("tables", bytes(overview.table_bytes)),
        ("output", overview.output.clone()),
    ]);
    let titles = [
        "stage",
        "kind",
        "#rows",
        "#size",
        "#files",
        "as it is since",
    ];
    let mut table = Table::new("Stages, in the order of the job", &titles);
    for stage in &overview.stages {
        table.row([
            Cell::Text(stage.stage.clone()),
            Cell::Text(stage.kind.clone()),
            Cell::Number(whole(stage.rows)),
            Cell::Number(bytes(stage.bytes)),
            Cell::Number(whole(stage.files)),
            Cell::Text(match stage.since_version {
                0 => String::new(),
                number => format!("version {number}, {}", day(&stage.since)),
            }),
        ]);
    }
    html.push_str(&table.finish());
    html
}

fn day(rfc3339: &str) -> &str {
    rfc3339.get(..10).unwrap_or(rfc3339)
}

/// A time as people read it: `2026-11-24 15:38 UTC`.
fn moment(rfc3339: &str) -> String {
    match (rfc3339.get(..10), rfc3339.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => rfc3339.to_owned(),
    }
}
