//! FIFOs, sockets, device nodes and symbolic links of several names, where links are kept: a name
//! that is another one of the same kind is parted from its old names on the targets, too.

use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::fixture::fs::Fs;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, To, case};

const KINDS: [&str; 4] = ["fifo", "socket", "device", "symlink"];
const WATCHES: [&str; 2] = ["fanotify", "inotify"];

/// Each looks the same as the last of its kind, but for its times.
fn make(src: &Dir, kind: &str, path: impl AsRef<Path>) {
    match kind {
        "fifo" => src.fifo(path),
        "socket" => {
            let mode = Mode::from_bits_truncate(0o644);
            mknod(&src.at(path), SFlag::S_IFSOCK, mode, 0).expect("the filesystem has sockets");
        }
        "device" => src.device(path, 1, 3),
        _ => src.symlink("nowhere", path),
    }
}

fn fill(src: &Dir) {
    src.mkdirs("d/deep");
    src.mkdir("way");
    for kind in KINDS {
        make(src, kind, format!("{kind}.a"));
        for name in ["b", "c"] {
            src.link(format!("{kind}.a"), format!("d/{kind}.{name}"));
        }
        src.link(format!("{kind}.a"), format!("d/deep/{kind}"));
    }
}

fn mirror(fs: Fs, watch: &str) -> Run<Mirror> {
    let setup = Setup::new(fs).watch(watch).carrying(&["hard_links"]).targets(&[To::Module, To::Local]);
    let m = setup.before(fill).start()?;
    m.check();
    Ok(m)
}

fn own(m: &Mirror, path: impl AsRef<Path>, id: u32) {
    std::os::unix::fs::lchown(m.src.at(path), Some(id), Some(id)).expect("root may");
}

fn names_are_replaced(m: &mut Mirror) {
    for kind in KINDS {
        let (a, b) = (format!("{kind}.a"), format!("d/{kind}.b"));
        m.src.remove(&a);
        make(&m.src, kind, &a);
        own(m, &a, 4711);
        // By a rename.
        make(&m.src, kind, format!("way/{kind}"));
        m.src.rename(format!("way/{kind}"), &b);
    }
    m.check();
    for kind in KINDS {
        // Attributes reach the group and no other.
        m.src.link(format!("{kind}.a"), format!("d/{kind}.new"));
        own(m, format!("d/{kind}.c"), 4712);
    }
    m.check();
    for kind in KINDS {
        own(m, format!("d/{kind}.new"), 4713);
        // Another group takes the name.
        m.src.remove(format!("d/{kind}.b"));
        m.src.link(format!("{kind}.a"), format!("d/{kind}.b"));
    }
    m.check();
    // Deleted, and there again when the target has that.
    for kind in KINDS {
        m.src.remove(format!("d/deep/{kind}"));
    }
    m.check();
    for kind in KINDS {
        make(&m.src, kind, format!("d/deep/{kind}"));
    }
    m.check();
    for kind in KINDS {
        m.src.exchange(format!("{kind}.a"), format!("d/{kind}.c"));
    }
    m.check();
}

fn a_directory_is_replaced(m: &mut Mirror) {
    m.src.mkdirs("new/deep");
    for kind in KINDS {
        for name in ["b", "c"] {
            make(&m.src, kind, format!("new/{kind}.{name}"));
        }
        make(&m.src, kind, format!("new/deep/{kind}"));
        m.src.link(format!("new/deep/{kind}"), format!("new/deep/{kind}.2"));
    }
    m.src.exchange("new", "d");
    m.check();
    for kind in KINDS {
        own(m, format!("d/{kind}.b"), 4711);
        own(m, format!("d/deep/{kind}.2"), 4712);
    }
    m.check();
}

/// One that cannot be made on the target is tried again in the usual way, and what is replaced
/// all the time comes to rest.
fn replaced_many_times(m: &mut Mirror) {
    for _ in 0..10 {
        for kind in KINDS {
            m.src.remove(format!("d/{kind}.b"));
            make(&m.src, kind, format!("d/{kind}.b"));
            m.src.link(format!("d/{kind}.b"), format!("way/{kind}"));
            m.src.rename(format!("way/{kind}"), format!("d/{kind}.c"));
        }
    }
    m.check();
}

/// What is done, and how that is called.
type Act = (&'static str, fn(&mut Mirror));

pub fn cases() -> Vec<Case> {
    const ON: &[Fs] = &[Fs::Ext4, Fs::Tmpfs];
    let all: [Act; 3] = [
        ("names_are_replaced", names_are_replaced),
        ("a_directory_is_replaced", a_directory_is_replaced),
        ("replaced_many_times", replaced_many_times),
    ];
    let by = |(name, run): Act| {
        case(name, ON, move |fs| {
            for watch in WATCHES {
                let mut m = mirror(fs, watch)?;
                run(&mut m);
                // Nothing goes on.
                m.check();
            }
            Ok(())
        })
    };
    all.map(by).into()
}
