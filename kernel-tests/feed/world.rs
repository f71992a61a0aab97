//! A source with a feed on a nats-server of its own, and its followers.

use super::*;

/// Changes between two faults.
pub const CHURN: usize = 60;

/// A nats-server with JetStream, on loopback.
pub struct Nats {
    pub work: PathBuf,
    pub port: u16,
    pub service: Option<Service>,
    /// Further lines of its configuration.
    pub lines: String,
}

impl Nats {
    pub fn start(work: &Path, lines: &str) -> Run<Nats> {
        needs("nats-server")?;
        let mut nats = Nats { work: work.into(), port: 0, service: None, lines: lines.into() };
        for _ in 0..5 {
            nats.port = free_port();
            if nats.try_start() {
                return Ok(nats);
            }
        }
        panic!("no nats-server would start; its log is\n{}", nats.log());
    }

    pub fn store(&self) -> PathBuf {
        self.work.join("jetstream")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.work.join("nats.log")).unwrap_or_default()
    }

    pub fn try_start(&mut self) -> bool {
        let config = self.work.join("nats.conf");
        let text = format!(
            "listen: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\" }}\n{}\n",
            self.port,
            self.store().display(),
            self.lines
        );
        std::fs::write(&config, text).expect("the config can be written");
        let log = File::options().create(true).append(true).open(self.work.join("nats.log")).expect("a log file can be made");
        let mut command = bound_command("nats-server");
        let mut service = Service::start("nats-server", command.arg("-c").arg(&config), &log).unwrap_or_else(|e| panic!("{e}"));
        let accepts = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        let up = poll_until(WAIT, || service.ended().map(|_| false).or_else(|| accepts().then_some(true)));
        let up = up == Some(true) && service.ended().is_none();
        self.service = up.then_some(service);
        up
    }

    pub fn kill(&mut self) {
        self.service = None;
    }

    pub fn restart(&mut self) {
        self.kill();
        assert!(self.try_start(), "nats-server did not come back: {}", self.log());
    }

    pub fn url(&self) -> String {
        let scheme = if self.lines.contains("tls {") { "tls" } else { "nats" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }
}

/// A follower with a work directory of its own.
pub struct Follower {
    pub work: TempDir,
    pub name: String,
    pub toml: String,
    pub dir: Dir,
    pub daemon: Daemon,
}

impl Follower {
    pub fn inline(&self) -> InlineStatus {
        self.daemon.target_status("upstream").inline.unwrap_or_default()
    }

    pub fn restart(&mut self) {
        self.daemon.kill();
        self.daemon = Daemon::run_text(self.work.path(), &self.toml, Until::Answering);
    }
}

/// A source with a feed, and its followers. Dropped in this order.
pub struct World {
    pub followers: Vec<Follower>,
    pub daemon: Daemon,
    pub rsyncd: Rsyncd,
    pub nats: Nats,
    pub src: Dir,
    pub toml: String,
    /// Of the follower's table.
    pub keys: String,
    pub module: PathBuf,
    pub random: fastrand::Rng,
    _ground: Ground,
    pub work: TempDir,
}

impl World {
    pub fn new(fs: Fs, followers: usize) -> Run<World> {
        World::with(fs, followers, "", "", "")
    }

    /// Further lines of the feed's table, of the followers', and of nats-server's configuration.
    pub fn with(fs: Fs, followers: usize, feed: &str, keys: &str, nats: &str) -> Run<World> {
        let work = fs::work_dir();
        let nats = Nats::start(work.path(), nats)?;
        let ground = Ground::of(fs, work.path(), fs::IMAGE_MIB)?;
        let src = ground.src.clone();
        src.mkdirs("d/e");
        src.write("d/e/f", b"first");
        src.write("top", b"first");
        let module = src.root().to_owned();
        let rsyncd = Rsyncd::start(work.path(), &[("web".to_owned(), module.clone())])?;
        let toml = format!(
            "[[mirror]]\nname = \"web\"\nsource = \"{}\"\n[[mirror.feed]]\nname = \"feed\"\nservers = [\"{}\"]\nretry_max = \"1s\"\n{feed}\n",
            src.root().display(),
            nats.url()
        );
        let daemon = Daemon::run_text(work.path(), &toml, Until::Reconciled);
        let random = fastrand::Rng::with_seed(7);
        let keys = keys.to_owned();
        let mut world =
            World { followers: Vec::new(), daemon, rsyncd, nats, src, toml, keys, module, random, _ground: ground, work };
        for n in 0..followers {
            world.join(n, |_| {});
        }
        Ok(world)
    }

    /// Starts a follower, whose directory `fill` fills before.
    pub fn join(&mut self, n: usize, fill: impl FnOnce(&Dir)) {
        let upstream = self.rsyncd.url("web");
        self.join_by(n, &[upstream], None, fill);
    }

    /// The same, with these upstreams; a relay says where it serves its directory.
    pub fn join_by(&mut self, n: usize, upstreams: &[String], serve: Option<&str>, fill: impl FnOnce(&Dir)) {
        let work = fs::work_dir();
        let name = format!("f{n}");
        let dir = Dir::new(work.path().join("copy"));
        dir.mkdir(".");
        fill(&dir);
        let toml = self.follower_toml(&name, &dir, upstreams, serve);
        let daemon = Daemon::run_text(work.path(), &toml, Until::Answering);
        self.followers.push(Follower { work, name, toml, dir, daemon });
    }

    pub fn follower_toml(&self, name: &str, dir: &Dir, upstreams: &[String], serve: Option<&str>) -> String {
        let serve = serve.map(|serve| format!("serve = \"{serve}\"\n")).unwrap_or_default();
        format!(
            "[[follow]]\nname = \"web\"\nservers = [\"{}\"]\nfollower = \"{name}\"\ndirectory = \"{}\"\nupstream = {upstreams:?}\nspread = \"1ms\"\nretry_max = \"1s\"\n{serve}{}\n",
            self.nats.url(),
            dir.root().display(),
            self.keys
        )
    }

    /// Restarts a follower with other upstreams.
    pub fn prefers(&mut self, n: usize, upstreams: &[String], serve: Option<&str>) {
        let follower = &self.followers[n];
        let toml = self.follower_toml(&follower.name, &follower.dir, upstreams, serve);
        self.followers[n].toml = toml;
        self.followers[n].restart();
    }

    /// So much that no random change is half of all: no comparison is held for what it deletes.
    pub fn keep(&self) {
        self.src.mkdir("kept");
        (0..100).for_each(|n| self.src.write(format!("kept/{n}"), b"kept"));
    }

    pub fn restart_source(&mut self) {
        self.daemon.kill();
        self.daemon = Daemon::run_text(self.work.path(), &self.toml, Until::Answering);
    }

    /// Random changes: files, directories, renames, and what takes the place of what.
    pub fn churn(&mut self, changes: usize) {
        for _ in 0..changes {
            let mut name = || ["a", "b", "c", "d", "e"][self.random.usize(..5)];
            let (dir, at) = (name(), format!("{}/{}", name(), name()));
            let (deep, to) = (format!("{at}/{}", name()), format!("{}/{}", name(), name()));
            let root = self.src.root();
            let is_dir = |path: &str| root.join(path).symlink_metadata().is_ok_and(|found| found.is_dir());
            let _ = match self.random.u8(..8) {
                0 => {
                    if !is_dir(dir) {
                        let _ = std::fs::remove_file(root.join(dir));
                    }
                    std::fs::create_dir_all(root.join(&at))
                }
                1 => std::fs::write(root.join(&at), [b'x'].repeat(self.random.usize(..3_000))),
                2 => std::fs::write(root.join(&deep), [self.random.u8(..)]),
                3 => std::fs::remove_dir_all(root.join(&at)),
                4 => std::fs::remove_file(root.join(&at)),
                5 => std::fs::rename(root.join(&at), root.join(&to)),
                6 => std::fs::rename(root.join(dir), root.join(name_of(&to))),
                _ => std::fs::write(root.join(dir), b"a file for a while").or_else(|_| std::fs::create_dir(root.join(dir))),
            };
        }
    }

    /// Waits until every follower reports that it holds all, and looks whether it does. By name:
    /// one that was killed before its first word is not known yet.
    #[track_caller]
    pub fn check(&self) {
        self.check_but(&|_| false);
    }

    /// The same, with paths that may differ.
    #[track_caller]
    pub fn check_but(&self, ignore: &dyn Fn(&Path) -> bool) {
        let names: Vec<&str> = self.followers.iter().map(|follower| &*follower.name).collect();
        self.barrier(&names.join(","));
        for follower in &self.followers {
            let found = differences(self.src.root(), follower.dir.root(), Times::All, ignore);
            let log = follower.daemon.log();
            assert!(found.is_empty(), "{} differs after the barrier:\n{found}\nits log:\n{log}", follower.name);
        }
    }

    #[track_caller]
    pub fn barrier(&self, which: &str) {
        let said = self.flush(which, WAIT);
        let logs = || self.followers.iter().map(|f| format!("--- {}\n{}", f.name, f.daemon.log())).collect::<String>();
        assert!(said.code == 0, "no barrier: {}\n{}\n--- source\n{}", said.stderr, logs(), self.daemon.log());
    }

    pub fn flush(&self, which: &str, within: Duration) -> Ran {
        let timeout = format!("{}ms", within.as_millis());
        self.daemon.client(&["flush", "--followers", which, "--timeout", &timeout], within + WAIT)
    }

    /// Changes files until a follower has made something of what comes in their records: right
    /// after its start it does not know yet what is older than what it pulled.
    #[track_caller]
    pub fn change_until(&self, n: usize, wanted: impl Fn(&InlineStatus) -> bool) {
        let follower = &self.followers[n];
        let mut count = 0;
        let seen = poll_until(WAIT, || {
            count += 1;
            self.src.write(format!("file-{count}"), b"one of many");
            self.barrier(&follower.name);
            // It looks at the stream.
            follower.daemon.flush(None);
            wanted(&follower.inline()).then_some(())
        });
        let log = || follower.daemon.log();
        assert!(seen.is_some(), "{}: {:?} after {count} files\n{}", follower.name, follower.inline(), log());
    }

    /// Waits until the log of a follower has these words.
    #[track_caller]
    pub fn follower_says(&self, n: usize, words: &str) {
        let follower = &self.followers[n];
        let said = poll_until(WAIT, || follower.daemon.log().contains(words).then_some(()));
        assert!(said.is_some(), "{} never says {words:?}:\n{}", follower.name, follower.daemon.log());
    }
}

/// The key for a program in place of rsync, which does this with its words before it becomes rsync.
pub fn instead_of_rsync(dir: &Path, lines: &str) -> String {
    let path = dir.join("rsync");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\nexec rsync \"$@\"\n")).expect("a script can be written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("its mode can be set");
    format!("rsync = \"{}\"\n", path.display())
}

/// Once `hold` is there, runs whose list has `u/big` wait for `go`.
pub const HOLDS_BIG: &str = r#"case " $* " in *" --files-from"*) ;; *) exec rsync "$@" ;; esac
cat >"$0.list.$$"
if [ -e "$0.hold" ] && tr '\0' '\n' <"$0.list.$$" | grep -q '^\(\./\)\?u/big'; then
    : >"$0.waits"
    while [ ! -e "$0.go" ]; do sleep 0.01; done
fi
rsync "$@" <"$0.list.$$"
code=$?
rm -f "$0.list.$$"
exit $code"#;

pub fn name_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// How often a comparison of the whole tree was owed by an event of the feed.
pub fn comparisons(daemon: &Daemon) -> usize {
    daemon.log().matches("the whole tree is compared with the upstream").count()
}

/// A copy of a directory with all below it.
pub fn copy(from: &Path, to: &Path) {
    let ended = Command::new("cp").args(["-a", "--"]).args([from, to]).status().expect("cp can be run");
    assert!(ended.success());
}
