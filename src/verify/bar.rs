//! How far a verification is, on a terminal, while its client waits.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::mpsc::{RecvTimeoutError, channel};

use crate::control::{self, Reply, Request};
use crate::engine::Board;
use crate::progress::{Bar, Progress};

/// Does `work`, which takes long, and draws meanwhile the progress that `ask` returns.
fn beside<T: Send>(ask: impl Fn() -> Vec<(String, Progress)> + Send, work: impl FnOnce() -> T + Send) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (done, wait) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let bar = Bar::new();
            while wait.recv_timeout(Bar::DRAW_EVERY) == Err(RecvTimeoutError::Timeout) {
                bar.show(&ask());
            }
        });
        let out = work();
        drop(done);
        out
    })
}

/// Does `work`, which the daemon at `socket` carries out.
pub(super) fn of_daemon<T: Send>(socket: &Path, work: impl FnOnce() -> T + Send) -> T {
    let ask = || match control::ask(socket, &Request::Status, Bar::DRAW_EVERY) {
        Ok(Reply::Status(snapshot)) => snapshot.mirrors.iter().flat_map(verifications).collect(),
        _ => Vec::new(),
    };
    beside(ask, work)
}

fn verifications(mirror: &crate::status::Mirror) -> Vec<(String, Progress)> {
    let of = |t: &crate::status::Target| Some((format!("{}/{}", mirror.name, t.name), t.verify.as_ref()?.progress.clone()?));
    mirror.targets.iter().filter_map(of).collect()
}

/// Does `work`, which reports to `board`.
pub(super) fn of_board<T: Send>(name: &str, board: &Board, work: impl FnOnce() -> T + Send) -> T {
    let progress = || board.lock().unwrap_or_else(PoisonError::into_inner).progress.clone();
    beside(|| progress().map(|progress| (name.to_owned(), progress)).into_iter().collect(), work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::verify::Verify;
    use crate::status::{Mirror, Target};

    #[test]
    fn only_verifications_under_way_are_drawn() {
        let target = |name: &str, verify| Target { name: name.into(), verify, ..Target::default() };
        let runs = Progress { files_done: 7, ..Progress::default() };
        let mirror = Mirror {
            name: "m".into(),
            targets: vec![
                target("never", None),
                target("ended", Some(Verify::default())),
                target("runs", Some(Verify { running: true, progress: Some(runs.clone()), ..Verify::default() })),
            ],
            ..Mirror::default()
        };
        assert_eq!(verifications(&mirror), [("m/runs".to_owned(), runs)]);
    }
}
