//! What generation is made of, as plain functions of values: no I/O, nothing asynchronous, no
//! clock, no tables.
//!
//! The way of an item through a stage:
//!
//! 1. [`scale`] says what grades mean, to the generator and to the judge alike;
//! 2. [`attributes`] are drawn for the item, so that what is written differs;
//! 3. [`prompt`] turns it into messages and the schema of the reply;
//! 4. (the stage sends them and stores the reply before anything else)
//! 5. [`reply`] reads the texts out of the reply, whatever a model or server made of the schema;
//! 6. [`checks`] notes what is wrong with the texts as [`flags`];
//! 7. [`ids`] names what is kept.
//!
//! Whatever is drawn is a function of (seed, item id), so the same item asks for the same bytes on
//! any worker at any time.

pub mod attributes;
pub mod checks;
mod draw;
pub mod flags;
pub mod ids;
pub mod language;
pub mod prompt;
pub mod reply;
pub mod scale;
pub mod text;

pub use flags::{Flag, Flags};
pub use scale::{Grade, Scale};
