//! temp
use std::os::fd::*;
use std::path::{Path, PathBuf};
pub struct MountEntry {
    pub point: PathBuf,
}
pub struct Mounts;
impl Mounts {
    pub fn read() -> std::io::Result<Mounts> {
        Ok(Mounts)
    }
    pub fn below(&self, _r: &Path) -> Vec<MountEntry> {
        vec![]
    }
}
pub struct MountWatch(std::fs::File);
impl MountWatch {
    pub fn open() -> std::io::Result<MountWatch> {
        Ok(MountWatch(std::fs::File::open("/proc/self/mountinfo")?))
    }
    pub fn clear(&mut self) {}
}
impl AsFd for MountWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
