//! A thread that has rsync write batches of a source, one at a time, and has the next rsync wait
//! for its list.
//!
//! Promise: a batch that comes out is whole, and the state of all that was listed. That is so once
//! the sender has the other side's last word, and nothing was complained of on the way: it says
//! that it waits for its child's exit then, on standard output and with nothing before it. The exit
//! itself, which rsync sleeps for (20 to 40 ms), is not waited for. Without those words exit 0
//! counts. In every other case there is no batch.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

use super::batch::{self, Making};
use super::record::Batch;
use crate::config::Extras;
use crate::location::Location;
use crate::privilege;
use crate::sync::argv;
use crate::sys::child::{Child, Exit, Limits, Stdin, Stream};
use crate::sys::landlock::Ruleset;
use crate::sys::memfd;

/// How long one batch may take; a file that is under a lease holds rsync up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that the list of a process that waits may have.
const LIST_BYTES: usize = 64 * 1024;
/// Bytes of each output that are read.
const WORDS: usize = 4 * 1024;
/// What the sender says once all is written.
const ALL_WRITTEN: &str = "client_run waiting on ";

/// A batch to be written.
pub(crate) struct Order {
    /// The source, held open.
    pub(crate) root: OwnedFd,
    /// As for any run.
    pub(crate) list: Vec<u8>,
    /// What came of it, or why nothing did.
    pub(crate) reply: Box<dyn FnOnce(Result<Batch, String>) + Send>,
}

/// The way to the thread; dropped, it ends.
pub(crate) struct Writer(Sender<Order>);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(making: Making) -> io::Result<Writer> {
        let (orders, taken) = unbounded();
        let env = argv::environment(std::env::vars_os());
        let life = Life { making, env, ready: None, made: false };
        std::thread::Builder::new().name("fansync-batch".into()).spawn(move || life.run(&taken))?;
        Ok(Writer(orders))
    }

    /// Has a batch written.
    pub(crate) fn write(&self, order: Order) {
        // Dropped with the reply where the thread is gone.
        let _ = self.0.send(order);
    }
}

/// A process that waits for its list, or has it.
struct Started {
    child: Child,
    file: PathBuf,
    /// Device and inode of the source that it reads.
    source: (u64, u64),
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has nothing left to do, but to sleep for a moment.
        self.child.kill();
        for ending in ["", ".sh"] {
            let mut name = self.file.clone().into_os_string();
            name.push(ending);
            let _ = std::fs::remove_file(name);
        }
    }
}

struct Life {
    making: Making,
    env: Vec<(OsString, OsString)>,
    ready: Option<Started>,
    /// The directory is there, and empty.
    made: bool,
}

impl Life {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(Order { root, list, reply }) = orders.recv() {
            reply(self.write(&root, &list));
            if self.ready.is_none() {
                self.ready = self.start(&root, Stdin::Later(LIST_BYTES)).ok();
            }
        }
    }

    fn write(&mut self, root: &OwnedFd, list: &[u8]) -> Result<Batch, String> {
        let source = identity(root).map_err(unusable(&self.making.source))?;
        let fits = |ready: &Started| ready.source == source && ready.child.capacity().is_some_and(|most| most >= list.len());
        let fed = self.ready.take().filter(fits).and_then(|mut ready| ready.child.feed(list).ok().map(|()| ready));
        let started = match fed {
            Some(fed) => fed,
            None => {
                let list = memfd::sealed(c"fansync-list", list).map_err(|e| format!("cannot keep the list: {e}"))?;
                self.start(root, Stdin::File(list))?
            }
        };
        self.finish(started)
    }

    /// Starts an rsync that reads this source.
    fn start(&mut self, root: &OwnedFd, stdin: Stdin) -> Result<Started, String> {
        let Making { rsync, facts, extras, source, dir } = &self.making;
        if !std::mem::replace(&mut self.made, true) {
            // What an earlier process left.
            let _ = std::fs::remove_dir_all(dir);
        }
        let empty = dir.join("empty");
        std::fs::create_dir_all(&empty).map_err(unusable(&empty))?;
        let file = dir.join(format!("{:016x}", fastrand::u64(..)));
        let name = format!("/proc/self/fd/{}", root.as_raw_fd());
        let words = batch::writing((rsync, facts), *extras, &name, source, &file, &empty);
        let place = Location::Feed { servers: Vec::new(), feed: String::new() };
        let caps = privilege::of_rsync(&place, None, *extras);
        let held = std::fs::File::open(dir).map_err(unusable(dir))?;
        // Kernels without Landlock: it has an empty directory to write to all the same.
        let writes = Ruleset::writes_below(held.as_fd()).ok();
        let limits = Limits { no_core: true, writes: writes.as_ref(), ..Limits::default() };
        let child = Child::spawn_with(&words, &self.env, stdin, caps, limits, &[root.as_fd()]).map_err(|e| e.to_string())?;
        Ok(Started { child, file, source: identity(root).map_err(unusable(source))? })
    }

    /// Waits for what a process writes.
    fn finish(&self, mut started: Started) -> Result<Batch, String> {
        let deadline = Instant::now() + PATIENCE;
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        loop {
            wait(&started.child, deadline).map_err(|e| format!("cannot wait for rsync: {e}"))?;
            let exit = started.child.try_wait().map_err(|e| format!("how rsync ended is not known: {e}"))?;
            drain(&mut started.child, Stream::Stdout, &mut said)?;
            // What it complained of before it said something is there by now.
            drain(&mut started.child, Stream::Stderr, &mut complained)?;
            if judge(exit, &said, &complained)? {
                return self.take(&started.file);
            }
            if Instant::now() >= deadline {
                return Err("rsync did not end in time".into());
            }
        }
    }

    /// The batch that was written.
    fn take(&self, file: &Path) -> Result<Batch, String> {
        let bytes = std::fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        let version = batch::version(self.making.facts.version).ok_or("rsync has a strange version")?;
        let protocol = batch::protocol(&bytes).ok_or("the batch is not understood")?;
        let Extras { xattrs, acls, .. } = self.making.extras;
        Ok(Batch { protocol, version, xattrs, acls, bytes, ..Batch::default() })
    }
}

/// Waits until a process has written something or has ended.
fn wait(child: &Child, deadline: Instant) -> io::Result<()> {
    let outputs = [child.output(Stream::Stdout), child.output(Stream::Stderr), Some(child.pidfd())];
    let mut fds: Vec<PollFd<'_>> = outputs.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u16;
    match poll(&mut fds, PollTimeout::from(left)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn drain(child: &mut Child, stream: Stream, into: &mut Vec<u8>) -> Result<(), String> {
    let mut buffer = [0; WORDS];
    while let Some(len) = child.read(stream, &mut buffer).map_err(|e| format!("cannot read rsync's output: {e}"))? {
        into.extend_from_slice(&buffer[..len]);
        if len == 0 || into.len() > WORDS {
            break;
        }
    }
    Ok(())
}

/// Whether all is written, by the end of the process and its words.
///
/// # Errors
/// It will not be, and why.
fn judge(exit: Option<Exit>, said: &[u8], complained: &[u8]) -> Result<bool, String> {
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii()).lines().next().unwrap_or_default().to_owned();
    if !complained.is_empty() {
        return Err(words(complained));
    }
    let mut lines = said.split_inclusive(|&b| b == b'\n');
    let first = lines.next().filter(|line| line.ends_with(b"\n"));
    let is_end = |line: &[u8]| {
        let number = line.strip_prefix(ALL_WRITTEN.as_bytes()).and_then(|rest| rest.strip_suffix(b"\n"));
        number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
    };
    match (first, exit) {
        (Some(line), _) if is_end(line) => Ok(true),
        (None, Some(Exit::Code(0))) if said.is_empty() => Ok(true),
        (Some(_), _) => Err(words(said)),
        (None, Some(exit)) => Err(format!("rsync ended with {exit:?}")),
        (None, None) => Ok(false),
    }
}

fn identity(root: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = fstat(root)?;
    Ok((found.st_dev, found.st_ino))
}

fn unusable(what: &Path) -> impl FnOnce(io::Error) -> String + use<> {
    let what = what.display().to_string();
    move |error| format!("cannot use {what}: {error}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sync::probe::RsyncFacts;

    #[test]
    fn only_the_last_word_or_a_good_end_says_that_all_is_written() {
        let end = b"client_run waiting on 123\n";
        let ok = Some(Exit::Code(0));
        let more = [&end[..], b"[sender] _exit_cleanup(code=0)\n"].concat();
        for (exit, said) in [(None, &end[..]), (ok, end), (None, &more), (ok, b"")] {
            assert_eq!(judge(exit, said, b""), Ok(true), "{said:?}");
        }
        for said in [&b""[..], b"client_run waiting on 12"] {
            assert_eq!(judge(None, said, b""), Ok(false), "it goes on: {said:?}");
        }
        let before = [b"skipping non-regular file \"x\"\n", &end[..]].concat();
        for (exit, said, complained) in [
            (ok, &end[..], &b"file has vanished: \"/x\"\n"[..]),
            (None, &end[..], b"rsync: link_stat failed\n"),
            (None, &before, b""),
            (None, b"client_run waiting on it\n", b""),
            (Some(Exit::Code(23)), b"", b""),
            (Some(Exit::Signal(9)), b"client_run waiting on 12", b""),
        ] {
            assert!(judge(exit, said, complained).is_err_and(|why| !why.is_empty()), "{said:?} {complained:?}");
        }
    }

    /// Writes batches of a tree with the rsync of this host; `None` without one.
    struct Written {
        life: Life,
        source: tempfile::TempDir,
        _state: tempfile::TempDir,
    }

    impl Written {
        fn new() -> Option<Written> {
            let env = argv::environment(std::env::vars_os());
            let facts = RsyncFacts::probe(Path::new("rsync"), &env).ok()?;
            let (source, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let making = Making {
                rsync: "rsync".into(),
                facts,
                extras: Extras::default(),
                source: source.path().canonicalize().unwrap(),
                dir: state.path().join("batch"),
            };
            Some(Written { life: Life { making, env, ready: None, made: false }, source, _state: state })
        }

        fn write(&mut self, list: &[u8]) -> Result<Batch, String> {
            let root = OwnedFd::from(std::fs::File::open(self.source.path()).unwrap());
            let written = self.life.write(&root, list);
            self.life.ready = Some(self.life.start(&root, Stdin::Later(LIST_BYTES)).unwrap());
            written
        }

        fn apply(&self, batch: &Batch, to: &Path) {
            let words = batch::reading(Path::new("rsync"), Extras::default(), &[], false, None, "-i", to);
            let stdin = Stdin::File(memfd::sealed(c"batch", &batch.bytes).unwrap());
            let mut child = Child::spawn_with(&words, &self.life.env, stdin, None, Limits::default(), &[]).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while child.try_wait().unwrap().is_none() {
                assert!(Instant::now() < deadline, "the batch is not read to its end");
                wait(&child, deadline).unwrap();
                let mut said = Vec::new();
                drain(&mut child, Stream::Stdout, &mut said).unwrap();
                drain(&mut child, Stream::Stderr, &mut said).unwrap();
            }
            assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(0)));
        }
    }

    #[test]
    fn a_batch_brings_any_copy_to_the_state_of_the_source() {
        let Some(mut w) = Written::new() else { return };
        let copy = tempfile::tempdir().unwrap();
        let at = |path: &str| copy.path().join(path);
        std::fs::create_dir_all(w.source.path().join("d/e")).unwrap();
        std::fs::write(w.source.path().join("d/e/f"), "one").unwrap();
        let one = w.write(b"./d/e/f\0").unwrap();
        assert_eq!((one.version, one.protocol > 0), (batch::version(w.life.making.facts.version).unwrap(), true));
        w.apply(&one, copy.path());
        assert_eq!(std::fs::read(at("d/e/f")).unwrap(), b"one");
        // By the process that waits; names that rsync could take for something else; what is gone.
        for name in ["-x", "#x", ";x", "a b", "*", "[x]", "a\nb", "\\x"] {
            std::fs::write(w.source.path().join(name), name).unwrap();
            std::fs::write(at(name), "old").unwrap();
        }
        std::fs::create_dir_all(at("gone/tree")).unwrap();
        std::fs::write(at("gone/tree/x"), "x").unwrap();
        let names = b"./-x\0./#x\0./;x\0./a b\0./*\0./[x]\0./a\nb\0./\\x\0./gone\0";
        let many = w.write(names).unwrap();
        w.apply(&many, copy.path());
        for name in ["-x", "#x", ";x", "a b", "*", "[x]", "a\nb", "\\x"] {
            assert_eq!(std::fs::read(at(name)).unwrap(), name.as_bytes());
        }
        assert!(!at("gone").exists());
    }

    #[test]
    fn what_is_not_the_state_of_all_that_is_listed_is_no_batch() {
        let Some(mut w) = Written::new() else { return };
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path(), w.source.path().join("link")).unwrap();
        if w.life.making.facts.confine_root {
            assert!(w.write(b"./link/secret\0").is_err(), "it lies out of the tree");
        }
        assert!(w.write(b"./gone/below/that\0").is_err(), "which name is gone is not known");
        std::fs::write(w.source.path().join("f"), "x").unwrap();
        assert!(w.write(b"./f/below\0").is_err());
        assert!(w.write(b"./f\0").is_ok(), "the next one is none the worse for it");
        let left: Vec<_> = std::fs::read_dir(&w.life.making.dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.len() <= 3, "what was written is removed: {left:?}");
    }
}
