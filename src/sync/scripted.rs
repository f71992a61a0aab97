//! Processes that a test plays: in unit tests a [`super::run::Run`] holds one of these instead of a
//! child of the system.
//!
//! On a thread with a [`Stage`], `spawn` starts no process: it notes the arguments and the list,
//! and what "rsync" writes, when it ends and how is up to the test. On every other thread it is a
//! real child.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::sys::caps::Caps;
use crate::sys::child::{self, Exit, FeedError, Limits, OpenFile, SpawnError, Stdin, Stream, WaitsOn, Work};

/// Stands for the descriptors of all played processes; nothing waits on them. Every thread has it,
/// also one with a table of descriptors of its own ([`crate::sys::apart`]).
static STDIN: LazyLock<io::Stdin> = LazyLock::new(io::stdin);

/// The process ids of played processes begin here, where the kernel gives none.
pub(crate) const NO_PID: u32 = 1 << 31;

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// What a played process was given, and what it does.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) argv: Vec<OsString>,
    /// What came on its standard input; `None` as long as a standby waits, and for a run without a
    /// list.
    pub(crate) list: Option<Vec<u8>>,
    /// It waits for its list.
    pub(crate) waits: bool,
    /// What it has written and no reader has taken.
    pub(crate) unread: [Vec<u8>; 2],
    pub(crate) exit: Option<Exit>,
    /// The signals that it was sent, in order.
    pub(crate) signals: Vec<&'static str>,
    /// Its owner has dropped it.
    pub(crate) dropped: bool,
    /// What it has done, as the kernel would count it.
    pub(crate) work: Work,
    pub(crate) open_file: Option<OpenFile>,
    pub(crate) waits_on: Option<WaitsOn>,
    /// It takes no list any more.
    pub(crate) deaf: bool,
}

/// A process, shared by the test and the run.
#[derive(Clone, Debug)]
pub(crate) struct Played(Arc<Mutex<Process>>);

impl Played {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Process> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Stage {
    begun: Vec<Played>,
    total: u32,
    refused: u32,
}

/// Plays the processes of this thread until it is dropped.
pub(crate) struct Play(());

impl Play {
    pub(crate) fn begin() -> Play {
        STAGE.with_borrow_mut(|stage| *stage = Some(Stage::default()));
        Play(())
    }

    /// Those that were started since the last call, in order, each with its number (from 1); the
    /// process id is [`NO_PID`] more.
    pub(crate) fn begun(&self) -> Vec<(u32, Played)> {
        STAGE.with_borrow_mut(|stage| {
            let stage = stage.as_mut().expect("the play has begun");
            let first = stage.total - stage.begun.len() as u32 + 1;
            (first..).zip(stage.begun.drain(..)).collect()
        })
    }

    /// The next process does not start.
    pub(crate) fn refuse_next(&self) {
        STAGE.with_borrow_mut(|stage| stage.as_mut().expect("the play has begun").refused += 1);
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        STAGE.with_borrow_mut(|stage| *stage = None);
    }
}

/// A child of the system, or one that is played.
#[derive(Debug)]
pub(crate) enum Child {
    Real(child::Child),
    Played(Actor),
}

#[derive(Debug)]
pub(crate) struct Actor {
    number: u32,
    process: Played,
    /// Which outputs have come to their end.
    ended: [bool; 2],
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.process.lock().dropped = true;
    }
}

/// As [`super::acks::hasten`]; a played process has no connection.
pub(crate) fn hasten(pidfd: BorrowedFd<'_>, pid: u32) {
    if pid < NO_PID {
        super::acks::hasten(pidfd, pid);
    }
}

fn play(argv: &[OsString], stdin: &mut Stdin) -> Option<Result<Actor, SpawnError>> {
    STAGE.with_borrow_mut(|stage| {
        let stage = stage.as_mut()?;
        if stage.refused > 0 {
            stage.refused -= 1;
            let source = io::Error::from_raw_os_error(libc::ENOMEM);
            return Some(Err(SpawnError::Program { program: argv[0].clone(), source }));
        }
        let mut process = Process { argv: argv.to_vec(), ..Process::default() };
        match stdin {
            Stdin::Null => {}
            Stdin::Later(_) => process.waits = true,
            Stdin::File(file) => {
                let mut list = Vec::new();
                file.read_to_end(&mut list).expect("a list in memory can be read");
                process.list = Some(list);
            }
        }
        let process = Played(Arc::new(Mutex::new(process)));
        stage.begun.push(process.clone());
        stage.total += 1;
        Some(Ok(Actor { number: stage.total, process, ended: [false; 2] }))
    })
}

impl Child {
    pub(crate) fn spawn(argv: &[OsString], env: &[(OsString, OsString)], stdin: Stdin) -> Result<Child, SpawnError> {
        Child::spawn_with(argv, env, stdin, None, Limits::default(), &[])
    }

    pub(crate) fn spawn_with(
        argv: &[OsString],
        env: &[(OsString, OsString)],
        mut stdin: Stdin,
        caps: Option<Caps>,
        limits: Limits<'_>,
        inherit: &[BorrowedFd<'_>],
    ) -> Result<Child, SpawnError> {
        match play(argv, &mut stdin) {
            Some(actor) => Ok(Child::Played(actor?)),
            None => Ok(Child::Real(child::Child::spawn_with(argv, env, stdin, caps, limits, inherit)?)),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Child::Real(child) => child.pid(),
            Child::Played(actor) => NO_PID + actor.number,
        }
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        match self {
            Child::Real(child) => child.pidfd(),
            Child::Played(_) => STDIN.as_fd(),
        }
    }

    pub(crate) fn output(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match self {
            Child::Real(child) => child.output(stream),
            Child::Played(actor) => (!actor.ended[stream as usize]).then(|| STDIN.as_fd()),
        }
    }

    pub(crate) fn capacity(&self) -> Option<usize> {
        match self {
            Child::Real(child) => child.capacity(),
            Child::Played(actor) => actor.process.lock().waits.then_some(super::run::STANDBY_LIST_BYTES),
        }
    }

    pub(crate) fn feed(&mut self, list: &[u8]) -> Result<(), FeedError> {
        let actor = match self {
            Child::Real(child) => return child.feed(list),
            Child::Played(actor) => actor,
        };
        let mut process = actor.process.lock();
        if process.deaf {
            process.signals.push("KILL");
            return Err(FeedError::Write(io::ErrorKind::BrokenPipe.into()));
        }
        (process.waits, process.list) = (false, Some(list.to_vec()));
        Ok(())
    }

    pub(crate) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let actor = match self {
            Child::Real(child) => return child.read(stream, buffer),
            Child::Played(actor) => actor,
        };
        let mut process = actor.process.lock();
        let unread = &mut process.unread[stream as usize];
        let len = unread.len().min(buffer.len());
        buffer[..len].copy_from_slice(&unread[..len]);
        unread.drain(..len);
        process.work.written += len as u64;
        if len > 0 {
            return Ok(Some(len));
        }
        actor.ended[stream as usize] = process.exit.is_some();
        Ok(process.exit.map(|_| 0))
    }

    pub(crate) fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        match self {
            Child::Real(child) => child.try_wait(),
            Child::Played(actor) => Ok(actor.process.lock().exit),
        }
    }

    pub(crate) fn cut(&mut self) {
        match self {
            Child::Real(child) => child.cut(),
            Child::Played(actor) => actor.process.lock().signals.push("CUT"),
        }
    }

    pub(crate) fn kill(&mut self) {
        match self {
            Child::Real(child) => child.kill(),
            Child::Played(actor) => actor.process.lock().signals.push("KILL"),
        }
    }

    pub(crate) fn progress_mark(&self) -> u64 {
        match self {
            Child::Real(child) => child.progress_mark(),
            Child::Played(_) => {
                let work = self.work();
                work.written + work.read + work.ticks
            }
        }
    }

    pub(crate) fn work(&self) -> Work {
        match self {
            Child::Real(child) => child.work(),
            Child::Played(actor) => actor.process.lock().work,
        }
    }

    pub(crate) fn work_of_all(&self) -> Work {
        match self {
            Child::Real(child) => child.work_of_all(),
            Child::Played(_) => self.work(),
        }
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        match self {
            Child::Real(child) => child.bytes_read(),
            Child::Played(_) => self.work().read,
        }
    }

    pub(crate) fn open_file(&self) -> Option<OpenFile> {
        match self {
            Child::Real(child) => child.open_file(),
            Child::Played(actor) => actor.process.lock().open_file.clone(),
        }
    }

    pub(crate) fn waits_on(&self) -> Option<WaitsOn> {
        match self {
            Child::Real(child) => child.waits_on(),
            Child::Played(actor) => actor.process.lock().waits_on,
        }
    }
}
