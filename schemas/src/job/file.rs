//! The job file as it is written: every key, its type, its default.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::card::Card;
use super::endpoint::Endpoint;
use super::guardrails::Guardrails;
use super::lineage::Lineage;
use super::publish::Publish;
use crate::units::{ByteSize, HumanDuration, Limit, Ratio};

/// A job: what to read, what to compute, where to write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// Name of the job; an output belongs to one job.
    pub name: String,
    /// Where the output goes: a directory, or a URI such as `s3://bucket/prefix`.
    pub output: String,
    /// What is selected from.
    pub corpus: Corpus,
    /// Other inputs that stages name, such as targets.
    #[serde(default)]
    pub datasets: BTreeMap<String, Corpus>,
    /// Uncompressed bytes of input per task.
    #[serde(default = "default_task_bytes")]
    pub task_bytes: ByteSize,
    /// Budget of memory for one worker slot.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
    /// What may be given up before the job counts as failed.
    #[serde(default)]
    pub allow: Allow,
    /// How much a refresh may change before it is not published.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// Language-model servers that stages name.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
    /// URL of a RabbitMQ broker; absent: everything runs in one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Priority among the jobs of a broker.
    #[serde(default)]
    pub priority: Priority,
    /// Longest time that one attempt at a task may take.
    #[serde(default = "default_task_timeout")]
    pub task_timeout: HumanDuration,
    /// Promise that no other coordinator uses this output, for stores without conditional puts.
    #[serde(default)]
    pub single_coordinator: bool,
    /// What the dataset card says that cannot be computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<Card>,
    /// Where events about runs go, in the form of OpenLineage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
    /// What to compute, in order; a stage may name earlier ones.
    pub stages: Stages,
}

fn default_task_bytes() -> ByteSize {
    ByteSize::new(256 << 20)
}

fn default_memory() -> ByteSize {
    ByteSize::new(2 << 30)
}

fn default_task_timeout() -> HumanDuration {
    HumanDuration::new(Duration::from_secs(15 * 60))
}

/// A set of files with documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Corpus {
    /// Paths or URIs, with globs: Parquet, jsonl, jsonl.gz, jsonl.zst.
    pub paths: Paths,
    /// What the columns mean.
    #[serde(default)]
    pub columns: Columns,
    /// SQL predicate over the columns; other rows are left out.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Licence of the documents, as dataset hubs abbreviate it; dataset cards pass it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// One path or a list of paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Paths(Vec<String>);

impl std::ops::Deref for Paths {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor).map(Self)
    }
}

impl JsonSchema for Paths {
    fn schema_name() -> Cow<'static, str> {
        "Paths".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A path or a list of paths, with globs.",
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ],
        })
    }
}

/// Reads one text or a list of texts that is not empty.
pub struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(vec![text.to_owned()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = items.next_element()? {
            texts.push(text);
        }
        if texts.is_empty() {
            return Err(de::Error::custom("the list is empty"));
        }
        Ok(texts)
    }
}

/// Which columns mean what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// Id of a document; unique. Absent: `id` if there is such a column, else ids are derived as
    /// `<file>#<row>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Text of a document.
    pub text: String,
    /// Where a document comes from. Absent: `source` if there is such a column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            id: None,
            text: "text".to_owned(),
            source: None,
        }
    }
}

/// What may be given up before the job counts as failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// Tasks that may be quarantined, per phase.
    pub quarantined_tasks: Limit,
    /// Rows that may be rejected: of those that a stage's table is made from, and of those of each
    /// dataset that is read.
    pub rejected_rows: Limit,
}

impl Default for Allow {
    fn default() -> Self {
        Self {
            quarantined_tasks: Limit::Count(0),
            rejected_rows: Ratio::new(1, 100).map_or(Limit::Count(0), Limit::Share),
        }
    }
}

/// Priority among the jobs of a broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before others.
    High,
    /// The usual one.
    #[default]
    Normal,
    /// After others.
    Low,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The name in job files and in names of queues.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// Stages by name, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stages(pub(crate) Vec<(String, StageSpec)>);

/// A stage as it is written: its kind, and parameters that only the kind understands.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    /// Kind of the stage.
    pub kind: String,
    /// As what its table is published besides. It changes nothing of what is computed.
    pub publish: Option<Publish>,
    /// Everything else.
    pub params: Map<String, Value>,
}

const KIND: &str = "kind";
pub(super) const PUBLISH: &str = "publish";

impl Stages {
    /// Name and parameters of each stage.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &StageSpec)> {
        self.0.iter().map(|(name, spec)| (name.as_str(), spec))
    }

    /// The stage of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&StageSpec> {
        self.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, spec)| spec)
    }

    /// Puts a stage before another one.
    pub(super) fn insert_before(&mut self, other: &str, name: String, spec: StageSpec) {
        let idx = self.0.iter().position(|(known, _)| known == other);
        self.0.insert(idx.unwrap_or(self.0.len()), (name, spec));
    }

    /// Names of the stages that stand before `name`.
    pub fn before<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let end = self.0.iter().position(|(known, _)| known == name);
        self.0[..end.unwrap_or(self.0.len())]
            .iter()
            .map(|(name, _)| name.as_str())
    }
}

impl Serialize for Stages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, spec)| {
            let mut entries = spec.params.clone();
            entries.insert(KIND.to_owned(), Value::from(spec.kind.as_str()));
            if let Some(publish) = spec.publish {
                entries.insert(PUBLISH.to_owned(), Value::from(publish.to_string()));
            }
            (name, entries)
        }))
    }
}

impl<'de> Deserialize<'de> for Stages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stages = BTreeMap::<String, StageSpec>::deserialize(deserializer)?;
        if stages.is_empty() {
            return Err(de::Error::custom("there is no stage"));
        }
        Ok(Self(stages.into_iter().collect()))
    }
}

impl<'de> Deserialize<'de> for StageSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(StageSpecVisitor)
    }
}

/// Reads key by key, so that an error has the place of its value.
struct StageSpecVisitor;

impl<'de> Visitor<'de> for StageSpecVisitor {
    type Value = StageSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<StageSpec, A::Error> {
        let (mut kind, mut publish, mut params) = (None, None, Map::new());
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                KIND => kind = Some(entries.next_value()?),
                PUBLISH => publish = entries.next_value()?,
                _ => {
                    params.insert(key, entries.next_value()?);
                }
            }
        }
        Ok(StageSpec {
            kind: kind.ok_or_else(|| de::Error::missing_field(KIND))?,
            publish,
            params,
        })
    }
}

impl JsonSchema for Stages {
    fn schema_name() -> Cow<'static, str> {
        "Stages".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "minProperties": 1 })
    }
}
