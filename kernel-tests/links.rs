//! Files with several names where links are not kept, as by default: each name is a file of its own
//! on the targets, and each is right.

use crate::fixture::daemon::Until;
use crate::fixture::fs::{ALL, Fs};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, To, case};
use crate::foreign::forget_names;

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use nix::fcntl::AtFlags;

fn fill(src: &Dir) {
    src.mkdirs("d/deep");
    src.write("a", b"one file");
    src.link("a", "d/b");
    src.link("a", "d/deep/c");
    src.write("alone", b"no other name yet");
    src.symlink("nowhere", "s");
    src.link("s", "d/s");
}

/// By both sources of events.
fn each_case(name: &'static str, on: &'static [Fs], run: fn(&mut Mirror)) -> [Case; 2] {
    let names: [&'static str; 2] = [name, Box::leak(format!("inotify_{name}").into_boxed_str())];
    [(names[0], "fanotify"), (names[1], "inotify")].map(|(name, watch)| {
        case(name, on, move |fs| {
            let mut m = Setup::new(fs).watch(watch).targets(&[To::Module, To::Local]).before(fill).start()?;
            m.check();
            run(&mut m);
            m.check();
            Ok(())
        })
    })
}

fn walks(m: &Mirror) -> u64 {
    m.daemon.status().mirrors.remove(0).links.map_or(0, |links| links.walks)
}

fn changes(m: &mut Mirror) {
    m.src.append("d/b", b", written through one name");
    m.check();
    m.src.write("a", b"rewritten");
    m.check();
    // As large, and with the time that the targets have.
    let time = std::fs::metadata(m.src.at("a")).and_then(|m| m.modified()).expect("it is there");
    std::fs::write(m.src.at("d/deep/c"), b"REWRITTEN").expect("it can be written");
    std::fs::File::options().write(true).open(m.src.at("a")).and_then(|f| f.set_modified(time)).expect("it is there");
    m.check();
    m.src.truncate("d/b", 3);
    drop(m.src.open("d/b"));
    m.check();
    m.src.chmod("a", 0o600);
    m.check();
    m.src.chown("d/b", 4711, 4712);
    m.check();
    m.src.set_mtime("d/deep/c", 1_000_000_000, 5);
    m.check();
    std::os::unix::fs::lchown(m.src.at("s"), Some(4711), None).expect("root may");
}

fn names_come_and_go(m: &mut Mirror) {
    m.src.link("alone", "d/second");
    m.src.append("d/second", b", written through the new name");
    m.check();
    // The name is made while the file is open, and the file is closed after that.
    let mut open = m.src.open("alone");
    m.src.link("alone", "d/third");
    m.daemon.flush(None);
    open.write_all(b"longer than all before, so that the size tells").expect("it can be written");
    drop(open);
    m.check();
    m.src.rename("d/third", "elsewhere");
    m.src.append("alone", b"!");
    m.check();
    m.src.rename("d", "e");
    m.src.append("e/second", b"?");
    m.check();
    m.src.append("e/second", b"??");
    m.src.rename("e", "f");
    m.check();
    m.src.remove("elsewhere");
    m.src.append("alone", b", two are left");
    m.check();
    // So that the directory is known by its handle.
    m.src.write("f/new", b"new");
    m.check();
    m.daemon.does(&["pause"]);
    m.src.append("f/second", b", written before its directory goes out");
    m.src.rename_to("f", &m.out, "f");
    m.daemon.does(&["resume"]);
    m.check();
    m.out.rename_to("f", &m.src, "f");
    m.check();
    // Another file takes the place of a name.
    m.src.write("aside", b"a file of its own");
    m.src.rename("aside", "f/b");
    m.src.append("a", b" of two names");
    m.check();
}

fn farm(m: &mut Mirror) {
    for day in 1..4 {
        m.src.mkdir(format!("day{day}"));
        for n in 0..20 {
            match day {
                1 => m.src.write(format!("day1/{n}"), format!("{n}")),
                _ => m.src.link(format!("day{}/{n}", day - 1), format!("day{day}/{n}")),
            }
        }
    }
    m.check();
    let before = walks(m);
    for n in 0..20 {
        m.src.append(format!("day{}/{n}", n % 3 + 1), b", and written");
    }
    m.check();
    let searched = walks(m) - before;
    assert!(searched <= 15, "{searched} walks over the source for 20 files");
    for n in 0..20 {
        m.src.append(format!("day{}/{n}", n % 3 + 1), b" again");
    }
    m.check();
    assert_eq!(walks(m) - before, searched, "the names were known");
}

fn directory_with_names(m: &mut Mirror) {
    // Directories that come in hold names that no event tells of.
    m.out.mkdirs("new/sub");
    std::fs::hard_link(m.src.at("alone"), m.out.at("new/sub/alone")).expect("both lie on one filesystem");
    m.src.append("alone", b", with a name outside");
    m.check();
    m.out.rename_to("new", &m.src, "d/new");
    m.check();
    m.src.append("alone", b", which came in");
    m.check();
    m.src.append("d/new/sub/alone", b", and back");
    m.check();
}

/// A file without a name gets one, and is written after that.
fn made_without_a_name(m: &mut Mirror) {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .open(m.src.at("d"))
        .expect("the filesystem has O_TMPFILE");
    file.write_all(b"one").expect("it can be written");
    let proc = std::path::PathBuf::from(format!("/proc/thread-self/fd/{}", file.as_raw_fd()));
    nix::unistd::linkat(nix::fcntl::AT_FDCWD, &proc, nix::fcntl::AT_FDCWD, &m.src.at("d/name"), AtFlags::AT_SYMLINK_FOLLOW)
        .expect("it can be linked");
    m.daemon.flush(None);
    file.write_all(b" two").expect("it can be written");
    file.set_permissions(std::fs::Permissions::from_mode(0o640)).expect("it is ours");
    drop(file);
}

/// The name by which a file was opened goes before it is written.
fn opened_by_a_name_that_goes(m: &mut Mirror) {
    let mut file = m.src.open("d/tmp");
    file.write_all(b"one").expect("it can be written");
    m.src.link("d/tmp", "final");
    m.src.remove("d/tmp");
    m.daemon.flush(None);
    file.write_all(b" two").expect("it can be written");
    file.set_permissions(std::fs::Permissions::from_mode(0o640)).expect("it is ours");
    drop(file);
    m.check();
    // And another file takes that name.
    let mut file = m.src.open("alone");
    m.src.link("alone", "d/other");
    m.src.write("new", b"a file of its own");
    m.src.rename("new", "alone");
    m.daemon.flush(None);
    file.write_all(b", written after it lost a name").expect("it can be written");
    drop(file);
}

/// The directory of the name by which a file was opened goes before it is written: removed, moved
/// out and removed there, and one in which the file never had a name.
fn opened_in_a_directory_that_goes(m: &mut Mirror) {
    for (at, dir) in ["g0", "g1", "g2"].into_iter().enumerate() {
        m.src.mkdir(dir);
        let last = format!("d/last{at}");
        let mut file = if at == 2 {
            let new = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_TMPFILE).open(m.src.at(dir));
            let file = new.expect("the filesystem has O_TMPFILE");
            let proc = std::path::PathBuf::from(format!("/proc/thread-self/fd/{}", file.as_raw_fd()));
            nix::unistd::linkat(nix::fcntl::AT_FDCWD, &proc, nix::fcntl::AT_FDCWD, &m.src.at(&last), AtFlags::AT_SYMLINK_FOLLOW)
                .expect("it can be linked");
            file
        } else {
            let file = m.src.open(format!("{dir}/name"));
            m.src.link(format!("{dir}/name"), &last);
            file
        };
        m.daemon.flush(None);
        if at == 1 {
            m.src.rename_to(dir, &m.out, dir);
            m.out.write(format!("{dir}/another"), b"so that the directory is known to lie outside");
            m.daemon.flush(None);
            m.out.remove(dir);
        } else {
            m.src.remove(dir);
        }
        m.daemon.flush(None);
        file.write_all(b"written").expect("it can be written");
        drop(file);
        m.check();
    }
}

/// A file is touched by one name and written by another, and both leave in one batch.
fn touched_and_written_by_two_names(m: &mut Mirror) {
    let names = ["a", "d/b", "d/deep/c"];
    for (touched, written) in [(1, 0), (0, 2), (2, 1)] {
        m.src.write("a", format!("before {written}"));
        m.src.set_mtime("a", 1_000_000_000, 0);
        m.check();
        m.daemon.does(&["pause"]);
        m.src.chmod(names[touched], 0o600 + written as u32);
        let open = std::fs::File::options().write(true).open(m.src.at(names[written]));
        open.and_then(|mut f| f.write_all(b"after!")).expect("it is there");
        m.src.set_mtime("a", 1_000_000_000, 0);
        m.daemon.does(&["resume"]);
        m.check();
    }
}

/// A file gets one more name, is written in place, and loses the name it was written through, all
/// before anything leaves.
fn written_beside_a_new_name(m: &mut Mirror) {
    m.src.set_mtime("a", 1_000_000_000, 0);
    m.check();
    m.daemon.does(&["pause"]);
    m.src.link("a", "d/new");
    let open = std::fs::File::options().write(true).open(m.src.at("a"));
    open.and_then(|mut f| f.write_all(b"two file")).expect("it is there");
    m.src.set_mtime("a", 1_000_000_000, 0);
    m.daemon.target_status_until("t1", "both", |t| t.pending >= 2);
    m.src.remove("a");
    m.daemon.does(&["resume"]);
}

/// Filesystems use a file's number again, and one of its names may be another file's then. Both
/// change in one batch.
fn names_of_a_number_that_is_used_again(fs: Fs) -> Run<()> {
    let m = Setup::new(fs).targets(&[To::Module, To::Local]).before(fill).start()?;
    m.check();
    for round in 0..6 {
        for name in ["x", "y", "z", "single", "second"] {
            if m.src.has(name) {
                m.src.remove(name);
            }
        }
        m.check();
        // The two change places in the order of their numbers.
        let order = if round % 2 == 0 { ["x", "single"] } else { ["single", "x"] };
        order.iter().for_each(|name| m.src.write(name, b"some content"));
        m.src.link("x", "y");
        m.check();
        m.daemon.freeze();
        m.src.link("single", "second");
        let mut file = std::fs::File::options().write(true).open(m.src.at("x")).expect("it is there");
        file.write_all(b"SOME").expect("there is room");
        m.src.rename("x", "z");
        file.write_all(format!("{round}").as_bytes()).expect("there is room");
        drop(file);
        m.daemon.thaw();
        m.check();
    }
    Ok(())
}

/// What takes a name from its file.
type Goes = fn(&Mirror, &str);

const WAYS_TO_GO: [(&str, Goes); 7] = [
    ("removed", |m, name| m.src.remove(name)),
    ("out", |m, name| m.src.rename_to(name, &m.out, name.replace('/', "-"))),
    ("replaced", |m, name| {
        m.src.write("aside", b"another");
        m.src.rename("aside", name);
    }),
    ("linked", |m, name| {
        m.src.link("alone", "aside");
        m.src.rename("aside", name);
    }),
    ("twice", |m, name| {
        m.src.rename(name, "d/elsewhere");
        m.src.remove("d/elsewhere");
    }),
    ("exchanged", |m, name| {
        let other = format!("{}.other", name.replace('/', "-"));
        m.src.write(&other, b"another file");
        m.src.exchange(name, other);
    }),
    ("exchanged with a directory", |m, name| {
        let other = format!("{}.other", name.replace('/', "-"));
        m.src.mkdir(&other);
        m.src.exchange(other, name);
    }),
];

/// A file is written in place, as large as before and with the time it had, and then loses the name
/// it was written through, before anything of that has left. `seen`: the events of the writes are
/// taken in before the names go.
fn written_through_a_name_that_goes(m: &mut Mirror, seen: bool) {
    m.src.mkdir("leaves");
    for (name, _) in WAYS_TO_GO {
        m.src.write(name, b"before");
        m.src.link(name, format!("d/{name}"));
        m.src.set_mtime(name, 1_000_000_000, 0);
    }
    for n in 0..4 {
        m.src.write(format!("leaves/{n}"), b"before");
        m.src.link(format!("leaves/{n}"), format!("d/{n}"));
        m.src.set_mtime(format!("leaves/{n}"), 1_000_000_000, 0);
    }
    m.check();
    m.daemon.does(&["pause"]);
    let write = |name: &str| {
        std::fs::File::options().write(true).open(m.src.at(name)).and_then(|mut f| f.write_all(b"after.")).expect("it is there");
        m.src.set_mtime(name, 1_000_000_000, 0);
    };
    WAYS_TO_GO.iter().for_each(|(name, _)| write(name));
    (0..4).for_each(|n| write(&format!("leaves/{n}")));
    if seen {
        m.daemon.target_status_until("t1", "every write", |t| t.pending > WAYS_TO_GO.len() as u64);
    }
    WAYS_TO_GO.iter().for_each(|(name, goes)| goes(m, name));
    m.src.rename_to("leaves", &m.out, "leaves");
    // And another directory takes its name.
    m.src.mkdir("leaves");
    m.src.write("leaves/0", b"another");
    m.daemon.does(&["resume"]);
    m.check();
}

/// One file for each way and directory; `held` and `fifos` have a name of it.
fn fill_for_touches(src: &Dir) {
    fill(src);
    src.mkdir("held");
    src.mkdir("fifos");
    for (way, _) in WAYS_TO_GO {
        src.write(format!("d/held.{way}"), b"content");
        src.link(format!("d/held.{way}"), format!("held/{way}"));
        src.write(format!("d/came.{way}"), b"content");
        src.fifo(format!("d/fifos.{way}"));
        src.link(format!("d/fifos.{way}"), format!("fifos/{way}"));
    }
}

/// The mode of a file is changed through a name that it loses before anything of that has left: in
/// a directory that the targets have, and in one that is to be compared whole since it came just
/// now. `seen`: the events of the changes are taken in before the names go; else all are read after
/// the last name went. `cached`: the kernel knows the other names. `outside`: it knows one outside
/// the source. The content was written before the daemon began.
fn touched_through_a_name_that_goes(m: &mut Mirror, (seen, cached, outside): (bool, bool, bool)) {
    let places = || ["held", "came", "fifos"].into_iter().flat_map(|dir| WAYS_TO_GO.map(|(way, goes)| (dir, way, goes)));
    m.out.mkdir("came");
    if outside {
        for (dir, way, _) in places() {
            let name = format!("{dir}.{way}");
            std::fs::hard_link(m.src.at(format!("d/{name}")), m.out.at(name)).expect("both lie on one filesystem");
        }
    }
    if !cached {
        forget_names(&m.src);
    }
    m.daemon.does(&["pause"]);
    m.out.rename_to("came", &m.src, "came");
    for (dir, way, _) in places().filter(|(dir, ..)| *dir == "came") {
        m.src.link(format!("d/{dir}.{way}"), format!("{dir}/{way}"));
    }
    m.daemon.target_status_until("t1", "the directory that came", |t| t.pending >= 1);
    if !seen {
        m.daemon.freeze();
    }
    for (dir, way, _) in places() {
        m.src.chmod(format!("{dir}/{way}"), 0o604);
    }
    if seen {
        m.daemon.target_status_until("t1", "every change", |t| t.pending > WAYS_TO_GO.len() as u64);
    }
    for (dir, way, goes) in places() {
        goes(m, &format!("{dir}/{way}"));
    }
    if !seen {
        m.daemon.thaw();
    }
    m.daemon.does(&["resume"]);
    m.check();
}

/// What becomes of the directories `d` and `e` below this one.
const WAYS_OF_DIRECTORIES: [(&str, Goes); 9] = [
    ("exchanged", |m, at| m.src.exchange(format!("{at}/d"), format!("{at}/e"))),
    ("exchanged by the other", |m, at| m.src.exchange(format!("{at}/e"), format!("{at}/d"))),
    ("exchanged twice", |m, at| {
        m.src.exchange(format!("{at}/d"), format!("{at}/e"));
        m.src.exchange(format!("{at}/d"), format!("{at}/e"));
    }),
    ("moved and exchanged", |m, at| {
        m.src.rename(format!("{at}/d"), format!("{at}/z"));
        m.src.rename(format!("{at}/z"), format!("{at}/y"));
        m.src.exchange(format!("{at}/y"), format!("{at}/e"));
    }),
    ("exchanged and moved", |m, at| {
        m.src.exchange(format!("{at}/d"), format!("{at}/e"));
        m.src.rename(format!("{at}/e"), format!("{at}/z"));
        m.src.rename(format!("{at}/d"), format!("{at}/y"));
    }),
    ("exchanged and out", |m, at| {
        m.src.exchange(format!("{at}/d"), format!("{at}/e"));
        m.src.rename_to(format!("{at}/e"), &m.out, format!("{at}-e"));
    }),
    ("in a circle", |m, at| {
        m.src.rename(format!("{at}/d"), format!("{at}/z"));
        m.src.rename(format!("{at}/e"), format!("{at}/d"));
        m.src.rename(format!("{at}/z"), format!("{at}/e"));
    }),
    ("one into the other", |m, at| m.src.rename(format!("{at}/d"), format!("{at}/e/d"))),
    ("exchanged across levels", |m, at| {
        m.src.mkdir(format!("{at}/e/deep"));
        m.src.exchange(format!("{at}/d"), format!("{at}/e/deep"));
    }),
];

/// Files change in directories that are renamed or exchanged before anything of that has left:
/// those in `d`, in `e`, or both. `seen`: the events of the changes are taken in before that.
fn changed_in_directories_that_move(m: &mut Mirror, in_d: bool, in_e: bool, seen: bool) {
    for (way, _) in WAYS_OF_DIRECTORIES {
        m.src.mkdir(way);
        for dir in ["d", "e"] {
            m.src.mkdir(format!("{way}/{dir}"));
            for file in ["written", "touched"] {
                m.src.write(format!("{way}/{dir}/{file}"), b"before");
                m.src.link(format!("{way}/{dir}/{file}"), format!("d/{way}-{dir}-{file}"));
            }
        }
    }
    m.check();
    m.daemon.does(&["pause"]);
    if !seen {
        m.daemon.freeze();
    }
    let dirs = || [("d", in_d), ("e", in_e)].into_iter().filter(|(_, changes)| *changes).map(|(dir, _)| dir);
    for (way, _) in WAYS_OF_DIRECTORIES {
        for dir in dirs() {
            m.src.append(format!("{way}/{dir}/written"), b", and more");
            m.src.chmod(format!("{way}/{dir}/touched"), 0o604);
        }
    }
    if seen {
        let least = (WAYS_OF_DIRECTORIES.len() * dirs().count()) as u64;
        m.daemon.target_status_until("t1", "every change", |t| t.pending >= 2 * least);
    }
    WAYS_OF_DIRECTORIES.iter().for_each(|(way, acts)| acts(m, way));
    if !seen {
        m.daemon.thaw();
    }
    m.daemon.does(&["resume"]);
    m.check();
}

/// Files change in a directory that leaves the source and comes back, under its name or another
/// one, before anything of that has left.
fn changed_in_a_directory_that_comes_back(m: &mut Mirror) {
    m.src.mkdir("away");
    for back in ["same", "other"] {
        m.src.mkdir(format!("away/{back}"));
        for file in ["written", "touched"] {
            m.src.write(format!("away/{back}/{file}"), b"before");
            m.src.link(format!("away/{back}/{file}"), format!("stays-{back}-{file}"));
        }
    }
    m.check();
    m.daemon.does(&["pause"]);
    for back in ["same", "other"] {
        m.src.append(format!("away/{back}/written"), b", and more");
        m.src.chmod(format!("away/{back}/touched"), 0o604);
    }
    m.daemon.target_status_until("t1", "every change", |t| t.pending >= 4);
    for (back, name) in [("same", "same"), ("other", "another")] {
        std::fs::rename(m.src.at(format!("away/{back}")), m.out.at(back)).expect("it leaves");
        std::fs::rename(m.out.at(back), m.src.at(format!("away/{name}"))).expect("it comes back");
    }
    m.daemon.does(&["resume"]);
    m.check();
}

/// A name of one file becomes a name of another, which had one name, below directories that are to
/// be compared whole: the name that the other file had is right as well.
fn a_name_passes_to_another_file_below_comparisons(m: &mut Mirror) {
    for (case, is_exchanged, is_written) in [("x", true, true), ("r", false, true), ("w", false, false)] {
        let at = |name: &str| format!("{case}/{name}");
        m.src.mkdirs(at("a"));
        m.src.mkdir(at("b"));
        m.src.write(at("a/f"), b"a file of two names");
        m.src.link(at("a/f"), at("b/g"));
        m.src.write(at("alone"), b"a file of one name");
        m.check();
        m.daemon.does(&["pause"]);
        if is_exchanged {
            m.src.exchange(at("a"), at("b"));
        } else {
            for dir in ["a", "b"] {
                m.src.rename(at(dir), at("t"));
                m.src.rename(at("t"), at(dir));
            }
        }
        m.src.link(at("alone"), at("b/z"));
        m.src.rename(at("b/z"), at("b/g"));
        if is_written {
            m.src.append(at("b/g"), b", changed");
        }
        m.daemon.does(&["resume"]);
        m.check();
    }
}

/// A program writes to a file under a name that is gone, or that leads to another file now.
fn written_under_a_name_that_went(m: &mut Mirror) {
    for way in ["removed", "replaced", "linked", "moved"] {
        let at = |name: &str| format!("{way}/{name}");
        m.src.mkdirs(at("d"));
        m.src.write(at("d/f"), b"one file");
        m.src.link(at("d/f"), at("other"));
        m.src.write(at("aside"), b"another file");
        m.check();
        let mut open = m.src.open(at("d/f"));
        match way {
            "removed" => m.src.remove(at("d/f")),
            "replaced" => m.src.rename(at("aside"), at("d/f")),
            "linked" => {
                m.src.link(at("d/f"), at("new"));
                m.src.remove(at("d/f"));
            }
            _ => m.src.rename(at("d/f"), at("moved")),
        }
        open.write_all(b", and more").expect("it is open");
        drop(open);
        m.check();
    }
}

/// By default, with links kept, and with open files followed.
fn in_each_case(name: &'static str, act: fn(&mut Mirror)) -> Case {
    case(name, ALL, move |fs| {
        for setup in [Setup::new(fs), Setup::new(fs).carrying(&["hard_links"]), Setup::new(fs).follow("200ms")] {
            let mut m = setup.before(fill).start()?;
            m.check();
            act(&mut m);
            m.check();
        }
        Ok(())
    })
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(each_case("changes_reach_every_name", ALL, changes));
    all.extend(each_case("names_come_and_go", ALL, names_come_and_go));
    all.extend(each_case("many_names_are_found_by_few_walks", &[Fs::Ext4, Fs::Btrfs], farm));
    all.extend(each_case("names_that_come_in_with_a_directory", &[Fs::Ext4, Fs::Xfs], directory_with_names));
    all.extend(each_case("written_under_a_name_that_went", ALL, written_under_a_name_that_went));
    let passes = a_name_passes_to_another_file_below_comparisons;
    all.push(in_each_case("a_name_passes_to_another_file_below_comparisons", passes));
    all.push(case("names_of_a_number_that_is_used_again", ALL, names_of_a_number_that_is_used_again));
    all.push(in_each_case("made_without_a_name", made_without_a_name));
    all.push(in_each_case("opened_by_a_name_that_goes", opened_by_a_name_that_goes));
    all.push(in_each_case("opened_in_a_directory_that_goes", opened_in_a_directory_that_goes));
    all.push(in_each_case("written_beside_a_new_name", written_beside_a_new_name));
    all.push(in_each_case("changed_in_a_directory_that_comes_back", changed_in_a_directory_that_comes_back));
    all.push(in_each_case("touched_and_written_by_two_names", touched_and_written_by_two_names));
    let (fanotify, inotify) = ("written_through_a_name_that_goes", "inotify_written_through_a_name_that_goes");
    for (name, watch) in [(fanotify, "fanotify"), (inotify, "inotify")] {
        all.push(case(name, ALL, move |fs| {
            for (kept, seen) in [(&[][..], true), (&[], false), (&["hard_links"], true), (&["hard_links"], false)] {
                let mut m = Setup::new(fs).watch(watch).carrying(kept).before(fill).start()?;
                m.check();
                written_through_a_name_that_goes(&mut m, seen);
                // Written outside by now, of which inotify has no event.
                if watch == "fanotify" {
                    m.out.append("leaves/0", b", and more");
                    m.check();
                }
            }
            Ok(())
        }));
    }
    let (fanotify, inotify) = ("changed_in_directories_that_move", "inotify_changed_in_directories_that_move");
    for (name, watch) in [(fanotify, "fanotify"), (inotify, "inotify")] {
        all.push(case(name, ALL, move |fs| {
            let ways = [(true, false, true), (false, true, true), (true, true, true), (true, true, false)];
            for (kept, (in_d, in_e, seen)) in [&[][..], &["hard_links"]].into_iter().flat_map(|kept| ways.map(|way| (kept, way)))
            {
                let mut m = Setup::new(fs).watch(watch).carrying(kept).before(fill).start()?;
                m.check();
                changed_in_directories_that_move(&mut m, in_d, in_e, seen);
            }
            Ok(())
        }));
    }
    let (fanotify, inotify) = ("touched_through_a_name_that_goes", "inotify_touched_through_a_name_that_goes");
    for (name, watch) in [(fanotify, "fanotify"), (inotify, "inotify")] {
        all.push(case(name, ALL, move |fs| {
            let ways = [(true, true, false), (false, true, false), (false, false, false), (false, true, true)];
            for (kept, how) in [&[][..], &["hard_links"]].into_iter().flat_map(|kept| ways.map(|how| (kept, how))) {
                let mut m = Setup::new(fs).watch(watch).carrying(kept).before(fill_for_touches).start()?;
                m.check();
                touched_through_a_name_that_goes(&mut m, how);
            }
            Ok(())
        }));
    }
    all.extend([
        case("the_name_written_goes_and_the_others_are_not_cached", &[Fs::Ext4, Fs::Xfs], |fs| {
            // Many, since an event may be read before the one that explains it.
            let m = Setup::new(fs).before(|src| {
                src.mkdirs("d/deep");
                for n in 0..40 {
                    src.write(format!("a{n}"), b"one file");
                    src.link(format!("a{n}"), format!("d/b{n}"));
                    src.link(format!("a{n}"), format!("d/deep/c{n}"));
                }
            });
            let m = m.start()?;
            m.check();
            // The kernel knows the other names from the disk only. (drop_caches spares those that
            // were used lately.)
            forget_names(&m.src);
            m.daemon.does(&["pause"]);
            for n in 0..40 {
                m.src.append(format!("d/b{n}"), b", written and removed");
                m.src.remove(format!("d/b{n}"));
            }
            m.daemon.does(&["resume"]);
            m.check();
            let lost = m.daemon.status().mirrors.remove(0).lost;
            assert!(lost.is_empty(), "{lost:?}");
            Ok(())
        }),
        // A name that the target links elsewhere is removed there before it is sent, by its path,
        // which leads through a symbolic link on the target as long as that has what the source had
        // before.
        case("replaced_below_what_is_a_symbolic_link_on_the_target", ALL, |fs| {
            let two = [To::Module, To::Local];
            let m = Setup::new(fs).carrying(&["hard_links"]).targets(&two).before(|src| {
                src.mkdir("a");
                src.write("a/f", b"not to be removed");
                src.mkdir("b");
                src.fifo("b/f");
                src.link("b/f", "b/g");
            });
            let m = m.start()?;
            m.check();
            for _ in 0..3 {
                m.src.remove("b");
                m.src.symlink("a", "b");
                m.check();
                m.daemon.does(&["pause"]);
                m.src.remove("b");
                m.src.mkdir("b");
                m.src.fifo("b/f");
                m.src.link("b/f", "b/g");
                m.daemon.does(&["resume"]);
                m.check();
            }
            Ok(())
        }),
        case("changes_in_directories_that_are_compared_whole", &[Fs::Ext4], |fs| {
            // More waits than is remembered one by one.
            let m = Setup::new(fs).batch("max_pending", 1000).before(|src| {
                fill(src);
                src.mkdir("many");
                (0..1200).for_each(|n| src.write(format!("many/{n}"), b"old"));
                (0..1200).step_by(300).for_each(|n| src.link(format!("many/{n}"), format!("d/{n}")));
            });
            let m = m.start()?;
            m.check();
            m.daemon.does(&["pause"]);
            (0..1200).for_each(|n| m.src.write(format!("many/{n}"), b"new content"));
            m.daemon.does(&["resume"]);
            m.check();
            Ok(())
        }),
        case("more_names_than_are_kept_together", &[Fs::Ext4], |fs| {
            for links in [&["hard_links"][..], &[]] {
                let m = Setup::new(fs).carrying(links).before(fill).start()?;
                m.check();
                m.src.mkdir("storm");
                (0..2500).for_each(|n| m.src.link("alone", format!("storm/{n}")));
                // Another user's file does not wait for an answer about these.
                m.src.write("other", b"of another program");
                m.daemon.flush(None);
                m.src.append("storm/7", b", written once it had many names");
                m.src.append("d/b", b", of three names");
                m.daemon.flush(None);
                let wrong = |name: &String| m.dst().read(name) != m.src.read(name);
                let names = (0..2500).map(|n| format!("storm/{n}")).chain(["alone", "other", "a", "d/b"].map(String::from));
                assert_eq!(names.filter(wrong).collect::<Vec<_>>(), Vec::<String>::new());
                let apart = m.daemon.status().mirrors.remove(0).links.map_or(0, |links| links.apart);
                assert_eq!(apart, links.len() as u64);
                // The others are one file still.
                let inode =
                    |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(m.dst().at(name)).expect("it is there"));
                assert_eq!(inode("a") == inode("d/b"), apart == 1);
            }
            Ok(())
        }),
        case("a_name_outside_is_not_sought_with_each_write", ALL, |fs| {
            let m = Setup::new(fs).before(fill).start()?;
            std::fs::hard_link(m.src.at("alone"), m.out.at("outside")).expect("both lie on one filesystem");
            m.src.append("alone", b", linked");
            m.check();
            let before = walks(&m);
            for n in 0..5 {
                m.src.append("alone", format!(", {n}"));
                m.check();
            }
            assert_eq!(walks(&m), before, "sought again, though nothing came in");
            m.src.link("alone", "d/inside");
            m.check();
            m.src.append("alone", b", reported by its own event");
            m.check();
            Ok(())
        }),
        case("files_of_one_name_cost_no_walk", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).before(fill).start()?;
            m.check();
            m.src.append("alone", b", written");
            m.src.mkdir("n");
            (0..200).for_each(|n| m.src.write(format!("n/{n}"), b"new"));
            m.src.chmod("n/7", 0o600);
            m.check();
            m.src.rename("n", "m");
            m.check();
            // As programs save: aside, and then over the old one.
            for n in 0..20 {
                m.src.write("m/aside", format!("version {n}"));
                m.src.rename("m/aside", "m/7");
            }
            m.src.remove("m/8");
            m.check();
            // As programs make temporary files without a name.
            for _ in 0..5 {
                let new = std::fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_TMPFILE).open(m.src.at("m"));
                new.and_then(|mut file| file.write_all(b"of no name")).expect("the filesystem has O_TMPFILE");
                m.check();
            }
            assert_eq!(walks(&m), 0);
            Ok(())
        }),
        case("excluded_names_are_not_sent", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).exclude(&["/out/", "*.tmp"]).before(|src| {
                fill(src);
                src.mkdir("out");
                src.link("a", "out/a");
                src.link("a", "d/a.tmp");
            });
            let m = m.start()?;
            for name in ["a", "out/a", "d/b"] {
                m.src.append(name, b", more");
                m.daemon.flush(None);
                let sent = |name: &str| m.dst().read(name).is_some();
                assert!(!sent("out/a") && !sent("d/a.tmp"), "what is left out was sent");
                ["a", "d/b", "d/deep/c"].iter().for_each(|at| assert_eq!(m.dst().read(at), m.src.read(at), "{at} after {name}"));
            }
            Ok(())
        }),
        case("one_new_name_among_many_new_files", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).before(fill).start()?;
            m.check();
            // So many new files that their directory is compared, with a link to an old file among
            // them.
            m.daemon.does(&["pause"]);
            m.src.mkdir("n");
            (0..300).for_each(|n| m.src.write(format!("n/{n}"), b"new"));
            m.src.link("alone", "n/old");
            m.src.append("n/old", b", written through the new name");
            m.daemon.does(&["resume"]);
            m.check();
            Ok(())
        }),
        case("after_a_restart", &[Fs::Ext4, Fs::Btrfs], |fs| {
            let mut m = Setup::new(fs).targets(&[To::Module, To::Local]).before(fill).start()?;
            m.check();
            m.rest("quiet", b"saved");
            m.daemon.terminate();
            m.src.append("d/b", b" while stopped");
            m.restart(Until::Watching);
            m.check();
            m.src.append("a", b" and after");
            m.check();
            // Stopped before the walk could begin.
            m.src.append("d/deep/c", b", and at the end");
            m.daemon.terminate();
            m.restart(Until::Watching);
            m.check();
            Ok(())
        }),
        case("while_a_target_is_away", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).targets(&[To::Module, To::Local]).before(fill).start()?;
            m.check();
            m.rsyncd.as_mut().expect("t1 is a module").stop();
            m.src.append("a", b" meanwhile");
            m.src.link("alone", "d/alone");
            m.daemon.flush(Some("t2"));
            m.src.append("d/alone", b" meanwhile");
            m.rsyncd.as_mut().expect("t1 is a module").restart();
            m.check();
            Ok(())
        }),
    ]);
    all
}
