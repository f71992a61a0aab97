//! Batches through rsync.

pub mod location;
