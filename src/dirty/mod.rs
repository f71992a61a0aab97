//! What is to be looked at, per target.
