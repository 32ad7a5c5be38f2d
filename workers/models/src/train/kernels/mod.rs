//! What a layer is made of: forward and backward over slices, each call on one thread.
//!
//! Rows are tokens, and all sequences of a call have the same length. Backward functions add to
//! gradients, so that what is used twice gets both shares.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod loss;
pub(crate) mod math;
pub(crate) mod norm;
pub(crate) mod rotary;
