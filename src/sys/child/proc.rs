//! What the kernel says of a child in `/proc`: how far its work is, and what it waits on.

use std::fs;
use std::time::Duration;

use super::Child;

/// What a process has done, as far as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Work {
    /// Bytes of output that were read from it.
    pub(crate) written: u64,
    /// Bytes that it read from files, pipes and sockets.
    pub(crate) read: u64,
    /// Its processor time, in ticks of the clock.
    pub(crate) ticks: u64,
}

/// Bytes and ticks that keeping idle connections alive may take, whenever it was begun …
const IDLE_BYTES: u64 = 64;
const IDLE_TICKS: u64 = 1;
/// … and for each second: with the shortest time-out, rsync sends four bytes twice a second.
const IDLE_BYTES_A_SECOND: u64 = 16;
/// A tick more in so many seconds.
const IDLE_TICK_SECONDS: u64 = 20;

impl Work {
    /// Whether more was done in the time since `before` than keeping connections alive.
    pub(crate) fn goes_on_from(&self, before: &Work, since: Duration) -> bool {
        let seconds = since.as_secs();
        self.written != before.written
            || self.read.wrapping_sub(before.read) > IDLE_BYTES + IDLE_BYTES_A_SECOND * seconds
            || self.ticks.wrapping_sub(before.ticks) > IDLE_TICKS + seconds / IDLE_TICK_SECONDS
    }
}

impl Child {
    /// A number that grows for as long as the process makes progress: its output, what it read
    /// (proc(5), `/proc/PID/io`: files, pipes and sockets) and its CPU time. Not what it wrote: to
    /// a peer that was stopped, rsync goes on sending keep-alives.
    pub(crate) fn progress_mark(&self) -> u64 {
        let pid = self.pid;
        let io = fs::read(format!("/proc/{pid}/io")).unwrap_or_default();
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        self.output_bytes.wrapping_add(io_bytes(&io)).wrapping_add(cpu_ticks(&stat))
    }

    /// What the process itself has done so far. Costs two reads from /proc.
    pub(crate) fn work(&self) -> Work {
        let stat = fs::read(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        Work { written: self.output_bytes, read: self.bytes_read(), ticks: cpu_ticks(&stat) }
    }

    /// The same of it and its children together: an rsync that pulls writes files by one of them.
    pub(crate) fn work_of_all(&self) -> Work {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid)).unwrap_or_default();
        let mut all = self.work();
        for pid in children.split_ascii_whitespace() {
            let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            all.read = all.read.wrapping_add(io_bytes(&read("io")));
            all.ticks = all.ticks.wrapping_add(cpu_ticks(&read("stat")));
        }
        all
    }

    /// Bytes that the process has read so far, from files, pipes and sockets (proc(5),
    /// `/proc/PID/io`); 0 where the kernel does not report it.
    pub(crate) fn bytes_read(&self) -> u64 {
        io_bytes(&fs::read(format!("/proc/{}/io", self.pid)).unwrap_or_default())
    }

    /// The largest regular file that the process has open beside its standard input and outputs
    /// (proc(5), `/proc/PID/fd`). `None` also where that cannot be read.
    pub(crate) fn open_file(&self) -> Option<OpenFile> {
        use std::os::unix::fs::MetadataExt;
        let open = |entry: fs::DirEntry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let found = fs::metadata(entry.path()).ok().filter(|found| number > 2 && found.is_file())?;
            let (inode, size, blocks, links) = (found.ino(), found.size(), found.blocks(), found.nlink());
            Some(OpenFile { path: fs::read_link(entry.path()).ok()?, inode, size, blocks, links })
        };
        let all = fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?;
        all.flatten().filter_map(open).max_by_key(|file| file.size)
    }

    /// What the process waits on in open(2) (proc(5), `/proc/PID/wchan`: the kernel's function).
    /// `None` also where the kernel does not report it.
    pub(crate) fn waits_on(&self) -> Option<WaitsOn> {
        match &*fs::read(format!("/proc/{}/wchan", self.pid)).ok()? {
            b"wait_for_partner" => Some(WaitsOn::Fifo), // fs/pipe.c
            b"__break_lease" => Some(WaitsOn::Lease),   // fs/locks.c
            _ => None,
        }
    }
}

/// A file that a process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenFile {
    /// As the kernel names it.
    pub(crate) path: std::path::PathBuf,
    /// The inode's number.
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Its blocks of 512 bytes.
    pub(crate) blocks: u64,
    /// Its names.
    pub(crate) links: u64,
}

/// See [`Child::waits_on`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsOn {
    /// The other end of a FIFO; for ever, if need be.
    Fifo,
    /// A program gives up its lease on a file, or the kernel takes it away (`fs.lease-break-time`,
    /// 45 s).
    Lease,
}

/// `rchar` and `wchar` of `/proc/PID/io`, added.
pub fn io_bytes(text: &[u8]) -> u64 {
    let values = text.split(|&b| b == b'\n').filter_map(|line| {
        let value = line.strip_prefix(b"rchar: ")?;
        std::str::from_utf8(value).ok()?.parse::<u64>().ok()
    });
    values.fold(0, u64::wrapping_add)
}

/// `utime` and `stime` of `/proc/PID/stat`, added: fields 14 and 15; the name in field 2 may hold
/// anything.
pub fn cpu_ticks(text: &[u8]) -> u64 {
    let Some(end) = memchr::memrchr(b')', text) else { return 0 };
    let fields = text[end + 1..].split(|&b| b == b' ').filter(|field| !field.is_empty());
    let ticks = fields.skip(11).take(2).filter_map(|field| std::str::from_utf8(field).ok()?.parse::<u64>().ok());
    ticks.fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Stdin;
    use super::super::tests::{SOON, shell};
    use super::*;

    #[test]
    fn the_mark_moves_with_work_and_stands_still_with_none() {
        let mut child = shell("read line; while :; do :; done", Stdin::Later(4096));
        // Until it waits in its read, marks may move.
        let deadline = Instant::now() + SOON;
        let settled = |child: &Child| {
            let mark = child.progress_mark();
            std::iter::repeat_with(|| child.progress_mark()).take(2000).all(|now| now == mark)
        };
        while !settled(&child) {
            assert!(Instant::now() < deadline, "an idle child moves its mark");
        }
        let mark = child.progress_mark();
        child.feed(b"go\n").unwrap();
        while child.progress_mark() == mark {
            assert!(Instant::now() < deadline, "a busy child does not move its mark");
        }
    }

    #[test]
    fn a_fifo_without_its_other_end_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        if fs::read("/proc/self/wchan").is_err() {
            return; // a kernel that does not tell
        }
        let idle = shell("read line", Stdin::Later(4096));
        let stuck = shell(&format!("exec cat {}", fifo.display()), Stdin::Null);
        let deadline = Instant::now() + SOON;
        while stuck.waits_on() != Some(WaitsOn::Fifo) {
            assert!(Instant::now() < deadline, "a process that opens a FIFO is not found to wait for it");
        }
        assert_eq!(idle.waits_on(), None);
    }

    #[test]
    fn the_file_that_a_process_reads() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        let child = shell(&format!("exec 7<{}; read line", file.path().display()), Stdin::Later(4096));
        let deadline = Instant::now() + SOON;
        let open = loop {
            match child.open_file() {
                Some(open) if open.size == 1 << 40 => break open,
                _ => assert!(Instant::now() < deadline, "it is not found"),
            }
        };
        assert_eq!((open.path.as_path(), open.links, open.blocks < 100), (file.path(), 1, true));
        drop(file);
        assert_eq!(child.open_file().unwrap().links, 0);
    }

    #[test]
    fn proc_files() {
        assert_eq!(io_bytes(b"rchar: 10\nwchar: 5\nsyscr: 7\nread_bytes: 100\n"), 10);
        assert_eq!(cpu_ticks(b"12 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 0"), 23);
        assert_eq!((io_bytes(b""), cpu_ticks(b"")), (0, 0));
    }
}
