//! Where changes come from.

mod dirs;
pub mod fan_decode;
pub mod ino_decode;
pub(crate) mod inotify;
mod port;
pub mod reader;
pub mod records;
