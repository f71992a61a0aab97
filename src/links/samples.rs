//! Inodes and paths for tests.

use super::Inode;
use crate::path::RelPath;

pub(crate) const A: Inode = ((8, 1), 10);
pub(crate) const B: Inode = ((8, 1), 11);

pub(crate) fn p(path: &str) -> RelPath {
    RelPath::new(path.as_bytes()).unwrap()
}
