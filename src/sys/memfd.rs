//! Files in memory.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek, Write};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A file in memory that holds `bytes`, can no longer be changed by anyone, and is positioned at
/// its start. `name` shows in `/proc/PID/fd` only. Close-on-exec.
///
/// # Errors
/// memfd_create(2), write(2) (ENOSPC when memory is short), fcntl(2).
pub(crate) fn sealed(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn reads_back_from_the_start_and_cannot_change() {
        let mut file = sealed(c"list", b"./a\0./b\0").unwrap();
        let mut back = Vec::new();
        file.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"./a\0./b\0");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
