//! The client of OpenAI-compatible language-model servers.
//!
//! It knows HTTP and the protocol, nothing of jobs, stages, tables or stores. The way of a request:
//!
//! 1. [`CompletionRequest`] holds everything that the answer depends on; [`RequestKey`] is its hash.
//! 2. [`Client::complete`] sends it: once the caller consents ([`Pace`]), with deadlines, within an
//!    adaptive concurrency, again where that can help, and not at all once the server has said what
//!    concerns every request.
//! 3. [`RawReply`] holds the body as it came, so that the caller can make it durable before anybody
//!    looks into it.
//! 4. [`Reply::decode`] reads it, leniently: what is missing or unknown never costs a paid reply.
//!    Where the losses of a text were asked for, [`LossDialect::decode`] does.
//!
//! What it never does: parse a reply before it is returned, print a key, wait without a bound.

mod body;
mod canonical;
mod client;
mod config;
mod failure;
mod limiter;
mod losses;
mod pause;
mod plausible;
mod reply;
mod request;
mod said;
mod sending;
mod series;
mod stop;
mod verdict;

pub use canonical::CanonicalRequest;
pub use client::{Client, ClientError, Jitter, RawReply};
pub use config::{Dialect, EndpointConfig, Secret, Timeouts};
pub use failure::{Action, CallError, FailureClass};
pub use limiter::{Pace, n_throttled};
pub use losses::{LossDialect, LossesError, PromptToken};
pub use reply::{Choice, FinishReason, Reply, ReplyError, Usage};
pub use request::{
    ChatMessage, CompletionRequest, Parameters, Prompt, RequestKey, ResponseSchema, TokenBound,
};
pub use series::Series;
