//! A language-model server without a language model: for tests, and to try generation offline.
//!
//! It speaks HTTP/1.1 on a loopback port and answers completions in the schema that they ask for,
//! with words of the prompt ([`answer`]), or with the losses of the prompt ([`losses`]). A [`Script`]
//! decides per request whether it answers, fails, hangs, or breaks the connection. Its [`Log`] knows
//! what was answered, and what that cost.

pub mod answer;
mod http;
mod log;
pub mod losses;
mod script;
mod server;

pub use log::{Answered, Log};
pub use losses::PromptLosses;
pub use script::{Play, Request, Script, always, in_turn};
pub use server::{ScriptedServer, ServerOptions};
