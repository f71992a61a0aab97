//! Which of two servers may be written to: the mark of a tree, and what it means for a mirror that
//! pushes there.

pub(crate) mod fence;
pub mod mark;
