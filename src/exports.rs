//! Whether other hosts write to a tree: whether it is exported by the kernel's NFS server, or
//! shared by Samba.
//!
//! A server writes for its clients without what programs on this host do: NFS 3 cuts files and sets
//! times by name, without opening them, and servers hold files open for as long as clients do. Such
//! changes raise no event without `follow_open_files`.
//!
//! Read are exports(5)'s table of what is exported now (`/var/lib/nfs/etab`), the kernel's own list
//! (`/proc/fs/nfsd/exports`), and, while smbd runs, smb.conf(5) with the files that it includes,
//! and user shares. No program is run.
//!
//! Gives up: other servers (NFS-Ganesha, SFTP), Samba's registry, shares whose path is made of
//! variables alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Tables of what the kernel's NFS server exports.
const NFS: [&str; 3] = ["/var/lib/nfs/etab", "/proc/fs/nfsd/exports", "/proc/fs/nfs/exports"];
const SMB_CONF: &str = "/etc/samba/smb.conf";
const USER_SHARES: &str = "/var/lib/samba/usershares";
const SMBD_PIDS: [&str; 2] = ["/run/samba/smbd.pid", "/run/smbd.pid"];
/// The largest file of Samba's that is read whole.
const MAX_BYTES: u64 = 4 << 20;
/// Files that include one another are not followed further than this.
const INCLUDES: u32 = 8;

/// A directory that other hosts can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Export {
    path: PathBuf,
    /// Filesystems mounted below it are reached, too.
    crosses: bool,
}

/// Which server has the source. NFS works by file handles, Samba by paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// The kernel's NFS server.
    Nfs,
    /// smbd.
    Samba,
}

/// By what a source is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exported {
    pub(crate) server: Server,
    /// In words: which export or share.
    pub(crate) why: String,
}

/// By what `source` is exported; `None`: by nothing that is known here. NFS comes first.
pub(crate) fn exported(source: &Path) -> Option<Exported> {
    for table in NFS {
        let Ok(text) = std::fs::read(table) else { continue };
        if let Some(export) = nfs_exports(&text).iter().find(|e| reaches(e, source)) {
            return Some(Exported { server: Server::Nfs, why: format!("NFS exports {} ({table})", export.path.display()) });
        }
    }
    if smbd_runs() {
        let mut shares = Vec::new();
        smb_shares(Path::new(SMB_CONF), INCLUDES, &mut shares);
        for entry in std::fs::read_dir(USER_SHARES).into_iter().flatten().flatten() {
            smb_shares(&entry.path(), 0, &mut shares);
        }
        if let Some(path) = shares.into_iter().find(|path| reaches(&Export { path: path.clone(), crosses: true }, source)) {
            return Some(Exported { server: Server::Samba, why: format!("Samba shares {}", path.display()) });
        }
    }
    None
}

/// Whether what lies below `source` can be reached through `export`, in whole or in part.
fn reaches(export: &Export, source: &Path) -> bool {
    let path = export.path.canonicalize().unwrap_or_else(|_| export.path.clone());
    let dev = |path: &Path| path.metadata().map(|m| m.dev()).ok();
    let below = source.starts_with(&path);
    path.starts_with(source) || below && (export.crosses || dev(&path) == dev(source))
}

/// A line: the path, white space, and clients with options. Bytes are written as octal escapes.
fn nfs_exports(text: &[u8]) -> Vec<Export> {
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.starts_with(b"#"));
    lines
        .filter_map(|line| {
            let end = line.iter().position(u8::is_ascii_whitespace)?;
            let (path, clients) = line.split_at(end);
            let path = unescaped(path);
            let clients = String::from_utf8_lossy(clients);
            // The kernel's list has the roots of the pseudo filesystem too, which lead to exports
            // and hold nothing.
            (path.starts_with(b"/") && !clients.contains("v4root")).then(|| Export {
                path: PathBuf::from(OsStr::from_bytes(&path)),
                crosses: clients.contains("crossmnt") && !clients.contains("nocrossmnt"),
            })
        })
        .collect()
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digits = tail.first_chunk::<3>().filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                let value = d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0'));
                out.push(value as u8);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// The directories that a table of the kernel's NFS server names.
pub fn of_nfs(table: &[u8]) -> Vec<PathBuf> {
    nfs_exports(table).into_iter().map(|export| export.path).collect()
}

fn smbd_runs() -> bool {
    let pid = SMBD_PIDS.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u32>().ok());
    pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
}

fn smb_shares(file: &Path, includes: u32, shares: &mut Vec<PathBuf>) {
    let Some(text) = small_file(file) else { return };
    let (paths, included) = of_samba(&text);
    shares.extend(paths);
    if includes > 0 {
        included.iter().for_each(|file| smb_shares(file, includes - 1, shares));
    }
}

/// What a regular file holds, to [`MAX_BYTES`]. Users put what they like into the directory of user
/// shares: a FIFO would be waited for without an end, a device read so.
fn small_file(path: &Path) -> Option<Vec<u8>> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = open.ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))?;
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The paths of shares, and the files that are included. A path with variables stands for what is
/// above the first of them.
pub fn of_samba(text: &[u8]) -> (BTreeSet<PathBuf>, Vec<PathBuf>) {
    let (mut paths, mut included) = (BTreeSet::new(), Vec::new());
    for line in text.split(|&b| b == b'\n').map(<[u8]>::trim_ascii) {
        let Some(at) = line.iter().position(|&b| b == b'=').filter(|_| !line.starts_with(b"#") && !line.starts_with(b";")) else {
            continue;
        };
        let key: Vec<u8> = line[..at].iter().filter(|b| !b.is_ascii_whitespace()).map(u8::to_ascii_lowercase).collect();
        let value = line[at + 1..].trim_ascii();
        let quotes = |b: &u8| *b == b'"';
        let begin = value.iter().take_while(|b| quotes(b)).count();
        let end = value.len() - value[begin..].iter().rev().take_while(|b| quotes(b)).count();
        let value = &value[begin..end];
        let path = Path::new(OsStr::from_bytes(value));
        match &*key {
            b"path" | b"directory" if value.starts_with(b"/") => {
                let fixed: PathBuf = path.iter().take_while(|part| !part.as_bytes().contains(&b'%')).collect();
                // Variables alone say nothing.
                if fixed != Path::new("/") || value == b"/" {
                    paths.insert(fixed);
                }
            }
            b"include" if value.starts_with(b"/") && !value.contains(&b'%') => included.push(path.into()),
            _ => {}
        }
    }
    (paths, included)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_exports_is_read() {
        let text = b"/srv\t*(rw,sync,wdelay,hide,nocrossmnt,secure,root_squash)\n\
            /a\\040b\\134c\t10.0.0.0/8(ro,crossmnt,fsid=0)\n# a comment\n\n\
            /\t192.168.1.1(ro,v4root,fsid=0,uuid=1)\nrubbish\n/x *(rw,nohide)\n";
        let export = |path: &str, crosses| Export { path: path.into(), crosses };
        assert_eq!(nfs_exports(text), [export("/srv", false), export("/a b\\c", true), export("/x", false)]);
    }

    #[test]
    fn an_export_reaches_what_is_below_it_and_has_part_of_what_is_above() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        let source = top.join("a/source");
        std::fs::create_dir_all(source.join("part")).unwrap();
        let reaches = |path: &Path, crosses| reaches(&Export { path: path.into(), crosses }, &source);
        assert!(reaches(&source, false) && reaches(&top, false) && reaches(&source.join("part"), false));
        assert!(!reaches(&top.join("a/sourc"), false) && !reaches(&top.join("b"), true));
        std::os::unix::fs::symlink(&source, top.join("link")).unwrap();
        assert!(reaches(&top.join("link"), false), "exported through a link");
        // Another filesystem than the export's is reached only where the export crosses mounts.
        assert!(super::reaches(&Export { path: "/".into(), crosses: true }, Path::new("/proc/self")));
        assert!(!super::reaches(&Export { path: "/".into(), crosses: false }, Path::new("/proc/self")));
    }

    #[test]
    fn shares_are_read_from_smb_conf() {
        let text = b"[global]\n  workgroup = X\n include = /etc/samba/more.conf\n include = /etc/samba/%m.conf\n\
            [data]\n\tPath = /srv/data\n; path = /not\n# path = /not\n[homes]\n directory=\"/home/%S/files\"\n[all]\npath = %H\n[v]\npath=/%U\n";
        let (paths, included) = of_samba(text);
        assert_eq!(paths.into_iter().collect::<Vec<_>>(), [PathBuf::from("/home"), "/srv/data".into()]);
        assert_eq!(included, [PathBuf::from("/etc/samba/more.conf")]);
        // One name in another character set hides no other share.
        let (paths, _) = of_samba(b"path = /srv/f\xfcr\npath = \"/srv/all\"\n");
        assert_eq!(paths.len(), 2);
    }

    /// A user who may make user shares can make any file in their directory, which is looked at
    /// every few seconds.
    #[test]
    fn what_is_no_regular_file_holds_no_shares_and_holds_up_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("endless")).unwrap();
        std::fs::create_dir(at("directory")).unwrap();
        std::fs::write(at("share"), "path=/srv/shared\n").unwrap();
        let (done, ended) = std::sync::mpsc::channel();
        let files = ["fifo", "endless", "directory", "share", "none"].map(at);
        std::thread::spawn(move || {
            let mut shares = Vec::new();
            files.iter().for_each(|file| smb_shares(file, 0, &mut shares));
            done.send(shares)
        });
        let shares = ended.recv_timeout(std::time::Duration::from_secs(60)).expect("a FIFO is waited for");
        assert_eq!(shares, [PathBuf::from("/srv/shared")]);
    }
}
