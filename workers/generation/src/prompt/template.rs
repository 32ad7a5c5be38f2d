//! Prompts as files: a header, a system template and a user template.
//!
//! ```text
//! name: my_queries
//! version: 1
//! --- system
//! You write search queries.
//! --- user
//! {{ document }}
//! ```

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};

use super::file::PromptFile;
use super::{Message, Role, documents, judge, queries};

/// What a prompt asks for; it decides which variables its templates have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Queries of all labels for a document.
    QueriesJoint,
    /// Queries of one label for a document.
    QueriesSeparate,
    /// A passage of each grade for a query.
    GradedDocuments,
    /// Grades for pairs of a query and a document.
    Judge,
}

impl PromptKind {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueriesJoint => "queries_joint",
            Self::QueriesSeparate => "queries_separate",
            Self::GradedDocuments => "graded_documents",
            Self::Judge => "judge",
        }
    }

    /// What templates are given, in cases that differ in what may be absent.
    fn samples(self) -> Vec<serde_json::Value> {
        match self {
            Self::QueriesJoint => queries::sample_contexts(false),
            Self::QueriesSeparate => queries::sample_contexts(true),
            Self::GradedDocuments => documents::sample_contexts(),
            Self::Judge => judge::sample_contexts(),
        }
    }
}

/// A prompt whose templates were tried out.
#[derive(Debug, Clone)]
pub struct Prompt {
    kind: PromptKind,
    name: String,
    version: u32,
    id: String,
    templates: Arc<Environment<'static>>,
}

/// Why a file is no prompt; `line` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// More than a prompt can need.
    #[error("the prompt has {found} bytes, at most {PROMPT_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// A line that the header cannot have.
    #[error(
        "line {line}: {found:?} is no header line: expected `name: ...`, `version: ...` or `--- system`"
    )]
    Header {
        /// Where.
        line: usize,
        /// What stands there.
        found: String,
    },
    /// A value of the header that cannot be.
    #[error("line {line}: {expected}, found {found:?}")]
    Value {
        /// Where.
        line: usize,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Something is not there.
    #[error("the prompt has no `{what}`")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// A template does not parse or does not render.
    #[error("line {line}: {detail}")]
    Template {
        /// Where.
        line: usize,
        /// What is wrong.
        detail: String,
    },
    /// A template uses a variable that prompts of the kind do not have.
    #[error("line {line}: `{name}` is no variable of {kind} prompts; they have {known}")]
    Variable {
        /// Where.
        line: usize,
        /// Its name.
        name: String,
        /// The kind.
        kind: &'static str,
        /// All variables.
        known: String,
    },
}

/// A template that failed on an item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot fill prompt `{prompt_id}` in: {detail}")]
pub struct RenderError {
    /// The prompt.
    pub prompt_id: String,
    /// Section, line and cause.
    pub detail: String,
}

/// Longest prompt that is read, in bytes.
const PROMPT_BYTES_MAX: usize = 256 * 1024;
/// Instructions that a template may run, so that a loop in a user's prompt ends. Ours take about
/// a thousand.
const FUEL: u64 = 1_000_000;

impl Prompt {
    /// Reads a prompt and tries it out on sample values of its kind, so that a mistake shows before
    /// anything is paid.
    pub fn parse(kind: PromptKind, text: &str) -> Result<Self, PromptError> {
        if text.len() > PROMPT_BYTES_MAX {
            return Err(PromptError::TooLong { found: text.len() });
        }
        let file = PromptFile::split(text)?;
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        templates.set_fuel(Some(FUEL));
        if let Ok(syntax) = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
        {
            templates.set_syntax(syntax);
        }
        for section in [&file.system, &file.user] {
            templates
                .add_template_owned(section.name, section.text.clone())
                .map_err(|error| section.error(&error))?;
        }
        let id = file.id();
        let templates = Arc::new(templates);
        let prompt = Self {
            kind,
            name: file.name.clone(),
            version: file.version,
            id,
            templates,
        };
        prompt.try_out(&file)?;
        Ok(prompt)
    }

    /// What it asks for.
    #[must_use]
    pub fn kind(&self) -> PromptKind {
        self.kind
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, as its author counts.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Name, `-` and a hash of all that the prompt says: a changed prompt has another id even if
    /// its author forgot to count.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether its templates look at a variable.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        ["system", "user"].into_iter().any(|section| {
            let template = self.templates.get_template(section);
            template.is_ok_and(|template| template.undeclared_variables(false).contains(name))
        })
    }

    /// A system and a user message.
    pub(super) fn messages(&self, context: &impl Serialize) -> Result<Vec<Message>, RenderError> {
        let context = minijinja::Value::from(minijinja::value::Serde(context));
        [("system", Role::System), ("user", Role::User)]
            .into_iter()
            .map(|(section, role)| {
                let rendered = self
                    .templates
                    .get_template(section)
                    .and_then(|template| template.render(context.clone()));
                let content = rendered.map_err(|error| RenderError {
                    prompt_id: self.id.clone(),
                    detail: format!("{section} template, {error:#}"),
                })?;
                Ok(Message {
                    role,
                    content: content.trim().to_owned(),
                })
            })
            .collect()
    }

    /// An error of kind for a caller that brings the wrong prompt.
    pub(super) fn expect_kind(&self, kind: PromptKind) -> Result<(), RenderError> {
        if self.kind == kind {
            return Ok(());
        }
        Err(RenderError {
            prompt_id: self.id.clone(),
            detail: format!(
                "it is for {}, not for {}",
                self.kind.as_str(),
                kind.as_str()
            ),
        })
    }

    fn try_out(&self, file: &PromptFile) -> Result<(), PromptError> {
        let samples = self.kind.samples();
        let is_known = |name: &str| {
            self.templates.globals().any(|(global, _)| global == name)
                || samples.iter().any(|sample| sample.get(name).is_some())
        };
        for section in [&file.system, &file.user] {
            let template = self
                .templates
                .get_template(section.name)
                .map_err(|error| section.error(&error))?;
            let undeclared = template.undeclared_variables(false);
            if let Some(name) = undeclared.into_iter().filter(|name| !is_known(name)).min() {
                let known: Vec<&str> = samples
                    .first()
                    .and_then(serde_json::Value::as_object)
                    .map(|variables| variables.keys().map(String::as_str).collect())
                    .unwrap_or_default();
                return Err(PromptError::Variable {
                    line: section.line_of(&name),
                    name,
                    kind: self.kind.as_str(),
                    known: known.join(", "),
                });
            }
            for sample in &samples {
                let context = minijinja::Value::from(minijinja::value::Serde(sample));
                template
                    .render(context)
                    .map_err(|error| section.error(&error))?;
            }
        }
        Ok(())
    }
}
