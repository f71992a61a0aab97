//! Objects that an event names and that cannot be opened by their handles.

use std::process::Command;

use crate::fixture::fs::{Fs, needs};
use crate::fixture::proc::{must, poll_until};
use crate::fixture::tree::Times;
use crate::fixture::{Case, Mirror, Setup, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![case("no_free_descriptor_compares_only_what_was_named", &[Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs], |fs| {
        needs("prlimit")?;
        let m = Setup::new(fs)
            .before(|src| {
                src.mkdirs("old/d");
                src.write("old/d/f", b"x");
            })
            .start()?;
        m.check();
        // A comparison of the whole tree would delete it.
        m.dst().write("stray", b"x");
        let before = m.daemon.status().mirrors[0].searches;
        let unopened = "cannot be opened by its handle";
        limit(&m, "3");
        // Directories that were never met before.
        m.out.mkdirs("elsewhere/d");
        m.out.write("elsewhere/d/f", b"x");
        m.src.write("old/d/g", b"x");
        m.src.mkdirs("new/d");
        m.src.write("new/d/f", b"x");
        assert!(poll_until(WAIT, || m.daemon.log().contains(unopened).then_some(())).is_some(), "{}", m.daemon.log());
        limit(&m, "1024");
        m.daemon.flush(None);
        m.compare(Times::All, &|path| path.ends_with("stray"));
        let status = m.daemon.status().mirrors.remove(0);
        assert!(status.searches > before, "nothing was sought");
        assert!(m.dst().has("stray"), "the whole tree was compared\n{}", m.daemon.report());
        // Outside alone, after the limit was raised again: nothing is sought any more.
        m.out.write("elsewhere/d/g", b"x");
        m.src.write("new/d/g", b"x");
        m.daemon.flush(None);
        m.compare(Times::All, &|path| path.ends_with("stray"));
        Ok(())
    })]
}

/// Bounds the number of the daemon's descriptors; those that are open stay.
#[track_caller]
fn limit(m: &Mirror, files: &str) {
    must(Command::new("prlimit").arg(format!("--pid={}", m.daemon.pid())).arg(format!("--nofile={files}:")));
}
