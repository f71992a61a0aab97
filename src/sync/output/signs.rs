//! What decides a run's outcome, and the lines that say it.

use crate::sys::child::Stream;

/// What in the lines so far decides the outcome.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signs {
    /// A deletion stopped at the `--max-delete` limit.
    pub(crate) max_delete: bool,
    /// Deletions were skipped, because the source could not be read completely.
    pub(crate) deletes_skipped: bool,
    /// Something listed was not transferred although the exit code may be 0.
    pub(crate) skipped: bool,
    /// Something failed, whatever the exit code says: rsync ends with 0 after some of its own error
    /// messages.
    pub(crate) failed: bool,
    /// A path was gone when rsync came to it.
    pub(crate) vanished: bool,
    /// The receiver does not know missing arguments.
    pub(crate) missing_args_unknown: bool,
    /// The path list broke because the source changed while it was read.
    pub(crate) source_race: bool,
    /// The source's root could not be entered, or was not there any more.
    pub(crate) source_root: bool,
    /// A program could not be started.
    pub(crate) no_program: bool,
    /// No connection to the server came about.
    pub(crate) no_connection: bool,
    /// Something was not there (ENOENT).
    pub(crate) not_found: bool,
    /// What the target's filesystem does not allow, or lacks.
    pub(crate) target: TargetSigns,
    /// What an rsync daemon answered before anything was sent.
    pub(crate) server: ServerSigns,
}

/// What is wrong with the target's filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TargetSigns {
    /// ENOSPC or EDQUOT.
    pub(crate) full: bool,
    /// EDQUOT.
    pub(crate) quota: bool,
    /// A file is larger than the filesystem, or a limit of the receiver, allows.
    pub(crate) too_large: bool,
    /// Something failed because a filesystem is read-only.
    pub(crate) read_only: bool,
    /// The target's directory could not be entered; a dry run would have to make it.
    pub(crate) missing: bool,
    /// The directory to link or copy from is not there.
    pub(crate) no_basis: bool,
}

/// Why an rsync daemon takes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServerSigns {
    /// It has no free connection.
    pub(crate) busy: bool,
    /// It refuses this option (`--delete`).
    pub(crate) refused: Option<String>,
    /// It, or something before it, says no for good: unknown module, authentication, read only.
    pub(crate) rejected: bool,
    /// It knows no such module, or the module's directory is not there.
    pub(crate) module_missing: bool,
    /// It ended the connection before it had identified itself.
    pub(crate) cut_off: bool,
    /// The rsync there, daemon or not, does not know an option.
    pub(crate) unknown_option: bool,
    /// The connection ended without a word.
    pub(crate) hung_up: bool,
}

/// How much a message reveals about the reason of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    Nothing,
    Vague,
    Path,
    Decides,
}

/// A field of [`Signs`].
pub(super) type Sign = fn(&mut Signs) -> &mut bool;

/// How lines start that decide the outcome by themselves, and on which output, if on one only; the
/// first that fits counts.
pub(super) const DECISIVE: [(&[u8], Option<Stream>, Sign); 22] = [
    (b"IO error encountered -- skipping file deletion", None, |signs| &mut signs.deletes_skipped),
    (b"Deletions stopped due to --max-delete limit", None, |signs| &mut signs.max_delete),
    (b"invalid file mode 0", None, |signs| &mut signs.missing_args_unknown),
    (b"ABORTING due to invalid path from sender", None, |signs| &mut signs.source_race),
    // Of a run that lost count of its files, for whatever reason: a matter of what it carries.
    (b"File-list index ", None, |signs| &mut signs.source_race),
    (b"Invalid file index: ", None, |signs| &mut signs.source_race),
    (b"Invalid dir index: ", None, |signs| &mut signs.source_race),
    (b"@ERROR: max connections", None, |signs| &mut signs.server.busy),
    (b"@ERROR: Unknown module", None, |signs| &mut signs.server.module_missing),
    (b"@ERROR: chroot failed", None, |signs| &mut signs.server.module_missing),
    (b"@ERROR: chdir failed", None, |signs| &mut signs.server.module_missing),
    (b"@ERROR", None, |signs| &mut signs.server.rejected),
    (b"ERROR: module is read only", None, |signs| &mut signs.server.rejected),
    (b"ERROR: destination must be a directory", None, |signs| &mut signs.target.missing),
    (b"ERROR: cannot overwrite non-directory", None, |signs| &mut signs.target.missing),
    (b"rsync: server sent \"", None, |signs| &mut signs.server.rejected),
    (b"rsync: didn't get server startup line", None, |signs| &mut signs.server.cut_off),
    (b"rsync: did not see server greeting", None, |signs| &mut signs.server.cut_off),
    (b"pre-xfer exec returned failure", None, |signs| &mut signs.server.rejected),
    // A remote shell may greet with such a line, on the other output.
    (b"created directory ", Some(Stream::Stdout), |signs| &mut signs.target.missing),
    (b"--link-dest arg does not exist", None, |signs| &mut signs.target.no_basis),
    (b"--copy-dest arg does not exist", None, |signs| &mut signs.target.no_basis),
];
