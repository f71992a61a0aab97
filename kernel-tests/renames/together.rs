//! Renames that come together and leave together: how many connections they cost is counted in the
//! server's log.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::must;
use crate::fixture::{Case, Mirror, Run, Setup, To, case};
use crate::outages::program;

use super::carried::{EVERYWHERE, FEW, ONE, noise, unlinked};

/// Connections that renames of any number may cost, the next standby processes included.
const CONNECTIONS: usize = 8;
const DIRS: usize = 20;

/// `DIRS` directories of some files and a directory each, and one to move them to.
fn dirs(m: &Mirror) {
    for n in 0..DIRS {
        m.src.mkdirs(format!("d{n}/sub"));
        for f in 0..6 {
            let at = ["", "sub/"][f % 2];
            m.src.write(format!("d{n}/{at}f{f}"), noise((n * 10 + f) as u64, 3_000 + n));
        }
        m.src.chmod(format!("d{n}/f0"), 0o640);
        m.src.symlink("sub/f1", format!("d{n}/link"));
    }
    m.src.mkdir("there");
    m.src.write("beside", b"x");
    m.check();
}

fn names() -> impl Iterator<Item = String> {
    (0..DIRS).map(|n| format!("d{n}"))
}

/// What `act` cost the first target: connections if it is a module, bytes, renames, and those sent
/// whole.
fn cost(m: &Mirror, act: impl FnOnce()) -> (usize, u64, u64, u64) {
    let connections = || m.rsyncd.as_ref().map_or(0, |rsyncd| rsyncd.connections());
    let (before, connected) = (m.daemon.target_status("t1"), connections());
    // All of it is seen at one time.
    m.daemon.freeze();
    act();
    m.daemon.thaw();
    m.check();
    let now = m.daemon.target_status("t1");
    (
        connections() - connected,
        now.bytes_sent - before.bytes_sent,
        now.renames - before.renames,
        now.renames_sent_whole - before.renames_sent_whole,
    )
}

#[track_caller]
fn cheap(m: &Mirror, renames: u64, act: impl FnOnce()) {
    let (connections, bytes, carried, whole) = cost(m, act);
    assert_eq!((carried, whole), (renames, 0), "{connections} connections, {bytes} bytes");
    assert!(connections <= CONNECTIONS, "{connections} connections for {renames} renames");
    assert!(bytes <= FEW, "{bytes} bytes for {renames} renames");
    unlinked(m);
}

fn started(fs: Fs, setup: impl FnOnce(Setup) -> Setup) -> Run<Mirror> {
    let m = setup(Setup::new(fs)).start()?;
    dirs(&m);
    Ok(m)
}

/// rsync, but before a list that names `d3` is read, another program puts a directory of this name in
/// `SRC` whose files differ from those of the one that was there in modes only.
const BACK_IN_BETWEEN: &str = r#"
case "$*" in *--link-dest=*) exec rsync "$@";; *--files-from=-*) ;; *) exec rsync "$@";; esac
list=$(mktemp "$TMPDIR/list.XXXXXX")
cat >"$list"
if grep -qz '^\./d3$' "$list" && [ ! -e "$TMPDIR/done" ]; then
    touch "$TMPDIR/done"
    cp -a "$(cat "$TMPDIR/src")/there/d3" "$(cat "$TMPDIR/src")/d3"
    chmod 600 "$(cat "$TMPDIR/src")/d3/f0"
fi
exec rsync "$@" <"$list""#;

pub fn cases() -> Vec<Case> {
    vec![
        case("together_dirs_to_another", ALL, |fs| {
            let m = started(fs, |setup| setup.targets(EVERYWHERE))?;
            cheap(&m, DIRS as u64, || names().for_each(|d| m.src.rename(&d, format!("there/{d}"))));
            cheap(&m, DIRS as u64, || names().for_each(|d| m.src.rename(format!("there/{d}"), &d)));
            Ok(())
        }),
        case("together_dirs_with_names_excluded", ONE, |fs| {
            let m = started(fs, |setup| setup.exclude(&["*.swp", "/elsewhere/cache/"]))?;
            cheap(&m, DIRS as u64, || names().for_each(|d| m.src.rename(&d, format!("there/{d}"))));
            Ok(())
        }),
        case("together_dirs_under_other_names", ONE, |fs| {
            // Each is linked by a run of its own, and one run removes many old names.
            let m = started(fs, |setup| setup)?;
            let (connections, bytes, carried, whole) = cost(&m, || names().for_each(|d| m.src.rename(&d, format!("{d}.old"))));
            assert_eq!((carried, whole), (DIRS as u64, 0));
            assert!(connections < 2 * DIRS && bytes <= FEW, "{connections} connections, {bytes} bytes");
            unlinked(&m);
            Ok(())
        }),
        case("together_small_files", ONE, |fs| {
            let m = Setup::new(fs).targets(EVERYWHERE).start()?;
            ["new", "cur"].into_iter().for_each(|dir| m.src.mkdir(dir));
            for n in 0..300 {
                m.src.write(format!("new/m{n}"), noise(n, 2_000));
            }
            m.check();
            // One of several names of a file goes with the others; names that look like comments in
            // a list.
            m.src.link("new/m7", "linked");
            ["new/#1", "new/;2"].into_iter().for_each(|name| m.src.write(name, b"#"));
            m.check();
            let files = || (0..300).map(|n| format!("m{n}")).chain(["#1".into(), ";2".into()]);
            cheap(&m, 301, || files().for_each(|f| m.src.rename(format!("new/{f}"), format!("cur/{f}"))));
            // Few of them are sent.
            cheap(&m, 0, || (10..15).for_each(|n| m.src.rename(format!("cur/m{n}"), format!("new/m{n}"))));
            Ok(())
        }),
        case("together_dirs_of_linked_files", ONE, |fs| {
            for links in [&[][..], &["hard_links"]] {
                let m = started(fs, |setup| setup.carrying(links).targets(&[To::Module, To::Local]))?;
                for n in 0..DIRS / 2 {
                    m.src.link(format!("d{n}/f0"), format!("d{n}/sub/same"));
                    m.src.link(format!("d{n}/f2"), format!("d{}/same", n + DIRS / 2));
                }
                m.check();
                let (.., carried, whole) = cost(&m, || names().for_each(|d| m.src.rename(&d, format!("there/{d}"))));
                assert_eq!((carried, whole), (if links.is_empty() { DIRS as u64 } else { 0 }, 0));
                if links.is_empty() {
                    unlinked(&m);
                }
            }
            Ok(())
        }),
        case("together_where_the_target_has_one_already", ONE, |fs| {
            let m = started(fs, |setup| setup.targets(&[To::Module, To::Local]))?;
            for target in &m.targets {
                // Of the same size and time as what comes, and of another content.
                target.dir.mkdirs("there/d3");
                must(Command::new("cp").arg("-a").arg(m.src.at("d3/f0")).arg(target.dir.at("there/d3/f0")));
                let meta = fs::metadata(m.src.at("d3/f0")).expect("it is there");
                target.dir.write("there/d3/f0", noise(99, 3_003));
                target.dir.set_mtime("there/d3/f0", meta.mtime(), meta.mtime_nsec());
                target.dir.write("there/d3/extra", b"x");
                // And of these, one is a file, and one cannot be linked from.
                target.dir.write("there/d4", b"x");
                target.dir.remove("d5");
            }
            let (.., carried, whole) = cost(&m, || names().for_each(|d| m.src.rename(&d, format!("there/{d}"))));
            assert_eq!((carried, whole), (DIRS as u64 - 1, 1));
            unlinked(&m);
            Ok(())
        }),
        case("together_then_changed_at_once", ALL, |fs| {
            let m = started(fs, |setup| setup.targets(EVERYWHERE))?;
            names().for_each(|d| m.src.rename(&d, format!("there/{d}")));
            m.src.write("there/d3/f0", b"other content");
            m.src.chmod("there/d4/sub", 0o700);
            m.src.remove("there/d5/sub");
            m.src.remove("there/d6");
            m.src.mkdir("d7");
            m.src.write("d7/f0", b"another");
            m.src.rename("there/d8", "d8");
            m.check();
            unlinked(&m);
            Ok(())
        }),
        case("together_an_old_name_comes_back_under_the_removal", ONE, |fs| {
            let dir = tempfile::tempdir().expect("a directory");
            let rsync = program(&dir.path().join("in-between"), BACK_IN_BETWEEN);
            let m = Setup::new(fs)
                .targets(&[To::Local])
                .rsync(rsync)
                .env("TMPDIR", dir.path().to_str().expect("a plain path"))
                .start()?;
            fs::write(dir.path().join("src"), m.src.root().to_str().expect("a plain path")).expect("a file");
            fs::write(dir.path().join("done"), "").expect("a file");
            dirs(&m);
            fs::remove_file(dir.path().join("done")).expect("it was there");
            let (.., carried, whole) = cost(&m, || names().for_each(|d| m.src.rename(&d, format!("there/{d}"))));
            assert_eq!((carried, whole), (DIRS as u64, 0));
            m.check();
            assert!(dir.path().join("done").exists() && m.src.has("d3/f0"), "no list named d3");
            unlinked(&m);
            Ok(())
        }),
    ]
}
