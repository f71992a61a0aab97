//! Renames, where the kernel reports both names in one record (`FAN_RENAME`).

use super::nameless::Change;
use super::tree::Known;
use super::{Dir, Outcome, Placed, Resolver, is_whiteout, leads_to};
use crate::dirty::{PathSink, Seen};
use crate::filter::Filter;
use crate::path;
use crate::root::Root;
use crate::source::fan_decode::{FanEvent, Place};

impl Resolver {
    /// A rename, as one record has it: either name may lie outside.
    pub(super) fn renamed(
        &mut self,
        root: &Root,
        filter: &Filter,
        event: &FanEvent<'_>,
        is_dir: bool,
        out: &mut dyn PathSink,
    ) -> Outcome {
        let mut place = |of: Option<Place<'_>>| match of {
            // The one that is sought is compared with all below it, if it is inside.
            Some(p) => {
                self.resolve(root, &p.fid).map(|dir| if matches!(dir, Dir::Sought | Dir::Gone) { Dir::Outside } else { dir })
            }
            None => Ok(Dir::Outside),
        };
        let (old, new) = (place(event.old)?, place(event.new)?);
        let (old_name, new_name) = (event.old.map_or(&b""[..], |p| p.name), event.new.map_or(&b""[..], |p| p.name));
        if is_dir {
            self.move_dir(root, event, (&old, old_name), (&new, new_name));
        } else if let (Dir::Inside(_), _) | (_, Dir::Inside(_)) = (&old, &new) {
            self.unmute(event);
        }
        let (left, arrived) = if is_dir { (Seen::LeftDir, Seen::ArrivedDir) } else { (Seen::Left, Seen::Arrived) };
        // Where only one half is to be reported, it is no rename to a target.
        let mut reported = false;
        if let Dir::Inside(dir) = old {
            let left = if matches!(new, Dir::Inside(_)) { left } else { left.plain() };
            self.report(filter, dir, old_name, is_dir, &[left], &mut |path: &[u8], seen: Seen| {
                reported = seen != Seen::DirTimes;
                out.apply(path, seen);
            });
        }
        let leaves_whiteout = reported && is_whiteout(root, &self.dir);
        let stays = match new {
            Dir::Inside(dir) => {
                let arrived = if reported { arrived } else { arrived.plain() };
                matches!(self.report(filter, dir, new_name, is_dir, &[arrived], out), Placed::Here)
            }
            Dir::Outside | Dir::Gone | Dir::Sought => false,
        };
        if reported && !stays && !is_dir {
            self.bereft = Some(2);
        }
        if self.bereft.is_some() && self.has_unsent_write(event) {
            self.changed_elsewhere(root, filter, event, Change::Writing, out)?;
        }
        if let (true, Dir::Inside(dir)) = (leaves_whiteout, old) {
            self.report(filter, dir, old_name, false, &[Seen::Written], out);
        }
        Ok(())
    }

    /// A directory was renamed: the tree follows.
    fn move_dir(&mut self, root: &Root, event: &FanEvent<'_>, (old, old_name): (&Dir, &[u8]), (new, new_name): (&Dir, &[u8])) {
        // By its own handle alone: what has the old name in the tree may be another directory
        // that a check-up put there ahead of this event. Where the handle is not known, or not
        // reported, that place is given up.
        let child = event.child.filter(|c| !c.handle.is_empty());
        let node = match child.map(|c| self.tree.get((c.fs.0, c.kind, c.handle))) {
            Some(Known::Inside(node)) => Some(node),
            _ => {
                if let Dir::Inside(dir) = old
                    && let Some(there) = self.tree.child(*dir, old_name)
                {
                    self.tree.detach(there);
                }
                None
            }
        };
        match (node, new) {
            (Some(node), Dir::Inside(dir)) => {
                self.tree.rename(node, *dir, new_name);
                // The kernel merges a rename into an earlier one with the same names, so their
                // order may be lost (a to b, b to a, a to b arrive as two, measured on 6.18). A
                // place that does not lead to the directory is no place: it is looked up. The
                // same of the directory above it: another one may have its name, with one of
                // this name in it.
                let leads = |path: &[u8]| {
                    child.is_some_and(|c| leads_to(root, path, &c))
                        && event.new.is_some_and(|n| path::parent(path).is_some_and(|up| leads_to(root, up, &n.fid)))
                };
                if self.dir_path(node) && !leads(&self.dir) {
                    self.tree.detach(node);
                }
            }
            (Some(node), Dir::Outside | Dir::Gone | Dir::Sought) => self.tree.detach(node),
            (None, Dir::Inside(dir)) => {
                if let Some(overwritten) = self.tree.child(*dir, new_name) {
                    self.tree.detach(overwritten);
                }
            }
            (None, Dir::Outside | Dir::Gone | Dir::Sought) => {}
        }
        if let Dir::Inside(_) = new {
            let from_outside = matches!(old, Dir::Outside);
            if from_outside {
                self.forget_foreign();
            }
            self.dir_came(from_outside);
        }
    }
}
