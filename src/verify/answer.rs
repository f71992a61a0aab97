//! The daemon's side of `fansync verify`.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{MsgFlags, recv};

use super::{Options, Report, of_daemon};
use crate::control::Handle;
use crate::engine::Live;

/// Compares the targets of these engines, or the ones with this name, one after the other. Ends early when the client hangs up.
pub(crate) fn answer(client: &UnixStream, engines: &[&Handle], target: Option<&str>, options: Options) -> Vec<Report> {
    let going = || !has_hung_up(client);
    let mut reports = Vec::new();
    for engine in engines {
        for name in engine.targets.iter().filter(|name| target.is_none_or(|t| t == *name)) {
            reports.push(of_daemon(&Live::new((*engine).clone(), name.clone()), options, &going));
        }
    }
    reports
}

/// Whether the other end of a connection is closed. Nothing is taken from it.
pub(crate) fn has_hung_up(client: &UnixStream) -> bool {
    let mut byte = [0];
    matches!(recv(client.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT), Ok(0))
}
