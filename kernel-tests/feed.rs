//! A change feed on a real nats-server, and followers that pull from a real rsync daemon: whatever
//! is killed, frozen, wiped or set back, in the end every follower is equal to the source.

mod access;
mod relays;
mod renames;
mod verify;
mod world;

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::fixture::daemon::{Daemon, InlineStatus, Until};
use crate::fixture::fs::{self, Fs, Ground, Mount, needs};
use crate::fixture::proc::{Ran, Service, bound_command, poll_until};
use crate::fixture::rsyncd::{Rsyncd, free_port};
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Note, Run, WAIT, case};
use world::{CHURN, Follower, HOLDS_BIG, Nats, World, comparisons, copy, instead_of_rsync};

const ON: &[Fs] = &[Fs::Tmpfs];
pub fn cases() -> Vec<Case> {
    let mut all = access::cases();
    all.extend(cases_of_followers());
    all.extend(relays::cases());
    all.extend(renames::cases());
    all.extend(verify::cases());
    all
}

fn cases_of_followers() -> Vec<Case> {
    vec![
        case("a_change_arrives_and_a_barrier_is_not_early", ON, |fs| {
            let mut w = World::new(fs, 2)?;
            w.check();
            for _ in 0..5 {
                w.churn(20);
                w.check();
            }
            let held = w.followers.iter().map(|f| comparisons(&f.daemon)).sum::<usize>();
            assert_eq!(held, 0, "nothing was owed");
            w.barrier("2");
            w.barrier("f0,f1");
            let said = w.flush("3", Duration::from_millis(300));
            assert_eq!(said.code, 75, "{}", said.stderr);
            Ok(())
        }),
        case("nats_server_is_killed", ON, |fs| {
            let mut w = World::new(fs, 3)?;
            w.check();
            for _ in 0..4 {
                w.churn(CHURN);
                w.nats.kill();
                w.churn(CHURN);
                w.nats.restart();
                w.churn(CHURN);
            }
            w.check();
            Ok(())
        }),
        case("followers_are_killed", ON, |fs| {
            let mut w = World::new(fs, 3)?;
            // A comparison that is owed never deletes half of the tree.
            w.keep();
            for n in 0..5 {
                w.churn(CHURN);
                w.followers[n % 3].restart();
            }
            w.churn(CHURN);
            w.check();
            Ok(())
        }),
        case("the_publisher_is_killed", ON, |fs| {
            let mut w = World::new(fs, 3)?;
            w.check();
            for _ in 0..4 {
                w.churn(CHURN);
                w.restart_source();
            }
            w.churn(CHURN);
            w.check();
            Ok(())
        }),
        case("the_upstream_is_killed", ON, |fs| {
            let mut w = World::new(fs, 3)?;
            for _ in 0..4 {
                w.churn(CHURN);
                w.rsyncd.stop();
                w.churn(CHURN);
                w.rsyncd.restart();
            }
            w.check();
            Ok(())
        }),
        case("everything_is_killed_at_random", ON, |fs| {
            for seed in 0..3 {
                let mut w = World::new(fs, 3)?;
                w.keep();
                w.random = fastrand::Rng::with_seed(seed);
                for _ in 0..12 {
                    w.churn(CHURN / 2);
                    match w.random.u8(..4) {
                        0 => w.nats.restart(),
                        1 => w.rsyncd.restart(),
                        2 => w.restart_source(),
                        _ => {
                            let n = w.random.usize(..3);
                            w.followers[n].restart();
                        }
                    }
                }
                w.churn(CHURN);
                let _seed = Note(format!("seed {seed}\n"));
                w.check();
            }
            Ok(())
        }),
        case("the_stream_loses_its_tail", ON, |fs| {
            let mut w = World::new(fs, 3)?;
            w.check();
            w.nats.kill();
            let old = w.work.path().join("old");
            copy(&w.nats.store(), &old);
            w.nats.restart();
            w.churn(CHURN);
            w.check();
            // A power cut, with what was not written yet.
            w.nats.kill();
            std::fs::remove_dir_all(w.nats.store()).expect("the store can be removed");
            copy(&old, &w.nats.store());
            w.nats.restart();
            w.churn(CHURN);
            w.check();
            assert!(w.followers.iter().all(|f| comparisons(&f.daemon) > 0), "all of them compared");
            Ok(())
        }),
        case("the_store_is_wiped", ON, |fs| {
            let mut w = World::new(fs, 3)?;
            w.churn(CHURN);
            w.check();
            w.nats.kill();
            std::fs::remove_dir_all(w.nats.store()).expect("the store can be removed");
            w.churn(CHURN);
            w.nats.restart();
            w.churn(CHURN);
            w.check();
            assert!(w.followers.iter().all(|f| comparisons(&f.daemon) > 0), "all of them compared");
            Ok(())
        }),
        case("retention_is_overrun", ON, |fs| {
            let mut w = World::with(fs, 2, "keep_bytes = \"4KiB\"\n", "", "")?;
            w.check();
            w.followers[0].daemon.kill();
            for n in 0..40 {
                w.src.write(format!("kept-{n}-{}", "x".repeat(200)), b"each in a record of its own");
                w.daemon.flush(None);
            }
            w.followers[0].restart();
            w.check();
            w.follower_says(0, "were not kept long enough");
            assert_eq!(comparisons(&w.followers[1].daemon), 0, "who was there read them all");
            Ok(())
        }),
        case("a_follower_is_frozen", ON, |fs| {
            let mut w = World::new(fs, 2)?;
            w.check();
            w.followers[0].daemon.freeze();
            for _ in 0..10 {
                w.churn(CHURN / 4);
                w.daemon.flush(None);
            }
            w.barrier("f1");
            let said = w.flush("all", Duration::from_millis(200));
            assert_ne!(said.code, 0, "the frozen one holds nothing");
            w.followers[0].daemon.thaw();
            w.check();
            Ok(())
        }),
        case("an_upstream_of_another_identity_deletes_nothing", ON, |fs| {
            // What comes with a record is of the right tree.
            let mut w = World::with(fs, 1, "inline = \"0\"\n", "", "")?;
            w.src.mkdir("many");
            (0..50).for_each(|n| w.src.write(format!("many/{n}"), b"to be kept"));
            w.check();
            // The module leads to an empty directory, and then to another tree.
            let empty = w.work.path().join("empty");
            std::fs::create_dir(&empty).expect("it can be made");
            w.rsyncd.remove("web");
            w.rsyncd.add("web", empty.clone());
            (0..20).for_each(|n| w.src.remove(format!("many/{n}")));
            w.daemon.flush(None);
            w.follower_says(0, "it is not the tree that the feed is of");
            std::fs::create_dir(empty.join(".fansync")).expect("it can be made");
            let other = "fansync-feed 1\nfeed web\nidentity 00000000000000000000000000000001\n";
            std::fs::write(empty.join(".fansync/feed"), other).expect("it can be written");
            w.follower_says(0, "is another tree than the feed's");
            assert_eq!((0..50).filter(|n| w.followers[0].dir.has(format!("many/{n}"))).count(), 50, "nothing is deleted");
            w.rsyncd.remove("web");
            w.rsyncd.add("web", w.module.clone());
            w.check();
            Ok(())
        }),
        case("a_source_that_was_emptied_empties_no_follower", ON, |fs| {
            let w = World::new(fs, 1)?;
            (0..50).for_each(|n| w.src.write(format!("f{n}"), b"to be kept"));
            w.check();
            // At one blow, however long it takes.
            w.daemon.does(&["pause"]);
            for entry in std::fs::read_dir(w.src.root()).expect("it can be listed").flatten() {
                let _ = std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir_all(entry.path()));
            }
            w.daemon.does(&["resume"]);
            w.follower_says(0, "the source is held");
            assert!((0..50).all(|n| w.followers[0].dir.has(format!("f{n}"))), "nothing is deleted");
            (0..50).for_each(|n| w.src.write(format!("f{n}"), b"back again"));
            w.follower_says(0, "the source is held no more");
            w.check();
            Ok(())
        }),
        case("a_source_of_another_user_is_published", ON, |fs| {
            let mut w = World::new(fs, 0)?;
            w.daemon.kill();
            w.src.remove(".fansync");
            w.src.chmod(".", 0o755);
            w.src.chown(".", 33, 33);
            w.restart_source();
            let upstream = w.rsyncd.url("web");
            w.join_by(0, &[upstream], None, |_| {});
            w.src.write("late", b"of www-data");
            w.barrier("all");
            w.check();
            Ok(())
        }),
        case("a_mark_that_is_replaced_is_put_back", ON, |fs| {
            let w = World::new(fs, 2)?;
            w.check();
            let mark = || std::fs::read_to_string(w.src.at(".fansync/feed")).expect("it is there");
            let ours = mark();
            let ways: [(&str, &dyn Fn()); 5] = [
                ("another identity", &|| w.src.write(".fansync/feed", ours.replace("identity ", "identity 0").as_bytes())),
                ("a directory of a user's", &|| {
                    w.src.mkdir("his");
                    w.src.write("his/feed", b"anything");
                    w.src.chown("his", 1000, 1000);
                    w.src.exchange("his", ".fansync");
                }),
                ("a link", &|| {
                    w.src.remove(".fansync");
                    w.src.symlink("/nowhere", ".fansync");
                }),
                ("a file", &|| {
                    w.src.remove(".fansync");
                    w.src.write(".fansync", b"anything");
                }),
                ("a FIFO", &|| {
                    w.src.remove(".fansync/feed");
                    w.src.fifo(".fansync/feed");
                }),
            ];
            for (n, (way, replace)) in ways.iter().enumerate() {
                w.daemon.freeze();
                replace();
                w.src.write(format!("after-{n}"), vec![b'x'; 300 << 10]);
                w.src.write(format!("small-{n}"), way.as_bytes());
                w.daemon.thaw();
                w.barrier("all");
                w.check();
                assert_eq!(mark(), ours, "{way}");
            }
            Ok(())
        }),
        case("an_empty_source_can_begin", ON, |fs| {
            let work = fs::work_dir();
            let nats = Nats::start(work.path(), "")?;
            let tree = Ground::of(fs, work.path(), fs::IMAGE_MIB)?;
            let toml = format!(
                "[[mirror]]\nname = \"web\"\nsource = \"{}\"\n[[mirror.feed]]\nname = \"feed\"\nservers = [\"{}\"]\n",
                tree.src.root().display(),
                nats.url()
            );
            let daemon = Daemon::run_text(work.path(), &toml, Until::Reconciled);
            daemon.flush(None);
            Ok(())
        }),
        case("too_many_deletions_are_held", ON, |fs| {
            let w = World::with(fs, 1, "", "max_delete = 10\n", "")?;
            (0..40).for_each(|n| w.src.write(format!("f{n}"), b"x"));
            w.check();
            // In one record.
            w.daemon.does(&["pause"]);
            (0..20).for_each(|n| w.src.remove(format!("f{n}")));
            w.daemon.does(&["resume"]);
            w.daemon.flush(None);
            w.follower_says(0, "max_delete is 10");
            assert!((0..20).all(|n| w.followers[0].dir.has(format!("f{n}"))), "nothing is deleted");
            w.followers[0].daemon.does(&["resume", "--accept-deletes"]);
            w.check();
            Ok(())
        }),
        case("a_directory_with_other_things_is_not_emptied", ON, |fs| {
            let mut w = World::new(fs, 0)?;
            w.join(0, |dir| (0..30).for_each(|n| dir.write(format!("own-{n}"), b"of another")));
            w.follower_says(0, "more than half of what is here");
            assert!((0..30).all(|n| w.followers[0].dir.has(format!("own-{n}"))));
            w.followers[0].daemon.does(&["resume", "--accept-deletes"]);
            w.check();
            Ok(())
        }),
        case("a_second_publisher_is_fenced_off", ON, |fs| {
            let w = World::new(fs, 1)?;
            w.check();
            let other = fs::work_dir();
            let tree = other.path().join("other");
            std::fs::create_dir(&tree).expect("it can be made");
            std::fs::write(tree.join("file"), "of another tree").expect("it can be written");
            let toml =
                w.toml.replace(&format!("source = \"{}\"", w.src.root().display()), &format!("source = \"{}\"", tree.display()));
            let second = Daemon::run_text(other.path(), &toml, Until::Reconciled);
            second.flush(None);
            w.src.write("top", b"the first one publishes again");
            w.daemon.target_status_until("feed", "it is refused", |t| t.reason.contains("another publisher"));
            Ok(())
        }),
        case("a_pause_and_a_flush_are_as_for_any_target", ON, |fs| {
            let w = World::new(fs, 1)?;
            w.check();
            w.followers[0].daemon.does(&["pause"]);
            w.src.write("top", b"while it is paused");
            w.daemon.flush(None);
            let said = w.followers[0].daemon.client(&["flush", "--timeout", "200ms"], WAIT);
            assert!(said.code != 0 && said.stderr.contains("paused"), "{}", said.stderr);
            assert_eq!(w.followers[0].dir.read("top"), Some(b"first".to_vec()));
            w.followers[0].daemon.does(&["resume"]);
            w.followers[0].daemon.flush(None);
            assert_eq!(w.followers[0].dir.read("top"), Some(b"while it is paused".to_vec()));
            w.daemon.does(&["pause"]);
            w.src.write("top", b"while the source is paused");
            w.daemon.does(&["resume"]);
            w.check();
            Ok(())
        }),
        case("what_is_pulled_last_names_nothing_that_is_missing", ON, |fs| {
            let mut w = World::with(fs, 1, "last = [\"/dists/**/Release*\"]\n", "", "")?;
            w.src.mkdirs("dists/stable");
            w.src.mkdir("pool");
            w.check();
            let ends = Arc::new(AtomicBool::new(false));
            let (copy, stop) = (w.followers[0].dir.root().to_owned(), Arc::clone(&ends));
            // Each release names the package of its number, which is larger than it by far.
            let reader = std::thread::spawn(move || {
                let mut seen = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let Ok(release) = std::fs::read_to_string(copy.join("dists/stable/Release")) else { continue };
                    let package = copy.join("pool").join(&release);
                    let size = package.metadata().map(|found| found.len()).ok();
                    if size != Some(8 << 20) {
                        return Err(format!("the release {release} is there, and its package has {size:?}"));
                    }
                    seen.insert(release);
                }
                Ok(seen.len())
            });
            let package = vec![b'x'; 8 << 20];
            for n in 0..15 {
                w.daemon.does(&["pause"]);
                w.src.write(format!("pool/{n}"), &package);
                w.src.write("dists/stable/Release", format!("{n}").as_bytes());
                w.daemon.does(&["resume"]);
                w.barrier("f0");
            }
            ends.store(true, Ordering::Relaxed);
            let seen = reader.join().expect("the reader does not panic");
            assert!(seen.as_ref().is_ok_and(|seen| *seen > 5), "{seen:?}");
            w.churn(CHURN);
            w.check();
            Ok(())
        }),
        case("a_directory_becomes_a_link_while_what_is_in_it_is_pulled", ON, |fs| {
            for link in ["nowhere", "d", "/", "."] {
                let work = fs::work_dir();
                let keys = instead_of_rsync(work.path(), HOLDS_BIG);
                let w = World::with(fs, 1, "", &keys, "")?;
                w.src.mkdir("u");
                w.src.write("u/a", b"a");
                w.check();
                let sign = |name: &str| work.path().join(format!("rsync.{name}"));
                std::fs::write(sign("hold"), "").expect("it can be written");
                w.src.write("u/big", vec![b'x'; 3 << 20]);
                let waits = || sign("waits").exists().then_some(());
                assert!(poll_until(WAIT, waits).is_some(), "it is not pulled:\n{}", w.followers[0].daemon.log());
                w.src.remove("u");
                w.src.symlink(link, "u");
                w.src.write("other", vec![b'y'; 300 << 10]);
                w.daemon.flush(None);
                std::fs::write(sign("go"), "").expect("it can be written");
                w.barrier("all");
                w.check();
            }
            Ok(())
        }),
        case("what_does_not_fit_holds_nothing_else_up_and_a_barrier_names_it", ON, |fs| {
            let mut w = World::new(fs, 1)?;
            let upstream = w.rsyncd.url("web");
            let mut small = None;
            w.join_by(1, &[upstream], None, |copy| small = Some(Mount::tmpfs_of(copy.root(), "4m")));
            w.check();
            w.daemon.does(&["pause"]);
            w.src.write("large", vec![b'x'; 8 << 20]);
            w.src.write("medium", vec![b'y'; 1 << 20]);
            w.src.write("small", b"z");
            w.src.remove("d/e/f");
            w.daemon.does(&["resume"]);
            let said = w.flush("all", WAIT);
            assert_eq!(said.code, 1, "{}", said.stderr);
            assert!(said.stderr.contains("at f1") && said.stderr.contains("lacks 1 path"), "{}", said.stderr);
            assert_eq!(w.flush("f0", WAIT).code, 0);
            let copy = w.followers[1].dir.root();
            assert!(!copy.join("large").exists() && !copy.join("d/e/f").exists());
            assert!(copy.join("medium").exists() && copy.join("small").exists(), "they fit");
            assert!(w.daemon.does(&["status"]).contains("FAILED  f1 lacks 1 path"));
            w.src.remove("large");
            w.barrier("all");
            w.check();
            w.followers[1].daemon.kill();
            drop(small);
            Ok(())
        }),
        case("a_run_that_hangs_is_ended", ON, |fs| {
            let work = fs::work_dir();
            let (script, hangs) = (work.path().join("rsync"), work.path().join("hangs"));
            let text = format!("#!/bin/sh\n[ -e {} ] && exec sleep 1000\nexec rsync \"$@\"\n", hangs.display());
            std::fs::write(&script, text).expect("it can be written");
            std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode can be set");
            let keys =
                format!("rsync = \"{}\"\ntimeout = \"1s\"\nconnect_timeout = \"1s\"\nwatchdog = \"2s\"\n", script.display());
            let mut w = World::with(fs, 1, "", &keys, "")?;
            w.check();
            std::fs::write(&hangs, "").expect("it can be written");
            // The standby process takes the first list.
            for n in 0..3 {
                w.churn(CHURN);
                w.src.mkdirs(format!("new/{n}"));
                w.daemon.flush(None);
            }
            w.follower_says(0, "a run made no progress");
            std::fs::remove_file(&hangs).expect("it can be removed");
            w.check();
            Ok(())
        }),
        case("small_changes_come_with_their_record_and_nothing_is_pulled", ON, |fs| {
            let mut w = World::new(fs, 2)?;
            w.src.mkdirs("was-dir/below");
            w.src.write("was-dir/below/x", b"x");
            w.src.write("was-file", b"x");
            w.src.mkdir("gone");
            (0..5).for_each(|n| w.src.write(format!("gone/{n}"), b"x"));
            w.check();
            (0..2).for_each(|n| w.change_until(n, |inline| inline.applied > 0));
            w.check();
            // From here on there is no upstream.
            w.rsyncd.stop();
            let before: Vec<u64> = w.followers.iter().map(|f| f.inline().applied).collect();
            w.src.write("d/e/f", b"second");
            w.src.write("d/new", b"new");
            w.src.symlink("d/new", "link");
            w.src.chmod("d", 0o711);
            w.src.chown("d/e/f", 7, 8);
            w.src.fifo("fifo");
            w.src.remove("top");
            std::fs::remove_dir_all(w.src.at("gone")).expect("it can be removed");
            w.check();
            std::fs::remove_dir_all(w.src.at("was-dir")).expect("it can be removed");
            w.src.write("was-dir", b"a file in the place of a directory");
            w.src.remove("was-file");
            w.src.symlink("nowhere", "was-file");
            w.check();
            for name in ["-x", "--delete", "#x", ";x", "*", "[x]", "a b", " a", "\\x", "a\nb", "x\u{1}", "->", &"n".repeat(255)] {
                w.src.write(name, name);
            }
            w.src.write(crate::fixture::tree::bytes(b"\xff\xfe"), b"no UTF-8");
            w.check();
            for name in ["-x", "--delete", "#x", ";x", "*", "[x]", "a b", "a\nb", "->"] {
                w.src.remove(name);
            }
            w.check();
            for (follower, before) in w.followers.iter().zip(before) {
                let inline = follower.inline();
                assert!(inline.applied >= before + 4, "{inline:?}, {before} before");
            }
            // What does not fit is pulled, once that can be done.
            w.src.write("large", [b'x'].repeat(300_000));
            w.daemon.flush(None);
            w.rsyncd.restart();
            w.check();
            Ok(())
        }),
        case("a_batch_that_fails_or_hangs_is_pulled", ON, |fs| {
            for (what, lines) in [("exit 12", ""), ("exec sleep 1000", "timeout = \"1s\"\n")] {
                let tools = fs::work_dir();
                let lines = lines.to_owned()
                    + &instead_of_rsync(tools.path(), &format!("case \"$*\" in *--read-batch=-*) {what};; esac"));
                let mut w = World::with(fs, 1, "", &lines, "")?;
                w.check();
                w.change_until(0, |inline| inline.pulled.contains_key("failed"));
                w.churn(CHURN);
                w.check();
                assert_eq!(w.followers[0].inline().applied, 0, "{what}");
            }
            Ok(())
        }),
        case("a_follower_with_an_older_rsync_or_other_options_pulls", ON, |fs| {
            let tools = fs::work_dir();
            let older =
                instead_of_rsync(tools.path(), "[ \"$1\" = -VV ] && { echo 'rsync  version 3.2.7  protocol version 31'; exit; }");
            for (keys, reason) in [(older.as_str(), "older_rsync"), ("acls = true\n", "options")] {
                let mut w = World::with(fs, 1, "", keys, "")?;
                w.check();
                w.change_until(0, |inline| inline.pulled.contains_key(reason));
                w.churn(CHURN);
                w.check();
                assert_eq!(w.followers[0].inline().applied, 0, "{reason}");
            }
            Ok(())
        }),
        case("batches_that_wait_beside_pulls_end_equal", ON, |fs| {
            let mut w = World::new(fs, 2)?;
            w.check();
            (0..2).for_each(|n| w.change_until(n, |inline| inline.applied > 0));
            for _ in 0..6 {
                w.followers[0].daemon.does(&["pause"]);
                for _ in 0..8 {
                    w.churn(CHURN / 10);
                    w.src.write("top", w.random.u64(..).to_le_bytes());
                    w.daemon.flush(None);
                }
                w.followers[0].daemon.does(&["resume"]);
                w.check();
            }
            assert_eq!(w.followers.iter().map(|f| comparisons(&f.daemon)).sum::<usize>(), 0);
            Ok(())
        }),
        case("a_file_that_changes_while_it_is_written_down", ON, |fs| {
            let w = World::new(fs, 1)?;
            w.check();
            w.change_until(0, |inline| inline.applied > 0);
            for n in 0..400 {
                w.src.write("busy", [b'a' + (n % 26) as u8].repeat(n * 97 % 60_000));
                if n % 7 == 0 {
                    w.src.remove("busy");
                }
            }
            w.check();
            Ok(())
        }),
        case("a_batch_follows_no_link_out_of_the_directory", ON, |fs| {
            let w = World::new(fs, 1)?;
            w.check();
            w.change_until(0, |inline| inline.applied > 0);
            let copy = &w.followers[0].dir;
            let outside = Dir::new(w.work.path().join("outside"));
            outside.mkdirs("e");
            outside.write("e/f", b"not the follower's");
            outside.write("e/g", b"not the follower's");
            std::fs::remove_dir_all(copy.at("d")).expect("it can be removed");
            copy.symlink(outside.root(), "d");
            let before = w.followers[0].inline().applied;
            w.src.write("d/e/f", b"second");
            w.check();
            assert!(w.followers[0].inline().applied > before, "{:?}", w.followers[0].inline());
            for name in ["e/f", "e/g"] {
                assert_eq!(outside.read(name), Some(b"not the follower's".to_vec()));
            }
            Ok(())
        }),
        case("a_batch_with_what_a_follower_leaves_out_is_pulled", ON, |fs| {
            let w = World::with(fs, 1, "", "exclude = [\"/d/e/\"]\n", "")?;
            w.barrier("f0");
            w.change_until(0, |inline| inline.applied > 0);
            w.followers[0].dir.mkdirs("d/e");
            w.followers[0].dir.write("d/e/own", b"the follower's");
            w.src.write("d/e/f", b"second");
            w.barrier("f0");
            assert!(w.followers[0].inline().pulled.contains_key("excluded"), "{:?}", w.followers[0].inline());
            // What is left out stays, also where the directory above it goes.
            std::fs::remove_dir_all(w.src.at("d")).expect("it can be removed");
            w.barrier("f0");
            let copy = &w.followers[0].dir;
            assert_eq!((copy.has("d/e/own"), copy.has("d/e/f")), (true, false));
            Ok(())
        }),
        case("a_follower_may_not_publish", ON, |fs| {
            let accounts = "accounts { A { jetstream: enabled, users: [\n\
                { user: source, password: s, permissions: { publish: [\"fansync.web\", \"$JS.API.>\"], subscribe: [\"_INBOX.>\", \"fansync.at.web.*\"] } },\n\
                { user: f0, password: f, permissions: { publish: [\"fansync.at.web.f0\", \"$JS.API.DIRECT.GET.FANSYNC_web\"], subscribe: [\"_INBOX.>\", \"fansync.live.web\"] } },\n\
                { user: nobody, password: n, permissions: { publish: [\"x\"], subscribe: [\"x\"] } }\n] } }\n";
            let secrets = fs::work_dir();
            let secret = |name: &str, text: &str| {
                let path = secrets.path().join(name);
                std::fs::write(&path, text).expect("it can be written");
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                    .expect("its mode can be set");
                path.display().to_string()
            };
            let login = |user: &str, file: String| format!("nats_user = \"{user}\"\nnats_password_file = \"{file}\"\n");
            let (source, own) = (login("source", secret("s", "s")), login("f0", secret("f", "f")));
            let mut w = World::with(fs, 1, &source, &own, accounts)?;
            w.churn(CHURN);
            w.check();
            // With the rights of a follower nothing is published, and with none nothing is learned.
            let other = fs::work_dir();
            let toml = w.toml.replace(&source, &own);
            let second = Daemon::run_text(other.path(), &toml, Until::Answering);
            second.target_status_until("feed", "it is refused", |t| !t.reason.is_empty() && t.state != "idle");
            w.keys = login("nobody", secret("n", "n"));
            w.join(1, |_| {});
            w.follower_says(1, "the feed cannot be read");
            w.followers.pop();
            w.churn(CHURN);
            w.check();
            assert_eq!(comparisons(&w.followers[0].daemon), 0, "no other publisher");
            Ok(())
        }),
    ]
}
