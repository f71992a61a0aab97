//! Hooks, one kind after the other, with real receivers on the loopback address: what they get,
//! byte by byte; what happens when they refuse, are slow or are not there.

mod command;
mod network;
pub mod receiver;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, WAIT};

/// Hooks do not know on which filesystem they are.
const ANY: &[Fs] = &[Fs::Tmpfs];

pub fn cases() -> Vec<Case> {
    let mut all = command::cases();
    all.extend(network::cases());
    all
}

/// Waits until a hook has nothing left to tell.
#[track_caller]
fn delivered_all(m: &Mirror, hook: &str) {
    m.daemon.flush(None);
    let idle = || {
        let h = m.daemon.hook_status(hook);
        (h.pending == 0 && h.in_flight == 0 && h.waiting == 0).then_some(())
    };
    assert!(poll_until(WAIT, idle).is_some(), "hook {hook} still has something to tell: {:?}", m.daemon.hook_status(hook));
}

/// The pieces of a list in which each is ended by a NUL, below `root`.
fn list(file: &Path, root: &Path) -> BTreeSet<Vec<u8>> {
    let bytes = std::fs::read(file).unwrap_or_default();
    let mut pieces: Vec<&[u8]> = bytes.split(|&b| b == 0).collect();
    assert_eq!(pieces.pop(), Some(&b""[..]), "the last path has no end");
    let below = |piece: &[u8]| {
        let rest = piece.strip_prefix(root.as_os_str().as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        rest.unwrap_or_else(|| panic!("{:?} is not below the source", String::from_utf8_lossy(piece))).to_vec()
    };
    pieces.into_iter().map(below).collect()
}
