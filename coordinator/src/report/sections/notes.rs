//! What a reader should know before trusting the numbers.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Section, numbers};
use crate::report::html::Text;
use crate::report::input::Input;
use crate::run_error::RunError;
use crate::summary::duplicates;

/// Above this, comparing ids would take longer than people wait for a report.
const COMPARED_ROWS_MAX: u64 = 20_000_000;

#[derive(Debug, Serialize)]
struct Note {
    stage: Option<String>,
    text: String,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let mut notes = Vec::new();
    let version = input.version();
    for (name, stage) in input.stages() {
        let mut note = |text: String| {
            notes.push(Note {
                stage: Some(name.to_owned()),
                text,
            });
        };
        if !stage.quarantined.is_empty() {
            note(format!(
                "{} tasks were given up; their rows are missing from everything that follows",
                stage.quarantined.len()
            ));
        }
        let uncounted = stage
            .quarantined
            .iter()
            .filter(|task| task.rows.is_none())
            .count();
        if uncounted > 0 {
            note(format!(
                "of {uncounted} of them nobody knows how many rows they had: they are in no lane"
            ));
        }
        if stage.lanes.excluded > 0 {
            note(format!(
                "{} rows were excluded by `where`",
                stage.lanes.excluded
            ));
        }
        for table in stage.tables.iter().filter(|table| *table != name) {
            if let Some(of) = version.tables.get(table)
                && of.since_version < version.number
            {
                note(format!(
                    "{table} is as version {} published it ({}): later documents had no part in it",
                    of.since_version,
                    of.since.get(..10).unwrap_or(&of.since)
                ));
            }
        }
        let n_rows = input.n_rows(name).unwrap_or(0);
        if stage.kind == "importance_weights" && n_rows <= COMPARED_ROWS_MAX {
            let session = input.session();
            if let Some(text) = duplicates::count(session, name).await? {
                note(text);
            }
        }
    }
    if notes.is_empty() {
        return Ok(Vec::new());
    }
    let mut body = String::from("<ul>\n");
    for note in &notes {
        let stage = note.stage.as_deref().unwrap_or_default();
        let _ = writeln!(
            body,
            "<li><b dir=auto>{}</b>: <span dir=auto>{}</span></li>",
            Text(stage),
            Text(&note.text)
        );
    }
    body.push_str("</ul>\n");
    Ok(vec![Section {
        name: "notes",
        stage: None,
        title: "Notes".to_owned(),
        numbers: numbers(&notes)?,
        body,
    }])
}
