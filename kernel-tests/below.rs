//! Long lists whose paths lie in one deep place: source, target and list begin there, and the end
//! is that of a list from the top.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::fixture::fs::Fs;
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

/// Long enough for [`FILES`] paths below it to be worth it.
const PLACE: &str = "a place with a long name/that lies some directories down/and is called something, too/in the end";
const FILES: usize = 300;

/// Files in three directories of the place, and some beside it.
fn fill(src: &Dir) {
    (0..3).for_each(|d| src.mkdirs(format!("{PLACE}/d{d}")));
    src.mkdirs("elsewhere");
    for n in 0..FILES {
        src.write(path(n), format!("first {n}"));
        src.write(format!("elsewhere/{n}"), format!("first {n}"));
    }
}

fn path(n: usize) -> String {
    format!("{PLACE}/d{}/{n}", n % 3)
}

fn rewrite(src: &Dir) {
    (0..FILES).for_each(|n| src.write(path(n), format!("again {n}")));
}

/// What happens here leaves together.
fn together(m: &Mirror, act: impl FnOnce()) {
    m.daemon.does(&["pause"]);
    act();
    // It says that nothing is sent, after every event was read.
    m.daemon.client(&["flush", "--timeout", "60s"], WAIT);
    m.daemon.does(&["resume"]);
}

/// With a log that has each batch.
fn logged(fs: Fs) -> Setup {
    let level = std::env::var("FANSYNC_TEST_LOG").unwrap_or_else(|_| "debug".into());
    Setup::new(fs).daemon_key("log", toml::toml! { level = level })
}

/// The log's lines of batches to this target that began in the place.
fn begun_there(m: &Mirror, target: &str) -> Vec<String> {
    let (target, below) = (format!("target_name={target} "), format!("below={PLACE} "));
    m.daemon.log().lines().filter(|l| l.contains(&target) && l.contains(&below)).map(str::to_owned).collect()
}

/// The whole place is rewritten after `spoil` was done to it on each target.
#[track_caller]
fn spoiled(m: &Mirror, spoil: impl Fn(&Path)) {
    together(m, || {
        rewrite(&m.src);
        m.targets.iter().for_each(|t| spoil(&t.dir.at(PLACE)));
    });
    m.check();
    let log = m.daemon.log();
    for wrong in ["target is down", "target cannot be used as it is configured", "the target's directory was gone", "level=ERROR"]
    {
        assert!(!log.contains(wrong), "{wrong}:\n{log}");
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("changes_of_every_kind_in_a_deep_place", &[Fs::Tmpfs], |fs| {
            let m = logged(fs).targets(&[To::Module, To::Local]).exclude(&["*.tmp", "/d0/0"]).before(fill).start()?;
            m.src.mkdir(format!("{PLACE}/d2/empty"));
            m.check();
            let left_out = |p: &Path| p.extension().is_some_and(|e| e == "tmp");
            for round in 0..2 {
                together(&m, || {
                    rewrite(&m.src);
                    for n in (round..FILES).step_by(10) {
                        m.src.remove(path(n));
                        m.src.write(format!("{PLACE}/d{}/left out {n}.tmp", n % 3), b"x");
                    }
                    m.src.chmod(path(5), 0o640);
                    m.src.chmod(format!("{PLACE}/d1"), 0o750);
                    m.src.remove(format!("{PLACE}/d2/empty"));
                    m.src.mkdirs(format!("{PLACE}/new {round}/sub"));
                    m.src.write(format!("{PLACE}/new {round}/sub/file"), b"new");
                    m.src.symlink("sub", format!("{PLACE}/new {round}/link"));
                });
                m.check_but(Times::All, &left_out);
                m.src.mkdirs(format!("{PLACE}/d2/empty"));
                fill(&m.src);
                m.daemon.flush(None);
            }
            // The top's own attributes, which no list from below carries.
            together(&m, || {
                rewrite(&m.src);
                m.src.chmod("", 0o751);
            });
            m.check_but(Times::All, &left_out);
            assert_eq!(fs::metadata(m.dst().root()).expect("it is there").mode() & 0o777, 0o751);
            for target in ["t1", "t2"] {
                let begun = begun_there(&m, target);
                assert!(begun.len() >= 2 && begun.iter().all(|l| l.contains("DEBUG")), "to {target}: {begun:#?}");
            }
            Ok(())
        }),
        case("hooks_get_paths_from_the_top", &[Fs::Tmpfs], |fs| {
            let work = tempfile::tempdir().expect("a directory can be made");
            let shown = work.path().join("hook-log");
            let hook = |kind: &str| {
                let form = "kind = 'command'\nshell = true\ninput = 'stdin'\nprefix = \"tr '\\\\0' '\\\\n' | sed";
                format!("name = '{kind}'\nkinds = ['{kind}']\n{form} 's/^/{kind} /'\"\nsuffix = '>> {}'", shown.display())
            };
            let m = logged(fs).hook(&hook("changed")).hook(&hook("deleted")).before(fill).start()?;
            m.check();
            fs::write(&shown, "").expect("it was made by the hook, or is made here");
            together(&m, || {
                rewrite(&m.src);
                (0..10).for_each(|n| m.src.remove(path(n)));
            });
            m.check();
            let line = |n| format!("{} {}", if n < 10 { "deleted" } else { "changed" }, m.src.at(path(n)).display());
            let want: BTreeSet<String> = (0..FILES).map(line).collect();
            let received = || fs::read_to_string(&shown).unwrap_or_default().lines().map(str::to_owned).collect::<BTreeSet<_>>();
            poll_until(WAIT, || (received().len() >= want.len()).then_some(()));
            assert_eq!(received(), want);
            assert_eq!(begun_there(&m, "t1").len(), 1);
            Ok(())
        }),
        case("begins_at_the_top_where_the_place_would_mean_another", &[Fs::Tmpfs], |fs| {
            let hidden = format!("/{PLACE}/d1/left out");
            for setup in [
                logged(fs).key("send_renames", false),
                logged(fs).targets(&[To::Local]).key("max_delete", 1_000),
                logged(fs).targets(&[To::Local]).exclude(&[&hidden]),
            ] {
                let m = setup.before(fill).start()?;
                m.check();
                together(&m, || rewrite(&m.src));
                m.check();
                assert!(begun_there(&m, "t1").is_empty(), "{}", m.daemon.log());
            }
            Ok(())
        }),
        case("the_place_is_not_on_the_target", &[Fs::Tmpfs], |fs| {
            let m = logged(fs).targets(&[To::Module, To::Local]).before(fill).start()?;
            m.check();
            let outside = m.scratch("outside");
            fs::create_dir_all(outside.join("d1")).expect("a directory can be made");
            for n in 0..FILES {
                let _ = fs::write(outside.join(format!("d1/{n}")), b"a stranger's");
            }
            let parent = |p: &Path| p.parent().expect("it has one").to_owned();
            spoiled(&m, |place| fs::remove_dir_all(place).expect("it was there"));
            spoiled(&m, |place| fs::remove_dir_all(parent(place)).expect("it was there"));
            spoiled(&m, |place| {
                fs::remove_dir_all(place).expect("it was there");
                fs::write(place, b"a file").expect("it can be written");
            });
            for at in [Path::to_owned, parent] {
                spoiled(&m, |place| {
                    fs::remove_dir_all(at(place)).expect("it was there");
                    symlink(&outside, at(place)).expect("it can be made");
                });
            }
            let strangers = (0..FILES).all(|n| fs::read(outside.join(format!("d1/{n}"))).is_ok_and(|c| c == b"a stranger's"));
            assert!(
                strangers && fs::read_dir(&outside).expect("it is there").count() == 1,
                "something was written outside of the target"
            );
            // The module was tried from below, each time once; the local target was looked at
            // before.
            assert!(!begun_there(&m, "t1").is_empty() && begun_there(&m, "t2").is_empty(), "{}", m.daemon.log());
            // Once more as usual.
            together(&m, || rewrite(&m.src));
            m.check();
            assert!(begun_there(&m, "t2").iter().any(|l| l.contains("DEBUG")), "{}", m.daemon.log());
            Ok(())
        }),
        case("directories_go_from_the_target_under_the_run", &[Fs::Tmpfs], |fs| {
            let m = logged(fs)
                .targets(&[To::Module, To::Local])
                .target_key("args", vec!["--bwlimit=4m".to_string()])
                .before(fill)
                .start()?;
            m.check();
            together(&m, || (0..FILES).for_each(|n| m.src.write(path(n), vec![n as u8; 10 << 10])));
            let spoil = |target: &Dir, aside: PathBuf| {
                let arrived = poll_until(WAIT, || target.read(path(0)).filter(|c| c.len() > 1000).map(|_| ()));
                arrived.expect("the first file arrives");
                fs::create_dir(&aside).expect("it can be made");
                (0..3).for_each(|d| {
                    fs::rename(target.at(format!("{PLACE}/d{d}")), aside.join(format!("d{d}"))).expect("it was there")
                });
            };
            std::thread::scope(|scope| {
                for t in &m.targets {
                    scope.spawn(|| spoil(&t.dir, t.dir.root().with_extension("aside")));
                }
            });
            m.check();
            let log = m.daemon.log();
            assert!(!log.contains("target is down") && !log.contains("the target's directory was gone"), "{log}");
            Ok(())
        }),
    ]
}
