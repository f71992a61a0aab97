//! sersync's configuration, unchanged but for addresses and paths, between two network namespaces,
//! `source` and `backup`.

mod plugins;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fixture::daemon::{binary, fansync};
use crate::fixture::fs::{Fs, Mount, needs, work_dir};
use crate::fixture::proc::{Service, bound_command, must, poll_until, run};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Run, WAIT, case};

/// As on the sites that came with it: delete off, createFile off, modify on, four filters, auth,
/// failLog, a plugin.
const CONFIG: &str = r#"<?xml version="1.0" encoding="ISO-8859-1"?>
<head version="2.5">
    <host hostip="localhost" port="8008"></host>
    <debug start="DEBUG"/>
    <fileSystem xfs="false"/>
    <filter start="FILTER">
        <exclude expression="(.*)\.svn"></exclude>
        <exclude expression="(.*)\.gz"></exclude>
        <exclude expression="^info/*"></exclude>
        <exclude expression="^static/*"></exclude>
    </filter>
    <inotify>
        <delete start="DELETE"/>
        <createFolder start="true"/>
        <createFile start="false"/>
        <closeWrite start="true"/>
        <moveFrom start="true"/>
        <moveTo start="true"/>
        <attrib start="false"/>
        <modify start="true"/>
    </inotify>
    <sersync>
        <localpath watch="SOURCE">
            <remote ip="10.255.77.2" name="data"/>
        </localpath>
        <rsync>
            <commonParams params="-az"/>
            <auth start="true" users="rsync_backup" passwordfile="WORK/rsync.passwd"/>
            <userDefinedPort start="false" port="874"/>
            <timeout start="false" time="100"/>
            <ssh start="false"/>
        </rsync>
        <failLog path="WORK/rsync_fail_log.sh" timeToExecute="60"/>
        <crontab start="false" schedule="600">
            <crontabfilter start="false">
                <exclude expression="*.php"></exclude>
                <exclude expression="info/*"></exclude>
            </crontabfilter>
        </crontab>
        <plugin start="false" name="command"/>
    </sersync>
    <plugin name="command">
        <param prefix="/bin/sh" suffix="" ignoreError="true"/>
        <filter start="false">
            <include expression="(.*)\.php"/>
            <include expression="(.*)\.sh"/>
        </filter>
    </plugin>
</head>
"#;

/// The two namespaces with their servers. Ends with all in it.
struct Site {
    work: tempfile::TempDir,
    src: Dir,
    dst: Dir,
    _rsyncd: Service,
    _net: Namespaces,
    _names: Mount,
    _one: MutexGuard<'static, ()>,
}

/// The names of namespaces are there once.
static ONE: Mutex<()> = Mutex::new(());

struct Namespaces;

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in ["source", "backup"] {
            let _ = run(Command::new("ip").args(["netns", "del", name]), WAIT);
        }
    }
}

impl Site {
    fn new() -> Run<Site> {
        needs("ip")?;
        needs("rsync")?;
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let work = work_dir();
        // Names of namespaces are files; ours are not the host's.
        fs::create_dir_all("/run/netns").expect("the place of namespaces' names");
        let names = Mount::tmpfs(Path::new("/run/netns"));
        let net = Namespaces;
        let ip = |line: &str| must(Command::new("ip").args(line.split(' ')));
        ip("netns add source");
        ip("netns add backup");
        ip("link add eth0 netns source type veth peer name eth0 netns backup");
        for (name, address) in [("source", "10.255.77.1/24"), ("backup", "10.255.77.2/24")] {
            ip(&format!("-n {name} address add {address} dev eth0"));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} link set lo up"));
        }
        let (src, dst) = (Dir::new(work.path().join("data")), Dir::new(work.path().join("backup")));
        src.mkdir(".");
        dst.mkdir(".");
        chown(dst.root(), Some(666), Some(666)).expect("the module's directory is the module's user's");
        // The module's user has to get there.
        for dir in [work.path(), work.path().parent().expect("a directory above")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).expect("a mode");
        }
        let secret = |name: &str, text: &str| {
            let path = work.path().join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
                .expect("a secret");
            path
        };
        secret("rsync.passwd", "123456\n");
        let secrets = secret("rsyncd.passwd", "rsync_backup:123456\n");
        let conf = work.path().join("rsyncd.conf");
        let text = format!(
            "uid = 666\ngid = 666\nport = 873\nfake super = yes\nuse chroot = no\nmax connections = 200\ntimeout = 600\nignore errors\n\
             read only = false\nlist = false\nauth users = rsync_backup\nsecrets file = {}\nlog file = {}\n[data]\ncomment = backup for NFS\n\
             path = {}\n",
            secrets.display(),
            work.path().join("rsyncd.log").display(),
            dst.root().display(),
        );
        fs::write(&conf, text).expect("the server's configuration");
        let log = File::create(work.path().join("rsyncd.out")).expect("a log");
        let mut command = bound_command("ip");
        command.args(["netns", "exec", "backup", "rsync", "--daemon", "--no-detach", "--config"]).arg(&conf);
        let rsyncd = Service::start("rsync --daemon", &mut command, &log).unwrap_or_else(|e| panic!("{e}"));
        Ok(Site { work, src, dst, _rsyncd: rsyncd, _net: net, _names: names, _one: one })
    }

    fn config(&self, delete: bool, filter: bool) -> PathBuf {
        let path = self.work.path().join("confxml.xml");
        let work = self.work.path().to_str().expect("a path of text");
        let text = CONFIG.replace("SOURCE", self.src.root().to_str().expect("a path of text")).replace("WORK", work);
        let text = text.replace("DELETE", &delete.to_string()).replace("FILTER", &filter.to_string()).replace("DEBUG", "true");
        fs::write(&path, text).expect("the configuration");
        path
    }

    fn start(&self, config: &Path, flags: &str) -> Service {
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = bound_command("ip");
        command.args(["netns", "exec", "source"]).arg(binary()).args(["sersync", flags]).arg(config);
        Service::start("sersync", &mut command, &log).unwrap_or_else(|e| panic!("{e}"))
    }

    fn log(&self) -> PathBuf {
        self.work.path().join("fansync.log")
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Dir) -> bool) {
        let arrived = poll_until(WAIT, || holds(&self.dst).then_some(()));
        assert!(arrived.is_some(), "{what}\n{}", fs::read_to_string(self.log()).unwrap_or_default());
    }
}

fn mirrors(delete: bool, filter: bool) -> impl Fn(Fs) -> Run<()> {
    move |_| {
        let site = Site::new()?;
        let (src, config) = (&site.src, site.config(delete, filter));
        src.write("before", b"there at the start");
        let mut daemon = site.start(&config, "-ro");
        site.until("what was there arrives", |dst| dst.has("before"));
        src.mkdirs("a/b");
        src.write("a/b/upload.jpg", b"uploaded");
        src.write("a/b/x.gz", b"filtered, if at all");
        src.write("a/.htaccess", b"never in time");
        src.write("gone", b"to be removed");
        site.until("uploads arrive", |dst| dst.read("a/b/upload.jpg").as_deref() == Some(b"uploaded") && dst.has("gone"));
        src.rename("a/b/upload.jpg", "a/b/renamed.jpg");
        src.remove("gone");
        src.write("last", b"the last");
        site.until("renames arrive", |dst| dst.has("a/b/renamed.jpg") && dst.has("last"));
        let gone = |dst: &Dir| !dst.has("gone") && !dst.has("a/b/upload.jpg");
        if delete {
            site.until("deletions arrive", gone);
        } else {
            assert!(site.dst.has("gone") && site.dst.has("a/b/upload.jpg"), "deletions are off");
        }
        assert_eq!(site.dst.has("a/b/x.gz"), !filter);
        assert!(!site.dst.has("a/.htaccess"));
        let log = fs::read_to_string(site.log()).unwrap_or_default();
        for want in ["event path", "starting rsync", "--files-from=-", "createFile"] {
            assert!(log.contains(want), "debug does not tell {want:?}:\n{log}");
        }
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.wait(WAIT).success());
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        case("as_it_is", &[Fs::Tmpfs], mirrors(false, false)),
        case("with_delete_and_filters", &[Fs::Tmpfs], mirrors(true, true)),
        case("checked_and_imported", &[Fs::Tmpfs], |_| {
            let site = Site::new()?;
            let config = site.config(true, true);
            let path = config.to_str().expect("a path of text");
            let checked = fansync(&["check", "--config", path], WAIT);
            assert_eq!(checked.code, 0, "{}", checked.stderr);
            for want in ["munge symlinks", "ignore errors", "confxml.xml:3: <host>"] {
                assert!(checked.stderr.contains(want), "{want:?} is not in\n{}", checked.stderr);
            }
            let imported = fansync(&["import", path], WAIT);
            assert_eq!(imported.code, 0, "{}", imported.stderr);
            let toml = site.work.path().join("imported.toml");
            fs::write(&toml, imported.stdout).expect("a file");
            let effective = |path: &str| fansync(&["check", "--effective", "--config", path], WAIT).stdout;
            let (one, other) = (effective(path), effective(toml.to_str().expect("a path of text")));
            assert!(!one.is_empty() && one == other, "{one}\n---\n{other}");
            let unknown = fansync(&["sersync", "-x"], WAIT);
            assert_eq!(unknown.code, 64);
            Ok(())
        }),
        case("hung_up_it_reads_its_file_again", &[Fs::Tmpfs], |_| {
            let site = Site::new()?;
            let config = site.config(true, true);
            let mut daemon = site.start(&config, "-ro");
            site.src.write("a.gz", b"filtered at first");
            site.src.write("b", b"1");
            site.until("it mirrors", |dst| dst.has("b"));
            let says = |times: usize, what: &str| {
                let log = || fs::read_to_string(site.log()).unwrap_or_default();
                let shown = poll_until(WAIT, || (log().matches(what).count() == times).then_some(()));
                assert!(shown.is_some(), "{what:?} is not there {times} times:\n{}", log());
            };
            let good = fs::read_to_string(&config).expect("the configuration");
            fs::write(&config, good.replace("</sersync>", "")).expect("a file");
            daemon.signal(Signal::SIGHUP);
            says(1, "the earlier one stays in force: ");
            site.src.write("c", b"2");
            site.until("the earlier one works on", |dst| dst.has("c"));
            assert!(!site.dst.has("a.gz"));
            site.config(true, false);
            daemon.signal(Signal::SIGHUP);
            says(1, "the configuration is in force");
            site.until("what is not filtered any more arrives", |dst| dst.has("a.gz"));
            daemon.signal(Signal::SIGTERM);
            assert!(daemon.wait(WAIT).success());
            Ok(())
        }),
        case("detached_and_alone", &[Fs::Tmpfs], |_| {
            let site = Site::new()?;
            let config = site.config(false, false);
            let start = || {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", "source"]).arg(binary()).args(["sersync", "-dro"]).arg(&config);
                let log = File::options().create(true).append(true).open(site.log()).expect("a log");
                command.stderr(log);
                command.status().expect("ip runs").code()
            };
            assert_eq!(start(), Some(0), "{}", fs::read_to_string(site.log()).unwrap_or_default());
            // The second is refused and names the first.
            assert_eq!(start(), Some(78));
            let log = fs::read_to_string(site.log()).unwrap_or_default();
            let pid = log.split("is run by process ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            let pid = Pid::from_raw(pid.unwrap_or_else(|| panic!("no process is named in\n{log}")));
            let lock = log.split("its lock is ").nth(1).and_then(|rest| rest.split(')').next()).map(PathBuf::from);
            let lock = lock.unwrap_or_else(|| panic!("no lock is named in\n{log}"));
            assert_eq!(fs::read_to_string(&lock).ok(), Some(format!("{pid}\n")));
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
            let session = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(3)).map(str::to_owned);
            assert_eq!(session, Some(pid.to_string()), "it has no session of its own");
            site.src.write("f", b"content");
            site.until("the detached process mirrors", |dst| dst.has("f"));
            kill(pid, Signal::SIGTERM).expect("it runs");
            let ended = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
            poll_until(WAIT, ended).expect("it ends");
            assert!(!lock.exists(), "its file with the process id stays");
            assert_eq!(start(), Some(0), "the lock is free again");
            assert_eq!(start(), Some(78));
            let log = fs::read_to_string(site.log()).unwrap_or_default();
            let pid = log.rsplit("is run by process ").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
            kill(Pid::from_raw(pid.expect("a process")), Signal::SIGTERM).expect("it runs");
            Ok(())
        }),
    ];
    all.extend(plugins::cases());
    all
}
