//! What the records of the state file say, as bytes.
//!
//! A file: one [`Head`], then perhaps a set of directories, then *saves*. A save is a [`Saved`]
//! with the changes of the set right before it; changes that no save follows do not count, so what
//! is read is what was true at one moment.

use super::clock::{Clock, Wall};
use super::dirs::{Delta, Dirs, Object, Place};
use super::log::{Chain, Contents, Key};
use super::{Identity, TargetId};

const HEAD: u32 = 1;
const DIRS: u32 = 2;
const CHANGES: u32 = 3;
const SAVED: u32 = 4;

/// Places in one record, so that no record becomes large.
const PLACES_PER_RECORD: usize = 1 << 20;

/// Whose state this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the hashes in the set.
    pub(crate) key: Key,
    pub(crate) identity: Identity,
    pub(crate) targets: Vec<TargetId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    pub(crate) clock: Clock,
    /// The daemon stopped, and no change of a directory's place that it acted upon is missing in
    /// the set.
    pub(crate) clean: bool,
    /// The daemon stopped, and then the source's filesystems were synced: what the targets have,
    /// survives a power cut.
    pub(crate) durable: bool,
    /// How the daemon ended.
    pub(crate) stop: Stop,
    /// Up to when the set is complete; `None`: there is none.
    pub(crate) dirs_complete_at: Option<Wall>,
    /// Per target of the head.
    pub(crate) watermarks: Vec<Option<Wall>>,
    /// The newest change time that was seen in the source; [`Wall::MIN`]: none.
    pub(crate) newest: Wall,
}

/// How a daemon ended, as far as it could write it down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It did not: it runs, was killed, or the machine went down.
    None,
    /// In order. A run was cut off that may have left temporary files on a target.
    Untidy,
    /// In order, and no run was cut off.
    Tidy,
}

impl Stop {
    fn number(self) -> u64 {
        match self {
            Stop::None => 0,
            Stop::Tidy => 1,
            Stop::Untidy => 2,
        }
    }

    fn of(number: u64) -> Stop {
        match number {
            1 => Stop::Tidy,
            2 => Stop::Untidy,
            _ => Stop::None,
        }
    }
}

/// A file's meaning.
#[derive(Debug)]
pub(super) struct State {
    pub(crate) head: Head,
    pub(crate) dirs: Dirs,
    pub(crate) last: Saved,
}

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Out {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn u64(&mut self, n: u64) -> &mut Out {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn wall(&mut self, at: Wall) -> &mut Out {
        self.u64(at.0 as u64)
    }

    fn maybe(&mut self, at: Option<Wall>) -> &mut Out {
        self.u64(u64::from(at.is_some())).wall(at.unwrap_or(Wall::MIN))
    }
}

/// `None` from any of its functions: the bytes end too early, or mean nothing.
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u64()?;
        self.take(usize::try_from(n).ok()?)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn wall(&mut self) -> Option<Wall> {
        Some(Wall(self.u64()? as i64))
    }

    fn maybe(&mut self) -> Option<Option<Wall>> {
        let there = self.u64()?;
        let at = self.wall()?;
        (there < 2).then_some((there == 1).then_some(at))
    }
}

pub(super) fn put_head(chain: &mut Chain, head: &Head, out: &mut Vec<u8>) {
    let mut o = Out::default();
    let i = &head.identity;
    o.bytes(&head.key).bytes(&i.source).u64(i.ino).u64(i.handle_kind as u64).bytes(&i.handle).u64(i.fs.0).u64(i.fs_type);
    o.bytes(i.settings.as_bytes()).u64(head.targets.len() as u64);
    for target in &head.targets {
        o.bytes(target.name.as_bytes()).bytes(target.settings.as_bytes());
    }
    chain.append(HEAD, &o.0, out);
}

fn get_head(bytes: &[u8]) -> Option<Head> {
    let mut i = In(bytes);
    let key = i.bytes()?.try_into().ok()?;
    let identity = Identity {
        source: i.bytes()?.to_vec(),
        ino: i.u64()?,
        handle_kind: i.u64()? as i32,
        handle: i.bytes()?.to_vec(),
        fs: crate::sys::handle::FsId(i.u64()?),
        fs_type: i.u64()?,
        settings: i.text()?,
    };
    let n = i.u64()?;
    let targets = (0..n).map(|_| Some(TargetId { name: i.text()?, settings: i.text()? })).collect::<Option<Vec<_>>>()?;
    i.0.is_empty().then_some(Head { key, identity, targets })
}

/// The whole set.
pub(super) fn put_dirs(chain: &mut Chain, dirs: &Dirs, out: &mut Vec<u8>) {
    let mut all = dirs.all();
    loop {
        let mut o = Out::default();
        o.0.reserve(16 * all.len().min(PLACES_PER_RECORD) + 8);
        o.wall(dirs.floor());
        for (place, object) in all.by_ref().take(PLACES_PER_RECORD) {
            o.u64(place.0).u64(object.0);
        }
        chain.append(DIRS, &o.0, out);
        if all.len() == 0 {
            break;
        }
    }
    let recent: Vec<Delta> = dirs.recent().map(|(place, object, since)| (place, Some((object, since)))).collect();
    put_changes(chain, &recent, out);
}

/// What changed in the set since the last save.
pub(super) fn put_changes(chain: &mut Chain, changes: &[Delta], out: &mut Vec<u8>) {
    for part in changes.chunks(PLACES_PER_RECORD) {
        let mut o = Out::default();
        for (place, now) in part {
            let (object, since) = now.map_or((0, Wall::MIN), |(object, since)| (object.0, since));
            o.u64(place.0).u64(object).wall(since);
        }
        chain.append(CHANGES, &o.0, out);
    }
}

pub(super) fn put_saved(chain: &mut Chain, saved: &Saved, out: &mut Vec<u8>) {
    let mut o = Out::default();
    o.wall(saved.clock.wall).u64(saved.clock.boot as u64).bytes(&saved.clock.boot_id.to_le_bytes());
    o.u64(u64::from(saved.clean)).u64(u64::from(saved.durable)).u64(saved.stop.number());
    o.maybe(saved.dirs_complete_at).u64(saved.watermarks.len() as u64);
    for at in &saved.watermarks {
        o.maybe(*at);
    }
    o.wall(saved.newest);
    chain.append(SAVED, &o.0, out);
}

fn get_saved(bytes: &[u8]) -> Option<Saved> {
    let mut i = In(bytes);
    let clock = Clock { wall: i.wall()?, boot: i.u64()? as i64, boot_id: u128::from_le_bytes(i.bytes()?.try_into().ok()?) };
    let (clean, durable, stop) = (i.u64()? == 1, i.u64()? == 1, Stop::of(i.u64()?));
    let dirs_complete_at = i.maybe()?;
    let n = i.u64()?;
    let watermarks = (0..n).map(|_| i.maybe()).collect::<Option<Vec<_>>>()?;
    let newest = i.wall()?;
    i.0.is_empty().then_some(Saved { clock, clean, durable, stop, dirs_complete_at, watermarks, newest })
}

fn apply_dirs(dirs: &mut Dirs, bytes: &[u8]) -> Option<()> {
    let mut i = In(bytes);
    let floor = i.wall()?;
    if dirs.is_empty() {
        *dirs = dirs.like(floor);
    }
    dirs.reserve(i.0.len() / 16);
    while !i.0.is_empty() {
        let (place, object) = (Place(i.u64()?), Object(i.u64()?));
        dirs.insert(place, object, floor);
    }
    Some(())
}

fn apply_changes(dirs: &mut Dirs, bytes: &[u8]) -> Option<()> {
    let mut i = In(bytes);
    while !i.0.is_empty() {
        let (place, object, since) = (Place(i.u64()?), i.u64()?, i.wall()?);
        match object {
            0 => {
                dirs.remove(place);
            }
            object => dirs.insert(place, Object(object), since),
        }
    }
    Some(())
}

/// The state at the last save. `None`: there is no save, or the records mean nothing.
///
/// A clean stop is one only when it is the very end of the file: whatever follows it, readable or
/// not, was a run of the daemon whose changes are not known.
pub(super) fn meaning(contents: &Contents<'_>) -> Option<State> {
    let (first, rest) = contents.records.split_first()?;
    if first.kind != HEAD {
        return None;
    }
    let head = get_head(first.payload)?;
    let mut dirs = Dirs::new(head.key, Wall::MIN);
    let end = rest.iter().rposition(|r| r.kind == SAVED)?;
    let mut last = None;
    for record in &rest[..=end] {
        match record.kind {
            DIRS => apply_dirs(&mut dirs, record.payload)?,
            CHANGES => apply_changes(&mut dirs, record.payload)?,
            SAVED => last = Some(get_saved(record.payload)?),
            _ => return None,
        }
    }
    let mut last = last.filter(|l| l.watermarks.len() == head.targets.len())?;
    if contents.torn || end + 1 < rest.len() {
        (last.clean, last.durable, last.stop) = (false, false, Stop::None);
    }
    Some(State { head, dirs, last })
}
