//! What a play asks of the target and commands it.

use super::*;

impl Director {
    /// What the target says of a path, and what hooks are kept waiting for.
    pub(super) fn ask(&mut self) {
        let path = match self.rng.u8(..4) {
            0 => self.new_name(),
            _ => self.name(|_| true).unwrap_or_default(),
        };
        let state = self.target.explain(self.now, path.as_bytes());
        let owed = self.target.owed();
        let line = format!(
            "ask {}: {} [{}] owed {} below {} anything {}",
            path.escape_default(),
            state.state,
            state.why,
            owed.covers(path.as_bytes(), OwedQuery::Unreported),
            owed.covers(path.as_bytes(), OwedQuery::All),
            owed.covers(b"", OwedQuery::All)
        );
        self.count(format!("path: {}", state.state));
        self.note(&line);
    }

    pub(super) fn command(&mut self) {
        match self.rng.u8(..26) {
            0..3 => {
                self.note("flush");
                let epoch = self.target.flush();
                self.flushes.push(epoch);
            }
            3..5 => {
                self.note("pause");
                self.call(|target, cx| target.pause(cx, 1_700_000_000.0));
            }
            5..8 => {
                self.note("resume");
                self.call(|target, cx| target.resume(cx));
            }
            8..11 => {
                self.note("retry");
                self.call(|target, cx| target.hurry_up(cx));
            }
            11..14 => {
                let n = self.call(|target, cx| target.accept_deletes(cx));
                self.note(&format!("accept deletes: {n}"));
            }
            14..16 => self.release(),
            16 => {
                self.gone = true;
                self.note("the source is gone");
            }
            17..19 => self.set_apart(),
            19..22 => self.watch(),
            22 => {
                self.note("the next process does not start");
                self.stage.refuse_next();
            }
            23 => self.restart(),
            24 => self.walk(),
            _ => {
                let Some(path) = self.name(|_| true) else { return };
                let (whole, removes) = (self.world.names[&path] == What::Dir, self.rng.u8(..4) == 0);
                self.note(&format!("repair {} {whole} {removes}", path.escape_default()));
                self.target.repair(self.now, vec![Wrong { path: rel(&path), whole, removes, parts: false }]);
            }
        }
    }

    /// The source is back, or is accepted.
    pub(super) fn release(&mut self) {
        let was = self.held.take();
        self.note(&format!("released: {}", was.is_some()));
        self.gone = false;
        match was {
            Some(Hold::Gone(_)) => self.see("", Seen::Subtree),
            Some(_) => {
                let n = self.call(|target, cx| target.accept_deletes(cx));
                self.note(&format!("accept deletes: {n}"));
            }
            None => {}
        }
    }

    pub(super) fn set_apart(&mut self) {
        let mut apart = Apart::default();
        if self.apart.is_empty()
            && let Some(dir) = self.name(|what| what == What::Dir)
        {
            let at = rel(&dir);
            let why = match self.rng.u8(..3) {
                0 => Why::NoTree("it is no tree".into()),
                _ => Why::Held(Hold::Lost { at: at.clone() }),
            };
            apart.put(at, why);
        }
        self.note(&format!("apart {:?}", apart.iter().map(|(at, _)| at.to_string()).collect::<Vec<_>>()));
        self.apart = Arc::new(apart);
    }

    pub(super) fn watch(&mut self) {
        let show = |paths: Vec<RelPath>| paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if let Some(id) = self.watches.pop() {
            let touched = self.target.unwatch(id);
            self.count("unwatch");
            self.note(&format!("unwatch: {}", show(touched)));
            return;
        }
        let paths: Vec<RelPath> = self.world.names.keys().take(40).map(|name| rel(name)).collect();
        self.last_watch += 1;
        let owed = self.target.watch(self.last_watch, paths);
        self.watches.push(self.last_watch);
        self.note(&format!("watch, owed: {}", show(owed)));
    }

    /// As a new daemon begins, with or without what the one before has noted.
    pub(super) fn restart(&mut self) {
        self.note("restart");
        self.count("restart");
        self.call(|target, cx| target.end_runs(cx));
        self.flushes.clear();
        self.watches.clear();
        let (filled, was) = (self.target.is_filled(), self.rng.bool());
        self.target = Target::new(0, &self.mirror, &self.cfg, &self.facts);
        self.links = self.links.is_some().then(|| Links::new(100));
        (self.links_job, self.names, self.names_job) = (None, Names::default(), None);
        (self.barrier, self.walking, self.apart) = (false, false, Arc::default());
        if filled {
            self.target.was_filled();
        }
        match (was, self.rng.bool()) {
            // Every name stands at the top unchanged since.
            (true, _) => {
                self.target.was_equal(i64::MAX);
                self.walk();
            }
            (false, true) => self.target.take_other_source(filled),
            _ => {}
        }
        if !was {
            self.see("", Seen::Subtree);
        }
    }

    /// What a walk finds changed since the last stop.
    pub(super) fn walk(&mut self) {
        self.walking = !self.walking;
        if !self.walking {
            self.note("walk ends");
            self.target.walk_ended();
            return;
        }
        self.note("walk begins");
        self.target.walk_begins(self.wall_start + self.now.as_secs() as i64 - 50);
        for _ in 0..3 {
            let Some(name) = self.name(|what| what != What::Link) else { return };
            let dir = self.world.names[&name] == What::Dir;
            self.see(&name, if dir { Seen::Contents } else { Seen::Written });
        }
    }
}
