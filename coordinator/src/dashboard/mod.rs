//! `gleaner run --dashboard`: a page to watch a run.
//!
//! The driver tells a [`Board`] what happens; while nobody watches, that is all that is done. While
//! somebody does, a snapshot of bounded size is made of it a few times a second, once for all
//! readers, and sent as server-sent events ([`Dashboard`]). What only the store knows (what is spent
//! at endpoints, what workers elsewhere did) is read every few seconds, only then.
//!
//! Who may read the page may read everything about the run, so it is on this machine only unless
//! another address is asked for. It can only be looked at: nothing but GET is answered.

mod board;
mod causes;
mod follow;
mod history;
mod host;
mod server;
mod snapshot;
mod stage;
mod times;
mod watched;
mod workers;

pub use board::Board;
pub use host::Hosts;
pub use server::{DEFAULT_PORT, Dashboard};
pub use watched::Watched;
