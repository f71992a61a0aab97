//! Handles to paths.
