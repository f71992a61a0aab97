//! The configuration read again: what changed begins anew and misses nothing, what did not is not
//! touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetTable, Until};
use crate::fixture::fs::{Fs, Ground, Mount, work_dir};
use crate::fixture::proc::{descendants, poll_until};
use crate::fixture::rsyncd::{Rsyncd, free_port};
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Run, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![
        case("a_bad_file_changes_nothing", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            m.check();
            let before = waiting(&m.daemon);
            let path = m.write_config();
            let good = fs::read_to_string(&path).expect("the config can be read");
            for (bad, says) in [
                (good.replace("[[mirror]]", "[[mirror]]\nno_such_key = 1"), "unknown key"),
                (good.replace(&m.src.root().display().to_string(), "/nowhere/at/all"), "cannot open the source /nowhere/at/all"),
                (good.replace("rsync://127.0.0.1", "/tmp/127.0.0.1"), "CAP_CHOWN"),
            ] {
                assert_ne!(bad, good);
                fs::write(&path, &bad).expect("the config can be written");
                assert!(!m.daemon.reload(), "a bad file is taken:\n{bad}");
                let reported = m.daemon.status().config_error;
                assert!(reported.contains(says) && m.daemon.log().contains(&reported), "the status says {reported:?}");
                if says == "unknown key" {
                    let line = bad.lines().position(|l| l.starts_with("no_such_key")).expect("it is there") + 1;
                    assert!(reported.contains(&format!("fansync.toml:{line}:1:")), "no place in {reported:?}");
                }
            }
            assert_eq!(everyone(&m.daemon, &before), before, "standby processes were ended");
            m.src.write("f", b"goes on");
            m.check();
            m.write_config();
            assert!(m.daemon.reload() && m.daemon.status().config_error.is_empty());
            Ok(())
        }),
        case("by_a_command_that_waits_for_the_end", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).exclude(&["*.old"]).start()?;
            m.src.write("a.old", b"left out at first");
            m.daemon.flush(None);
            let path = m.write_config();
            let good = fs::read_to_string(&path).expect("the config can be read");
            fs::write(&path, good.replace("[[mirror]]", "[[mirror]]\nno_such_key = 1")).expect("it can be written");
            let ran = m.daemon.client(&["reload"], WAIT);
            assert!(
                ran.code == 78 && ran.stderr.contains("fansync.toml:") && ran.stderr.contains("unknown key"),
                "{}",
                ran.stderr
            );
            assert!(m.daemon.status().config_error.contains("unknown key"));
            m.configure(|table| table.exclude.clear());
            m.write_config();
            let ran = m.daemon.client(&["reload"], WAIT);
            assert_eq!((ran.code, ran.stdout.as_str()), (0, "the configuration is in force\n"), "{}", ran.stderr);
            assert_eq!(m.daemon.status().config_error, "");
            m.check();
            let text = fs::read_to_string(&path).expect("the config can be read");
            fs::write(&path, text.replacen("[daemon]", "[daemon]\npage = false", 1)).expect("it can be written");
            let ran = m.daemon.client(&["reload"], WAIT);
            assert_eq!(ran.stdout, "the configuration is in force; in effect from the next start on: page\n");
            Ok(())
        }),
        case("one_that_cannot_begin_goes_on_as_it_was", &[Fs::Tmpfs], cannot_begin),
        case("mirrors_come_and_go_beside_one_that_stays", &[Fs::Tmpfs], come_and_go),
        case("targets_come_and_go_and_what_is_pending_stays", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            m.check();
            m.rsyncd.as_mut().expect("a target is a module").stop();
            (0..40).for_each(|n| m.src.write(format!("pending {n}"), b"while the target is away"));
            m.daemon.flush(Some("t2"));
            let mut second = None;
            m.configure(|table| second = table.target.pop());
            m.write_config();
            assert!(m.daemon.reload());
            let names: Vec<String> = m.daemon.status().mirrors.remove(0).targets.into_iter().map(|t| t.name).collect();
            assert_eq!(names, ["t1"]);
            m.src.write("later", b"for the first alone");
            m.rsyncd.as_mut().expect("a target is a module").restart();
            m.daemon.flush(None);
            let found = differences(m.src.root(), m.dst().root(), Times::All, &|_| false);
            assert!(found.is_empty(), "what was pending is missing:\n{found}");
            assert_eq!(m.targets[1].dir.read("later"), None, "a target that is no more was sent to");
            m.configure(|table| table.target.extend(second));
            m.write_config();
            assert!(m.daemon.reload());
            m.check();
            Ok(())
        }),
        case("another_filter", &[Fs::Tmpfs], |fs| {
            let mut m = Setup::new(fs).exclude(&["*.old"]).start()?;
            m.src.write("a.old", b"left out at first");
            m.src.write("b.tmp", b"left out later");
            m.daemon.flush(None);
            assert_eq!(m.dst().read("a.old"), None);
            m.configure(|table| table.exclude = vec!["*.tmp".into()]);
            m.write_config();
            assert!(m.daemon.reload());
            m.src.remove("b.tmp");
            m.daemon.flush(None);
            assert_eq!(m.dst().read("a.old").as_deref(), Some(&b"left out at first"[..]), "what is included now did not arrive");
            assert!(m.dst().read("b.tmp").is_some(), "what is excluded now was deleted");
            m.src.write("a.old", b"and is followed");
            m.check_but(Times::All, &|path| path.ends_with("b.tmp"));
            Ok(())
        }),
        case("a_file_of_patterns", &[Fs::Tmpfs], |fs| {
            let list = work_dir();
            let file = list.path().join("excludes");
            let write = |text: &str| fs::write(&file, text).expect("a file");
            write("# what is rebuilt\n*.old\n");
            let files = toml::Value::Array(vec![file.display().to_string().into()]);
            let m = Setup::new(fs).key("exclude_from", files).start()?;
            m.src.write("a.old", b"left out at first");
            m.src.write("b.tmp", b"left out later");
            m.daemon.flush(None);
            assert_eq!(m.dst().read("a.old"), None);
            let answer = m.daemon.does(&["explain", &m.src.at("a.old").display().to_string()]);
            assert!(answer.contains(&format!("{}:2", file.display())), "the line of the pattern is not named: {answer}");
            write("*.tmp\n");
            assert!(m.daemon.reload());
            m.daemon.flush(None);
            assert!(m.dst().has("a.old"), "what is included now did not arrive");
            m.src.remove("b.tmp");
            m.daemon.flush(None);
            assert!(m.dst().has("b.tmp"), "what is excluded now was deleted");
            write("*.tmp\n+ *.old\n");
            assert!(!m.daemon.reload(), "a wrong line was taken");
            m.src.write("c.tmp", b"the earlier patterns hold");
            m.src.write("c", b"1");
            m.daemon.flush(None);
            assert!(m.dst().has("c") && !m.dst().has("c.tmp"));
            Ok(())
        }),
        case("mirrors_in_files_of_their_own", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).targets(&[To::Local]).start()?;
            let main = m.write_config();
            let parts = m.scratch("conf.d");
            fs::create_dir(&parts).expect("a directory");
            let (one, two) = (Dir::new(m.scratch("one")), Dir::new(m.scratch("two")));
            for dir in [&one, &two] {
                dir.mkdir(".");
            }
            let text = fs::read_to_string(&main).expect("the configuration");
            let (include, of_all) =
                (format!("include = [\"{}/*.toml\"]\n", parts.display()), "[defaults]\nexclude = [\"*.tmp\"]\n");
            fs::write(&main, format!("{include}{text}\n{of_all}")).expect("a file");
            let part = format!(
                "[[mirror]]\nname = \"further\"\nsource = {:?}\n[[mirror.target]]\nname = \"t\"\nurl = {:?}\n",
                one.root(),
                two.root()
            );
            fs::write(parts.join("further.toml"), &part).expect("a file");
            one.write("a", b"1");
            one.write("a.tmp", b"1");
            assert!(m.daemon.reload());
            m.src.write("b.tmp", b"1");
            m.src.write("b", b"1");
            m.daemon.flush(None);
            assert!(two.has("a") && !two.has("a.tmp"), "the mirror of the other file, with the default");
            assert!(m.dst().has("b") && !m.dst().has("b.tmp"), "the default counts for the first, too");
            fs::write(parts.join("further.toml"), part.replace("source", "sources")).expect("a file");
            assert!(!m.daemon.reload());
            let shown = m.daemon.does(&["status"]);
            assert!(shown.contains("further.toml:3:1"), "the place in the other file is not named: {shown}");
            fs::remove_file(parts.join("further.toml")).expect("a file");
            assert!(m.daemon.reload());
            assert_eq!(m.daemon.status().mirrors.len(), 1);
            Ok(())
        }),
        case("a_file_of_rules", &[Fs::Tmpfs], |fs| {
            let list = work_dir();
            let file = list.path().join("rules");
            let write = |text: &str| fs::write(&file, text).expect("a file");
            write("+ keep.old\n- *.old\n");
            let files = toml::Value::Array(vec![file.display().to_string().into()]);
            let m = Setup::new(fs).key("filter_from", files).start()?;
            m.src.write("keep.old", b"1");
            m.src.write("a.old", b"left out at first");
            m.daemon.flush(None);
            assert!(m.dst().has("keep.old") && !m.dst().has("a.old"));
            let answer = m.daemon.does(&["explain", &m.src.at("a.old").display().to_string()]);
            assert!(answer.contains(&format!("{}:2", file.display())) && answer.contains("- *.old"), "{answer}");
            write("- *.old\n+ keep.old\n");
            assert!(m.daemon.reload());
            m.src.write("keep.old", b"2");
            m.daemon.flush(None);
            assert_eq!(m.dst().read("keep.old").as_deref(), Some(&b"1"[..]), "the order of the rules does not count");
            write("*.old\n");
            assert!(!m.daemon.reload(), "a line without a sign was taken");
            write("");
            assert!(m.daemon.reload());
            m.check();
            Ok(())
        }),
        case("nothing_is_missed_meanwhile", &[Fs::Ext4], |fs| {
            let mut m = Setup::new(fs).start()?;
            (0..10).for_each(|n| m.src.mkdir(format!("d{n}")));
            m.check();
            for round in 0..3 {
                m.configure(|table| drop(table.batch.insert("max_paths".into(), (10_000 + round).into())));
                m.write_config();
                m.daemon.hang_up();
                for n in 0..300 {
                    m.src.write(format!("d{}/{round} {n}", n % 10), format!("{n}"));
                }
                m.src.rename("d3", format!("moved {round}"));
                m.src.mkdir("d3");
                // Asked of the engine that ends, or of the one that comes.
                m.check();
            }
            let again = || (m.daemon.log().matches("the configuration is in force").count() == 3).then_some(());
            assert!(poll_until(WAIT, again).is_some(), "not every reload came to its end");
            let how = m.daemon.status().mirrors.remove(0).start;
            assert_eq!((how.how.as_str(), how.why.as_str()), ("walk", ""), "{how:?}");
            Ok(())
        }),
    ]
}

/// A change that is seen not to work only when it is tried: what happens on a ramfs is not reported
/// by a mark, as it has no id.
fn cannot_begin(fs: Fs) -> Run<()> {
    let work = work_dir();
    let ground = Ground::new(fs, work.path())?;
    let _disk = Mount::ramfs(&work.path().join("ramfs"));
    let second = Dir::new(work.path().join("ramfs"));
    let dirs: Vec<Dir> = ["one", "two", "three"].iter().map(|name| Dir::new(work.path().join(name))).collect();
    dirs.iter().for_each(|dir| dir.mkdir("."));
    let modules: Vec<_> =
        ["one", "two", "three"].iter().zip(&dirs).map(|(n, dir)| (n.to_string(), dir.root().to_path_buf())).collect();
    let rsyncd = Rsyncd::start(work.path(), &modules)?;
    let table = |name: &str, module: &str, source: &Dir, watch: &str| MirrorTable {
        name: name.into(),
        source: source.root().into(),
        watch: Some(watch.into()),
        target: vec![TargetTable { name: "t".into(), url: rsyncd.url(module), ..TargetTable::default() }],
        ..MirrorTable::default()
    };
    let (one, two) = (table("one", "one", &ground.src, "auto"), table("two", "two", &second, "auto"));
    let daemon = Daemon::run(work.path(), &Config::new(work.path(), vec![one.clone(), two.clone()]), Until::Reconciled);
    let both_work = |name: &str| {
        ground.src.write(name, b"x");
        second.write(name, b"y");
        daemon.flush(None);
        assert!(
            dirs[..2].iter().all(|dir| dir.has(name)),
            "{name} is not on both
{}",
            daemon.report()
        );
    };
    both_work("before");
    let before = waiting(&daemon);

    let bad = vec![one.clone(), table("two", "two", &second, "fanotify"), table("three", "three", &second, "fanotify")];
    let metrics = BTreeMap::from([("metrics".to_owned(), format!("127.0.0.1:{}", free_port()).into())]);
    Config::new(work.path(), bad).with_keys(metrics).write(work.path());
    daemon.hang_up();
    let reported =
        || Some(daemon.status().config_error).filter(|why| why.contains("mirror two ") && why.contains("mirror three "));
    let reported = poll_until(WAIT, reported).unwrap_or_else(|| {
        panic!(
            "the status does not tell
{}",
            daemon.report()
        )
    });
    assert!(reported.contains("cannot be run as the configuration has it: ") && reported.contains("fanotify"), "{reported}");
    let log = daemon.log();
    assert!(log.contains("changed in [daemon], and in effect from the next start on: metrics"), "{log}");
    let names: Vec<String> = daemon.status().mirrors.into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["one", "two"], "{reported}");
    assert!(!everyone(&daemon, &before).is_empty(), "the mirror that stayed was touched");
    both_work("after");

    Config::new(work.path(), vec![one, two]).write(work.path());
    assert!(daemon.reload() && daemon.status().config_error.is_empty());
    both_work("at last");
    Ok(())
}

/// The standby processes of every target.
fn waiting(daemon: &Daemon) -> BTreeSet<i32> {
    let standing = || {
        let standby: u64 = daemon.status().mirrors.iter().flat_map(|m| &m.targets).map(|t| t.standby).sum();
        let found: BTreeSet<i32> = descendants(daemon.pid()).iter().map(|pid| pid.as_raw()).collect();
        (standby >= 2 && found.len() as u64 == standby).then_some(found)
    };
    poll_until(WAIT, standing).expect("there are standby processes")
}

/// Those of `before` that live.
fn everyone(daemon: &Daemon, before: &BTreeSet<i32>) -> BTreeSet<i32> {
    descendants(daemon.pid()).iter().map(|pid| pid.as_raw()).filter(|pid| before.contains(pid)).collect()
}

fn come_and_go(fs: Fs) -> Run<()> {
    let work = work_dir();
    let ground = Ground::new(fs, work.path())?;
    let dirs: Vec<Dir> = ["one", "two"].iter().map(|name| Dir::new(work.path().join(name))).collect();
    dirs.iter().for_each(|dir| dir.mkdir("."));
    let modules: Vec<_> = ["one", "two"].iter().zip(&dirs).map(|(n, dir)| (n.to_string(), dir.root().to_path_buf())).collect();
    let rsyncd = Rsyncd::start(work.path(), &modules)?;
    let table = |name: &str, source: &Dir| MirrorTable {
        name: name.into(),
        source: source.root().into(),
        target: vec![TargetTable { name: "t".into(), url: rsyncd.url(name), ..TargetTable::default() }],
        ..MirrorTable::default()
    };
    let (one, two) = (table("one", &ground.src), table("two", &ground.out));
    let config = Config::new(work.path(), vec![one.clone()]);
    let daemon = Daemon::run(work.path(), &config, Until::Reconciled);
    let before = waiting(&daemon);
    let runs = |daemon: &Daemon| daemon.status().mirrors[0].targets[0].runs;
    let had = runs(&daemon);
    let take = |mirrors: Vec<MirrorTable>| {
        Config::new(work.path(), mirrors).write(work.path());
        assert!(daemon.reload(), "a good file is not taken\n{}", daemon.report());
    };
    let names = || daemon.status().mirrors.into_iter().map(|m| m.name).collect::<Vec<_>>();

    ground.out.write("f", b"there before");
    take(vec![one.clone(), two]);
    assert_eq!(names(), ["one", "two"]);
    ground.out.write("g", b"and after");
    daemon.flush(None);
    let found = differences(ground.out.root(), dirs[1].root(), Times::All, &|_| false);
    assert!(found.is_empty(), "the new mirror's target differs:\n{found}");
    take(vec![one]);
    assert_eq!(names(), ["one"]);
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon lives").flatten();
    let left = threads.filter_map(|t| fs::read_to_string(t.path().join("comm")).ok()).find(|name| name.contains("two"));
    assert_eq!(left, None, "the removed mirror runs on");
    assert_eq!((runs(&daemon), everyone(&daemon, &before)), (had, before), "the mirror that stayed was touched");
    ground.src.write("f", b"and works");
    daemon.flush(None);
    let found = differences(ground.src.root(), dirs[0].root(), Times::All, &|_| false);
    assert!(found.is_empty(), "it differs:\n{found}");
    Ok(())
}
