//! Changes of the source, each with the events that the kernel reports of it.

use super::*;

impl Director {
    pub(super) fn name(&mut self, wanted: impl Fn(What) -> bool) -> Option<String> {
        let names: Vec<&String> = self.world.names.iter().filter(|(_, what)| wanted(**what)).map(|(name, _)| name).collect();
        (!names.is_empty()).then(|| names[self.rng.usize(..names.len())].clone())
    }

    /// A name that is not there yet.
    pub(super) fn new_name(&mut self) -> String {
        const ENDS: [&str; 9] = ["", "", "", "", ".tmp", ".keep", ".log", " b", "\n"];
        let dir = if self.rng.u8(..3) == 0 { None } else { self.name(|what| what == What::Dir) };
        self.fresh += 1;
        // What lies in a directory with a newline is not removed by name; see `specials`.
        let end = Some(ENDS[self.rng.usize(..ENDS.len())]).filter(|end| self.late.is_none() || *end != "\n");
        let name = format!("n{}{}", self.fresh, end.unwrap_or_default());
        dir.map_or(name.clone(), |dir| format!("{dir}/{name}"))
    }

    pub(super) fn change(&mut self) {
        self.world.tick(self.now);
        let file = |what| what == What::File;
        let dir = |what| what == What::Dir;
        if self.target.in_sync() && self.rng.u8(..3) == 0 {
            return match self.rng.u8(..5) {
                0..2 => self.rename(dir, Seen::LeftDir, Seen::ArrivedDir),
                2..4 => self.rename(file, Seen::Left, Seen::Arrived),
                _ => self.rename_together(),
            };
        }
        match self.rng.u8(..40) {
            0..6 => self.create(),
            6..13 => self.rewrite(),
            13..15 => self.chmod(),
            15..19 => self.remove(|what| what != What::Dir, Seen::Gone),
            19..21 => self.remove(dir, Seen::GoneDir),
            21..23 => self.make_dir(),
            23..26 => self.rename(file, Seen::Left, Seen::Arrived),
            26..28 => self.rename(dir, Seen::LeftDir, Seen::ArrivedDir),
            28..30 => self.link(),
            30 => self.symlink(),
            31 => self.dir_becomes_file(),
            32 => self.many(),
            33 => {
                let name = self.new_name();
                self.write_new(&name, 70 << 20);
            }
            34 => {
                let Some(dir) = self.name(dir) else { return };
                self.see(&dir, Seen::Contents);
            }
            35 => {
                let dir = self.name(dir).filter(|_| self.rng.bool()).unwrap_or_default();
                self.see(&dir, Seen::Subtree);
            }
            36 => {
                self.note("periodic");
                self.target.see_periodic(self.now);
            }
            37 => self.empty(),
            38 => {
                let long = vec![vec![b'l'; 250]; 17].join(&b'/');
                self.see_bytes(&long, Seen::Written);
            }
            _ => self.becomes_dir(),
        }
    }

    /// A new file that is written and closed.
    pub(super) fn write_new(&mut self, name: &str, len: u64) {
        self.world.write(name, len);
        self.see(name, Seen::Created);
        self.see(name, Seen::Written);
    }

    /// A new file, which stays open now and then.
    pub(super) fn create(&mut self) {
        let name = self.new_name();
        self.world.write(&name, 5);
        self.see(&name, Seen::Created);
        if self.rng.u8(..5) > 0 {
            self.see(&name, Seen::Written);
        }
    }

    pub(super) fn rewrite(&mut self) {
        let Some(name) = self.name(|what| what == What::File) else { return };
        let len = [1, 7, 300_000, 500_000][self.rng.usize(..4)];
        self.world.write(&name, len);
        let seen = if self.rng.u8(..4) == 0 { Seen::Modified } else { Seen::Written };
        self.see(&name, seen);
    }

    pub(super) fn chmod(&mut self) {
        let stubborn = self.stubborn.filter(|path| self.world.names.contains_key(*path)).map(String::from);
        let Some(name) = stubborn.or_else(|| self.name(|_| true)) else { return };
        if self.world.names[&name] != What::Link {
            self.world.chmod(&name, 0o755);
        }
        self.see(&name, Seen::Touched);
    }

    pub(super) fn remove(&mut self, wanted: impl Fn(What) -> bool, seen: Seen) {
        let Some(name) = self.name(wanted) else { return };
        self.world.remove(&name);
        self.see(&name, seen);
    }

    /// A new directory with a file in it.
    pub(super) fn make_dir(&mut self) {
        let name = self.new_name();
        self.world.mkdir(&name);
        self.see(&name, Seen::CreatedDir);
        self.write_new(&format!("{name}/in"), 3);
    }

    pub(super) fn link(&mut self) {
        let Some(old) = self.name(|what| what != What::Dir) else { return };
        let new = self.new_name();
        self.world.link(&old, &new);
        self.see(&new, Seen::Created);
    }

    pub(super) fn symlink(&mut self) {
        let name = self.new_name();
        let to = self.name(|_| true).unwrap_or_else(|| ".".into());
        self.world.symlink(&to, &name);
        self.see(&name, Seen::Created);
    }

    pub(super) fn dir_becomes_file(&mut self) {
        let Some(name) = self.name(|what| what == What::Dir) else { return };
        self.world.remove(&name);
        self.world.write(&name, 4);
        self.see(&name, Seen::GoneDir);
        self.see(&name, Seen::Created);
        self.see(&name, Seen::Written);
    }

    /// Whatever has the name becomes a directory; the events do not say what it was.
    pub(super) fn becomes_dir(&mut self) {
        let Some(name) = self.name(|_| true) else { return };
        self.world.remove(&name);
        self.see(&name, Seen::Gone);
        self.world.mkdir(&name);
        self.see(&name, Seen::MovedDir);
    }

    pub(super) fn rename(&mut self, wanted: impl Fn(What) -> bool, left: Seen, arrived: Seen) {
        let Some(old) = self.name(wanted) else { return };
        let same_dir = self.rng.bool();
        let new = self.new_name();
        let base = new.rsplit('/').next().expect("a name has a last part");
        let new = match parent(&old) {
            _ if !same_dir => new,
            "" => base.to_owned(),
            dir => format!("{dir}/{base}"),
        };
        if new.starts_with(&format!("{old}/")) || self.world.names.contains_key(&new) {
            return;
        }
        self.world.rename(&old, &new);
        if self.rng.u8(..5) == 0 {
            self.see(&old, left.plain());
            self.see(&new, arrived.plain());
        } else {
            self.see(&old, left);
            self.see(&new, arrived);
        }
    }

    /// What lies in one directory goes to another, each under its name.
    pub(super) fn rename_together(&mut self) {
        let dir = |what| what == What::Dir;
        let (Some(to), from) = (self.name(dir), self.name(dir).filter(|_| self.rng.bool()).unwrap_or_default()) else { return };
        if to == from {
            return;
        }
        let inside: Vec<(String, What)> = self.world.names.iter().map(|(name, what)| (name.clone(), *what)).collect();
        for (old, what) in inside {
            let new = format!("{to}/{}", old.rsplit('/').next().expect("a name has a last part"));
            let above = old == to || to.starts_with(&format!("{old}/"));
            if parent(&old) != from || above || what == What::Link || self.world.names.contains_key(&new) {
                continue;
            }
            self.world.rename(&old, &new);
            let (left, arrived) = if dir(what) { (Seen::LeftDir, Seen::ArrivedDir) } else { (Seen::Left, Seen::Arrived) };
            self.see(&old, left);
            self.see(&new, arrived);
        }
    }

    /// Many files in one directory, at times with so long a path that a run begins there.
    pub(super) fn many(&mut self) {
        let dir = match self.rng.u8(..3) {
            0 => {
                let above = format!("long/{}", "p".repeat(200));
                if self.world.names.get("long") == Some(&What::Dir) && !self.world.names.contains_key(&above) {
                    self.world.mkdir(&above);
                    self.see(&above, Seen::CreatedDir);
                }
                format!("{above}/{}{}", "q".repeat(200), self.fresh)
            }
            _ => self.new_name(),
        };
        self.fresh += 1;
        if self.world.names.get(parent(&dir)) != Some(&What::Dir) && !parent(&dir).is_empty() {
            return;
        }
        self.world.mkdir(&dir);
        self.see(&dir, Seen::CreatedDir);
        for at in 0..self.rng.usize(12..70) {
            let name = format!("{dir}/m{at}");
            self.world.write(&name, 2);
            self.target.see(self.now, name.as_bytes(), Seen::Created);
            self.target.see(self.now, name.as_bytes(), Seen::Written);
        }
        self.note(&format!("many files in {dir}"));
    }

    /// The source loses nearly everything at its top.
    pub(super) fn empty(&mut self) {
        let tops: Vec<String> = self.world.names.keys().filter(|name| !name.contains('/')).cloned().collect();
        let spare = if self.rng.bool() { 1 } else { 0 };
        for name in tops.iter().skip(spare) {
            let dir = self.world.names[name] == What::Dir;
            self.world.remove(name);
            self.see(name, if dir { Seen::GoneDir } else { Seen::Gone });
        }
        if self.rng.u8(..3) == 0 {
            self.see("", Seen::Contents);
        }
    }
}
