//! Names that are one file, extended attributes, ACLs and holes: in full passes, and in everything
//! that comes after them.

use crate::fixture::daemon::fansync;
use crate::fixture::fs::{ALL, Fs};
use crate::fixture::identity::set_acl;
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, To, WAIT, case};

use std::path::Path;

const MIB: usize = 1 << 20;

fn linked_tree(src: &Dir) {
    src.mkdirs("a/deep");
    src.mkdir("b");
    src.write("a/one", b"one file");
    src.link("a/one", "b/one");
    src.link("a/one", "a/deep/one");
    src.write("alone", b"no other name yet");
    src.symlink("nowhere", "a/symlink");
    src.link("a/symlink", "b/symlink");
}

fn with_links(fs: Fs) -> Run<Mirror> {
    let m = Setup::new(fs).carrying(&["hard_links"]).targets(&[To::Module, To::Local]).before(linked_tree).start()?;
    m.check();
    Ok(m)
}

fn links(name: &'static str, on: &'static [Fs], act: impl Fn(&mut Mirror) + Send + Sync + 'static) -> Case {
    case(name, on, move |fs| {
        let mut m = with_links(fs)?;
        act(&mut m);
        m.check();
        Ok(())
    })
}

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        links("link_written_through_one_name", ALL, |m| {
            m.src.append("b/one", b" and more");
            m.check();
            m.src.write("a/deep/one", b"rewritten");
            m.check();
            m.src.write("a/one", b"REWRITTEN");
        }),
        links("link_attributes", ALL, |m| {
            m.src.chmod("b/one", 0o600);
            m.check();
            m.src.set_mtime("a/one", 1_000_000_000, 5);
        }),
        links("link_to_an_old_file", ALL, |m| {
            m.src.link("alone", "b/not alone");
            m.check();
            m.src.link("b/not alone", "a/third");
            m.check();
            m.src.append("alone", b", now three");
        }),
        links("link_removed", ALL, |m| {
            m.src.remove("b/one");
            m.check();
            m.src.write("a/one", b"two names are left");
            m.check();
            m.src.remove("a/deep/one");
            m.check();
            m.src.write("a/one", b"one name is left");
        }),
        links("link_broken_by_rename", ALL, |m| {
            m.src.write("b/new", b"a file of its own");
            m.src.rename("b/new", "b/one");
            m.check();
            m.src.write("a/one", b"the two that are left");
            m.check();
            // The same content under the same times, and yet another file.
            m.src.write("b/copy", b"the two that are left");
            let at = std::fs::metadata(m.src.at("a/one")).expect("it is there");
            m.src.set_mtime("b/copy", std::os::unix::fs::MetadataExt::mtime(&at), 0);
            m.src.set_mtime("a/one", std::os::unix::fs::MetadataExt::mtime(&at), 0);
            m.src.rename("b/copy", "a/deep/one");
        }),
        links("link_renamed", ALL, |m| {
            m.src.rename("a/one", "elsewhere");
            m.check();
            m.src.write("b/one", b"through another");
            m.check();
            m.src.rename("a", "b/a");
            m.check();
            m.src.write("b/a/deep/one", b"below a renamed directory");
            m.check();
            m.src.write("elsewhere", b"and back");
        }),
        links("a_name_that_was_written_joins_another_batch", &[Fs::Ext4, Fs::Tmpfs], |m| {
            m.src.mkdir("many");
            m.src.write("many/first", b"one content");
            m.src.set_mtime("many/first", 1_000_000_000, 0);
            m.src.link("many/first", "many/last");
            m.check();
            // So many that they leave in more than one batch, the names of the file in different
            // ones; as large and as old as before, so that only the event tells that the content is
            // another.
            m.daemon.freeze();
            m.src.chmod("many/first", 0o640);
            (0..2_000).for_each(|n| m.src.write(format!("many/{n}"), b"x"));
            m.src.write("many/last", b"two content");
            m.src.set_mtime("many/last", 1_000_000_000, 0);
            m.daemon.thaw();
        }),
        links("link_in_place_of_another_file", ALL, |m| {
            // As large and as old as what had the name: only the link tells.
            m.src.write("b/twin", b"ONE FILE");
            m.src.set_mtime("b/twin", 1_000_000_000, 0);
            m.src.set_mtime("a/one", 1_000_000_000, 0);
            m.check();
            m.src.remove("b/twin");
            m.src.link("a/one", "b/twin");
            m.check();
            m.src.append("b/twin", b"!");
        }),
        links("links_of_a_moved_in_directory", ALL, |m| {
            m.out.mkdirs("new/sub");
            m.out.write("new/x", b"x");
            m.out.link("new/x", "new/sub/x");
            m.out.write("new/outside", b"its other name stays outside");
            m.out.link("new/outside", "outside");
            std::fs::hard_link(m.src.at("alone"), m.out.at("new/sub/alone")).expect("both lie on one filesystem");
            m.out.rename_to("new", &m.src, "b/new");
            m.check();
            m.src.write("alone", b"written through the other name");
            m.check();
            m.src.write("b/new/outside", b"written inside");
        }),
        links("links_after_a_restart", ALL, |m| {
            m.daemon.terminate();
            m.src.link("alone", "b/while stopped");
            m.src.append("a/deep/one", b" while stopped");
            m.src.remove("b/symlink");
            m.restart(crate::fixture::daemon::Until::Watching);
            m.check();
            m.src.append("b/one", b" and after");
            m.src.link("b/one", "b/after");
        }),
        links("links_while_the_target_is_away", &[Fs::Ext4, Fs::Btrfs], |m| {
            m.rsyncd.as_mut().expect("t1 is a module").stop();
            m.src.link("alone", "b/meanwhile");
            m.src.write("b/one", b"meanwhile");
            m.src.mkdir("c");
            m.src.link("b/one", "c/one");
            m.daemon.flush(Some("t2"));
            m.src.rename("c", "d");
            m.src.append("alone", b" meanwhile");
            m.rsyncd.as_mut().expect("t1 is a module").restart();
        }),
    ];
    all.extend(others());
    all
}

fn others() -> Vec<Case> {
    vec![
        case("snapshot_by_links_sends_no_content", &[Fs::Ext4, Fs::Xfs], |fs| {
            let m = Setup::new(fs).carrying(&["hard_links"]).before(|src| {
                src.mkdir("day0");
                (0..20).for_each(|n| src.write(format!("day0/{n}"), vec![n as u8; MIB / 2]));
            });
            let m = m.start()?;
            m.check();
            let before = m.daemon.target_status("t1").bytes_sent;
            for day in 1..4 {
                // cp -al, and the one file that changed that day.
                m.src.mkdir(format!("day{day}"));
                (0..20).for_each(|n| m.src.link(format!("day{}/{n}", day - 1), format!("day{day}/{n}")));
                m.src.remove(format!("day{day}/7"));
                m.src.write(format!("day{day}/7"), format!("as of day {day}"));
                m.check();
            }
            let sent = m.daemon.target_status("t1").bytes_sent - before;
            assert!(sent < MIB as u64, "{sent} bytes were sent for links");
            let links = m.daemon.status().mirrors.remove(0).links.expect("hard_links is on");
            assert!(links.files >= 19 && links.names >= 3 * 20, "{links:?}");
            assert!(links.walks < 20, "a walk over the tree for each link: {links:?}");
            Ok(())
        }),
        case("links_where_deletions_are_bounded", &[Fs::Ext4, Fs::Btrfs], |fs| {
            let m = Setup::new(fs).carrying(&["hard_links"]).key("max_delete", 10).before(linked_tree).start()?;
            m.check();
            // One batch, in which only one name of the file takes another one's place.
            m.daemon.does(&["pause"]);
            m.src.remove("alone");
            m.src.link("a/one", "alone");
            m.daemon.does(&["resume"]);
            m.check();
            m.daemon.does(&["pause"]);
            m.src.remove("b/one");
            m.src.mkdir("b/one");
            m.src.link("alone", "b/one/in a directory");
            m.daemon.does(&["resume"]);
            m.check();
            Ok(())
        }),
        case("many_links_in_one_window", ALL, |fs| {
            let m = with_links(fs)?;
            for n in 0..300 {
                m.src.write(format!("a/f{n}"), format!("file {n}"));
                m.src.link(format!("a/f{n}"), format!("b/f{n}"));
                if n % 3 == 0 {
                    m.src.link(format!("b/f{n}"), format!("a/deep/f{n}"));
                    m.src.remove(format!("a/f{n}"));
                }
                if n % 5 == 0 {
                    m.src.append(format!("b/f{n}"), b", appended");
                }
            }
            m.check();
            for n in (0..300).step_by(7) {
                m.src.write(format!("b/f{n}"), format!("FILE {n}"));
            }
            m.check();
            Ok(())
        }),
        case("attributes", ALL, |fs| {
            let m = Setup::new(fs).carrying(&["xattrs"]).targets(&[To::Module, To::Local]).before(|src| {
                src.mkdir("d");
                src.write("d/f", b"content");
                xattr::set(src.at("d/f"), "user.first", b"1").expect("user attributes can be set");
            });
            let m = m.start()?;
            m.check();
            // Size and times stay as they are.
            xattr::set(m.src.at("d/f"), "user.first", b"2").expect("user attributes can be set");
            xattr::set(m.src.at("d/f"), "trusted.second", b"\0raw\xff").expect("root may");
            xattr::set(m.src.at("d"), "user.of a directory", b"x").expect("user attributes can be set");
            m.check();
            xattr::remove(m.src.at("d/f"), "user.first").expect("it is there");
            m.src.mkdirs("e/sub");
            m.src.write("e/sub/f", b"new");
            xattr::set(m.src.at("e/sub/f"), "user.new", b"y").expect("user attributes can be set");
            m.check();
            m.src.write("d/aside", b"CONTENT");
            xattr::set(m.src.at("d/aside"), "user.aside", b"z").expect("user attributes can be set");
            m.src.rename("d/aside", "d/f");
            m.src.rename("e", "renamed");
            m.check();
            Ok(())
        }),
        case("attributes_of_a_tree_that_is_moved_in", ALL, |fs| {
            for extras in [&["xattrs"][..], &["xattrs", "acls"], &["xattrs", "hard_links"]] {
                let m = Setup::new(fs).carrying(extras).targets(&[To::Local, To::Module]).start()?;
                m.check();
                let dirs = ["tree", "tree/a", "tree/a/b", "tree/a/b/c"];
                for dir in dirs {
                    m.out.mkdir(dir);
                    for n in 0..5 {
                        let file = format!("{dir}/f{n}");
                        m.out.write(&file, b"content");
                        xattr::set(m.out.at(&file), "user.x", b"1").expect("user attributes can be set");
                    }
                    xattr::set(m.out.at(dir), "user.of a directory", b"x").expect("user attributes can be set");
                }
                m.out.rename_to("tree", &m.src, "tree");
                m.check();
                m.src.rename("tree/a", "moved");
                m.check();
                m.dst().remove("moved/b");
                m.daemon.reconcile();
                m.check();
            }
            Ok(())
        }),
        case("acls", ALL, |fs| {
            let m = Setup::new(fs).carrying(&["acls"]).targets(&[To::Module, To::Local]).before(|src| {
                src.mkdir("d");
                src.write("d/f", b"content");
                set_acl(&src.at("d/f"), 4711, 4, false);
            });
            let m = m.start()?;
            m.check();
            set_acl(&m.src.at("d/f"), 4711, 6, false);
            set_acl(&m.src.at("d"), 4712, 5, true);
            m.check();
            // What is made here inherits it.
            m.src.mkdir("d/sub");
            m.src.write("d/sub/f", b"inherits");
            m.check();
            xattr::remove(m.src.at("d/f"), "system.posix_acl_access").expect("it is there");
            m.src.rename("d/sub", "sub");
            m.check();
            Ok(())
        }),
        case("acls_beside_attributes", &[Fs::Ext4, Fs::Xfs], |fs| {
            // XFS shows root each ACL a second time, as an attribute that the source has not.
            for to in [To::Module, To::Local] {
                let m = Setup::new(fs).carrying(&["xattrs", "acls"]).targets(&[to]).xfs_target().before(|src| {
                    src.mkdir("d");
                    src.write("d/f", b"content");
                });
                let m = m.start()?;
                m.check();
                for (mode, uid) in [(4, 4711), (0, 4712), (6, 4711)] {
                    set_acl(&m.src.at("d/f"), uid, mode, false);
                    set_acl(&m.src.at("d"), uid, 5, true);
                    m.check();
                    xattr::set(m.src.at("d/f"), "user.first", &uid.to_be_bytes()).expect("user attributes can be set");
                    m.check();
                    // What is sent for another reason keeps its list.
                    m.src.chmod("d/f", if mode == 0 { 0o640 } else { 0o600 });
                    m.check();
                }
                m.daemon.reconcile();
                m.check();
                xattr::remove(m.src.at("d/f"), "system.posix_acl_access").expect("it is there");
                m.check();
            }
            Ok(())
        }),
        case("target_without_attributes_and_acls", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).carrying(&["xattrs", "acls"]).targets(&[To::Local, To::Module]).plain_target().start()?;
            let checked = fansync(&["check", "--config", &m.scratch("fansync.toml").display().to_string()], WAIT);
            for (what, key) in [("extended attributes", "xattrs"), ("ACLs", "acls")] {
                let shown = checked.stderr.lines().any(|l| l.contains("\"t1\"") && l.contains(what) && l.contains(key));
                assert!(shown && !checked.stderr.contains("\"t2\""), "check says of {what}: {}", checked.stderr);
            }
            for n in 0..20 {
                m.src.write(format!("plain{n}"), format!("{n}"));
            }
            m.src.write("with", b"content");
            xattr::set(m.src.at("with"), "user.x", b"1").expect("user attributes can be set");
            m.daemon.flush(Some("t2"));
            // The one path is shown, with rsync's words, and holds up nothing.
            let failed = poll_until(WAIT, || {
                let failures = m.daemon.target_status("t1").failures;
                failures.iter().any(|f| f.path == "with" && f.reason.contains("not supported")).then_some(())
            });
            assert!(failed.is_some(), "the path is not listed: {:?}", m.daemon.target_status("t1"));
            assert!((0..20).all(|n| m.dst().has(format!("plain{n}"))), "the other files did not arrive");
            assert_eq!(m.dst().read("with").as_deref(), Some(&b"content"[..]));
            let runs = m.daemon.target_status("t1").runs;
            m.src.write("after", b"x");
            let arrived = poll_until(WAIT, || m.dst().has("after").then_some(()));
            assert!(arrived.is_some(), "a failed path held up another");
            xattr::remove(m.src.at("with"), "user.x").expect("it is there");
            m.check();
            assert!(m.daemon.target_status("t1").runs < runs + 30, "tried again and again");
            Ok(())
        }),
        case("holes", ALL, |fs| {
            let m = Setup::new(fs).carrying(&["sparse"]).targets(&[To::Module, To::Local]).start()?;
            m.src.sparse("hole", 64 * MIB as u64);
            m.src.write("data", vec![1; MIB]);
            m.check();
            m.src.append("hole", b"the end");
            m.check();
            m.src.mkdir("d");
            m.src.sparse("d/hole", 16 * MIB as u64);
            m.src.truncate("data", 32 * MIB as u64);
            m.src.rename("d", "e");
            m.check();
            Ok(())
        }),
        case("command_line", &[Fs::Tmpfs], |fs| {
            let work = crate::fixture::fs::work_dir();
            let ground = crate::fixture::fs::Ground::new(fs, work.path())?;
            let target = Dir::new(work.path().join("target"));
            target.mkdir(".");
            linked_tree(&ground.src);
            xattr::set(ground.src.at("a/one"), "user.x", b"1").expect("user attributes can be set");
            let (source, url) = (ground.src.root().display().to_string(), target.root().display().to_string());
            let args = ["mirror", "--once", "--hard-links", "--xattrs", "--acls", "--sparse", &source, &url];
            let ran = crate::fixture::daemon::fansync(&args, crate::fixture::WAIT);
            assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
            let ino = |name: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(target.at(name)).expect("it is there"));
            assert_eq!(ino("a/one"), ino("b/one"));
            assert_eq!(xattr::get(target.at("a/one"), "user.x").expect("it can be read").as_deref(), Some(&b"1"[..]));
            assert!(Path::new(&url).join("b/symlink").is_symlink());
            Ok(())
        }),
    ]
}
