//! The README of a training set: what it is, how it was made, how it is loaded.

use std::fmt::Write as _;

use gleaner_schemas::Version;
use serde_json::Value;

use super::files::WrittenFile;
use super::layout::{Grades, TrainingLayout};
use super::{FoldKind, TrainingOptions, TrainingReport};
use crate::progress::count;

/// What the README tells.
pub(super) struct Card<'a> {
    pub(super) version: &'a Version,
    pub(super) stage: &'a str,
    pub(super) options: &'a TrainingOptions,
    pub(super) grades: &'a Grades,
    pub(super) report: &'a TrainingReport,
}

impl Card<'_> {
    /// The text, with the header that dataset hubs read.
    pub(super) fn render(&self, files: &[WrittenFile]) -> String {
        let Version { job, number, .. } = self.version;
        let n_queries: u64 = self.report.queries.values().sum();
        let mut text = format!(
            "---\npretty_name: {job} {stage}\ntags: [synthetic, retrieval, gleaner]\n\
             task_categories: [text-retrieval]\nsize_categories: [{size}]\n{configs}---\n\n\
             # {job}: {stage}\n\n{n} queries with graded documents, written by a language model. \
             Made by Gleaner {program} from version {number} of the output, published {at}.\n",
            stage = self.stage,
            size = size_category(n_queries),
            configs = self.configs(files),
            n = count(n_queries),
            program = self.version.gleaner_version,
            at = self.version.published_at,
        );
        self.render_contents(&mut text, files);
        self.render_origin(&mut text);
        text.push_str(
            "\n## What it is not\n\nGrades are what the model was asked for, not what people judged. The quality \
             tables of the run (`gleaner report`) tell how far they can be trusted.\n",
        );
        text
    }

    /// Which file is which split, for loaders.
    fn configs(&self, files: &[WrittenFile]) -> String {
        let mut text = "configs:\n".to_owned();
        let has = |name: &str| files.iter().any(|file| file.name == name);
        if self.options.layout.has_corpus() {
            for (config, name) in [("corpus", "corpus.jsonl"), ("queries", "queries.jsonl")] {
                if has(name) {
                    let _ = writeln!(
                        text,
                        "- config_name: {config}\n  data_files: [{{split: {config}, path: {name}}}]"
                    );
                }
            }
            return text;
        }
        text.push_str("- config_name: default\n  data_files:\n");
        for split in self.report.queries.keys() {
            let _ = writeln!(text, "  - {{split: {split}, path: {split}.jsonl}}");
        }
        text
    }

    fn render_contents(&self, text: &mut String, files: &[WrittenFile]) {
        text.push_str("\n## Files\n\n| file | lines |\n|---|---:|\n");
        for file in files {
            let _ = writeln!(text, "| `{}` | {} |", file.name, count(file.lines));
        }
        text.push_str("\n| split | queries |\n|---|---:|\n");
        for (split, n_queries) in &self.report.queries {
            let _ = writeln!(text, "| {split} | {} |", count(*n_queries));
        }
        let splits = match self.options.folds {
            None => {
                "A query stands in one split, together with all queries of its source document and \
                 all of the same words"
            }
            Some(FoldKind::Extrapolation) => {
                "Each fold holds similar queries, so that what is tested is unlike what is trained \
                 on; all queries of a source document and all of the same words stand in one"
            }
            Some(FoldKind::Interpolation) => {
                "Each fold has a part of each kind of queries, so that what is tested is like what \
                 is trained on; all queries of a source document and all of the same words stand in \
                 one"
            }
        };
        let _ = writeln!(
            text,
            "\n{splits} (seed {}). Grades go from 0, irrelevant, to {}; every query has at least {} \
             documents.",
            self.options.seed, self.grades.highest, self.grades.group_size
        );
        for (reason, n_queries) in &self.report.left_out {
            let _ = writeln!(
                text,
                "Left out: {} queries that {}.",
                count(*n_queries),
                reason.as_str()
            );
        }
        if self.report.n_shown > 0 {
            let _ = writeln!(
                text,
                "In the first split whatever its share: {} queries that the model was shown as \
                 examples, or that stand together with such.",
                count(self.report.n_shown)
            );
        }
        let how = match self.options.layout {
            TrainingLayout::Beir | TrainingLayout::Trec => return,
            TrainingLayout::Tevatron
            | TrainingLayout::FlagEmbedding
            | TrainingLayout::SentenceTransformersTriplets => format!(
                "Documents of grade {} or more are positive, the others negative.",
                self.grades.positive
            ),
            TrainingLayout::SentenceTransformersLists => {
                "`labels` are the grades of `docs`, in the same order.".to_owned()
            }
            TrainingLayout::SentenceTransformersPairs => {
                format!("`score` is the grade divided by {}.", self.grades.highest)
            }
        };
        let _ = writeln!(text, "\n{how}");
    }

    fn render_origin(&self, text: &mut String) {
        text.push_str("\n## How it was made\n\n");
        let stages = self.version.stage_order.iter();
        let made = stages.filter_map(|name| Some((name, self.version.stages.get(name)?)));
        for (name, stage) in made {
            let params = serde_json::to_string(&stage.params).unwrap_or_default();
            let _ = writeln!(text, "- `{name}` ({}): `{params}`", stage.kind);
        }
        let endpoints = self
            .version
            .job_file
            .get("endpoints")
            .and_then(Value::as_object);
        for (name, endpoint) in endpoints.into_iter().flatten() {
            let model = endpoint
                .get("model")
                .and_then(Value::as_str)
                .unwrap_or("unknown");
            let _ = writeln!(text, "- endpoint `{name}`: model `{model}`");
        }
    }
}

pub(crate) fn size_category(n_queries: u64) -> &'static str {
    match n_queries {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "n>1M",
    }
}
