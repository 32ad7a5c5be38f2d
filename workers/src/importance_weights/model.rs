//! The fitted model: what it was fitted with, its table, and how tasks load it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_algorithms::{FeatureExtractor, FeatureSpec, NgramHash, Tokenizer};
use gleaner_schemas::Failure;
use gleaner_schemas::columns::with_field_ids;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch_columns::{floats, numbers, permanent};
use crate::stage::{Derived, SideInputs};

/// Name of the side input that holds the model.
pub(crate) const MODEL: &str = "model";
/// Schema metadata of the model's table: its [`Features`] as JSON.
pub(crate) const FEATURES_KEY: &str = "gleaner.features";

/// A hash of n-grams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HashName {
    /// The fast one.
    Xxh3,
    /// The reference package's.
    Sha256,
}

impl HashName {
    fn algorithm(self) -> NgramHash {
        match self {
            Self::Xxh3 => NgramHash::Xxh3,
            Self::Sha256 => NgramHash::Sha256,
        }
    }

    /// Version of its definition.
    #[must_use]
    pub fn version(self) -> u32 {
        self.algorithm().version()
    }
}

/// How text is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerName {
    /// WordPunct as in NLTK 3.10.
    #[serde(rename = "wordpunct")]
    WordPunct,
    /// WordPunct as in NLTK 3.8 and earlier.
    #[serde(rename = "wordpunct_legacy")]
    WordPunctLegacy,
}

/// Whether several targets share a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetMode {
    /// All targets are counted together.
    Pooled,
    /// A model and a column for each.
    Separate,
}

/// What documents are turned into; a model is never applied with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// How text is split.
    pub tokenizer: TokenizerName,
    /// All i-grams for i = 1..=ngrams.
    pub ngrams: u8,
    /// Number of buckets.
    pub buckets: u32,
    /// How n-grams become buckets.
    pub hash: HashName,
    /// Version of the hash's definition.
    pub hash_version: u32,
}

impl Default for Features {
    fn default() -> Self {
        let spec = FeatureSpec::default();
        Self {
            tokenizer: TokenizerName::WordPunct,
            ngrams: spec.ngrams,
            buckets: spec.buckets,
            hash: HashName::Xxh3,
            hash_version: HashName::Xxh3.version(),
        }
    }
}

impl Features {
    /// An extractor of these features.
    ///
    /// # Errors
    ///
    /// Permanent, if this build does not know the hash's version or a bound is exceeded.
    pub fn extractor(&self) -> Result<FeatureExtractor, Failure> {
        if self.hash_version != self.hash.version() {
            return Err(permanent(format!(
                "the model was fitted with version {} of its hash, this build has version {}",
                self.hash_version,
                self.hash.version()
            )));
        }
        let spec = FeatureSpec {
            tokenizer: match self.tokenizer {
                TokenizerName::WordPunct => Tokenizer::WordPunct,
                TokenizerName::WordPunctLegacy => Tokenizer::WordPunctLegacy,
            },
            ngrams: self.ngrams,
            buckets: self.buckets,
            hash: self.hash.algorithm(),
        };
        FeatureExtractor::new(spec).map_err(|error| permanent(error.to_string()))
    }
}

/// What was counted on one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideFacts {
    /// Documents with a text.
    pub n_documents: u64,
    /// Their tokens.
    pub n_tokens: u64,
    /// Their n-grams.
    pub n_ngrams: u64,
}

/// A target of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFacts {
    /// The dataset.
    pub name: String,
    /// What was counted.
    pub counted: SideFacts,
}

/// What is known of a model besides its table: the fact `model` of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// What documents are turned into.
    pub features: Features,
    /// Whether several targets share the model.
    pub mode: TargetMode,
    /// The targets, in the order of the job.
    pub targets: Vec<TargetFacts>,
    /// What was counted of the input.
    pub raw: SideFacts,
    /// Added to the target's count of each bucket.
    pub pseudo_count: f64,
    /// Everything that the fit depended on in the job file; another value means another fit.
    pub fitted_with: Value,
}

impl ModelFacts {
    /// Reads the fact `model`.
    ///
    /// # Errors
    ///
    /// Permanent, if it is not there or written by another version.
    pub fn read(fact: Option<&Value>, whose: &str) -> Result<Self, Failure> {
        let fact = fact.ok_or_else(|| permanent(format!("{whose} has no fitted model")))?;
        Self::deserialize(fact)
            .map_err(|error| permanent(format!("the model of {whose} cannot be read: {error}")))
    }

    /// What each log ratio is called, and what its columns end in.
    #[must_use]
    pub fn columns(&self) -> Vec<(String, String)> {
        let names: Vec<&str> = self
            .targets
            .iter()
            .map(|target| target.name.as_str())
            .collect();
        match self.mode {
            TargetMode::Pooled => vec![(names.join("+"), String::new())],
            TargetMode::Separate => names
                .into_iter()
                .map(|name| (name.to_owned(), format!("_{name}")))
                .collect(),
        }
    }

    /// What the columns of each log ratio end in: nothing, or `_<target>` for each target.
    #[must_use]
    pub fn suffixes(&self) -> Vec<String> {
        suffixes(
            self.mode,
            self.targets.iter().map(|target| target.name.as_str()),
        )
    }
}

pub(crate) fn suffixes<'a>(
    mode: TargetMode,
    targets: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    match mode {
        TargetMode::Pooled => vec![String::new()],
        TargetMode::Separate => targets.map(|name| format!("_{name}")).collect(),
    }
}

/// Schema of the model's table: `bucket`, `raw_count`, then `target_count<suffix>` and
/// `log_ratio<suffix>` for each suffix.
pub(crate) fn model_schema(features: &Features, suffixes: &[String]) -> Result<SchemaRef, Failure> {
    let mut fields = vec![
        Field::new("bucket", DataType::UInt32, false),
        Field::new("raw_count", DataType::UInt64, false),
    ];
    for suffix in suffixes {
        fields.push(Field::new(
            format!("target_count{suffix}"),
            DataType::UInt64,
            false,
        ));
        fields.push(Field::new(
            format!("log_ratio{suffix}"),
            DataType::Float64,
            false,
        ));
    }
    let features = serde_json::to_string(features)
        .map_err(|error| permanent(format!("cannot write the features of a model: {error}")))?;
    let metadata = HashMap::from([(FEATURES_KEY.to_owned(), features)]);
    Ok(with_field_ids(&Schema::new_with_metadata(fields, metadata)))
}

/// The log ratios of a model by suffix, as tasks use them.
#[derive(Debug)]
pub(crate) struct LogRatios {
    pub(crate) by_suffix: Vec<Vec<f64>>,
    /// Buckets that the fit did not see on the raw side; absent where it saw all.
    pub(crate) is_unseen: Option<Vec<bool>>,
}

impl LogRatios {
    /// Loads the model once per worker.
    pub(crate) fn load(
        side_inputs: &dyn SideInputs,
        features: &Features,
        suffixes: &[String],
    ) -> Result<Arc<Self>, Failure> {
        let purpose = format!("log ratios {}", suffixes.join(","));
        let mut build = |batches: &[RecordBatch]| -> Result<Derived, Failure> {
            let bytes = u64::from(features.buckets) * (8 * suffixes.len() as u64 + 1);
            let value = Arc::new(Self::of(batches, features, suffixes)?);
            Ok(Derived { value, bytes })
        };
        let derived = side_inputs.derived(MODEL, &purpose, &mut build)?;
        Arc::downcast(derived.value)
            .map_err(|_| permanent("the model was loaded as something else"))
    }

    fn of(
        batches: &[RecordBatch],
        features: &Features,
        suffixes: &[String],
    ) -> Result<Self, Failure> {
        let mut by_suffix = vec![Vec::with_capacity(features.buckets as usize); suffixes.len()];
        let mut is_unseen = Vec::with_capacity(features.buckets as usize);
        for batch in batches {
            check_features(batch, features)?;
            let n_before = by_suffix.first().map_or(0, Vec::len) as u64;
            let raw_counts = numbers(batch, "raw_count")?;
            is_unseen.extend(raw_counts.values().iter().map(|count| *count == 0));
            let buckets = numbers(batch, "bucket")?;
            let is_dense = buckets
                .values()
                .iter()
                .copied()
                .eq(n_before..n_before + buckets.len() as u64);
            if !is_dense {
                return Err(permanent(
                    "the buckets of the model are not all there, in order",
                ));
            }
            for (ratios, suffix) in by_suffix.iter_mut().zip(suffixes) {
                ratios.extend_from_slice(floats(batch, &format!("log_ratio{suffix}"))?.values());
            }
        }
        if by_suffix
            .iter()
            .any(|ratios| ratios.len() != features.buckets as usize)
        {
            return Err(permanent(format!(
                "the model does not have {} buckets",
                features.buckets
            )));
        }
        let is_unseen = is_unseen.contains(&true).then_some(is_unseen);
        Ok(Self {
            by_suffix,
            is_unseen,
        })
    }
}

/// Refuses a model that was fitted with other features, where its table tells.
pub(crate) fn check_features(batch: &RecordBatch, features: &Features) -> Result<(), Failure> {
    let Some(text) = batch.schema_ref().metadata().get(FEATURES_KEY) else {
        return Ok(());
    };
    let found: Features = serde_json::from_str(text)
        .map_err(|error| permanent(format!("the model's features cannot be read: {error}")))?;
    if found == *features {
        Ok(())
    } else {
        Err(permanent(format!(
            "the model was fitted with other features: it has {text}"
        )))
    }
}
