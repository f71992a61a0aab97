//! Content that comes without an event of its own: snapshots, clones, names exchanged, whiteouts.

use crate::fixture::fs::{ALL, Fs, needs};
use crate::fixture::proc::must;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, case};

use std::process::Command;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Reflinks are not for all.
const CLONES: &[Fs] = &[Fs::Xfs, Fs::Btrfs];
const BTRFS: &[Fs] = &[Fs::Btrfs, Fs::Subvolume];

/// By fanotify, where that can be had, and by inotify.
fn watched_case(name: &'static str, on: &'static [Fs], run: fn(&Mirror)) -> [Case; 2] {
    let names: [&'static str; 2] = [name, Box::leak(format!("inotify_{name}").into_boxed_str())];
    [(names[0], "auto"), (names[1], "inotify")].map(|(name, watch)| {
        case(name, on, move |fs| {
            if on == BTRFS {
                needs("btrfs")?;
            }
            let m = Setup::new(fs).watch(watch).start()?;
            run(&m);
            m.check();
            Ok(())
        })
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(watched_case("snapshot_comes_whole", BTRFS, |m| {
        volume(m);
        m.check();
        for (name, read_only) in [("writable", false), ("read only", true)] {
            snapshot(&m.src, "volume", name, read_only);
            m.check();
            assert_eq!(m.dst().read(format!("{name}/d/e/f")).as_deref(), Some(&b"deep"[..]));
        }
        m.src.write("writable/d/new", b"written in the snapshot");
        m.src.remove("writable/d/e/f");
        m.check();
        delete(&m.src, "writable");
        m.check();
        assert!(!m.dst().has("writable"));
    }));
    cases.extend(watched_case("snapshot_of_a_snapshot_below_a_directory", BTRFS, |m| {
        volume(m);
        m.src.mkdirs("a/b");
        snapshot(&m.src, "volume", "a/b/one", false);
        snapshot(&m.src, "a/b/one", "a/b/one/d/two", true);
        // Renamed at once, and another one with the first one's name.
        m.src.rename("a/b/one", "a/one");
        m.src.write("volume/d/f", b"newer");
        snapshot(&m.src, "volume", "a/b/one", false);
    }));
    cases.extend(watched_case("snapshot_from_outside", BTRFS, |m| {
        must(btrfs().arg("create").arg(m.out.at("volume")));
        m.out.mkdir("volume/d");
        m.out.write("volume/d/f", b"made outside");
        must(btrfs().arg("snapshot").arg(m.out.at("volume")).arg(m.src.at("snapshot")));
        m.check();
        assert!(m.dst().has("snapshot/d/f"));
        m.src.write("snapshot/d/f", b"written inside");
    }));
    cases.extend(watched_case("subvolumes_renamed_and_exchanged", BTRFS, |m| {
        volume(m);
        must(btrfs().arg("create").arg(m.src.at("other")));
        m.src.write("other/x", b"other");
        m.src.mkdir("plain");
        m.src.write("plain/y", b"plain");
        m.check();
        m.src.rename("volume", "renamed");
        m.src.write("renamed/d/f", b"after the rename");
        m.check();
        m.src.exchange("renamed", "other");
        m.check();
        m.src.exchange("plain", "other");
        m.src.write("other/z", b"after the exchange");
        m.check();
        m.src.rename("plain", "renamed/volume");
    }));
    cases.extend(watched_case("renamed_within_a_subvolume", BTRFS, |m| {
        volume(m);
        m.src.mkdirs("volume/other/below");
        for n in 0..8 {
            m.src.write(format!("volume/{n}"), format!("file {n}"));
            m.src.write(format!("volume/d/in {n}"), format!("in d {n}"));
        }
        m.check();
        // Files and directories go to other directories of the subvolume, deeper and back.
        m.src.rename("volume/0", "volume/d/0");
        m.check();
        m.src.rename("volume/d/0", "volume/other/below/y");
        m.src.write("volume/d/f", b"written after the rename");
        m.check();
        m.src.rename("volume/d/e", "volume/other/below/e");
        m.check();
        m.src.write("volume/other/below/e/f", b"written where it is now");
        m.src.rename("volume/d/in 1", "volume/in 1");
        m.src.remove("volume/d/in 2");
        m.check();
        // The same in a snapshot, into a subvolume in it, and out of both.
        snapshot(&m.src, "volume", "volume/other/snapshot", false);
        m.check();
        m.src.rename("volume/other/snapshot/1", "volume/other/snapshot/d/1");
        m.src.rename("volume/other/snapshot/d/in 3", "volume/other/snapshot/other/below/in 3");
        m.check();
        assert!(!m.dst().has("volume/other/snapshot/1"), "its old name stays");
    }));
    cases.extend(watched_case("reflinks", CLONES, |m| {
        m.src.write("f", vec![b'x'; 100_000]);
        m.check();
        must(Command::new("cp").arg("--reflink=always").arg(m.src.at("f")).arg(m.src.at("clone")));
        m.check();
        m.src.write("f", vec![b'y'; 100_000]);
        // Into a file that is there, with the size that it has.
        must(Command::new("cp").arg("--reflink=always").arg(m.src.at("f")).arg(m.src.at("clone")));
        m.check();
        assert_eq!(m.dst().read("clone").map(|c| c[0]), Some(b'y'));
        must(Command::new("cp").args(["-a", "--reflink=always"]).arg(m.src.root()).arg(m.out.at("copy")));
        m.out.rename_to("copy", &m.src, "copy");
    }));
    cases.extend(watched_case("exchange_of_files_and_directories", ALL, |m| {
        for name in ["a", "b"] {
            m.src.mkdirs(format!("{name}/sub"));
            m.src.write(format!("{name}/sub/f"), format!("in {name}"));
            m.src.write(format!("file {name}"), format!("file {name}"));
        }
        m.check();
        m.src.exchange("file a", "file b");
        m.check();
        m.src.exchange("a", "b");
        m.check();
        m.src.exchange("a", "file a");
        m.src.write("file a/sub/f", b"after the exchange");
        m.check();
        m.src.exchange("file a/sub", "b/sub/f");
    }));
    cases.extend(watched_case("whiteouts", ALL, |m| {
        m.src.mkdirs("d/below");
        m.src.write("d/below/f", b"in a directory");
        m.src.write("f", b"a file");
        m.check();
        for (old, new) in [("f", "g"), ("d", "e")] {
            // A character device 0/0 takes the old name, in the same step and without an event.
            renameat2(AT_FDCWD, &m.src.at(old), AT_FDCWD, &m.src.at(new), RenameFlags::RENAME_WHITEOUT)
                .unwrap_or_else(|e| panic!("a whiteout for {old}: {e}"));
        }
        m.check();
        // What is so new that no target has it.
        m.daemon.freeze();
        m.src.write("new f", b"a file");
        m.src.mkdir("new d");
        for (old, new) in [("new f", "new g"), ("new d", "new e")] {
            renameat2(AT_FDCWD, &m.src.at(old), AT_FDCWD, &m.src.at(new), RenameFlags::RENAME_WHITEOUT)
                .unwrap_or_else(|e| panic!("a whiteout for {old}: {e}"));
        }
        m.daemon.thaw();
        m.check();
        m.src.remove("f");
        m.src.write("e/below/f", b"after the rename");
    }));
    cases
}

fn btrfs() -> Command {
    let mut command = Command::new("btrfs");
    command.args(["-q", "subvolume"]);
    command
}

/// A subvolume with some files.
fn volume(m: &Mirror) {
    must(btrfs().arg("create").arg(m.src.at("volume")));
    m.src.mkdirs("volume/d/e");
    m.src.write("volume/d/f", b"content");
    m.src.write("volume/d/e/f", b"deep");
}

fn snapshot(dir: &Dir, of: &str, name: &str, read_only: bool) {
    must(btrfs().arg("snapshot").args(read_only.then_some("-r")).arg(dir.at(of)).arg(dir.at(name)));
}

fn delete(dir: &Dir, name: &str) {
    must(btrfs().arg("delete").arg(dir.at(name)));
}
