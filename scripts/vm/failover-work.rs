//! The application of the failover scenes: writes below a mount from several threads and keeps a ledger of what it was told is
//! stored, then tells what of that is there.
//!
//!     failover-work run MOUNT LEDGER STOP FIRST PACE   until the file STOP exists; FIRST: number of its first writers, so that two can run;
//!                                                      PACE: a file with a number, pauses are so many times as long
//!     failover-work check LEDGER TREE OTHER       TREE: the server's that clients are on; OTHER may hold what was kept aside there; prints one
//!                                                 line of counts, exit status 1 when something is lost
//!
//! Four kinds of writers: new files, a state file rewritten in place, a log held open, deletes; each operation is fsynced before it goes
//! into the ledger. A writer that is blocked is given up after a while and another started, as a pool of web server processes does;
//! what the old one is told later counts all the same.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fansync::sys::mount::Mounts;

/// Between two operations of one writer, at least; a writer also rests twice as long as its operation took, so that what a slow machine
/// can do is not only to write.
const PAUSE: Duration = Duration::from_millis(300);
const MOST_PAUSE: Duration = Duration::from_secs(1);
/// A writer whose operation takes this long is blocked.
const BLOCKED: Duration = Duration::from_secs(1);
const KINDS: [&str; 4] = ["new", "rewrite", "append", "delete"];
/// Files of a writer that deletes: how many lie between making one and deleting it.
const BEHIND: u64 = 4;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["run", mount, ledger, stop, first, pace] => {
            let first = first.parse().map_err(io::Error::other)?;
            run(Path::new(mount), Path::new(ledger), Path::new(stop), first, pace.into())
        }
        ["check", ledger, tree, other] => {
            std::process::exit(check(Path::new(tree), Path::new(other), &fs::read_to_string(ledger)?))
        }
        _ => Err(io::Error::other("run MOUNT LEDGER STOP FIRST PACE, or check LEDGER TREE OTHER")),
    }
}

/// What a writer and whoever watches it share.
#[derive(Default)]
struct Life {
    /// Operations that began and that ended: odd while one is under way.
    beats: AtomicU64,
    /// It ends after its operation.
    over: AtomicBool,
}

/// A writer that is watched.
struct Writer {
    kind: &'static str,
    life: Arc<Life>,
    seen: u64,
    since: Instant,
}

/// Where what was written went: the ids of mounts that were seen, and a ledger of one line each operation.
struct Book {
    mount: PathBuf,
    out: File,
    pace: PathBuf,
    servers: Mutex<HashMap<u64, String>>,
}

impl Book {
    /// The server of an open file, by its mount's id: the kernel's memory tells, nobody is asked.
    fn server(&self, file: &File) -> io::Result<String> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let id = info.lines().find_map(|l| l.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok());
        let id: u64 = id.ok_or(io::ErrorKind::InvalidData)?;
        let mut servers = self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Ids are used again, so the table has the last word while it has one.
        if let Some(mount) = Mounts::read()?.iter().find(|m| u64::from(m.id) == id) {
            let nfs = mount.fs_type.starts_with(b"nfs");
            let name = if nfs { String::from_utf8_lossy(&mount.source).into_owned() } else { "local".into() };
            servers.insert(id, name);
        }
        Ok(servers.get(&id).cloned().unwrap_or_else(|| "detached".into()))
    }

    /// How many times as long pauses are; what is being written anew, or is none, is 1.
    fn pace(&self) -> u32 {
        fs::read_to_string(&self.pace).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1)
    }

    /// One line, by one write.
    fn note(&self, what: &str) {
        let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let line = format!("{} {what}\n", up.split(' ').next().unwrap_or_default());
        let _ = (&self.out).write_all(line.as_bytes());
    }
}

fn run(mount: &Path, ledger: &Path, stop: &Path, first: u64, pace: PathBuf) -> io::Result<()> {
    let out = OpenOptions::new().create(true).append(true).open(ledger)?;
    let book = Arc::new(Book { mount: mount.into(), out, pace, servers: Mutex::default() });
    let mut generation = first;
    let start = |kind: &'static str, generation: u64| {
        let life = Arc::new(Life::default());
        let (book, shared) = (Arc::clone(&book), Arc::clone(&life));
        std::thread::spawn(move || write(&book, kind, generation, &shared));
        Writer { kind, life, seen: 0, since: Instant::now() }
    };
    let mut writers: Vec<Writer> = KINDS.iter().map(|kind| start(kind, generation)).collect();
    while !stop.exists() {
        std::thread::sleep(PAUSE);
        for writer in &mut writers {
            let beats = writer.life.beats.load(Ordering::Relaxed);
            if beats != writer.seen || beats.is_multiple_of(2) {
                (writer.seen, writer.since) = (beats, Instant::now());
            } else if writer.since.elapsed() > BLOCKED * book.pace() {
                generation += 1;
                book.note(&format!("blocked {} generation {generation} takes over", writer.kind));
                writer.life.over.store(true, Ordering::Relaxed);
                *writer = start(writer.kind, generation);
            }
        }
    }
    writers.iter().for_each(|w| w.life.over.store(true, Ordering::Relaxed));
    std::thread::sleep(MOST_PAUSE);
    // Threads that are blocked for good do not keep us: whoever exits leaves them behind.
    std::process::exit(0)
}

/// One writer, until it is over.
fn write(book: &Book, kind: &str, generation: u64, life: &Life) {
    let mut log = None;
    let mut failing = false;
    for n in 0.. {
        if life.over.load(Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        life.beats.fetch_add(1, Ordering::Relaxed);
        let done = match kind {
            "new" => new(book, generation, n),
            "rewrite" => rewrite(book, generation, n),
            "append" => append(book, &mut log, generation, n),
            _ => delete(book, generation, n),
        };
        match done {
            Ok(server) => {
                book.note(&format!("ok {kind} {generation} {n} {server}"));
                failing = false;
            }
            Err(e) => {
                log = None; // as an application does that opens its log anew
                if !std::mem::replace(&mut failing, true) {
                    book.note(&format!("error {kind} {generation} {n} {e}"));
                }
            }
        }
        life.beats.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep((begun.elapsed() * 2).clamp(PAUSE, MOST_PAUSE) * book.pace());
    }
}

fn content(generation: u64, n: u64) -> String {
    format!("{:63}\n", format!("content {generation} {n}"))
}

fn new(book: &Book, generation: u64, n: u64) -> io::Result<String> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(book.mount.join(format!("new-{generation}-{n}")))?;
    file.write_all(content(generation, n).as_bytes())?;
    file.sync_all()?;
    book.server(&file)
}

fn rewrite(book: &Book, generation: u64, n: u64) -> io::Result<String> {
    let at = book.mount.join(format!("state-{generation}"));
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(at)?;
    file.write_all_at(content(generation, n).as_bytes(), 0)?;
    file.sync_all()?;
    book.server(&file)
}

fn append(book: &Book, log: &mut Option<File>, generation: u64, n: u64) -> io::Result<String> {
    let file = match log {
        Some(file) => file,
        None => log.insert(OpenOptions::new().append(true).create(true).open(book.mount.join(format!("log-{generation}")))?),
    };
    file.write_all(content(generation, n).as_bytes())?;
    file.sync_all()?;
    book.server(file)
}

/// Makes one, and deletes an older one; told is the delete.
fn delete(book: &Book, generation: u64, n: u64) -> io::Result<String> {
    let name = |n: u64| book.mount.join(format!("deleted-{generation}-{n}"));
    let file = File::create(name(n))?;
    file.sync_all()?;
    if n < BEHIND {
        return book.server(&file);
    }
    let dir: OwnedFd = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&book.mount)?.into();
    let dir = File::from(dir);
    let server = book.server(&dir)?;
    let old = format!("deleted-{generation}-{}", n - BEHIND);
    match nix::unistd::unlinkat(&dir, old.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
        // A request whose answer was lost is sent again by the NFS client; the server may have carried out the first.
        Err(nix::errno::Errno::ENOENT) => book.note(&format!("gone delete {generation} {n} {server}")),
        done => done?,
    }
    dir.sync_all()?;
    Ok(server)
}

/// What is there of what was told: in the tree, or kept aside by fansync in it.
struct Held {
    tree: PathBuf,
    /// Directories of versions that were kept aside.
    aside: Vec<PathBuf>,
}

impl Held {
    fn versions(&self, name: &str) -> (Option<String>, Vec<String>) {
        let read = |dir: &Path| fs::read_to_string(dir.join(name)).ok();
        (read(&self.tree), self.aside.iter().filter_map(|dir| read(dir)).collect())
    }
}

fn check(tree: &Path, other: &Path, ledger: &str) -> i32 {
    let children = |at: &Path| fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let epochs = [tree, other].into_iter().flat_map(|tree| children(&tree.join(".fansync/conflict")));
    let aside = epochs.flat_map(|epoch| children(&epoch)).collect();
    let held = Held { tree: tree.into(), aside };
    let mut counts: HashMap<&str, u32> = HashMap::new();
    let mut cache: HashMap<String, (Option<String>, Vec<String>)> = HashMap::new();
    for line in ledger.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, "ok", kind, generation, n, server] = words[..] else { continue };
        let (Ok(generation), Ok(n)) = (generation.parse::<u64>(), n.parse::<u64>()) else { continue };
        *counts.entry("acknowledged").or_default() += 1;
        if server == "local" {
            *counts.entry("local").or_default() += 1;
            continue;
        }
        let name = match kind {
            "new" => format!("new-{generation}-{n}"),
            "rewrite" => format!("state-{generation}"),
            "append" => format!("log-{generation}"),
            _ => format!("deleted-{generation}-{}", n.wrapping_sub(BEHIND)),
        };
        let (now, kept) = cache.entry(name.clone()).or_insert_with(|| held.versions(&name));
        let stored = |text: &String| match kind {
            "append" => text.contains(content(generation, n).as_str()),
            "rewrite" => number(text).is_some_and(|last| last >= n),
            _ => *text == content(generation, n),
        };
        if kind == "delete" {
            if n >= BEHIND && now.is_some() {
                *counts.entry("deletes_undone").or_default() += 1;
                println!("back: {name}, deleted on {server}");
            }
        } else if !now.as_ref().is_some_and(stored) {
            let kept = kept.iter().any(stored);
            *counts.entry(if kept { "aside" } else { "lost" }).or_default() += 1;
            println!("{}: {kind} {generation} {n} of {server}", if kept { "kept aside" } else { "LOST" });
        }
    }
    let count = |what: &str| counts.get(what).copied().unwrap_or(0);
    let told = ["acknowledged", "lost", "deletes_undone", "aside", "local"].map(|what| format!("{what} {}", count(what)));
    println!("ledger: {}", told.join(" "));
    i32::from(count("lost") + count("local") > 0)
}

/// The number in what a rewrite wrote.
fn number(text: &str) -> Option<u64> {
    text.trim_end().rsplit_once(' ')?.1.parse().ok()
}
