//! Files whose last change time is older than their closing write: they are stored to through a
//! mapping, or stay open for long after they were written.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fixture::daemon::Until;
use crate::fixture::fs::{Fs, needs};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, WAIT, case};

const SIZE: usize = 4096;

/// A file that is mapped, in a process of its own.
struct Mapped {
    process: Child,
    path: PathBuf,
}

impl Mapped {
    /// Makes the file if it is missing.
    fn new(dir: &Dir, path: &str) -> Mapped {
        let path = dir.at(path);
        let mut xfs_io = Command::new("xfs_io");
        xfs_io.arg("-f").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut mapped = Mapped { process: xfs_io.spawn().expect("xfs_io starts"), path };
        mapped.does(&format!("truncate {SIZE}\nmmap 0 {SIZE}"));
        mapped
    }

    fn does(&mut self, command: &str) {
        let mut stdin = self.process.stdin.as_ref().expect("it is a pipe");
        writeln!(stdin, "{command}").expect("xfs_io reads");
    }

    /// Fills the file through the mapping.
    fn store(&mut self, byte: u8) {
        self.does(&format!("mwrite -S {byte} 0 {SIZE}"));
        let stored = || (std::fs::read(&self.path).ok()? == [byte; SIZE]).then_some(());
        assert!(poll_until(WAIT, stored).is_some(), "nothing was stored in {}", self.path.display());
    }

    /// Fills it by a system call.
    fn write(&mut self, byte: u8) {
        self.does(&format!("pwrite -S {byte} 0 {SIZE}"));
        let written = || (std::fs::read(&self.path).ok()? == [byte; SIZE]).then_some(());
        assert!(poll_until(WAIT, written).is_some(), "nothing was written to {}", self.path.display());
    }

    /// Its last change was so long ago that an event of now is not of that change.
    fn ages(&self) {
        let old = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs() as i64;
            (now > std::fs::metadata(&self.path).expect("it is there").ctime() + 3).then_some(())
        };
        assert!(poll_until(WAIT, old).is_some(), "the clock stands still");
    }

    fn ends(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().expect("it is ours").success());
    }
}

/// What is stored in a page that is not written back yet changes neither times nor size (on tmpfs
/// no store does). What was sent between two such stores is not what the file has when it is
/// closed.
fn stored_to_after_it_was_sent(fs: Fs, hard_links: bool, backend: &str) -> Run<()> {
    needs("xfs_io")?;
    let before = |src: &Dir| {
        for path in ["old", "linked"] {
            src.write(path, [b'o'; SIZE]);
        }
        src.mkdir("d");
        src.link("linked", "d/other");
    };
    let m = Setup::new(fs).watch(backend).before(before).key("hard_links", hard_links).batch("create_hold", "50ms").start()?;
    let mut files = ["new", "old", "linked"].map(|path| Mapped::new(&m.src, path));
    files.iter_mut().for_each(|file| file.store(1));
    // What was there before is sent for another cause, for which its size and times suffice.
    for path in ["old", "linked"] {
        m.src.chmod(path, 0o600);
    }
    m.daemon.flush(None);
    let first = || (m.dst().read("new")? == [1; SIZE]).then_some(());
    assert!(poll_until(WAIT, first).is_some(), "a file that is open was not sent\n{}", m.daemon.report());
    files.iter().for_each(Mapped::ages);
    files.iter_mut().for_each(|file| file.store(2));
    files.into_iter().for_each(Mapped::ends);
    m.check();
    for path in ["new", "old", "linked", "d/other"] {
        assert_eq!(m.dst().read(path).as_deref(), Some(&[2; SIZE][..]), "{path}\n{}", m.daemon.report());
    }
    Ok(())
}

/// How a daemon comes to its end, and the next one to its start.
#[derive(Clone, Copy)]
enum Again {
    Stopped,
    Killed,
    Reloaded,
}

impl Again {
    fn does(self, m: &mut Mirror) {
        match self {
            Again::Stopped => m.daemon.terminate(),
            Again::Killed => {
                kept_until(m, |kept| kept.len() >= FILES.len());
                m.daemon.crash();
            }
            Again::Reloaded => {
                m.configure(|mirror| mirror.exclude.push("none".into()));
                m.write_config();
                assert!(m.daemon.reload());
                return;
            }
        }
        m.restart(Until::Watching);
    }
}

/// Waits until the names are such that are kept, in base64.
fn kept_until(m: &Mirror, wanted: impl Fn(&[serde_json::Value]) -> bool) {
    let file = m.state_file().with_file_name("written");
    let kept = || {
        let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
        wanted(kept["written"].as_array()?).then_some(())
    };
    assert!(poll_until(WAIT, kept).is_some(), "what waits is not kept\n{}", m.daemon.report());
}

const FILES: [&str; 4] = ["new1", "old1", "slow", "linked1"];

/// A restart finds what changed by change times. What is closed, and waits to be sent, may have
/// changed long before.
fn closed_before_a_restart(fs: Fs, again: Again, initial: &str) -> Run<()> {
    needs("xfs_io")?;
    let before = |src: &Dir| {
        for path in &FILES[1..] {
            src.write(path, [b'o'; SIZE]);
        }
        src.mkdir("d");
        src.link("linked1", "d/other");
    };
    let mut m = Setup::new(fs).initial(initial).before(before).before_on_target(before).batch("create_hold", "50ms").start()?;
    let mut files = FILES.map(|path| Mapped::new(&m.src, path));
    for file in &mut files {
        file.store(1);
    }
    files[2].write(1);
    for path in &FILES[1..] {
        m.src.chmod(path, 0o600);
    }
    m.daemon.flush(None);
    m.rest("quiet", b"x");
    files[2].write(2);
    m.rest("quiet", b"y");
    files.iter().for_each(Mapped::ages);
    m.daemon.does(&["pause"]);
    for (at, mut file) in files.into_iter().enumerate() {
        if at != 2 {
            file.store(2);
        }
        file.ends();
    }
    again.does(&mut m);
    m.daemon.does(&["resume"]);
    m.check();
    for path in FILES.iter().chain(&["d/other"]) {
        assert_eq!(m.dst().read(path).as_deref(), Some(&[2; SIZE][..]), "{path}\n{}", m.daemon.report());
    }
    let file = m.state_file().with_file_name("written");
    assert!(poll_until(WAIT, || (!file.exists()).then_some(())).is_some(), "what was sent is kept\n{}", m.daemon.report());
    Ok(())
}

/// The same of one that waits behind more files than are looked at together.
fn closed_behind_many(fs: Fs) -> Run<()> {
    needs("xfs_io")?;
    const MANY: u64 = 10_100;
    // "z/slow" in base64.
    const NAME: &str = "ei9zbG93";
    let mut m = Setup::new(fs)
        .before(|src| {
            src.mkdir("z");
            src.mkdir("a");
            src.write("z/slow", [b'o'; SIZE]);
        })
        .start()?;
    m.rest("quiet", b"x");
    let mut file = Mapped::new(&m.src, "z/slow");
    file.write(2);
    m.rest("quiet", b"y");
    file.ages();
    m.daemon.does(&["pause"]);
    m.src.write("z/first", b"x");
    for n in 0..MANY {
        m.src.write(format!("a/{n}"), b"x");
    }
    m.daemon.target_status_until("t1", "all of them", |t| t.pending > MANY);
    file.ends();
    kept_until(&m, |kept| kept.iter().any(|name| name == NAME));
    m.daemon.crash();
    m.restart(Until::Watching);
    m.daemon.does(&["resume"]);
    m.check();
    assert_eq!(m.dst().read("z/slow").as_deref(), Some(&[2; SIZE][..]), "{}", m.daemon.report());
    Ok(())
}

/// Where a start has to compare the whole tree, size and mtime do not show what waited.
fn alike_before_a_comparison(fs: Fs, again: Again) -> Run<()> {
    let before = |src: &Dir| {
        for path in ["old", "a", "b", "c"] {
            src.write(path, [b'o'; SIZE]);
            src.set_mtime(path, 1_000_000_000, 0);
        }
    };
    let mut m = Setup::new(fs).before(before).start()?;
    m.rest("quiet", b"x");
    m.daemon.does(&["pause"]);
    if !matches!(again, Again::Reloaded) {
        m.daemon.reconcile();
    }
    for path in ["old", "a", "b", "c"] {
        m.src.write(path, [2; SIZE]);
        m.src.set_mtime(path, 1_000_000_000, 0);
    }
    again.does(&mut m);
    m.daemon.does(&["resume"]);
    m.check();
    Ok(())
}

pub fn cases() -> Vec<Case> {
    const SOME: &[Fs] = &[Fs::Ext4, Fs::Xfs, Fs::Btrfs, Fs::Tmpfs];
    vec![
        case("what_is_stored_after_it_was_sent_arrives", SOME, |fs| stored_to_after_it_was_sent(fs, false, "auto")),
        case("what_is_stored_after_it_was_sent_arrives_at_links", SOME, |fs| stored_to_after_it_was_sent(fs, true, "auto")),
        case("what_is_stored_after_it_was_sent_arrives_by_inotify", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            stored_to_after_it_was_sent(fs, false, "inotify")
        }),
        case("what_waits_at_a_stop_arrives_whatever_its_change_time", SOME, |fs| {
            closed_before_a_restart(fs, Again::Stopped, "reconcile")
        }),
        case("what_waits_at_a_kill_arrives_whatever_its_change_time", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            closed_before_a_restart(fs, Again::Killed, "none")
        }),
        case("what_waits_at_a_kill_arrives_however_much_waits_beside_it", &[Fs::Ext4, Fs::Tmpfs], closed_behind_many),
        case("what_waits_at_a_reload_arrives_whatever_its_change_time", &[Fs::Ext4], |fs| {
            closed_before_a_restart(fs, Again::Reloaded, "reconcile")
        }),
        case("what_waits_arrives_where_a_start_compares_by_size_and_time", &[Fs::Ext4, Fs::Xfs], |fs| {
            [Again::Stopped, Again::Killed, Again::Reloaded]
                .into_iter()
                .try_for_each(|again| alike_before_a_comparison(fs, again))
        }),
    ]
}
