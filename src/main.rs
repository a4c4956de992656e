//! Causeway.
fn main() {}
