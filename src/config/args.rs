//! Which rsync options a target may add to those that fansync gives.
//!
//! The runs that fansync composes depend on each other: what is deleted, what counts as equal and
//! what the output looks like must be the same in the live, the deep and the full pass. An option
//! that changes one of these silently leaves the copy wrong, so each option of rsync 3.5.0 is
//! judged here, and one that is not known is refused like one that does harm.

use std::ops::ControlFlow;

use super::cite::nearest;

/// May be added. A trailing `=` marks options with a value.
const FINE: &str = "acls no-acls no-A xattrs no-xattrs no-X no-hard-links no-H atimes no-atimes no-U open-noatime no-open-noatime \
    crtimes no-crtimes no-N omit-dir-times no-omit-dir-times no-O omit-link-times no-omit-link-times no-J perms no-perms no-p executability \
    owner no-owner no-o group no-group no-g devices no-devices specials no-specials no-D times links super no-super fake-super \
    numeric-ids no-numeric-ids usermap= groupmap= chown= chmod= munge-links no-munge-links sparse no-sparse no-S preallocate \
    whole-file no-whole-file no-W checksum no-checksum no-c checksum-choice= cc= checksum-seed= block-size= compress-level= zl= \
    compress-threads= zt= skip-compress= fuzzy no-fuzzy no-y max-alloc= temp-dir= partial-dir= delay-updates no-delay-updates fsync \
    bwlimit= no-bwlimit log-file= log-file-format= address= sockopts= ipv4 ipv6 blocking-io no-blocking-io \
    no-inc-recursive no-i-r secluded-args protect-args trust-sender no-inplace no-append no-partial no-backup \
    no-write-devices no-insecure-links no-iconv no-verbose no-v no-motd no-progress no-human-readable no-h no-msgs2stderr \
    no-ignore-errors no-drop-D no-mkpath no-one-file-system no-x no-prune-empty-dirs no-m";

/// May not be added, and why.
const REFUSED: &[(&str, &str)] = &[
    ("hard-links", "it links only what happens to be sent together; set hard_links = true in the mirror"),
    ("dry-run list-only", "nothing would be copied"),
    ("update", "a file that is newer on the target would stay different for good"),
    ("existing ignore-non-existing ignore-existing", "part of the tree would never be copied"),
    ("size-only", "a rewrite that keeps the size would never be copied"),
    ("ignore-times", "every full pass would send every file again; use --checksum to compare by content"),
    ("modify-window=", "fansync compares times to the nanosecond, or a rewrite within the same second is missed"),
    ("no-times no-t", "without times rsync cannot tell what has changed"),
    ("max-size= min-size=", "a file that crosses the limit would leave an old copy; leave files out by name with exclude"),
    ("inplace append append-verify write-devices", "an interrupted transfer would leave a torn file in place of a good one"),
    ("partial", "an interrupted transfer would replace a good file by a torn one; use --partial-dir=DIR"),
    ("P", "it is --partial --progress: a torn file could replace a good one; use --partial-dir=DIR"),
    (
        "del delete delete-before delete-during delete-delay delete-after delete-missing-args ignore-missing-args force no-force",
        "fansync decides what is deleted; set delete = true or false in the mirror",
    ),
    ("delete-excluded", "what the mirror leaves out must stay untouched on the target"),
    ("max-delete=", "the deletions of a large change would never be carried out"),
    ("ignore-errors", "files that could not be read would be deleted on the target"),
    ("remove-source-files remove-sent-files", "set remove_source_files in the mirror, which waits for every target"),
    ("files-from= from0 no-from0", "fansync gives rsync its lists"),
    (
        "filter= exclude= include= exclude-from= include-from= cvs-exclude F",
        "the live passes would not know of it; use include and exclude in the mirror",
    ),
    ("prune-empty-dirs", "empty directories would come and go with the kind of pass"),
    ("one-file-system", "it would undo what is copied from mounts below the source; leave mounts out with exclude"),
    ("archive", "it implies -r, which would make every small batch a deep one; all else that it implies is always on"),
    (
        "recursive no-recursive no-r dirs no-dirs no-d old-dirs old-d relative implied-dirs no-implied-dirs i-d no-i-d mkpath",
        "fansync decides how deep a pass goes",
    ),
    (
        "copy-links copy-unsafe-links copy-dirlinks keep-dirlinks insecure-links",
        "only changes below the source raise events, and links are copied as links",
    ),
    (
        "inc-recursive i-r",
        "rsync loses track of its file list where the two sides do not agree on it (exit 2, on a local target)",
    ),
    ("no-relative no-R", "every path of a list would land at the top of the target"),
    ("no-old-args", "where no shell reads the paths, rsync takes it for --old-args; it is off anyway"),
    ("safe-links no-links no-l", "links would be left out of the copy"),
    ("confine-root=", "fansync confines rsync to the source itself"),
    ("copy-devices", "a device would be read as a file, perhaps without end"),
    ("drop-D", "each device would be reported as failed; use --no-D"),
    (
        "backup backup-dir= suffix=",
        "set backup_dir in the target: it keeps what is replaced or deleted beside the copy, and each run has a directory of its own there",
    ),
    ("compare-dest= copy-dest= link-dest=", "fansync uses these for renames, and files found there would be missing in the copy"),
    ("compress old-compress new-compress no-compress no-z compress-choice= zc=", "set compress in the target"),
    ("timeout= no-timeout", "set timeout in the target"),
    ("contimeout= no-contimeout", "set connect_timeout in the target"),
    ("password-file=", "set password_file in the target"),
    ("early-input=", "rsync is confined to the source and cannot read the file, and what the source holds is no secret"),
    ("port=", "write the port into the url, as in rsync://host:8730/module"),
    ("rsh=", "set ssh in the target"),
    ("rsync-path=", "set rsync_path in the target"),
    ("qsort", "the other side's rsync does not know how this option is passed on to it"),
    ("old-args no-secluded-args no-protect-args no-s", "file names could be read as commands by the remote shell"),
    ("copy-as=", "rsync would read the source as another user and take unreadable files for missing"),
    ("protocol=", "older protocols cut times to seconds"),
    ("iconv=", "names are compared as bytes, and converted ones would not be found again"),
    ("stop-after= stop-at= time-limit=", "a pass that is cut short would begin anew for ever"),
    ("write-batch= only-write-batch= read-batch=", "batch files have no place in a mirror"),
    (
        "verbose quiet info= debug= stderr= msgs2stderr motd stats human-readable progress itemize-changes no-itemize-changes no-i out-format= \
         log-format= 8-bit-output no-8-bit-output no-8 outbuf=",
        "fansync reads rsync's output to learn what failed, and this changes it",
    ),
    ("help version", "nothing would be copied"),
    ("server sender daemon config= dparam= detach no-detach", "it is not an option for a transfer"),
];

/// Short options by the name of the long one.
const SHORT: &[(char, &str)] = &[
    ('V', "version"),
    ('v', "verbose"),
    ('q', "quiet"),
    ('h', "human-readable"),
    ('n', "dry-run"),
    ('a', "archive"),
    ('r', "recursive"),
    ('d', "dirs"),
    ('p', "perms"),
    ('E', "executability"),
    ('A', "acls"),
    ('X', "xattrs"),
    ('t', "times"),
    ('U', "atimes"),
    ('N', "crtimes"),
    ('O', "omit-dir-times"),
    ('J', "omit-link-times"),
    ('@', "modify-window"),
    ('o', "owner"),
    ('g', "group"),
    ('D', "devices"),
    ('l', "links"),
    ('L', "copy-links"),
    ('k', "copy-dirlinks"),
    ('K', "keep-dirlinks"),
    ('H', "hard-links"),
    ('R', "relative"),
    ('I', "ignore-times"),
    ('x', "one-file-system"),
    ('u', "update"),
    ('S', "sparse"),
    ('f', "filter"),
    ('F', "F"),
    ('C', "cvs-exclude"),
    ('W', "whole-file"),
    ('c', "checksum"),
    ('B', "block-size"),
    ('y', "fuzzy"),
    ('z', "compress"),
    ('P', "P"),
    ('m', "prune-empty-dirs"),
    ('i', "itemize-changes"),
    ('b', "backup"),
    ('0', "from0"),
    ('s', "secluded-args"),
    ('e', "rsh"),
    ('T', "temp-dir"),
    ('4', "ipv4"),
    ('6', "ipv6"),
    ('8', "8-bit-output"),
    ('M', REMOTE),
];

/// Judged by the option it carries to the other side.
const REMOTE: &str = "remote-option";

#[derive(Clone, Copy)]
struct Judged {
    takes_value: bool,
    refused: Option<&'static str>,
}

fn judge(long: &str) -> Option<Judged> {
    if long == REMOTE {
        return Some(Judged { takes_value: true, refused: None });
    }
    let find = |names: &str| {
        names.split_ascii_whitespace().find_map(|name| match name.strip_suffix('=') {
            Some(name) => (name == long).then_some(true),
            None => (name == long).then_some(false),
        })
    };
    let fine = find(FINE).map(|takes_value| Judged { takes_value, refused: None });
    fine.or_else(|| REFUSED.iter().find_map(|(names, why)| Some(Judged { takes_value: find(names)?, refused: Some(why) })))
}

/// What to say of a long option that is not known.
fn unknown(name: &str) -> String {
    if let Some((option, value)) = name.split_once(char::is_whitespace)
        && judge(option).is_some_and(|judged| judged.takes_value)
    {
        return format!("one word is one option; write \"--{option}={}\"", value.trim());
    }
    let known = FINE.split_ascii_whitespace().map(|name| name.trim_end_matches('=')).collect::<Vec<_>>();
    match nearest(name, &known) {
        Some(meant) => format!("it is not known; did you mean --{meant}?"),
        None => "it is not known, so what it does to a mirror is not known either".into(),
    }
}

/// A word that may not be given to rsync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// Which of the words.
    pub(super) word: usize,
    /// The option, as rsync's manual writes it.
    pub(super) option: String,
    pub(super) reason: String,
}

/// The long options that may be added, each with `=` behind it if it takes a value.
pub fn allowed() -> impl Iterator<Item = &'static str> {
    FINE.split_whitespace()
}

#[cfg(feature = "lsyncd")]
/// Why `args` may not be given to rsync, a reason for each word that may not; empty when they may.
pub(crate) fn reasons_against(args: &[String]) -> Vec<String> {
    check(args).into_iter().map(|refused| refused.reason).collect()
}

/// Judges `args` as rsync would read them: clusters of short options letter by letter, values in
/// the same word or in the next.
pub(super) fn check(args: &[String]) -> Vec<Refused> {
    let mut refused = Vec::new();
    let mut words = args.iter().enumerate();
    while let Some((word, text)) = words.next() {
        let mut refuse = |option: &str, reason: &str| {
            refused.push(Refused { word, option: option.to_owned(), reason: reason.to_owned() });
        };
        let mut value_in_next_word = |option: &str, refuse: &mut dyn FnMut(&str, &str)| match words.next() {
            Some((_, value)) => Some(value.clone()),
            None => {
                refuse(option, "it needs a value");
                None
            }
        };
        if text.contains(|c: char| c.is_control()) {
            refuse(text, "it holds a control character");
        } else if let Some(long) = text.strip_prefix("--") {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned())));
            let option = format!("--{name}");
            if name.is_empty() {
                refuse("--", "it would end the options");
                continue;
            }
            match judge(name) {
                None => refuse(&option, &unknown(name)),
                Some(Judged { refused: Some(why), takes_value }) => {
                    refuse(&option, why);
                    if takes_value && value.is_none() {
                        words.next();
                    }
                }
                Some(Judged { takes_value: false, .. }) if value.is_some() => refuse(&option, "it takes no value"),
                Some(Judged { takes_value: false, .. }) => {}
                Some(_) => {
                    let value = value.or_else(|| value_in_next_word(&option, &mut refuse));
                    if name == REMOTE
                        && let Some(value) = value
                    {
                        check_remote(&value, &mut refuse);
                    }
                }
            }
        } else if let Some(cluster) = text.strip_prefix('-').filter(|c| !c.is_empty()) {
            let result = cluster.char_indices().try_for_each(|(i, letter)| {
                let option = format!("-{letter}");
                let Some((_, name)) = SHORT.iter().find(|(l, _)| *l == letter) else {
                    refuse(&option, "it is not known, so what it does to a mirror is not known either");
                    return ControlFlow::Continue(());
                };
                let judged = judge(name).expect("every short option is judged; a test holds this");
                if let Some(why) = judged.refused {
                    refuse(&option, why);
                }
                if !judged.takes_value {
                    return ControlFlow::Continue(());
                }
                let rest = &cluster[i + letter.len_utf8()..];
                let rest = rest.strip_prefix('=').unwrap_or(rest);
                ControlFlow::Break((option, *name, rest.to_owned()))
            });
            if let ControlFlow::Break((option, name, rest)) = result {
                let value = if rest.is_empty() { value_in_next_word(&option, &mut refuse) } else { Some(rest) };
                if name == REMOTE
                    && let Some(value) = value
                {
                    check_remote(&value, &mut refuse);
                }
            }
        } else {
            refuse(text, "it is no option, and rsync would take it for a path");
        }
    }
    refused
}

/// Whether one of `args` names a directory, which rsync may look for below the one it copies to. In
/// doubt it does.
pub(crate) fn name_directories(args: &[String]) -> bool {
    args.iter().any(|arg| {
        let arg = arg.strip_prefix("--remote-option=").unwrap_or(arg);
        arg.contains("-dir") || (!arg.starts_with("--") && arg.contains('T'))
    })
}

/// Whether one of `args` has the receiver use files or attributes beside those that it copies:
/// directories for what is not complete, and attributes in place of owners. In doubt it does.
pub(crate) fn names_places(args: &[String]) -> bool {
    let named = |arg: &String| arg.contains("delay-updates") || arg.contains("fake-super");
    name_directories(args) || args.iter().any(named)
}

/// Whether one of `args` is for the other side alone (`-M`).
pub(crate) fn passes_options_on(args: &[String]) -> bool {
    let short = |arg: &str| !arg.starts_with("--") && arg.starts_with('-') && arg.contains('M');
    args.iter().any(|arg| arg.starts_with("--remote-option") || short(arg))
}

/// Whether the times of directories are copied, with `args`, which were checked; of several that
/// contradict each other the last holds, as with rsync.
pub(crate) fn copies_dir_times(args: &[String]) -> bool {
    args.iter().fold(true, |copies, arg| match arg.as_str() {
        "--omit-dir-times" => false,
        "--no-omit-dir-times" | "--no-O" => true,
        cluster if !cluster.starts_with("--") && letters(cluster).any(|c| c == 'O') => false,
        _ => copies,
    })
}

/// The letters of a cluster of short options. What follows a letter with a value is that value.
fn letters(cluster: &str) -> impl Iterator<Item = char> + '_ {
    cluster.trim_start_matches('-').chars().take_while(|c| !"TBMe@f".contains(*c))
}

/// Which nodes of the source are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nodes {
    /// Block and character devices.
    pub(crate) devices: bool,
    /// Sockets and FIFOs.
    pub(crate) specials: bool,
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes { devices: true, specials: true }
    }
}

impl Nodes {
    /// With `args`, which were checked; of several that contradict each other the last holds, as
    /// with rsync.
    pub(crate) fn copied(args: &[String]) -> Nodes {
        let mut nodes = Nodes::default();
        for arg in args {
            match arg.as_str() {
                "--no-D" => nodes = Nodes { devices: false, specials: false },
                "--no-devices" => nodes.devices = false,
                "--no-specials" => nodes.specials = false,
                "--devices" => nodes.devices = true,
                "--specials" => nodes.specials = true,
                cluster if !cluster.starts_with("--") && letters(cluster).any(|c| c == 'D') => nodes = Nodes::default(),
                _ => {}
            }
        }
        nodes
    }
}

/// `-M--fake-super`: the other side's rsync gets the option; one word, by rsync's manual.
fn check_remote(option: &str, refuse: &mut dyn FnMut(&str, &str)) {
    if option.starts_with("-M") || option.starts_with("--remote-option") {
        return refuse(option, "an option for the other side cannot be passed on again");
    }
    for inner in check(&[option.to_owned()]) {
        refuse(&format!("-M{}", inner.option), &inner.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn refused(args: &[&str]) -> Vec<(usize, String)> {
        let args: Vec<_> = args.iter().map(|a| a.to_string()).collect();
        check(&args).into_iter().map(|r| (r.word, r.option)).collect()
    }

    #[test]
    fn allowed() {
        for args in [
            &[][..],
            &["-D", "-AXS", "--bwlimit=10m", "--chmod", "D755"],
            &["-XT/tmp/x", "-T", "/tmp/x", "-B=1024"],
            &["--partial-dir=.rsync-partial", "--fsync", "-M--fake-super", "--remote-option=--fake-super", "-M", "--log-file=/x"],
            &["--no-owner", "--no-group", "-c"],
        ] {
            assert_eq!(refused(args), [], "{args:?}");
        }
    }

    #[test]
    fn nodes_that_are_copied() {
        for (args, devices, specials) in [
            (&[][..], true, true),
            (&["--no-D"], false, false),
            (&["--no-devices"], false, true),
            (&["--no-specials", "--fsync"], true, false),
            (&["--no-D", "--specials"], false, true),
            (&["--no-D", "-AD"], true, true),
            (&["--no-D", "-ATD"], false, false),
        ] {
            let args: Vec<_> = args.iter().map(|a| a.to_string()).collect();
            assert_eq!(Nodes::copied(&args), Nodes { devices, specials }, "{args:?}");
        }
    }

    #[test]
    fn times_of_directories() {
        for (args, copied) in [
            (&[][..], true),
            (&["-O"], false),
            (&["-WO"], false),
            (&["--omit-dir-times"], false),
            (&["-O", "--no-O"], true),
            (&["--no-omit-dir-times", "-O"], false),
            (&["-M--fake-super"], true),
            (&["-T/Other"], true),
            (&["--bwlimit=O"], true),
        ] {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            assert_eq!(copies_dir_times(&args), copied, "{args:?}");
        }
    }

    #[test]
    fn named_directories() {
        for (args, want) in [
            (&[][..], false),
            (&["--bwlimit=10m", "-AXS", "--chmod", "D755", "--sockopts=TCP_NODELAY"], false),
            (&["--temp-dir=tmp"], true),
            (&["--partial-dir", ".part"], true),
            (&["-XTtmp"], true),
            (&["-T", "tmp"], true),
            (&["-M-Ttmp"], true),
            (&["--remote-option=-Ttmp"], true),
            (&["-M", "--temp-dir=tmp"], true),
        ] {
            let args: Vec<_> = args.iter().map(|a| a.to_string()).collect();
            assert_eq!(name_directories(&args), want, "{args:?}");
        }
    }

    #[test]
    fn not_allowed() {
        for (args, want) in [
            (&["-uz"][..], &[(0, "-u"), (0, "-z")][..]),
            (&["-aH"], &[(0, "-a"), (0, "-H")]),
            (&["-A", "--inplace"], &[(1, "--inplace")]),
            (&["--partial"], &[(0, "--partial")]),
            (&["-P"], &[(0, "-P")]),
            (&["--files-from=x", "--delete"], &[(0, "--files-from"), (1, "--delete")]),
            // The value of a refused option is not judged as an option.
            (&["--exclude", "-n", "-n"], &[(0, "--exclude"), (2, "-n")]),
            (&["-f", "- x"], &[(0, "-f")]),
            (&["-Tn"], &[]),
            (&["-nT"], &[(0, "-n"), (0, "-T")]),
            (&["--bwlimit"], &[(0, "--bwlimit")]),
            (&["--fsync=1"], &[(0, "--fsync")]),
            (&["/etc"], &[(0, "/etc")]),
            (&["-"], &[(0, "-")]),
            (&[""], &[(0, "")]),
            (&["--", "-A"], &[(0, "--")]),
            (&["--no-such"], &[(0, "--no-such")]),
            (&["-Q"], &[(0, "-Q")]),
            (&["-M--delete-excluded"], &[(0, "-M--delete-excluded")]),
            (&["-M", "-n"], &[(0, "-M-n")]),
            (&["-M-M-n"], &[(0, "-M-n")]),
            (&["-e", "sh -c x"], &[(0, "-e")]),
            (&["-A\n"], &[(0, "-A\n")]),
        ] {
            let want: Vec<_> = want.iter().map(|(w, o)| (*w, o.to_string())).collect();
            assert_eq!(refused(args), want, "{args:?}");
        }
    }

    #[test]
    fn each_option_is_judged_once() {
        let mut seen = std::collections::BTreeSet::new();
        for name in std::iter::once(FINE).chain(REFUSED.iter().map(|(n, _)| *n)).flat_map(str::split_ascii_whitespace) {
            assert!(seen.insert(name.trim_end_matches('=')), "{name} is judged twice");
        }
        for (letter, name) in SHORT {
            assert!(judge(name).is_some(), "-{letter} stands for {name}, which is not judged");
        }
    }

    /// What the installed rsync offers must be known, with the right idea of what takes a value.
    #[test]
    fn every_option_of_rsync_is_judged() {
        let help = Command::new("rsync").arg("--help").env("LC_ALL", "C").output().expect("this test needs the rsync command");
        let help = String::from_utf8(help.stdout).unwrap();
        let mut count = 0;
        for line in help.lines().skip_while(|l| *l != "Options").filter(|l| l.starts_with('-')) {
            let words: Vec<_> =
                line.split_whitespace().take_while(|w| w.starts_with('-')).map(|w| w.trim_end_matches(',')).collect();
            let takes_value = words[0].contains('=');
            for word in words {
                let word = word.split('=').next().unwrap();
                if word == "--no-OPTION" {
                    continue;
                }
                let name = match word.strip_prefix("--") {
                    Some(name) => name,
                    None => SHORT.iter().find(|(l, _)| word[1..].starts_with(*l)).unwrap_or_else(|| panic!("{word}")).1,
                };
                let judged = judge(name).unwrap_or_else(|| panic!("{word} is not judged"));
                // The help names no value for --block-size's and others' short forms; the long form
                // decides.
                assert_eq!(judged.takes_value, takes_value, "{word}");
                count += 1;
            }
        }
        assert!(count > 150, "only {count} options found in rsync's help");
    }
}
