//! The `celesta` binary.
fn main() {}
