//! Which processes wait for a dead mount, by process id and name; reported without hanging, too.
//!
//! Reads /proc only, where nothing queries a server: the names of open files and of the working
//! directory come from the kernel's memory. A process is reported when one of its threads waits for
//! a network filesystem (by its wait channel), or sleeps without being interruptible and holds
//! something below the mount.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::path::Shown;

/// A process that waits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Stuck {
    /// Its id.
    pub(crate) pid: u32,
    pub(crate) name: String,
    /// What it waits for in the kernel.
    pub(crate) waits: String,
}

/// Wait channels of calls to a server that does not answer (NFS 6.1 to 6.12; FUSE 6.18).
const CHANNELS: [&str; 6] = ["rpc_", "nfs", "request_wait_answer", "folio_wait", "wait_on_page", "fuse"];

/// Who waits for what is mounted at `mount`. Some milliseconds for some hundred processes.
pub(crate) fn stuck(mount: &Path) -> Vec<Stuck> {
    let Ok(listing) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = listing.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| pid != std::process::id()).filter_map(|pid| inspect(pid, mount)).collect()
}

fn inspect(pid: u32, mount: &Path) -> Option<Stuck> {
    let proc = Path::new("/proc").join(pid.to_string());
    let tasks = fs::read_dir(proc.join("task")).ok()?.flatten();
    let waits = tasks.filter_map(|task| waits(&task.path())).min_by_key(|w| !w.network)?;
    let below =
        |link: &Path| fs::read_link(link).is_ok_and(|to| to.as_os_str().as_bytes().starts_with(mount.as_os_str().as_bytes()));
    let holds =
        below(&proc.join("cwd")) || fs::read_dir(proc.join("fd")).is_ok_and(|fds| fds.flatten().any(|fd| below(&fd.path())));
    // A call by path holds nothing that is seen here; kernel threads have no root.
    let user = fs::read_link(proc.join("exe")).is_ok();
    (user && (holds || waits.network)).then(|| Stuck {
        pid,
        name: process_name(&fs::read(proc.join("comm")).unwrap_or_default()),
        waits: waits.channel,
    })
}

/// A process chooses its name itself, escapes and line breaks included.
fn process_name(comm: &[u8]) -> String {
    Shown(comm.trim_ascii()).to_string()
}

/// What one thread waits for.
struct Waits {
    channel: String,
    /// That is a call to a server.
    network: bool,
}

/// `None` when the thread runs, or sleeps as idle ones do.
fn waits(task: &Path) -> Option<Waits> {
    let state = state(&fs::read(task.join("stat")).ok()?)?;
    if !matches!(state, 'D' | 'S') {
        return None;
    }
    let channel = fs::read_to_string(task.join("wchan")).unwrap_or_default();
    let network = CHANNELS.iter().any(|c| channel.contains(c));
    if !network && state != 'D' {
        return None;
    }
    let nameless = channel.is_empty() || channel == "0";
    Some(Waits { channel: if nameless { format!("state {state}") } else { channel }, network })
}

/// The state in the text of /proc/PID/stat, behind a name that the process chooses: any bytes.
pub fn state(stat: &[u8]) -> Option<char> {
    let end = memchr::memmem::rfind(stat, b") ")?;
    Some(char::from(*stat.get(end + 2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_steers_a_terminal_is_shown_by_its_bytes() {
        assert_eq!(process_name(b"rsync\n"), "rsync");
        assert_eq!(process_name(b"\x1b[2Jx\ny\n"), "\\x1b[2Jx\\x0ay");
        assert_eq!(process_name(b"\xff"), "\\xff");
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_process() {
        assert_eq!(state(b"12 (\xff) ) S) D 1 2 3"), Some('D'));
        assert_eq!((state(b"12 (x)"), state(b"12 (x) ")), (None, None));
    }
}
