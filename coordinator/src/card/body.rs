//! The text of a card, for people.

use std::fmt::Write as _;

use gleaner_schemas::job::Corpus;
use gleaner_schemas::{Version, VersionStage};
use gleaner_storage::redact::redact;
use serde_json::Value;

use super::Told;
use super::facts::{Counts, LISTED_MAX};
use super::header::FILES_LISTED_MAX;
use super::markdown::{code, inline};
use crate::progress::{bytes, count};

/// Decimal digits of nats.
const NATS_DIGITS: usize = 3;

pub(super) fn render(text: &mut String, told: &Told<'_>) {
    let Version {
        number,
        job,
        published_at,
        gleaner_version,
        corpus,
        ..
    } = told.version;
    let _ = writeln!(text, "# {}\n", inline(told.title()));
    if let Some(description) = &told.card.description {
        let _ = writeln!(text, "{}\n", description.trim());
    }
    let _ = writeln!(
        text,
        "Version {number} of the output of the Gleaner job {}, published {published_at} by Gleaner \
         {gleaner_version} from {} files of a corpus ({}).",
        code(job),
        count(corpus.len() as u64),
        bytes(corpus.iter().map(|file| file.bytes).sum()),
    );
    tables(text, told);
    load(text, told);
    sources(text, told);
    selections(text, told);
    generation(text, told);
    models(text, told);
    lanes(text, told.version);
    text.push_str(
        "\n## What it is not\n\nScores tell how much a text looks like a target, never whether it is \
         true, harmless or yours to use. The texts keep the licences of their sources.\n",
    );
}

fn tables(text: &mut String, told: &Told<'_>) {
    text.push_str(
        "\n## Tables\n\n| table | made by | rows | files | size |\n|---|---|---:|---:|---:|\n",
    );
    for (name, stage) in stages(told.version) {
        for table_name in &stage.tables {
            let Some(table) = told.version.tables.get(table_name) else {
                continue;
            };
            let kind = &stage.kind;
            let made_by = match table_name == name {
                true => kind.clone(),
                false => format!("{kind}, stage {}", code(name)),
            };
            let _ = writeln!(
                text,
                "| {} | {made_by} | {} | {} | {} |",
                code(table_name),
                table.rows,
                table.files.len(),
                bytes(table.bytes)
            );
        }
    }
}

fn load(text: &mut String, told: &Told<'_>) {
    let Some(main) = told.main_table() else {
        return;
    };
    let _ = writeln!(
        text,
        "\n## How to load it\n\nFrom the folder of this file, or by its name on a hub:\n\n```python\n\
         from datasets import load_dataset\nrows = load_dataset(\".\", \"{main}\", split=\"train\")\n```\n\n\
         Each table is a folder of Parquet files: `pandas.read_parquet(\"{main}\")`, and likewise \
         polars, DuckDB and pyarrow. A folder may hold files of older versions too: `manifest.json` \
         names those of this one, and `gleaner gc OUTPUT --keep 1` removes the others."
    );
    let delta: Vec<String> = told.version.delta_tables().map(code).collect();
    if !delta.is_empty() {
        let _ = writeln!(
            text,
            "As Delta tables, whose readers always see one version: {}. Their folders hold a \
             `_delta_log` too, so that other readers need the pattern `**/*.parquet`.",
            delta.join(", ")
        );
    }
    let is_large = |name: &&str| {
        let table = told.version.tables.get(*name);
        table.is_some_and(|table| table.files.len() > FILES_LISTED_MAX)
    };
    if told.tables().iter().any(is_large) {
        let _ = writeln!(
            text,
            "The header names the folder of a table of more than {FILES_LISTED_MAX} files, so it holds \
             for the newest version alone."
        );
    }
}

fn sources(text: &mut String, told: &Told<'_>) {
    let Some(job) = told.job else { return };
    text.push_str(
        "\n## Where it comes from\n\n| input | files | where | licence |\n|---|---|---|---|\n",
    );
    let mut row = |name: &str, input: &Corpus| {
        let paths: Vec<String> = input.paths.iter().map(|it| code(&redact(it))).collect();
        let predicate = input.predicate.as_deref().map(code).unwrap_or_default();
        let license = input.license.as_deref().map(inline).unwrap_or_default();
        let paths = paths.join(", ");
        let _ = writeln!(text, "| {name} | {paths} | {predicate} | {license} |");
    };
    row("corpus", &job.corpus);
    for (name, dataset) in &job.datasets {
        row(&format!("dataset {}", code(name)), dataset);
    }
    for (table, counts) in &told.facts.licenses {
        listed(
            text,
            &format!("Licences of the documents in {}", code(table)),
            counts,
        );
    }
    for (table, counts) in &told.facts.sources {
        if counts.iter().any(|(source, _)| source.is_some()) {
            listed(
                text,
                &format!("Sources of the documents in {}", code(table)),
                counts,
            );
        }
    }
}

/// A column's values with their counts.
fn listed(text: &mut String, title: &str, counts: &Counts) {
    let _ = writeln!(text, "\n{title}:\n\n| value | rows |\n|---|---:|");
    let n_listed = usize::try_from(LISTED_MAX).unwrap_or(usize::MAX);
    for (value, n_rows) in counts.iter().take(n_listed) {
        let value = value.as_deref().map_or("(none)".to_owned(), inline);
        let _ = writeln!(text, "| {value} | {n_rows} |");
    }
    if counts.len() > n_listed {
        text.push_str("| (more values) | |\n");
    }
}

fn selections(text: &mut String, told: &Told<'_>) {
    let selections = stages(told.version).filter(|(_, stage)| stage.kind == "select");
    for (name, stage) in selections {
        let param = |key: &str| stage.params.get(key).filter(|value| !value.is_null());
        let shown = |key: &str| param(key).map(shown).unwrap_or_default();
        let _ = writeln!(text, "\n## How {} was chosen\n", code(name));
        let budgets = [
            ("documents", "documents"),
            ("tokens", "tokens"),
            ("bytes", "bytes of text"),
            ("fraction", "of the eligible rows"),
        ];
        let budget = budgets
            .iter()
            .find_map(|(key, of)| Some(format!("{} {of}", self::shown(param(key)?))));
        let _ = write!(
            text,
            "By {}, method {}",
            code(&shown("by")),
            code(&shown("method"))
        );
        if let Some(budget) = budget {
            let _ = write!(text, ", a budget of {budget}");
        }
        if shown("method") == "resample" {
            let _ = write!(text, ", seed {}", code(&shown("seed")));
        }
        if let Some(group_by) = param("group_by") {
            let _ = write!(
                text,
                ", with a quota for each value of {}",
                code(&self::shown(group_by))
            );
        }
        let n_chosen = told.version.tables.get(name).map_or(0, |table| table.rows);
        let _ = writeln!(text, ": {n_chosen} of {} rows.", stage.lanes.rows_in);
        let measured = stage.facts.get("measure");
        let reduction = measured
            .and_then(|it| it.get("kl_reduction"))
            .and_then(Value::as_f64);
        if let Some(reduction) = reduction {
            let _ = writeln!(
                text,
                "The selection is {reduction:.NATS_DIGITS$} nats nearer to the target than the corpus (KL \
                 divergence of hashed n-grams, mean over targets)."
            );
        }
    }
}

fn generation(text: &mut String, told: &Told<'_>) {
    if told.facts.prompts.is_empty() {
        return;
    }
    text.push_str(
        "\n## What wrote the texts\n\nA language model. Grades are what it was asked for, not what people \
         judged.\n\n| table | model | prompt | rows | of them sound |\n|---|---|---|---:|---:|\n",
    );
    for (table, uses) in &told.facts.prompts {
        for used in uses {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                code(table),
                code(&used.model),
                code(&used.prompt),
                used.n_rows,
                used.n_ok
            );
        }
    }
}

fn models(text: &mut String, told: &Told<'_>) {
    let mut lines = String::new();
    for (name, stage) in stages(told.version) {
        let params = |key: &str| stage.params.get(key).map(shown).unwrap_or_default();
        match stage.kind.as_str() {
            "importance_weights" => {
                let _ = writeln!(
                    lines,
                    "- {}: hashed n-grams of the target {} against the corpus, {} buckets, n-grams up to \
                     {}; the fitted model is the table {}.",
                    code(name),
                    code(&params("target")),
                    params("buckets"),
                    params("ngrams"),
                    code(&format!("{name}_model"))
                );
            }
            "train_language_model" => {
                let model = stage.facts.get("model");
                let fact = |key: &str| {
                    model
                        .and_then(|it| it.get(key))
                        .map(shown)
                        .unwrap_or_default()
                };
                let _ = writeln!(
                    lines,
                    "- {}: a {} of {} parameters, trained by this job; its files lie below {}.",
                    code(name),
                    fact("architecture"),
                    fact("n_parameters"),
                    code(&format!("{name}_model/"))
                );
            }
            "loss_reduction" => {
                let _ = writeln!(
                    lines,
                    "- {}: mean loss under {} less that under {}, in nats per token.",
                    code(name),
                    code(&params("prior")),
                    code(&params("conditional"))
                );
            }
            _ => {}
        }
    }
    for (name, endpoint) in told.job.iter().flat_map(|job| &job.endpoints) {
        let _ = writeln!(
            lines,
            "- endpoint {}: the model {} of an OpenAI-compatible server.",
            code(name),
            code(&endpoint.model)
        );
    }
    if !lines.is_empty() {
        let _ = write!(text, "\n## Models\n\n{lines}");
    }
}

fn lanes(text: &mut String, version: &Version) {
    text.push_str(
        "\n## Every row\n\nRows in = ok + ineligible + rejected + failed. `gleaner verify` recounts them.\n\n\
         | stage | in | ok | ineligible | rejected | failed | tasks given up |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (name, stage) in stages(version) {
        let lanes = stage.lanes;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            code(name),
            lanes.rows_in,
            lanes.ok,
            lanes.ineligible,
            lanes.rejected,
            lanes.failed,
            stage.quarantined.len()
        );
    }
}

/// Stages in the order of the job.
fn stages(version: &Version) -> impl Iterator<Item = (&String, &VersionStage)> {
    let names = version.stage_order.iter();
    names.filter_map(|name| Some((name, version.stages.get(name)?)))
}

/// A parameter in a line: texts without quotes.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => redact(text),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => redact(&other.to_string()),
    }
}
