//! A table for the reader, and rsync itself as the oracle.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const NONE: &[&[u8]] = &[];

fn excludes(pattern: &[u8], path: &[u8], is_dir: bool) -> bool {
    Filter::new(NONE, &[pattern]).unwrap().excludes(path, is_dir)
}

#[test]
fn one_pattern() {
    // (pattern, path; a trailing slash marks a directory, left out?)
    for (pattern, path, want) in [
        ("*.swp", "a/.x.swp", true),
        ("*.swp", "swp", false),
        (".git", "a/.git/", true),
        (".git", "a/.git/config", true),
        (".git", "a/.gitignore", false),
        ("cache/", "cache", false),
        ("cache/", "a/cache/", true),
        ("cache/", "a/cache/x", true),
        ("/cache", "a/cache", false),
        ("/cache/", "cache/x/y", true),
        ("a/b", "x/a/b", true),
        ("a/b", "xa/b", false),
        ("a/*", "x/a/b", true),
        ("a/*", "a/", false),
        ("/a/*/c", "a/b/c", true),
        ("/a/*/c", "a/b/b/c", false),
        ("/a/**/c", "a/b/b/c", true),
        ("/a/**/c", "a/c", false),
        ("**/c", "c", true),
        ("**c", "a/bc", true),
        ("a**", "x/a/b/c", true),
        ("dir/***", "dir/", true),
        ("dir/***", "dir", false),
        ("dir/***", "x/dir/y", true),
        ("dir/**", "dir/", false),
        ("dir/**", "dir/y", true),
        ("?", "a", true),
        ("?", "ab", false),
        ("[a-c]x", "bx", true),
        ("[!a-c]x", "bx", false),
        ("[^a-c]x", "dx", true),
        ("[]-]", "-", true),
        ("[[:digit:][:space:]]", "7", true),
        ("[[:nope:]]", "n", false),
        ("[ab", "[ab", false),
        // A backslash escapes only where the pattern has a wildcard.
        (r"a\b", r"a\b", true),
        (r"a\b*", "ab", true),
        (r"\*", "*", true),
        (r"\*", "x", false),
        ("a//", "a/", false),
        ("./a", "a", false),
        ("*", "a\nb", true),
        ("a.b", "a\nb", false),
        ("+ a", "+ a", true),
        ("!", "!", true),
        (": x", ": x", true),
    ] {
        let (name, is_dir) = path.strip_suffix('/').map_or((path, false), |p| (p, true));
        assert_eq!(excludes(pattern.as_bytes(), name.as_bytes(), is_dir), want, "pattern {pattern:?}, path {path:?}");
    }
    assert!(excludes(b"\xff?", b"\xff\xfe", false));
    assert!(excludes(b"[\x80-\xff]", b"\xc3", false));
}

#[test]
fn includes_win_but_not_below_an_excluded_directory() {
    let filter = Filter::new(&["keep.log", "/logs/"], &["*.log", "/tmp/", "/*"]).unwrap();
    assert!(!filter.excludes(b"logs/keep.log", false));
    assert!(filter.excludes(b"logs/x.log", false));
    assert!(!filter.excludes(b"logs/x", false));
    assert!(filter.excludes(b"tmp/keep.log", false));
    assert!(!filter.excludes_leaf(b"tmp/keep.log", false));
    assert!(filter.excludes(b"other", false));
}

#[test]
fn the_root_is_never_left_out() {
    for pattern in ["*", "**", "/", "***"] {
        assert!(!excludes(pattern.as_bytes(), b"", true), "{pattern}");
    }
}

#[test]
fn paths_longer_than_the_stack_buffer() {
    for len in [253, 254, 255, 256, 3000] {
        let path = [&b"d/"[..], &vec![b'x'; len - 3], b"y"].concat();
        assert!(excludes(b"/d/**y", &path, false), "{len}");
        assert!(excludes(b"/d/x*y/***", &path, true), "{len}");
        assert!(!excludes(b"/d/x*y/***", &path, false), "{len}");
    }
}

#[test]
fn what_rsync_cannot_be_given_is_refused() {
    assert!(Filter::new(NONE, &[&b""[..]]).is_err());
    assert!(Filter::new(NONE, &[&b"a\0b"[..]]).is_err());
    assert!(Filter::new(NONE, &[vec![b'a'; MAX_PATTERN_BYTES + 1]]).is_err());
    assert!(Filter::new(NONE, &[vec![b'a'; MAX_PATTERN_BYTES]]).is_ok());
    let error = Filter::new(&[&b"a\0"[..]], NONE).unwrap_err();
    assert_eq!(error.to_string(), "cannot use the pattern \"a\\x00\": it holds a NUL byte, which no file name does");
}

#[test]
fn patterns_that_match_nothing_are_told() {
    let patterns = ["./cache", "ok", "a//b", "[ab", "x\\*/..", "[[:nope:]]", "a?\\", "/", "a[/]b", "/ok/"];
    let filter = Filter::new(NONE, &patterns).unwrap();
    let never: Vec<_> = filter.never_matching().iter().map(|p| std::str::from_utf8(p).unwrap()).collect();
    assert_eq!(never, ["./cache", "a//b", "[ab", "x\\*/..", "[[:nope:]]", "a?\\", "/", "a[/]b"]);
}

#[test]
fn equal_by_patterns() {
    assert_eq!(Filter::new(&["a"], &["b"]).unwrap(), Filter::new(&["a"], &["b"]).unwrap());
    assert_ne!(Filter::new(&["a"], &["b"]).unwrap(), Filter::new(NONE, &["b"]).unwrap());
    assert!(Filter::new(&["a"], &[] as &[&str]).unwrap().is_empty());
}

// The oracle.

/// xorshift64*: the runs must be the same on every machine and need no more than this.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

const NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"ab",
    b"ba",
    b"abc",
    b"a.c",
    b".a",
    b"aa",
    b"B",
    b"a b",
    b" a",
    b"a ",
    b"+ a",
    b"- a",
    b"!",
    b"!a",
    b"[a]",
    b"[",
    b"]",
    b"a\\b",
    b"\\",
    b"*",
    b"?",
    b"**",
    b"a\nb",
    b"\n",
    b"\xff",
    b"a\xfe",
    "\u{e9}".as_bytes(),
    b"-",
    b"a-b",
    b"_",
    b":",
    b". a",
    b"#a",
    b"a~",
    b"0",
    b"\x7f",
    b"\x0b",
    b"{a}",
    b"(a|b)",
    b"^",
    b"$a",
];

/// A tree of about 260 entries, as (path, is a directory).
fn tree(root: &Path, dice: &mut Dice) -> Vec<(Vec<u8>, bool)> {
    let mut entries = BTreeSet::new();
    let mut dirs = vec![Vec::new()];
    for (depth, count) in [(1, 60), (2, 90), (3, 70), (4, 60)] {
        for _ in 0..count {
            let above: Vec<_> = dirs.iter().filter(|d: &&Vec<u8>| components(d) == depth - 1).collect();
            let mut path = above[dice.below(above.len())].to_vec();
            crate::path::push(&mut path, dice.pick(NAMES));
            if entries.iter().any(|(p, _)| *p == path) {
                continue;
            }
            let is_dir = dice.below(2) == 0;
            let full = root.join(OsStr::from_bytes(&path));
            if is_dir {
                fs::create_dir(&full).unwrap();
                dirs.push(path.clone());
            } else {
                fs::write(&full, b"").unwrap();
            }
            entries.insert((path, is_dir));
        }
    }
    entries.into_iter().collect()
}

fn components(path: &[u8]) -> usize {
    if path.is_empty() { 0 } else { path.iter().filter(|&&b| b == b'/').count() + 1 }
}

/// A random pattern: names and fragments, joined, decorated.
fn pattern(dice: &mut Dice) -> Vec<u8> {
    const FRAGMENTS: &[&[u8]] = &[
        b"*",
        b"*",
        b"?",
        b"**",
        b"***",
        b"a",
        b"b",
        b"c",
        b".",
        b"\\",
        b"\\*",
        b"\\a",
        b"[ab]",
        b"[!a]",
        b"[^b]",
        b"[a-c]",
        b"[]a]",
        b"[!]]",
        b"[a-]",
        b"[-a]",
        b"[\\]]",
        b"[a\\-c]",
        b"[+-\\a]",
        b"[[:alpha:]]",
        b"[[:punct:]]",
        b"[![:space:]]",
        b"[[:cntrl:][:digit:]]",
        b"[[:upper:]a-b]",
        b"[[:print:]]",
        b"[[:graph:]]",
        b"[[:x:]]",
        b"[[:alpha]",
        b"[[:]",
        b"[",
        b"]",
        b"[c-a]",
        b"[a-b-c]",
        b"\xff",
        b"[\x80-\xff]",
        b"[/]",
        b"[.-0]",
        b"[a",
        b"[!a-",
        b"[[:",
        b"[]-a]",
        b"[^]",
        b"\n",
        b" ",
    ];
    if dice.below(40) == 0 {
        return dice
            .pick(&[
                &b"/"[..],
                b"//",
                b"!",
                b"+ ",
                b"- ",
                b"*/",
                b"/*",
                b"/**",
                b"**/",
                b"***/",
                b"/***",
                b"*/*",
                b"**/*/**",
                b"./a",
                b"../a",
                b"\\",
            ])
            .to_vec();
    }
    let mut out = Vec::new();
    if dice.below(4) == 0 {
        out.push(b'/');
    }
    for part in 0..1 + dice.below(3) {
        if part > 0 {
            out.push(b'/');
        }
        if dice.below(2) == 0 {
            out.extend_from_slice(dice.pick(NAMES));
        } else {
            for _ in 0..1 + dice.below(3) {
                out.extend_from_slice(dice.pick(FRAGMENTS));
            }
        }
    }
    match dice.below(10) {
        0 | 1 => out.push(b'/'),
        2 => out.extend_from_slice(b"/***"),
        3 => out.extend_from_slice(b"/**"),
        4 => out.insert(0, b'*'),
        _ => {}
    }
    out
}

/// Undoes rsync's `\#ooo` for bytes it does not print.
fn unescape(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = rest
            .strip_prefix(b"\\#")
            .and_then(|r| r.get(..3))
            .and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        if let Some(byte) = octal {
            out.push(byte);
            rest = &rest[5..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

fn rsync(args: &[OsString], extra: &[&OsStr], from: &OsStr, to: &OsStr) -> Vec<Vec<u8>> {
    let out = Command::new("rsync")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .arg("-nr")
        .args(extra)
        .args(args)
        .arg("--")
        .args([from, to])
        .output()
        .expect("these tests need the rsync command");
    assert!(out.status.success(), "rsync {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout.split(|&b| b == b'\n').filter(|l| !l.is_empty()).map(unescape).collect()
}

/// What a sending rsync shows of the tree: paths, directories with a slash behind.
fn sent(args: &[OsString], source: &Path, empty: &Path) -> BTreeSet<Vec<u8>> {
    let from = source.join("");
    let shown = rsync(args, &[OsStr::new("--out-format=%n")], from.as_os_str(), empty.as_os_str());
    shown.into_iter().filter(|n| n != b"./").collect()
}

/// What a receiving rsync would delete, with the rules sent to it through a remote shell.
fn deleted(args: &[OsString], shell: &Path, empty: &Path, tree: &Path) -> BTreeSet<Vec<u8>> {
    let (from, mut to) = (empty.join(""), OsString::from("host:"));
    to.push(tree.join(""));
    let extra = [OsStr::new("--delete"), OsStr::new("-i"), OsStr::new("-e"), shell.as_os_str()];
    let shown = rsync(args, &extra, from.as_os_str(), &to);
    let after = |prefix: &'static [u8]| shown.iter().filter_map(move |l| l.strip_prefix(prefix));
    let mut gone: BTreeSet<_> = after(b"*deleting   ").map(<[u8]>::to_vec).collect();
    // A dry run also says "deleting" of a directory that it has just reported it cannot delete.
    after(b"cannot delete non-empty directory: ").for_each(|dir| _ = gone.remove(&marked(dir, true)));
    gone
}

fn marked(path: &[u8], is_dir: bool) -> Vec<u8> {
    [path, if is_dir { &b"/"[..] } else { b"" }].concat()
}

#[track_caller]
fn same(ours: &BTreeSet<Vec<u8>>, theirs: &BTreeSet<Vec<u8>>, set: usize, filter: &Filter) {
    let shown = |s: &BTreeSet<Vec<u8>>, o| s.difference(o).map(|p| Shown(p).to_string()).collect::<Vec<_>>();
    let differ = (shown(ours, theirs), shown(theirs, ours));
    assert!(ours == theirs, "set {set} {filter:?}: only ours {:?}, only rsync's {:?}", differ.0, differ.1);
}

/// Hundreds of random rule sets, each asked of rsync too. `FANSYNC_FILTER_SETS` asks for more of
/// them.
#[test]
fn agrees_with_rsync() {
    let sets: usize = std::env::var("FANSYNC_FILTER_SETS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let dir = tempfile::tempdir().unwrap();
    let [source, empty, shell] = ["source", "empty", "shell"].map(|n| dir.path().join(n));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&empty).unwrap();
    // A remote shell that goes nowhere.
    fs::write(&shell, "#!/bin/sh\nshift\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o700)).unwrap();
    let entries = tree(&source, &mut Dice(7));
    assert!(entries.len() > 150, "{}", entries.len());

    let (next, left_out) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let set = next.fetch_add(1, Ordering::Relaxed);
            if set >= sets {
                return;
            }
            let mut dice = Dice((set as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let include: Vec<_> = (0..dice.below(3)).map(|_| pattern(&mut dice)).collect();
            let exclude: Vec<_> = (0..1 + dice.below(4)).map(|_| pattern(&mut dice)).collect();
            let rules: Vec<_> = (0..dice.below(2) * dice.below(6))
                .map(|_| Ordered { excludes: dice.below(2) == 0, pattern: pattern(&mut dice) })
                .collect();
            let filter = Filter::new(&include, &exclude).unwrap().with_rules(&rules).unwrap();
            let (kept, ours): (Vec<_>, Vec<_>) = entries.iter().partition(|(p, d)| filter.excludes(p, *d));
            let named = |list: &[&(Vec<u8>, bool)]| list.iter().map(|(p, d)| marked(p, *d)).collect::<BTreeSet<_>>();
            same(&named(&ours), &sent(&filter.rsync_args(), &source, &empty), set, &filter);
            left_out.fetch_add(kept.len(), Ordering::Relaxed);

            // The receiver's side: what is left out is not deleted, nor the directories that hold
            // it.
            if set % 8 == 0 {
                let holds = |p: &[u8]| kept.iter().any(|(k, _)| crate::path::is_at_or_below(k, p));
                let goes: Vec<_> = ours.into_iter().filter(|(p, _)| !holds(p)).collect();
                same(&named(&goes), &deleted(&filter.rsync_args(), &shell, &empty, &source), set, &filter);
            }
        }
    };
    std::thread::scope(|s| (0..4).for_each(|_| _ = s.spawn(work)));
    // The patterns must not be so odd that none matches.
    assert!(left_out.into_inner() > sets * 5);
}
