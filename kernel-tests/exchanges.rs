//! Names that are exchanged when one of them is so new that the target does not know it, where
//! renames are no pairs: the kernel reports an exchange as two renames, and the second one says
//! that the new name left.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::{Case, Mirror, Run, Setup, case};

/// Each kind of thing with each, at once after it was made, so that both come in one batch.
fn exchange(m: &Mirror) {
    for (n, (old, new)) in
        [("file", "file"), ("file", "link"), ("dir", "file"), ("file", "dir"), ("dir", "dir")].iter().enumerate()
    {
        let (one, two) = (format!("old {n}"), format!("new {n}"));
        make(m, old, &one);
        m.check();
        make(m, new, &two);
        m.src.exchange(&one, &two);
        m.check();
    }
}

fn make(m: &Mirror, kind: &str, name: &str) {
    match kind {
        "file" => m.src.write(name, name),
        "link" => m.src.symlink("nowhere", name),
        _ => {
            m.src.mkdir(name);
            m.src.write(format!("{name}/in"), name);
        }
    }
}

/// With a name outside of the source.
fn exchange_outside(m: &Mirror) {
    m.out.write("there", b"made outside");
    m.src.write("here", b"made inside, and not sent yet");
    m.src.exchange("here", m.out.at("there"));
    m.check();
}

fn both(setup: Setup) -> Run<()> {
    let m = setup.start()?;
    exchange(&m);
    exchange_outside(&m);
    Ok(())
}

pub fn cases() -> Vec<Case> {
    const ONE: &[Fs] = &[Fs::Tmpfs];
    vec![
        case("new_names_defaults", ONE, |fs| both(Setup::new(fs))),
        case("new_names_with_hard_links", ALL, |fs| both(Setup::new(fs).carrying(&["hard_links"]))),
        case("new_names_with_max_delete", ONE, |fs| both(Setup::new(fs).key("max_delete", 1000))),
        case("new_names_inotify", ONE, |fs| both(Setup::new(fs).watch("inotify").carrying(&["hard_links"]))),
        case("new_names_without_rename_events", ONE, |fs| {
            both(Setup::new(fs).without("rename_events").carrying(&["hard_links"]))
        }),
    ]
}
