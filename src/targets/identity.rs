//! Whether a target is the one that was left at the last stop: after a restart it gets what changed
//! since, so one that was emptied or replaced meanwhile would lack all the rest.
//!
//! The first probe after a restart names what stands at the top of the source unchanged since the
//! target was last known to be equal. If the target lacks one of these, it is compared whole.
//!
//! Gives up: what was lost further down; a source where all names at the top have changed since; a
//! target that is exchanged while fansync runs (`full_every`).

use super::*;

/// Names requested at most.
const MOST: usize = 200;

/// What the first probe is to find out.
pub(super) struct IdentityCheck {
    /// What changed before is on the target, seconds since 1970.
    since: i64,
    /// The probe under way names some.
    requested: bool,
}

impl Target {
    /// Before the first probe: the target was equal to the source as it was at `since` (seconds
    /// since 1970).
    pub(crate) fn was_equal(&mut self, since: i64) {
        self.identity = Some(IdentityCheck { since, requested: false });
    }

    /// The list of a probe.
    pub(super) fn probe_list(&mut self, cx: &Context<'_>) -> Vec<u8> {
        let mut list = probe::probe_list();
        if let Some(check) = &mut self.identity {
            let names = unchanged(cx.root, cx.filter, check.since);
            check.requested = !names.is_empty();
            list.extend(filelist::encode(names.iter().map(|name| (name, Form::Plain))).bytes);
        }
        list
    }

    /// How many lines of such a run are kept for that.
    pub(super) fn items_kept_for(&self, kind: &LaunchKind) -> usize {
        let requested = matches!(kind, LaunchKind::Probe) && self.identity.as_ref().is_some_and(|s| s.requested);
        if requested { MOST + 1 } else { 0 }
    }

    /// A probe that named some was answered. `true`: the target may not be the one that it was, and
    /// nothing may be sent before that is on record.
    pub(super) fn is_another(&mut self, cx: &Context<'_>, output: &Output, outcome: &Outcome) -> bool {
        if !self.identity.as_ref().is_some_and(|s| s.requested) {
            return false;
        }
        match outcome.verdict {
            Verdict::Done => {
                self.identity = None;
                let Some(lacks) = output.items.iter().find(|i| matches!(i.change, [b'c' | b'<', b'd' | b'f', b'+', ..])) else {
                    return false;
                };
                tracing::warn!(
                    mirror = %self.mirror.name, target_name = %self.cfg.name, path = %lacks.path,
                    "the target lacks what it had at the last stop"
                );
                self.ledger.suspect = true;
            }
            // It is one of the names, not the target: the next probe goes without.
            Verdict::Partial | Verdict::SourceRace | Verdict::NoMissingArgs => self.identity = None,
            _ => return false,
        }
        self.link.ask_at(cx.now, false, "is probed again".into());
        true
    }
}

/// Files and directories at the top that have not changed since.
fn unchanged(root: &Root, filter: &Filter, since: i64) -> Vec<RelPath> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let Ok(mut listing) = nix::dir::Dir::openat(root, ".", flags, Mode::empty()) else { return Vec::new() };
    let mut out = Vec::new();
    for entry in listing.iter().flatten() {
        let Some(name) = RelPath::new(entry.file_name().to_bytes()).filter(|name| !name.is_root()) else { continue };
        let Ok(stat) = fstatat(root, name.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let kind = stat.st_mode & SFlag::S_IFMT.bits();
        let (file, dir) = (kind == SFlag::S_IFREG.bits(), kind == SFlag::S_IFDIR.bits());
        if (file || dir) && stat.st_ctime < since && &*name != b"lost+found" && !filter.excludes_leaf(&name, dir) {
            out.push(name);
            if out.len() == MOST {
                break;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_at_the_top_that_have_not_changed_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["d", "lost+found"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        for name in ["f", "f.tmp", "d/below"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let filter = Filter::new::<&str, &str>(&[], &["*.tmp"]).unwrap();
        let mut names: Vec<String> = unchanged(&root, &filter, i64::MAX).iter().map(|name| name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["d", "f"]);
        assert!(unchanged(&root, &filter, 0).is_empty(), "all of them are newer");
    }
}
