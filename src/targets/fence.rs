//! Roles: before anything is sent, and every [`POLL_INTERVAL`] after, a target's mark is read
//! ([`crate::role::mark`]), and before each batch our own is read. A target that is fenced off gets
//! nothing; the marks are read again, and it goes on by itself once they allow it.
//!
//! The first time an epoch of ours reaches a target, the target may hold what no other server has:
//! writes that it acknowledged as the primary before. So until one pass over the whole tree has
//! ended well, every run keeps what it replaces or deletes (`--backup`), each in a directory of its
//! own below [`mark::DIR`]`/conflict/EPOCH` of the target: with one for all, a second run replaced
//! what the first had kept (measured).
//!
//! Gives up: a target that is promoted without our noticing (it still takes our connection) may be
//! pushed to for up to [`POLL_INTERVAL`], and by runs that were in flight. A promotion therefore
//! requests the peer to step down first, which takes effect at its next batch.

use super::*;

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use crate::location::Location;
use crate::privilege;
use crate::role::fence::{self, Ruling, Seen as Role};
use crate::role::mark::{self, MarkError};
use crate::sys::caps;

/// How often a target's mark is read while it is up, and after it was fenced off.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// What is known of roles; only for mirrors that honour them.
pub(super) struct Fence {
    /// Where the target's mark is fetched to.
    inbox: Option<Inbox>,
    /// The next check while the target is up.
    next: Duration,
    querying: bool,
    /// Nothing is sent, for the marks say so.
    pub(super) fenced: bool,
    /// What the probe found, kept until the mark is known.
    missing_args: bool,
    /// The epoch that we push as; 0 while we do not.
    pub(super) epoch: u64,
    /// What runs replace is kept aside.
    pub(super) aside: bool,
}

impl Fence {
    pub(super) fn new(mirror: &Mirror) -> Option<Fence> {
        mirror.roles.then(|| Fence {
            inbox: None,
            next: Duration::ZERO,
            querying: false,
            fenced: false,
            missing_args: true,
            epoch: 0,
            aside: false,
        })
    }
}

/// A directory for one target's mark; private, but for the user that fetches it.
struct Inbox {
    path: PathBuf,
    dir: File,
}

impl Inbox {
    fn make(location: &Location) -> io::Result<Inbox> {
        let name = std::env::temp_dir().join("fansync-role.XXXXXX");
        let make = || nix::unistd::mkdtemp(&name);
        let user = privilege::user_of_fetch(location);
        let path = match user {
            // It stays ours, so that the mark can be removed.
            Some(user) => caps::as_group(user.gid, make)??,
            None => make()?,
        };
        let dir = File::open(&path)?;
        if let Some(user) = user
            && dir.metadata()?.gid() == user.gid
        {
            dir.set_permissions(Permissions::from_mode(0o770))?;
        }
        Ok(Inbox { path, dir })
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Target {
    /// The probe was answered: up at once, or after the target's mark has allowed it.
    pub(super) fn answered(&mut self, cx: &mut Context<'_>, missing_args: bool) {
        match &mut self.fence {
            None => self.came_up(cx, missing_args),
            Some(fence) => {
                fence.missing_args = missing_args;
                self.ask_role(cx);
            }
        }
    }

    /// When the next check is due, while up.
    pub(super) fn role_due(&self) -> Option<Duration> {
        let fence = self.fence.as_ref()?;
        (self.is_up() && !fence.querying).then_some(fence.next)
    }

    pub(super) fn ask_role(&mut self, cx: &mut Context<'_>) {
        // Our own first: it costs nothing, and a follower needs no query.
        if let Err(why) = self.own_role() {
            return self.fence_off(cx, why);
        }
        let Some(fence) = &mut self.fence else { return };
        let inbox = match fence.inbox.take().map_or_else(|| Inbox::make(&self.cfg.location), Ok) {
            Ok(inbox) => fence.inbox.insert(inbox),
            Err(error) => {
                let why = format!("cannot make a directory in {:?} to read the target's role: {error}", std::env::temp_dir());
                return self.went_away(cx, false, why);
            }
        };
        if let Err(error) = fs::remove_file(inbox.path.join("role"))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return self.went_away(cx, false, format!("cannot remove an old role mark: {error}"));
        }
        fence.querying = true;
        let started = self.start(cx, Launch::of(Pass::Role, Input::None, LaunchKind::Role));
        if let (None, Some(fence)) = (started, &mut self.fence) {
            fence.querying = false;
        }
    }

    /// The directory that [`Pass::Role`] copies into.
    pub(super) fn inbox(&self) -> &std::path::Path {
        self.fence.as_ref().and_then(|f| f.inbox.as_ref()).map_or(std::path::Path::new(""), |inbox| &inbox.path)
    }

    /// The same, held open.
    pub(super) fn inbox_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fence.as_ref()?.inbox.as_ref()?.dir.as_fd())
    }

    /// The run that fetched the target's mark has ended.
    pub(super) fn role_answered(&mut self, cx: &mut Context<'_>, outcome: &Outcome, not_found: bool) {
        let brought = self.inbox().join("role");
        let Some(fence) = &mut self.fence else { return };
        fence.querying = false;
        fence.next = cx.now + POLL_INTERVAL;
        let theirs = if outcome.is_done() {
            match mark::read_file(&brought) {
                // Reported as done and nothing came: what lies there is no regular file.
                Ok(None) => {
                    Role::Unreadable(format!("{} of the target is not a regular file, or is larger than a mark", mark::FILE))
                }
                Err(MarkError::Damaged { what, .. }) => {
                    Role::Unreadable(format!("the role mark {} of the target is damaged ({what})", mark::FILE))
                }
                other => other.into(),
            }
        } else if outcome.verdict == Verdict::Partial && not_found {
            Role::None
        } else if matches!(outcome.verdict, Verdict::Partial | Verdict::Config | Verdict::Refused { .. }) {
            Role::Unreadable(outcome.reason.clone())
        } else {
            return self.went_away(cx, false, format!("cannot read the target's role: {}", outcome.reason));
        };
        match fence::judge(&self.own_mark(), &theirs) {
            Ruling::Fenced(why) => self.fence_off(cx, why),
            Ruling::Push { epoch } => self.may_push(cx, epoch),
        }
    }

    fn own_mark(&self) -> Role {
        mark::read(&self.mirror.source).into()
    }

    /// Whether our own mark lets us push; always without roles. One small read.
    pub(super) fn own_role(&self) -> Result<(), String> {
        if self.fence.is_none() {
            return Ok(());
        }
        match fence::own(&self.own_mark()) {
            Ruling::Push { .. } => Ok(()),
            Ruling::Fenced(why) => Err(why),
        }
    }

    /// Where it is noted up to which epoch the target holds nothing that we do not know of.
    fn known_name(&self) -> String {
        format!("known.{}", self.cfg.name)
    }

    fn may_push(&mut self, cx: &mut Context<'_>, epoch: u64) {
        let known = mark::beside(&self.mirror.source, &self.known_name()).ok().flatten();
        let known: u64 = known.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()).unwrap_or(0);
        let Some(fence) = &mut self.fence else { return };
        let missing_args = fence.missing_args;
        let new = fence.epoch != epoch;
        (fence.fenced, fence.epoch) = (false, epoch);
        // Before the first epoch no server was primary.
        let aside = epoch > 1 && known < epoch;
        let begins = aside && (new || !fence.aside);
        fence.aside = aside;
        if begins {
            tracing::warn!(
                target_name = %self.cfg.name, epoch,
                "first push of this epoch: the whole tree is compared, and what only the target holds is kept in {}/conflict/{epoch} there",
                mark::DIR
            );
            self.drop_standbys(cx);
            self.see(cx.now, b"", Seen::Subtree);
        }
        if !self.is_up() {
            self.came_up(cx, missing_args);
        }
    }

    /// A pass over the whole tree that kept things aside has ended well.
    pub(super) fn aside_done(&mut self, cx: &mut Context<'_>, epoch: u64) {
        let name = self.known_name();
        let Some(fence) = self.fence.as_mut().filter(|f| f.aside && f.epoch == epoch) else { return };
        if let Err(error) = mark::put_beside(&self.mirror.source, &name, format!("{epoch}\n").as_bytes(), 0o644) {
            // Then it is done again after the next start, which loses nothing.
            tracing::warn!(target_name = %self.cfg.name, %error, "cannot note that the target is known");
        }
        fence.aside = false;
        tracing::info!(target_name = %self.cfg.name, epoch, "the target holds nothing any more that is not kept or known");
        self.drop_standbys(cx);
    }

    /// Whether it keeps what it replaces or deletes on the target.
    pub(super) fn keeps_aside(&self) -> bool {
        self.fence.as_ref().is_some_and(|f| f.aside)
    }

    /// What a run keeps aside, as rsync arguments.
    pub(super) fn aside_args(&self, serial: u32) -> Vec<String> {
        let mut args = self.cfg.args.clone();
        if let Some(fence) = self.fence.as_ref().filter(|f| f.aside) {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            args.push("--backup".into());
            args.push(format!("--backup-dir={}/conflict/{}/{at}-{serial}", mark::DIR, fence.epoch));
        }
        args
    }

    /// Where a run keeps what it replaces or deletes, as `backup_dir` has it: a directory of its
    /// own below that of the day, by which old ones are found ([`crate::backups`]).
    pub(super) fn backup_of(&self, serial: u32) -> Option<String> {
        let dir = self.cfg.backup_dir.as_ref().filter(|_| !self.keeps_aside())?;
        let now = SystemTime::now();
        let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_millis();
        let time = humantime::format_rfc3339_seconds(now).to_string();
        let (day, time) = time.split_once('T')?;
        let time = time.trim_end_matches('Z').replace(':', "");
        Some(format!("{}/{day}/{time}.{millis:03}-{serial}", dir.display()))
    }

    /// From now on nothing is sent; what is under way is ended.
    pub(super) fn fence_off(&mut self, cx: &mut Context<'_>, why: String) {
        let Some(fence) = &mut self.fence else { return };
        fence.epoch = 0;
        if !std::mem::replace(&mut fence.fenced, true) || self.counters.stats.reason != why {
            tracing::warn!(target_name = %self.cfg.name, url = %self.cfg.location, pending = self.unconfirmed(), "{why}");
        }
        self.counters.stats.reason = why.clone();
        self.link.ask_at(cx.now + POLL_INTERVAL, true, why);
        self.drop_standbys(cx);
        for run in self.runs.values_mut().filter(|run| run.carried().is_some()) {
            run.process.rsync.cut();
        }
    }
}
