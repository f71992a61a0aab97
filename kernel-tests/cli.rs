//! The command line: `mirror` without a configuration, `--once`, `check`, and exit codes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixture::daemon::{Config, Daemon, MirrorTable, TargetTable, Until, binary, fansync};
use crate::fixture::fs::{ALL, Fs, Ground, Mount, work_dir};
use crate::fixture::proc::{Ran, run};
use crate::fixture::rsyncd::free_port;
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Run, WAIT, case};
use crate::lifecycle::{equal_after_flush, small_tree};

pub fn cases() -> Vec<Case> {
    vec![
        case("command_line_mirror", ALL, |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let target = Dir::new(work.path().join("target"));
            target.mkdir(".");
            small_tree(&ground.src);
            let url = target.root().display().to_string();
            let daemon = Daemon::mirror(work.path(), ground.src.root(), &[url], &["--watch", "inotify"], Until::Reconciled);
            assert_eq!(daemon.status().mirrors[0].watch[0].backend, "inotify");
            equal_after_flush(&daemon, &ground.src, &target);
            ground.src.write("d/new", b"new");
            equal_after_flush(&daemon, &ground.src, &target);
            Ok(())
        }),
        case("once", ALL, |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let target = Dir::new(work.path().join("target"));
            target.mkdir(".");
            small_tree(&ground.src);
            target.write("extra", b"to be deleted");
            let (source, url) = (ground.src.root().display().to_string(), target.root().display().to_string());
            ended(0, &fansync(&["mirror", &source, &url, "--once"], WAIT));
            let found = differences(ground.src.root(), target.root(), Times::All, &|_| false);
            assert!(found.is_empty(), "source and target differ after --once:\n{found}");
            Ok(())
        }),
        case("once_with_no_target_there", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            let (source, url) = (ground.src.root().display().to_string(), format!("rsync://127.0.0.1:{}/none", free_port()));
            ended(75, &fansync(&["mirror", &source, &url, "--once"], WAIT));
            Ok(())
        }),
        case("once_says_what_is_not_done", &[Fs::Tmpfs], once_tells),
        case("bad_config", &[Fs::Tmpfs], |_| {
            let work = work_dir();
            let path = work.path().join("bad.toml");
            fs::write(&path, "[[mirror]]\nname = \"m\"\nsource = \"/\"\nno_such_key = 1\n").expect("a file can be written");
            let path = path.display().to_string();
            for command in ["check", "run"] {
                let ran = fansync(&[command, "--config", &path], WAIT);
                ended(78, &ran);
                assert!(ran.stderr.contains("bad.toml:4:1"), "{command} does not say where: {}", ran.stderr);
                assert!(ran.stderr.contains("no_such_key"), "{command} does not say what: {}", ran.stderr);
            }
            Ok(())
        }),
        case("check_sees_a_loop_through_other_mounts", &[Fs::Tmpfs], |fs| {
            let work = work_dir();
            let ground = Ground::new(fs, work.path())?;
            ground.src.mkdirs("sub/copy");
            let bind = Mount::bind(&ground.src.at("sub"), &work.path().join("bind"));
            let disk = Mount::tmpfs(&work.path().join("disk"));
            let inside = Mount::bind(&work.path().join("disk"), &ground.src.at("disk"));
            let source = ground.src.root().to_path_buf();
            let work = work.path();
            let cases = [
                (source.clone(), work.join("bind/copy"), "lies inside the source"),
                (source.clone(), work.join("disk/copy"), "lies inside the source"),
                (work.join("bind"), source.clone(), "lies inside the target"),
                (source, work.join("fs/out"), ""),
            ];
            for (source, target, words) in cases {
                let target = TargetTable { name: "t".into(), url: target.display().to_string(), ..TargetTable::default() };
                let mirror = MirrorTable { name: "m".into(), source, target: vec![target], ..MirrorTable::default() };
                let path = Config::new(work, vec![mirror]).write(work).display().to_string();
                let ran = fansync(&["check", "--config", &path], WAIT);
                ended(if words.is_empty() { 0 } else { 78 }, &ran);
                let place = words.is_empty() || ran.stderr.contains("fansync.toml:");
                assert!(ran.stderr.contains(words) && place, "{}", ran.stderr);
            }
            drop((inside, disk, bind));
            Ok(())
        }),
        case("bad_usage", &[Fs::Tmpfs], |_| {
            ended(64, &fansync(&["--no-such-flag"], WAIT));
            ended(64, &fansync(&["no-such-command"], WAIT));
            ended(64, &fansync(&["mirror"], WAIT));
            ended(64, &fansync(&["flush", "--timeout", "yesterday"], WAIT));
            Ok(())
        }),
    ]
}

#[track_caller]
fn ended(code: i32, ran: &Ran) {
    assert!(ran.code == code, "ended with {} instead of {code}: {}{}", ran.code, ran.stdout, ran.stderr);
}

fn once_tells(_: Fs) -> Run<()> {
    let work = work_dir();
    let at = |name: &str| work.path().join(name).display().to_string();
    ["src", "dst"].iter().for_each(|name| fs::create_dir(at(name)).expect("it can be made"));
    fs::write(at("src/f"), "1").expect("it can be written");
    let away = format!("rsync://127.0.0.1:{}/m", free_port());
    let ran = fansync(&["mirror", "--once", "--socket", &at("s"), &at("src"), &away], WAIT);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(ran.code == 75 && last.starts_with("error: mirror/t1 is down (3 tries): "), "{}: {}", ran.code, ran.stderr);
    // A target on this host may be relative, as the source may.
    let mut here = Command::new(binary());
    here.current_dir(work.path()).args(["mirror", "--once", "--socket", "s", "src", "dst"]);
    let ran = run(&mut here, WAIT);
    assert!(ran.code == 0 && Path::new(&at("dst/f")).exists(), "{}: {}", ran.code, ran.stderr);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("equal: 1 file sent, 0 deleted, ") && last.contains("INFO"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("pass="), "each batch is a line only at debug: {}", ran.stderr);
    Ok(())
}
