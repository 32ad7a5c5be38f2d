//! From an item to the messages that are sent for it.
//!
//! 1. a [`Prompt`] is read from a file, ours or the user's, and tried out at once;
//! 2. an [`Ensemble`] picks the prompt of an item, [`choose_demonstrations`] its examples;
//! 3. a `render_*` function fills the templates in, with texts passed as data and cut to a budget;
//! 4. what comes of it, [`Rendered`], holds messages and schema; the request's `asked()` tells
//!    [`crate::reply`] what to expect.
//!
//! All of it is a function of values: the same item gives the same bytes, which is how an answer
//! that was paid for is found again.

mod asked;
mod built_in;
mod context;
mod demonstrations;
mod documents;
mod ensemble;
mod file;
mod judge;
mod queries;
mod template;
#[cfg(test)]
mod tests;

pub(crate) use asked::TextKind;
pub use asked::{AskedJudgements, AskedTexts};
pub use built_in::{built_in_prompt, built_in_prompts};
pub use demonstrations::{DEMONSTRATIONS_MAX, Demonstration, choose_demonstrations};
pub use documents::{DocumentsRequest, render_graded_documents};
pub use ensemble::{Ensemble, EnsembleError};
pub use judge::{JUDGED_PAIRS_MAX, JudgeRequest, Pair, judged_parts, render_judgement};
pub use queries::{AskedGrades, PER_LABEL_MAX, QueriesRequest, render_queries};
pub use template::{Prompt, PromptError, PromptKind, RenderError};

use serde::Serialize;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The request.
    User,
}

impl Role {
    /// Its name in the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
        }
    }
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A request without its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// A system message and a user message.
    pub messages: Vec<Message>,
    /// JSON schema of the reply. It stays within what OpenAI's strict mode takes, and does not
    /// depend on the order of keys, which JSON libraries lose: sorted keys are the order meant.
    pub schema: serde_json::Value,
    /// Name of the schema: letters, digits and underscores.
    pub schema_name: &'static str,
    /// Whether a text was cut to its budget.
    pub truncated: bool,
}

impl Rendered {
    /// The same as one text, for endpoints that complete text instead of chatting.
    #[must_use]
    pub fn as_completion(&self) -> String {
        let contents: Vec<&str> = self
            .messages
            .iter()
            .map(|message| message.content.as_str())
            .collect();
        contents.join("\n\n")
    }
}

/// Budgets of the texts in a prompt and of those in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLimits {
    /// Bytes of the document or query that is written for, and of each document that is judged.
    pub document_bytes: usize,
    /// Bytes of each text of a demonstration.
    pub demonstration_bytes: usize,
    /// Characters of a query in a reply.
    pub query_chars: usize,
}

impl Default for TextLimits {
    /// 12,000 bytes are about 3,000 tokens of English: it fits any context in use today, with room
    /// for demonstrations and the reply.
    fn default() -> Self {
        Self {
            document_bytes: 12_000,
            demonstration_bytes: 2_000,
            query_chars: 400,
        }
    }
}
