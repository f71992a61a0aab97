//! The `fansync` command.
fn main() {}
