//! Where changes come from.

pub mod fan_decode;
pub mod reader;
