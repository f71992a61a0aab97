//! The ring between reader and engine.
