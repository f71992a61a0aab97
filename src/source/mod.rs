//! Where changes come from.

pub mod fan_decode;
mod port;
pub mod reader;
