//! The calls that touch a mount, each made by a process of its own: `fansync failover call NAME …`, for [`super::mounts`] only.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mounts::PLACEHOLDER;
use crate::sys::movemount::move_mount;

const NONE: Option<&CStr> = None;

/// Makes one call. Blocks for as long as it does.
///
/// # Errors
/// The call's; `InvalidInput` for one that does not exist.
pub fn call(words: &[String]) -> io::Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["move", from, to] => move_mount(Path::new(from), Path::new(to), false),
        ["beneath", from, to] => move_mount(Path::new(from), Path::new(to), true),
        // Not followed: somebody may have put a link there. Never with MNT_FORCE, which breaks writes under way on a live mount and does
        // not help on a dead one (measured).
        ["detach", at] => Ok(umount2(at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?),
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
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
