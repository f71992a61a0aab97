//! System calls, made safe: the only module besides [`crate::ring`] that may hold `unsafe`.
//!
//! Functions take borrowed descriptors and slices and return owned descriptors and `io::Result`;
//! nothing here knows of the pipeline.

#[cfg(test)]
pub(crate) mod apart;
pub(crate) mod beneath;
pub(crate) mod borrowed;
pub mod caps;
pub mod child;
pub mod dirent;
pub mod event;
pub mod fanotify;
pub mod handle;
pub mod ignore;
pub(crate) mod inotify;
pub mod landlock;
pub mod lease;
pub(crate) mod rename;
pub(crate) mod localtime;
pub(crate) mod memfd;
pub mod mount;
pub mod movemount;
pub(crate) mod packets;
pub(crate) mod patient;
pub(crate) mod pipe;
pub(crate) mod priority;
pub(crate) mod queue;
pub(crate) mod reactor;
pub(crate) mod replace;
pub mod statx;
pub mod tcp;
pub mod uring;
