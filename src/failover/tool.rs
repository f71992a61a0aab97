//! The calls that touch a mount, each made by a process of its own: `fansync failover call`, for
//! [`super::worker`] only.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mounts::PLACEHOLDER;
use super::worker::Refusal;
use crate::sys::movemount::move_mount;

const NONE: Option<&CStr> = None;

/// Makes the calls of its input, a JSON array of words a line, until that ends; answers each with a
/// line, `null` or a [`Refusal`].
///
/// # Errors
/// Those of input and output. One whose caller has gone is void: the caller has given up.
pub(crate) fn serve(input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    for line in input.lines() {
        let words: Vec<String> = serde_json::from_str(&line?)?;
        let refusal = call(&words).err().map(|e| Refusal { errno: e.raw_os_error().unwrap_or(0), message: e.to_string() });
        let mut text = serde_json::to_vec(&refusal)?;
        text.push(b'\n');
        match output.write_all(&text).and_then(|()| output.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            done => done?,
        }
    }
    Ok(())
}

/// Makes one call. Blocks for as long as it does.
fn call(words: &[String]) -> io::Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["move", from, to] => move_mount(Path::new(from), Path::new(to), false),
        ["beneath", from, to] => move_mount(Path::new(from), Path::new(to), true),
        ["detach", at, id] => detach(at, id),
        ["placeholder", at] => {
            let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some(PLACEHOLDER), at, Some("tmpfs"), flags, Some("size=4k,mode=555"))?;
            Ok(mount(NONE, at, NONE, MsFlags::MS_PRIVATE, NONE)?)
        }
        ["private", at] => {
            mount(Some("fansync"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("size=64k,mode=700"))?;
            Ok(mount(NONE, at, NONE, MsFlags::MS_PRIVATE, NONE)?)
        }
        ["shutdown", file] => OpenOptions::new().write(true).open(file)?.write_all(b"1"),
        // Unlike stat(2), it asks the server each time: an FSSTAT or GETATTR of the root (NFS 3 and
        // 4).
        ["look", at] => Ok(nix::sys::statfs::statfs(at).map(drop)?),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Takes a mount out, by its id: a call that comes late, after another has taken out what it was
/// meant for, must not take out what has come in its place. Never with MNT_FORCE, which breaks
/// writes under way on a live mount and does not help on a dead one (measured).
fn detach(at: &str, id: &str) -> io::Result<()> {
    // Neither asks the server of a network filesystem (measured). Not followed: another process may
    // have put a link there.
    let held: OwnedFd =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY).open(at)?.into();
    let info = io::read_to_string(File::open(format!("/proc/self/fdinfo/{}", held.as_raw_fd()))?)?;
    let found = info.lines().find_map(|l| l.strip_prefix("mnt_id:")).map(str::trim);
    if found != Some(id) {
        return Err(io::Error::other(format!("{at} is mount {} and not {id} any more", found.unwrap_or("unknown"))));
    }
    Ok(umount2(format!("/proc/self/fd/{}", held.as_raw_fd()).as_str(), MntFlags::MNT_DETACH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_each_line() {
        let mut out = Vec::new();
        let requests = "[\"look\",\"/\"]\n[\"look\",\"/no such directory\"]\n[\"what\"]\n";
        serve(requests.as_bytes(), &mut out).unwrap();
        let answers: Vec<Option<Refusal>> =
            String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(answers[0], None);
        assert_eq!(answers[1].as_ref().unwrap().errno, libc::ENOENT);
        assert_eq!(answers.len(), 3);
        assert!(answers[2].is_some());
    }
}
