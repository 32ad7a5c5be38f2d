//! Language-model servers that stages ask: each request is paid for once, whatever breaks, and the
//! budget is never exceeded, with any number of workers.
//!
//! 1. The **key** of a request is a hash of everything that its answer depends on.
//! 2. A reply under that key ends it: [`stored::reply`].
//! 3. A part of the budget is reserved ([`purse`]), the pace is kept ([`shared_pace`]).
//! 4. That the request is sent is noted ([`stored::note_sent`]): of several workers one sends.
//! 5. Only now it waits for a place among those in flight, so that the store's time is not the
//!    server's; a note that waited too long, or in vain, is taken back.
//! 6. The reply is stored as the server gave it, however long the store takes, and only then looked at.
//!
//! Once the server has told any request what concerns all (a wrong key, a quota that is used up, an
//! unknown model), or the budget has no room for one, no slot of the process sends another.
//!
//! Notes and leases are judged by the store's clock ([`store_time`]): those of machines differ.
//!
//! A worker that is killed leaves notes without replies: those may be paid for. Whoever needs the
//! answer waits until the sender cannot get it any more, and sends again under the next number.

pub mod access;
pub mod clock;
pub mod cost;
pub mod ending;
pub mod exchange;
mod keeping;
pub mod local;
pub mod lost_requests;
mod noting;
pub mod process;
pub mod purse;
pub mod settings;
pub mod shared_pace;
pub mod spending;
pub mod store_time;
pub mod stored;
pub mod under_way;

#[cfg(test)]
mod tests;
