//! Random histories of a tree, sent batch by batch as the daemon does it: look at the disk, list,
//! run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use fansync::path::RelPath;
use fansync::sync::argv::Pass;
use fansync::sync::filelist::{Form, encode};
use fansync::sync::normal::{Kind, State, normalise};
use fansync::sync::outcome::Verdict;
use fansync::sync::run::Input;
use fansync::sys::statx::Statter;

use crate::fixture::{Fixture, PATIENCE, Road};

/// xorshift64*: the history follows from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn path(&mut self) -> String {
        let parts = ["a", "b", "#c", "-d"];
        (0..=self.below(3)).map(|_| parts[self.below(parts.len())]).collect::<Vec<_>>().join("/")
    }
}

type Dirty = BTreeMap<RelPath, Kind>;

fn mark(dirty: &mut Dirty, path: &str, kind: Kind) {
    let known = dirty.entry(RelPath::new(path.as_bytes()).unwrap()).or_insert(kind);
    *known = (*known).max(kind);
}

/// One operation; marks what a watcher would see. What the disk refuses is no operation.
fn step(src: &Path, random: &mut Random, dirty: &mut Dirty, round: usize) {
    let path = random.path();
    let at = src.join(&path);
    match random.below(7) {
        0 | 1 => {
            // The same size each time.
            if fs::write(&at, format!("{round:08}")).is_ok() {
                mark(dirty, &path, Kind::Entry);
            }
        }
        2 => {
            if fs::create_dir(&at).is_ok() {
                mark(dirty, &path, Kind::Subtree);
            }
        }
        3 => {
            if fs::remove_file(&at).is_ok() {
                mark(dirty, &path, Kind::Entry);
            }
        }
        4 => {
            if at.is_dir() && !at.is_symlink() && fs::remove_dir_all(&at).is_ok() {
                mark(dirty, &path, Kind::Entry);
            }
        }
        5 => {
            // Into the void, so that no operation happens elsewhere than where its path says.
            if std::os::unix::fs::symlink("nowhere/at/all", &at).is_ok() {
                mark(dirty, &path, Kind::Entry);
            }
        }
        _ => {
            let to = random.path();
            if fs::rename(&at, src.join(&to)).is_ok() {
                mark(dirty, &path, Kind::Entry);
                mark(dirty, &to, Kind::Subtree);
            }
        }
    }
}

fn send(f: &Fixture, dirty: &Dirty, what: &str) {
    let root = File::open(f.src()).unwrap();
    let paths: Vec<_> = dirty.iter().map(|(path, kind)| (path.clone(), *kind)).collect();
    let normal = normalise(root.as_fd(), &paths, &mut Statter::new()).unwrap();
    let is_subtree = |kind: Kind| kind == Kind::Subtree;
    for (pass, deep) in [(Pass::Shallow, false), (Pass::Deep, true)] {
        let items = normal.items.iter().filter(|item| is_subtree(item.kind) == deep);
        let list = encode(items.map(|item| {
            assert!(!matches!(item.state, State::Unreadable(_)), "{what}: {item:?}");
            (&item.path, Form::Plain)
        }));
        if list.entries > 0 {
            let mut run = f.start(pass, Input::List(&list.bytes));
            let outcome = run.wait(PATIENCE, |_| {}).unwrap();
            let shown = String::from_utf8_lossy(&list.bytes).replace('\0', " ");
            assert_eq!(outcome.verdict, Verdict::Done, "{what} {pass:?} {shown}: {outcome:?}");
        }
    }
}

#[test]
fn end_equal_whatever_happened() {
    let f = Fixture::new(Road::Module);
    for seed in 1..=25_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for batch in 0..4 {
            let mut dirty = Dirty::new();
            for round in 0..20 {
                step(&f.src(), &mut random, &mut dirty, round);
            }
            send(&f, &dirty, &format!("seed {seed} batch {batch}"));
        }
        f.assert_same();
    }
}
