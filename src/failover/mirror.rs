//! The requests of a server's part to the mirror daemon beside it.

use std::time::Duration;

use super::config::Server;
use crate::control;
use crate::status::{Mirror, Snapshot};

/// For an answer.
const PATIENCE: Duration = Duration::from_millis(100);

fn ask(server: &Server) -> Option<Snapshot> {
    match control::ask(&server.mirror_socket, &control::Request::Status, PATIENCE) {
        Ok(control::Reply::Status(snapshot)) => Some(*snapshot),
        _ => None,
    }
}

/// What the mirror says of itself; `None` when its daemon does not answer, or has no mirror of that
/// name.
pub(crate) fn of(server: &Server) -> Option<Mirror> {
    ask(server)?.mirrors.into_iter().find(|m| m.name == server.mirror)
}

/// Why what a mirror has confirmed is not all that clients were promised to be stored: an NFS 4
/// server keeps a file open for as long as a client does.
pub(crate) fn unfit(mirror: &Mirror) -> Option<String> {
    (!mirror.follow_open_files).then(|| {
        let name = &mirror.name;
        format!(
            "the mirror {name} runs without follow_open_files: what clients write to files that they hold open is not mirrored, so \
             nothing can be handed over; set follow_open_files = true in its [[mirror]]"
        )
    })
}

/// What `fansync check` says of the mirror that a configuration names, if its daemon answers.
pub(crate) fn warnings(server: &Server) -> Vec<String> {
    let Some(snapshot) = ask(server) else { return Vec::new() };
    match snapshot.mirrors.iter().find(|m| m.name == server.mirror) {
        Some(mirror) => unfit(mirror).into_iter().collect(),
        None => vec![format!("the daemon on {} has no mirror {:?}", server.mirror_socket.display(), server.mirror)],
    }
}
