//! `delete = "startup"` and `delete = "running"`: which deletions are carried out, and which are
//! not.

use std::time::Duration;

use crate::expressions::reconcile;
use crate::fixture::daemon::Until;
use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Setup, To, WAIT, case};

fn tree(src: &Dir) {
    ["d", "dir", "typed"].iter().for_each(|dir| src.mkdir(dir));
    for path in ["a", "b", "d/x", "d/y", "dir/f", "typed/f"] {
        src.write(path, b"1");
    }
}

fn extra(dst: &Dir) {
    dst.write("extra", b"of the target alone");
    dst.mkdir("d");
    dst.write("d/extra", b"of the target alone");
}

/// A deletion, a rename, a directory that goes, one that a file takes the place of.
fn change(src: &Dir) {
    src.remove("a");
    src.rename("b", "b2");
    src.remove("d/x");
    src.remove("dir/f");
    src.rmdir("dir");
    src.write("new", b"2");
}

pub fn cases() -> Vec<Case> {
    vec![
        startup(),
        startup_is_bounded(),
        running(),
        running_directories(),
        running_other_directories("a_directory_that_comes_while_another_goes_is_not_merged_with_it", "auto"),
        running_other_directories("with_inotify_a_directory_that_comes_is_not_merged_with_one_that_goes", "inotify"),
        running_cut_off(),
        running_by_name_only(),
    ]
}

fn startup() -> Case {
    case("the_start_deletes_and_nothing_else_does", &[Fs::Tmpfs, Fs::Ext4], |fs| {
        let mut m = Setup::new(fs).key("delete", "startup").before(tree).before_on_target(extra).start()?;
        m.check();
        assert!(!m.dst().has("extra") && !m.dst().has("d/extra"), "the first comparison does not delete");
        change(&m.src);
        m.daemon.flush(None);
        let kept = |what: &str| {
            let all = ["a", "b", "d/x", "dir/f", "new", "b2"].iter().all(|path| m.dst().has(path));
            assert!(all, "{what} deleted something");
        };
        kept("a change");
        let shown = m.daemon.does(&["explain", &m.src.at("a").display().to_string()]);
        assert!(shown.contains("delete = \"startup\" keeps") && shown.contains("until the next start"), "{shown}");
        m.dst().write("extra", b"again");
        reconcile(&m);
        m.daemon.flush(None);
        kept("a comparison that was requested");
        m.daemon.does(&["verify", "--repair"]);
        kept("verify");
        assert!(m.dst().has("extra"), "it is not the start's");
        m.daemon.terminate();
        m.restart(Until::Reconciled);
        m.check();
        let start = m.daemon.status().mirrors.remove(0).start;
        assert_eq!(start.how, "comparison", "{start:?}");
        Ok(())
    })
}

/// What the start's comparison would delete beyond the bound is the start's still when it is
/// accepted.
fn startup_is_bounded() -> Case {
    case("what_the_start_held_goes_when_it_is_accepted", &[Fs::Tmpfs], |fs| {
        let m = Setup::new(fs).key("delete", "startup").key("max_delete", 1).before(tree).before_on_target(extra).start()?;
        let held = || Some(m.daemon.status().mirrors.remove(0).targets.remove(0)).filter(|t| t.held_deletes == 2);
        poll_until(WAIT, held).expect("two deletions are held");
        m.src.remove("a");
        m.src.write("later", b"2");
        let sent = || m.dst().has("later").then_some(());
        poll_until(WAIT, sent).expect("all else goes on");
        assert!(m.dst().has("a") && m.dst().has("extra") && m.dst().has("d/extra"));
        m.daemon.does(&["resume", "--accept-deletes"]);
        m.check();
        Ok(())
    })
}

fn running() -> Case {
    case("what_goes_is_deleted_and_what_only_the_target_has_is_not", &[Fs::Tmpfs, Fs::Ext4], |fs| {
        let mut m = Setup::new(fs).key("delete", "running").before(tree).before_on_target(extra).start()?;
        m.daemon.flush(None);
        change(&m.src);
        // Empty but for what only the target has.
        m.src.remove("d/y");
        m.src.remove("typed/f");
        m.src.rmdir("typed");
        m.src.write("typed", b"a file now");
        m.daemon.flush(None);
        let gone = ["a", "b", "d/x", "d/y", "dir"];
        let there = |m: &crate::fixture::Mirror, what: &str| {
            assert!(["extra", "d/extra", "new", "b2"].iter().all(|path| m.dst().has(path)), "{what} deleted something");
        };
        assert!(gone.iter().all(|path| !m.dst().has(path)), "a deletion was not carried out");
        assert_eq!(m.dst().read("typed").as_deref(), Some(&b"a file now"[..]));
        there(&m, "a change");
        reconcile(&m);
        m.daemon.flush(None);
        there(&m, "a comparison that was requested");
        m.daemon.does(&["verify", "--repair"]);
        there(&m, "verify");
        m.daemon.terminate();
        m.src.remove("new");
        m.restart(Until::Watching);
        m.src.write("more", b"3");
        m.daemon.flush(None);
        there(&m, "a start");
        m.src.remove("more");
        m.daemon.flush(None);
        assert!(!m.dst().has("more"));
        Ok(())
    })
}

/// A directory that comes is merged with what the target has under its name, unless one of that
/// name went before.
fn running_directories() -> Case {
    case("a_directory_that_comes_takes_nothing_away", &[Fs::Tmpfs, Fs::Ext4], |fs| {
        for watch in ["fanotify", "inotify"] {
            let fill = |dst: &Dir| {
                extra(dst);
                for dir in ["made", "moved", "restarted", "restarted/sub"] {
                    dst.mkdir(dir);
                    dst.write(format!("{dir}/only"), b"of the target alone");
                }
            };
            let m = Setup::new(fs).watch(watch).key("delete", "running");
            let mut m = m.before(tree).before_on_target(fill).start()?;
            m.daemon.flush(None);
            let kept = |m: &crate::fixture::Mirror, what: &str| {
                let all = ["made/only", "moved/only", "restarted/only", "restarted/sub/only", "extra"];
                assert!(all.iter().all(|path| m.dst().has(path)), "{watch}: {what} deleted something");
            };
            m.src.mkdir("made");
            m.src.write("made/n", b"2");
            m.out.mkdir("moved");
            m.out.write("moved/n", b"2");
            std::fs::rename(m.out.at("moved"), m.src.at("moved")).expect("a directory is moved in");
            m.daemon.flush(None);
            assert!(m.dst().has("made/n") && m.dst().has("moved/n"));
            kept(&m, "a directory that came");
            // The same name, before the deletion has left.
            m.daemon.does(&["pause"]);
            m.src.remove("d/x");
            m.src.remove("d/y");
            m.src.rmdir("d");
            m.src.mkdir("d");
            m.src.write("d/z", b"2");
            m.daemon.does(&["resume"]);
            m.daemon.flush(None);
            assert!(m.dst().has("d/z") && !m.dst().has("d/x") && !m.dst().has("d/y"), "{watch}: what went stays");
            m.daemon.terminate();
            m.src.mkdir("restarted");
            m.src.mkdir("restarted/sub");
            m.src.write("restarted/n", b"2");
            m.restart(Until::Watching);
            m.daemon.flush(None);
            assert!(m.dst().has("restarted/n"));
            kept(&m, "a start");
        }
        Ok(())
    })
}

/// A file goes while its directory is to be compared, as after a run that was cut off.
/// What comes in the place of a directory while that one's going is on its way: `cur` and `new` are
/// both on the target.
type Comes = fn(&Dir, &Dir, &str, Duration);

const COMES: [Comes; 6] = [
    |src, out, at, pause| {
        src.rename_to(format!("{at}/cur"), out, at);
        std::thread::sleep(pause);
        src.rename(format!("{at}/new"), format!("{at}/cur"));
    },
    |src, _, at, pause| {
        let [cur, new, aside] = ["cur", "new", "aside"].map(|name| format!("{at}/{name}"));
        src.rename(&cur, &aside);
        src.rename(&new, &cur);
        std::thread::sleep(pause);
        src.rename(&aside, &new);
    },
    |src, _, at, pause| {
        let [cur, new, other] = ["cur", "new", "other"].map(|name| format!("{at}/{name}"));
        src.rename(&cur, &other);
        std::thread::sleep(pause);
        src.exchange(&other, &new);
    },
    |src, _, at, pause| {
        src.exchange(format!("{at}/cur"), format!("{at}/new"));
        std::thread::sleep(pause);
        src.exchange(format!("{at}/cur"), format!("{at}/new"));
        src.exchange(format!("{at}/cur"), format!("{at}/new"));
    },
    |src, _, at, pause| {
        src.remove(format!("{at}/cur"));
        std::thread::sleep(pause);
        src.rename(format!("{at}/new"), format!("{at}/cur"));
    },
    |src, _, at, pause| {
        src.rename(format!("{at}/cur"), format!("{at}/old"));
        std::thread::sleep(pause);
        src.mkdir(format!("{at}/cur"));
        src.write(format!("{at}/cur/z"), b"z");
    },
];

fn running_other_directories(name: &'static str, backend: &'static str) -> Case {
    case(name, &[Fs::Ext4, Fs::Tmpfs], move |fs| {
        let m = Setup::new(fs).watch(backend).targets(&[To::Module, To::Local]).key("delete", "running").start()?;
        m.check();
        for (n, comes) in COMES.iter().enumerate() {
            // Any moment between the two halves; none decides whether the test passes.
            for millis in [0, 1, 10, 40] {
                let at = format!("at-{n}-{millis}");
                ["", "/cur", "/new"].iter().for_each(|dir| m.src.mkdir(format!("{at}{dir}")));
                for file in ["cur/c1", "cur/c2", "cur/both", "new/n1", "new/both"] {
                    m.src.write(format!("{at}/{file}"), file.as_bytes());
                }
                m.check();
                comes(&m.src, &m.out, &at, Duration::from_millis(millis));
                m.check();
            }
        }
        Ok(())
    })
}

fn running_cut_off() -> Case {
    case("what_goes_beside_a_comparison_is_deleted", &[Fs::Tmpfs], |fs| {
        let m = Setup::new(fs).key("delete", "running").before(tree).before_on_target(extra).start()?;
        m.daemon.flush(None);
        m.daemon.does(&["pause"]);
        m.daemon.reconcile();
        m.src.remove("a");
        m.src.remove("d/x");
        m.src.remove("d/y");
        m.src.rmdir("d");
        m.daemon.does(&["resume"]);
        m.daemon.flush(None);
        assert!(["a", "d/x", "d/y"].iter().all(|path| !m.dst().has(path)), "a deletion was not carried out");
        assert!(m.dst().has("extra") && m.dst().has("b"));
        Ok(())
    })
}

fn running_by_name_only() -> Case {
    case("nothing_is_deleted_where_names_cannot_be", &[Fs::Tmpfs], |fs| {
        let refuses = "refuse options = delete-missing-args";
        let m = Setup::new(fs).targets(&[To::Module]).module(refuses).key("delete", "running");
        let m = m.before(tree).before_on_target(extra).start()?;
        m.daemon.flush(None);
        change(&m.src);
        m.daemon.flush(None);
        let kept = ["a", "b", "d/x", "d/extra", "extra", "dir/f", "b2", "new"];
        assert!(kept.iter().all(|path| m.dst().has(path)), "something was deleted");
        let shown = m.daemon.does(&["status"]);
        assert!(shown.contains("deletes nothing: its rsync cannot delete by name"), "{shown}");
        Ok(())
    })
}
