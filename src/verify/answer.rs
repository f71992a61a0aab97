//! The daemon's side of `fansync verify`.

use std::os::unix::net::UnixStream;

use super::of_daemon;
use crate::engine::Handle;
use crate::engine::Live;
use crate::socket::has_hung_up;
use crate::status::verify::{Options, Report};

/// Compares the targets of these engines, or the ones with this name, one after the other. Ends
/// early when the client hangs up.
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
