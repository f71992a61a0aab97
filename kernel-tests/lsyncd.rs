//! lsyncd and fansync on the same tree, from the same configuration: the copies are alike.
//!
//! In a program `@P@` is `l` where lsyncd runs it and `f` where it is imported, so that each has
//! targets of its own; `@W@` is the directory of the test, `@SRC@` the source, `@PORT@` the port of
//! an rsync daemon, `@SSH@` the settings that reach an ssh daemon, `@SHELL@` its command.

use std::fs::{self, File};
use std::path::Path;

use crate::fixture::daemon::{Daemon, Until, fansync};
use crate::fixture::fs::{Fs, Ground, needs, work_dir};
use crate::fixture::proc::{Service, bound_command, poll_until};
use crate::fixture::rsyncd::{Rsyncd, Sshd, behind_ssh};
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Run, WAIT, case};

/// Name, program.
const PROGRAMS: &[(&str, &str)] = &[
    (
        "literals_and_a_module",
        "settings { nodaemon = true, maxProcesses = 2 }\n\
         sync { default.rsync, source = '@SRC@', target = 'rsync://127.0.0.1:@PORT@/@P@-one', delay = 1,\n\
         rsync = { archive = true, compress = true } }\n",
    ),
    (
        "a_loop_over_modules_with_a_table_of_excludes",
        "settings { nodaemon = true }\nlocal skip = { '*.tmp', '/cache/' }\n\
         for _, name in ipairs { 'one', 'two' } do\n\
         sync { default.rsync, source = '@SRC@', target = 'rsync://127.0.0.1:@PORT@/@P@-' .. name, delay = 1, exclude = skip }\nend\n",
    ),
    (
        "a_function_and_the_environment",
        "settings { nodaemon = true }\nlocal base = os.getenv('NO_SUCH_VARIABLE') or '@W@'\n\
         local function mirror(to)\n  sync { default.rsync, source = '@SRC@', target = base .. '/' .. to, delay = 1,\n\
         rsync = { perms = true, owner = true, group = true, _extra = { '--chmod=Fo-r' } } }\nend\nmirror('@P@-one')\n",
    ),
    (
        "nothing_is_deleted",
        "settings { nodaemon = true }\nsync { default.rsync, source = '@SRC@', target = '@W@/@P@-one', delete = false, delay = 1 }\n",
    ),
    (
        "deletions_at_the_start",
        "settings { nodaemon = true }\nsync { default.rsync, source = '@SRC@', target = '@W@/@P@-one', delete = 'startup', delay = 1 }\n",
    ),
    (
        "deletions_while_running",
        "settings { nodaemon = true }\nsync { default.rsync, source = '@SRC@', target = '@W@/@P@-one', delete = 'running', delay = 1 }\n",
    ),
    (
        "excludes_of_a_file",
        "settings { nodaemon = true }\nsync { default.rsync, source = '@SRC@', target = '@W@/@P@-one', delay = 1,\n\
         excludeFrom = '@W@/excludes', rsync = { archive = true } }\n",
    ),
    (
        "rules_in_order",
        "settings { nodaemon = true }\nsync { default.rsync, source = '@SRC@', target = '@W@/@P@-one', delay = 1,\n\
         filter = { '+ /d/keep.tmp', '- *.tmp' }, rsync = { archive = true } }\n",
    ),
    (
        "an_include_behind_an_exclude",
        "settings { nodaemon = true }\nsync { default.rsync, source = '@SRC@', target = '@W@/@P@-one', delay = 1,\n\
         filter = { '- /cache/', '+ /d/keep.tmp', '- *.tmp' }, rsync = { archive = true } }\n",
    ),
    (
        "a_direct_copy",
        "settings { nodaemon = true }\nsync { default.direct, source = '@SRC@', target = '@W@/@P@-one', delay = 1 }\n",
    ),
    (
        "through_ssh",
        "settings { nodaemon = true }\nsync { default.rsyncssh, source = '@SRC@', host = 'root@127.0.0.1', targetdir = '@W@/@P@-one', delay = 1,\n\
         rsync = { archive = true }, ssh = { @SSH@ } }\n",
    ),
    (
        "a_daemon_through_ssh",
        "settings { nodaemon = true }\nsync { default.rsync, source = '@SRC@', target = 'root@127.0.0.1::@P@-one', delay = 1,\n\
         rsync = { archive = true, rsh = '@SHELL@', rsync_path = 'rsync --config=@W@/@P@-one.conf' } }\n",
    ),
];

fn fill(src: &Dir) {
    for dir in ["d", "cache", "old/deep"] {
        src.mkdirs(dir);
    }
    for (path, content) in [
        ("a", "1"),
        ("d/b", "2"),
        ("d/x.tmp", "3"),
        ("d/keep.tmp", "4"),
        ("cache/c", "5"),
        ("old/deep/f", "6"),
        ("with space", "7"),
    ] {
        src.write(path, content);
    }
    src.symlink("a", "link");
    src.chmod("d/b", 0o640);
}

fn change(src: &Dir) {
    src.append("a", b"more");
    src.rename("d/b", "d/b2");
    src.mkdir("new");
    src.write("new/f", b"8");
    src.write("new/y.tmp", b"9");
    src.write("cache/c2", b"10");
    src.remove("with space");
    src.remove("old/deep/f");
    src.rmdir("old/deep");
    src.write("last", b"11");
}

fn alike(name: &str, program: &str) -> Run<()> {
    needs("lsyncd")?;
    let work = work_dir();
    let at = work.path();
    let ground = Ground::new(Fs::Tmpfs, at)?;
    let names: Vec<&str> = if program.contains("'two'") { vec!["one", "two"] } else { vec!["one"] };
    let dirs = |side: &str| names.iter().map(|n| Dir::new(at.join(format!("{side}-{n}")))).collect::<Vec<_>>();
    let (of_lsyncd, of_fansync) = (dirs("l"), dirs("f"));
    let mut modules = Vec::new();
    for dir in of_lsyncd.iter().chain(&of_fansync) {
        dir.mkdir(".");
        dir.write("stray", b"of the target alone");
        let name = dir.root().file_name().and_then(|n| n.to_str()).expect("a name of text");
        modules.push((name.to_owned(), dir.root().to_owned()));
    }
    let rsyncd = if program.contains("@PORT@") { Some(Rsyncd::start(at, &modules)?) } else { None };
    for (name, dir) in &modules {
        behind_ssh(at, name, dir, "");
    }
    let sshd = if program.contains("@SSH@") || program.contains("@SHELL@") { Some(Sshd::start(at, at)?) } else { None };
    fill(&ground.src);
    fs::write(at.join("excludes"), "# what changes often\n*.tmp\n/cache/\n").expect("a file");
    let shell = sshd.as_ref().map_or_else(String::new, |sshd| {
        format!(
            "port = {}, identityFile = '{}', options = {{ IdentitiesOnly = 'yes', StrictHostKeyChecking = 'no', \
             UserKnownHostsFile = '/dev/null', LogLevel = 'ERROR' }}",
            sshd.port(),
            sshd.key().display()
        )
    });
    let write = |side: &str| {
        let text = program.replace("@P@", side).replace("@W@", &at.display().to_string());
        let text = text.replace("@SRC@", &ground.src.root().display().to_string()).replace("@SSH@", &shell);
        let text = text.replace("@SHELL@", &sshd.as_ref().map_or_else(String::new, Sshd::command));
        let text = text.replace("@PORT@", &rsyncd.as_ref().map_or(0, Rsyncd::port).to_string());
        let path = at.join(format!("{side}.lua"));
        fs::write(&path, text).expect("a file");
        path
    };
    let imported = fansync(&["import", write("f").to_str().expect("a path of text")], WAIT);
    assert_eq!(imported.code, 0, "{name}: {}", imported.stderr);
    let log_path = at.join("lsyncd.log");
    let log = File::create(&log_path).expect("a log");
    let mut lsyncd = Service::start("lsyncd", bound_command("lsyncd").arg("-nodaemon").arg(write("l")), &log).expect("it starts");
    let daemon = Daemon::run_text(at, &imported.stdout, Until::Reconciled);
    let agree = |what: &str, until: &dyn Fn(&Dir) -> bool| {
        let both = || of_lsyncd.iter().zip(&of_fansync);
        // Without archive, lsyncd's rsync keeps a link's time to the second only.
        let linked = |dir: &Dir| fs::read_link(dir.at("link")).is_ok_and(|to| to == Path::new("a"));
        let found = |times| {
            both().map(|(l, f)| differences(l.root(), f.root(), times, &|path| path == Path::new("link"))).collect::<String>()
        };
        let done = || {
            (both().all(|(l, f)| [l, f].iter().all(|dir| until(dir) && linked(dir))) && found(Times::NotOfDirs).is_empty())
                .then_some(())
        };
        let logged = || fs::read_to_string(&log_path).unwrap_or_default();
        assert!(
            poll_until(WAIT, done).is_some(),
            "{name}: {what}: lsyncd's copy is not fansync's:\n{}\n{}\n{}",
            found(Times::NotOfDirs),
            logged(),
            imported.stdout
        );
    };
    agree("at the start", &|dir| dir.has("a"));
    change(&ground.src);
    daemon.flush(None);
    agree("after changes", &|dir| dir.has("last"));
    assert!(lsyncd.ended().is_none(), "{name}: lsyncd has ended");
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let mut all: Vec<Case> =
        PROGRAMS.iter().map(|&(name, program)| case(name, &[Fs::Tmpfs], move |_| alike(name, program))).collect();
    all.push(case("checked", &[Fs::Tmpfs], |_| {
        let work = work_dir();
        let path = work.path().join("lsyncd.conf.lua");
        fs::write(
            &path,
            "settings {\n logfile = '/l' }\nsync { default.rsync, source = '/srv', target = 'h::m',\n onepass = true }\n",
        )
        .expect("a file");
        let path = path.to_str().expect("a path of text");
        let checked = fansync(&["check", "--config", path], WAIT);
        assert_eq!(checked.code, 0, "{}", checked.stderr);
        for want in [
            "lsyncd.conf.lua:2: logfile is not carried over",
            "lsyncd.conf.lua:4: onepass is not",
            &format!("fansync import {path} >"),
        ] {
            assert!(checked.stderr.contains(want), "{want:?} is not in\n{}", checked.stderr);
        }
        fs::write(Path::new(path), "settings {}\nsync { default.rsync, source = '/srv' }\n").expect("a file");
        for command in [["check", "--config", path].as_slice(), &["import", path]] {
            let ran = fansync(command, WAIT);
            assert_eq!(ran.code, 78, "{}", ran.stderr);
            assert!(ran.stderr.contains("lsyncd.conf.lua:2:1"), "{}", ran.stderr);
        }
        Ok(())
    }));
    all
}
