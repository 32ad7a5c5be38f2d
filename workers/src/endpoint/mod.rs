//! Language-model servers that stages ask: each request is paid for once, whatever breaks, and the
//! budget is never exceeded, with any number of workers.
//!
//! 1. The **key** of a request is a hash of everything that its answer depends on.
//! 2. A reply under that key ends it: [`stored::reply`].
//! 3. A part of the budget is reserved ([`purse`]), the pace is kept ([`shared_pace`]).
//! 4. That the request is sent is noted ([`stored::note_sent`]): of several workers one sends.
//! 5. The reply is stored as the server gave it, and only then looked at.
//!
//! A worker that is killed leaves notes without replies: those may be paid for. Whoever needs the
//! answer waits until the sender cannot get it any more, and sends again under the next number.

pub mod access;
pub mod clock;
pub mod exchange;
pub mod local;
pub mod lost_requests;
mod noting;
pub mod process;
pub mod purse;
pub mod settings;
pub mod shared_pace;
pub mod spending;
pub mod stored;
pub mod under_way;
