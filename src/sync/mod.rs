//! Batches through rsync.
