//! Filesystems that do not answer: below the state, below a target, below a source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::daemon::{Config, Daemon, MirrorStatus, MirrorTable, TargetTable, Until};
use crate::fixture::fs::{Fs, Ground, Mount, needs, work_dir};
use crate::fixture::proc::{must, poll_until};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case};

/// Until dropped, nothing is written to the filesystem mounted there.
struct Frozen(PathBuf);

impl Frozen {
    fn new(at: &Path) -> Run<Frozen> {
        needs("fsfreeze")?;
        must(Command::new("fsfreeze").arg("-f").arg(at));
        Ok(Frozen(at.into()))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).status();
    }
}

/// Until dropped, this process does not run.
pub(crate) struct Stopped(Pid);

impl Stopped {
    pub(crate) fn new(pid: Pid) -> Stopped {
        kill(pid, Signal::SIGSTOP).expect("it runs");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("the_state_is_frozen", &[Fs::Ext4], |_| {
            for fs in [Fs::Ext4, Fs::Xfs] {
                let place = work_dir();
                let ground = Ground::new(fs, place.path())?;
                let mut m = Setup::new(Fs::Tmpfs).state_dir(ground.out.at("state")).start()?;
                m.check();
                let frozen = Frozen::new(&place.path().join("fs"))?;
                goes_on(&m, "does not answer");
                drop(frozen);
                saved(&m);
                m.daemon.terminate();
                m.src.write("while stopped", b"x");
                m.restart(Until::Watching);
                assert_eq!(m.daemon.status().mirrors[0].start.how, "walk", "the state was not saved after the thaw");
                m.check();
            }
            Ok(())
        }),
        case("a_stop_while_the_state_is_frozen", &[Fs::Ext4], |_| {
            let place = work_dir();
            let ground = Ground::new(Fs::Ext4, place.path())?;
            let mut m = Setup::new(Fs::Tmpfs).state_dir(ground.out.at("state")).start()?;
            m.check();
            let frozen = Frozen::new(&place.path().join("fs"))?;
            goes_on(&m, "does not answer");
            kill(m.daemon.pid(), Signal::SIGTERM).expect("it runs");
            let logged = || m.daemon.log().contains("the state could not be saved at the end").then_some(());
            assert!(poll_until(WAIT, logged).is_some(), "the stop does not end");
            drop(frozen);
            m.daemon.terminate();
            m.restart(Until::Watching);
            m.check();
            Ok(())
        }),
        case("the_state_has_no_room", &[Fs::Tmpfs], |fs| {
            let place = work_dir();
            let _small = Mount::tmpfs_of(&place.path().join("small"), "128k");
            let m = Setup::new(fs).state_dir(place.path().join("small/state")).start()?;
            m.check();
            let filler = place.path().join("small/filler");
            let _ = fs::write(&filler, vec![1; 1 << 20]);
            // More than fits in what the file has already.
            (0..500).for_each(|n| m.src.mkdir(format!("directory-{n}")));
            goes_on(&m, "No space left");
            fs::remove_file(&filler).expect("it is there");
            saved(&m);
            m.check();
            Ok(())
        }),
        case("a_target_or_a_source_hangs_beside_another_mirror", &[Fs::Ext4], |fs| {
            let place = work_dir();
            let frozen = Ground::new(fs, place.path())?;
            let hung = work_dir();
            let hangs = Ground::new(Fs::Fuse, hung.path())?;
            let work = work_dir();
            let sources: Vec<Dir> = ["s1", "s2"].iter().map(|name| Dir::new(work.path().join(name))).collect();
            let targets: Vec<Dir> = ["t2", "t3"].iter().map(|name| Dir::new(work.path().join(name))).collect();
            sources.iter().chain(&targets).for_each(|dir| dir.mkdir("."));
            let table = |name: &str, source: &Dir, target: &Dir| MirrorTable {
                name: name.into(),
                source: source.root().into(),
                target: vec![TargetTable {
                    name: "t".into(),
                    url: target.root().display().to_string(),
                    ..TargetTable::default()
                }],
                ..MirrorTable::default()
            };
            let tables = vec![
                table("frozen", &sources[0], &frozen.out),
                table("well", &sources[1], &targets[0]),
                table("hung", &hangs.src, &targets[1]),
            ];
            let mut config = Config::new(work.path(), tables);
            config.keep_state_in(work.path().join("state"));
            let daemon = Daemon::run(work.path(), &config, Until::Reconciled);
            let well = |what: &str| {
                sources[1].write("f", what.as_bytes());
                let flushed = daemon.client(&["flush", "--mirror", "well", "--timeout", "20s"], WAIT);
                assert!(
                    flushed.code == 0 && targets[0].read("f").as_deref() == Some(what.as_bytes()),
                    "{what}: {}",
                    flushed.stderr
                );
            };
            let freeze = Frozen::new(&place.path().join("fs"))?;
            sources[0].write("f", b"x");
            let tries = || (daemon.status().mirrors[0].targets[0].in_flight > 0).then_some(());
            assert!(poll_until(WAIT, tries).is_some(), "nothing is sent to the frozen target");
            well("beside a frozen target");
            drop(freeze);
            let flushed = daemon.client(&["flush", "--mirror", "frozen", "--timeout", "20s"], WAIT);
            assert!(flushed.code == 0 && frozen.out.has("f"), "{}", flushed.stderr);
            // The server of a FUSE filesystem that does not answer: what asks for a path of it
            // waits.
            let stopped = Stopped::new(server(&hung.path().join("fs")));
            kill(daemon.pid(), Signal::SIGUSR1).expect("the daemon runs");
            well("beside a source that hangs");
            let silent = || {
                let status = daemon.status().mirrors;
                assert_eq!(status.iter().map(|m| &*m.name).collect::<Vec<_>>(), ["frozen", "well", "hung"]);
                (status[2].unanswered_seconds > 0.0).then_some(())
            };
            assert!(poll_until(WAIT, silent).is_some(), "the status does not tell that a mirror does not answer");
            well("after the status");
            drop(stopped);
            hangs.src.write("after", b"x");
            let flushed = daemon.client(&["flush", "--mirror", "hung", "--timeout", "20s"], WAIT);
            assert!(flushed.code == 0 && targets[1].has("after"), "{}", flushed.stderr);
            Ok(())
        }),
    ]
}

/// The process that serves the FUSE filesystem mounted there.
pub(crate) fn server(at: &Path) -> Pid {
    let serves = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|&b| b == 0).collect();
        words[0] == b"bindfs" && words.contains(&at.as_os_str().as_encoded_bytes())
    };
    let pids = fs::read_dir("/proc").expect("it can be read").flatten();
    let pid = pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).find(serves);
    Pid::from_raw(pid.unwrap_or_else(|| panic!("nothing serves {}", at.display())))
}

fn status(m: &Mirror) -> MirrorStatus {
    m.daemon.status().mirrors.remove(0)
}

/// Changes arrive, commands are answered, and the status says why the state is not saved.
fn goes_on(m: &Mirror, why: &str) {
    m.src.write("a", b"1");
    let unsaved = || (status(m).state_unsaved.contains(why)).then_some(());
    assert!(poll_until(WAIT, unsaved).is_some(), "the status does not tell: {}", status(m).state_unsaved);
    let logged = || m.daemon.log().contains(why).then_some(());
    assert!(poll_until(WAIT, logged).is_some(), "the log does not tell");
    m.src.write("b", b"2");
    m.check();
    m.daemon.does(&["pause"]);
    m.src.write("c", b"3");
    m.daemon.does(&["resume"]);
    m.check();
}

fn saved(m: &Mirror) {
    let saved = || status(m).state_unsaved.is_empty().then_some(());
    assert!(poll_until(WAIT, saved).is_some(), "it is not saved: {}", status(m).state_unsaved);
}
