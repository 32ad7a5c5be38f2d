//! Parameters of `importance_weights`, from what was typed to what it means.

use std::collections::{BTreeMap, BTreeSet};

use gleaner_algorithms::features::{BUCKETS_MAX, NGRAMS_MAX};
use gleaner_schemas::job::{Job, JobError, nearest};
use gleaner_schemas::units::Ratio;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checks::{check_input, check_proportions};
use super::model::{Features, HashName, TargetMode, TokenizerName};
use super::values::{FitSample, Names};
use crate::stage::DocumentSource;

/// The `input` that means the job's corpus.
pub(crate) const CORPUS: &str = "corpus";

/// Memory that a bucket takes where counts and ratios of it are held at once.
const BYTES_PER_BUCKET: u64 = 32;

/// Parameters of an `importance_weights` stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportanceParams {
    /// What is scored: `corpus`, or an earlier `select` stage with `materialize: true`.
    #[serde(default = "default_input")]
    pub input: String,
    /// Dataset or datasets that the selection should resemble.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Names>,
    /// Whether several targets are counted together or have a model and a column each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "pooled"))]
    pub targets: Option<TargetMode>,
    /// Share of each separate target in later selections; default: its share of the n-grams.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proportions: BTreeMap<String, Ratio>,
    /// Longest n-gram, 1 to 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = 2, "minimum" = 1, "maximum" = 4))]
    pub ngrams: Option<u64>,
    /// Number of hash buckets, up to 2^24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = 10000, "minimum" = 1, "maximum" = 16_777_216))]
    pub buckets: Option<u64>,
    /// Hash of n-grams; `sha256` reproduces the reference package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "xxh3"))]
    pub hash: Option<HashName>,
    /// How text is split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "wordpunct"))]
    pub tokenizer: Option<TokenizerName>,
    /// Documents with fewer tokens are ineligible; so are those without any.
    #[serde(default = "default_min_tokens")]
    pub min_tokens: u32,
    /// Added to the target's count of each bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = 0.0))]
    pub target_pseudo_count: Option<f64>,
    /// How much of the input the raw side is counted on: `auto` (100000 n-grams per bucket),
    /// `all`, or a number of n-grams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "auto"))]
    pub fit_sample: Option<FitSample>,
    /// Score chunks of so many words, each as a document of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub chunk_words: Option<u64>,
    /// Add the columns `repeating`, `informative`, `numeric`.
    #[serde(default)]
    pub quality: bool,
    /// Fit anew although an earlier version of this output has a model.
    #[serde(default)]
    pub refit: bool,
    /// Use the model of another output's stage, `<output>/<stage>`, and fit nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

fn default_input() -> String {
    CORPUS.to_owned()
}

fn default_min_tokens() -> u32 {
    100
}

impl ImportanceParams {
    /// Reads and checks the parameters of a stage.
    ///
    /// # Errors
    ///
    /// Everything that can be known from the job file alone.
    pub fn of(job: &Job, name: &str) -> Result<Self, JobError> {
        let params: Self = job.stage_params(name)?;
        params.check_numbers(job, name)?;
        params.check_targets(job, name)?;
        check_input(job, name, &params.input)?;
        Ok(params)
    }

    fn check_numbers(&self, job: &Job, name: &str) -> Result<(), JobError> {
        let error = |key: &str, message: String, help: &str| {
            let help = Some(help.to_owned()).filter(|help| !help.is_empty());
            Err(job.error_at(&format!("stages.{name}.{key}"), message, help))
        };
        if let Some(n) = self
            .ngrams
            .filter(|n| !(1..=u64::from(NGRAMS_MAX)).contains(n))
        {
            return error(
                "ngrams",
                format!("ngrams is {n}, it must be 1 to {NGRAMS_MAX}"),
                "",
            );
        }
        if let Some(n) = self
            .buckets
            .filter(|n| !(1..=u64::from(BUCKETS_MAX)).contains(n))
        {
            let message = format!("buckets is {n}, it must be 1 to {BUCKETS_MAX}");
            return error("buckets", message, "10000 is the method's default");
        }
        let memory = job.file.memory;
        let n_buckets = self.buckets.unwrap_or_default();
        if n_buckets.saturating_mul(BYTES_PER_BUCKET) > memory.bytes() {
            let message = format!("{n_buckets} buckets do not fit into {memory} of memory");
            return error("buckets", message, "raise `memory` or use fewer buckets");
        }
        if let Some(a) = self
            .target_pseudo_count
            .filter(|a| !(*a >= 0.0 && a.is_finite()))
        {
            let message = format!("target_pseudo_count is {a}, it must be zero or more");
            return error("target_pseudo_count", message, "");
        }
        if self.chunk_words == Some(0) {
            return error(
                "chunk_words",
                "a chunk of zero words holds nothing".to_owned(),
                "",
            );
        }
        Ok(())
    }

    fn check_targets(&self, job: &Job, name: &str) -> Result<(), JobError> {
        let place = |key: &str| format!("stages.{name}.{key}");
        if let Some(model) = &self.model {
            let is_path = model
                .rsplit_once('/')
                .is_some_and(|(output, stage)| !output.is_empty() && !stage.is_empty());
            if !is_path {
                return Err(job.error_at(
                    &place("model"),
                    format!("{model:?} does not name a model"),
                    Some("write `<output>/<stage>`: an output and a stage of it".to_owned()),
                ));
            }
            if self.refit {
                return Err(job.error_at(
                    &place("refit"),
                    "`refit` and `model` exclude each other: nothing is fitted with `model`",
                    None,
                ));
            }
        }
        let Some(targets) = &self.target else {
            if self.model.is_some() {
                return Ok(());
            }
            return Err(job.error_at_key(
                &format!("stages.{name}"),
                "the key `target` is missing",
                Some("name a dataset to resemble, or a fitted `model`".to_owned()),
            ));
        };
        let mut seen = BTreeSet::new();
        for target in targets.iter() {
            if self.model.is_none() && !job.file.datasets.contains_key(target) {
                let known = job.file.datasets.keys().map(String::as_str);
                return Err(job.error_at(
                    &place("target"),
                    format!("there is no dataset `{target}`"),
                    nearest(target, known).or_else(|| Some("add it under `datasets`".to_owned())),
                ));
            }
            if !seen.insert(target) {
                let message = format!("the target `{target}` is named twice");
                return Err(job.error_at(&place("target"), message, None));
            }
        }
        if self.proportions.is_empty() {
            return Ok(());
        }
        if self.model.is_none() && self.mode() == TargetMode::Pooled {
            return Err(job.error_at(
                &place("proportions"),
                "proportions divide a selection among separate targets; here is one model",
                Some("add `targets: separate`, or drop `proportions`".to_owned()),
            ));
        }
        check_proportions(job, &place("proportions"), &self.proportions, targets)
    }

    /// Pooled unless there are several targets, each wanted for itself.
    #[must_use]
    pub fn mode(&self) -> TargetMode {
        let n_targets = self.target.as_ref().map_or(0, |targets| targets.len());
        match self.targets {
            Some(TargetMode::Separate) if n_targets > 1 => TargetMode::Separate,
            _ => TargetMode::Pooled,
        }
    }

    /// What documents are turned into where nothing else is asked for.
    #[must_use]
    pub fn features(&self) -> Features {
        let default = Features::default();
        Features {
            tokenizer: self.tokenizer.unwrap_or(default.tokenizer),
            // Both were checked to be in their bounds.
            ngrams: self
                .ngrams
                .map_or(default.ngrams, |n| n.min(u64::from(NGRAMS_MAX)) as u8),
            buckets: self
                .buckets
                .map_or(default.buckets, |n| n.min(u64::from(BUCKETS_MAX)) as u32),
            hash: self.hash.unwrap_or(default.hash),
            hash_version: self.hash.unwrap_or(default.hash).version(),
        }
    }

    /// The pseudo-count, or its default.
    #[must_use]
    pub fn pseudo_count(&self) -> f64 {
        self.target_pseudo_count.unwrap_or(0.0)
    }

    /// Where documents come from.
    #[must_use]
    pub fn source(&self) -> DocumentSource {
        if self.input == CORPUS {
            DocumentSource::Corpus
        } else {
            DocumentSource::Stage(self.input.clone())
        }
    }

    /// With all defaults, as `gleaner.stages` shows them.
    #[must_use]
    pub fn expanded(&self) -> Self {
        if self.model.is_some() {
            return self.clone();
        }
        let features = self.features();
        Self {
            targets: Some(self.mode()),
            ngrams: Some(u64::from(features.ngrams)),
            buckets: Some(u64::from(features.buckets)),
            hash: Some(features.hash),
            tokenizer: Some(features.tokenizer),
            target_pseudo_count: Some(self.pseudo_count()),
            fit_sample: Some(self.fit_sample.unwrap_or_default()),
            ..self.clone()
        }
    }

    /// What was asked for that a given model does not have, as sentences.
    pub(crate) fn differences(&self, model: &super::model::ModelFacts) -> Vec<String> {
        let features = &model.features;
        let names: Vec<&str> = model
            .targets
            .iter()
            .map(|target| target.name.as_str())
            .collect();
        let asked = [
            (
                "ngrams",
                self.ngrams.map(|n| json!(n)),
                json!(features.ngrams),
            ),
            (
                "buckets",
                self.buckets.map(|n| json!(n)),
                json!(features.buckets),
            ),
            (
                "hash",
                self.hash.map(|hash| json!(hash)),
                json!(features.hash),
            ),
            (
                "tokenizer",
                self.tokenizer.map(|it| json!(it)),
                json!(features.tokenizer),
            ),
            (
                "target",
                self.target.as_ref().map(|it| json!(it)),
                json!(names),
            ),
            (
                "target_pseudo_count",
                self.target_pseudo_count.map(|a| json!(a)),
                json!(model.pseudo_count),
            ),
        ];
        asked
            .into_iter()
            .filter_map(|(key, asked, has)| match asked {
                Some(asked) if asked != has => {
                    Some(format!("`{key}` is {asked} here and {has} in the model"))
                }
                _ => None,
            })
            .collect()
    }
}
