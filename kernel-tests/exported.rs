//! `follow_open_files = "auto"`: on where other hosts write to the source.

use crate::fixture::fs::{Fs, Mount};
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, Setup, WAIT, case};

use std::path::Path;
use std::sync::Mutex;

pub const TABLES: &str = "/var/lib/nfs";
/// All of these lists are the host's: one test at a time writes its own.
pub static HOST: Mutex<()> = Mutex::new(());

/// What a client on NFS 3 does with `: > f` and `touch -d`: neither opens the file.
fn as_a_client(m: &Mirror) {
    nix::unistd::truncate(&m.src.at("f"), 4).expect("a file can be cut");
    m.src.set_mtime("g", 1_000_000_000, 0);
}

pub fn cases() -> Vec<Case> {
    let exported_case = |name, watch: &'static str| {
        case(name, &[Fs::Ext4], move |fs| {
            let _host = HOST.lock().unwrap_or_else(|e| e.into_inner());
            let _tables = Mount::tmpfs(Path::new(TABLES));
            let etab = Path::new(TABLES).join("etab");
            let m = Setup::new(fs).watch(watch).start()?;
            m.src.write("f", b"something long");
            m.src.write("g", b"x");
            m.check();
            assert!(!m.daemon.status().mirrors[0].follow_open_files, "on although nothing is exported");
            // Exported while fansync runs.
            let line = format!("{}\t*(rw,sync,no_subtree_check,nocrossmnt)\n", m.src.root().display());
            std::fs::write(&etab, line).expect("the table can be written");
            let on = || m.daemon.status().mirrors[0].follow_open_files.then_some(());
            assert!(poll_until(WAIT, on).is_some(), "not noticed that the source is exported");
            assert!(m.daemon.status().mirrors[0].follow_why.contains("NFS exports"));
            m.check();
            let compared = m.daemon.target_status("t1").runs;
            as_a_client(&m);
            m.check();
            assert_eq!(m.dst().read("f").as_deref(), Some(&b"some"[..]));
            assert!(m.daemon.target_status("t1").runs > compared);
            let m = Setup::new(fs).watch(watch).start()?;
            assert!(!m.daemon.status().mirrors[0].follow_open_files, "another tree is exported");
            Ok(())
        })
    };
    vec![exported_case("exported_while_it_runs", "fanotify"), exported_case("inotify_exported_while_it_runs", "inotify")]
}
