//! Tests that need root and a real kernel.
fn main() {}
