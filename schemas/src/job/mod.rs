//! The job file: from text to checked types, with a place for every error.
//!
//! 1. [`yaml`] reads the text into JSON values and remembers where each stands.
//! 2. `--set` overrides are applied.
//! 3. [`JobFile`] is read from the values; an error is mapped back to its place.
//! 4. Stage kinds read their own parameters later, by [`Job::stage_params`].

mod card;
mod endpoint;
mod error;
mod file;
mod guardrails;
mod lineage;
mod publish;
mod schema;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use card::{Card, Texts};
pub use endpoint::{Budget, Endpoint, Price, StructuredOutput, Timeouts};
pub use error::{JobError, Span, nearest};
use file::PUBLISH;
pub use file::{Allow, Columns, Corpus, JobFile, Paths, Priority, StageSpec, Stages, TextsVisitor};
pub use guardrails::{Bound, DriftBounds, Guardrails};
pub use lineage::Lineage;
pub use publish::Publish;
pub use schema::json_schema;
use yaml::Document;

/// Names that tables of every output have already.
const RESERVED_STAGES: [&str; 2] = ["corpus", "gleaner"];
/// Endings of the names of tables that stages have besides their own.
const TABLE_ENDINGS: [&str; 3] = ["_model", "_ngrams", "_demonstrations"];

/// Keys that every stage may have, of whatever kind.
const STAGE_KEYS: [&str; 2] = ["kind", PUBLISH];

/// A text and the name to show for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSource {
    /// Name of the file.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A job file that is well-formed, with the places of its values.
#[derive(Debug, Clone)]
pub struct Job {
    /// The file.
    pub file: JobFile,
    /// Its text.
    pub source: JobSource,
    document: Document,
    overridden: BTreeSet<String>,
    /// Of stages that the file does not spell out, the path of the value that asks for each.
    asked_at: BTreeMap<String, String>,
}

impl Job {
    /// Reads a job file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn parse(source: JobSource) -> Result<Self, Vec<JobError>> {
        Self::parse_with(source, &[])
    }

    /// Reads a job file with `path=value` overrides; values are YAML.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file or the overrides.
    pub fn parse_with(
        source: JobSource,
        overrides: &[(String, String)],
    ) -> Result<Self, Vec<JobError>> {
        let mut document = yaml::parse(&source.text).map_err(|error| vec![error])?;
        let mut overridden = BTreeSet::new();
        for (path, text) in overrides {
            apply_override(&mut document, path, text).map_err(|error| vec![error])?;
            overridden.insert(path.clone());
        }
        let asked_at = BTreeMap::new();
        let places = Places {
            document: &document,
            overridden: &overridden,
            asked_at: &asked_at,
        };
        let mut file: JobFile = places
            .read(&document.value, "")
            .map_err(|error| vec![error])?;
        let order = &document.stage_order;
        file.stages
            .0
            .sort_by_key(|(name, _)| order.iter().position(|known| known == name));
        let job = Self {
            file,
            source,
            document,
            overridden,
            asked_at,
        };
        let errors = job.check();
        if errors.is_empty() {
            Ok(job)
        } else {
            Err(errors)
        }
    }

    fn check(&self) -> Vec<JobError> {
        let mut errors = Vec::new();
        let name = &self.file.name;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || !name.chars().all(is_name) {
            errors.push(self.error_at(
                "name",
                format!("{name:?} is not a name for a job"),
                Some("use letters, digits, `.`, `_` and `-`".to_owned()),
            ));
        }
        if self.file.task_bytes.bytes() == 0 {
            errors.push(self.error_at("task_bytes", "task_bytes is zero", None));
        }
        if self.file.task_timeout.duration().is_zero() {
            errors.push(self.error_at(
                "task_timeout",
                "no task ends in no time",
                Some("give it minutes: 15min is the default".to_owned()),
            ));
        }
        const MEMORY_MIN: u64 = 64 << 20;
        if self.file.memory.bytes() < MEMORY_MIN {
            errors.push(self.error_at(
                "memory",
                format!("a slot cannot work with {} of memory", self.file.memory),
                Some("give it 64MiB or more".to_owned()),
            ));
        }
        if self.file.queue.as_deref().is_some_and(has_password) {
            // Without its place: whoever shows that shows the password.
            errors.push(JobError {
                message: "`queue:` holds a password, and a job file is copied into the output"
                    .to_owned(),
                help: Some(
                    "give the URL by the environment variable GLEANER_QUEUE, or user and password \
                     by GLEANER_QUEUE_USER and GLEANER_QUEUE_PASSWORD"
                        .to_owned(),
                ),
                span: None,
            });
        }
        for (name, endpoint) in &self.file.endpoints {
            errors.extend(
                endpoint
                    .check(name)
                    .into_iter()
                    .map(|(key, message, help)| {
                        self.error_at(&format!("endpoints.{name}.{key}"), message, Some(help))
                    }),
            );
        }
        let lineage = self.file.lineage.iter().flat_map(Lineage::check);
        errors.extend(lineage.map(|(key, message, help)| {
            self.error_at(&format!("lineage.{key}"), message, Some(help))
        }));
        for (name, _) in self.file.stages.iter() {
            let mut chars = name.chars();
            let is_name = chars.next().is_some_and(|c| c.is_ascii_lowercase())
                && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !is_name
                || RESERVED_STAGES.contains(&name)
                || TABLE_ENDINGS.iter().any(|ending| name.ends_with(ending))
            {
                errors.push(
                    self.error_at_key(
                        &format!("stages.{name}"),
                        format!("{name:?} cannot be the name of a stage"),
                        Some(
                            "use lower-case letters, digits and `_`, starting with a letter; \
                             `corpus`, `gleaner` and names that end in `_model`, `_ngrams` or \
                             `_demonstrations` are tables already"
                                .to_owned(),
                        ),
                    ),
                );
            }
        }
        errors
    }

    fn places(&self) -> Places<'_> {
        Places {
            document: &self.document,
            overridden: &self.overridden,
            asked_at: &self.asked_at,
        }
    }

    /// Puts a stage that the file does not spell out before another one; errors in it point to the
    /// value at `asked_at`.
    pub fn insert_implied(
        &mut self,
        before: &str,
        name: String,
        spec: StageSpec,
        asked_at: String,
    ) {
        self.asked_at.insert(name.clone(), asked_at);
        self.file.stages.insert_before(before, name, spec);
    }

    /// Whether the file does not spell a stage out.
    #[must_use]
    pub fn is_implied(&self, stage: &str) -> bool {
        self.asked_at.contains_key(stage)
    }

    /// Reads the parameters of a stage as its kind understands them. `kind` is not among them.
    ///
    /// # Errors
    ///
    /// For unknown keys, wrong types and missing values, each with its place.
    pub fn stage_params<T: DeserializeOwned>(&self, stage: &str) -> Result<T, JobError> {
        let params = self
            .file
            .stages
            .get(stage)
            .map(|spec| spec.params.clone())
            .unwrap_or_default();
        self.places()
            .read(&Value::Object(params), &format!("stages.{stage}"))
    }

    /// An error at the value that stands at a dotted path, or at what encloses it.
    #[must_use]
    pub fn error_at(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> JobError {
        self.places().error(path, false, message.into(), help)
    }

    /// The same, at the key.
    #[must_use]
    pub fn error_at_key(
        &self,
        path: &str,
        message: impl Into<String>,
        help: Option<String>,
    ) -> JobError {
        self.places().error(path, true, message.into(), help)
    }
}

/// Whether a dotted path is that of a stage.
fn is_stage(path: &str) -> bool {
    path.strip_prefix("stages.")
        .is_some_and(|name| !name.contains('.'))
}

/// Whether a URL has something behind a colon before its host, or a password as a parameter. The
/// password itself may have any characters.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let has_user = rest
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'));
    has_user || rest.to_ascii_lowercase().contains("password=")
}

struct Places<'a> {
    document: &'a Document,
    overridden: &'a BTreeSet<String>,
    asked_at: &'a BTreeMap<String, String>,
}

impl Places<'_> {
    fn error(&self, path: &str, at_key: bool, message: String, help: Option<String>) -> JobError {
        let stage = path.strip_prefix("stages.");
        let stage = stage.map(|rest| rest.split('.').next().unwrap_or(rest));
        let asked_at = stage.and_then(|stage| self.asked_at.get(stage));
        let (path, at_key) = asked_at.map_or((path, at_key), |asked_at| (asked_at, false));
        let by_command_line = self
            .overridden
            .iter()
            .find(|known| path == *known || path.starts_with(&format!("{known}.")));
        if let Some(known) = by_command_line {
            return JobError {
                message: format!("{message} (given by --set {known}=...)"),
                help,
                span: None,
            };
        }
        let mut enclosing = path;
        loop {
            if let Some(places) = self.document.places.get(enclosing) {
                // A whole mapping is no place to look at; its key is.
                let use_key = at_key || enclosing != path;
                let span = places.key.filter(|_| use_key).unwrap_or(places.value);
                return JobError {
                    message,
                    help,
                    span: Some(span).filter(|_| !enclosing.is_empty()),
                };
            }
            match enclosing.rsplit_once('.') {
                Some((parent, _)) => enclosing = parent,
                None if enclosing.is_empty() => {
                    return JobError {
                        message,
                        help,
                        span: None,
                    };
                }
                None => enclosing = "",
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, value: &Value, base: &str) -> Result<T, JobError> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error
                .path()
                .iter()
                .fold(base.to_owned(), |path, segment| match segment {
                    serde_path_to_error::Segment::Seq { index } => {
                        yaml::join(&path, &index.to_string())
                    }
                    serde_path_to_error::Segment::Map { key } => yaml::join(&path, key),
                    _ => path,
                });
            self.explain(&path, &error.into_inner().to_string())
        })
    }

    /// Turns serde's words into ours. serde says "unknown field `x`, expected one of `a`, `b`".
    fn explain(&self, path: &str, message: &str) -> JobError {
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if message.starts_with("unknown field") {
            let (unknown, known) = quoted
                .split_first()
                .map_or(("", &[][..]), |(first, rest)| (*first, rest));
            let parent = path
                .strip_suffix(unknown)
                .map_or(path, |parent| parent.trim_end_matches('.'));
            let of_every_stage = STAGE_KEYS.iter().copied().filter(|_| is_stage(parent));
            return self.error(
                &yaml::join(parent, unknown),
                true,
                format!("there is no key `{unknown}` here"),
                nearest(unknown, known.iter().copied().chain(of_every_stage)),
            );
        }
        if message.starts_with("missing field") {
            let missing = quoted.first().copied().unwrap_or_default();
            return self.error(path, true, format!("the key `{missing}` is missing"), None);
        }
        if message.starts_with("unknown variant") {
            let (unknown, known) = quoted
                .split_first()
                .map_or(("", &[][..]), |(first, rest)| (*first, rest));
            return self.error(
                path,
                false,
                format!("`{unknown}` is not possible here"),
                nearest(unknown, known.iter().copied()),
            );
        }
        if let Some((found, expected)) = message
            .strip_prefix("invalid type: ")
            .or_else(|| message.strip_prefix("invalid value: "))
            .and_then(|rest| rest.split_once(", expected "))
        {
            let expected = match expected {
                "u8" | "u16" | "u32" | "u64" => "a whole number, 0 or more",
                "i8" | "i16" | "i32" | "i64" => "a whole number",
                "f32" | "f64" => "a number",
                "a boolean" => "`true` or `false`",
                "a string" => "a text",
                other => other,
            };
            let message = format!("{found} is not possible here, expected {expected}");
            return self.error(path, false, message, None);
        }
        self.error(path, false, message.to_owned(), None)
    }
}

/// The only document of a YAML text, without its places.
///
/// # Errors
///
/// For what is no YAML.
pub fn read_yaml(text: &str) -> Result<Value, JobError> {
    yaml::parse(text).map(|document| document.value)
}

fn apply_override(document: &mut Document, path: &str, text: &str) -> Result<(), JobError> {
    let refuse = |message: String| JobError::new(format!("--set {path}={text}: {message}"));
    let value = yaml::parse(text)
        .map_err(|error| refuse(error.message))?
        .value;
    let mut target = &mut document.value;
    for part in path.split('.') {
        if part.is_empty() {
            return Err(refuse("the path has an empty part".to_owned()));
        }
        target = match target {
            Value::Array(items) => {
                let n_items = items.len();
                part.parse::<usize>()
                    .ok()
                    .and_then(|idx| items.get_mut(idx))
                    .ok_or_else(|| refuse(format!("the list has {n_items} items, not {part}")))?
            }
            Value::Object(entries) => entries.entry(part).or_insert(Value::Null),
            other if other.is_null() => {
                *other = Value::Object(serde_json::Map::new());
                match other {
                    Value::Object(entries) => entries.entry(part).or_insert(Value::Null),
                    other => other,
                }
            }
            _ => return Err(refuse(format!("{part} is inside of a value without keys"))),
        };
    }
    *target = value;
    if let Some(rest) = path.strip_prefix("stages.") {
        let stage = rest.split('.').next().unwrap_or(rest).to_owned();
        if !document.stage_order.contains(&stage) {
            document.stage_order.push(stage);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
