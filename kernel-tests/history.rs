//! Random small histories over a small name space, with fixed seeds: everything happens to
//! everything, and after every 20 operations the trees have to be equal.
//!
//! Hard links are left out: a change through one name of a file is no event for its other names.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Note, Run, Setup, case};

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::Mode;

const ROUNDS: usize = 40;
const OPERATIONS: usize = 20;

pub fn cases() -> Vec<Case> {
    vec![
        case("seed_1", ALL, |fs| play(&Setup::new(fs).start()?, 1)),
        case("seed_2", ALL, |fs| play(&Setup::new(fs).start()?, 2)),
        case("seed_3_inotify", ALL, |fs| play(&Setup::new(fs).watch("inotify").start()?, 3)),
        case("seed_4", &[Fs::Fuse, Fs::Subvolume], |fs| play(&Setup::new(fs).start()?, 4)),
    ]
}

fn play(m: &Mirror, seed: u64) -> Run<()> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for round in 0..ROUNDS {
        let mut shown = Vec::new();
        for step in 0..OPERATIONS {
            let op = Op::throw(&mut dice, step);
            // Many are impossible in the tree as it is; the kernel says so, and that is no matter.
            if op.apply(m).is_ok() {
                shown.push(format!("{op:?}"));
            }
        }
        let _note = Note(format!("--- seed {seed}, round {round}:\n  {}\n", shown.join("\n  ")));
        m.check();
    }
    Ok(())
}

#[derive(Debug)]
enum Op {
    Write(PathBuf, Vec<u8>),
    Append(PathBuf),
    Mkdir(PathBuf),
    Mkdirs(PathBuf),
    Symlink(PathBuf, PathBuf),
    Fifo(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Out(PathBuf, PathBuf),
    In(PathBuf, PathBuf),
    Chmod(PathBuf, u32),
    Time(PathBuf, i64),
}

impl Op {
    fn throw(dice: &mut Dice, step: usize) -> Op {
        let path = dice.path();
        match dice.below(20) {
            // A handful of sizes, so that many rewrites keep the size.
            0..=4 => Op::Write(path, vec![b'a' + dice.below(26) as u8; 1 + dice.below(3) as usize]),
            5 => Op::Append(path),
            6..=7 => Op::Mkdir(path),
            8..=9 => Op::Mkdirs(path),
            10 => Op::Symlink(dice.path(), path),
            11 => Op::Fifo(path),
            12..=13 => Op::Remove(path),
            14..=15 => Op::Rename(path, dice.path()),
            16 => Op::Exchange(path, dice.path()),
            17 if step.is_multiple_of(2) => Op::Out(path, dice.name()),
            17 => Op::In(dice.name(), path),
            18 => Op::Chmod(path, 0o700 + dice.below(0o100) as u32),
            _ => Op::Time(path, 1_000_000_000 + dice.below(1_000) as i64),
        }
    }

    fn apply(&self, m: &Mirror) -> io::Result<()> {
        let (src, out) = (&m.src, &m.out);
        match self {
            Op::Write(path, content) => {
                not_a_pipe(src, path)?;
                fs::write(src.at(path), content)
            }
            Op::Append(path) => {
                not_a_pipe(src, path)?;
                let mut file = fs::OpenOptions::new().append(true).open(src.at(path))?;
                io::Write::write_all(&mut file, b"+")
            }
            Op::Mkdir(path) => fs::create_dir(src.at(path)),
            Op::Mkdirs(path) => {
                fs::create_dir_all(src.at(path))?;
                fs::write(src.at(path).join("f"), b"new")
            }
            Op::Symlink(to, path) => symlink(to, src.at(path)),
            Op::Fifo(path) => Ok(nix::unistd::mkfifo(&src.at(path), Mode::from_bits_truncate(0o600))?),
            Op::Remove(path) => {
                let at = src.at(path);
                if fs::symlink_metadata(&at)?.is_dir() { fs::remove_dir_all(at) } else { fs::remove_file(at) }
            }
            Op::Rename(from, to) => fs::rename(src.at(from), src.at(to)),
            Op::Exchange(one, two) => {
                Ok(renameat2(AT_FDCWD, &src.at(one), AT_FDCWD, &src.at(two), RenameFlags::RENAME_EXCHANGE)?)
            }
            Op::Out(from, to) => fs::rename(src.at(from), out.at(to)),
            Op::In(from, to) => fs::rename(out.at(from), src.at(to)),
            Op::Chmod(path, mode) => {
                let at = src.at(path);
                not_a_link(src, path)?;
                fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(*mode))
            }
            Op::Time(path, seconds) => {
                fs::symlink_metadata(src.at(path))?;
                src.set_mtime(path, *seconds, 7);
                Ok(())
            }
        }
    }
}

/// Opening a pipe for writing would wait for a reader; through a symlink it might lead anywhere.
fn not_a_pipe(src: &Dir, path: &PathBuf) -> io::Result<()> {
    match fs::symlink_metadata(src.at(path)) {
        Ok(meta) if !meta.is_file() => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(()),
    }
}

fn not_a_link(src: &Dir, path: &PathBuf) -> io::Result<()> {
    if fs::symlink_metadata(src.at(path))?.is_symlink() { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

/// xorshift64*: small, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn name(&mut self) -> PathBuf {
        ["a", "b", "c", "#d", "e f"][self.below(5) as usize].into()
    }

    fn path(&mut self) -> PathBuf {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| self.name()).collect()
    }
}
