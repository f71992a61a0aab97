//! The grace time of the kernel's NFS 4 server: for so long after its start it refuses to open files, so that clients of the server
//! before can claim theirs again (RFC 8881 §8.4.2.1). 90 s unless told otherwise.
//!
//! A server that becomes primary was read-only since its start: nobody holds anything there that could be claimed, and
//! clients that come from a dead server would only wait. A primary that is started again keeps its grace time.

use std::fs;
use std::io;
use std::path::Path;

/// `N` during the grace time, `Y` after it; writing `Y` ends it (Linux 3.18). Of the network namespace that nfsd was mounted in.
const FILE: &str = "/proc/fs/nfsd/v4_end_grace";

/// Ends it, if there is one. Without the kernel's NFS server: nothing.
pub fn end() {
    match end_by(Path::new(FILE)) {
        Ok(true) => tracing::info!("the grace time of the NFS server is ended"),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(%error, "cannot end the grace time of the NFS server: clients cannot open files before it is over");
        }
    }
}

/// Whether there was one.
fn end_by(file: &Path) -> io::Result<bool> {
    let state = match fs::read_to_string(file) {
        Ok(state) => state,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    if !state.starts_with('N') {
        return Ok(false);
    }
    match fs::write(file, b"Y") {
        // Its threads are stopped.
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Ok(false),
        done => done.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("v4_end_grace");
        assert!(!end_by(&file).unwrap(), "no NFS server");
        fs::write(&file, "N\n").unwrap();
        assert!(end_by(&file).unwrap());
        assert!(fs::read_to_string(&file).unwrap().starts_with('Y'));
        assert!(!end_by(&file).unwrap());
    }
}
