//! Files below the source that have names elsewhere: what changes through a name outside, or
//! through one that is left out, changes the names inside.

use crate::fixture::daemon::Until;
use crate::fixture::fs::{ALL, Fs};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, To, case};
use crate::foreign::forget_names;
use crate::muting::heat;

/// The directory outside, as a test that is not set up yet has it.
fn beside(src: &Dir) -> Dir {
    Dir::new(src.root().with_file_name("out"))
}

fn link_out(src: &Dir, name: &str, outside: &str) {
    std::fs::hard_link(src.at(name), beside(src).at(outside)).expect("both lie on one filesystem");
}

fn fill(src: &Dir) {
    src.mkdirs("d/deep");
    src.write("a", b"one name inside");
    link_out(src, "a", "a");
    src.write("two", b"two names inside");
    src.link("two", "d/deep/two");
    link_out(src, "two", "two");
    src.symlink("nowhere", "s");
    link_out(src, "s", "s");
    src.write("alone", b"no other name yet");
}

/// Every change that a program makes by name, each through the name outside alone.
fn changes(m: &Mirror) {
    for name in ["a", "two"] {
        m.out.append(name, b", written outside");
        m.check();
        m.out.write(name, b"rewritten");
        m.check();
        // As large, and with the time that the targets have.
        let time = std::fs::metadata(m.out.at(name)).and_then(|m| m.modified()).expect("it is there");
        std::fs::write(m.out.at(name), b"REWRITTEN").expect("it can be written");
        std::fs::File::options().write(true).open(m.out.at(name)).and_then(|f| f.set_modified(time)).expect("it is there");
        m.check();
        m.out.truncate(name, 3);
        drop(m.out.open(name));
        m.check();
        m.out.chmod(name, 0o600);
        m.check();
        m.out.chown(name, 4711, 4712);
        m.check();
        m.out.set_mtime(name, 1_000_000_000, 5);
        m.check();
    }
    std::os::unix::fs::lchown(m.out.at("s"), Some(4711), None).expect("root may");
    m.check();
}

fn walks(m: &Mirror) -> (u64, u64) {
    let status = m.daemon.status().mirrors.remove(0);
    (status.searches, status.linked_walks)
}

/// By default, with links kept, and with open files followed.
fn in_each_case(name: &'static str, on: &'static [Fs], act: fn(&mut Mirror, bool)) -> Case {
    case(name, on, move |fs| {
        let new = || Setup::new(fs).targets(&[To::Module, To::Local]);
        for (setup, follow) in [(new(), false), (new().carrying(&["hard_links"]), false), (new().follow("200ms"), true)] {
            let mut m = setup.before(fill).start()?;
            m.check();
            act(&mut m, follow);
            m.check();
        }
        Ok(())
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        in_each_case("changes_through_a_name_outside", ALL, |m, follow| {
            changes(m);
            if follow {
                m.out.truncate("a", 1);
                m.check();
                let mut open = m.out.open("two");
                std::io::Write::write_all(&mut open, b"open still").expect("it can be written");
                m.check();
                std::io::Write::write_all(&mut open, b", and longer").expect("it can be written");
                m.check();
            }
        }),
        in_each_case("changes_through_a_name_outside_after_a_restart", ALL, |m, _| {
            m.rest("quiet", b"saved");
            m.daemon.terminate();
            m.out.append("a", b" while stopped");
            m.out.append("two", b" while stopped");
            m.restart(Until::Watching);
            m.out.append("a", b", and at once after the start");
            m.check();
            changes(m);
            m.out.append("two", b", and at the end");
            m.daemon.terminate();
            m.restart(Until::Watching);
        }),
        case("changes_before_the_files_are_known", ALL, |fs| {
            for round in 0..3 {
                let m = Setup::new(fs).before(|src| {
                    fill(src);
                    src.mkdir("many");
                    for n in 0..300 {
                        src.write(format!("many/{n}"), b"as it was");
                        if n % 10 == 0 {
                            link_out(src, &format!("many/{n}"), &format!("m{n}"));
                        }
                    }
                });
                let m = m.while_reconciling().start()?;
                for n in (0..300).step_by(10) {
                    m.out.append(format!("m{n}"), b", changed while the daemon begins");
                    if n % 60 == 10 * round {
                        m.check();
                    }
                }
                m.check();
            }
            Ok(())
        }),
        in_each_case("linked_while_it_runs", ALL, |m, _| {
            // To the outside: the event of the new name is one outside.
            link_out(&m.src, "alone", "alone");
            m.out.append("alone", b", and one outside");
            m.check();
            m.out.append("alone", b", written again");
            m.check();
            // To the inside.
            m.out.write("came", b"made outside");
            std::fs::hard_link(m.out.at("came"), m.src.at("d/came")).expect("both lie on one filesystem");
            m.check();
            m.out.append("came", b", written outside");
            m.check();
            m.src.rename("d", "e");
            m.out.append("came", b", and after its directory moved");
            m.check();
            // Among so many new files that their directory is compared.
            m.daemon.does(&["pause"]);
            m.src.mkdir("n");
            (0..300).for_each(|n| m.src.write(format!("n/{n}"), b"new"));
            std::fs::hard_link(m.out.at("came"), m.src.at("n/came")).expect("both lie on one filesystem");
            m.out.write("other", b"made outside");
            std::fs::hard_link(m.out.at("other"), m.src.at("n/other")).expect("both lie on one filesystem");
            m.daemon.does(&["resume"]);
            m.check();
            m.out.append("other", b", written outside");
            m.out.append("came", b", and so is this");
            m.check();
            // With a directory that comes in, and one that goes out.
            m.out.mkdirs("dir/below");
            m.out.write("in", b"made outside");
            m.out.link("in", "dir/below/in");
            m.check();
            m.out.rename_to("dir", &m.src, "dir");
            m.check();
            m.out.append("in", b", written after it came in");
            m.check();
            m.src.mkdir("leaves");
            m.src.write("stays", b"made inside");
            m.src.link("stays", "leaves/with");
            m.check();
            m.src.rename_to("leaves", &m.out, "left");
            m.check();
            m.out.append("left/with", b", written outside");
            m.check();
            // The one name inside is another one by now, and the kernel has forgotten the names.
            m.src.rename("stays", "renamed");
            m.check();
            m.out.append("left/with", b", once more");
            m.check();
        }),
        case("names_that_are_not_cached", &[Fs::Ext4, Fs::Xfs, Fs::Btrfs], |fs| {
            let m = Setup::new(fs).before(fill).start()?;
            m.check();
            forget_names(&m.src);
            link_out(&m.src, "alone", "alone");
            forget_names(&m.src);
            m.out.append("alone", b", written outside");
            m.out.append("two", b", written outside");
            m.out.chmod("a", 0o640);
            m.check();
            Ok(())
        }),
        case("a_busy_directory_outside", ALL, |fs| {
            let m = Setup::new(fs).before(fill).start()?;
            m.check();
            m.out.mkdir("hot");
            heat(&m, &m.out, "hot");
            // One that is muted gets a name of a file inside, by a link and by a rename.
            link_out(&m.src, "alone", "hot/alone");
            m.out.append("hot/alone", b", written where the kernel reports nothing");
            m.check();
            m.out.append("hot/alone", b", and again");
            m.check();
            m.out.rename("a", "hot/a");
            m.out.append("hot/a", b", moved, and written");
            m.check();
            // As busy as before, with these names in it.
            for round in 0..3 {
                (0..300).for_each(|n| m.out.write(format!("hot/f {n}"), format!("{round}")));
                m.daemon.flush(None);
                m.out.append("hot/alone", b"!");
                m.out.chmod("hot/a", 0o600 + round);
                m.check();
            }
            // What was in a muted directory comes inside too.
            m.out.mkdir("warm");
            m.out.write("warm/x", b"outside so far");
            heat(&m, &m.out, "warm");
            std::fs::hard_link(m.out.at("warm/x"), m.src.at("d/x")).expect("both lie on one filesystem");
            m.check();
            m.out.append("warm/x", b", inside too");
            m.check();
            Ok(())
        }),
        case("changes_through_a_name_that_is_left_out", ALL, |fs| {
            for links in [&[][..], &["hard_links"]] {
                let m = Setup::new(fs).carrying(links).exclude(&["/left/", "*.tmp"]).before(|src| {
                    src.mkdirs("left/below");
                    src.mkdir("d");
                    src.write("a", b"of three names");
                    src.link("a", "d/a.tmp");
                    src.link("a", "left/below/a");
                });
                let m = m.start()?;
                let right = |name: &str| {
                    m.daemon.flush(None);
                    assert_eq!(m.dst().read("a"), m.src.read("a"), "after a change of {name}");
                    assert!(!m.dst().has("d/a.tmp") && !m.dst().has("left"), "what is left out was sent");
                };
                right("nothing");
                for name in ["d/a.tmp", "left/below/a", "a"] {
                    m.src.append(name, b", more");
                    right(name);
                }
                m.src.write("b", b"alone so far");
                right("b");
                m.src.link("b", "left/b");
                m.src.append("left/b", b", and left out");
                m.daemon.flush(None);
                assert_eq!(m.dst().read("b"), m.src.read("b"));
            }
            Ok(())
        }),
        // Programs that link what they write are common: none of that concerns the source.
        case("links_among_files_outside_cost_no_walk", ALL, |fs| {
            let m = Setup::new(fs).before(|src| {
                fill(src);
                let out = beside(src);
                out.write("other", b"outside");
                out.link("other", "of other");
            });
            let m = m.start()?;
            m.check();
            assert_eq!(walks(&m).1, 0, "walks before a file outside that has several names changes");
            m.out.append("other", b", once more");
            m.check();
            let before = walks(&m);
            assert_eq!(before.1, 1, "walks for the first file outside that has several names");
            m.out.mkdirs("objects/x");
            for n in 0..2_000 {
                m.out.write(format!("objects/{n}.new"), b"object");
                m.out.link(format!("objects/{n}.new"), format!("objects/x/{n}"));
                m.out.remove(format!("objects/{n}.new"));
                if n % 2 == 0 {
                    m.out.link(format!("objects/x/{n}"), format!("objects/{n}"));
                }
            }
            m.check();
            assert_eq!(walks(&m), before, "walks over the source for links outside");
            // Some of them change: one walk for all, and none again.
            for round in 0..3 {
                (0..100).step_by(2).for_each(|n| m.out.append(format!("objects/{n}"), b"!"));
                m.check();
                assert!(walks(&m).0 - before.0 <= 3, "{:?} walks in round {round}", walks(&m));
            }
            let status = m.daemon.status().mirrors.remove(0);
            assert!(status.lost.is_empty(), "lost: {:?}", status.lost);
            Ok(())
        }),
        // Neither where files inside have several names, nor where other programs are busy.
        case("a_start_without_links_outside_walks_over_nothing", ALL, |fs| {
            let m = Setup::new(fs).before(|src| {
                src.mkdirs("d/deep");
                src.write("a", b"two names inside");
                src.link("a", "d/deep/b");
            });
            let mut m = m.start()?;
            m.out.mkdir("hot");
            heat(&m, &m.out, "hot");
            m.check();
            m.rest("quiet", b"saved");
            m.daemon.terminate();
            m.restart(Until::Watching);
            m.out.mkdir("warm");
            heat(&m, &m.out, "warm");
            m.src.append("d/deep/b", b", written");
            m.check();
            assert_eq!(walks(&m).1, 0);
            Ok(())
        }),
        case("a_directory_that_is_muted_before_the_files_are_known", ALL, |fs| {
            let m = Setup::new(fs).before(fill).start()?;
            m.out.mkdir("hot");
            link_out(&m.src, "alone", "hot/alone");
            (0..3).for_each(|round| {
                (0..300).for_each(|n| m.out.write(format!("hot/f {n}"), format!("{round}")));
                m.daemon.flush(None);
            });
            m.out.append("hot/alone", b", written in a busy directory");
            m.check();
            Ok(())
        }),
        case("a_source_that_is_a_whole_filesystem_is_not_walked_over", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).source(".").before(fill).start()?;
            m.src.append("a", b", written by one of its names");
            m.daemon.flush(None);
            assert_eq!(m.dst().read("out/a"), m.src.read("a"));
            assert_eq!(walks(&m), (0, 0));
            Ok(())
        }),
    ]
}
