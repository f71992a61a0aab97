//! Handles to paths.

pub mod tree;
