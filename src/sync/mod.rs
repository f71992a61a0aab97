//! One run of rsync, from the list of paths to its outcome. [`crate::targets`] says which runs.
//!
//! | module | holds |
//! | --- | --- |
//! | [`argv`] | the command lines of every pass, and the environment they run in |
//! | [`renames`] | the command lines that carry a rename |
//! | [`below`] | runs that begin below the root, so that long lists get shorter |
//! | [`password`] | a module's password, from its file to that environment |
//! | [`filelist`] | the list of paths as rsync reads it |
//! | [`normal`] | the last check of the disk before a list leaves: which state each path is in |
//! | [`output`] | rsync's output, read line by line in bounded memory |
//! | [`outcome`] | exit code and output, judged by what to do next |
//! | `messages` | which path a message of rsync is about, by its kind |
//! | [`ambient`] | lines that come with every run and mean nothing |
//! | [`run`] | one rsync, from its start to its outcome |
//! | [`dialect`] | what an older rsync does not know, and what takes its place |
//! | `acks` | quick acknowledgements on the connections of running rsyncs |
//! | [`probe`] | what the local rsync can do, and whether a target is usable |

mod acks;
pub(crate) mod ambient;
pub mod argv;
pub mod below;
pub mod dialect;
mod fewer;
pub mod filelist;
pub(crate) mod first;
mod messages;
pub mod normal;
pub mod outcome;
pub mod output;
pub mod password;
pub mod probe;
mod progress;
pub(crate) mod publication;
pub(crate) mod pulse;
pub mod renames;
pub(crate) mod retries;
pub mod run;
#[cfg(test)]
pub(crate) mod scripted;
pub(crate) mod words;
