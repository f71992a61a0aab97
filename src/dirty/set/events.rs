//! Events: what each makes of the path it is about, and of what is above and below.

use super::cursors::Found;
use super::tree::Node;
use super::*;

/// Whether a change came through the path's name, to the file behind it.
fn through(seen: Seen) -> u16 {
    if matches!(seen, Seen::Written | Seen::Replaced | Seen::Modified | Seen::Touched) { THROUGH } else { 0 }
}

/// Whether the path loses its file.
fn loses(seen: Seen) -> bool {
    matches!(seen, Seen::Gone | Seen::GoneDir | Seen::Replaced)
}

impl DirtySet {
    /// Takes in that `seen` happened to `path` just now.
    pub fn see(&mut self, path: &[u8], seen: Seen) {
        let before = self.tally.pending;
        self.see_since(path, seen, self.epochs.current());
        self.merged += u64::from(self.tally.pending <= before);
    }

    /// Takes in that `seen` happened to `path`, as part of a change from `epoch`: a caller that
    /// waits for that waits for this too.
    pub(crate) fn see_since(&mut self, path: &[u8], seen: Seen, epoch: Epoch) {
        let half = self.half_of_rename(path, seen);
        self.take_in(path, seen, epoch);
        if let Some(half) = half {
            self.pair(path, half);
        }
    }

    /// The same of half of a rename that is not to be made as one: its names are sent, each by
    /// itself. A change that came through a file's name goes along with the file all the same;
    /// those in a directory are sought.
    pub(crate) fn see_apart(&mut self, path: &[u8], seen: Seen, epoch: Epoch) {
        let before = self.tally.pending;
        self.renames.forget_left();
        // The first half may have been taken in as one of a pair.
        let goes_along = matches!(seen, Seen::Left | Seen::Arrived) || self.last.carried.is_some();
        self.take_in(path, if goes_along { seen } else { seen.plain() }, epoch);
        self.merged += u64::from(self.tally.pending <= before);
    }

    fn take_in(&mut self, path: &[u8], seen: Seen, epoch: Epoch) {
        let (carried, strayed) = (self.last.carried.take(), self.last.strayed.take().zip(self.last.dropped));
        self.see_plain(path, seen.plain(), epoch);
        match seen {
            Seen::LeftDir | Seen::GoneDir if self.last.absorbed => self.go_along(path, seen),
            Seen::ArrivedDir => {
                if let Some(old) = carried {
                    self.set_flag(&old, THROUGH, false);
                    self.set_flag(path, THROUGH, true);
                }
            }
            _ => {}
        }
        // Last: in an exchange, what the second rename takes along was brought by the first one,
        // and stays there as well.
        match seen {
            Seen::Left | Seen::LeftDir => self.last.exchange.left(path, self.last.dropped.is_some()),
            Seen::Arrived | Seen::ArrivedDir => {
                if let Some(other) = self.last.exchange.arrived(path) {
                    self.set_flag(&other, THROUGH, true);
                }
            }
            _ => {}
        }
        // Both halves of a rename come before what strayed is asked for.
        if let Some((dir, since)) = strayed.filter(|_| seen.plain() == Seen::MovedDir) {
            (self.last.strayed, self.last.dropped) = (Some(dir), Some(since));
        }
    }

    /// The directory that went with what was seen last (`Left` or `Gone`) takes changes along that
    /// came through names in it and are not followed yet.
    pub(crate) fn take_along(&mut self, dir: &[u8], seen: Seen) {
        self.last.dropped.get_or_insert(self.epochs.current());
        self.go_along(dir, seen);
    }

    fn go_along(&mut self, dir: &[u8], seen: Seen) {
        self.set_flag(dir, THROUGH, true);
        let dir = Some(RelPath::from_normal(dir));
        match seen {
            Seen::LeftDir => self.last.carried = dir,
            _ => self.last.strayed = dir,
        }
    }

    pub(super) fn set_flag(&mut self, path: &[u8], flag: u16, on: bool) {
        if let Some(at) = self.tree.find(path).filter(|&at| self.tree[at].kind.is_some()) {
            let flags = &mut self.tree[at].flags;
            *flags = if on { *flags | flag } else { *flags & !flag };
        }
    }

    /// `path` is another name of a file that changed at `epoch` through one of its names;
    /// `content`: it was written, too.
    pub(crate) fn see_other_name(&mut self, path: &[u8], content: bool, epoch: Epoch) {
        let own = self.tree.find(path).is_some_and(|at| self.tree[at].flags & THROUGH != 0);
        // Whether one that is still open waits for its close is for its own events to say.
        self.see_plain(path, if content { Seen::Modified } else { Seen::Touched }, epoch);
        if !own && let Some(at) = self.tree.find(path) {
            self.tree[at].flags &= !THROUGH;
        }
    }

    fn see_plain(&mut self, path: &[u8], seen: Seen, epoch: Epoch) {
        (self.last.dropped, self.last.absorbed) = (None, false);
        let Some((at, flying_above)) = self.walk(path, seen, epoch) else { return };
        let carried = seen == Seen::GoneDir && self.take_carried(path, Some(at));
        if self.tree[at].kind == Some(Kind::Subtree) {
            self.tree[at].flags |= if carried { THROUGH } else { 0 };
            return self.see_again(at, seen, epoch);
        }
        let in_flight = flying_above || self.tree[at].flying != 0;
        if loses(seen) {
            self.last.dropped = self.change_at(at).or_else(|| self.change_sent(path, in_flight));
            self.tree[at].flags &= !CARRIED;
            self.landed.went(path);
        }
        let n = &self.tree[at];
        let (clean, childless) = (n.kind.is_none(), n.first_child == NONE);
        match seen {
            Seen::Touched | Seen::Gone
                if clean && (seen == Seen::Touched || childless && !self.by_name) && self.compared_level(at).is_some() =>
            {
                let parent = self.tree[at].parent;
                self.mark(parent, Kind::Contents, epoch);
                self.tree[parent].flags |= through(seen);
                self.prune(at);
            }
            Seen::Written | Seen::Replaced => {
                self.mark(at, Kind::Entry, epoch);
                self.end_wait(at);
                let n = &mut self.tree[at];
                n.flags |= CONTENT | THROUGH | WRITTEN;
                if seen == Seen::Replaced {
                    n.flags &= !FRESH; // what leaves next may be the other half of an exchange
                }
            }
            Seen::Modified => {
                // One that has just been created goes on waiting for its close.
                self.mark(at, Kind::Entry, epoch);
                self.tree[at].flags |= CONTENT | THROUGH | WRITTEN;
            }
            Seen::Touched => {
                self.mark(at, Kind::Entry, epoch);
                self.tree[at].flags |= THROUGH;
            }
            Seen::Created | Seen::CreatedDir => {
                let unknown_to_target = clean && childless && !in_flight && !self.landed.covers(path);
                if seen == Seen::Created || unknown_to_target {
                    self.mark(at, Kind::Entry, epoch);
                    let fresh = if unknown_to_target { FRESH } else { 0 };
                    self.tree[at].flags |= fresh | if seen == Seen::Created { OPEN | CONTENT } else { 0 };
                } else {
                    self.see_whole(at, seen, epoch);
                }
            }
            Seen::MovedDir | Seen::Subtree => self.see_whole(at, seen, epoch),
            Seen::Gone | Seen::GoneDir => self.see_gone(at, epoch, carried),
            Seen::Contents => self.level(at, epoch, false),
            Seen::Left | Seen::LeftDir | Seen::Arrived | Seen::ArrivedDir | Seen::DirTimes => unreachable!("made plain before"),
        }
        if self.tally.pending > self.max_pending {
            self.coarsen();
        }
    }

    /// The node of `path`, which is added where it is missing, and whether something above it is in
    /// flight and perhaps what is below as well. `None` where a directory above is to be compared
    /// whole: the event is part of that.
    fn walk(&mut self, path: &[u8], seen: Seen, epoch: Epoch) -> Option<(u32, bool)> {
        let start = self.cursors.start(path);
        let Found { mut at, mut flying_above, last, in_turn } = start.found;
        let mut above_parent = flying_above;
        for name in components(start.rest) {
            self.disturb(at);
            let n = &self.tree[at];
            above_parent = flying_above;
            if n.kind == Some(Kind::Subtree) {
                let (changed, since) = (n.flags & THROUGH != 0, n.epoch);
                if n.flags & CONTENT == 0 || self.by_name {
                    self.twins.remember(path, seen);
                }
                let carried = seen == Seen::GoneDir && self.take_carried(path, self.tree.find(path));
                // The changes below may be in what goes.
                self.last.absorbed = seen == Seen::GoneDir && (changed || carried);
                self.last.dropped = (loses(seen) && (changed || carried)).then_some(since);
                self.tree[at].flags |= through(seen) | if carried { THROUGH } else { 0 };
                self.mark(at, Kind::Subtree, epoch);
                return None;
            }
            flying_above |= n.flying != 0 && n.flags & ALONE == 0;
            at = match self.tree.near(at, name, last, in_turn) {
                Some(child) => child,
                None => self.tree.child_or_new(at, name),
            };
        }
        let parent = self.tree[at].parent;
        if parent == start.found.at {
            let neighbour = self.tree.get(last).is_some_and(|n| n.next == at);
            self.cursors.passed(&start, at, neighbour || in_turn && last == at);
        } else if at != ROOT && parent != ROOT {
            let found = Found { at: parent, flying_above: above_parent, last: at, in_turn: false };
            self.cursors.set(path::parent(path).unwrap_or_default(), found);
            self.tree[parent].flags |= NOTED;
        }
        self.disturb(at);
        Some((at, flying_above))
    }

    /// The directory of a node, where its level is to be compared.
    fn compared_level(&self, at: u32) -> Option<&Node> {
        let parent = (at != ROOT).then(|| &self.tree[self.tree[at].parent]);
        parent.filter(|n| n.kind == Some(Kind::Contents))
    }

    /// When the oldest change came that is pending at a path, or at its directory as a level.
    fn change_at(&self, at: u32) -> Option<Epoch> {
        let nodes = [Some(&self.tree[at]), self.compared_level(at)];
        nodes.into_iter().flatten().filter(|n| n.flags & THROUGH != 0).map(|n| n.epoch).min()
    }

    /// When the oldest change came that may be on its way with the path, or have left a moment ago.
    fn change_sent(&self, path: &[u8], in_flight: bool) -> Option<Epoch> {
        let sent = in_flight || self.landed.covers(path);
        sent.then(|| self.epochs.oldest().into_iter().chain(self.landed.oldest()).min().unwrap_or(self.epochs.current()))
    }

    /// An event of what is to be compared whole already. Of one that is gone now, too: the entry's
    /// state when the batch leaves counts.
    fn see_again(&mut self, at: u32, seen: Seen, epoch: Epoch) {
        let n = &self.tree[at];
        self.last.absorbed = n.flags & THROUGH != 0;
        self.last.dropped = (loses(seen) && self.last.absorbed).then_some(n.epoch);
        self.mark(at, Kind::Subtree, epoch);
    }

    /// A directory is to be compared with all below it.
    fn see_whole(&mut self, at: u32, seen: Seen, epoch: Epoch) {
        let (below, flags) = self.absorb_below(at, epoch);
        let unsure = match seen {
            // Every name is in it; and to take nothing in the whole tree for the same would cost
            // too much; see `twins`.
            _ if at == ROOT => 0,
            // Who knows what changed in it.
            Seen::Subtree => flags & CONTENT | THROUGH,
            // Another directory under a name that the target has: what looks the same in it may not
            // be.
            _ => flags & THROUGH | CONTENT,
        };
        self.mark(at, Kind::Subtree, below);
        self.end_wait(at);
        let n = &mut self.tree[at];
        n.flags = n.flags & !(FRESH | GONE) | unsure;
    }

    /// A path was deleted or moved away, with all below it. `carried`: a change through a name
    /// below it has left, and perhaps with another file.
    fn see_gone(&mut self, at: u32, epoch: Epoch, carried: bool) {
        let n = &self.tree[at];
        let own = if n.kind == Some(Kind::Contents) { n.flags } else { 0 };
        let came_and_went = n.kind == Some(Kind::Entry) && n.flags & FRESH != 0;
        let (below, flags) = self.absorb_below(at, epoch);
        self.last.absorbed = carried || (flags | own) & THROUGH != 0;
        self.last.dropped = self.last.dropped.or(self.last.absorbed.then_some(below));
        if came_and_went {
            // Within one window: only its parent's times show it.
            let own = self.clear(at).unwrap_or(epoch);
            let parent = self.tree[at].parent;
            self.prune_up_to(at, parent);
            return self.mark(parent, Kind::Entry, below.min(own));
        }
        self.mark(at, Kind::Entry, below);
        self.end_wait(at);
        let n = &mut self.tree[at];
        // What comes here after a deletion may look like what was deleted.
        n.flags = n.flags & !(FRESH | THROUGH) | GONE | CONTENT;
    }

    /// A directory went, with all below it: whether changes that came through names in it have
    /// left, or are leaving, perhaps with other files. Reports it once. `at`: its node.
    fn take_carried(&mut self, path: &[u8], at: Option<u32>) -> bool {
        let mut carried = self.landed.take_carried(path);
        let mut stack: Vec<u32> = at.into_iter().collect();
        while let Some(above) = stack.pop() {
            if self.tree[above].flying_below == 0 {
                continue;
            }
            let below: Vec<u32> = self.tree.children(above).collect();
            for &at in &below {
                carried |= self.tree[at].flags & CARRIED != 0;
                self.tree[at].flags &= !CARRIED;
            }
            stack.extend(below);
        }
        carried
    }
}
