//! The grace time of the kernel's NFS 4 server: for so long after its start it refuses to open
//! files, so that clients of the server before can claim theirs again (RFC 8881 §8.4.2.1). 90 s by
//! default.
//!
//! A server that becomes primary was read-only since its start: no client holds anything there that
//! could be claimed, and clients that come from a dead server would only wait. A primary that is
//! started again keeps its grace time.

use std::fs;
use std::io;
use std::path::Path;

/// Of the network namespace that it was mounted in. `v4_end_grace` says `N` during the grace time
/// and `Y` after it; writing `Y` ends it (Linux 3.18), or fails with EBUSY where nothing keeps
/// track of clients over restarts, as nfsdcld(8) does (6.12.117).
const NFSD: &str = "/proc/fs/nfsd";

/// Ends it, if there is one. Without the kernel's NFS server: nothing.
pub(crate) fn end() {
    match end_in(Path::new(NFSD)) {
        Ok(true) => tracing::info!("the grace time of the NFS server is ended"),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(%error, "cannot end the grace time of the NFS server: clients cannot open files before it is over");
        }
    }
}

/// Whether there was one.
fn end_in(nfsd: &Path) -> io::Result<bool> {
    let file = nfsd.join("v4_end_grace");
    let state = match fs::read_to_string(&file) {
        Ok(state) => state,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let runs = fs::read_to_string(nfsd.join("threads"))?.trim() != "0";
    if !runs || !state.starts_with('N') {
        return Ok(false);
    }
    fs::write(&file, b"Y").map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_once() {
        let dir = tempfile::tempdir().unwrap();
        let [file, threads] = ["v4_end_grace", "threads"].map(|name| dir.path().join(name));
        assert!(!end_in(dir.path()).unwrap(), "no NFS server");
        fs::write(&file, "N\n").unwrap();
        fs::write(&threads, "0\n").unwrap();
        assert!(!end_in(dir.path()).unwrap(), "it does not run");
        fs::write(&threads, "8\n").unwrap();
        assert!(end_in(dir.path()).unwrap());
        assert!(fs::read_to_string(&file).unwrap().starts_with('Y'));
        assert!(!end_in(dir.path()).unwrap(), "once is enough");
    }
}
