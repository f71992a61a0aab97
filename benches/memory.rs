//! What a pending path and a known directory cost in memory, the allocator's share included:
//! resident bytes before and after.
//!
//! Prints a table; with `--test` (as `cargo test --benches` calls it) a smaller one, and fails
//! where a figure is far from what the documentation says.

use fansync::dirty::{DirtySet, Seen};
use fansync::resolve::tree::Tree;

/// Most bytes of a pending path or a known directory, its name aside; generous, as a table may just
/// have doubled.
const MOST: f64 = 200.0;

/// Which figure a child is to take.
const ONLY: &str = "FANSYNC_BENCH_ONLY";

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this runs on Linux");
    let pages: usize = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("proc(5)");
    pages * nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as usize
}

/// Resident bytes for each of `n` that `make` makes.
fn each<T>(what: &str, n: usize, most: f64, make: impl FnOnce(usize) -> T) {
    // Each in a process of its own: what one frees would be used by the next.
    let only = std::env::var(ONLY).ok();
    if only.as_deref().is_some_and(|only| only != what) {
        return;
    }
    if only.is_none() {
        let me = std::env::current_exe().expect("this runs on Linux");
        let done = std::process::Command::new(me).args(std::env::args_os().skip(1)).env(ONLY, what).status();
        return assert!(done.is_ok_and(|status| status.success()), "{what}: see above");
    }
    let before = resident();
    let made = make(n);
    let bytes = resident().saturating_sub(before) as f64 / n as f64;
    println!("{what:<64} {n:>9}  {bytes:>6.1} bytes each");
    assert!(bytes < most, "{what}: {bytes} bytes each, where at most {most} are promised");
    drop(made);
}

fn main() {
    let test = std::env::args().any(|arg| arg == "--test");
    let n = if test { 200_000 } else { 1_000_000 };
    each("pending: 1,000 files in a directory, names of 10 bytes", n, MOST, |n| {
        let mut set = DirtySet::new(usize::MAX);
        (0..n).for_each(|i| set.see(format!("dir{:05}/f{:09}", i / 1000, i).as_bytes(), Seen::Written));
        assert_eq!(set.pending(), n);
        set
    });
    each("pending: one file in each directory, names of 10 bytes", n, 2.0 * MOST, |n| {
        let mut set = DirtySet::new(usize::MAX);
        (0..n).for_each(|i| set.see(format!("d{i:09}/f{i:09}").as_bytes(), Seen::Written));
        assert_eq!(set.pending(), n);
        set
    });
    each("seen with at most 100,000 pending, 1,000 files in a directory", n * 5, MOST / 5.0, |n| {
        let mut set = DirtySet::new(100_000);
        (0..n).for_each(|i| set.see(format!("dir{:05}/f{:09}", i / 1000, i).as_bytes(), Seen::Written));
        assert!(set.pending() <= 100_000 && set.coarsened() > 0);
        set
    });
    each("known: directories with handles of 12 bytes, names of 10 bytes", n, MOST, |n| {
        let mut tree = Tree::new(usize::MAX);
        for i in 0..n {
            let node = tree.ensure(format!("top{:05}/d{:09}", i / 1000, i).as_bytes());
            tree.bind(node, (1, 1, &(i as u128).to_ne_bytes()[..12]));
        }
        tree
    });
}
