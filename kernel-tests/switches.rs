//! `[mirror.events]`: kinds of events that are not followed. A comparison makes up for them.

use crate::expressions::reconcile;
use crate::fixture::fs::Fs;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Run, Setup, case};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "delete",
            &[Fs::Tmpfs],
            switch(
                &["delete"],
                |m| {
                    m.src.remove("f");
                    m.src.remove("d");
                },
                &["f", "d/f"],
            ),
        ),
        case(
            "create_folder",
            &[Fs::Tmpfs],
            switch(
                &["create_folder"],
                |m| {
                    m.src.mkdirs("new/sub");
                    m.src.write("new/sub/f", b"below a new directory");
                },
                &["new", "new/sub/f"],
            ),
        ),
        // A file whose other name lies in a directory that is not followed.
        case(
            "create_folder_linked",
            &[Fs::Tmpfs],
            switch(
                &["create_folder"],
                |m| {
                    m.src.mkdirs("new/sub");
                    m.src.link("f", "new/sub/h");
                    m.src.append("f", b", written");
                },
                &["new", "new/sub/h"],
            ),
        ),
        // A link changes the attributes of what it links to.
        case(
            "create_file",
            &[Fs::Tmpfs],
            switch(
                &["create_file", "attrib"],
                |m| {
                    m.src.symlink("f", "l");
                    m.src.link("f", "h");
                    m.src.fifo("p");
                },
                &["l", "h", "p"],
            ),
        ),
        // A file that is made and written is both.
        case("close_write", &[Fs::Tmpfs], switch(&["close_write"], |m| m.src.append("f", b", written"), &["f"])),
        case(
            "move_from",
            &[Fs::Tmpfs],
            switch(
                &["move_from"],
                |m| {
                    m.src.rename("f", "f2");
                    m.src.rename("d", "d2");
                },
                &["f", "d/f"],
            ),
        ),
        case(
            "move_to",
            &[Fs::Tmpfs],
            switch(
                &["move_to"],
                |m| {
                    m.src.rename("f", "f2");
                    m.src.rename("d", "d2");
                },
                &["f2", "d2/f"],
            ),
        ),
        case("attrib", &[Fs::Tmpfs], |fs| {
            for watch in ["auto", "inotify"] {
                let m = events(fs, &["attrib"]).watch(watch).before(|src| src.write("f", b"file")).start()?;
                m.check();
                m.src.chmod("f", 0o600);
                m.daemon.flush(None);
                let mode =
                    |d: &Dir| std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(d.at("f")).unwrap().permissions());
                assert_ne!(mode(&m.src) & 0o777, mode(m.dst()) & 0o777, "{watch}: a change of mode was followed");
                m.src.append("f", b", written");
                m.check();
            }
            Ok(())
        }),
    ]
}

fn events(fs: Fs, off: &[&str]) -> Setup {
    let table: toml::Table = off.iter().map(|key| ((*key).to_owned(), toml::Value::from(false))).collect();
    Setup::new(fs).key("events", table)
}

/// Does what a switch says is not followed; then the target is as it was but for the mark, and a
/// comparison of the whole tree makes it equal.
fn switch(off: &'static [&'static str], act: fn(&Mirror), lags: &'static [&'static str]) -> impl Fn(Fs) -> Run<()> {
    move |fs| {
        for watch in ["auto", "inotify"] {
            let m = events(fs, off).watch(watch).before(|src| {
                src.mkdirs("d/sub");
                src.write("f", b"file");
                src.write("g", b"another");
                src.write("d/f", b"file");
                src.write("d/sub/f", b"file");
            });
            let m = m.start()?;
            m.check();
            act(&m);
            m.src.mkdirs("mark"); // of another kind than what is switched off, or nothing would have to travel at all
            m.src.append("g", b", changed");
            m.daemon.flush(None);
            for path in lags {
                // To read a FIFO is to wait.
                let same = m.src.has(path) == m.dst().has(path) && (path == &"p" || m.src.read(path) == m.dst().read(path));
                assert!(!same, "{watch}: {path} was followed although {off:?} are off");
            }
            reconcile(&m);
            m.check();
        }
        Ok(())
    }
}
