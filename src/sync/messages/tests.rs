//! Every message of rsync 3.2.3 to 3.5.0 that names a path, as a local receiver, a module and a
//! sender write it.
//!
//! `@` stands for a path as `full_fname` writes it, `%` for a bare name, `~` for the name of a
//! temporary file as `full_fname` writes it.

use std::path::Path;

use super::super::output::{Names, Output, Stream};
use crate::location::Location;
use crate::path::{RelPath, Shown};

/// By the receiver or the generator, with `rsync: [receiver] ` before it and `: Operation not
/// permitted (1)` behind.
const RECEIVER: &[&str] = &[
    "delete_file: unlink(%) failed",
    "delete_file: rmdir(%) failed",
    "recv_generator: mkdir @ failed",
    "failed to modify permissions on @",
    "recv_generator: failed to stat @",
    "failed to open @, continuing",
    "unlink @",
    "open @",
    "open @ failed",
    "mknod @ failed",
    "symlink @ -> \"some text\" failed",
    "symlink @ -> \"../x -> y\" failed",
    "rename @ -> \"%\" failed",
    "rename ~ -> \"%\"",
    "copy ~ -> \"%\"",
    "rename failed for @ (from .~tmp~/x)",
    "link @ => other/name failed",
    "failed to hard-link /basis/x with %",
    "mkstemp ~ failed",
    "lseek of @ returned 5, not 7",
    "write failed on @",
    "ftruncate failed on @",
    "fsync failed on @",
    "fstat @ failed",
    "close failed on @",
    "stat @ failed",
    "chown @ failed",
    "chgrp @ failed",
    "failed to set times on @",
    "failed to set permissions on @",
    "write @",
    "ftruncate @",
    "get_xattr_names: llistxattr(@,1024) failed",
    "get_xattr_data: lgetxattr(@,\"user.a\",0) failed",
    "get_xattr_data: lgetxattr(@,\"user.a\",17) failed",
    "copy_xattrs: lsetxattr(@,\"user.a\") failed",
    "copy_xattrs: fsetxattr(@,\"user.a\") failed",
    "rsync_xal_set: lsetxattr(@,\"user.a\") failed",
    "rsync_xal_set: fsetxattr(@,\"user.a\") failed",
    "rsync_xal_set: lremovexattr(@,\"user.a\") failed",
    "set_xattr_acl: lsetxattr(@,\"user.rsync.aacl\") failed",
    "failed to read xattr user.rsync.stat for @",
    "failed to write xattr user.rsync.stat for @",
    "delete of stat xattr failed for @",
    "failed to re-stat @",
    "get_acl: sys_acl_get_file(%, ACL_TYPE_ACCESS)",
    "get_acl: sys_acl_get_fd_type(%, ACL_TYPE_DEFAULT)",
    "get_acl: acl_get_file_at(%, ACL_TYPE_ACCESS)",
    "get_acl: xacl_get(%, ACL_TYPE_ACCESS)",
    "get_acl: unpack_smb_acl(%)",
    "set_acl: sys_acl_set_file(%, ACL_TYPE_ACCESS)",
    "set_acl: sys_acl_set_fd_type(%, ACL_TYPE_ACCESS)",
    "set_acl: acl_set_file_at(%, ACL_TYPE_ACCESS)",
    "set_acl: xacl_set(%, ACL_TYPE_DEFAULT)",
    "set_acl: sys_acl_delete_def_file(%)",
    "gen_entry_copy_xattrs: openat(%) failed",
    "gen_entry_copy_xattrs: secure open of @ failed",
    "gen_entry_copy_xattrs: secure open of basis @ failed",
];

/// By the sender, likewise.
const SENDER: &[&str] = &[
    "link_stat @ failed",
    "readlink_stat(@) failed",
    "opendir @ failed",
    "readdir(@)",
    "send_files failed to open @",
    "read errors mapping @",
    "get_xattr_names: llistxattr(@,1024) failed",
    "get_xattr_data: lgetxattr(@,\"user.a\",0) failed",
    "get_acl: sys_acl_get_file(%, ACL_TYPE_ACCESS)",
];

/// Whole lines of the receiver's side.
const RECEIVER_LINES: &[&str] = &[
    "cannot delete non-empty directory: %",
    "cannot delete mount point: %",
    "could not make way for new regular file: %",
    "could not make way for new symlink: %",
    "skipping non-regular file \"%\"",
    "ERROR: daemon refused to receive file \"%\"",
    "ERROR: daemon refused to receive directory \"%\"",
    "ERROR: rejecting file transfer request for daemon excluded file: %",
    "ERROR: rejecting excluded file-list name: %",
    "ERROR: rejecting unrequested file-list name: %",
    "ERROR: % failed verification -- update discarded.",
    "ERROR: % failed verification -- update put into partial-dir.",
    "Unable to create partial-dir for % -- discarding completed file.",
    "Unable to create partial-dir for % -- discarding partial file.",
    "temporary filename too long: %",
    "recv_files: % is a directory",
    "uid 4294967295 (-1) is impossible to set on @",
    "gid 4294967295 (-1) is impossible to set on @",
    "do_chmod: no symlink-safe chmod for \"%\"; mode not set",
    "skipping socket (creation unsupported here): %",
    "Missing abbreviated xattr value, user.a, for %",
];

/// Whole lines of the sender's side.
const SENDER_LINES: &[&str] = &[
    "skipping directory %",
    "file has vanished: @",
    "directory has vanished: @",
    "skipped diminished file: @",
    "failed to re-read xattr user.a for %",
    "skipping overly long name: %",
    "path too long: %",
    "filename overflows max-path len by 7: %",
    "cannot send file with empty name in @",
    "skipping file with bogus (zero) st_mode: @",
    "skipping symlink with 0-length value: @",
];

/// What says nothing of a failure.
const NOTHING: &[&str] = &[
    "rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1394) [sender=3.5.0]",
    "rsync warning: some files vanished before they could be transferred (code 24) at main.c(1394) [sender=3.5.0]",
    "*** Skipping any contents from this failed directory ***",
    "WARNING: x failed verification -- update discarded (will try again).",
    "WARNING: file is too large for checksum sending: x",
    "WARNING: parent dir is absent in the file list: x",
    "rsync: [receiver] do_fallocate \"/t/x\": Operation not supported (95)",
    "default_perms_for_dir: sys_acl_get_file(d, ACL_TYPE_DEFAULT): Operation not supported, falling back on umask",
    "Time value of x truncated on receiver.",
];

#[derive(Clone, Copy, PartialEq)]
enum Over {
    Local,
    Module,
    Ssh,
}

fn read(over: Over, line: &str) -> Output {
    let location = match over {
        Over::Local => Location::Local("/t".into()),
        Over::Module => {
            Location::Daemon { shell: false, user: None, host: "h".into(), port: None, module: "m".into(), path: "sub".into() }
        }
        Over::Ssh => Location::Ssh { user: None, host: "h".into(), path: "/t".into() },
    };
    let mut output = Output::new(Names::new(Path::new("/s"), &location));
    output.push(Stream::Stderr, line.as_bytes());
    output.finish();
    output
}

/// The message with the name in it, as the sender or the receiver writes it over `over`.
fn written(over: Over, sender: bool, form: &str, name: &str) -> String {
    let temporary = match name.rsplit_once('/') {
        Some((dir, base)) => format!("{dir}/.{base}.Ab3xYz"),
        None => format!(".{name}.Ab3xYz"),
    };
    let full = |name: &str| match (sender, over) {
        (true, _) => format!("\"/s/{name}\""),
        (false, Over::Module) => format!("\"/sub/{name}\" (in m)"),
        (false, _) => format!("\"/t/{name}\""),
    };
    // A name may hold what stands for a name.
    let (left, right) = match form.split_once(['@', '%', '~']) {
        Some((left, right)) => (left, right),
        None => return form.into(),
    };
    let first = match form.as_bytes()[left.len()] {
        b'@' => full(name),
        b'~' => full(&temporary),
        _ => name.into(),
    };
    format!("{left}{first}{}", right.replace('%', name))
}

/// Every message, for each way to a target: whole line, whether the sender wrote it, and its form.
fn all(name: &str) -> Vec<(Over, String)> {
    let mut out = Vec::new();
    for over in [Over::Local, Over::Module, Over::Ssh] {
        for (sender, who, forms) in [(false, "receiver", RECEIVER), (false, "generator", RECEIVER), (true, "sender", SENDER)] {
            for form in forms {
                let text = written(over, sender, form, name);
                out.push((over, format!("rsync: [{who}] {text}: Operation not permitted (1)")));
            }
        }
        for (sender, forms) in [(false, RECEIVER_LINES), (true, SENDER_LINES)] {
            out.extend(forms.iter().map(|form| (over, written(over, sender, form, name))));
        }
    }
    out
}

#[test]
fn every_message_names_its_path_over_every_transport() {
    for name in ["a", "d/e/f", "d/we\"ird", "with (in m) it", "d/a, b) failed", "d/x: y (5)"] {
        for (over, line) in all(name) {
            let output = read(over, &line);
            let found: Vec<String> = output.failed.iter().map(|f| String::from_utf8_lossy(&f.path).into_owned()).collect();
            // Some bare names cannot be distinguished from what stands around them; then no name
            // comes out.
            let plain = !name.contains(['"', '(', ':']);
            assert!(found == [name] || !plain && found.is_empty() && output.failed_more == 1, "{line}\n{found:?}");
            assert!(output.unknown.is_empty(), "{line}");
            let signs = &output.signs;
            let counted = signs.failed || signs.skipped || signs.vanished || output.counters.dirs_kept > 0;
            assert!(counted, "{line}: nothing keeps exit 0 from confirming it");
        }
    }
}

#[test]
fn a_name_that_holds_a_separator_never_names_another_path() {
    for name in ["d/x\" -> \"y", "a\",\"user.b", "a\" (from b", "a\" => b", "a\" -> \"b\" -> \"c", "a -- discarding b"] {
        for (over, line) in all(name) {
            let output = read(over, &line);
            let wrong = output.failed.iter().find(|f| *f.path != *name.as_bytes());
            assert!(wrong.is_none(), "{line}\n{wrong:?}");
            assert!(output.failed.len() as u64 + output.failed_more == 1, "{line}: it is a failure all the same");
        }
    }
}

#[test]
fn what_is_no_failure_is_none() {
    for line in NOTHING {
        let output = read(Over::Local, line);
        assert!(output.failed.is_empty() && output.failed_more == 0 && output.unknown.is_empty(), "{line}");
        assert!(!output.signs.failed, "{line}");
    }
}

#[test]
fn a_line_of_no_known_kind_is_kept_as_unknown() {
    for line in ["Welcome to h", "cannot frobnicate \"a\"", "ERROR: something new", "WARNING: something new"] {
        let output = read(Over::Ssh, line);
        assert_eq!(output.unknown, [line.as_bytes()], "{}", Shown(line.as_bytes()));
    }
    // What rsync writes with an error number is a failure of its own, whatever it says.
    let output = read(Over::Local, "rsync: [receiver] frobnicate failed: Operation not permitted (1)");
    assert_eq!((output.failed_more, output.signs.failed), (1, true));
}

#[test]
fn the_greeting_of_a_remote_shell_is_no_word_about_the_target() {
    let mut output = Output::new(Names::default());
    output.push(Stream::Stderr, b"created directory for you\n");
    assert!(!output.signs.target.missing);
    output.push(Stream::Stdout, b"created directory /t\n");
    assert!(output.signs.target.missing);
}

#[test]
fn the_sender_s_words_are_told_apart() {
    let output = read(Over::Local, "rsync: [sender] opendir \"/s/d\" failed: Permission denied (13)");
    assert_eq!((&output.failed[0].path, output.failed[0].unread), (&RelPath::from_normal("d"), true));
    let output = read(Over::Local, "rsync: [receiver] mkstemp \"/t/.d.Ab3xYz\" failed: Permission denied (13)");
    assert_eq!((&output.failed[0].path, output.failed[0].unread), (&RelPath::from_normal("d"), false));
}
