//! Writes by file handle where inotify watches: it does not report those of a file whose name the
//! kernel has dropped.

use crate::exported::{HOST, TABLES};
use crate::fixture::fs::{Fs, Mount};
use crate::fixture::{Case, Mirror, Setup, case};
use crate::foreign::{ByHandle, change, changes_before_a_stop, files};

use std::path::Path;
use std::sync::MutexGuard;

/// The kernel's NFS server exports `of`, as far as its table says.
struct Exported {
    _table: Mount,
    _host: MutexGuard<'static, ()>,
}

impl Exported {
    fn new() -> Exported {
        let host = HOST.lock().unwrap_or_else(|e| e.into_inner());
        Exported { _table: Mount::tmpfs(Path::new(TABLES)), _host: host }
    }

    fn export(&self, root: &Path) {
        let line = format!("{}\t*(rw,sync,no_subtree_check,nocrossmnt)\n", root.display());
        std::fs::write(Path::new(TABLES).join("etab"), line).expect("the table can be written");
    }
}

fn unreported(m: &Mirror) -> String {
    m.daemon.status().mirrors.remove(0).watch.remove(0).unreported
}

pub fn cases() -> Vec<Case> {
    vec![
        case("inotify_finds_them_where_nfs_exports_the_source", &[Fs::Ext4, Fs::Xfs, Fs::Btrfs], |fs| {
            let server = Exported::new();
            let m = Setup::new(fs).watch("inotify").start()?;
            files(&m.src, 30);
            m.src.mkdir("d");
            m.src.link("f1", "d/other name");
            m.check();
            assert!(unreported(&m).contains("none is known"), "{}", unreported(&m));
            let server_has = ByHandle::of(&m.src, 30);
            // A flush finds that it is exported, with what was written before.
            server.export(m.src.root());
            server_has.each(change);
            m.check();
            assert!(unreported(&m).contains("NFS exports"), "{}", unreported(&m));
            server_has.each(change);
            m.check();
            Ok(())
        }),
        case("inotify_finds_them_before_a_stop", &[Fs::Ext4], |fs| {
            let server = Exported::new();
            let mut m = Setup::new(fs).watch("inotify").start()?;
            server.export(m.src.root());
            changes_before_a_stop(&mut m);
            Ok(())
        }),
        case("fanotify_reports_them", &[Fs::Ext4], |fs| {
            let server = Exported::new();
            let m = Setup::new(fs).watch("fanotify").start()?;
            server.export(m.src.root());
            m.check();
            assert_eq!(unreported(&m), "");
            Ok(())
        }),
    ]
}
