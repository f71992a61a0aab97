//! Child processes that are watched through descriptors.
//!
//! Promises: nothing of a child outlives its [`Child`] value: dropping it kills what still runs in
//! its process group and reaps it. Should this process be killed, or the thread that started the
//! child end, the child gets a signal: rsync SIGKILL, others SIGTERM. A list is given to a waiting
//! child whole, or the child is killed: rsync would carry out a list that is cut off.
//!
//! No rsync gets SIGTERM, SIGINT or SIGHUP. Its handler works on the buffers of its connection that
//! it has interrupted, and the receiver may put the content of one file under the name of another,
//! with the right size and times: after 7 of 250 runs that were ended so, and after none of 250
//! that were killed (rsync 3.5.0, 1,000 small files to a module). A connection that is cut off
//! confirms no file that did not arrive whole.
//!
//! How: the child leads a process group of its own, so that a signal reaches the remote shell and
//! the local receiver too. It is signalled only before it is reaped, when its group cannot yet
//! belong to another. Its end is read from a pidfd (on kernels before 5.3 from an eventfd that a
//! thread sets which waits for it), its outputs from non-blocking pipes. Every
//! descriptor is close-on-exec, so no child holds the pipe of another open.
//!
//! Gives up: a process that leaves the group on purpose (the master connection of a remote shell)
//! is not followed. It may keep the output pipes open, which is why their end is no condition for
//! anything once the child is gone.

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ::caps::{Capability, CapsHashSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{self, Pid};
use thiserror::Error;

mod proc;

use super::caps::{self, Caps};
use super::landlock::{self, Ruleset};
use super::pipe;
use super::priority::Priority;
pub(crate) use proc::{OpenFile, WaitsOn, Work};
pub use proc::{cpu_ticks, io_bytes};

/// How long a drop waits for a killed child before it leaves the waiting to a thread: one stuck in
/// the kernel (a dead network filesystem) ends when that does.
const REAP_PATIENCE: Duration = Duration::from_millis(200);

/// How long the rest of a group that was cut off may take to end by itself.
const CUT_PATIENCE: Duration = Duration::from_millis(50);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Which of a child's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// What a child reads.
#[derive(Debug)]
pub(crate) enum Stdin {
    /// Nothing.
    Null,
    /// A file, from its current position.
    File(File),
    /// One list, later, by [`Child::feed`]; through a pipe that should hold this many bytes.
    Later(usize),
}

/// What a child may do at most, besides its capabilities.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits<'a> {
    /// It leaves no image of its memory when it crashes: a password may be in it.
    pub no_core: bool,
    /// Bytes of each file that it writes.
    pub file_bytes: Option<u64>,
    /// Whom it becomes, without further groups; only for a child with a set of capabilities.
    pub user: Option<User>,
    /// What it writes at most; the same.
    pub writes: Option<&'a Ruleset>,
    /// How it stands behind other processes.
    pub priority: Priority,
}

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    /// The user.
    pub(crate) uid: u32,
    /// The group.
    pub(crate) gid: u32,
}

/// What programs are started with, whatever our own is: under the unit that is 077, for the files
/// that fansync itself makes, and what rsync and hooks make is as it would be without.
const USUAL_UMASK: libc::mode_t = 0o022;

/// Starts a program of [`Command`] as children of this module are started: with the usual umask.
pub(crate) fn as_usual(command: &mut Command) -> &mut Command {
    let set = || {
        umask(Mode::from_bits_truncate(USUAL_UMASK));
        Ok(())
    };
    // SAFETY: the closure makes one bare system call between fork and exec, umask(2), which is
    // async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(set) }
}

impl Limits<'_> {
    /// Between fork and exec: bare system calls.
    fn set(self) -> nix::Result<()> {
        umask(Mode::from_bits_truncate(USUAL_UMASK));
        self.priority.set();
        if self.no_core {
            no_core_dumps()?;
        }
        match self.file_bytes {
            Some(bytes) => setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes),
            None => Ok(()),
        }
    }
}

/// From now on this process leaves no image of its memory when it crashes, whatever takes images,
/// and what it starts leaves none in a file or pipe; no other process of its user looks into it,
/// without CAP_SYS_PTRACE.
///
/// To itself /proc/self stays open, also an ordinary user's. What lies below /proc/PID belongs to
/// root then.
///
/// # Errors
/// prctl(2), setrlimit(2).
pub fn no_image() -> nix::Result<()> {
    // The limit does not count where images go to a socket (Linux 6.16), and a program that is
    // started anew can be dumped again.
    nix::sys::prctl::set_dumpable(false)?;
    no_core_dumps()
}

/// From now on this process, and what it starts, leaves no image of its memory when it crashes, in
/// a file or by a pipe.
///
/// # Errors
/// setrlimit(2).
fn no_core_dumps() -> nix::Result<()> {
    // core(5), fs/coredump.c (Linux 6.18): to a file nothing shorter than a page is written; and
    // where a program takes the image, which 0 would not keep from it, 1 does.
    setrlimit(Resource::RLIMIT_CORE, 1, 1)
}

/// Why a child could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The program: not found, not executable, no memory, no process.
    #[error("cannot run {program:?}: is it installed and executable?")]
    Program {
        /// As given.
        program: OsString,
        /// From execve(2) or fork(2).
        #[source]
        source: io::Error,
    },
    /// A pipe or a pidfd: too many open files, most likely.
    #[error("cannot make the descriptors for {program:?}: raise the limit of open files")]
    Descriptors {
        /// As given.
        program: OsString,
        /// From pipe2(2), fcntl(2), pidfd_open(2).
        #[source]
        source: io::Error,
    },
}

/// Why a list could not be given. The child is killed.
#[derive(Debug, Error)]
pub enum FeedError {
    /// It was started without [`Stdin::Later`], or is fed already.
    #[error("the child does not wait for a list")]
    NotWaiting,
    /// The list is longer than the pipe; ask [`Child::capacity`] before.
    #[error("the list of {len} bytes does not fit into the pipe of {capacity}")]
    TooLong {
        /// Bytes of the list.
        len: usize,
        /// Bytes the pipe holds.
        capacity: usize,
    },
    /// The child is gone, or a part of the list was not taken.
    #[error("cannot write the list to the waiting child: it is gone, start another")]
    Write(#[source] io::Error),
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Child {
    process: Option<std::process::Child>,
    pid: Pid,
    pidfd: OwnedFd,
    outputs: [Option<OwnedFd>; 2],
    stdin: Option<Feed>,
    exit: Option<Exit>,
    /// See [`Child::cut`].
    cut: bool,
    output_bytes: u64,
}

#[derive(Debug)]
struct Feed {
    pipe: OwnedFd,
    capacity: usize,
}

impl Stdin {
    /// What the child reads from, and our end of it where its list comes later.
    fn open(self) -> io::Result<(Stdio, Option<Feed>)> {
        Ok(match self {
            Stdin::Null => (Stdio::null(), None),
            Stdin::File(file) => (Stdio::from(file), None),
            Stdin::Later(wish) => {
                let (rx, tx) = pipe::pipe()?;
                pipe::set_nonblocking(&tx)?;
                let capacity = pipe::ask_capacity(&tx, wish)?;
                (Stdio::from(rx), Some(Feed { pipe: tx, capacity }))
            }
        })
    }
}

/// What a forked child does to itself before it executes its program. All that allocates is done
/// here before the fork.
struct ExecSetup {
    /// Open in the child under the same numbers.
    inherit: Vec<RawFd>,
    confinement: Option<Confinement>,
    limits: Limits<'static>,
    orphaned: Signal,
    parent: Pid,
}

/// The bounds of a child that is started with a set of capabilities.
struct Confinement {
    surplus: Vec<Capability>,
    /// Whom it becomes, and with which capabilities.
    user: Option<(User, CapsHashSet)>,
    ruleset: Option<RawFd>,
}

impl ExecSetup {
    fn new(caps: Option<Caps>, limits: Limits<'_>, inherit: &[BorrowedFd<'_>], orphaned: Signal) -> ExecSetup {
        let confinement = caps.map(|keep| Confinement {
            surplus: caps::surplus(keep),
            user: limits.user.map(|user| (user, caps::permitted(keep))),
            ruleset: limits.writes.map(Ruleset::number),
        });
        let inherit = inherit.iter().map(AsRawFd::as_raw_fd).collect();
        ExecSetup { inherit, confinement, limits: Limits { writes: None, ..limits }, orphaned, parent: unistd::getpid() }
    }

    /// Between fork and exec: bare system calls, no allocation, no lock.
    fn apply(&self) -> io::Result<()> {
        for &fd in &self.inherit {
            // SAFETY: fcntl(2) with F_SETFD takes no pointer; the number is of a descriptor that
            // the caller of [`Child::spawn_with`] lends until the child is started, so it is open
            // in the forked child.
            if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
                return Err(Errno::last().into());
            }
        }
        if let Some(confinement) = &self.confinement {
            confinement.enter()?;
        }
        self.limits.set()?;
        // prctl(2): the signal comes when the thread that forked ends, and that thread lives as
        // long as its mirror.
        nix::sys::prctl::set_pdeathsig(self.orphaned)?;
        // It may have ended before.
        if unistd::getppid() != self.parent { Err(Errno::ESRCH.into()) } else { Ok(()) }
    }
}

impl Confinement {
    fn enter(&self) -> io::Result<()> {
        caps::give_up(&self.surplus);
        if let Some((user, keep)) = &self.user {
            caps::become_user(user.uid, user.gid, keep)?;
        }
        nix::sys::prctl::set_no_new_privs()?;
        if let Some(ruleset) = self.ruleset {
            landlock::hold_to(ruleset)?;
        }
        Ok(())
    }
}

impl Child {
    /// Starts `argv` (the first element is the program, looked up in the `PATH` of `env`) with
    /// exactly the environment `env`, in `/`.
    ///
    /// # Errors
    /// See [`SpawnError`].
    ///
    /// # Panics
    /// When `argv` is empty.
    pub(crate) fn spawn(argv: &[OsString], env: &[(OsString, OsString)], stdin: Stdin) -> Result<Child, SpawnError> {
        Child::start(argv, env, stdin, None, Limits::default(), &[], Signal::SIGTERM)
    }

    /// The same for rsync, with these capabilities at most, and without a way to more
    /// (`no_new_privs`). `inherit`: descriptors that the child has open under the same numbers, as
    /// `/proc/self/fd/N`. (Ours, `/proc/PID/fd/N`, it may not look at with fewer capabilities.)
    ///
    /// # Errors
    /// See [`SpawnError`].
    ///
    /// # Panics
    /// When `argv` is empty.
    pub(crate) fn spawn_with(
        argv: &[OsString],
        env: &[(OsString, OsString)],
        stdin: Stdin,
        caps: Option<Caps>,
        limits: Limits<'_>,
        inherit: &[BorrowedFd<'_>],
    ) -> Result<Child, SpawnError> {
        Child::start(argv, env, stdin, caps, limits, inherit, Signal::SIGKILL)
    }

    /// `orphaned`: the signal that it gets when we end before it.
    fn start(
        argv: &[OsString],
        env: &[(OsString, OsString)],
        stdin: Stdin,
        caps: Option<Caps>,
        limits: Limits<'_>,
        inherit: &[BorrowedFd<'_>],
        orphaned: Signal,
    ) -> Result<Child, SpawnError> {
        let program = &argv[0];
        let descriptors = |source: io::Error| SpawnError::Descriptors { program: program.clone(), source };
        let (stdout, child_stdout) = output_pipe().map_err(descriptors)?;
        let (stderr, child_stderr) = output_pipe().map_err(descriptors)?;
        let (child_stdin, feed) = stdin.open().map_err(descriptors)?;
        let mut command = Command::new(program);
        command.args(&argv[1..]).env_clear().envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(child_stdin).stdout(child_stdout).stderr(child_stderr);
        // No working directory of ours is pinned by it.
        command.current_dir("/").process_group(0);
        let setup = ExecSetup::new(caps, limits, inherit, orphaned);
        // A run that outlives a killed daemon would put what it read back over what the next daemon
        // sends. The price is fork(2) in place of posix_spawn(3), which copies the page tables of a
        // large daemon: some milliseconds at 300 MiB. SAFETY: between fork and exec, in a child of
        // a process with threads, only async-signal-safe calls are allowed: the closure makes bare
        // system calls, allocates nothing (an errno becomes an `io::Error` without), and takes no
        // lock.
        unsafe { command.pre_exec(move || setup.apply()) };
        let process = command.spawn().map_err(|source| SpawnError::Program { program: program.clone(), source })?;
        // The ends that the child has inherited.
        drop(command);
        let pid = Pid::from_raw(process.id() as i32);
        let pidfd = match end_of(process.id()) {
            Ok(pidfd) => pidfd,
            Err(source) => {
                let mut process = process;
                let _ = killpg(pid, Signal::SIGKILL);
                let _ = process.wait();
                return Err(descriptors(source));
            }
        };
        Ok(Child {
            process: Some(process),
            pid,
            pidfd,
            outputs: [Some(stdout), Some(stderr)],
            stdin: feed,
            exit: None,
            cut: false,
            output_bytes: 0,
        })
    }

    /// Its process id; also that of its group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// Readable once the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// An output to wait on; `None` once it came to its end.
    pub(crate) fn output(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.outputs[stream as usize].as_ref().map(AsFd::as_fd)
    }

    /// How many bytes of a list a waiting child takes; `None` when it does not wait.
    pub(crate) fn capacity(&self) -> Option<usize> {
        self.stdin.as_ref().map(|feed| feed.capacity)
    }

    /// Gives a waiting child its list, in one write, and ends it.
    ///
    /// # Errors
    /// See [`FeedError`]. The child is killed, so that it cannot carry out a part of the list.
    pub(crate) fn feed(&mut self, list: &[u8]) -> Result<(), FeedError> {
        let Some(feed) = &self.stdin else {
            self.kill();
            return Err(FeedError::NotWaiting);
        };
        let capacity = feed.capacity;
        let result = if list.len() > capacity {
            Err(FeedError::TooLong { len: list.len(), capacity })
        } else {
            match unistd::write(&feed.pipe, list) {
                Ok(len) if len == list.len() => Ok(()),
                Ok(_) => Err(FeedError::Write(io::ErrorKind::WriteZero.into())),
                Err(errno) => Err(FeedError::Write(errno.into())),
            }
        };
        if result.is_err() {
            // Before the pipe is closed: its end is what the child waits for.
            self.kill();
        }
        self.stdin = None;
        result
    }

    /// Reads what an output has now: `Some(n)` bytes, `Some(0)` at its end (which then stays),
    /// `None` when nothing is there now.
    ///
    /// # Errors
    /// read(2): EIO. The output counts as ended.
    pub(crate) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let output = &mut self.outputs[stream as usize];
        let Some(pipe) = output else { return Ok(Some(0)) };
        loop {
            return match unistd::read(&*pipe, buffer) {
                Ok(0) => {
                    *output = None;
                    Ok(Some(0))
                }
                Ok(len) => {
                    self.output_bytes += len as u64;
                    Ok(Some(len))
                }
                Err(Errno::EAGAIN) => Ok(None),
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    *output = None;
                    Err(errno.into())
                }
            };
        }
    }

    /// How the process ended; reaps it. Without waiting, but for the rest of a group that was cut
    /// off: some milliseconds as a rule, 50 ms at most.
    ///
    /// # Errors
    /// waitid(2): ECHILD, when something else reaped it.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        if self.exit.is_none() && self.cut && ended_within(self.pidfd.as_fd(), Duration::ZERO) {
            self.end_group();
        }
        if self.exit.is_none()
            && let Some(process) = &mut self.process
            && let Some(status) = process.try_wait()?
        {
            self.exit = Some(match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or(0)),
            });
        }
        Ok(self.exit)
    }

    /// Asks the process and its group to end (SIGTERM). Not for rsync, see the module's text.
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends the process (SIGKILL), and leaves its group to find out: a local receiver sees the end
    /// of its connection, removes its temporary file and ends, as does a remote shell. What is left
    /// of the group when the process is reaped is killed.
    pub(crate) fn cut(&mut self) {
        self.cut = true;
        if self.exit.is_none() {
            // ESRCH: it ended by itself.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }

    /// Ends the process and its group (SIGKILL). A local receiver's temporary file stays, until a
    /// pass with deletes.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&mut self, signal: Signal) {
        if self.exit.is_none() {
            // ESRCH: it ended by itself.
            let _ = killpg(self.pid, signal);
        }
    }

    /// Of a process that has ended and is not reaped: waits until the others of its group have, and
    /// kills those that have not. They hold its standard error.
    fn end_group(&mut self) {
        if let Some(stderr) = &self.outputs[Stream::Stderr as usize] {
            // No event is requested: what is left to be read does not end the waiting, the end of
            // all writers does.
            let _ =
                poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::empty())], PollTimeout::from(CUT_PATIENCE.as_millis() as u8));
        }
        let _ = killpg(self.pid, Signal::SIGKILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.try_wait().is_ok_and(|exit| exit.is_some()) {
            return;
        }
        self.kill();
        let Some(mut process) = self.process.take() else { return };
        if ended_within(self.pidfd.as_fd(), REAP_PATIENCE) {
            let _ = process.wait();
            return;
        }
        let pid = self.pid;
        let reaper = std::thread::Builder::new().name("reaper".into()).spawn(move || drop(process.wait()));
        if let Err(error) = reaper {
            tracing::warn!(%pid, %error, "a killed child does not end, and no thread can be started to reap it");
        }
    }
}

/// A descriptor that is readable once this child has ended, close-on-exec.
fn end_of(child: u32) -> io::Result<OwnedFd> {
    match pidfd_open(child) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => awaited(child),
        other => other,
    }
}

/// The same on a kernel without pidfds: a thread waits for the child, and does not reap it.
fn awaited(child: u32) -> io::Result<OwnedFd> {
    let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let ended = fd.as_fd().try_clone_to_owned()?;
    std::thread::Builder::new().name("child".into()).stack_size(64 * 1024).spawn(move || {
        let end = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        // Otherwise it has been reaped meanwhile, and its end is not waited for.
        while waitid(Id::Pid(Pid::from_raw(child as i32)), end) == Err(Errno::EINTR) {}
        let _ = unistd::write(&ended, &1u64.to_ne_bytes());
    })?;
    Ok(fd.into())
}

/// A descriptor for a process, close-on-exec; readable once the process has ended.
///
/// # Errors
/// pidfd_open(2), Linux 5.3: ESRCH, EMFILE, ENOSYS.
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two numbers, no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Whether there is no such process any more, or none that does anything.
pub(crate) fn has_ended(pid: u32) -> bool {
    match pidfd_open(pid) {
        Ok(pidfd) => ended_within(pidfd.as_fd(), Duration::ZERO),
        // Before Linux 5.3.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => is_gone(pid),
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}

/// The same by proc(5): it is not there, or has ended and is not reaped.
fn is_gone(pid: u32) -> bool {
    match std::fs::read(format!("/proc/{pid}/stat")) {
        // Its name may hold anything.
        Ok(stat) => stat.rsplit(|&b| b == b')').next().is_some_and(|rest| matches!(rest.get(1), Some(b'Z' | b'X'))),
        Err(error) => error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH),
    }
}

fn output_pipe() -> io::Result<(OwnedFd, Stdio)> {
    let (rx, tx) = pipe::pipe()?;
    pipe::set_nonblocking(&rx)?;
    Ok((rx, Stdio::from(tx)))
}

fn ended_within(pidfd: BorrowedFd<'_>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the last fraction of a millisecond does not spin.
        let timeout = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], timeout) {
            Ok(ready) if ready > 0 => return true,
            Err(Errno::EINTR) => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::apart::apart;
    use super::*;
    use std::path::Path;

    /// Only a failure reaches it.
    pub(super) const SOON: Duration = Duration::from_secs(60);

    pub(super) fn shell(script: &str, stdin: Stdin) -> Child {
        let argv = ["sh", "-c", script].map(OsString::from);
        Child::spawn(&argv, &[("PATH".into(), "/usr/bin:/bin".into())], stdin).unwrap()
    }

    fn wait(child: &mut Child) -> Exit {
        assert!(ended_within(child.pidfd(), SOON), "the child does not end");
        child.try_wait().unwrap().expect("the pidfd said so")
    }

    fn read_all(child: &mut Child, stream: Stream) -> Vec<u8> {
        let (mut out, mut buffer) = (Vec::new(), [0; 512]);
        loop {
            match child.read(stream, &mut buffer).unwrap() {
                Some(0) => return out,
                Some(len) => out.extend_from_slice(&buffer[..len]),
                None => {
                    let fd = child.output(stream).expect("not at its end");
                    let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(60_000_u16)).unwrap();
                    assert!(ready > 0, "no output and no end");
                }
            }
        }
    }

    /// As when the daemon is killed: all its threads end.
    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let started = std::thread::spawn(|| shell("exec sleep 1000", Stdin::Null)).join();
        assert_eq!(wait(&mut started.unwrap()), Exit::Signal(Signal::SIGTERM as i32));
        let rsync = std::thread::spawn(|| {
            let argv = ["/bin/sh", "-c", "exec sleep 1000"].map(OsString::from);
            Child::spawn_with(&argv, &[], Stdin::Null, None, Limits::default(), &[]).unwrap()
        });
        assert_eq!(wait(&mut rsync.join().unwrap()), Exit::Signal(Signal::SIGKILL as i32));
    }

    #[test]
    fn a_kernel_without_pidfds_shows_the_end_as_well() {
        let mut child = shell("read line", Stdin::Later(4096));
        let ended = awaited(child.pid()).unwrap();
        assert!(!ended_within(ended.as_fd(), Duration::ZERO) && !is_gone(child.pid()));
        child.stdin = None;
        assert!(ended_within(ended.as_fd(), SOON), "the end does not show");
        assert!(is_gone(child.pid()), "what is not reaped does nothing");
        assert!(matches!(wait(&mut child), Exit::Code(_)));
        assert!(ended_within(ended.as_fd(), Duration::ZERO) && is_gone(child.pid()));
        assert!(ended_within(awaited(child.pid()).unwrap().as_fd(), SOON), "one that is reaped has ended");
    }

    /// The first process of the group stands for rsync's sender, the second for a local receiver.
    #[test]
    fn one_that_is_cut_off_gets_no_signal_that_it_could_handle_and_its_group_ends_by_itself() {
        let mut child = shell(
            "exec 3<&0; trap 'echo asked' TERM INT HUP; (trap 'echo asked' TERM INT HUP; read line <&3; echo ended) & echo on; while :; do sleep 1; done",
            Stdin::Later(4096),
        );
        let mut said = Vec::new();
        while !said.starts_with(b"on\n") {
            let fd = child.output(Stream::Stdout).unwrap();
            poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
            let mut buffer = [0; 64];
            let len = child.read(Stream::Stdout, &mut buffer).unwrap().unwrap_or_default();
            said.extend_from_slice(&buffer[..len]);
        }
        child.cut();
        // What the end of the connection is to a receiver.
        child.stdin = None;
        assert_eq!(wait(&mut child), Exit::Signal(libc::SIGKILL));
        assert!(!read_all(&mut child, Stream::Stdout).starts_with(b"asked"));
    }

    /// A shell that waits for a process of its own.
    fn with_grandchild() -> (Child, OwnedFd) {
        let mut child = shell("sleep 1000 & echo $!; wait", Stdin::Null);
        let mut buffer = [0; 32];
        while child.read(Stream::Stdout, &mut buffer).unwrap().is_none() {
            let fd = child.output(Stream::Stdout).unwrap();
            poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        }
        let text = String::from_utf8_lossy(&buffer);
        let pid = text.lines().next().unwrap().parse().unwrap();
        (child, pidfd_open(pid).expect("it lives"))
    }

    #[test]
    fn what_is_left_of_a_group_that_was_cut_off_is_killed() {
        let (mut child, grandchild) = with_grandchild();
        child.cut();
        assert_eq!(wait(&mut child), Exit::Signal(libc::SIGKILL));
        assert!(ended_within(grandchild.as_fd(), SOON));
    }

    #[test]
    fn outputs_exit_code_and_environment() {
        let mut child = shell(
            "echo out; echo err >&2; cat; env; pwd; exit 23",
            Stdin::File(super::super::memfd::sealed(c"list", b"list\n").unwrap()),
        );
        assert_eq!(read_all(&mut child, Stream::Stderr), b"err\n");
        let out = String::from_utf8(read_all(&mut child, Stream::Stdout)).unwrap();
        assert!(out.starts_with("out\nlist\n") && out.ends_with("\n/\n"), "{out}");
        assert!(!out.contains("CARGO"), "the environment is the given one: {out}");
        assert_eq!(wait(&mut child), Exit::Code(23));
        assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(23)), "the exit code again");
    }

    #[test]
    fn a_waiting_child_is_fed_once() {
        let mut child = shell("cat", Stdin::Later(128 * 1024));
        let capacity = child.capacity().unwrap();
        assert!(capacity >= 128 * 1024, "root may have this pipe size");
        let list = vec![b'x'; 100_000];
        child.feed(&list).unwrap();
        assert_eq!(read_all(&mut child, Stream::Stdout), list);
        assert_eq!(wait(&mut child), Exit::Code(0));
        assert!(matches!(child.feed(b"more"), Err(FeedError::NotWaiting)));
    }

    #[test]
    fn a_list_that_does_not_fit_kills() {
        let mut child = shell("cat >/dev/null; echo carried out", Stdin::Later(4096));
        let list = vec![b'x'; child.capacity().unwrap() + 1];
        assert!(matches!(child.feed(&list), Err(FeedError::TooLong { .. })));
        assert_eq!(wait(&mut child), Exit::Signal(libc::SIGKILL));
        assert_eq!(read_all(&mut child, Stream::Stdout), b"");
    }

    #[test]
    fn a_write_reports_a_child_that_left() {
        // The reading end is this child's alone.
        apart();
        let mut child = shell("exit 5", Stdin::Later(4096));
        assert_eq!(wait(&mut child), Exit::Code(5));
        assert!(matches!(child.feed(b"./a\0"), Err(FeedError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn signals_reach_the_group() {
        let (mut child, grandchild) = with_grandchild();
        child.terminate();
        assert_eq!(wait(&mut child), Exit::Signal(libc::SIGTERM));
        assert!(ended_within(grandchild.as_fd(), SOON));
    }

    #[test]
    fn a_drop_leaves_neither_process_nor_zombie() {
        let child = shell("trap '' TERM; while :; do sleep 1000; done", Stdin::Later(4096));
        let pid = child.pid();
        drop(child);
        // Past [`REAP_PATIENCE`], a thread reaps it.
        let deadline = Instant::now() + SOON;
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(Instant::now() < deadline, "it is never reaped");
            std::thread::yield_now();
        }
    }

    #[test]
    fn no_child_holds_the_pipe_of_another() {
        let mut first = shell("cat", Stdin::Later(4096));
        let second = shell("sleep 1000", Stdin::Later(4096));
        first.feed(b"x").unwrap();
        assert_eq!(read_all(&mut first, Stream::Stdout), b"x", "the end arrives while the second child lives");
        drop(second);
    }

    #[test]
    fn children_leave_no_core() {
        let argv = ["cat", "/proc/self/limits"].map(OsString::from);
        let env = [("PATH".into(), "/usr/bin:/bin".into())];
        let limits = Limits { no_core: true, ..Limits::default() };
        let mut child = Child::spawn_with(&argv, &env, Stdin::Null, None, limits, &[]).unwrap();
        let text = String::from_utf8(read_all(&mut child, Stream::Stdout)).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"], "{line}");
    }

    #[test]
    fn a_fetched_mark_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let argv = ["sh", "-c", &format!("umask; head -c 100000 /dev/zero >{}", file.display())].map(OsString::from);
        let env = [("PATH".into(), "/usr/bin:/bin".into())];
        let limits = Limits { no_core: true, file_bytes: Some(1024), ..Limits::default() };
        let mut child = Child::spawn_with(&argv, &env, Stdin::Null, None, limits, &[]).unwrap();
        let said = read_all(&mut child, Stream::Stdout);
        assert_eq!(std::fs::metadata(&file).unwrap().len(), 1024);
        assert_eq!(said.trim_ascii(), b"0022", "the usual umask");
    }

    #[test]
    fn an_absent_program_says_so() {
        let error = Child::spawn(&["/no/such/rsync".into()], &[], Stdin::Null).unwrap_err();
        assert_eq!(error.to_string(), "cannot run \"/no/such/rsync\": is it installed and executable?");
    }
}
