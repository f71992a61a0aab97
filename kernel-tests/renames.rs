//! Renames: within the tree, into it, out of it, over something, in chains, and swaps.

mod carried;
mod guarded;
mod together;

use crate::fixture::fs::ALL;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, case, step};

/// `a` and `b` with content, files beside them.
fn two_dirs(src: &Dir) {
    // Other sizes in each: files written in one tick of the clock have one mtime, see `twins`.
    for (dir, size) in [("a", 10), ("b", 1_000)] {
        src.mkdirs(format!("{dir}/sub/deep"));
        src.write(format!("{dir}/file"), dir.repeat(size));
        src.write(format!("{dir}/sub/deep/file"), [dir.repeat(size).as_bytes(), b" deep"].concat());
        src.symlink("file", format!("{dir}/link"));
    }
    src.write("f", b"a file");
    src.write("g", b"another file");
}

pub fn cases() -> Vec<Case> {
    let mut cases = carried_cases();
    cases.extend(carried::cases());
    cases.extend(guarded::cases());
    cases.extend(together::cases());
    cases
}

fn carried_cases() -> Vec<Case> {
    let of = |name, act: fn(&Mirror)| step(name, ALL, two_dirs, act);
    vec![
        of("file", |m| m.src.rename("f", "f2")),
        of("file_to_other_dir", |m| m.src.rename("f", "a/sub/f")),
        of("file_over_file", |m| m.src.rename("f", "g")),
        of("file_then_write", |m| {
            m.src.rename("f", "f2");
            m.src.append("f2", b", longer");
        }),
        of("editor_save", |m| {
            m.src.write(".f.swp", b"a file, edited");
            m.src.rename(".f.swp", "f");
        }),
        of("symlink", |m| m.src.rename("a/link", "b/other link")),
        of("file_chain", |m| {
            m.src.rename("f", "f2");
            m.src.rename("f2", "b/f3");
            m.src.rename("b/f3", "f4");
        }),
        of("file_there_and_back", |m| {
            m.src.rename("f", "f2");
            m.src.rename("f2", "f");
        }),
        of("dir", |m| m.src.rename("a", "c")),
        of("dir_to_other_dir", |m| m.src.rename("a/sub", "b/from a")),
        of("dir_over_empty_dir", |m| {
            m.src.mkdir("empty");
            m.src.rename("a", "empty");
        }),
        of("dir_then_write_below", |m| {
            m.src.rename("a", "c");
            m.src.write("c/sub/deep/new", b"new");
            m.src.append("c/file", b" after");
        }),
        of("dir_then_write_at_old_name", |m| {
            m.src.rename("a", "c");
            m.src.mkdir("a");
            m.src.write("a/file", b"another a");
        }),
        of("dir_chain", |m| {
            m.src.rename("a", "c");
            m.src.rename("c", "b/sub/d");
            m.src.write("b/sub/d/file", b"changed below");
            m.src.rename("b/sub/d", "e");
        }),
        of("dir_chain_a_b_c", |m| {
            // Each takes the name the next has just given up.
            m.src.rename("b", "c");
            m.src.rename("a", "b");
            m.src.write("b/new", b"in what was a");
            m.src.write("c/new", b"in what was b");
        }),
        of("dir_into_its_sibling_and_delete", |m| {
            m.src.rename("a", "b/sub/a");
            m.src.remove("b/sub");
        }),
        of("parent_and_child", |m| {
            m.src.rename("a/sub", "a/renamed");
            m.src.rename("a", "c");
            m.src.rename("c/renamed/deep", "deep");
        }),
        of("exchange_dirs", |m| m.src.exchange("a", "b")),
        of("exchange_dirs_then_write", |m| {
            m.src.exchange("a", "b");
            m.src.write("a/sub/deep/new", b"in what was b");
            m.src.append("b/file", b" in what was a");
        }),
        of("dirs_swapped_by_three_renames", |m| {
            m.src.rename("a", "c");
            m.src.rename("b", "a");
            m.src.rename("c", "b");
            m.src.write("a/sub/deep/new", b"in what was b");
            m.src.append("b/file", b" in what was a");
        }),
        of("exchange_files", |m| m.src.exchange("f", "g")),
        of("exchange_dir_and_file", |m| m.src.exchange("a", "f")),
        of("exchange_nested", |m| m.src.exchange("a/sub", "b")),
        of("out_of_the_tree", |m| {
            m.src.rename_to("a", &m.out, "a");
            m.src.rename_to("f", &m.out, "f");
        }),
        of("out_then_write_there", |m| {
            m.src.rename_to("a", &m.out, "a");
            m.out.write("a/file", b"of no concern");
            m.out.write("a/sub/deep/new", b"of no concern");
        }),
        of("out_and_back_changed", |m| {
            m.src.rename_to("a", &m.out, "a");
            m.out.write("a/sub/deep/file", b"changed outside");
            m.out.rename_to("a", &m.src, "a2");
            m.src.write("a2/sub/new", b"changed inside again");
        }),
        of("storm", storm),
        // rsync takes files of the same size and mtime for equal: after these, only their bytes
        // tell.
        step("twin_files_swapped", ALL, twins, |m| m.src.exchange("file one", "file two")),
        step("twin_dirs_swapped", ALL, twins, |m| m.src.exchange("dir one", "dir two")),
        step("twin_file_over_twin", ALL, twins, |m| m.src.rename("file one", "file two")),
        step("twin_dir_in_place_of_twin", ALL, twins, |m| {
            m.src.remove("dir two");
            m.src.rename("dir one", "dir two");
        }),
        case("into_the_tree", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            // Events outside, before the move, so that the daemon has met these directories as none
            // of its business.
            two_dirs(&m.out);
            m.check();
            m.out.write("a/sub/deep/file", b"still outside");
            m.out.rename_to("a", &m.src, "a");
            m.out.rename_to("f", &m.src, "f");
            m.check();
            m.src.write("a/sub/deep/file", b"now inside");
            m.src.write("a/sub/new", b"new");
            m.check();
            Ok(())
        }),
        case("into_the_tree_then_write_at_once", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            two_dirs(&m.out);
            m.out.rename_to("a", &m.src, "a");
            m.src.write("a/sub/deep/file", b"now inside");
            m.src.mkdir("a/sub/deep/newer");
            m.src.write("a/sub/deep/newer/file", b"newer");
            m.check();
            Ok(())
        }),
        case("outside_only", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            two_dirs(&m.out);
            m.out.rename("a", "c");
            m.out.remove("b");
            m.check();
            Ok(())
        }),
        case("times_of_both_parents", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            two_dirs(&m.src);
            m.check();
            m.src.rename("a/file", "b/sub/file");
            m.src.set_mtime("a", 1_000_000_000, 1);
            m.check();
            m.src.rename("b/sub/deep", "a/deep");
            m.src.set_mtime("b/sub", 1_000_000_001, 2);
            m.check();
            Ok(())
        }),
    ]
}

/// Two files and two directories that size and mtime cannot tell apart.
fn twins(src: &Dir) {
    for name in ["one", "two"] {
        src.mkdir(format!("dir {name}"));
        for path in [format!("dir {name}/file"), format!("file {name}")] {
            src.write(&path, name);
            src.set_mtime(&path, 1_600_000_000, 1);
        }
    }
}

/// Directories change their names faster than anyone could follow.
fn storm(m: &Mirror) {
    let mut at = String::from("a");
    for n in 0..300 {
        let next = if n % 3 == 0 { format!("b/moved {n}") } else { format!("moved {n}") };
        m.src.rename(&at, &next);
        if n % 7 == 0 {
            m.src.write(format!("{next}/sub/file {n}"), format!("{n}"));
        }
        at = next;
    }
}
