//! Files in memory.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Where a file is made and its name removed on a kernel without memfd_create(2): in memory, where
/// there is such a place.
const PLACES: [&str; 3] = ["/dev/shm", "/run", "/tmp"];

/// A file in memory that holds `bytes`, can no longer be changed through this descriptor or, from
/// Linux 3.17 on, by anyone, and is positioned at its start. `name` shows in `/proc/PID/fd` only.
/// Close-on-exec.
///
/// # Errors
/// memfd_create(2), write(2) (ENOSPC when memory is short), fcntl(2).
pub(crate) fn sealed(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    let mut file = match memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOSYS) => return nameless(bytes),
        Err(errno) => return Err(errno.into()),
    };
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    file.rewind()?;
    Ok(file)
}

/// The same of a file that has lost its name, open for reading alone.
fn nameless(bytes: &[u8]) -> io::Result<File> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for place in PLACES {
        let path = Path::new(place).join(format!(".fansync-list-{:016x}", fastrand::u64(..)));
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => file,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let written = file.write_all(bytes).and_then(|()| File::open(&path));
        fs::remove_file(&path)?;
        match written {
            Ok(file) => return Ok(file),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn reads_back_from_the_start_and_cannot_change() {
        for mut file in [sealed(c"list", b"./a\0./b\0").unwrap(), nameless(b"./a\0./b\0").unwrap()] {
            let mut back = Vec::new();
            file.read_to_end(&mut back).unwrap();
            assert_eq!(back, b"./a\0./b\0");
            assert!(file.write_all(b"x").is_err());
            assert!(file.set_len(0).is_err());
        }
    }
}
