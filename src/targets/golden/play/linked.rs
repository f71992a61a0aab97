//! Histories of files with several names, judged by a model of the target.
//!
//! The model is pessimistic: a run that carries a name makes it another file on the target, with
//! what the source had when the run began or when it ended, and the names of one source file that
//! one run with `-H` carries become one file there. A run that is cut off leaves any part of its
//! names so. A run with `-H` that carries names of a file that changes meanwhile may give everything
//! else that it carries the attributes of that file. When all is in sync, each name must have the
//! content of its file and its own attributes, and with `hard_links` the names of a file must be one
//! file on the target.

use std::collections::HashMap;

use super::*;
use crate::sync::scripted::Process;
use crate::sys::statx::FileTime;

/// Names, each with the file it leads to and the last write of it.
type Files = BTreeMap<String, (u64, FileTime)>;

struct Linked {
    d: Director,
    /// What the target has: names, its own numbers for the files, and their content.
    held: Files,
    last: u64,
    /// Names that have attributes of another file there.
    strange: BTreeSet<String>,
    /// The source as it was when a process got its list, and when that was.
    launched: HashMap<u32, (Files, FileTime)>,
    /// Everything before was on the target once; and the directories then.
    clean: FileTime,
    dirs: Files,
}

/// The names that a run carries, of those that are there.
fn carried(process: &Process, files: &Files) -> Vec<String> {
    let has = |option: &str| process.argv.iter().any(|arg| arg.as_encoded_bytes() == option.as_bytes());
    let listed = answers::listed(process);
    if !has("--files-from=-") {
        return files.keys().cloned().collect();
    }
    let deep = has("-r");
    let covers = |name: &str| {
        listed.iter().any(|(path, level)| {
            name == path
                || (*level || path.is_empty()) && parent(name) == path
                || deep && (path.is_empty() || name.starts_with(&format!("{path}/")))
        })
    };
    files.keys().filter(|name| covers(name)).cloned().collect()
}

impl Linked {
    fn new(seed: u64, hard_links: bool) -> Linked {
        let mut d = Director::new(seed, |mirror, cfg| {
            let plain = Mirror::new("m", &mirror.source);
            *mirror = plain;
            mirror.extras.hard_links = hard_links;
            mirror.send_renames = false;
            mirror.allow_empty = true;
            cfg.location = Location::parse("rsync://h/m").expect("a location");
        });
        d.met = Some(Vec::new());
        let (held, dirs) = (Files::new(), Files::new());
        Linked { d, held, last: 0, strange: BTreeSet::new(), launched: HashMap::new(), clean: FileTime::default(), dirs }
    }

    fn note_lists(&mut self) {
        let files = self.d.world.files(|what| what != What::Dir);
        for (pid, live) in &self.d.live {
            if !live.played.lock().waits {
                self.launched.entry(*pid).or_insert_with(|| (files.clone(), self.d.world.stamp()));
            }
        }
        if self.d.target.in_sync() {
            self.clean = self.d.world.time();
            self.dirs = self.d.world.files(|what| what == What::Dir);
        }
    }

    /// What a run that ends, or is cut off, leaves on the target.
    fn apply(&mut self, pid: u32, process: &Process, cut: bool) {
        let has = |option: &str| process.argv.iter().any(|arg| arg.as_encoded_bytes() == option.as_bytes());
        if has("-n") {
            return;
        }
        let early = self.launched.get(&pid).filter(|_| self.d.rng.bool()).map(|(files, _)| files.clone());
        self.set_attributes(pid, process);
        let files = early.unwrap_or_else(|| self.d.world.files(|what| what != What::Dir));
        let mut together: HashMap<u64, u64> = HashMap::new();
        for name in carried(process, &files) {
            if cut && self.d.rng.bool() {
                continue;
            }
            self.last += 1;
            let (number, written) = files[&name];
            let object = match (has("-H"), cut) {
                (true, false) => *together.entry(number).or_insert(self.last),
                _ => self.last,
            };
            self.held.insert(name, (object, written));
        }
    }

    /// What a run carries, each with whether its attributes may be taken for those of another file.
    fn disturbed(&self, pid: u32, process: &Process) -> Vec<(String, bool)> {
        let Some((before, began)) = self.launched.get(&pid) else { return Vec::new() };
        let now = self.d.world.files(|what| what != What::Dir);
        let names: BTreeSet<String> = carried(process, before).into_iter().chain(carried(process, &now)).collect();
        let links = process.argv.iter().any(|arg| arg.as_encoded_bytes() == b"-H");
        let file = |name: &String| [before, &now].map(|files| files.get(name).map(|(number, _)| *number));
        // Only what follows a further name is disturbed.
        let shared = |number: u64| names.iter().filter(|name| file(name).contains(&Some(number))).count() > 1;
        let changed = |name: &&String| {
            let [was, is] = file(name);
            let linked = was.or(is).is_some_and(shared);
            linked && (was != is || now.contains_key(*name) && self.d.world.inode(name).2 >= *began)
        };
        let changing: BTreeSet<String> = names.iter().filter(|_| links).filter(changed).cloned().collect();
        let others = |name: &String| changing.iter().any(|other| file(other) != file(name));
        let may_be = |name: String| (!changing.contains(&name) && others(&name), name);
        names.into_iter().map(may_be).map(|(disturbed, name)| (name, disturbed)).collect()
    }

    /// A run makes attributes wrong, and right.
    fn set_attributes(&mut self, pid: u32, process: &Process) {
        for (name, disturbed) in self.disturbed(pid, process) {
            if disturbed && self.d.rng.bool() {
                self.d.note(&format!("takes attributes of another file: {name:?}"));
                self.strange.insert(name);
            } else {
                self.strange.remove(&name);
            }
        }
    }

    /// What a dry run says of names that have attributes of another file: nothing where it takes
    /// them for these.
    fn find_strange(&self, pid: u32, process: &Process, out: &mut Vec<u8>) {
        if process.argv.iter().any(|arg| arg.as_encoded_bytes() == b"-n") {
            for (name, _) in self.disturbed(pid, process).iter().filter(|(name, hides)| !hides && self.strange.contains(name)) {
                out.extend(format!(".f...p..... {}\n", answers::escaped(name)).bytes());
            }
        }
    }

    fn end_a_run(&mut self, well: bool) {
        let d = &mut self.d;
        let mut pids: Vec<(u32, u32, Task)> = Vec::new();
        for pid in d.live.keys().copied() {
            if let Some((serial, task)) = d.task(pid).filter(|(_, task)| *task != Task::Standby) {
                pids.push((pid, serial, task));
            }
        }
        if pids.is_empty() {
            return;
        }
        let (pid, serial, task) = pids[d.rng.usize(..pids.len())];
        let played = d.live[&pid].played.clone();
        let mut answer = answers::answer(&mut d.rng, &d.world, &played.lock(), task, true);
        let cut = task == Task::Batch && !well && d.rng.u8(..10) == 0;
        if cut {
            answer.exit = Exit::Code(12);
            answer.stderr = b"rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n".to_vec();
        }
        d.note(&format!("end #{pid} {:?}", answer.exit));
        self.find_strange(pid, &played.lock(), &mut answer.stdout);
        if task == Task::Batch {
            self.apply(pid, &played.lock(), cut);
        }
        {
            let mut process = played.lock();
            process.unread[0].extend(answer.stdout);
            process.unread[1].extend(answer.stderr);
            process.exit = Some(answer.exit);
        }
        self.d.call(|target, cx| target.on_ready(cx, token(0, serial, EXIT)));
    }

    fn change(&mut self) {
        let d = &mut self.d;
        d.world.tick(d.now);
        let (file, dir) = (|what| what == What::File, |what| what == What::Dir);
        match d.rng.u8(..24) {
            0..3 => {
                let Some(name) = d.name(file) else { return };
                let len = d.rng.u64(1..100);
                d.world.write(&name, len);
                d.see(&name, Seen::Written);
            }
            3 => {
                let Some(name) = d.name(file) else { return };
                d.world.chmod(&name, 0o755);
                d.see(&name, Seen::Touched);
            }
            4..9 => {
                let Some(old) = d.name(file) else { return };
                let new = d.new_name();
                d.world.link(&old, &new);
                d.see(&new, Seen::Created);
            }
            9..11 => {
                let name = d.new_name();
                d.world.write(&name, 5);
                d.see(&name, Seen::Created);
                d.see(&name, Seen::Written);
            }
            11..13 => {
                let Some(name) = d.name(file) else { return };
                d.world.remove(&name);
                d.see(&name, Seen::Gone);
            }
            13..16 => d.rename(file, Seen::Left, Seen::Arrived),
            16..19 => d.rename(dir, Seen::LeftDir, Seen::ArrivedDir),
            19 => d.rename_together(),
            20 => {
                // Over a name that is there.
                let (Some(old), Some(new)) = (d.name(file), d.name(file)) else { return };
                if d.world.is_one_file(&old, &new) {
                    return; // rename(2) does nothing then
                }
                d.world.remove(&new);
                d.world.rename(&old, &new);
                d.see(&old, Seen::Left);
                d.see(&new, Seen::Arrived);
            }
            21 => {
                let name = d.new_name();
                d.world.mkdir(&name);
                d.see(&name, Seen::CreatedDir);
            }
            22 => {
                // There and back.
                let Some(old) = d.name(dir) else { return };
                let new = d.new_name();
                if new.starts_with(&format!("{old}/")) {
                    return;
                }
                for (from, to) in [(&old, &new), (&new, &old)] {
                    d.world.rename(from, to);
                    d.see(from, Seen::LeftDir);
                    d.see(to, Seen::ArrivedDir);
                    if d.rng.bool() {
                        d.turn();
                    }
                }
            }
            _ => {
                let Some(name) = d.name(dir) else { return };
                let seen = if d.rng.bool() { Seen::Contents } else { Seen::Subtree };
                d.see(&name, seen);
            }
        }
    }

    /// The daemon is killed with its runs, and begins anew with what a walk over the source finds.
    fn restart(&mut self) {
        self.d.note("killed");
        let cut: Vec<(u32, Played)> = self.d.live.iter().map(|(pid, live)| (*pid, live.played.clone())).collect();
        for (pid, played) in cut {
            let runs = self.d.task(pid).is_some_and(|(_, task)| task == Task::Batch);
            if runs && !played.lock().waits {
                self.apply(pid, &played.lock(), true);
            }
        }
        let d = &mut self.d;
        d.call(|target, cx| target.end_runs(cx));
        d.flushes.clear();
        let filled = d.target.is_filled();
        d.target = Target::new(0, &d.mirror, &d.cfg, &d.facts);
        d.links = Some(Links::new(100));
        (d.links_job, d.names, d.names_job, d.barrier) = (None, Names::default(), None, false);
        d.world.tick(d.now);
        if !filled {
            d.see("", Seen::Subtree);
            return;
        }
        d.target.was_filled();
        d.target.walk_begins(self.clean.secs);
        let names: Vec<(String, What)> = d.world.names.iter().map(|(name, what)| (name.clone(), *what)).collect();
        d.see("", Seen::Contents);
        for (name, what) in names {
            let (number, _, ctime) = d.world.inode(&name);
            let seen = match what {
                What::Dir if self.dirs.get(&name).is_none_or(|known| known.0 != number) => Seen::MovedDir,
                _ if ctime < self.clean => continue,
                What::Dir => Seen::Contents,
                _ => Seen::Written,
            };
            d.see(&name, seen);
            if d.rng.u8(..4) == 0 {
                d.turn();
            }
        }
        d.target.walk_ended();
    }

    fn step(&mut self) {
        match self.d.rng.u8(..100) {
            0..34 => (0..self.d.rng.u8(1..6)).for_each(|_| self.change()),
            34..76 => self.end_a_run(false),
            76..94 => self.d.pass_time(),
            94..97 => {
                let epoch = self.d.target.flush();
                self.d.flushes.push(epoch);
            }
            _ => self.restart(),
        }
        self.d.turn();
        self.note_lists();
    }

    /// Everything ends well; what is wrong then.
    fn end(&mut self) -> Result<(), String> {
        self.d.note("from here on all goes well");
        for _ in 0..600 {
            self.d.turn();
            self.note_lists();
            if self.d.target.in_sync() && self.d.links_job.is_none() {
                break;
            }
            self.end_a_run(true);
            if self.d.held.is_some() {
                self.d.release();
            }
            let next = self.d.target.next_due();
            self.d.now = next.map_or(self.d.now, |next| next.max(self.d.now)) + Duration::from_millis(1);
        }
        if !self.d.target.in_sync() {
            return Err("it is not in sync".into());
        }
        let mut first: HashMap<u64, &String> = HashMap::new();
        let files = self.d.world.files(|what| what == What::File);
        for (name, (number, written)) in &files {
            let Some((object, content)) = self.held.get(name) else { return Err(format!("{name:?} was never sent")) };
            if content != written {
                return Err(format!("{name:?} is stale"));
            }
            if self.strange.contains(name) {
                return Err(format!("{name:?} has the attributes of another file"));
            }
            let other = *first.entry(*number).or_insert(name);
            if self.d.mirror.extras.hard_links && self.held[other].0 != *object {
                return Err(format!("{other:?} and {name:?} are one file, and two on the target"));
            }
        }
        Ok(())
    }
}

/// Plays a history; the text of it, and what is wrong at its end.
fn play(seed: u64, hard_links: bool) -> (String, Result<(), String>) {
    let mut linked = Linked::new(seed, hard_links);
    linked.d.begin(seed);
    for _ in 0..120 {
        linked.step();
    }
    let end = linked.end();
    (linked.d.trace.text, end)
}

/// Plays histories; `FANSYNC_LINKED=FIRST+COUNT` plays others, and prints the text of a single one.
fn play_all(hard_links: bool) {
    crate::sys::apart::apart();
    let asked = std::env::var("FANSYNC_LINKED").ok().and_then(|seeds| {
        let (first, count) = seeds.split_once('+')?;
        Some((first.parse().ok()?, count.parse().ok()?))
    });
    let (first, count) = asked.unwrap_or((0, 80));
    let wrong: Vec<String> = (first..first + count)
        .filter_map(|seed: u64| {
            let (text, end) = play(seed, hard_links);
            let error = end.err()?;
            if count == 1 {
                println!("{text}");
            }
            Some(format!("seed {seed}: {error}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn names_of_a_file_are_one_file_on_the_target_after_every_history() {
    play_all(true);
}

#[test]
fn every_name_of_a_file_has_its_content_after_every_history() {
    play_all(false);
}
