//! Every kind of event by itself: one change, then the target has to be equal in every attribute.

use crate::fixture::fs::ALL;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, step};

fn empty(_: &Dir) {}

fn one_file(src: &Dir) {
    src.write("f", b"first");
}

fn some_tree(src: &Dir) {
    src.mkdirs("d/e");
    src.write("d/f", b"one");
    src.write("d/e/g", b"two");
    src.symlink("f", "d/link");
}

pub fn cases() -> Vec<Case> {
    let of = |name, given: fn(&Dir), act: fn(&Mirror)| step(name, ALL, given, act);
    vec![
        of("create_file", empty, |m| m.src.write("f", b"content")),
        of("create_empty_file", empty, |m| m.src.write("f", b"")),
        of("create_large_file", empty, |m| m.src.write("f", vec![7; 9 << 20])),
        of("create_dir", empty, |m| m.src.mkdir("d")),
        of("create_deep_dirs", empty, |m| {
            m.src.mkdirs("a/b/c/d/e/f/g");
            m.src.write("a/b/c/d/e/f/g/file", b"deep");
        }),
        of("create_in_known_dir", some_tree, |m| m.src.write("d/e/new", b"new")),
        of("create_symlink", empty, |m| m.src.symlink("nowhere/at all", "link")),
        of("create_fifo", empty, |m| m.src.fifo("pipe")),
        of("create_device", empty, |m| m.src.device("null", 1, 3)),
        of("create_hardlink", one_file, |m| m.src.link("f", "second name")),
        of("write", one_file, |m| m.src.write("f", b"quite another content")),
        of("append", one_file, |m| m.src.append("f", b" and more")),
        of("truncate", one_file, |m| m.src.truncate("f", 2)),
        of("truncate_to_nothing", one_file, |m| m.src.truncate("f", 0)),
        of("extend_sparse", one_file, |m| m.src.truncate("f", 1 << 20)),
        of("chmod_file", one_file, |m| m.src.chmod("f", 0o4711)),
        of("chmod_dir", some_tree, |m| m.src.chmod("d/e", 0o2770)),
        of("chmod_to_nothing", some_tree, |m| m.src.chmod("d/f", 0)),
        of("chown_file", one_file, |m| m.src.chown("f", 1234, 4321)),
        of("chown_dir", some_tree, |m| m.src.chown("d", 77, 88)),
        of("chown_symlink", some_tree, |m| m.src.chown("d/link", 5, 6)),
        of("time_of_file", one_file, |m| m.src.set_mtime("f", 1_000_000_000, 123_456_789)),
        of("time_of_file_through_descriptor", one_file, |m| m.src.set_mtime_open("f", 1_100_000_000)),
        of("time_of_dir", some_tree, |m| m.src.set_mtime("d", 1_200_000_000, 987_654_321)),
        of("time_of_symlink", some_tree, |m| m.src.set_mtime("d/link", 1_300_000_000, 1)),
        of("unlink_file", one_file, |m| m.src.remove("f")),
        of("unlink_symlink", some_tree, |m| m.src.remove("d/link")),
        of("unlink_one_of_two_names", |src| (one_file(src), src.link("f", "g")).1, |m| m.src.remove("f")),
        of("rmdir_empty", |src| src.mkdir("d"), |m| m.src.rmdir("d")),
        of("remove_tree", some_tree, |m| m.src.remove("d")),
        of("root_mode", one_file, |m| m.src.chmod(".", 0o750)),
        of("root_owner", one_file, |m| m.src.chown(".", 12, 34)),
        of("root_time", one_file, |m| m.src.set_mtime(".", 1_400_000_000, 5)),
        of("root_time_after_create", one_file, |m| (m.src.write("g", b""), m.src.set_mtime(".", 1_500_000_000, 6)).1),
        of("created_and_deleted", one_file, created_and_deleted),
        of("dir_created_and_deleted", one_file, |m| {
            m.src.mkdirs("gone/deeper");
            m.src.write("gone/deeper/file", b"never seen");
            m.src.remove("gone");
        }),
        of("deleted_and_created_again", one_file, |m| {
            m.src.remove("f");
            m.src.write("f", b"later");
        }),
        of("nothing_at_all", one_file, |_| {}),
    ]
}

/// Leaves nothing behind but the directory's time.
fn created_and_deleted(m: &Mirror) {
    for n in 0..200 {
        m.src.write(format!("short-lived {n}"), b"x");
        m.src.remove(format!("short-lived {n}"));
    }
}
