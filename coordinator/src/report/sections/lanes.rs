//! Where every input row ended up, stage by stage, and why.

use serde::Serialize;

use super::{Section, numbers};
use crate::report::html::{Cell, Table, whole};
use crate::report::input::{Input, count, text};
use crate::report::svg;
use crate::run_error::RunError;
use crate::sql::quote_name;

/// Reasons that are shown of a stage.
const REASONS_MAX: usize = 8;

#[derive(Debug, Serialize)]
struct StageLanes {
    stage: String,
    kind: String,
    rows_in: u64,
    ok: u64,
    ineligible: u64,
    rejected: u64,
    failed: u64,
    excluded: u64,
    reasons: Vec<Reason>,
}

#[derive(Debug, Serialize)]
struct Reason {
    status: String,
    reason: String,
    rows: u64,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    // Of a query only its own rows are known, and no lane leads to them.
    let sql = "SELECT stage, kind, rows_in, ok, ineligible, rejected, failed, excluded FROM \
               gleaner.stages WHERE kind <> 'query' AND (rows_in > 0 OR excluded > 0) ORDER BY \
               position";
    let mut stages = Vec::new();
    for row in input.rows(sql).await? {
        let stage = text(&row, "stage").unwrap_or_default();
        stages.push(StageLanes {
            kind: text(&row, "kind").unwrap_or_default(),
            rows_in: count(&row, "rows_in"),
            ok: count(&row, "ok"),
            ineligible: count(&row, "ineligible"),
            rejected: count(&row, "rejected"),
            failed: count(&row, "failed"),
            excluded: count(&row, "excluded"),
            reasons: reasons(input, &stage).await?,
            stage,
        });
    }
    if stages.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![Section {
        name: "lanes",
        stage: None,
        title: "Where every row went".to_owned(),
        numbers: numbers(&stages)?,
        body: render(&stages),
    }])
}

async fn reasons(input: &Input, stage: &str) -> Result<Vec<Reason>, RunError> {
    if !input.has(stage, "status") || !input.has(stage, "reason") {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT status, reason, count(*) AS n FROM {} WHERE status <> 'ok' GROUP BY status, reason \
         ORDER BY n DESC, status, reason LIMIT {REASONS_MAX}",
        quote_name(stage)
    );
    let rows = input.rows(&sql).await?;
    let reasons = rows.iter().map(|row| Reason {
        status: text(row, "status").unwrap_or_default(),
        reason: text(row, "reason").unwrap_or_default(),
        rows: count(row, "n"),
    });
    Ok(reasons.collect())
}

fn render(stages: &[StageLanes]) -> String {
    let mut html = String::from(
        "<p>Rows in = ok + ineligible + rejected + failed. Of a selection, ok are the chosen rows \
         and ineligible all others.</p>\n",
    );
    let titles = [
        "stage",
        "#rows in",
        "",
        "#ok",
        "#ineligible",
        "#rejected",
        "#failed",
        "#excluded before",
    ];
    let mut table = Table::new("Rows by lane", &titles);
    for stage in stages {
        let label = format!(
            "{}: {} ok, {} ineligible, {} rejected, {} failed",
            stage.stage, stage.ok, stage.ineligible, stage.rejected, stage.failed
        );
        let parts = [
            ("ok", stage.ok),
            ("ineligible", stage.ineligible),
            ("rejected", stage.rejected),
            ("failed", stage.failed),
        ];
        table.row([
            Cell::Text(stage.stage.clone()),
            Cell::Number(whole(stage.rows_in)),
            Cell::Html(svg::stack(&label, &parts)),
            Cell::Number(whole(stage.ok)),
            Cell::Number(whole(stage.ineligible)),
            Cell::Number(whole(stage.rejected)),
            Cell::Number(whole(stage.failed)),
            Cell::Number(whole(stage.excluded)),
        ]);
    }
    html.push_str(&table.finish());
    if stages.iter().any(|stage| !stage.reasons.is_empty()) {
        let mut table = Table::new("Why", &["stage", "lane", "reason", "#rows"]);
        for stage in stages {
            for reason in &stage.reasons {
                table.row([
                    Cell::Text(stage.stage.clone()),
                    Cell::Text(reason.status.clone()),
                    Cell::Text(reason.reason.clone()),
                    Cell::Number(whole(reason.rows)),
                ]);
            }
        }
        html.push_str(&table.finish());
    }
    html
}
