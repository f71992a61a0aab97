//! What the daemon and its children may do, and whom its files must not be open to.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use fansync::role::mark::{self, Mark, Role};
use fansync::sys::landlock::Ruleset;

use crate::fixture::daemon::fansync;
use crate::fixture::fs::{ALL, Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::{Dir, Times};
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};
use crate::outages::program;

const DAC_READ_SEARCH: u64 = 1 << 2;
const SETPCAP: u64 = 1 << 8;
const SYS_ADMIN: u64 = 1 << 21;
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD.
const WRITES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27;

/// A line of /proc/PID/status.
fn line(status: &str, name: &str) -> String {
    let found = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

fn bits(status: &str, name: &str) -> u64 {
    u64::from_str_radix(&line(status, name), 16).expect("a set is hexadecimal")
}

/// The statuses of all processes below `pid`.
fn below(pid: &str) -> Vec<String> {
    let all: Vec<String> = fs::read_dir("/proc")
        .expect("/proc can be read")
        .flatten()
        .filter_map(|e| fs::read_to_string(e.path().join("status")).ok())
        .collect();
    let (mut above, mut found) = (BTreeSet::from([pid.to_owned()]), Vec::new());
    loop {
        let more: Vec<&String> =
            all.iter().filter(|s| above.contains(&line(s, "PPid")) && !above.contains(&line(s, "Pid"))).collect();
        if more.is_empty() {
            return found;
        }
        for status in more {
            above.insert(line(status, "Pid"));
            found.push(status.clone());
        }
    }
}

fn holds(m: &Mirror, own: u64, children: u64) {
    m.src.write("f", b"it works");
    m.src.device("device", 1, 3);
    fs::set_permissions(m.src.at("f"), Permissions::from_mode(0o4711)).expect("the mode can be set");
    std::os::unix::fs::chown(m.src.at("f"), Some(4711), Some(4712)).expect("root may");
    m.check();
    let pid = m.daemon.pid().to_string();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon lives").flatten() {
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(bits(&status, set), own, "{set} of the thread {}", line(&status, "Name"));
        }
        assert_eq!((bits(&status, "CapInh"), bits(&status, "CapAmb")), (0, 0));
    }
    // Standby processes, and what they have started.
    let waiting = poll_until(WAIT, || Some(below(&pid)).filter(|found| found.iter().any(|s| line(s, "Name") == "rsync")));
    for status in waiting.expect("there are standby processes").iter().filter(|s| !line(s, "State").starts_with('Z')) {
        let what = format!("{} of {pid}", line(status, "Name"));
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let got = bits(status, set);
            assert_eq!(got & !children, 0, "{set} of {what}: {got:x}");
        }
        assert_eq!(bits(status, "CapEff"), children, "CapEff of {what}");
        assert_eq!(line(status, "NoNewPrivs"), "1", "{what}");
        let environment = fs::read(format!("/proc/{}/environ", line(status, "Pid"))).unwrap_or_default();
        for variable in environment.split(|&b| b == 0).filter(|v| !v.is_empty()) {
            let name = String::from_utf8_lossy(variable.split(|&b| b == b'=').next().unwrap_or_default()).into_owned();
            let known = ["PATH", "HOME", "SSH_AUTH_SOCK", "USER", "LOGNAME", "TMPDIR", "KRB5CCNAME", "LC_ALL", "RSYNC_PASSWORD"];
            assert!(known.contains(&&*name) || name.starts_with("RSYNC_"), "{what} is given the variable {name}");
        }
    }
    let shown = m.daemon.client(&["status"], WAIT).stdout;
    assert!(shown.contains("CAP_SYS_ADMIN") && !shown.contains("CAP_NET_ADMIN"), "{shown}");
}

/// Writes where everybody may, and waits, if it fetches a mark.
const FETCHES: &str = r#"
case " $* " in
*.fansync/role*)
    echo "not a mark" >"${0%/*}/open/by-the-fetch"
    until [ -e "${0%/*}/go" ]; do sleep 0.01; done ;;
esac 2>/dev/null
exec rsync "$@"
"#;

/// What a process may do that reads the mark of a target.
fn fetches(fs: Fs, to: To, way: u32, another: bool, caps: u64) -> Result<(), crate::fixture::Skip> {
    let dir = work_dir();
    let open = dir.path().join("open");
    fs::create_dir(&open).expect("a directory can be made");
    for (at, mode) in [(dir.path(), way), (open.as_path(), 0o777)] {
        fs::set_permissions(at, Permissions::from_mode(mode)).expect("the mode can be set");
    }
    let rsync = program(&dir.path().join("fetches"), FETCHES);
    let (secrets, password) = (dir.path().join("secrets"), dir.path().join("password"));
    for (path, text) in [(&secrets, "root:pass\nnobody:pass\n"), (&password, "pass\n")] {
        fs::write(path, text).expect("a file can be written");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("the mode can be set");
    }
    let write = |dir: &Dir, role| mark::write(dir.root(), &Mark::new(1, role, "test")).expect("the mark can be written");
    let mut setup = Setup::new(fs).roles().targets(&[to]).rsync(rsync).target_key("standby", 0).while_reconciling();
    if to == To::Module {
        setup = setup.module(&format!("auth users = *\nsecrets file = {}\n", secrets.display()));
        setup = setup.target_key("password_file", password.display().to_string());
    }
    let m = setup.before(move |src| write(src, Role::Primary)).before_on_target(move |dst| write(dst, Role::Follower)).start()?;
    let pid = m.daemon.pid().to_string();
    let of = |status: &String, file: &str| fs::read(format!("/proc/{}/{file}", line(status, "Pid"))).unwrap_or_default();
    let fetch = || {
        let named = |status: &&String| memchr::memmem::find(&of(status, "cmdline"), mark::FILE.as_bytes()).is_some();
        // The shell's own, which has written by then, and not what was forked and is not yet it.
        below(&pid).iter().filter(named).find(|s| below(&line(s, "Pid")).iter().any(|s| line(s, "Name") == "sleep")).cloned()
    };
    let listed = poll_until(WAIT, fetch).expect("the target's mark is asked for");
    // It may have been listed before it became another user's.
    let status = String::from_utf8_lossy(&of(&listed, "status")).into_owned();
    let (uid, gid) = (line(&status, "Uid"), line(&status, "Gid"));
    let same = |ids: &str| ids.split_whitespace().collect::<BTreeSet<_>>().len() == 1;
    assert!(same(&uid) && same(&gid), "{to:?}: users {uid}, groups {gid}");
    let uid: u32 = uid.split_whitespace().next().and_then(|n| n.parse().ok()).expect("it is a number");
    assert_eq!((65_520..=65_533).contains(&uid), another, "{to:?}: it is of user {uid}");
    if another {
        assert_eq!((line(&status, "Groups").as_str(), gid.starts_with(&uid.to_string())), ("", true), "{to:?}");
    }
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(bits(&status, set), caps, "{to:?}: {set}");
    }
    assert_eq!(line(&status, "NoNewPrivs"), "1", "{to:?}");
    let limits = String::from_utf8_lossy(&of(&status, "limits")).into_owned();
    for (limit, bytes) in [("Max file size", "1024"), ("Max core file size", "1")] {
        let found = limits.lines().find_map(|l| l.strip_prefix(limit)).unwrap_or_default();
        assert_eq!(found.split_whitespace().next(), Some(bytes), "{to:?}: {limits}");
    }
    fs::write(dir.path().join("go"), "").expect("a file can be written");
    m.check_but(Times::All, &|path: &Path| path.starts_with(mark::DIR));
    m.src.write("f", b"sent");
    m.check_but(Times::All, &|path: &Path| path.starts_with(mark::DIR));
    if Ruleset::writes_below(fs::File::open(dir.path()).expect("it is there").as_fd()).is_ok() {
        assert!(!open.join("by-the-fetch").exists(), "{to:?}: it may write where everybody may");
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    vec![
        case("capabilities_with_a_module", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            holds(&m, SYS_ADMIN | DAC_READ_SEARCH | SETPCAP, DAC_READ_SEARCH);
            Ok(())
        }),
        case("capabilities_with_a_local_target", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).targets(&[To::Local]).start()?;
            holds(&m, SYS_ADMIN | DAC_READ_SEARCH | SETPCAP | WRITES, DAC_READ_SEARCH | WRITES);
            Ok(())
        }),
        case("capabilities_over_ssh", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).targets(&[To::Ssh]).start()?;
            holds(&m, SYS_ADMIN | DAC_READ_SEARCH | SETPCAP, DAC_READ_SEARCH);
            Ok(())
        }),
        case("what_fetches_a_mark_has_no_rights", &[Fs::Tmpfs], |fs| {
            // Over ssh it is root's: keys and known hosts are this user's.
            for (to, another, caps) in [(To::Module, true, 0), (To::Local, true, DAC_READ_SEARCH), (To::Ssh, false, 0)] {
                fetches(fs, to, 0o755, another, caps)?;
            }
            // An rsync that only root may run.
            fetches(fs, To::Module, 0o700, false, 0)
        }),
        case("files_of_others_are_read_and_replaced", ALL, |fs| {
            let m = Setup::new(fs).targets(&[To::Module, To::Local]).start()?;
            // Nothing here is readable but for root's capabilities.
            m.src.mkdir("private");
            m.src.write("private/f", b"secret");
            for (at, mode) in [("private/f", 0o000), ("private", 0o000)] {
                std::os::unix::fs::chown(m.src.at(at), Some(4711), Some(4711)).expect("root may");
                m.src.chmod(at, mode);
            }
            m.check();
            m.src.write("private/f", b"secret still");
            m.src.write("private/g", b"another");
            m.check();
            m.src.remove("private/f");
            m.check();
            Ok(())
        }),
        case("socket_and_state_are_private", &[Fs::Tmpfs], |fs| {
            let m = Setup::new(fs).start()?;
            let meta = fs::symlink_metadata(m.scratch("status.sock")).expect("the socket is there");
            assert!(meta.file_type().is_socket());
            assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
            if let Ok(state) = fs::metadata(m.scratch("state")) {
                assert_eq!(state.permissions().mode() & 0o077, 0, "the state directory is open to others");
            }
            Ok(())
        }),
        case("config_that_others_can_replace", &[Fs::Tmpfs], |_| {
            let work = crate::fixture::fs::work_dir();
            let dir = work.path().join("open");
            fs::create_dir_all(dir.join("sub")).expect("a directory can be made");
            let path = dir.join("sub/fansync.toml");
            let text = "[[mirror]]\nname = \"m\"\nsource = \"/srv\"\n[[mirror.target]]\nname = \"t\"\nurl = \"/mnt\"\n";
            fs::write(&path, text).expect("a file can be written");
            let set = |at: &Path, mode: u32| fs::set_permissions(at, Permissions::from_mode(mode)).expect("the mode can be set");
            let code = || fansync(&["check", "--config", &path.display().to_string()], WAIT).code;
            assert_eq!(code(), 0);
            for (at, bad, good) in [(path.as_path(), 0o666, 0o644), (dir.as_path(), 0o777, 0o755)] {
                set(at, bad);
                assert_eq!(code(), 78, "{} with mode {bad:o}", at.display());
                set(at, good);
            }
            set(&dir, 0o1777);
            assert_eq!(code(), 0, "a sticky directory is like /tmp");
            Ok(())
        }),
    ]
}
