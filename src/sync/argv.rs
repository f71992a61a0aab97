//! The command lines of every pass, and the environment they run in.
//!
//! Promises: what a pass may delete is decided here and nowhere else. With [`Spec::delete`] off no
//! argument vector holds an option that deletes, not even to make room. An excluded name on the
//! target is never deleted by a pass that has filters, also where an excluded name lies in a
//! directory that is gone.
//!
//! How filters and deletes meet (rsync 3.5.0, each case run against a module and a local path):
//!
//! - The receiver gets the filters only when `--delete` is given. `--delete-missing-args --force`
//!   alone removes a directory **with** its excluded content from a module, exit 0. So every pass
//!   with filters also says `--delete`, which does nothing to a list without one-level entries and
//!   without `-r`.
//! - A shallow list names exact paths, so its filters are given in their receiver-only form
//!   (`-r pattern`): they protect on the target and hide nothing that was listed.
//! - A missing path has no type any more, and rsync matches it as a file. Under `+ */`, `+ *.txt`,
//!   `- *` a directory that is gone is then "excluded", and stays for ever, exit 0. Excludes alone
//!   have no such trap. So where filters include or merge, deletions are not listed by name:
//!   [`Spec::deletions`] says [`Deletions::ByParent`], and the vectors carry
//!   `--ignore-missing-args`. The same form serves receivers that cannot delete missing arguments.
//!
//! Other options and their reasons: `--modify-window=-1` compares nanoseconds (else a rewrite of
//! the same size within one second is skipped); `--force` (else a directory that became a file, or
//! a missing one that is not empty, stays); `--confine-root` (else a parent that becomes a symbolic
//! link makes rsync read outside of the tree); `--timeout` bounds a silent peer, though not a run:
//! see [`super::run`]. `--info=stats1` adds the line with the bytes on the wire, at no measurable
//! cost.
//!
//! A password travels in the environment ([`super::password`]), not as `--password-file`: with
//! `--confine-root`, rsync 3.5.0 refuses to open a password file outside of the source
//! (`Too many levels of symbolic links`, exit 1).

mod rules;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use super::below::Below;
use super::dialect::Dialect;
use super::filelist::Form;
use super::probe::RsyncFacts;
use super::renames::{self, Renamed};
use crate::config::{self, Compress, Extras};
use crate::location::{Location, remote_shell, whole_seconds, with_option};
use crate::path::RelPath;
use crate::role::mark;
use crate::sys::priority::Priority;

pub(crate) use rules::{excludes_only, receiver_only};

/// What one rsync is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Exactly the listed paths; directories without their content. Missing ones are deleted where
    /// [`Spec::deletions`] is [`Deletions::ByName`].
    Shallow,
    /// A list with `./dir/` entries: as [`Pass::Shallow`], and each of these directories one level
    /// deep, with deletes.
    ShallowOneLevel,
    /// Everything below the listed directories, with deletes. Entries without trailing slash.
    Deep,
    /// The whole tree, with deletes, without a list.
    Full {
        /// Report progress with a total that is known from the first file on. Costs the file list
        /// of the whole tree in memory (about 100 bytes a file on both ends) and its scan before
        /// the first byte: 0.4 s for 200,000 cached files.
        progress: bool,
    },
    /// The content of one directory, to another name on the target, where it is linked from the old
    /// one ([`Spec::renamed`]).
    MovedTree,
    /// The listed directories of one directory with all below them, linked from another one of the
    /// target ([`Spec::renamed`]).
    MovedTrees,
    /// The listed files of one directory, linked from another one of the target
    /// ([`Spec::renamed`]).
    MovedFiles,
    /// The listed files of one directory, made block by block from what is like them there.
    LikeOthers,
    /// The listed names of one directory, removed from the target whatever the source has there
    /// ([`Spec::renamed`]).
    Clear,
    /// A dry run of a shallow batch that names nothing there is: is the target usable.
    Probe,
    /// Copies the target's role mark ([`crate::role::mark`]) into [`Spec::root`].
    Role,
}

/// What is done with files whose size and times are the same on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// They are taken for equal.
    Quick,
    /// They are sent (`--ignore-times`): without reading twice, but a copy must fit beside the old
    /// one.
    Resend,
    /// They are read on both sides and sent if they differ. For what was perhaps sent before.
    Checksum,
}

/// How a deletion is to be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletions {
    /// Nothing is ever deleted on this target.
    Never,
    /// List the missing path itself, in any pass with a list.
    ByName,
    /// List the nearest existing directory above it as a one-level entry (`./parent/`) in
    /// [`Pass::ShallowOneLevel`]. A missing path listed by name is ignored.
    ByParent,
}

impl Deletions {
    /// How a missing path is listed, so that it is deleted.
    pub(crate) fn listed(self, path: &RelPath) -> Option<(RelPath, Form)> {
        match self {
            Deletions::Never => None,
            Deletions::ByName => Some((path.clone(), Form::Plain)),
            Deletions::ByParent => Some((RelPath::from_normal(crate::path::parent(path).unwrap_or_default()), Form::OneLevel)),
        }
    }
}

/// Where a target is, and how it is reached.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its place.
    pub location: &'a Location,
    /// File with the password of a daemon's module; ignored for other targets. Read at each start
    /// of a run.
    pub password_file: Option<&'a Path>,
    /// The remote shell's command instead of `ssh` in batch mode. One that asks for a password
    /// blocks the run.
    pub ssh: Option<&'a str>,
    /// Path of rsync on the target, where it is not in its `PATH`.
    pub remote_rsync: Option<&'a str>,
    /// Compression on the wire.
    pub compress: Compress,
    /// How long the peer may stay silent. Whole seconds, rounded up, at least one.
    pub timeout: Duration,
    /// How long connecting may take. Whole seconds, rounded up, at least one.
    pub connect_timeout: Duration,
}

impl<'a> Peer<'a> {
    /// What the configuration says of `target`.
    pub(crate) fn of(target: &'a config::Target) -> Peer<'a> {
        Peer {
            location: &target.location,
            password_file: target.password_file.as_deref(),
            ssh: target.ssh.as_deref(),
            remote_rsync: target.rsync_path.as_deref(),
            compress: target.compress,
            timeout: target.timeout,
            connect_timeout: target.connect_timeout,
        }
    }

    /// The file with the password, where it is used.
    pub(crate) fn password_of_module(&self) -> Option<&'a Path> {
        self.password_file.filter(|_| self.location.is_daemon())
    }

    fn is_local(&self) -> bool {
        matches!(self.location, Location::Local(_))
    }

    /// The options that the kind of target needs.
    pub(crate) fn transport(&self) -> Vec<String> {
        match self.location {
            Location::Daemon { shell: false, .. } => {
                let seconds = whole_seconds(self.connect_timeout);
                vec!["--no-motd".into(), format!("--contimeout={seconds}"), "--sockopts=TCP_NODELAY".into()]
            }
            Location::Ssh { .. } | Location::Daemon { .. } => {
                // A daemon takes its arguments from the connection, never from a shell.
                let first = if self.location.is_daemon() { "--no-motd" } else { "-s" };
                let mut args = vec![first.into(), "-e".into(), remote_shell(self.ssh, self.connect_timeout)];
                args.extend(self.remote_rsync.map(|path| format!("--rsync-path={path}")));
                args
            }
            Location::Local(_) | Location::Feed { .. } => Vec::new(),
        }
    }

    /// The same for a run that may write nothing but what it fetches.
    fn transport_towards_us(&self) -> impl Iterator<Item = OsString> + use<> {
        let mut transport = self.transport();
        if let Some(shell) = transport.iter().position(|arg| arg == "-e").and_then(|at| transport.get_mut(at + 1)) {
            // Both would write elsewhere.
            for option in ["ControlMaster=no", "UpdateHostKeys=no"] {
                *shell = with_option(shell, option);
            }
        }
        transport.into_iter().map(OsString::from)
    }
}

/// One target as the command lines need it.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// The rsync to run.
    pub rsync: &'a Path,
    /// The source root, canonical: `--confine-root` fails everything below a path that holds a
    /// symbolic link.
    pub root: &'a Path,
    /// The source root held open, which the child inherits and reads from; `None`: it reads what
    /// `root` leads to when it gets there.
    pub source: Option<BorrowedFd<'a>>,
    /// The target.
    pub peer: Peer<'a>,
    /// Whether anything may be deleted on the target.
    pub delete: bool,
    /// At most so many entries are deleted; rsync stops there, in the middle of a directory
    /// perhaps.
    pub max_delete: Option<u64>,
    /// Larger files are left alone, on both sides.
    pub max_file_size: Option<u64>,
    /// What a comparison finds on the target alone stays there; what is listed by name is deleted.
    pub spare: bool,
    /// Nothing is changed, only listed.
    pub dry_run: bool,
    /// Whether the receiver can delete missing arguments; see [`super::probe`].
    pub missing_args: bool,
    /// Which options both sides know.
    pub dialect: Dialect,
    /// What is done with files whose size and times are the same.
    pub compare: Compare,
    /// What is carried over beside content, owner, mode and times.
    pub extras: Extras,
    /// What `rsync` can do.
    pub facts: &'a RsyncFacts,
    /// `--exclude=…`, `--include=…`, `--filter=…`, one argument each, in rsync's order (the first
    /// match decides).
    pub filter_args: &'a [OsString],
    /// What rsync may not delete on the target although no filter says so: receiver-only rules
    /// (`--filter=-r …`), and before them exceptions. For what is excluded by other means than
    /// rsync's patterns, see [`crate::filter`].
    pub guard_args: &'a [OsString],
    /// Further arguments, already checked against what a user may not set.
    pub extra: &'a [String],
    /// An absolute directory as the receiver names it, into which what is replaced or deleted goes
    /// (`--backup-dir`).
    pub backup: Option<&'a str>,
    /// From where to where, for the passes that need it.
    pub renamed: Option<&'a Renamed>,
    /// Below the root, for lists that begin there.
    pub below: Option<&'a Below>,
    /// What the process holds open for as long as it lives.
    pub lock: Option<BorrowedFd<'a>>,
    /// How it stands behind other processes.
    pub priority: Priority,
}

impl<'a> Spec<'a> {
    /// What `mirror` and `target` say, for runs that read below `root`; without filters, and
    /// nothing dry. It deletes where comparisons of this mirror do at any time.
    pub(crate) fn new(mirror: &'a config::Mirror, target: &'a config::Target, facts: &'a RsyncFacts, root: &'a Path) -> Spec<'a> {
        Spec {
            rsync: &mirror.rsync,
            root,
            source: None,
            peer: Peer::of(target),
            delete: mirror.delete == config::Delete::Always,
            max_delete: None,
            spare: false,
            max_file_size: mirror.max_file_size,
            dry_run: false,
            missing_args: true,
            dialect: facts.dialect,
            compare: Compare::Quick,
            extras: mirror.extras,
            facts,
            filter_args: &[],
            guard_args: &[],
            extra: &target.args,
            backup: None,
            renamed: None,
            below: None,
            lock: None,
            priority: Priority::default(),
        }
    }

    /// The guards in force: nothing needs them where nothing is deleted.
    fn guards(&self) -> &'a [OsString] {
        if self.dry_run || !self.delete { &[] } else { self.guard_args }
    }

    /// How deletions are to be listed for this target; see the module's documentation.
    pub fn deletions(&self) -> Deletions {
        if !self.delete {
            Deletions::Never
        } else if self.missing_args && excludes_only(self.filter_args) {
            Deletions::ByName
        } else {
            Deletions::ByParent
        }
    }
}

/// As `-i` does it, but without what a link leads to. With that, a line may be too long for rsync's
/// buffer, at which it gives up the whole run (exit 13, 3.5.0), and a name that holds an arrow
/// cannot be distinguished from the rest.
pub(crate) const ITEMS: &str = "--out-format=%i %n";

/// The argument vector of `pass`; the first element is the program. Every path is one argument, no
/// shell is involved.
pub(crate) fn argv(spec: &Spec<'_>, pass: Pass) -> Vec<OsString> {
    if let Some(renamed) = spec.renamed {
        return renames::argv(spec, renamed, pass);
    }
    if pass == Pass::Role {
        return fetch_role(spec);
    }
    let mut args = Args(vec![spec.rsync.as_os_str().to_owned()]);
    args.what_is_carried(spec, pass);
    args.deletions_and_bounds(spec, pass);
    args.comparison(spec, pass);
    args.confinement(spec, pass);
    args.filters(spec, pass);
    args.wire(spec, pass);
    args.add("--");
    args.ends(spec);
    args.0
}

impl Pass {
    /// Whether its paths come in a list.
    fn is_listed(self) -> bool {
        !matches!(self, Pass::Full { .. })
    }

    /// Whether it descends into directories, to any depth.
    fn is_recursive(self) -> bool {
        matches!(self, Pass::Deep | Pass::Full { .. })
    }
}

/// An argument vector in the making.
struct Args(Vec<OsString>);

impl Args {
    fn add(&mut self, arg: impl AsRef<OsStr>) {
        self.0.push(arg.as_ref().to_owned());
    }

    fn add_all<T: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = T>) {
        self.0.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
    }

    /// Attributes, kinds of entries, and whether the paths come in a list.
    fn what_is_carried(&mut self, spec: &Spec<'_>, pass: Pass) {
        self.add("-lptgoD");
        if pass.is_recursive() {
            self.add("-r");
        }
        // Every pass alike: one without them would undo what another did.
        if spec.extras.hard_links {
            self.add("-H");
        }
        self.add_all(attributes(spec.extras, spec.dialect));
        self.add("--numeric-ids");
        if pass.is_listed() {
            self.add_all(["--from0", "--files-from=-"]);
        }
    }

    /// What is deleted, at most how much of it, and which files are left alone.
    fn deletions_and_bounds(&mut self, spec: &Spec<'_>, pass: Pass) {
        if spec.delete {
            let protects = !spec.filter_args.is_empty() || !spec.guards().is_empty();
            // The probe says all that any pass will say, so that a server that refuses an option is
            // found out by it.
            let compares =
                pass.is_recursive() || protects || !spec.missing_args || matches!(pass, Pass::ShallowOneLevel | Pass::Probe);
            if compares && !spec.spare {
                self.add("--delete");
            }
            self.add("--force");
            if let Some(most) = spec.max_delete {
                self.add(format!("--max-delete={most}"));
            }
        }
        if let Some(most) = spec.max_file_size {
            self.add(format!("--max-size={most}"));
        }
        if spec.dry_run {
            self.add("-n");
        }
        if pass.is_listed() {
            let by_name = spec.deletions() == Deletions::ByName || (pass == Pass::Probe && spec.delete && spec.missing_args);
            self.add(if by_name { "--delete-missing-args" } else { "--ignore-missing-args" });
        }
    }

    /// When a file of the target counts as equal.
    fn comparison(&mut self, spec: &Spec<'_>, pass: Pass) {
        if spec.dialect.compares_nanoseconds() {
            self.add("--modify-window=-1");
        }
        match spec.compare {
            // With each comparison that a later pass may request: a server may refuse these, too.
            _ if pass == Pass::Probe => self.add_all(["--ignore-times", "--checksum"]),
            Compare::Quick => {}
            Compare::Resend => self.add("--ignore-times"),
            Compare::Checksum => self.add("--checksum"),
        }
    }

    /// Where the two sides may read and write.
    fn confinement(&mut self, spec: &Spec<'_>, pass: Pass) {
        if pass.is_listed() && spec.facts.confine_root {
            let mut confine = OsString::from("--confine-root=");
            confine.push(spec.root);
            self.add(confine);
        }
    }

    /// What is excluded, and what is protected from deletion.
    fn filters(&mut self, spec: &Spec<'_>, pass: Pass) {
        if pass != Pass::Probe {
            self.add_all(spec.guards());
        }
        match pass {
            Pass::Probe => self.add("-n"),
            Pass::Role | Pass::MovedTree | Pass::MovedTrees | Pass::MovedFiles | Pass::LikeOthers | Pass::Clear => {}
            Pass::Shallow => self.add_all(spec.filter_args.iter().map(|arg| receiver_only(arg))),
            Pass::ShallowOneLevel | Pass::Deep | Pass::Full { .. } => self.add_all(spec.filter_args),
        }
    }

    /// Compression, time-outs, messages and the way to the target; the user's own options come
    /// last.
    fn wire(&mut self, spec: &Spec<'_>, pass: Pass) {
        self.add_all(spec.dialect.compression(spec.peer.compress));
        self.add(format!("--timeout={}", whole_seconds(spec.peer.timeout)));
        self.add(ITEMS);
        match pass {
            // Without the whole list the total grows while the scan runs ahead, and the percentage
            // is of what was found so far.
            Pass::Full { progress: true } => self.add_all(["--no-inc-recursive", "--info=flist2,progress2,stats1"]),
            // Its total comes to light late; the wait for a scan before the first file would come
            // at once.
            Pass::Deep => self.add("--info=progress2,stats1"),
            _ => self.add("--info=stats1"),
        }
        if spec.below.is_some() && spec.peer.location.is_daemon() {
            self.add("-s"); // as for renames: nothing that reads line by line gets to see the directory's name
        }
        self.add_all(transport(spec));
        // Without a shell between the two sides it changes nothing, and rsync 3.5.0 refuses it
        // beside `-M`.
        let idle = |arg: &&String| spec.peer.is_local() && matches!(arg.as_str(), "-s" | "--secluded-args" | "--protect-args");
        self.add_all(spec.extra.iter().filter(|arg| !idle(arg)));
        self.add_all(backup_args(spec, spec.below.map(|below| &below.dir)));
    }

    /// The source and the destination.
    fn ends(&mut self, spec: &Spec<'_>) {
        match spec.below.map(|below| below.source.as_fd()).or(spec.source) {
            Some(fd) => self.add(format!("{}/", inherited(fd))),
            None => self.add(spec.root.join("")),
        }
        let dest = spec.below.map_or_else(|| spec.peer.location.dest(), |below| below.dest(spec.peer.location));
        self.add(destination(spec, dest));
    }
}

/// Where what is replaced or deleted goes. `dir`: where the run begins on the target, below its
/// root. rsync keeps a file under its path below the run's own destination, so that has to stand
/// before it. Each run has a directory of its own (3.5.0): in one for several, a later run replaces
/// what an earlier one kept.
pub(super) fn backup_args(spec: &Spec<'_>, dir: Option<&RelPath>) -> Vec<OsString> {
    let Some(base) = spec.backup else { return Vec::new() };
    let mut place = OsString::from(format!("--backup-dir={base}"));
    if let Some(dir) = dir.filter(|dir| !dir.is_root()) {
        place.push("/");
        place.push(OsStr::from_bytes(dir));
    }
    vec!["--backup".into(), place]
}

/// What rsync starts as the remote shell of a local receiver that [`is_served`]: the server, here.
const HERE: &str = "/bin/sh -c 'exec \"$@\"'";

/// Whether a local receiver is started as a program of its own, as it is behind a remote shell.
/// rsync makes its own local receiver by fork(2), which then has the options of the sender, and is
/// bound by it (all measured with 3.5.0):
///
/// - It is confined to the source, where no place of the target lies: with `--delay-updates` it
///   drops what it has received and ends with 0; with `--temp-dir`, `--fake-super` and
///   `--backup-dir` every file fails.
/// - Where it is given options of its own (`-M`) it reads all options once more, as a receiver. For
///   that one `--files-from=-` is a list to forward: it takes what its sender sends it for names,
///   and either side fails at some byte of it, from some 1,300 entries on. And whether lists come
///   in parts it finds out anew, unlike its sender.
fn is_served(spec: &Spec<'_>) -> bool {
    let confined = spec.facts.confine_root && (config::names_places(spec.extra) || spec.backup.is_some());
    let of_attributes = || attributes(spec.extras, spec.dialect).iter().any(|arg| arg.starts_with("-M"));
    spec.peer.is_local() && (confined || config::passes_options_on(spec.extra) || of_attributes())
}

/// The options that the way to the target needs.
pub(super) fn transport(spec: &Spec<'_>) -> Vec<OsString> {
    if !is_served(spec) {
        return spec.peer.transport().into_iter().map(OsString::from).collect();
    }
    let mut program = OsString::from("--rsync-path=");
    program.push(spec.rsync);
    // As to a local receiver: to find differences, the old copy would be read.
    vec!["-s".into(), "-e".into(), HERE.into(), program, "--whole-file".into()]
}

/// The destination argument, where `dest` is the place on the target.
pub(super) fn destination(spec: &Spec<'_>, dest: OsString) -> OsString {
    if !is_served(spec) {
        return dest;
    }
    // A server expands wildcards, in each component that has one.
    let mut out = b"localhost:".to_vec();
    for (at, name) in dest.as_bytes().split(|&b| b == b'/').enumerate() {
        out.extend((at > 0).then_some(b'/'));
        let wild = name.iter().any(|b| b"*?[".contains(b));
        name.iter().for_each(|b| {
            out.extend((wild && b"*?[]\\".contains(b)).then_some(b'\\'));
            out.push(*b);
        });
    }
    OsString::from_vec(out)
}

/// How a child names a descriptor that it inherits. The directory it reads is then the one that was
/// looked at, wherever it is moved meanwhile and whatever takes its place: rsync enters its source
/// when it has connected, which for a standby process may be much later than its start.
pub(super) fn inherited(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A plain copy of one small file, towards us.
fn fetch_role(spec: &Spec<'_>) -> Vec<OsString> {
    let mut args = vec![spec.rsync.as_os_str().to_owned(), format!("--timeout={}", whole_seconds(spec.peer.timeout)).into()];
    // Larger files are none of ours, and are not even begun; one that says a smaller size than it
    // has is ended by the limit of the process.
    args.push(format!("--max-size={}", mark::MAX_BYTES).into());
    args.extend(spec.peer.transport_towards_us());
    args.push("--".into());
    args.push(spec.peer.location.dest_below(mark::FILE.as_bytes()));
    // Where another user has no way to the directory, the descriptor is one.
    args.push(spec.source.map_or_else(|| spec.root.join("").into(), |dir| format!("{}/", inherited(dir)).into()));
    args
}

/// A comparison of the owner and the mode that one file has on the target, beside those of the same
/// file in a directory here. Changes nothing on either side, and says nothing where they are the
/// same.
pub(crate) fn compare_owner(spec: &Spec<'_>, path: &str, here: &Path) -> Vec<OsString> {
    let mut args = vec![spec.rsync.as_os_str().to_owned(), format!("--timeout={}", whole_seconds(spec.peer.timeout)).into()];
    args.extend(["-n", "-i", "-ptog", "--numeric-ids", "--size-only"].map(OsString::from));
    args.extend(spec.peer.transport_towards_us());
    args.extend(["--".into(), spec.peer.location.dest_below(path.as_bytes()), here.join("").into()]);
    args
}

/// The names of attributes that are none of the file's own: XFS shows root each ACL a second time,
/// as `trusted.SGI_ACL_FILE` or `trusted.SGI_ACL_DEFAULT` (Linux, fs/xfs/xfs_xattr.c), and `-X`
/// would remove with it, as a name that the source has not, the ACL that `-A` has just set. Rules
/// for attributes take the place of rsync's own, which leave out `system.` (rsync(1), FILTER RULES,
/// modifier x). The other side needs them too, and has no list of rules in a run without deletions.
const NO_ATTRIBUTES: [&str; 4] =
    ["--filter=-x system.*", "--filter=-x trusted.SGI_ACL_*", "-M--filter=-x system.*", "-M--filter=-x trusted.SGI_ACL_*"];

/// What a mirror carries beside content, owner, mode, times and links, as options of each of its
/// runs.
pub(crate) fn attributes(extras: Extras, dialect: Dialect) -> Vec<&'static str> {
    let Extras { hard_links: _, xattrs, acls, sparse } = extras;
    let options = [("-X", xattrs), ("-A", acls), ("-S", sparse)].into_iter().filter(|(_, wanted)| *wanted);
    let rules = NO_ATTRIBUTES.iter().copied().filter(|_| xattrs && dialect.filters_attributes());
    options.map(|(option, _)| option).chain(rules).collect()
}

/// The environment of every child, from the daemon's own (`vars`): what finding programs and keys
/// needs, and nothing that changes rsync's behaviour or language.
///
/// `RSYNC_PASSWORD` is set to nothing: without any password rsync asks on the terminal it was
/// started from, and a child in a background process group is then stopped. With it, the module
/// answers `auth failed`. [`super::password::with_password`] replaces it.
pub fn environment(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    const KEPT: [&str; 7] = ["PATH", "HOME", "SSH_AUTH_SOCK", "USER", "LOGNAME", "TMPDIR", "KRB5CCNAME"];
    let mut out: Vec<_> = vars.into_iter().filter(|(name, _)| KEPT.iter().any(|kept| name == kept)).collect();
    if !out.iter().any(|(name, _)| name == "PATH") {
        out.push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
    }
    out.push(("LC_ALL".into(), "C".into()));
    out.push(("RSYNC_PASSWORD".into(), OsString::new()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon() -> Location {
        Location::Daemon { shell: false, user: None, host: "h".into(), port: Some(1873), module: "m".into(), path: String::new() }
    }

    fn spec<'a>(location: &'a Location, facts: &'a RsyncFacts) -> Spec<'a> {
        Spec {
            rsync: Path::new("rsync"),
            root: Path::new("/data"),
            source: None,
            peer: Peer {
                location,
                password_file: None,
                ssh: None,
                remote_rsync: None,
                compress: Compress::None,
                timeout: Duration::from_secs(60),
                connect_timeout: Duration::from_millis(9500),
            },
            delete: true,
            max_delete: None,
            spare: false,
            max_file_size: None,
            dry_run: false,
            missing_args: true,
            dialect: Dialect::Current,
            compare: Compare::Quick,
            extras: Extras::default(),
            facts,
            filter_args: &[],
            guard_args: &[],
            extra: &[],
            backup: None,
            renamed: None,
            below: None,
            lock: None,
            priority: Priority::default(),
        }
    }

    fn line(spec: &Spec<'_>, pass: Pass) -> String {
        argv(spec, pass).iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    const NET: &str = "--no-motd --contimeout=10 --sockopts=TCP_NODELAY";

    #[test]
    fn passes_to_a_module() {
        let (location, facts) = (daemon(), RsyncFacts { confine_root: true, ..RsyncFacts::default() });
        let spec = spec(&location, &facts);
        let list = "--numeric-ids --from0 --files-from=-";
        let end = format!("{NET} -- /data/ rsync://h:1873/m/.");
        let tail = "--modify-window=-1 --confine-root=/data --timeout=60 --out-format=%i %n --info=stats1";
        for (pass, want) in [
            (Pass::Shallow, format!("rsync -lptgoD {list} --force --delete-missing-args {tail} {end}")),
            (Pass::ShallowOneLevel, format!("rsync -lptgoD {list} --delete --force --delete-missing-args {tail} {end}")),
            (
                Pass::Deep,
                format!(
                    "rsync -lptgoD -r {list} --delete --force --delete-missing-args --modify-window=-1 --confine-root=/data \
                     --timeout=60 --out-format=%i %n --info=progress2,stats1 {end}"
                ),
            ),
            (
                Pass::Full { progress: false },
                format!(
                    "rsync -lptgoD -r --numeric-ids --delete --force --modify-window=-1 --timeout=60 --out-format=%i %n --info=stats1 {end}"
                ),
            ),
            (
                Pass::Probe,
                format!(
                    "rsync -lptgoD {list} --delete --force --delete-missing-args --modify-window=-1 --ignore-times --checksum --confine-root=/data -n \
                     --timeout=60 --out-format=%i %n --info=stats1 {end}"
                ),
            ),
        ] {
            assert_eq!(line(&spec, pass), want, "{pass:?}");
        }
        assert!(line(&spec, Pass::Full { progress: true }).contains("--no-inc-recursive --info=flist2,progress2,stats1"));
    }

    /// Whatever the options: a local receiver with some of its own is a program of its own.
    #[test]
    fn a_local_receiver_with_options_of_its_own_is_started_as_a_server() {
        let location = Location::Local("/t".into());
        let (mut with, args) = (0, [[].as_slice(), &["-M--fake-super".into()], &["--delay-updates".into()]]);
        for bits in 0..32_u32 {
            let on = |bit: u32| bits & 1 << bit != 0;
            let facts = RsyncFacts { confine_root: on(0), ..RsyncFacts::default() };
            let extras = Extras { xattrs: on(1), acls: on(2), sparse: on(3), hard_links: on(4) };
            for (extra, backup) in args.iter().flat_map(|extra| [(extra, None), (extra, Some("/old/1"))]) {
                let spec = Spec { extras, extra, backup, ..spec(&location, &facts) };
                for pass in [Pass::Shallow, Pass::Deep, Pass::Full { progress: false }, Pass::Full { progress: true }] {
                    let args = argv(&spec, pass);
                    let own = args.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"-M"));
                    let served = args.last().unwrap() == "localhost:/t/.";
                    assert_eq!(args.iter().any(|arg| arg == HERE), served, "{args:?}");
                    assert!(served || !own, "{pass:?}: {args:?}");
                    with += usize::from(own);
                }
            }
        }
        assert!(with > 400, "{with}");
    }

    #[test]
    fn a_local_receiver_is_not_confined_to_the_source() {
        let facts = RsyncFacts { confine_root: true, ..RsyncFacts::default() };
        let (local, module) = (Location::Local("/t".into()), daemon());
        let (places, none) = (["--delay-updates".to_string()], ["--fsync".to_string()]);
        for (location, extra, want) in
            [(&local, &places[..], true), (&local, &none, false), (&local, &[], false), (&module, &places, false)]
        {
            for pass in [Pass::Shallow, Pass::ShallowOneLevel, Pass::Deep, Pass::Probe] {
                let line = line(&Spec { extra, ..spec(location, &facts) }, pass);
                assert!(line.contains(" --confine-root=/data "), "{line}");
                assert_eq!(line.contains(" --rsync-path=rsync --whole-file "), want, "{line}");
            }
        }
    }

    #[test]
    fn what_a_server_would_expand_is_escaped() {
        let facts = RsyncFacts { confine_root: true, ..RsyncFacts::default() };
        for (path, want) in [
            ("/t", "localhost:/t/."),
            ("/a b/c\\d", "localhost:/a b/c\\d/."),
            ("/x[1]/*\\?y", "localhost:/x\\[1\\]/\\*\\\\\\?y/."),
        ] {
            let location = Location::Local(path.into());
            let spec = Spec { backup: Some("/old/1"), ..spec(&location, &facts) };
            assert_eq!(argv(&spec, Pass::Shallow).last().unwrap(), want);
            assert_eq!(destination(&Spec { backup: None, ..spec }, path.into()), path, "without a server it is as it is");
        }
    }

    #[test]
    fn what_is_replaced_goes_aside_under_its_whole_path() {
        let facts = RsyncFacts { confine_root: true, ..RsyncFacts::default() };
        let (local, module) = (Location::Local("/t".into()), daemon());
        for (location, end) in [(&local, "localhost:/t/."), (&module, "rsync://h:1873/m/.")] {
            let spec = Spec { backup: Some("/old/2026-01-02/1"), ..spec(location, &facts) };
            for pass in [Pass::Shallow, Pass::ShallowOneLevel, Pass::Deep, Pass::Full { progress: false }, Pass::Probe] {
                let line = line(&spec, pass);
                assert!(line.contains(" --backup --backup-dir=/old/2026-01-02/1 -- "), "{pass:?}: {line}");
                assert!(line.ends_with(end), "{line}");
            }
            let dir = RelPath::from_normal("a/b");
            assert_eq!(backup_args(&spec, Some(&dir)), ["--backup", "--backup-dir=/old/2026-01-02/1/a/b"]);
            assert_eq!(backup_args(&spec, Some(&RelPath::root())), ["--backup", "--backup-dir=/old/2026-01-02/1"]);
        }
    }

    #[test]
    fn bounded_and_dry() {
        let (location, facts) = (daemon(), RsyncFacts::default());
        let spec = Spec { max_delete: Some(7), dry_run: true, ..spec(&location, &facts) };
        for pass in [Pass::Shallow, Pass::ShallowOneLevel, Pass::Deep, Pass::Full { progress: true }] {
            assert!(line(&spec, pass).contains("--force --max-delete=7 -n "), "{pass:?}");
        }
        assert!(!line(&Spec { delete: false, ..spec }, Pass::Deep).contains("max-delete"));
        let bounded = Spec { max_file_size: Some(1 << 30), ..spec };
        assert!(
            [Pass::Shallow, Pass::Deep, Pass::Full { progress: true }]
                .iter()
                .all(|pass| line(&bounded, *pass).contains("--max-size=1073741824 "))
        );
        // What only the target has stays; what is listed goes.
        let spare = Spec { spare: true, max_delete: None, dry_run: false, ..spec };
        for pass in [Pass::ShallowOneLevel, Pass::Deep] {
            let line = line(&spare, pass);
            assert!(!line.contains("--delete ") && line.contains("--delete-missing-args"), "{pass:?}: {line}");
        }
    }

    #[test]
    fn without_delete_nothing_deletes() {
        let (location, facts) = (Location::Local("/t".into()), RsyncFacts::default());
        let filters = ["--exclude=*.o".into()];
        let spec = Spec { delete: false, filter_args: &filters, ..spec(&location, &facts) };
        for pass in [Pass::Shallow, Pass::ShallowOneLevel, Pass::Deep, Pass::Full { progress: true }, Pass::Probe] {
            let line = line(&spec, pass);
            assert!(!line.contains("--delete") && !line.contains("--force"), "{pass:?}: {line}");
            assert_eq!(line.contains("--ignore-missing-args"), !matches!(pass, Pass::Full { .. }), "{pass:?}: {line}");
        }
        assert_eq!(spec.deletions(), Deletions::Never);
    }

    #[test]
    fn deletions_by_name_only_where_the_filters_allow_it() {
        let (location, facts) = (Location::Local("/t".into()), RsyncFacts::default());
        for (filters, missing_args, want) in [
            (&[][..], true, Deletions::ByName),
            (&[], false, Deletions::ByParent),
            (&["--exclude=*.o", "--filter=- /x/"], true, Deletions::ByName),
            (&["--include=*/", "--exclude=*"], true, Deletions::ByParent),
            (&["--exclude=+ a", "--exclude=*"], true, Deletions::ByParent),
            (&["--filter=: .rsync-filter"], true, Deletions::ByParent),
        ] {
            let filters: Vec<OsString> = filters.iter().map(OsString::from).collect();
            let spec = Spec { filter_args: &filters, missing_args, ..spec(&location, &facts) };
            assert_eq!(spec.deletions(), want, "{filters:?}");
            for pass in [Pass::Shallow, Pass::ShallowOneLevel, Pass::Deep] {
                let line = line(&spec, pass);
                assert_eq!(line.contains("--delete-missing-args"), want == Deletions::ByName, "{line}");
                let needs_delete = !filters.is_empty() || !missing_args || pass != Pass::Shallow;
                assert_eq!(line.contains("--delete "), needs_delete, "{line}");
            }
        }
    }

    #[test]
    fn remote_shell_goes_where_it_is_legal_and_a_password_file_nowhere() {
        let facts = RsyncFacts::default();
        let ssh = Location::Ssh { user: None, host: "h".into(), path: "/srv".into() };
        let password_file = Some(Path::new("/etc/pass"));
        let plain = spec(&ssh, &facts);
        let over_ssh = Spec { peer: Peer { password_file, remote_rsync: Some("/opt/rsync"), ..plain.peer }, ..plain };
        let args = argv(&over_ssh, Pass::Shallow);
        let at = args.iter().position(|arg| arg == "-e").unwrap();
        assert_eq!(args[at + 1], "ssh -o BatchMode=yes -o ConnectTimeout=10");
        assert_eq!(args[at + 2], "--rsync-path=/opt/rsync");
        assert!(!line(&over_ssh, Pass::Shallow).contains("password"));
        let behind = Location::parse("u@h::m").unwrap().through_shell();
        let args = line(&Spec { peer: Peer { location: &behind, ..over_ssh.peer }, ..over_ssh }, Pass::Shallow);
        let way = "--no-motd -e ssh -o BatchMode=yes -o ConnectTimeout=10 --rsync-path=/opt/rsync -- /data/ rsync://u@h/m/.";
        assert!(args.ends_with(way) && !args.contains("--contimeout"), "{args}");
        let location = daemon();
        let plain = spec(&location, &facts);
        let to_module = Spec { peer: Peer { password_file, compress: Compress::Zstd, ..plain.peer }, ..plain };
        let line = line(&to_module, Pass::Deep);
        assert!(line.contains("-z --compress-choice=zstd") && !line.contains("pass"), "{line}");
        assert!(!line.contains("--confine-root"), "not requested where rsync does not know it: {line}");
    }

    #[test]
    fn environment_is_cleaned() {
        let vars = [("LANG", "de_DE"), ("RSYNC_RSH", "x"), ("RSYNC_PASSWORD", "s"), ("HOME", "/root"), ("LC_ALL", "de")];
        let env = environment(vars.map(|(name, value)| (name.into(), value.into())));
        let get = |name: &str| env.iter().filter(|(n, _)| n == name).map(|(_, v)| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(get("LC_ALL"), ["C"]);
        assert_eq!(get("RSYNC_PASSWORD"), [""]);
        assert_eq!(get("HOME"), ["/root"]);
        assert_eq!(get("PATH").len(), 1);
        assert_eq!(env.len(), 4);
    }
}
