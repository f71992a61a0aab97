//! `exclude_regex` and `exclude_temporary`: names that are left out by expressions, judged by hand
//! beside the daemon's own idea of them; and what counts as a deletion where such names are.

use std::path::Path;

use nix::sys::signal::{Signal, kill};

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times, count};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

const EXPRESSIONS: [&str; 5] = [r"(.*)\.svn", "^info/*", "^static/.*$", r"/sub/deep/.*\.gz", "(.*)cache_[0-9]+"];

pub fn cases() -> Vec<Case> {
    vec![
        case("live", ALL, |fs| {
            let m = setup(fs).start()?;
            fill(&m.src, "");
            check(&m);
            for name in ["a", "a.svn", "sub/.f", "sub/cache_1x", ".hidden/a"] {
                m.src.append(name, b"more");
            }
            check(&m);
            // Names that only the guards know, and a directory that has the name of a temporary
            // file.
            m.src.remove("sub/cache_1x");
            m.src.remove("a.svn");
            m.src.remove(".hidden");
            check(&m);
            assert!(!m.dst().has("sub/cache_1x") && !m.dst().has(".hidden"));
            Ok(())
        }),
        case("present_at_start", ALL, |fs| {
            let m = setup(fs).before(|src| fill(src, "")).start()?;
            check(&m);
            Ok(())
        }),
        case("whole_directories", ALL, |fs| {
            let m = setup(fs).start()?;
            m.out.mkdir("push");
            fill(&m.out, "push");
            m.out.rename_to("push", &m.src, "sub");
            check(&m);
            assert!(m.dst().has("sub/a") && !m.dst().has("sub/.f") && !m.dst().has("sub/sub/a.svn"));
            m.src.rename("sub", "sub2");
            check(&m);
            for n in 0..300 {
                m.src.write(format!("sub2/{n}"), b"many in one directory");
                m.src.write(format!("sub2/{n}.svn"), b"excluded");
            }
            check(&m);
            assert!(!m.dst().has("sub2/17.svn"));
            m.src.remove("sub2");
            check(&m);
            assert!(!m.dst().has("sub2"), "a directory that is gone stays");
            Ok(())
        }),
        case("what_the_target_has_stays", ALL, |fs| {
            let m = setup(fs).start()?;
            fill(&m.src, "");
            check(&m);
            for path in ["theirs.svn", "sub/theirs.svn", "sub/.theirs", "sub/cache_7", "cache_7"] {
                m.dst().write(path, b"the target's own");
            }
            m.dst().write("sub/cache_7x", b"the guards match it, no expression does");
            reconcile(&m);
            assert!(!m.dst().has("sub/cache_7x"), "what is not excluded stays");
            m.src.remove("sub");
            m.daemon.flush(None);
            reconcile(&m);
            for path in ["theirs.svn", "sub/theirs.svn", "sub/.theirs", "sub/cache_7", "cache_7"] {
                assert!(m.dst().has(path), "{path} was deleted although it is excluded");
            }
            assert!(!m.dst().has("sub/a") && !m.dst().has("sub/deep"));
            Ok(())
        }),
        case("renamed_out_of_exclusion_and_back", ALL, |fs| {
            let m = setup(fs).start()?;
            fill(&m.src, "");
            check(&m);
            m.src.rename("a.svn", "a.php");
            m.src.rename(".f", "f");
            m.src.rename("info", "sub/info2");
            check(&m);
            assert!(m.dst().has("a.php") && m.dst().has("f") && m.dst().has("sub/info2"));
            m.src.rename("a.php", "a.svn");
            m.src.rename("f", ".f");
            m.daemon.flush(None);
            assert!(!m.dst().has("a.php") && !m.dst().has("f"));
            Ok(())
        }),
        case("a_receiver_that_cannot_delete_by_name", &[Fs::Tmpfs], |fs| {
            // Include patterns are read in the same way.
            let m = setup(fs).key("include", vec![toml::Value::from("keep.svn")]).start()?;
            fill(&m.src, "");
            m.src.write("keep.svn", b"included after all");
            m.check_but(Times::NotOfDirs, &left_out);
            assert!(m.dst().has("keep.svn") && !m.dst().has("a.svn"));
            m.dst().write("sub/theirs.svn", b"the target's own");
            m.src.remove("sub/a");
            m.src.remove("sub/deep");
            m.src.remove("a");
            m.check_but(Times::NotOfDirs, &left_out);
            assert!(!m.dst().has("sub/a") && !m.dst().has("sub/deep") && m.dst().has("sub/theirs.svn"));
            Ok(())
        }),
        case("deletions_are_bounded_and_what_is_left_out_does_not_count", &[Fs::Tmpfs], |fs| {
            let m = guarded(fs)
                .key("max_delete", 10)
                .before(|src| {
                    fill(src, "");
                    src.mkdir("big");
                    (0..30).for_each(|n| src.write(format!("big/{n}"), b"one of many"));
                })
                .before_on_target(|dst| {
                    // More than the bound, and a directory that holds nothing else.
                    (0..20).for_each(|n| dst.write(format!(".own{n}"), b"the target's own"));
                    (0..20).for_each(|n| dst.write(format!("own{n}.svn"), b"the target's own"));
                    dst.mkdirs("kept/by");
                    dst.write("kept/by/.f", b"the target's own");
                    dst.mkdir("big");
                    dst.write("big/.f", b"the target's own");
                })
                .start()?;
            let own = |path: &Path| left_out(path) || path.starts_with("kept");
            let equal = |m: &Mirror| {
                m.check_but(Times::NotOfDirs, &own);
                assert_eq!(m.daemon.target_status("t1").held_deletes, 0, "something is held");
                (0..20).for_each(|n| assert!(m.dst().has(format!(".own{n}")) && m.dst().has(format!("own{n}.svn"))));
                assert!(m.dst().has("kept/by/.f"), "a directory of what is left out was deleted");
            };
            equal(&m);
            // By a comparison and by name, within the bound.
            (0..5).for_each(|n| m.dst().write(format!("extra{n}"), b"the source has no such"));
            reconcile(&m);
            equal(&m);
            at_once(&m, || ["a", "sub/a", "sub/deep/a.gz", "informal"].map(|name| m.src.remove(name)));
            equal(&m);
            // Beyond: what is left out in there is not counted, nor the directory, which stays for
            // it.
            at_once(&m, || m.src.remove("big"));
            m.src.write("goes on", b"beside what is held");
            let held = || m.daemon.try_status().filter(|s| s.mirrors[0].targets[0].held_deletes > 0);
            let held = poll_until(WAIT, held).expect("what is beyond the bound is held").mirrors.remove(0).targets.remove(0);
            assert_eq!((held.held_deletes, held.state.as_str()), (30, "held"), "{held:?}");
            assert!(poll_until(WAIT, || m.dst().has("goes on").then_some(())).is_some(), "what is held holds up the rest");
            (0..30).for_each(|n| assert!(m.dst().has(format!("big/{n}")), "big/{n} was deleted"));
            m.daemon.does(&["resume", "--accept-deletes"]);
            m.daemon.flush(None);
            assert!(m.dst().has("big/.f") && !m.dst().has("big/0"));
            m.check_but(Times::NotOfDirs, &|path| own(path) || path.starts_with("big"));
            reconcile(&m);
            assert_eq!(m.daemon.target_status("t1").held_deletes, 0, "what is left out is held");
            Ok(())
        }),
        case("deletions_of_a_comparison_are_bounded", &[Fs::Tmpfs], |fs| {
            let m = guarded(fs).key("max_delete", 10).before(|src| fill(src, "")).start()?;
            check(&m);
            (0..15).for_each(|n| m.dst().write(format!("extra{n}"), b"the source has no such"));
            m.dst().remove("a");
            m.daemon.reconcile();
            let held = m.daemon.target_status_until("t1", "held", |t| t.state == "held");
            assert_eq!(held.held_deletes, 15, "{held:?}");
            (0..15).for_each(|n| assert!(m.dst().has(format!("extra{n}")), "extra{n} was deleted"));
            assert!(m.dst().has("a"), "what differs besides was not sent");
            m.daemon.does(&["resume", "--accept-deletes"]);
            check(&m);
            Ok(())
        }),
        case("a_first_comparison_spares_what_it_did_not_make", &[Fs::Tmpfs], |fs| {
            let theirs = |dst: &Dir| (0..150).for_each(|n| dst.write(format!("theirs{n}"), b"x"));
            let m = guarded(fs).before(|src| fill(src, "")).before_on_target(theirs).start()?;
            let held = || m.daemon.target_status_until("t1", "held", |t| t.state == "held" && t.held_deletes == 150);
            held();
            // A target that was taken for filled would lose them now.
            m.daemon.reconcile();
            held();
            m.dst().remove("a");
            m.daemon.reconcile();
            assert!(poll_until(WAIT, || m.dst().has("a").then_some(())).is_some(), "what differs besides is not sent");
            held();
            (0..150).for_each(|n| assert!(m.dst().has(format!("theirs{n}")), "theirs{n} was deleted"));
            m.daemon.does(&["resume", "--accept-deletes"]);
            check(&m);
            Ok(())
        }),
        case("emptied_but_for_what_is_left_out", &[Fs::Tmpfs], |fs| {
            let m = guarded(fs)
                .before(|src| {
                    fill(src, "");
                    (0..20).for_each(|n| src.write(format!("f{n}"), b"one of many"));
                })
                .before_on_target(|dst| dst.write("theirs.svn", b"the target's own"))
                .start()?;
            check(&m);
            let before = count(m.dst().root()).expect("it can be read");
            at_once(&m, || {
                let names = std::fs::read_dir(m.src.root()).expect("the source can be read");
                let names = names.map(|entry| entry.expect("an entry").file_name()).collect::<Vec<_>>();
                for name in names.iter().filter(|name| !left_out(Path::new(name))) {
                    m.src.remove(name);
                }
            });
            assert!(m.src.has("a.svn") && m.src.has(".f"), "what is left out is still there");
            let held = || m.daemon.try_status().filter(|s| s.mirrors[0].held.contains("at one blow"));
            assert!(poll_until(WAIT, held).is_some(), "an emptied source is not held");
            assert_eq!(count(m.dst().root()).expect("it can be read"), before, "something was deleted");
            m.daemon.does(&["resume", "--accept-source"]);
            m.check_but(Times::NotOfDirs, &left_out);
            assert!(!m.dst().has("f0") && m.dst().has("theirs.svn"));
            Ok(())
        }),
        case("what_is_left_out_takes_the_name_of_what_is_not", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            for to in [To::Local, To::Module] {
                let m = setup(fs).targets(&[to]).key("exclude", vec!["*.dir/"]).before(|src| {
                    src.mkdirs("p/.a/sub/.deeper");
                    src.write("p/.a/sub/.deeper/f", b"f");
                    for dir in ["p/.c", ".top", "p/4913"] {
                        src.mkdirs(dir);
                    }
                    src.write(".top/f", b"f");
                    src.write("p/.c/f", b"f");
                    src.write("p/4913/f", b"f");
                    src.write("p/x.dir", b"a file");
                    src.write("p/stays", b"stays");
                });
                let m = m.start()?;
                let left_out = |path: &Path| left_out(path) || path.extension().is_some_and(|e| e == "dir");
                m.check_but(Times::NotOfDirs, &|path| left_out(path) && !m.src.at(path).is_dir());
                m.dst().write("p/.c/theirs.svn", b"the target's own");
                m.dst().write("p/.own", b"the target's own");
                at_once(&m, || {
                    for dir in ["p/.a", "p/.c", ".top", "p/4913"] {
                        m.src.remove(dir);
                        m.src.write(dir, b"a file that is left out");
                    }
                    m.src.remove("p/x.dir");
                    m.src.mkdirs("p/x.dir/sub");
                    m.src.write("p/new", b"new");
                });
                m.check_but(Times::NotOfDirs, &left_out);
                for gone in ["p/.a", "p/.c/f", ".top", "p/4913", "p/x.dir"] {
                    assert!(!m.dst().has(gone), "{to:?}: {gone} is still on the target");
                }
                assert!(m.dst().has("p/.c/theirs.svn") && m.dst().has("p/.own"), "{to:?}: what is left out was deleted");
                // Found by a comparison of everything, without an event.
                m.dst().mkdirs("p/.a/sub");
                m.dst().write("p/.a/sub/f", b"f");
                m.dst().mkdirs(".top");
                m.dst().write(".top/f", b"f");
                m.dst().write("p/x.dir", b"a file");
                reconcile(&m);
                m.check_but(Times::NotOfDirs, &left_out);
                for gone in ["p/.a", ".top", "p/x.dir"] {
                    assert!(!m.dst().has(gone), "{to:?}: {gone} is on the target after a comparison of everything");
                }
                assert!(m.dst().has("p/.c/theirs.svn") && m.dst().has("p/.own") && m.dst().has("p/stays"), "{to:?}");
            }
            Ok(())
        }),
        case("a_small_source_is_not_held_for_what_the_target_has", &[Fs::Tmpfs], |fs| {
            // Nothing to send at the start, and nothing that could be lost.
            let m = guarded(fs)
                .before(|src| src.write(".only", b"left out"))
                .before_on_target(|dst| (0..15).for_each(|n| dst.write(format!(".own{n}"), b"the target's own")))
                .start()?;
            let equal = |m: &Mirror| {
                m.check_but(Times::NotOfDirs, &left_out);
                let status = m.daemon.status();
                assert_eq!(status.mirrors[0].held, "", "the mirror is held");
                (0..15).for_each(|n| assert!(m.dst().has(format!(".own{n}")), "what is left out was deleted"));
            };
            equal(&m);
            m.src.mkdir("d");
            m.src.write("d/f", b"the only one");
            equal(&m);
            (0..15).for_each(|n| m.dst().write(format!("d/.own{n}"), b"the target's own"));
            m.src.remove("d");
            m.check_but(Times::NotOfDirs, &|path| left_out(path) || path == Path::new("d"));
            assert!(!m.dst().has("d/f") && m.dst().has("d/.own3"));
            reconcile(&m);
            assert_eq!(m.daemon.status().mirrors[0].held, "", "a comparison of an empty source is held");
            Ok(())
        }),
    ]
}

fn setup(fs: Fs) -> Setup {
    guarded(fs).key("allow_empty", true)
}

/// The same, held when its source is emptied.
fn guarded(fs: Fs) -> Setup {
    let expressions = EXPRESSIONS.iter().map(|e| toml::Value::from(*e)).collect::<Vec<_>>();
    Setup::guarded(fs).key("exclude_regex", expressions).key("exclude_temporary", true)
}

/// So fast that fansync sees nothing of it before it is done.
fn at_once<T>(m: &Mirror, act: impl FnOnce() -> T) {
    m.daemon.freeze();
    act();
    m.daemon.thaw();
}

/// By hand, beside the daemon's own idea of it.
fn left_out(path: &Path) -> bool {
    let at = |n: usize| path.components().nth(n).map(|c| c.as_os_str().to_str().unwrap_or_default());
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let numbered = name.strip_prefix("cache_").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    name.ends_with(".svn")
        || at(0) == Some("info")
        || (at(0) == Some("sub") && at(1) == Some("deep") && name.ends_with(".gz"))
        || numbered
        || (name.starts_with('.') && name != ".hidden")
        || name.ends_with('~')
        || name == "4913" // of files; the tree has one directory with such a name
}

/// A tree with every case of the rules.
fn fill(src: &Dir, below: &str) {
    let at = |name: &str| if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
    src.mkdirs(at("sub/deep"));
    src.mkdirs(at(".hidden"));
    src.mkdirs(at("sub/.hidden"));
    for name in ["a", "a.svn", ".f", ".hidden/a", ".hidden/.f", "x~", "4913", "x.swp", "#x#", "a.tmp", "cache_12", "cache_1x"] {
        src.write(at(name), name.as_bytes());
        src.write(at(&format!("sub/{name}")), name.as_bytes().repeat(2));
    }
    for name in ["info", "informal", "sub/info", "sub/deep/a.gz", "a.gz", "sub/a.gz"] {
        src.write(at(name), name.as_bytes());
    }
}

#[track_caller]
fn check(m: &Mirror) {
    m.check_but(Times::NotOfDirs, &left_out);
    for path in ["a.svn", "info", ".f", "x~", "4913", "cache_12", "sub/a.svn", "sub/deep/a.gz", "sub/cache_12", ".hidden/.f"] {
        assert!(!m.dst().has(path), "{path} is on the target");
    }
}

/// Asks for a comparison of the whole tree, and waits for what it sends.
pub(crate) fn reconcile(m: &Mirror) {
    let full = || m.daemon.status().mirrors[0].targets[0].runs;
    let before = full();
    kill(m.daemon.pid(), Signal::SIGUSR1).expect("the daemon runs");
    poll_until(WAIT, || (full() > before).then_some(())).expect("a comparison of the whole tree");
    m.daemon.flush(None);
}
