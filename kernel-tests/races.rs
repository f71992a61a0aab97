//! Names that change hands while a process still holds the file, and directories that are something
//! else a moment later.

use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, To, case, step};

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const FILES: usize = 50;
const SECRET: &[u8] = b"content from outside the source";

pub fn cases() -> Vec<Case> {
    let of = |name, given: fn(&Dir), act: fn(&Mirror)| step(name, &[Fs::Ext4, Fs::Xfs], given, act);
    vec![
        of("unlinked_while_open", |src| src.write("f", b"there at first"), unlinked_while_open),
        of("unlinked_and_made_again_while_open", |src| src.write("f", b"there at first"), made_again_while_open),
        of(
            "unlinked_while_open_and_linked_again",
            |_| (),
            |m| {
                let mut file = m.src.open("f");
                m.src.link("f", "g");
                m.src.remove("f");
                file.write_all(b"through the old name").expect("a file can be written");
                m.src.rename("g", "f");
                drop(file);
            },
        ),
        case("symlink_in_place_of_a_parent_while_it_is_sent", &[Fs::Tmpfs], |_| {
            let m = Setup::new(Fs::Tmpfs).targets(&[To::Module, To::Local]).start()?;
            m.src.mkdir("d");
            m.out.mkdir("d");
            for n in 0..FILES {
                m.src.write(format!("d/f{n}"), b"inside");
                m.out.write(format!("d/f{n}"), SECRET);
            }
            m.src.symlink(m.out.at("d"), "link");
            m.check();
            swap_while_writing(&m);
            m.check();
            Ok(())
        }),
    ]
}

fn unlinked_while_open(m: &Mirror) {
    let (mut old, mut new) = (m.src.open("f"), m.src.open("new"));
    for file in [&mut old, &mut new] {
        file.write_all(b", and more").expect("a file can be written");
    }
    m.src.remove("f");
    m.src.remove("new");
    m.daemon.flush(None);
    for file in [&mut old, &mut new] {
        file.write_all(b", without a name").expect("a file can be written");
    }
    drop((old, new));
    m.daemon.flush(None);
    assert!(!m.dst().has("f") && !m.dst().has("new"), "a file came back that has no name any more");
}

fn made_again_while_open(m: &Mirror) {
    let mut old = m.src.open("f");
    m.src.remove("f");
    let mut new = m.src.open("f");
    new.write_all(b"the new one").expect("a file can be written");
    old.write_all(b", the old one").expect("a file can be written");
    // The old one is closed last: what it held must not be taken for the content.
    drop(new);
    m.check();
    m.src.append("f", b", longer");
    old.write_all(b" again").expect("a file can be written");
    drop(old);
}

/// Exchanges a directory and a link to one outside as fast as it goes, while the files of the
/// directory are written, and looks at the targets all the time.
fn swap_while_writing(m: &Mirror) {
    let held = fs::File::open(m.src.at("d")).expect("it is there");
    let inside = Dir::new(format!("/proc/thread-self/fd/{}", held.as_raw_fd()));
    let over = AtomicBool::new(false);
    let going = || !over.load(Ordering::Relaxed);
    let leaked = std::thread::scope(|scope| {
        scope.spawn(|| {
            while going() {
                m.src.exchange("d", "link");
            }
        });
        scope.spawn(|| {
            (0..).take_while(|_| going()).for_each(|n| inside.write(format!("f{}", n % FILES), format!("inside {n}")));
        });
        let leaked = poll_until(Duration::from_millis(1500), || m.targets.iter().find_map(|t| leaked(&t.dir)));
        over.store(true, Ordering::Relaxed);
        leaked
    });
    assert_eq!(leaked, None, "a target got what lies outside of the source");
    if m.src.at("d").is_symlink() {
        m.src.exchange("d", "link");
    }
}

/// A file below one of the two names that holds what lies outside, if that name is a directory.
fn leaked(target: &Dir) -> Option<String> {
    for name in ["d", "link"] {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let Ok(dir) = fs::OpenOptions::new().read(true).custom_flags(flags).open(target.at(name)) else { continue };
        let dir = Dir::new(format!("/proc/thread-self/fd/{}", dir.as_raw_fd()));
        let holds = |n: &usize| dir.read(format!("f{n}")).as_deref() == Some(SECRET);
        if let Some(n) = (0..FILES).find(holds) {
            return Some(format!("{name}/f{n}"));
        }
    }
    None
}
