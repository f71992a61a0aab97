//! `backup_dir`: what runs replace or delete on a target is kept outside of the copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::fixture::fs::{Fs, work_dir};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Times;
use crate::fixture::{Case, Mirror, Run, Setup, To, WAIT, case};

/// In a module the directory of the copy is all there is, so it lies in it, excluded.
const INSIDE: &str = "/.old";

/// The files that are kept, by their path below the directory of a run, with their content. Of
/// several with one path the order is that of the runs.
fn kept(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fn files(dir: &Path, below: &Path, out: &mut Vec<(PathBuf, Vec<u8>)>) {
        let mut names: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        names.sort();
        for name in names {
            let (at, path) = (dir.join(&name), below.join(&name));
            match fs::symlink_metadata(&at) {
                Ok(meta) if meta.is_dir() => files(&at, &path, out),
                Ok(meta) if meta.is_file() => out.push((path, fs::read(&at).expect("it can be read"))),
                Ok(_) => out.push((path, b"link".to_vec())),
                Err(_) => {}
            }
        }
    }
    let list = |dir: &Path| {
        let mut found: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        found.sort();
        found
    };
    let mut out = Vec::new();
    for run in list(dir).iter().flat_map(|day| list(day)) {
        files(&run, Path::new(""), &mut out);
    }
    out
}

fn has(kept: &[(PathBuf, Vec<u8>)], path: &str, content: &[u8]) -> bool {
    kept.iter().any(|(p, c)| p == Path::new(path) && c == content)
}

fn started(fs: Fs, to: To, place: &Path) -> Run<(Mirror, PathBuf)> {
    let setup = Setup::new(fs).targets(&[to]).exclude(&[".old/"]);
    let inside = to == To::Module || to == To::SshModule;
    let named = if inside { INSIDE.to_owned() } else { place.display().to_string() };
    let m = setup.target_key("backup_dir", named.as_str()).start()?;
    let dir = if inside { m.dst().at(&INSIDE[1..]) } else { place.to_owned() };
    Ok((m, dir))
}

fn equal(m: &Mirror) {
    m.check_but(Times::All, &|path| path.starts_with(".old"));
}

fn keeps(fs: Fs, to: To) -> Run<()> {
    let place = work_dir();
    let (m, dir) = started(fs, to, place.path())?;
    m.src.mkdirs("d/sub");
    m.src.mkdirs("tree/deep");
    for (path, content) in [("d/f", "one"), ("d/sub/g", "two"), ("gone", "three"), ("tree/deep/h", "four"), ("turns", "five")] {
        m.src.write(path, content.as_bytes());
    }
    m.src.symlink("f", "d/link");
    equal(&m);
    assert_eq!(kept(&dir), [], "what is new replaces nothing");
    // Each of them by a run as changes come.
    m.src.write("d/f", b"changed");
    equal(&m);
    m.src.write("d/f", b"changed again");
    equal(&m);
    m.src.remove("gone");
    m.src.remove("d/link");
    equal(&m);
    m.src.remove("tree");
    equal(&m);
    m.src.remove("turns");
    m.src.mkdir("turns");
    m.src.write("turns/x", b"in a directory now");
    equal(&m);
    // The whole tree is compared, and deletes what only the target has.
    m.dst().write("d/sub/stray", b"of the target alone");
    m.dst().write("d/sub/g", b"tampered with");
    m.daemon.reconcile();
    equal(&m);
    let found = kept(&dir);
    for (path, content) in [
        ("d/f", &b"one"[..]),
        ("d/f", b"changed"),
        ("gone", b"three"),
        ("d/link", b"link"),
        ("tree/deep/h", b"four"),
        ("turns", b"five"),
        ("d/sub/stray", b"of the target alone"),
        ("d/sub/g", b"tampered with"),
    ] {
        assert!(has(&found, path, content), "{to:?}: {path} is not kept: {found:?}\n{}", m.daemon.report());
    }
    Ok(())
}

/// Renames are made on the target, and lists begin below: the paths of what is kept are whole.
fn renames(fs: Fs, to: To) -> Run<()> {
    let place = work_dir();
    let (m, dir) = started(fs, to, place.path())?;
    m.src.mkdirs("a/tree/deep");
    m.src.write("a/tree/deep/f", vec![b'f'; 300 << 10]);
    m.src.mkdirs("b");
    equal(&m);
    m.dst().write("a/tree/stray", b"of the target alone");
    m.src.rename("a/tree", "b/tree");
    equal(&m);
    let found = kept(&dir);
    assert!(has(&found, "a/tree/stray", b"of the target alone"), "{to:?}: {found:?}\n{}", m.daemon.report());
    // Long paths that share their beginning.
    let long = format!("long/{}/{}", "x".repeat(120), "y".repeat(120));
    m.src.mkdirs(&long);
    (0..120).for_each(|n| m.src.write(format!("{long}/{n}"), b"old"));
    equal(&m);
    m.daemon.freeze();
    (0..120).for_each(|n| m.src.write(format!("{long}/{n}"), b"new"));
    m.daemon.thaw();
    equal(&m);
    let found = kept(&dir);
    let missing: Vec<usize> = (0..120).filter(|n| !has(&found, &format!("{long}/{n}"), b"old")).collect();
    assert!(missing.is_empty(), "{to:?}: {missing:?} are not kept\n{}", m.daemon.report());
    Ok(())
}

pub fn cases() -> Vec<Case> {
    vec![
        case("what_is_replaced_or_deleted_is_kept", &[Fs::Ext4, Fs::Tmpfs], |fs| {
            [To::Local, To::Module].into_iter().try_for_each(|to| keeps(fs, to))
        }),
        case("what_is_replaced_or_deleted_over_ssh_is_kept", &[Fs::Tmpfs], |fs| {
            [To::Ssh, To::SshModule].into_iter().try_for_each(|to| keeps(fs, to))
        }),
        case("what_renames_and_long_lists_replace_is_kept", &[Fs::Ext4], |fs| {
            [To::Local, To::Module, To::Ssh].into_iter().try_for_each(|to| renames(fs, to))
        }),
        case("old_backups_are_removed", &[Fs::Tmpfs], |fs| {
            for to in [To::Local, To::Module, To::Ssh] {
                let place = work_dir();
                let inside = to == To::Module;
                let old = place.path().to_owned();
                // A month ago: the days that are named go back some 400 days.
                let month = Duration::from_secs(30 * 24 * 3600);
                let past = humantime::format_rfc3339_seconds(SystemTime::now() - month).to_string()[..10].to_owned();
                let days = [past.clone(), "2999-01-01".to_owned(), "notes".to_owned()];
                let fill = move |dir: &Path| {
                    for day in &days {
                        std::fs::create_dir_all(dir.join(day).join("d")).expect("it can be made");
                        std::fs::write(dir.join(day).join("d/f"), day).expect("it can be written");
                    }
                };
                let mut setup = Setup::new(fs).targets(&[to]).exclude(&[".old/"]).target_key("backup_keep", "1d");
                let named = if inside { INSIDE.to_owned() } else { old.display().to_string() };
                setup = setup.target_key("backup_dir", named.as_str());
                if inside {
                    setup = setup.before_on_target(move |dst| fill(&dst.at(&INSIDE[1..])));
                } else {
                    fill(&old);
                }
                let m = setup.start()?;
                let dir = if inside { m.dst().at(&INSIDE[1..]) } else { old.clone() };
                let gone = || (!dir.join(&past).exists()).then_some(());
                assert!(poll_until(WAIT, gone).is_some(), "{to:?}: an old day is still there\n{}", m.daemon.report());
                assert!(dir.join("notes/d/f").exists() && dir.join("2999-01-01/d/f").exists(), "{to:?}: more went than was old");
                m.src.write("f", b"x");
                equal(&m);
            }
            Ok(())
        }),
    ]
}
