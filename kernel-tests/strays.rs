//! inotify names a directory entry, not the file behind it: a file with several names that changed
//! under one of them which then goes, or leads to another file, is right under the others too.

use std::io::Write as _;

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, To, case};

fn fill(src: &Dir) {
    src.mkdirs("d/deep");
    for name in ["gone", "replaced", "swapped", "touched", "open", "way"] {
        src.write(format!("d/{name}"), b"one file");
        src.link(format!("d/{name}"), format!("d/deep/{name}"));
    }
    src.write("three", b"one file");
    src.link("three", "d/three");
    src.link("three", "d/deep/three");
}

/// While the target is paused: every event is taken in before a name is looked up.
fn paused(m: &mut Mirror, act: fn(&Mirror)) {
    m.daemon.does(&["pause"]);
    act(m);
    m.daemon.does(&["resume"]);
    m.check();
}

fn changes(m: &mut Mirror) {
    paused(m, |m| {
        m.src.append("d/gone", b", written");
        m.src.remove("d/gone");
    });
    paused(m, |m| {
        m.src.append("three", b", written");
        m.src.remove("three");
    });
    paused(m, |m| {
        m.src.append("d/replaced", b", written");
        m.src.write("aside", b"a file of its own");
        m.src.rename("aside", "d/replaced");
    });
    paused(m, |m| {
        m.src.append("d/swapped", b", written");
        m.src.remove("d/swapped");
        m.src.write("d/swapped", b"a file of its own");
    });
    paused(m, |m| {
        m.src.chmod("d/touched", 0o600);
        m.src.rename_to("d/touched", &m.out, "touched");
    });
    // A name that was made, used and removed in one moment.
    paused(m, |m| {
        m.src.link("d/deep/gone", "new");
        m.src.append("new", b", written through it");
        m.src.remove("new");
    });
    // The file is open in a program when it loses the name, and another one has the name when it is
    // written.
    let mut file = m.src.open("d/open");
    m.src.remove("d/open");
    m.src.write("d/open", b"a file of its own");
    file.write_all(b", written").expect("it can be written");
    drop(file);
    m.check();
    // A directory that is filled before its watch is set.
    paused(m, |m| {
        m.src.mkdir("made");
        m.src.link("d/deep/way", "made/way");
        m.src.append("made/way", b", written");
        m.src.remove("d/way");
    });
    // One that is empty again by then: made, and moved in.
    m.out.mkdir("came");
    m.daemon.freeze();
    m.src.mkdir("used");
    m.out.rename_to("came", &m.src, "came");
    for (dir, file) in [("used", "d/three"), ("came", "d/deep/way")] {
        m.src.link(file, format!("{dir}/name"));
        m.src.append(format!("{dir}/name"), b", written at once");
        m.src.remove(format!("{dir}/name"));
    }
    // And one that is gone.
    m.src.mkdir("gone");
    m.src.link("d/three", "gone/name");
    m.src.chmod("gone/name", 0o640);
    m.src.remove("gone");
    m.daemon.thaw();
    m.check();
}

fn walks(m: &Mirror) -> u64 {
    m.daemon.status().mirrors.remove(0).links.map_or(0, |links| links.walks)
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a_name_goes_before_it_is_looked_up", ALL, |fs| {
            let mut m = Setup::new(fs).watch("inotify").targets(&[To::Module, To::Local]).before(fill).start()?;
            m.check();
            changes(&mut m);
            Ok(())
        }),
        case("with_links_kept_and_open_files_followed", &[Fs::Ext4], |fs| {
            let setup = Setup::new(fs).watch("inotify").carrying(&["hard_links"]).follow("200ms");
            let mut m = setup.before(fill).start()?;
            m.check();
            changes(&mut m);
            Ok(())
        }),
        case("without_links_one_walk_is_made", &[Fs::Ext4], |fs| {
            let plain = |src: &Dir| src.write("f", b"a file of one name");
            let mut m = Setup::new(fs).watch("inotify").before(plain).start()?;
            m.check();
            for _ in 0..3 {
                paused(&mut m, |m| {
                    m.src.write("temporary", b"x");
                    m.src.remove("temporary");
                });
            }
            assert_eq!(walks(&m), 1, "whether there are links is found out once");
            m.src.link("f", "g");
            m.check();
            paused(&mut m, |m| {
                m.src.append("g", b", written");
                m.src.remove("g");
            });
            Ok(())
        }),
    ]
}
