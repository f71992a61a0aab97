//! A top that several users write into, and one of them removes nearly all that is there: the
//! deletions wait, and nothing else.

use std::os::unix::fs::chown;

use crate::fixture::daemon::TargetStatus;
use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("one_of_several_writers_holds_his_deletions_alone", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = shared(fs);
            at_once(&m, || {
                remove_his(&m);
                m.src.remove("his-dir");
                m.src.remove("others/old");
            });
            // 90 files, a directory and a file in it.
            held(&m, 92);
            keeps_his(&m);
            gone(&m, "others/old");
            // What others do goes on.
            m.src.write("another", b"of another user");
            m.src.write("f0", b"changed by another user");
            m.src.write("others/new", b"x");
            arrives(&m, "another", b"of another user");
            arrives(&m, "f0", b"changed by another user");
            arrives(&m, "others/new", b"x");
            m.src.remove("others/new");
            gone(&m, "others/new");
            // A deletion at the top waits with the others, and a file that comes back goes.
            m.src.remove("another");
            held(&m, 93);
            m.src.write("his1", b"once more");
            arrives(&m, "his1", b"once more");
            // A directory under a name that was lost takes nothing away from the old one.
            m.src.mkdir("his-dir");
            m.src.write("his-dir/new", b"x");
            // A comparison deletes nothing, and sends the rest.
            m.dst().remove("others/f");
            m.daemon.reconcile();
            arrives(&m, "others/f", b"x");
            assert!(m.dst().has("his-dir/f") && m.dst().has("another"));
            keeps_his(&m);
            let shown = m.daemon.client(&["flush", "--timeout", "20s"], WAIT);
            assert!(shown.code == 1 && shown.stderr.contains("at one blow"), "{}: {}", shown.code, shown.stderr);
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.check();
            assert!(!m.dst().has("his-dir/f") && !m.dst().has("his2"));
            Ok(())
        }),
        case("a_shared_top_with_nothing_left_stops_no_others", &[Fs::Tmpfs], |fs| {
            let m = shared(fs);
            at_once(&m, || {
                remove_his(&m);
                ["his-dir", "others", "f0", "f1", "f2", "f3", "f4"].iter().for_each(|name| m.src.remove(name));
            });
            held(&m, 100);
            m.src.write("new", b"of another user");
            arrives(&m, "new", b"of another user");
            // New names are not what was lost.
            (0..120).for_each(|n| m.src.write(format!("another{n}"), b"x"));
            arrives(&m, "another119", b"x");
            m.daemon.does(&["retry"]);
            m.src.write("last", b"x");
            arrives(&m, "last", b"x");
            keeps_his(&m);
            // Names that come back are sent, and by less than half the hold does not end.
            at_once(&m, || back(&m, 0..9));
            arrives(&m, "his8", b"again");
            m.daemon.does(&["retry"]);
            held(&m, 100);
            assert!(m.dst().has("his89") && m.dst().has("his-dir/f"));
            // More than half of it, and so many at once that their directory is compared: what is
            // not back goes.
            at_once(&m, || back(&m, 9..69));
            m.daemon.does(&["retry"]);
            gone(&m, "his89");
            m.daemon.target_status_until("t1", "no deletion is held", |t| t.held_deletes == 0);
            m.check();
            Ok(())
        }),
        case("a_shared_top_in_part_filled_again_then_accepted", &[Fs::Tmpfs], |fs| {
            let m = shared(fs);
            at_once(&m, || {
                remove_his(&m);
                ["his-dir", "others", "f0", "f1", "f2", "f3", "f4"].iter().for_each(|name| m.src.remove(name));
            });
            held(&m, 100);
            at_once(&m, || back(&m, 0..40));
            arrives(&m, "his39", b"again");
            held(&m, 100);
            m.daemon.does(&["resume", "--accept-deletes"]);
            gone(&m, "his89");
            m.check();
            Ok(())
        }),
    ]
}

/// Five files of others at the top, a directory of others, 90 files and a directory of one user.
fn shared(fs: Fs) -> Mirror {
    let m = Setup::guarded(fs).targets(&[To::Module]).start().unwrap_or_else(|skip| panic!("{skip:?}"));
    m.src.chmod(".", 0o1777);
    m.src.mkdirs("others");
    m.src.write("others/f", b"x");
    m.src.write("others/old", b"x");
    (0..5).for_each(|n| m.src.write(format!("f{n}"), b"of another user"));
    m.src.mkdir("his-dir");
    m.src.write("his-dir/f", b"his");
    for n in 0..90 {
        m.src.write(format!("his{n}"), b"his");
        chown(m.src.at(format!("his{n}")), Some(12_345), None).expect("root may");
    }
    m.check();
    m
}

fn remove_his(m: &Mirror) {
    (0..90).for_each(|n| m.src.remove(format!("his{n}")));
}

fn back(m: &Mirror, which: std::ops::Range<u32>) {
    which.for_each(|n| m.src.write(format!("his{n}"), b"again"));
}

#[track_caller]
fn keeps_his(m: &Mirror) {
    (0..90).for_each(|n| assert!(m.dst().has(format!("his{n}")), "his{n} is gone from the target"));
}

fn at_once(m: &Mirror, act: impl FnOnce()) {
    m.daemon.freeze();
    act();
    m.daemon.thaw();
}

/// Waits until so many deletions are held, for the right reason, and the mirror is not.
#[track_caller]
fn held(m: &Mirror, deletes: u64) {
    let shown = |t: &TargetStatus| {
        t.held_deletes == deletes
            && t.held_reason.contains("lost nearly everything at one blow")
            && t.held_reason.contains("fansync resume --accept-deletes")
    };
    m.daemon.target_status_until("t1", "the deletions are held", shown);
    assert_eq!(m.daemon.status().mirrors[0].held, "");
}

#[track_caller]
fn arrives(m: &Mirror, path: &str, content: &[u8]) {
    let there = || std::fs::read(m.dst().at(path)).is_ok_and(|found| found == content).then_some(());
    assert!(poll_until(WAIT, there).is_some(), "{path} does not arrive");
}

#[track_caller]
fn gone(m: &Mirror, path: &str) {
    assert!(poll_until(WAIT, || (!m.dst().has(path)).then_some(())).is_some(), "{path} is still on the target");
}
