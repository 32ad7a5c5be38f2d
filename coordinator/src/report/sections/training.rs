//! How language models were trained.

use serde::Serialize;

use super::{Section, numbers};
use crate::report::html::{facts, number, whole};
use crate::report::input::{Input, float};
use crate::report::svg::{self, Caption, Line};
use crate::run_error::RunError;
use crate::sql::quote_name;
use crate::summary::{TrainingSummary, losses};

/// Steps that are drawn: of longer trainings every so many.
const STEPS_MAX: u64 = 600;

#[derive(Debug, Serialize)]
struct Training {
    #[serde(flatten)]
    summary: TrainingSummary,
    /// Step and loss of its batch.
    loss: Vec<(f64, f64)>,
    /// Step and loss of the held-out tokens.
    held_out_loss: Vec<(f64, f64)>,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let mut sections = Vec::new();
    for (name, stage) in input.stages_of("train_language_model") {
        let Some(summary) = losses::training(&stage.facts) else {
            continue;
        };
        let every = summary.n_steps.div_ceil(STEPS_MAX).max(1);
        let sql = format!(
            "SELECT step, loss, held_out_loss FROM {} WHERE step % {every} = 0 OR held_out_loss IS \
             NOT NULL ORDER BY step",
            quote_name(name)
        );
        let rows = input.rows(&sql).await?;
        let points = |key: &str| -> Vec<(f64, f64)> {
            let points = rows.iter();
            points
                .filter_map(|row| float(row, "step").zip(float(row, key)))
                .collect()
        };
        let found = Training {
            summary,
            loss: points("loss"),
            held_out_loss: points("held_out_loss"),
        };
        sections.push(Section {
            name: "training",
            stage: Some(name.to_owned()),
            title: format!("Training: {name}"),
            numbers: numbers(&found)?,
            body: render(&found),
        });
    }
    Ok(sections)
}

fn render(training: &Training) -> String {
    let summary = &training.summary;
    let nats = |loss: Option<f64>| {
        loss.map_or_else(
            || "–".to_owned(),
            |loss| format!("{} nats per token", number(loss)),
        )
    };
    let mut html = facts(&[
        ("parameters", whole(summary.n_parameters)),
        ("tokens", whole(summary.tokens)),
        (
            "steps",
            format!(
                "{}, kept {}",
                whole(summary.n_steps),
                whole(summary.best_step)
            ),
        ),
        ("held-out loss before", nats(summary.first_held_out_loss)),
        ("held-out loss after", nats(summary.held_out_loss)),
    ]);
    let description = format!(
        "held-out loss from {} to {}",
        nats(summary.first_held_out_loss),
        nats(summary.held_out_loss)
    );
    let caption = Caption {
        title: "Loss by step",
        description: &description,
        x: "step",
        y: "loss, nats per token",
    };
    let plot = svg::lines(
        &caption,
        &[
            Line {
                name: "each batch",
                class: "raw",
                has_marks: false,
                points: training.loss.clone(),
            },
            Line {
                name: "held-out tokens",
                class: "chosen",
                has_marks: true,
                points: training.held_out_loss.clone(),
            },
        ],
    );
    html.push_str(&format!("<div class=plots>\n{plot}</div>\n"));
    html
}
