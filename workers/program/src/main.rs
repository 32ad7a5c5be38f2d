//! The program `gleaner-worker`.
fn main() {}
