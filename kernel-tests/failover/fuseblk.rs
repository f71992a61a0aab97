//! FUSE filesystems whose server stops answering: as hung as a mount of a dead NFS server. On a
//! block device its teardown waits for the server as well (DESTROY), as an NFS client's does.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};

use super::*;
use crate::fixture::{Run, Skip};

/// FUSE's wire protocol, linux/fuse.h: the operations that a mount and reading its root need.
const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const NO_REPLY: [u32; 3] = [2, 36, 42]; // FORGET, INTERRUPT, BATCH_FORGET

pub struct Stopped {
    answers: Arc<AtomicBool>,
    looped: Option<String>,
}

impl Stopped {
    /// Mounts it at `point`; `source` is what the mount table shows.
    pub fn mount(work: &Path, source: &str, point: &Path) -> Run<Stopped> {
        let image = work.join("fuseblk.image");
        File::create(&image).and_then(|f| f.set_len(1 << 20)).expect("an image can be made");
        let ran = run(Command::new("losetup").args(["--find", "--show"]).arg(&image), WAIT);
        let looped = ran.stdout.trim().to_owned();
        if ran.code != 0 {
            return Err(Skip(format!("no loop device: {}", ran.stderr.trim())));
        }
        // The kernel looks the source up as a path, so a device is given the name that the table
        // shall show.
        let rdev = nix::sys::stat::stat(looped.as_str()).expect("a loop device").st_rdev;
        let (dir, name) = source.rsplit_once('/').expect("host:/directory");
        let place = work.join(dir);
        fs::create_dir_all(&place).expect("a directory can be made");
        mknod(&place.join(name), SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, rdev).expect("a device can be made");
        fs::create_dir_all(point).expect("a mount point can be made");

        let (stopped, device) = Stopped::new(Some(looped))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,blksize=512", device.as_raw_fd());
        // mount(2) takes the source relative to the working directory, which belongs to the
        // process: a thread of its own has its own.
        let (from, to, at) = (source.to_owned(), point.to_owned(), work.to_owned());
        let mounted = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).expect("a thread can have its own working directory");
            std::env::set_current_dir(&at).expect("the directory is there");
            mount(Some(from.as_str()), &to, Some("fuseblk"), MsFlags::empty(), Some(options.as_str()))
        });
        if let Err(errno) = mounted.join().expect("the thread does not panic") {
            return Err(Skip(format!("no fuseblk: {errno}")));
        }
        stopped.serve(device, point);
        Ok(stopped)
    }

    /// Mounts one without a device.
    pub fn fuse(source: &str, point: &Path) -> Run<Stopped> {
        fs::create_dir_all(point).expect("a mount point can be made");
        let (stopped, device) = Stopped::new(None)?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        match mount(Some(source), point, Some("fuse"), MsFlags::empty(), Some(options.as_str())) {
            Ok(()) => stopped.serve(device, point),
            Err(errno) => return Err(Skip(format!("no FUSE: {errno}"))),
        }
        Ok(stopped)
    }

    fn new(looped: Option<String>) -> Run<(Stopped, File)> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|e| Skip(format!("/dev/fuse cannot be opened: {e}")))?;
        Ok((Stopped { answers: Arc::new(AtomicBool::new(true)), looped }, device))
    }

    fn serve(&self, device: File, point: &Path) {
        let answers = Arc::clone(&self.answers);
        std::thread::spawn(move || serve(&device, &answers));
        assert!(fs::metadata(point).is_ok_and(|m| m.is_dir()), "the filesystem answers");
    }

    /// From now on it takes calls and answers none.
    pub fn stop(&self) {
        self.answers.store(false, Ordering::Relaxed);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.answers.store(true, Ordering::Relaxed);
        if let Some(looped) = &self.looped {
            let _ = run(Command::new("losetup").arg("-d").arg(looped), WAIT);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn serve(device: &File, answers: &AtomicBool) {
    let mut request = vec![0; 256 * 1024];
    let mut device = device;
    loop {
        let Ok(len) = device.read(&mut request) else { return };
        if len < 40 {
            return;
        }
        let (opcode, unique) = (word(&request, 4), &request[8..16]);
        while !answers.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        if NO_REPLY.contains(&opcode) {
            continue;
        }
        let (error, body): (i32, Vec<u8>) = match opcode {
            INIT => {
                let mut out = Vec::new();
                for value in [7u32, 31, 4096, 0, 0, 4096, 0, 1 << 16, 0, 0, 0, 0, 0, 0, 0, 0] {
                    out.extend_from_slice(&value.to_ne_bytes());
                }
                (0, out)
            }
            GETATTR => {
                // attr_valid, its nanoseconds, dummy; then ino, size, blocks, three times, their
                // nanoseconds, mode, nlink, …
                let mut out = vec![0; 16];
                for value in [1u64, 0, 0, 0, 0, 0] {
                    out.extend_from_slice(&value.to_ne_bytes());
                }
                for value in [0u32, 0, 0, 0o40755, 2, 0, 0, 0, 512, 0] {
                    out.extend_from_slice(&value.to_ne_bytes());
                }
                (0, out)
            }
            STATFS => (0, vec![0; 80]),
            38 => (0, Vec::new()), // DESTROY
            _ => (-38, Vec::new()),
        };
        let mut reply = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        reply.extend_from_slice(&error.to_ne_bytes());
        reply.extend_from_slice(unique);
        reply.extend_from_slice(&body);
        if device.write_all(&reply).is_err() && opcode == INIT {
            return;
        }
    }
}
