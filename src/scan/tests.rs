//! Random histories with an oracle: a target that is a model, a source that is real. The daemon
//! follows, acts on some changes, stops or is killed; changes go on; then the walk's findings,
//! carried out on the model, must make the two equal.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use proptest::prelude::*;

use super::facts::moment;
use super::*;
use crate::path::{is_at_or_below, parent};
use crate::state::DirSet;
use crate::sys::handle::{Handle, HandleRef, fs_id, name_to_handle, open_by_handle};

/// What a mirror must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir { mode: u32 },
    File { mode: u32, content: String, mtime: i64 },
    Link(PathBuf),
}

type Tree = BTreeMap<String, Node>;

/// A tree on a real filesystem, and the files that show its time beside it.
struct Real {
    base: PathBuf,
    root: Root,
    fs: FsId,
    version: u32,
}

impl Real {
    fn new(base: &Path) -> Real {
        fs::create_dir_all(base.join("src")).unwrap();
        let root = Root::open(&base.join("src")).unwrap();
        let fs = fs_id(root.as_fd()).unwrap();
        Real { base: base.to_owned(), root, fs, version: 0 }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn now(&self) -> Wall {
        moment(&self.base.join("probe"))
    }

    fn scope<'a>(&'a self, filter: &'a Filter) -> Scope<'a> {
        Scope { root: &self.root, filter, fs: self.fs, mounts: &[] }
    }

    fn write(&mut self, path: &str) {
        self.version += 1;
        fs::write(self.at(path), self.version.to_string()).unwrap();
    }

    fn handle(&self, path: &str) -> Handle {
        name_to_handle(self.root.as_fd(), Path::new(path)).unwrap()
    }

    fn tree(&self) -> Tree {
        fn below(real: &Real, at: &str, out: &mut Tree) {
            let m = fs::symlink_metadata(real.at(at)).unwrap();
            let mode = m.permissions().mode() & 0o7777;
            let node = if m.is_dir() {
                for entry in fs::read_dir(real.at(at)).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    below(real, &if at.is_empty() { name } else { format!("{at}/{name}") }, out);
                }
                Node::Dir { mode }
            } else if m.is_symlink() {
                Node::Link(fs::read_link(real.at(at)).unwrap())
            } else {
                Node::File { mode, content: fs::read_to_string(real.at(at)).unwrap(), mtime: m.mtime() }
            };
            out.insert(at.to_owned(), node);
        }
        let mut out = Tree::new();
        below(self, "", &mut out);
        out
    }
}

fn drop_below(target: &mut Tree, path: &str, itself: bool) {
    target.retain(|p, _| !(is_at_or_below(p.as_bytes(), path.as_bytes()) && (itself || p != path)));
}

/// What sending one path does: rule N first (the topmost thing that is missing or no directory is
/// what is sent), then the kind.
fn send(source: &Tree, target: &mut Tree, path: &str, kind: Kind) {
    let mut top = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        if !top.is_empty() {
            top.push('/');
        }
        top.push_str(part);
        match source.get(&top) {
            Some(Node::Dir { .. }) if top != path => put(source, target, &top),
            Some(_) => return send_found(source, target, &top, kind),
            None => return drop_below(target, &top, true),
        }
    }
    send_found(source, target, "", kind);
}

fn put(source: &Tree, target: &mut Tree, path: &str) {
    let node = source[path].clone();
    if !matches!((&node, target.get(path)), (Node::Dir { .. }, Some(Node::Dir { .. }))) {
        drop_below(target, path, true);
    }
    target.insert(path.to_owned(), node);
}

fn send_found(source: &Tree, target: &mut Tree, path: &str, kind: Kind) {
    put(source, target, path);
    let child = |p: &String| parent(p.as_bytes()) == Some(path.as_bytes());
    match kind {
        Kind::Entry => {}
        _ if !matches!(source[path], Node::Dir { .. }) => {}
        Kind::Contents => {
            let extra: Vec<String> = target.keys().filter(|p| child(p) && !source.contains_key(*p)).cloned().collect();
            extra.iter().for_each(|p| drop_below(target, p, true));
            let there: Vec<String> = source.keys().filter(|p| child(p)).cloned().collect();
            there.iter().for_each(|p| put(source, target, p));
        }
        Kind::Subtree => {
            drop_below(target, path, false);
            let all = source.iter().filter(|(p, _)| is_at_or_below(p.as_bytes(), path.as_bytes()));
            target.extend(all.map(|(p, n)| (p.clone(), n.clone())));
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Mkdir(u8),
    Write(u8),
    Symlink(u8),
    Link(u8, u8),
    Delete(u8),
    Rename(u8, u8),
    Exchange(u8, u8),
    /// Away and back.
    There(u8, u8),
    /// The last rename that was not taken back yet is taken back.
    Back,
    Chmod(u8, u8),
    MtimeBack(u8),
}

/// While the daemon runs.
#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    /// Some events of directories are reported.
    Deliver(u8),
    /// What is at their places is checked.
    Settle,
    /// The target gets something.
    Send(u8, u8),
    /// The target gets everything, and that is not recorded yet.
    SendAll,
    /// The target gets everything, and it is known: the watermark.
    Confirm,
    /// All events arrive, and that is saved: the set is complete up to here.
    Save,
}

/// How many names there are in all: 2 on each of 4 levels. Few, so that histories collide; deep,
/// because a comparison of one level makes up for many a mistake.
const NAMES: u8 = 2 + 4 + 8 + 16;
/// Of these, on the upper two levels.
const UPPER: u8 = 2 + 4;

fn name(n: u8) -> String {
    let (mut rest, mut level) = (n % NAMES, 1);
    while rest >= 1 << level {
        rest -= 1 << level;
        level += 1;
    }
    (0..level).rev().map(|bit| if rest >> bit & 1 == 0 { "a" } else { "b" }).collect::<Vec<_>>().join("/")
}

fn change() -> impl Strategy<Value = Change> {
    let n = || 0..NAMES;
    // Directories near the top are moved most often, files are written near the bottom.
    let upper = || 0..UPPER;
    prop_oneof![
        4 => (0..NAMES - 16).prop_map(Change::Mkdir),
        4 => (UPPER..NAMES).prop_map(Change::Write),
        1 => n().prop_map(Change::Write),
        1 => n().prop_map(Change::Symlink),
        1 => (n(), n()).prop_map(|(a, b)| Change::Link(a, b)),
        1 => n().prop_map(Change::Delete),
        2 => (n(), n()).prop_map(|(a, b)| Change::Rename(a, b)),
        4 => (upper(), upper()).prop_map(|(a, b)| Change::Rename(a, b)),
        2 => (upper(), upper()).prop_map(|(a, b)| Change::Exchange(a, b)),
        1 => (upper(), upper()).prop_map(|(a, b)| Change::There(a, b)),
        3 => Just(Change::Back),
        1 => (n(), 0..4u8).prop_map(|(a, m)| Change::Chmod(a, m)),
        1 => n().prop_map(Change::MtimeBack),
    ]
}

/// A tree to begin with: the upper directories, and more.
fn start() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec(change(), 10..40).prop_map(|more| {
        let dirs = (0..NAMES - 16).filter(|n| n % 5 != 3).map(Change::Mkdir);
        let files = (UPPER..NAMES).filter(|n| n % 3 == 0).map(Change::Write);
        dirs.chain(files).chain(more).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => change().prop_map(Step::Change),
        3 => (1u8..6).prop_map(Step::Deliver),
        2 => Just(Step::Settle),
        2 => (0..NAMES, 0u8..3).prop_map(|(n, k)| Step::Send(n, k)),
        2 => Just(Step::SendAll),
        1 => Just(Step::Confirm),
        1 => Just(Step::Save),
    ]
}

struct Sim {
    real: Real,
    target: Tree,
    set: DirSet,
    /// Places that changed without an event: the parent's handle and the name.
    events: VecDeque<(Handle, String)>,
    /// From where to where, the last one at the end.
    renamed: Vec<(String, String)>,
    since: Wall,
    complete_at: Wall,
}

impl Sim {
    fn new(base: &Path, before: &[Change]) -> Sim {
        let real = Real::new(base);
        let like = Arc::new(Dirs::new([5; 16], Wall::MIN));
        let mut sim = Sim {
            real,
            target: Tree::new(),
            set: DirSet::new(like, None),
            events: VecDeque::new(),
            renamed: Vec::new(),
            since: Wall::MIN,
            complete_at: Wall::MIN,
        };
        before.iter().for_each(|c| sim.change(c));
        sim.events.clear();
        sim.renamed.clear();
        sim.complete_at = sim.real.now();
        sim.set.begin_build(sim.complete_at);
        let (walked, _) = {
            let filter = Filter::none();
            build_set(sim.real.scope(&filter), sim.set.dirs(), one_thread(), &Progress::default()).unwrap()
        };
        assert!(sim.set.finish_build(walked));
        sim.confirm();
        sim
    }

    fn confirm(&mut self) {
        self.target = self.real.tree();
        self.since = self.real.now();
    }

    fn is_dir(&self, path: &str) -> bool {
        fs::symlink_metadata(self.real.at(path)).is_ok_and(|m| m.is_dir())
    }

    fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.real.at(path)).is_ok()
    }

    fn above(path: &str) -> &str {
        path.rfind('/').map_or("", |at| &path[..at])
    }

    /// No component of `path` but the last may be anything but a directory.
    fn reachable(&self, path: &str) -> bool {
        let mut at = Self::above(path);
        while !at.is_empty() {
            if !self.is_dir(at) {
                return false;
            }
            at = Self::above(at);
        }
        true
    }

    fn event(&mut self, path: &str) {
        let handle = self.real.handle(Self::above(path));
        self.events.push_back((handle, path.rsplit('/').next().unwrap().to_owned()));
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Mkdir(n) => {
                let p = name(*n);
                if self.reachable(&p) && !self.exists(&p) {
                    fs::create_dir(self.real.at(&p)).unwrap();
                    self.event(&p);
                }
            }
            Change::Write(n) => {
                let p = name(*n);
                if self.reachable(&p) && !self.is_dir(&p) {
                    if fs::symlink_metadata(self.real.at(&p)).is_ok_and(|m| m.is_symlink()) {
                        fs::remove_file(self.real.at(&p)).unwrap();
                    }
                    self.real.write(&p);
                }
            }
            Change::Symlink(n) => {
                let p = name(*n);
                if self.reachable(&p) && !self.exists(&p) {
                    symlink("/", self.real.at(&p)).unwrap();
                }
            }
            Change::Link(a, b) => {
                let (a, b) = (name(*a), name(*b));
                if self.reachable(&a) && self.reachable(&b) && self.exists(&a) && !self.is_dir(&a) && !self.exists(&b) {
                    fs::hard_link(self.real.at(&a), self.real.at(&b)).unwrap();
                }
            }
            Change::Delete(n) => {
                let p = name(*n);
                if self.reachable(&p) && self.is_dir(&p) {
                    self.event(&p);
                    let tree = self.real.tree();
                    for (inner, node) in tree.iter().filter(|(q, _)| **q != p && is_at_or_below(q.as_bytes(), p.as_bytes())) {
                        if matches!(node, Node::Dir { .. }) {
                            self.event(inner);
                        }
                    }
                    fs::remove_dir_all(self.real.at(&p)).unwrap();
                } else if self.reachable(&p) && self.exists(&p) {
                    fs::remove_file(self.real.at(&p)).unwrap();
                }
            }
            Change::Rename(a, b) => {
                self.rename(&name(*a), &name(*b));
            }
            Change::There(a, b) => {
                let (a, b) = (name(*a), name(*b));
                if !self.exists(&b) && self.rename(&a, &b) {
                    assert!(self.rename(&b, &a));
                }
            }
            Change::Back => {
                if let Some((a, b)) = self.renamed.pop()
                    && !self.exists(&a)
                {
                    self.rename(&b, &a);
                    self.renamed.pop();
                }
            }
            Change::Exchange(a, b) => {
                let (a, b) = (name(*a), name(*b));
                let apart = !is_at_or_below(a.as_bytes(), b.as_bytes()) && !is_at_or_below(b.as_bytes(), a.as_bytes());
                if apart && self.reachable(&a) && self.reachable(&b) && self.exists(&a) && self.exists(&b) {
                    renameat2(AT_FDCWD, &self.real.at(&a), AT_FDCWD, &self.real.at(&b), RenameFlags::RENAME_EXCHANGE).unwrap();
                    self.event(&a);
                    self.event(&b);
                }
            }
            Change::Chmod(n, mode) => {
                let p = name(*n);
                if self.reachable(&p) && self.exists(&p) && !fs::symlink_metadata(self.real.at(&p)).unwrap().is_symlink() {
                    let mode = 0o700 | u32::from(*mode);
                    fs::set_permissions(self.real.at(&p), fs::Permissions::from_mode(mode)).unwrap();
                }
            }
            Change::MtimeBack(n) => {
                let p = name(*n);
                if self.reachable(&p) && fs::symlink_metadata(self.real.at(&p)).is_ok_and(|m| m.is_file()) {
                    File::open(self.real.at(&p)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
                }
            }
        }
    }

    fn rename(&mut self, a: &str, b: &str) -> bool {
        let apart = !is_at_or_below(a.as_bytes(), b.as_bytes()) && !is_at_or_below(b.as_bytes(), a.as_bytes());
        if !apart || !self.reachable(a) || !self.reachable(b) || !self.exists(a) {
            return false;
        }
        let dirs = self.is_dir(a) || self.is_dir(b);
        if fs::rename(self.real.at(a), self.real.at(b)).is_err() {
            return false;
        }
        if dirs {
            self.event(a);
            self.event(b);
            self.renamed.push((a.to_owned(), b.to_owned()));
        }
        true
    }

    fn deliver(&mut self, n: usize) {
        for _ in 0..n.min(self.events.len()) {
            // In no order that could be relied upon: the kernel merges a later one into an earlier
            // one.
            let event = if n.is_multiple_of(2) { self.events.pop_front() } else { self.events.pop_back() };
            let (parent, name) = event.expect("counted");
            self.set.changed(self.real.fs, parent.as_ref(), name.as_bytes(), true);
        }
    }

    fn settle(&mut self) {
        let root = &self.real.root;
        let mut open = |_, handle: HandleRef<'_>| open_by_handle(root.as_fd(), handle);
        self.set.settle(&mut || Clock::now().map(|c| c.wall), &mut open, &mut Vec::new()).unwrap();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Change(change) => self.change(change),
            Step::Deliver(n) => self.deliver(usize::from(*n)),
            Step::Settle => self.settle(),
            Step::Send(n, kind) => {
                let kind = [Kind::Entry, Kind::Contents, Kind::Subtree][usize::from(*kind)];
                send(&self.real.tree(), &mut self.target, &name(*n), kind);
            }
            Step::SendAll => self.target = self.real.tree(),
            Step::Confirm => self.confirm(),
            Step::Save => {
                self.deliver(usize::MAX);
                self.complete_at = self.real.now();
            }
        }
    }

    fn resume(&self) -> Resume {
        Resume {
            dirs: Arc::clone(self.set.dirs()),
            dirs_complete_at: self.complete_at,
            watermarks: vec![Some(self.since)],
            since: self.since,
            tidy: true,
            without: vec![None],
            newest: Wall::MIN,
        }
    }

    /// The restart: walk, and carry out what it finds; on the target that is kept only what
    /// `carried` picks by number. Returns a target that got everything, and the findings, for the
    /// failure's message.
    fn restart(&mut self, options: Options, carried: u32) -> (Tree, Vec<String>) {
        let resume = self.resume();
        let (source, target) = (self.real.tree(), &mut self.target);
        let mut whole = target.clone();
        let mut findings = Vec::new();
        let filter = Filter::none();
        let scope = self.real.scope(&filter);
        let (fresh, report) = restart_scan(scope, &resume, options, &Progress::default(), &mut |finding| {
            let path = std::str::from_utf8(finding.path).unwrap();
            assert!(finding.since >= resume.since);
            if carried >> (findings.len() % 32) & 1 == 1 {
                send(&source, target, path, finding.kind);
            }
            send(&source, &mut whole, path, finding.kind);
            findings.push(format!("{:?} {path:?} {:?}", finding.kind, finding.since));
        })
        .unwrap();
        assert_eq!((report.unreadable, report.mounts_skipped), (0, 0));
        let dirs = source.values().filter(|n| matches!(n, Node::Dir { .. })).count();
        assert_eq!((fresh.len() + 1, report.dirs as usize), (dirs, dirs), "every directory is recorded");
        self.set.begin_build(resume.since);
        assert!(self.set.finish_build(fresh));
        (whole, findings)
    }
}

fn one_thread() -> Options {
    Options { threads: 1 }
}

fn history(before: &[Change], live: &[Step], clean: bool, down: &[Change], carried: u32, then: &[Change]) {
    let dir = tempfile::Builder::new().prefix("fansync-scan-").tempdir_in("/dev/shm").unwrap();
    let mut sim = Sim::new(dir.path(), before);
    live.iter().for_each(|s| sim.step(s));
    if clean {
        sim.deliver(usize::MAX);
        sim.settle();
        sim.complete_at = Wall::MAX;
    }
    down.iter().for_each(|c| sim.change(c));
    sim.events.clear();
    let walked_at = sim.real.now();
    let (target, findings) = sim.restart(one_thread(), carried);
    let (since, complete_at) = (sim.since, sim.complete_at);
    assert_eq!(target, sim.real.tree(), "\nsince {since:?}, set complete at {complete_at:?}, findings {findings:#?}");

    // Killed at once, with nothing of it confirmed but some of it sent; then more changes, and the
    // fresh set.
    sim.complete_at = walked_at;
    then.iter().for_each(|c| sim.change(c));
    sim.events.clear();
    let (target, findings) = sim.restart(Options { threads: 2 }, 0);
    assert_eq!(target, sim.real.tree(), "\nagain: since {since:?}, set complete at {walked_at:?}, findings {findings:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_makes_the_target_equal(
        before in start(),
        live in prop::collection::vec(step(), 0..16),
        clean in any::<bool>(),
        down in prop::collection::vec(change(), 0..12),
        carried in any::<u32>(),
        then in prop::collection::vec(change(), 0..8),
    ) {
        history(&before, &live, clean, &down, carried, &then);
    }
}
