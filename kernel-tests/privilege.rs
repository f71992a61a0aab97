//! What the daemon and its children may do, and whom its files must not be open to.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use crate::fixture::daemon::fansync;
use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, Setup, To, WAIT, case};

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
    // Those that stand by, and what they have started.
    let waiting = poll_until(WAIT, || Some(below(&pid)).filter(|found| found.iter().any(|s| line(s, "Name") == "rsync")));
    for status in waiting.expect("processes stand by").iter().filter(|s| !line(s, "State").starts_with('Z')) {
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
    let told = m.daemon.client(&["status"], WAIT).stdout;
    assert!(told.contains("CAP_SYS_ADMIN") && !told.contains("CAP_NET_ADMIN"), "{told}");
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
