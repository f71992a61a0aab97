//! What all targets of a daemon share: the number of runs, and bandwidth.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetTable, Until};
use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::{poll_until, zone_where_it_is};
use crate::fixture::rsyncd::Rsyncd;
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Run, Setup, WAIT, case};
use crate::outages::program;

const MIRRORS: usize = 4;

/// Counts the runs under way, itself included, in `counts`, and the rates that they are given, in
/// `rates`. A run that is to go on while more than `most` are counts twice: what was killed may not
/// have gone yet. Once `hold` is there, runs for the target `held` wait for `go`.
const COUNTS: &str = r#"
case " $* " in *" -VV "* | *" --version "*) exec rsync "$@" ;; esac
case " $* " in *" --ignore-times --checksum "*) exec rsync "$@" ;; esac
count() {
    n=0
    for f in "$0".on.*; do
        [ -n "$(tr -d '\0' <"/proc/${f##*.}/cmdline" 2>/dev/null)" ] && n=$((n + 1))
    done
}
: >"$0.on.$$"
count
if [ "$n" -gt "$(cat "$0.most")" ]; then sleep 0.5; count; fi
echo "$n" >>"$0.counts"
for arg; do case "$arg" in --bwlimit=*) echo "$$ ${arg#--bwlimit=}" >>"$0.rates" ;; esac; done
case "$*" in */held/.) [ ! -e "$0.hold" ] || { : >"$0.waits"; while [ ! -e "$0.go" ]; do sleep 0.01; done; } ;; esac
rsync "$@"
code=$?
rm -f "$0.on.$$"
exit $code
"#;

/// Some mirrors, each to a module of its own; the first is called `held`.
struct Mirrors {
    sources: Vec<Dir>,
    targets: Vec<Dir>,
    daemon: Daemon,
    _rsyncd: Rsyncd,
    steps: PathBuf,
    _work: tempfile::TempDir,
}

fn names() -> impl Iterator<Item = String> {
    (0..MIRRORS).map(|n| if n == 0 { "held".to_owned() } else { format!("m{n}") })
}

impl Mirrors {
    fn start(key: &str, value: impl Into<toml::Value>, most: usize, standby: usize) -> Run<Mirrors> {
        Mirrors::start_in(&[], [(key.to_owned(), value.into())].into(), most, standby)
    }

    fn start_in(env: &[(String, String)], keys: BTreeMap<String, toml::Value>, most: usize, standby: usize) -> Run<Mirrors> {
        let work = work_dir();
        let at = |side: &str| names().map(|name| Dir::new(work.path().join(side).join(name))).collect::<Vec<_>>();
        let (sources, targets) = (at("src"), at("dst"));
        for dir in sources.iter().chain(&targets) {
            fs::create_dir_all(dir.root()).expect("it can be made");
        }
        for source in &sources {
            (0..300).for_each(|n| source.write(format!("{n}"), n.to_string().as_bytes()));
        }
        let modules: Vec<_> = names().zip(&targets).map(|(name, dir)| (name, dir.root().to_owned())).collect();
        let rsyncd = Rsyncd::start(work.path(), &modules)?;
        let steps = work.path().join("steps");
        let rsync = program(&steps, COUNTS);
        fs::write(steps.with_extension("most"), most.to_string()).expect("it can be written");
        let table = |(name, source): (String, &Dir)| MirrorTable {
            target: vec![TargetTable {
                name: "t".into(),
                url: rsyncd.url(&name),
                keys: [("standby".to_owned(), (standby as i64).into())].into(),
                ..TargetTable::default()
            }],
            name,
            source: source.root().into(),
            keys: [("rsync".to_owned(), rsync.display().to_string().into())].into(),
            ..MirrorTable::default()
        };
        let config = Config::new(work.path(), names().zip(&sources).map(table).collect());
        let daemon = Daemon::run_in(work.path(), &config.with_keys(keys), env, Until::Reconciled);
        Ok(Mirrors { sources, targets, daemon, _rsyncd: rsyncd, steps, _work: work })
    }

    /// Reads the configuration again, with another bandwidth.
    fn limit(&self, before: &str, bandwidth: &str) {
        let path = self._work.path().join("fansync.toml");
        let text = fs::read_to_string(&path).expect("the config can be read");
        let line = |bandwidth: &str| format!("bwlimit = \"{bandwidth}\"");
        assert!(text.contains(&line(before)), "{text}");
        fs::write(&path, text.replace(&line(before), &line(bandwidth))).expect("the config can be written");
        assert!(self.daemon.reload(), "{}", self.daemon.report());
    }

    fn flag(&self, name: &str) -> PathBuf {
        self.steps.with_extension(name)
    }

    fn check(&self) {
        self.daemon.flush(None);
        for (source, target) in self.sources.iter().zip(&self.targets) {
            let found = differences(source.root(), target.root(), Times::All, &|_| false);
            assert!(found.is_empty(), "{}:\n{found}{}", source.root().display(), self.daemon.report());
        }
    }

    fn numbers(&self, name: &str) -> Vec<u64> {
        let text = fs::read_to_string(self.flag(name)).unwrap_or_default();
        text.lines().filter_map(|line| line.split(' ').next_back()?.parse().ok()).collect()
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("no_more_runs_than_max_runs_and_all_arrives", &[Fs::Tmpfs], |_| {
            for most in [1, 2, 5] {
                let m = Mirrors::start("max_runs", most as i64, most, 2)?;
                for round in 0..8 {
                    for source in &m.sources {
                        source.write(format!("d{round}"), b"few");
                        (0..250).for_each(|n| source.write(format!("{n}"), format!("{round} {n}")));
                        source.remove(format!("{}", 250 + round));
                    }
                }
                m.check();
                let counts = m.numbers("counts");
                assert!(counts.len() >= MIRRORS, "the runs were not counted: {counts:?}");
                assert!(counts.iter().all(|n| *n <= most as u64), "more than {most} runs: {counts:?}");
            }
            Ok(())
        }),
        case("a_target_that_hangs_leaves_others_a_place", &[Fs::Tmpfs], |_| {
            let m = Mirrors::start("max_runs", 3, 3, 1)?;
            m.check();
            fs::write(m.flag("hold"), b"").expect("it can be written");
            // Each a batch of its own, and a large one.
            (0..300).for_each(|n| m.sources[0].write(format!("{n}"), b"changed"));
            let waits = || m.flag("waits").exists().then_some(());
            for n in 0..4 {
                m.sources[0].write(format!("more{n}"), b"x");
            }
            assert!(poll_until(WAIT, waits).is_some(), "nothing hangs\n{}", m.daemon.report());
            for n in 1..MIRRORS {
                m.sources[n].write("small", b"y");
                let there = || m.targets[n].has("small").then_some(());
                assert!(poll_until(WAIT, there).is_some(), "m{n} waits for the one that hangs\n{}", m.daemon.report());
            }
            fs::write(m.flag("go"), b"").expect("it can be written");
            m.check();
            Ok(())
        }),
        case("one_that_waits_for_a_place_is_shown", &[Fs::Tmpfs], |_| {
            let m = Mirrors::start("max_runs", 1, 1, 0)?;
            m.check();
            fs::write(m.flag("hold"), b"").expect("it can be written");
            m.sources[0].write("f", b"x");
            assert!(poll_until(WAIT, || m.flag("waits").exists().then_some(())).is_some(), "nothing hangs");
            m.sources[1].write("f", b"y");
            let waits = || {
                let status = m.daemon.status().mirrors;
                status[1].targets[0].reason.contains("waiting for one of the 1 run of all mirrors (max_runs)").then_some(())
            };
            assert!(poll_until(WAIT, waits).is_some(), "the status does not say so\n{}", m.daemon.report());
            assert!(!m.targets[1].has("f"), "it did not wait");
            fs::write(m.flag("go"), b"").expect("it can be written");
            m.check();
            Ok(())
        }),
        case("a_run_carries_no_more_than_max_bytes", &[Fs::Tmpfs], |fs| {
            for (bound, least, most) in [(Some("1MiB"), 8, u64::MAX), (None, 1, 6)] {
                let mut setup = Setup::new(fs).target_key("standby", 0);
                if let Some(bound) = bound {
                    setup = setup.batch("max_bytes", bound);
                }
                let m = setup.start()?;
                m.src.mkdir("d");
                m.check();
                let before = m.daemon.target_status("t1").runs;
                m.daemon.freeze();
                (0..8).for_each(|n| m.src.write(format!("d/{n}"), vec![n as u8; 600 << 10]));
                m.src.symlink("0", "d/link");
                m.daemon.thaw();
                m.check();
                let runs = m.daemon.target_status("t1").runs - before;
                assert!((least..=most).contains(&runs), "{bound:?}: {runs} runs\n{}", m.daemon.report());
            }
            Ok(())
        }),
        case("bandwidth_is_shared_by_all_targets", &[Fs::Tmpfs], |_| {
            let m = Mirrors::start("bwlimit", "64MiB", 1000, 2)?;
            for source in &m.sources {
                (0..300).for_each(|n| source.write(format!("{n}"), vec![7; 20_000]));
                source.write("small", b"x");
            }
            m.check();
            let rates = m.numbers("rates");
            let all = 64 * 1024;
            assert!(rates.len() >= MIRRORS, "runs were given no bandwidth: {rates:?}");
            assert!(rates.iter().all(|rate| (all / 64..=all).contains(rate)), "{rates:?}");
            assert!(rates.iter().any(|rate| *rate >= all / 2), "no run was given a large part: {rates:?}");
            assert_eq!(m.numbers("counts").len(), rates.len(), "a run without a bound, or a standby process");
            Ok(())
        }),
        case("a_long_run_begins_anew_with_another_bandwidth", &[Fs::Tmpfs], |_| {
            let m = Mirrors::start("bwlimit", "2MiB", 1000, 0)?;
            m.check();
            let before = m.numbers("rates").len();
            let rates = || m.numbers("rates").split_off(before);
            let run = |which: fn(u64) -> bool| poll_until(WAIT, || rates().into_iter().any(which).then_some(()));
            // A minute by the first bandwidth, and half an hour by the second.
            m.daemon.freeze();
            (0..300).for_each(|n| m.sources[1].write(format!("{n}"), vec![n as u8; 300_000]));
            m.daemon.thaw();
            assert!(run(|rate| rate > 1024).is_some(), "no long run: {:?}\n{}", rates(), m.daemon.report());
            m.limit("2MiB", "64KiB");
            assert!(run(|rate| rate <= 64).is_some(), "it goes on as before: {:?}\n{}", rates(), m.daemon.report());
            m.limit("64KiB", "64MiB");
            m.check();
            assert!(rates().into_iter().any(|rate| rate > 2048), "it took its time: {:?}", rates());
            let ended = m.daemon.log().matches("a long run is ended and begins anew").count();
            assert_eq!(ended, 2, "{}", m.daemon.report());
            Ok(())
        }),
        case("the_bandwidth_is_that_of_the_hour", &[Fs::Tmpfs], |_| {
            let part = |from: &str, to: &str, limit: &str| {
                let keys = [("from", from), ("to", to), ("limit", limit)];
                toml::Value::Table(keys.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
            };
            let parts = vec![part("11:00", "13:00", "2MiB"), part("13:00", "10:00", "none")];
            let keys = [("bwlimit".to_owned(), "64MiB".into()), ("bwlimit_at".to_owned(), parts.into())].into();
            let m = Mirrors::start_in(&[("TZ".into(), zone_where_it_is(11, 30, 0))], keys, 1000, 2)?;
            m.check();
            let rates = m.numbers("rates");
            assert!(rates.len() >= MIRRORS && rates.iter().all(|rate| *rate <= 2048), "{rates:?}\n{}", m.daemon.report());
            let shown = m.daemon.does(&["status"]);
            assert!(shown.contains("\nbwlimit 2.0 MiB a second over all targets"), "{shown}");
            assert!(shown.contains("; from 13:00 on no bound\n"), "{shown}");
            let shown: serde_json::Value = serde_json::from_str(&m.daemon.does(&["status", "--json"])).expect("it is JSON");
            let want = serde_json::json!({
                "bytes_per_second": 2 << 20, "given_bytes_per_second": shown["bwlimit"]["given_bytes_per_second"],
                "until": "13:00", "then_bytes_per_second": null,
            });
            assert_eq!(shown["bwlimit"], want);
            Ok(())
        }),
    ]
}
