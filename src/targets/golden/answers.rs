//! What a played rsync writes and how it ends.

use std::os::unix::ffi::OsStrExt;

use super::world::{What, World};
use crate::sync::scripted::Process;
use crate::sys::child::Exit;

/// A run's end.
pub(super) struct Answer {
    pub(super) name: &'static str,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) exit: Exit,
}

/// What a process is for, as far as its end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Probe,
    Standby,
    Batch,
}

/// How runs end: weight, name, exit code (from 1000: by that signal), what stderr holds.
/// `{at}` is a path of the run, `{src}` the source.
type Ending = (u32, &'static str, i32, &'static str);

const ENDINGS: &[Ending] = &[
    (300, "done", 0, ""),
    (16, "one path failed", 23, "rsync: [generator] failed to set times on \"{at}\": Operation not permitted (1)\n"),
    (
        6,
        "the sender could not read one",
        23,
        "rsync: [sender] send_files failed to open \"{src}/{at}\": Permission denied (13)\n",
    ),
    (6, "some path failed", 23, "rsync: [generator] something failed: Permission denied (13)\n"),
    (3, "only the top failed", 23, "rsync: [generator] failed to set times on \"/.\" (in m): Operation not permitted (1)\n"),
    (10, "vanished", 24, "file has vanished: \"{src}/{at}\"\n"),
    (3, "lost count", 2, "File-list index 0 not in 3 - 76\n"),
    (10, "an odd line", 0, "something that no rsync says, 17\n"),
    (8, "closed", 12, "rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n"),
    (5, "no connection", 10, "rsync: [sender] failed to connect to h (192.0.2.1): Connection refused (111)\n"),
    (8, "timed out", 30, "[sender] io timeout after 60 seconds -- exiting\n"),
    (8, "busy", 5, "@ERROR: max connections (2) reached -- try again later\n"),
    (3, "refused", 4, "rsync: The server is configured to refuse --delete\n"),
    (4, "auth failed", 5, "@ERROR: auth failed on module m\n"),
    (3, "unknown module", 5, "@ERROR: Unknown module 'm'\n"),
    (5, "no missing args", 2, "invalid file mode 00 for gone [Receiver]\n"),
    (5, "deletions stopped", 25, "Deletions stopped due to --max-delete limit (3 skipped)\n"),
    (3, "the source's root", 23, "rsync: [sender] opendir \"{src}/.\" failed: Permission denied (13)\n"),
    (4, "the target's directory", 11, "ERROR: destination must be a directory when copying more than 1 file\n"),
    (8, "no space", 11, "rsync: [receiver] write failed on \"{at}\": No space left on device (28)\n"),
    (4, "too large", 11, "rsync: [receiver] write failed on \"{at}\": File too large (27)\n"),
    (5, "read-only", 23, "rsync: [receiver] mkstemp \"/{temporary}\" (in m) failed: Read-only file system (30)\n"),
    (6, "a directory stays", 0, "cannot delete non-empty directory: {at}\n"),
    (
        5,
        "deletions skipped",
        23,
        "rsync: [sender] opendir \"{src}/{at}\" failed: Permission denied (13)\nIO error encountered -- skipping file deletion\n",
    ),
    (5, "no node", 0, "skipping non-regular file \"{at}\"\n"),
    (6, "killed", 1009, ""),
    (3, "ended", 20, ""),
    (3, "99", 99, ""),
    (3, "too long a message", 13, "rsync: [sender] overflow: flist\n"),
];

/// How probes and standby processes end.
const PROBED: &[Ending] = &[
    (60, "usable", 0, ""),
    (6, "usable, with a banner", 0, "something that no rsync says, 3\n"),
    (5, "no missing args", 2, "invalid file mode 00 for gone [Receiver]\n"),
    (3, "refuses missing args", 4, "rsync: The server is configured to refuse --delete-missing-args\n"),
    (6, "no connection", 10, "rsync: [sender] failed to connect to h (192.0.2.1): Connection refused (111)\n"),
    (4, "auth failed", 5, "@ERROR: auth failed on module m\n"),
    (3, "the target's directory", 11, "ERROR: destination must be a directory when copying more than 1 file\n"),
    (2, "the source's root", 3, ""),
    (2, "busy", 5, "@ERROR: max connections (2) reached -- try again later\n"),
];

const STOOD_BY: &[Ending] = &[
    (10, "closed", 12, "rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n"),
    (6, "busy", 5, "@ERROR: max connections (2) reached -- try again later\n"),
    (3, "done", 0, ""),
    (2, "auth failed", 5, "@ERROR: auth failed on module m\n"),
];

fn pick<'e>(rng: &mut fastrand::Rng, endings: &'e [Ending]) -> &'e Ending {
    let mut at = rng.u32(..endings.iter().map(|e| e.0).sum::<u32>());
    endings
        .iter()
        .find(|e| {
            e.0 > at || {
                at -= e.0;
                false
            }
        })
        .expect("the weights add up")
}

/// A name as rsync prints it.
pub(super) fn escaped(name: &str) -> String {
    let plain = |b: u8| (0x20..0x7f).contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("\\#{b:03o}") }).collect()
}

/// The paths of a list, and whether they are listed with one level.
pub(super) fn listed(process: &Process) -> Vec<(String, bool)> {
    let list = process.list.as_deref().unwrap_or_default();
    let names = list.split(|&b| b == 0).filter(|name| !name.is_empty());
    let plain = |name: &[u8]| {
        let name = String::from_utf8_lossy(name).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name);
        (name.trim_end_matches('/').trim_end_matches("/.").to_owned(), name.ends_with('/'))
    };
    names.map(plain).collect()
}

fn has(process: &Process, option: &str) -> bool {
    process.argv.iter().any(|arg| arg.as_bytes() == option.as_bytes())
}

fn max_delete(process: &Process) -> Option<usize> {
    process.argv.iter().find_map(|arg| arg.to_str()?.strip_prefix("--max-delete=")?.parse().ok())
}

/// An end for this process. `well`: nothing goes wrong.
pub(super) fn answer(rng: &mut fastrand::Rng, world: &World, process: &Process, task: Task, well: bool) -> Answer {
    let endings = match task {
        Task::Probe => PROBED,
        Task::Standby => STOOD_BY,
        Task::Batch => ENDINGS,
    };
    let &(_, name, code, stderr) = if well && task != Task::Standby { &endings[0] } else { pick(rng, endings) };
    let mut answer = Answer { name, stdout: Vec::new(), stderr: Vec::new(), exit: Exit::Code(code) };
    if code >= 1000 {
        answer.exit = Exit::Signal(code - 1000);
    }
    if task != Task::Batch {
        answer.stderr = stderr.replace("{src}", &world.root.to_string_lossy()).into_bytes();
        return answer;
    }
    let list = listed(process);
    let tree = !has(process, "--files-from=-");
    let mut deleted = items(rng, world, process, &list, tree, &mut answer.stdout);
    if let Some(most) = max_delete(process).filter(|most| deleted > *most) {
        let more = deleted - most;
        deleted = most;
        answer.stderr.extend(format!("Deletions stopped due to --max-delete limit ({more} skipped)\n").bytes());
        (answer.name, answer.exit) = ("stopped at its bound", Exit::Code(25));
    }
    if tree || has(process, "-r") {
        let total = world.names.len() + 1;
        let left = if rng.u8(..4) == 0 { total / 2 } else { 0 };
        answer
            .stdout
            .extend(format!("\r     52,535,146  99%   21.91MB/s    0:00:02 (xfr#{deleted}, to-chk={left}/{total})\r").bytes());
    }
    // One that does not stop there by itself can say so all the same, whatever it was given.
    let about = match rng.u8(..8) {
        0 => "elsewhere/x".to_owned(),
        _ if list.is_empty() => some_name(rng, world, ""),
        _ => list[rng.usize(..list.len())].0.clone(),
    };
    let (dir, base) = about.rsplit_once('/').map_or(("", &*about), |(dir, base)| (dir, base));
    let temporary = format!("{dir}{}.{base}.AbCdEf", if dir.is_empty() { "" } else { "/" });
    let stderr = stderr
        .replace("{temporary}", &escaped(&temporary))
        .replace("{at}", &escaped(&about))
        .replace("{src}", &world.root.to_string_lossy());
    answer.stderr.extend(stderr.bytes());
    let links = process.argv.iter().any(|arg| arg.as_bytes().starts_with(b"--link-dest="));
    if tree && links || !well && rng.u8(..40) == 0 {
        answer.stdout.extend_from_slice(b"created directory /t\n");
    }
    answer
}

fn some_name(rng: &mut fastrand::Rng, world: &World, dir: &str) -> String {
    let below = world.below(dir);
    if below.is_empty() { "gone".into() } else { below[rng.usize(..below.len())].clone() }
}

/// Writes the lines of what changes; how many are deletions.
fn items(
    rng: &mut fastrand::Rng,
    world: &World,
    process: &Process,
    list: &[(String, bool)],
    tree: bool,
    out: &mut Vec<u8>,
) -> usize {
    let mut deleted = 0;
    let says = rng.u8(..8) > 2;
    let links = process.argv.iter().any(|arg| arg.as_bytes().starts_with(b"--link-dest="));
    // Its names are those in one directory.
    let somewhere = |name: &str| world.names.iter().find(|(path, _)| path.rsplit('/').next() == Some(name)).map(|(_, what)| what);
    let mut line = |name: &str, out: &mut Vec<u8>| {
        let known = world.names.get(name).or_else(|| somewhere(name).filter(|_| links));
        let text = match known {
            Some(What::File) => format!("<f+++++++++ {}\n", escaped(name)),
            Some(What::Link) => format!("cL+++++++++ {}\n", escaped(name)),
            Some(What::Fifo) => format!("cS+++++++++ {}\n", escaped(name)),
            Some(What::Dir) => format!("cd+++++++++ {}/\n", escaped(name)),
            None => {
                deleted += 1;
                format!("*deleting   {}\n", escaped(name))
            }
        };
        out.extend_from_slice(text.as_bytes());
    };
    if says {
        list.iter().for_each(|(name, _)| line(name, out));
    }
    let compares = tree || has(process, "-r") || list.iter().any(|(_, level)| *level);
    if !compares {
        return deleted;
    }
    let tops: Vec<&str> = if tree { vec![""] } else { list.iter().map(|(name, _)| &**name).collect() };
    for top in tops {
        if says && !world.below(top).is_empty() {
            line(&some_name(rng, world, top), out);
        }
        if !has(process, "--delete") && !has(process, "--max-delete=0") {
            continue;
        }
        let extra = [0, 0, 0, 0, 1, 2, 5, 12][rng.usize(..8)];
        for at in 0..extra {
            line(&if top.is_empty() { format!("extra{at}") } else { format!("{top}/extra{at}") }, out);
        }
    }
    deleted
}
