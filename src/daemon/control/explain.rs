//! The daemon's side of `fansync explain`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::control::Reply;
use crate::engine::{self, Handle, Said};
use crate::explain::Explained;

/// The answer. `paths`: absolute, as bytes; the first that lies below a source counts.
pub(super) fn answer(engines: &[Handle], paths: &[Vec<u8>]) -> Reply {
    let paths: Vec<PathBuf> = paths.iter().map(|p| Path::new(std::ffi::OsStr::from_bytes(p)).to_owned()).collect();
    let mut out = Explained::default();
    for engine in engines {
        match engine::explain(engine, paths.clone()) {
            Some(Said::Explained(mirror)) => out.mirrors.push(*mirror),
            Some(Said::Elsewhere(source)) => out.elsewhere.push(source),
            None => {
                return Reply::Error { message: format!("the engine of mirror {} ended or does not answer", engine.mirror) };
            }
        }
    }
    Reply::Explain(out)
}
