//! Parameters of `select`, from what was typed to what it means.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gleaner_schemas::job::{Job, JobError, nearest};
use gleaner_schemas::units::{ByteSize, Limit, Ratio};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::importance_weights::{self, ImportanceParams, TargetMode, check_proportions};

/// How rows are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Without replacement, with probability proportional to `exp(score / temperature)`.
    Resample,
    /// The highest scores.
    TopK,
    /// The lowest scores.
    BottomK,
    /// All scores of `threshold` and above.
    Threshold,
}

/// Parameters of a `select` stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectParams {
    /// `<stage>.<column>`: an earlier stage and its column of scores.
    pub by: String,
    /// How rows are chosen.
    pub method: Method,
    /// Budget in rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
    /// Budget in tokens, as `n_tokens` counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Budget in bytes of UTF-8 text: a number, or a size such as `10GB`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "budget_bytes"
    )]
    #[schemars(with = "Option<BudgetBytes>")]
    pub bytes: Option<ByteSize>,
    /// Budget as a share of the eligible rows, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Ratio>,
    /// Lowest score that is chosen (`method: threshold`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Seed of the noise (`method: resample`).
    #[serde(default)]
    pub seed: u64,
    /// Scores are divided by it before noise is added (`method: resample`): above 1 the selection
    /// is more even, below 1 it is more like `top_k`.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
    /// Share of each target, if the scores have several; default: those of the stage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proportions: BTreeMap<String, Ratio>,
    /// Column whose values each have a quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// What each group gets; default: its share of the eligible rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Quotas>,
    /// Whether the rows carry all columns of the corpus.
    #[serde(default)]
    pub materialize: bool,
    /// Whether to measure how much nearer to the target the selection is than the corpus, where
    /// the scores are importance weights.
    #[serde(default = "default_measure")]
    pub measure: bool,
}

/// A number of bytes, or a size with its unit.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum BudgetBytes {
    Number(u64),
    Size(ByteSize),
}

/// A budget that counts bytes as others count documents needs no unit.
fn budget_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_u64() {
        Some(bytes) => Ok(Some(ByteSize::new(bytes))),
        None => Option::deserialize(value).map_err(de::Error::custom),
    }
}

fn default_temperature() -> f64 {
    1.0
}

fn default_measure() -> bool {
    true
}

/// What each group gets of the budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Quotas {
    /// A rule for all groups.
    Rule(QuotaRule),
    /// A count or a share for each group that is named; the others get nothing.
    Named(BTreeMap<String, Limit>),
}

/// A rule for all groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaRule {
    /// Each group's share of the eligible rows.
    Proportional,
    /// The same for each group.
    Equal,
}

impl<'de> Deserialize<'de> for Quotas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(rule) => match rule.as_str() {
                "proportional" => Ok(Self::Rule(QuotaRule::Proportional)),
                "equal" => Ok(Self::Rule(QuotaRule::Equal)),
                _ => Err(de::Error::custom(format!(
                    "{rule:?} is no rule: write `proportional`, `equal`, or a quota for each group"
                ))),
            },
            named @ Value::Object(_) => BTreeMap::deserialize(named)
                .map(Self::Named)
                .map_err(de::Error::custom),
            _ => Err(de::Error::custom(
                "quotas are `proportional`, `equal`, or a quota for each group",
            )),
        }
    }
}

impl JsonSchema for Quotas {
    fn schema_name() -> Cow<'static, str> {
        "Quotas".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let limit = generator.subschema_for::<Limit>();
        json_schema!({
            "description": "`proportional`, `equal`, or a count or share for each group.",
            "anyOf": [
                { "enum": ["proportional", "equal"] },
                { "type": "object", "additionalProperties": limit, "minProperties": 1 },
            ],
        })
    }
}

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Documents,
    Tokens,
    Bytes,
}

/// A budget before it is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Budget {
    Count(Unit, u64),
    Fraction(Ratio),
}

impl Budget {
    pub(crate) fn unit(self) -> Unit {
        match self {
            Self::Count(unit, _) => unit,
            Self::Fraction(_) => Unit::Documents,
        }
    }
}

impl SelectParams {
    /// Reads and checks the parameters of a stage.
    ///
    /// # Errors
    ///
    /// Everything that can be known from the job file alone.
    pub fn of(job: &Job, name: &str) -> Result<Self, JobError> {
        let params: Self = job.stage_params(name)?;
        let at = |key: &str| format!("stages.{name}.{key}");
        params.check_by(job, name)?;
        params.check_budget(job, name)?;
        if !(params.temperature > 0.0 && params.temperature.is_finite()) {
            let message = format!("temperature is {}, it must be above 0", params.temperature);
            let help = "`method: top_k` is the limit of a low temperature".to_owned();
            return Err(job.error_at(&at("temperature"), message, Some(help)));
        }
        params.check_quotas(job, name)?;
        let (stage, _) = params.by_parts();
        let spec = job.file.stages.get(stage);
        let targets = spec.and_then(|spec| spec.params.get("target"));
        if let Some(targets) = targets.and_then(Value::as_array)
            && !params.proportions.is_empty()
        {
            let targets: Vec<String> = targets
                .iter()
                .filter_map(|target| target.as_str().map(str::to_owned))
                .collect();
            check_proportions(job, &at("proportions"), &params.proportions, &targets)?;
        }
        Ok(params)
    }

    /// Stage and column of `by`.
    #[must_use]
    pub fn by_parts(&self) -> (&str, &str) {
        self.by.split_once('.').unwrap_or((&self.by, ""))
    }

    /// The budget; `None` for `method: threshold`.
    pub(crate) fn budget(&self) -> Option<Budget> {
        let documents = self.documents.map(|n| Budget::Count(Unit::Documents, n));
        let tokens = self.tokens.map(|n| Budget::Count(Unit::Tokens, n));
        let bytes = self.bytes.map(|n| Budget::Count(Unit::Bytes, n.bytes()));
        let fraction = self.fraction.map(Budget::Fraction);
        documents.or(tokens).or(bytes).or(fraction)
    }

    fn check_by(&self, job: &Job, name: &str) -> Result<(), JobError> {
        let place = format!("stages.{name}.by");
        let (stage, column) = self.by_parts();
        if column.is_empty() {
            return Err(job.error_at(
                &place,
                format!("{:?} does not name a column of a stage", self.by),
                Some("write `<stage>.<column>`, for example `weights.log_weight`".to_owned()),
            ));
        }
        let earlier: Vec<&str> = job.file.stages.before(name).collect();
        if !earlier.contains(&stage) {
            return Err(job.error_at(
                &place,
                format!("there is no stage `{stage}` before this one"),
                nearest(stage, earlier),
            ));
        }
        check_weights(job, &place, stage, column)
    }

    fn check_budget(&self, job: &Job, name: &str) -> Result<(), JobError> {
        let at = |key: &str| format!("stages.{name}.{key}");
        let given: Vec<&str> = [
            ("documents", self.documents.is_some()),
            ("tokens", self.tokens.is_some()),
            ("bytes", self.bytes.is_some()),
            ("fraction", self.fraction.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, is_given)| is_given.then_some(key))
        .collect();
        if self.method == Method::Threshold {
            if let [key, ..] = given[..] {
                let message = format!("`method: threshold` has no budget, here is `{key}`");
                return Err(job.error_at(&at(key), message, None));
            }
            return match self.threshold {
                None => Err(job.error_at_key(
                    &format!("stages.{name}"),
                    "the key `threshold` is missing",
                    Some("give the lowest score that is chosen".to_owned()),
                )),
                Some(threshold) if threshold.is_nan() => {
                    Err(job.error_at(&at("threshold"), "the threshold is not a number", None))
                }
                Some(_) => Ok(()),
            };
        }
        if self.threshold.is_some() {
            return Err(job.error_at(
                &at("threshold"),
                "`threshold` goes with `method: threshold`",
                None,
            ));
        }
        match given[..] {
            [] => Err(job.error_at_key(
                &format!("stages.{name}"),
                "there is no budget",
                Some("give one of `documents`, `tokens`, `bytes`, `fraction`".to_owned()),
            )),
            [_] if self.fraction.is_some_and(Ratio::is_above_one) => Err(job.error_at(
                &at("fraction"),
                "a fraction cannot be above 1",
                Some("write 1/16, 0.0625 or 6.25%".to_owned()),
            )),
            [_] => Ok(()),
            [_, second, ..] => Err(job.error_at(
                &at(second),
                format!("there are several budgets: {}", given.join(", ")),
                Some("keep exactly one".to_owned()),
            )),
        }
    }

    fn check_quotas(&self, job: &Job, name: &str) -> Result<(), JobError> {
        let place = format!("stages.{name}.quotas");
        let Some(quotas) = &self.quotas else {
            return Ok(());
        };
        if self.group_by.is_none() {
            let help = Some("add `group_by: source`".to_owned());
            return Err(job.error_at(&place, "quotas need groups", help));
        }
        let Quotas::Named(named) = quotas else {
            return Ok(());
        };
        if self.fraction.is_some() && named.values().any(|quota| matches!(quota, Limit::Count(_))) {
            return Err(job.error_at(
                &place,
                "a count cannot be a part of a `fraction`",
                Some("write shares (20%), or give the budget in `documents`".to_owned()),
            ));
        }
        if let Some(Budget::Count(_, total)) = self.budget() {
            let sum: u128 = named
                .values()
                .map(|quota| match quota {
                    Limit::Count(count) => u128::from(*count),
                    Limit::Share(share) => u128::from(share.floor_of(total)),
                })
                .sum();
            if sum > u128::from(total) {
                return Err(job.error_at(
                    &place,
                    format!("the quotas sum to {sum}, the budget is {total}"),
                    None,
                ));
            }
        }
        Ok(())
    }
}

/// Whether a stage of importance weights will have that column, or one for each target. What is
/// wrong with the stage itself is told elsewhere.
fn check_weights(job: &Job, place: &str, stage: &str, column: &str) -> Result<(), JobError> {
    let kind = job.file.stages.get(stage).map(|spec| spec.kind.as_str());
    if kind != Some(importance_weights::KIND) {
        return Ok(());
    }
    let Ok(params) = ImportanceParams::of(job, stage) else {
        return Ok(());
    };
    let Some(schema) = importance_weights::table_schema(&params) else {
        return Ok(());
    };
    let has = |name: &str| schema.field_with_name(name).is_ok();
    let targets = params.target.as_deref().unwrap_or_default();
    let is_separate = params.mode() == TargetMode::Separate;
    if has(column) || is_separate && targets.iter().all(|it| has(&format!("{column}_{it}"))) {
        return Ok(());
    }
    let known = schema.fields().iter().map(|field| field.name().as_str());
    Err(job.error_at(
        place,
        format!("stage {stage} will have no column `{column}`"),
        nearest(column, known),
    ))
}
