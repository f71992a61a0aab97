//! Roles: who may push, and what a push to a former primary keeps aside.

use std::fs;
use std::path::{Path, PathBuf};

use fansync::role::mark::{self, Mark, Role};

use crate::fixture::daemon::{TargetStatus, Until};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::outages::program;
use crate::words::TALKS;

pub fn cases() -> Vec<Case> {
    vec![
        case("an_old_primary_pushes_nothing_to_a_module", &[Fs::Ext4], |fs| old_primary(fs, To::Module)),
        case("an_old_primary_pushes_nothing_to_a_directory", &[Fs::Tmpfs], |fs| old_primary(fs, To::Local)),
        case("an_old_primary_pushes_nothing_over_ssh", &[Fs::Tmpfs], |fs| old_primary(fs, To::Ssh)),
        case("an_old_primary_pushes_nothing_to_the_home_over_ssh", &[Fs::Tmpfs], |fs| old_primary(fs, To::SshHome)),
        case("a_target_promoted_by_hand_while_it_is_up", &[Fs::Tmpfs], |fs| {
            let m = roles(fs, To::Module, 1, Some((1, Role::Follower))).start()?;
            m.src.write("before", b"1");
            check(&m);
            mark(m.dst(), 2, Role::Primary);
            fenced(&m, "newer than our epoch 1");
            m.dst().write("taken by the new primary", b"2");
            m.src.write("after", b"3");
            assert!(m.daemon.try_flush(WAIT / 10).is_err(), "a fenced daemon says that all is on its target");
            assert!(!m.dst().has("after") && m.dst().has("taken by the new primary"), "pushed although fenced");
            Ok(())
        }),
        case("a_source_that_steps_down_pushes_nothing_from_its_next_batch_on", &[Fs::Tmpfs], |fs| {
            let m = roles(fs, To::Local, 1, None).start()?;
            m.src.write("before", b"1");
            check(&m);
            mark(&m.src, 1, Role::Follower);
            m.src.write("after", b"2");
            fenced(&m, "this side is the follower of epoch 1");
            assert!(!m.dst().has("after"), "a follower has pushed");
            mark(&m.src, 2, Role::Primary);
            check(&m);
            assert!(m.dst().has("after"));
            Ok(())
        }),
        case("a_reload_keeps_the_role", &[Fs::Tmpfs], |fs| {
            let mut m = roles(fs, To::Module, 1, Some((1, Role::Follower))).start()?;
            m.src.write("before", b"1");
            check(&m);
            let reload = |m: &mut Mirror, max_paths: i64| {
                m.configure(|table| drop(table.batch.insert("max_paths".into(), max_paths.into())));
                m.write_config();
                assert!(m.daemon.reload(), "a good file is not taken");
            };
            reload(&mut m, 9_000);
            m.src.write("after", b"2");
            check(&m);
            assert_eq!(m.daemon.target_status("t1").epoch, 1);
            // Promoted under a daemon that begins anew.
            mark(m.dst(), 2, Role::Primary);
            m.dst().write("taken by the new primary", b"2");
            reload(&mut m, 9_001);
            m.src.write("late", b"3");
            fenced(&m, "newer than our epoch 1");
            assert!(!m.dst().has("late") && m.dst().has("taken by the new primary"), "pushed although fenced");
            Ok(())
        }),
        case("damaged_and_missing_marks_fence", &[Fs::Tmpfs], |fs| {
            let m = roles(fs, To::Module, 1, Some((1, Role::Follower))).start()?;
            m.src.write("a", b"1");
            check(&m);
            m.dst().write(mark::FILE, b"fansync-role 1\nepoch 1\nrole foll");
            fenced(&m, "damaged");
            // What cannot be a mark is not even fetched whole.
            m.dst().write(mark::FILE, [b'x'; 100_000]);
            fenced(&m, "larger than a mark");
            mark(m.dst(), 1, Role::Follower);
            m.src.write("b", b"1");
            check(&m);
            // One that a user moved there.
            std::os::unix::fs::chown(m.src.at(mark::DIR), Some(4711), None).expect("root may");
            m.src.write("b2", b"1");
            fenced(&m, "belongs to uid 4711");
            std::os::unix::fs::chown(m.src.at(mark::DIR), Some(0), None).expect("root may");
            m.src.remove(mark::FILE);
            m.src.write("c", b"1");
            fenced(&m, "holds no role mark");
            assert!(!m.dst().has("c"));
            Ok(())
        }),
        case("the_first_push_of_an_epoch_keeps_aside_what_only_the_target_held", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            aside(roles(fs, To::Module, 2, None))?;
            aside(roles(fs, To::Local, 2, None))?;
            Ok(())
        }),
        case("a_first_push_that_a_dry_run_proves_is_the_last_that_keeps_aside", &[Fs::Tmpfs], |fs| {
            let dir = work_dir();
            let rsync = program(&dir.path().join("talks"), TALKS);
            let m = aside(roles(fs, To::Local, 2, None).rsync(rsync).target_key("standby", 0))?;
            let status = m.daemon.target_status("t1");
            assert!(status.bad_runs.contains_key("unproven"), "{status:?}");
            Ok(())
        }),
        case("marks_are_no_data", &[Fs::Tmpfs], |fs| {
            let m = roles(fs, To::Module, 1, Some((1, Role::Follower))).start()?;
            m.src.write("d", b"1");
            check(&m);
            let theirs = || m.dst().read(mark::FILE).expect("the target keeps its mark");
            let before = theirs();
            m.src.write(".fansync/other", b"x");
            mark(&m.src, 3, Role::Primary);
            m.src.write("e", b"2");
            check(&m);
            m.src.remove(".fansync/other");
            m.src.write("f", b"2");
            check(&m);
            assert_eq!(theirs(), before);
            assert!(!m.dst().has(".fansync/other"));
            Ok(())
        }),
    ]
}

/// A daemon that honours roles, its source the primary of `epoch`.
fn roles(fs: Fs, to: To, epoch: u64, target: Option<(u64, Role)>) -> Setup {
    Setup::new(fs).roles().targets(&[to]).while_reconciling().before(move |src| mark(src, epoch, Role::Primary)).before_on_target(
        move |dst| {
            if let Some((epoch, role)) = target {
                mark(dst, epoch, role);
            }
        },
    )
}

fn mark(dir: &Dir, epoch: u64, role: Role) {
    mark::write(dir.root(), &Mark::new(epoch, role, "test")).expect("the mark can be written");
}

#[track_caller]
fn fenced(m: &Mirror, why: &str) -> TargetStatus {
    let shown = || Some(m.daemon.target_status("t1")).filter(|t| t.state == "fenced" && t.reason.contains(why));
    poll_until(WAIT, shown).unwrap_or_else(|| panic!("not fenced for {why:?}: {:?}", m.daemon.target_status("t1")))
}

#[track_caller]
fn check(m: &Mirror) {
    // The daemon's note below .fansync changes the root's time on the source after it was sent.
    m.check_but(Times::All, &|path: &Path| path.starts_with(mark::DIR));
}

fn old_primary(fs: Fs, to: To) -> Result<(), crate::fixture::Skip> {
    let setup = roles(fs, to, 1, Some((2, Role::Primary)));
    let setup = setup.before(|src| {
        mark(src, 1, Role::Primary);
        src.write("file", b"what the old primary has");
    });
    let mut m = setup.start()?;
    m.dst().write("file", b"what a client wrote to the backup");
    m.dst().write("new", b"too");
    fenced(&m, "newer than our epoch 1");
    m.src.write("file", b"again");
    m.src.mkdir("d");
    m.daemon.terminate();
    m.restart(Until::Watching);
    fenced(&m, "newer than our epoch 1");
    assert_eq!(m.dst().read("file").as_deref(), Some(&b"what a client wrote to the backup"[..]));
    assert!(m.dst().has("new") && !m.dst().has("d"), "pushed although fenced");
    // Made primary again: it goes on by itself.
    mark(m.dst(), 2, Role::Follower);
    mark(&m.src, 3, Role::Primary);
    check(&m);
    assert!(m.dst().has("d") && !m.dst().has("new"));
    Ok(())
}

fn aside(setup: Setup) -> Result<Mirror, crate::fixture::Skip> {
    let setup = setup.before(|src| {
        mark(src, 2, Role::Primary);
        src.write("both", b"the newer content");
        src.write("was a directory", b"x");
    });
    let setup = setup.before_on_target(|dst| {
        mark(dst, 1, Role::Follower);
        dst.write("both", b"acknowledged too late to be pushed");
        dst.write("only here", b"acknowledged last");
        dst.mkdirs("gone/deep");
        dst.write("gone/deep/file", b"also");
        dst.mkdir("was a directory");
        dst.write("was a directory/file", b"too");
    });
    let m = setup.start()?;
    check(&m);
    let known = || m.src.read(".fansync/known.t1").filter(|text| text == b"2\n");
    assert!(poll_until(WAIT, known).is_some(), "the source does not note that the target is known");
    let kept = |path: &str| kept(m.dst(), 2).iter().filter_map(|dir| fs::read(dir.join(path)).ok()).collect::<Vec<_>>();
    assert_eq!(kept("both"), [b"acknowledged too late to be pushed"]);
    assert_eq!(kept("only here"), [b"acknowledged last"]);
    assert_eq!(kept("gone/deep/file"), [b"also"]);
    assert_eq!(kept("was a directory/file"), [b"too"]);
    // From now on what is replaced was pushed by us, and is not kept.
    m.src.write("both", b"newer still");
    m.src.remove("was a directory");
    check(&m);
    assert_eq!(kept("both").len(), 1);
    assert!(kept("was a directory").is_empty());
    Ok(m)
}

/// The directories in which things were kept aside.
fn kept(dir: &Dir, epoch: u64) -> Vec<PathBuf> {
    let at = dir.at(format!(".fansync/conflict/{epoch}"));
    let listing = fs::read_dir(&at).map(|entries| entries.flatten().map(|e| e.path()).collect());
    listing.unwrap_or_default()
}
