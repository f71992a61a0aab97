//! Exit code and output of one run, judged by what to do next.
//!
//! Promises: [`Verdict::Done`] only when rsync's output proves that everything listed is on the
//! target. Exit code 0 alone does not: a refused deletion, a skipped file and the `--max-delete`
//! limit (of a daemon) all end with 0 and one line of text. Nearly every other code can be caused
//! by the source changing meanwhile, so paths are never given up here; that is for the caller to
//! decide, by count.
//!
//! Texts come before codes where both speak: a server that refuses often resets the connection, and
//! whether the client ends with the refusal's code or with 10 or 12 is a race.

use crate::location::Trouble;
use crate::path::Shown;

pub use crate::sys::child::Exit;

use super::output::{Counters, Failed, Output};

/// What the outcome depends on besides rsync's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    /// The pass had filters: directories that stay because of excluded content are as wished.
    pub filters: bool,
    /// The pass deleted. Without, nothing that stays on the target is a failure.
    pub delete: bool,
    /// The pass makes the target directory.
    pub makes_target: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything listed is on the target.
    Done,
    /// Some paths failed, the others went through. Look at the disk again and re-run; after some
    /// rounds split the batch.
    Partial,
    /// rsync ended well, but wrote something that is not known to be harmless. What a dry run finds
    /// equal is on the target.
    Unproven,
    /// The source changed during the run. Look at the disk again and re-run at once.
    SourceRace,
    /// The receiver cannot delete missing arguments: nothing was transferred. List deletions by
    /// parent from now on.
    NoMissingArgs,
    /// The `--max-delete` limit stopped deletions. Hold them and alert: each repetition deletes as
    /// many again.
    DeletesHeld,
    /// The source's root cannot be entered. Check it before anything else, delete nothing.
    SourceRoot,
    /// The target's directory is not there or cannot be entered.
    TargetMissing,
    /// No space on the target. What came after the file that did not fit was not sent; deletions
    /// first may make room.
    TargetFull,
    /// No connection, or it broke. Retry with back-off.
    TargetDown,
    /// The target was silent for too long. Retry with back-off.
    TimedOut,
    /// The server has no free connection. Retry with back-off.
    Busy,
    /// The server refuses this option for good.
    Refused {
        /// As the server wrote it: `--delete`.
        option: String,
    },
    /// Retrying cannot help before a change by an administrator: unknown module, authentication,
    /// read only, bad option.
    Config,
    /// rsync was killed, by us or by others, or could not get memory. Retry.
    Killed,
    /// A code without known meaning. Retry with back-off.
    Unknown,
}

/// What [`Verdict::class`] can be.
pub(crate) const CLASSES: [&str; 16] = [
    "done",
    "partial",
    "unproven",
    "source_race",
    "no_missing_args",
    "deletes_held",
    "source_root",
    "target_missing",
    "target_full",
    "target_down",
    "timed_out",
    "busy",
    "refused",
    "config",
    "killed",
    "unknown",
];

impl Verdict {
    /// The name used in logs, status and metrics.
    pub(crate) fn class(&self) -> &'static str {
        let at = match self {
            Verdict::Done => 0,
            Verdict::Partial => 1,
            Verdict::Unproven => 2,
            Verdict::SourceRace => 3,
            Verdict::NoMissingArgs => 4,
            Verdict::DeletesHeld => 5,
            Verdict::SourceRoot => 6,
            Verdict::TargetMissing => 7,
            Verdict::TargetFull => 8,
            Verdict::TargetDown => 9,
            Verdict::TimedOut => 10,
            Verdict::Busy => 11,
            Verdict::Refused { .. } => 12,
            Verdict::Config => 13,
            Verdict::Killed => 14,
            Verdict::Unknown => 15,
        };
        CLASSES[at]
    }
}

/// A run's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What to do next.
    pub verdict: Verdict,
    /// One line for a human: rsync's own most significant message, and how it ended. Empty for
    /// [`Verdict::Done`].
    pub reason: String,
    /// Paths that messages named, as far as they can be read: at most
    /// [`super::output::MAX_FAILED`]. Not complete; the paths of a batch that are not in here are
    /// not thereby confirmed.
    pub failed: Vec<Failed>,
    /// Failures whose path could not be read or did not fit.
    pub failed_more: u64,
    /// Lines that are no known message; see [`Output::unknown`].
    pub(crate) unknown: Vec<Vec<u8>>,
    /// What the run did.
    pub counters: Counters,
    /// rsync was ended by a signal that it handles; what it sent may be the content of other files
    /// ([`crate::sys::child`]).
    pub(crate) interrupted: bool,
    /// Why the target takes nothing, if that is what happened.
    pub(crate) cause: Trouble,
}

impl Outcome {
    /// Of a run whose end was not seen.
    pub(crate) fn unknown(reason: String) -> Outcome {
        Outcome {
            verdict: Verdict::Unknown,
            reason,
            failed: Vec::new(),
            failed_more: 0,
            unknown: Vec::new(),
            counters: Counters::default(),
            interrupted: false,
            cause: Trouble::Away,
        }
    }

    /// Whether everything listed is on the target.
    pub fn is_done(&self) -> bool {
        self.verdict == Verdict::Done
    }
}

/// The text for a target whose directory does not exist.
pub(crate) const TARGET_MISSING: &str = "the target directory does not exist; create it, or mount what belongs there";

/// Judges a run. `output`: both streams read to their end, [`Output::finish`] called. Pure.
pub fn classify(exit: Exit, output: &Output, context: Context) -> Outcome {
    let verdict = verdict(exit, output, context);
    let done = verdict == Verdict::Done;
    let reason = match verdict {
        Verdict::Done => String::new(),
        // Of a dry run, whose words would be that it was created.
        Verdict::TargetMissing if exit == Exit::Code(0) => TARGET_MISSING.into(),
        _ => reason(exit, output),
    };
    Outcome {
        cause: cause(&verdict, output, &reason),
        reason,
        failed: if done { Vec::new() } else { failed(exit, output) },
        failed_more: if done { 0 } else { output.failed_more },
        unknown: output.unknown.clone(),
        counters: output.counters,
        interrupted: exit == Exit::Code(20),
        verdict,
    }
}

/// What a server says when it refuses, and what that means.
const REFUSALS: [(&str, Trouble); 5] = [
    ("Unknown module", Trouble::UnknownModule),
    ("module is read only", Trouble::ReadOnlyModule),
    ("chdir failed", Trouble::ClosedModule),
    ("access denied", Trouble::HostDenied),
    ("auth failed", Trouble::AuthFailed),
];

/// `reason`: the words that decided.
fn cause(verdict: &Verdict, output: &Output, reason: &str) -> Trouble {
    let target = &output.signs.target;
    match verdict {
        Verdict::TargetFull if target.quota => Trouble::Quota,
        Verdict::TargetFull if target.full => Trouble::Full,
        Verdict::Config => REFUSALS.iter().find(|(words, _)| reason.contains(words)).map_or(Trouble::Away, |(_, cause)| *cause),
        _ if reason == TARGET_MISSING => Trouble::Missing,
        _ => Trouble::Away,
    }
}

fn verdict(exit: Exit, output: &Output, context: Context) -> Verdict {
    let signs = &output.signs;
    let code = match exit {
        Exit::Signal(_) => return Verdict::Killed,
        Exit::Code(code) => code,
    };
    // Of any code: a daemon's client ends with 0 at the limit, and with 24 or 23 when other things
    // failed too.
    if signs.max_delete || code == 25 {
        return Verdict::DeletesHeld;
    }
    // Without a list a source that is gone ends with 23. A dry run to a target that is not there
    // ends with 0.
    if signs.source_root {
        return Verdict::SourceRoot;
    }
    if signs.target.missing && !context.makes_target && matches!(code, 0 | 3 | 11 | 12 | 23 | 24) {
        return Verdict::TargetMissing;
    }
    if code == 0 || code == 24 {
        let kept = output.counters.dirs_kept > 0 && context.delete && !context.filters;
        return if signs.skipped || signs.deletes_skipped || signs.failed || kept {
            Verdict::Partial
        } else if code == 24 {
            Verdict::SourceRace
        } else {
            Verdict::Done
        };
    }
    if code == 23 {
        return Verdict::Partial;
    }
    if let Some(option) = &signs.server.refused {
        return Verdict::Refused { option: option.clone() };
    }
    if signs.server.busy {
        return Verdict::Busy;
    }
    if signs.server.rejected || signs.server.module_missing || signs.no_program {
        return Verdict::Config;
    }
    match code {
        5 if signs.server.cut_off => Verdict::TargetDown,
        1 | 4 | 5 | 126 | 127 => Verdict::Config,
        2 if signs.missing_args_unknown => Verdict::NoMissingArgs,
        // Where paths went away meanwhile, the numbers that both sides give them may differ.
        2 if signs.source_race || signs.vanished => Verdict::SourceRace,
        // The same where a file changed while it was read, and of a path that rsync stumbles at
        // time and again.
        2 if signs.failed => Verdict::Partial,
        2 => Verdict::Config,
        3 => Verdict::SourceRoot,
        11 | 12 if signs.target.full || signs.target.too_large => Verdict::TargetFull,
        10 | 11 | 12 | 35 | 255 => Verdict::TargetDown,
        // A message that is too long for rsync's buffer: a matter of the path that it is about.
        13 => Verdict::Partial,
        14 | 16 | 19 | 20 | 22 => Verdict::Killed,
        30 => Verdict::TimedOut,
        _ => Verdict::Unknown,
    }
}

fn end(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("rsync exit {code}"),
        Exit::Signal(signal) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("rsync killed by {signal}"),
            Err(_) => format!("rsync killed by signal {signal}"),
        },
    }
}

/// What failed, each path with its own words and the run's end.
fn failed(exit: Exit, output: &Output) -> Vec<Failed> {
    let end = end(exit);
    output.failed.iter().map(|f| Failed { words: format!("{} ({end})", f.words), ..f.clone() }).collect()
}

fn reason(exit: Exit, output: &Output) -> String {
    let end = end(exit);
    match (output.top_message(), output.begins_at()) {
        (Some(line), dir) if dir.is_root() => format!("{} ({end})", Shown(line)),
        // It may name a path relative to where the run began.
        (Some(line), dir) => format!("{} ({end}, in {dir})", Shown(line)),
        (None, _) => end,
    }
}

/// A reason without the run's end: a probe and a waiting process end otherwise for the same cause.
pub(crate) fn words(reason: &str) -> &str {
    match reason.rfind(" (rsync exit ") {
        Some(end) if reason.ends_with(')') => &reason[..end],
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::{Names, Stream};
    use super::*;
    use crate::location::Location;
    use std::path::Path;

    #[test]
    fn the_same_words_with_another_end_are_one_cause() {
        let gone = "Host key verification failed.";
        for (reason, want) in [
            ("Host key verification failed. (rsync exit 12)", gone),
            ("Host key verification failed. (rsync exit 255)", gone),
            ("Host key verification failed. (rsync exit 255, in a/b)", gone),
            ("rsync exit 12", "rsync exit 12"),
            (TARGET_MISSING, TARGET_MISSING),
            ("", ""),
        ] {
            assert_eq!(words(reason), want);
        }
    }

    const PLAIN: Context = Context { filters: false, delete: true, makes_target: false };
    const FILTERED: Context = Context { filters: true, delete: true, makes_target: false };

    fn judged(exit: Exit, stdout: &str, stderr: &str, context: Context) -> Outcome {
        let mut output = Output::new(Names::new(Path::new("/s"), &Location::Local("/t".into())));
        output.push(Stream::Stdout, stdout.as_bytes());
        output.push(Stream::Stderr, stderr.as_bytes());
        output.finish();
        classify(exit, &output, context)
    }

    #[test]
    fn what_helps_follows_from_what_is_wrong() {
        for (code, stderr, want) in [
            (11, "rsync: [receiver] write failed on \"/big\" (in m): No space left on device (28)\n", Trouble::Full),
            (11, "rsync: [receiver] write failed on \"/big\" (in m): Disk quota exceeded (122)\n", Trouble::Quota),
            (11, "rsync: [receiver] write failed on \"/big\" (in m): File too large (27)\n", Trouble::Away),
            (5, "@ERROR: Unknown module 'm'\n", Trouble::UnknownModule),
            (1, "ERROR: module is read only\n", Trouble::ReadOnlyModule),
            (5, "@ERROR: chdir failed\n", Trouble::ClosedModule),
            (5, "@ERROR: access denied to m from b (1.2.3.4)\n", Trouble::HostDenied),
            (5, "@ERROR: auth failed on module m\n", Trouble::AuthFailed),
            (5, "@ERROR: something else\n", Trouble::Away),
            (10, "rsync: [sender] failed to connect to h (192.0.2.1): Connection refused (111)\n", Trouble::Away),
            // The words of a path are not the server's.
            (11, "rsync: [receiver] write failed on \"/auth failed\" (in m): No space left on device (28)\n", Trouble::Full),
        ] {
            assert_eq!(judged(Exit::Code(code), "", stderr, Context::default()).cause, want, "{stderr}");
        }
        let missing = judged(Exit::Code(0), "created directory /t\n", "", Context::default());
        assert_eq!((missing.verdict, missing.cause), (Verdict::TargetMissing, Trouble::Missing));
    }

    /// Texts of rsync 3.5.0, from real runs, unless marked otherwise.
    #[test]
    fn every_code_and_text() {
        use Verdict::*;
        let refuse = "rsync: The server is configured to refuse --delete\nrsync error: requested action not supported (code 4) at clientserver.c(1267) [Receiver=3.5.0]\nrsync: [sender] read error: Connection reset by peer (104)\n";
        let limit = "Deletions stopped due to --max-delete limit (3 skipped)\n";
        for (name, code, stdout, stderr, context, want) in [
            ("done", 0, "<f+++++++++ a\n", "", PLAIN, Done),
            ("banner of a remote shell", 0, "", "Welcome to h\n", PLAIN, Done),
            ("kept directory", 0, "cannot delete non-empty directory: gone\n", "", PLAIN, Partial),
            ("kept for excluded content", 0, "cannot delete non-empty directory: gone\n", "", FILTERED, Done),
            ("refused missing args, unprivileged node", 0, "skipping non-regular file \"gone\"\n", "", PLAIN, Partial),
            ("skipped directory", 0, "skipping directory d\n", "", PLAIN, Partial),
            ("deletes skipped", 0, "IO error encountered -- skipping file deletion\n", "", FILTERED, Partial),
            ("limit of a daemon", 0, "*deleting   g1\n", limit, PLAIN, DeletesHeld),
            ("limit local", 25, "*deleting   g1\n", limit, PLAIN, DeletesHeld),
            ("limit and vanished", 24, "", limit, PLAIN, DeletesHeld),
            ("limit and failures", 23, "", limit, PLAIN, DeletesHeld),
            ("vanished", 24, "", "file has vanished: \"/s/gone\"\n", PLAIN, SourceRace),
            ("source removed under the run", 24, "", "file has vanished: \"/s/.\"\n", PLAIN, SourceRoot),
            ("source unreadable", 23, "", "rsync: [sender] opendir \"/s/.\" failed: Permission denied (13)\n", PLAIN, SourceRoot),
            (
                "top directory of another's",
                23,
                "",
                "rsync: [generator] failed to set times on \"/.\" (in m): Operation not permitted (1)\n",
                PLAIN,
                Partial,
            ),
            ("vanished, and a directory kept", 24, "cannot delete non-empty directory: g\n", "", PLAIN, Partial),
            (
                "unreadable",
                23,
                "",
                "rsync: [sender] send_files failed to open \"/s/x\": Permission denied (13)\n",
                PLAIN,
                Partial,
            ),
            (
                "race in the list",
                2,
                "",
                "ABORTING due to invalid path from sender: a/b\nrsync error: protocol incompatibility (code 2) at flist.c(1)\n",
                PLAIN,
                SourceRace,
            ),
            (
                "no missing args",
                2,
                "",
                "invalid file mode 00 for gone [Receiver]\nrsync error: protocol incompatibility (code 2) at flist.c(1206) [Receiver=3.5.0]\n",
                PLAIN,
                NoMissingArgs,
            ),
            (
                "numbers that differ while paths go away",
                2,
                "",
                "file has vanished: \"/s/gone\"\nFile-list index 5 not in 0 - -1\n",
                PLAIN,
                SourceRace,
            ),
            (
                "a file that became shorter while it was read",
                2,
                "",
                "rsync: [sender] read errors mapping \"/s/f\": No data available (61)\n",
                PLAIN,
                Partial,
            ),
            ("a message too long for rsync", 13, "", "", PLAIN, Partial),
            ("shell that talks", 2, "", "protocol version mismatch -- is your shell clean?\n", PLAIN, Config),
            (
                "source gone",
                3,
                "",
                "rsync: [sender] change_dir \"/s/\" failed: No such file or directory (2)\n",
                PLAIN,
                SourceRoot,
            ),
            (
                "target gone",
                3,
                "",
                "rsync: [Receiver] change_dir#3 \"/t/.\" failed: No such file or directory (2)\n",
                PLAIN,
                TargetMissing,
            ),
            (
                "a file in the place of a directory above the target",
                3,
                "",
                "rsync: [Receiver] ERROR: cannot stat destination \"/d/.\" (in t1): Not a directory (20)\n",
                PLAIN,
                TargetMissing,
            ),
            (
                "target gone",
                11,
                "",
                "rsync: [Receiver] mkdir \"/no/such/.\" (in m) failed: No such file or directory (2)\nrsync error: error in file IO (code 11) at main.c(808) [Receiver=3.5.0]\n",
                PLAIN,
                TargetMissing,
            ),
            (
                "target full",
                11,
                "<f+++++++++ big\n",
                "rsync: [receiver] write failed on \"/big\" (in small): No space left on device (28)\nrsync error: error in file IO (code 11) at receiver.c(657) [receiver=3.5.0]\n",
                PLAIN,
                TargetFull,
            ),
            (
                "larger than the target's filesystem allows",
                11,
                "",
                "rsync: [receiver] write failed on \"/big\": File too large (27)\nrsync error: error in file IO (code 11)\n",
                PLAIN,
                TargetFull,
            ),
            ("quota", 11, "", "rsync: [receiver] write failed on \"/big\": Disk quota exceeded (122)\n", PLAIN, TargetFull),
            (
                "target removed under a waiting process",
                23,
                "<f+++++++++ f\n",
                "rsync: [receiver] mkstemp \"/t/.f.vuJwHe\" failed: No such file or directory (2)\n",
                PLAIN,
                TargetMissing,
            ),
            (
                "a directory of the target removed during the run",
                23,
                "<f+++++++++ d/f\n",
                "rsync: [receiver] mkstemp \"/t/d/.f.vuJwHe\" failed: No such file or directory (2)\n",
                PLAIN,
                Partial,
            ),
            ("server killed at the greeting", 5, "", "rsync: didn't get server startup line\n", PLAIN, TargetDown),
            ("module's directory gone", 5, "", "@ERROR: chroot failed\n", PLAIN, Config),
            (
                "connection refused",
                10,
                "",
                "rsync: [sender] failed to connect to 127.0.0.1 (127.0.0.1): Connection refused (111)\n",
                PLAIN,
                TargetDown,
            ),
            (
                "connection lost",
                12,
                "",
                "rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n",
                PLAIN,
                TargetDown,
            ),
            ("ssh failed", 255, "", "ssh: connect to host 127.0.0.1 port 1: Connection refused\n", PLAIN, TargetDown),
            ("connect timed out", 35, "", "rsync error: timeout waiting for daemon connection (code 35)\n", PLAIN, TargetDown),
            (
                "silence",
                30,
                "",
                "[sender] io timeout after 3 seconds -- exiting\nrsync error: timeout in data send/receive (code 30)\n",
                PLAIN,
                TimedOut,
            ),
            ("unknown module", 5, "", "@ERROR: Unknown module 'zz'\n", PLAIN, Config),
            ("authentication", 5, "", "Password: @ERROR: auth failed on module auth\n", PLAIN, Config),
            (
                "not an rsync daemon",
                5,
                "",
                "rsync: server sent \"HTTP/1.1 400 Bad Request\" rather than greeting\n",
                PLAIN,
                Config,
            ),
            ("no connection free", 5, "", "@ERROR: max connections (1) reached -- try again later\n", PLAIN, Busy),
            (
                "read only",
                1,
                "",
                "ERROR: module is read only\nrsync error: syntax or usage error (code 1) at main.c(1185) [Receiver=3.5.0]\n",
                PLAIN,
                Config,
            ),
            ("read only, the reset seen first", 12, "", "ERROR: module is read only\n", PLAIN, Config),
            ("unknown option", 1, "", "rsync: --bogus: unknown option\n", PLAIN, Config),
            ("refused", 4, "", refuse, PLAIN, Refused { option: "--delete".into() }),
            ("refused, the reset seen first", 10, "", refuse, PLAIN, Refused { option: "--delete".into() }),
            ("pre-xfer exec", 4, "", "pre-xfer exec returned failure (256)\n", PLAIN, Config),
            ("no compression of that name", 4, "", "unknown compress name: foo\n", PLAIN, Config),
            ("no remote rsync", 127, "", "sh: /no/rsync: not found\n", PLAIN, Config),
            (
                "no remote shell",
                14,
                "",
                "rsync: [sender] Failed to exec /nonexistent: No such file or directory (2)\n",
                PLAIN,
                Config,
            ),
            ("pipe trouble", 14, "", "", PLAIN, Killed),
            ("terminated", 20, "", "rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20) at rsync.c(716)\n", PLAIN, Killed),
            ("out of memory", 22, "", "", PLAIN, Killed),
            ("no such code", 99, "", "", PLAIN, Unknown),
        ] {
            let outcome = judged(Exit::Code(code), stdout, stderr, context);
            assert_eq!(outcome.verdict, want, "{name}: {outcome:?}");
            assert_eq!(outcome.reason.is_empty(), want == Done, "{name}: {outcome:?}");
        }
        assert_eq!(judged(Exit::Signal(9), "", "", PLAIN).verdict, Killed);
    }

    #[test]
    fn the_reason_quotes_the_telling_line() {
        let reason = |code, stderr: &str| judged(Exit::Code(code), "", stderr, PLAIN).reason;
        assert_eq!(
            reason(
                255,
                "Host key verification failed.\nrsync: connection unexpectedly closed (0 bytes received so far) [sender]\nrsync error: unexplained error (code 255) at io.c(285)\n"
            ),
            "Host key verification failed. (rsync exit 255)"
        );
        assert_eq!(
            reason(
                11,
                "rsync: [generator] failed to set times on \"/.\": Operation not permitted (1)\nrsync: [receiver] write failed on \"/a\\#012b\": No space left on device (28)\nrsync error: error in file IO (code 11)\n"
            ),
            "rsync: [receiver] write failed on \"/a\\x0ab\": No space left on device (28) (rsync exit 11)"
        );
        assert_eq!(reason(12, ""), "rsync exit 12");
        assert_eq!(judged(Exit::Signal(9), "", "", PLAIN).reason, "rsync killed by SIGKILL");
    }

    #[test]
    fn failed_paths_are_told_unless_done() {
        let stdout = "cannot delete non-empty directory: gone\n";
        let failed = judged(Exit::Code(0), stdout, "", PLAIN).failed;
        assert_eq!(failed.len(), 1);
        assert_eq!(
            (&*failed[0].path, &*failed[0].words),
            (&b"gone"[..], "cannot delete non-empty directory: gone (rsync exit 0)")
        );
        assert_eq!(judged(Exit::Code(0), stdout, "", FILTERED).failed, []);
    }

    #[test]
    fn exit_0_confirms_nothing_beside_an_error_of_rsync() {
        for line in [
            "Unable to create partial-dir for a -- discarding completed file.\n",
            "rsync: [generator] failed to open \"/t/a\", continuing: Permission denied (13)\n",
        ] {
            assert_eq!(judged(Exit::Code(0), ">f+++++++++ a\n", line, PLAIN).verdict, Verdict::Partial, "{line}");
        }
    }
}
