//! Excluded names, judged by an oracle: a third tree kept by `rsync -a --delete` with the same
//! excludes.
//!
//! What an excluded name leaves behind is the time of its directory, which is compared as well
//! (`dirtimes`).

use crate::fixture::fs::ALL;
use crate::fixture::tree::{Dir, Times, differences};
use crate::fixture::{Case, Mirror, Run, Setup, case, fs::Fs, proc::must};

use std::process::Command;

const EXCLUDE: &[&str] = &["*.swp", "/cache/", "node_modules", "deep/**/skip"];

fn excludes() -> Vec<String> {
    EXCLUDE.iter().map(|pattern| format!("--exclude={pattern}")).collect()
}

/// A mirror with excludes, beside it the tree `rsync` would have made.
struct Judged {
    m: Mirror,
    oracle: Dir,
    rules: Vec<String>,
}

impl Judged {
    fn start(fs: Fs) -> Run<Judged> {
        Judged::of(Setup::new(fs).exclude(EXCLUDE), excludes())
    }

    /// The same with rules in order.
    fn ordered(fs: Fs, rules: &[&str]) -> Run<Judged> {
        let key: Vec<toml::Value> = rules.iter().map(|&rule| rule.into()).collect();
        Judged::of(Setup::new(fs).key("filter", key), rules.iter().map(|rule| format!("--filter={rule}")).collect())
    }

    fn of(setup: Setup, rules: Vec<String>) -> Run<Judged> {
        let m = setup.start()?;
        let oracle = Dir::new(m.scratch("oracle"));
        oracle.mkdir(".");
        Ok(Judged { m, oracle, rules })
    }

    /// Both trees catch up and have to be equal.
    #[track_caller]
    fn check(&self, times: Times) {
        self.m.daemon.flush(None);
        let mut rsync = Command::new("rsync");
        rsync.args(["-a", "--delete", "--numeric-ids", "--modify-window=-1"]);
        rsync.args(&self.rules);
        must(rsync.arg("--").arg(self.m.src.at("").join("")).arg(self.oracle.root()));
        let found = differences(self.oracle.root(), self.m.dst().root(), times, &|_| false);
        assert!(found.is_empty(), "rsync's tree (as source) and the target differ:\n{found}");
    }

    /// Something excluded that only the target has, put into both trees.
    fn plant(&self, path: &str) {
        for tree in [&self.oracle, self.m.dst()] {
            tree.write(path, b"the target's own");
            tree.set_mtime(path, 1_000_000_000, 0);
        }
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("in_events", ALL, |fs| {
            let j = Judged::start(fs)?;
            let src = &j.m.src;
            src.write("a", b"included");
            src.write(".a.swp", b"excluded");
            src.mkdirs("cache/sub");
            src.write("cache/sub/file", b"excluded by its parent");
            src.mkdirs("d/cache");
            src.write("d/cache/file", b"included: the pattern is anchored");
            src.mkdirs("d/node_modules/x");
            src.write("d/node_modules/x/file", b"excluded");
            src.mkdirs("deep/1/2");
            src.write("deep/1/2/skip", b"excluded");
            src.write("deep/1/2/keep", b"included");
            j.check(Times::All);
            src.write(".a.swp", b"excluded, again");
            src.write("cache/sub/file", b"excluded, again");
            src.write("d/cache/file", b"included, again");
            src.remove("d/node_modules");
            j.check(Times::All);
            Ok(())
        }),
        case("rules_in_order", ALL, |fs| {
            let j = Judged::ordered(fs, &["+ /keep/***", "- *.tmp", "+ /d/*.txt", "- /d/*", "- /cache/"])?;
            let src = &j.m.src;
            for dir in ["keep/sub", "d/sub", "cache/keep", "other"] {
                src.mkdirs(dir);
            }
            let paths =
                ["keep/a.tmp", "keep/sub/b.tmp", "x.tmp", "other/y.tmp", "d/a.txt", "d/b", "d/sub/c.txt", "cache/keep/f", "e"];
            paths.iter().for_each(|path| src.write(path, b"1"));
            j.check(Times::All);
            assert!(j.m.dst().has("keep/sub/b.tmp") && !j.m.dst().has("other/y.tmp") && !j.m.dst().has("d/b"));
            paths.iter().for_each(|path| src.write(path, b"changed"));
            j.plant("other/planted.tmp");
            j.plant("d/planted");
            src.rename("keep/a.tmp", "moved.tmp");
            src.rename("x.tmp", "keep/x.tmp");
            src.rename("other", "keep/other");
            src.remove("keep/sub/b.tmp");
            src.rename("d/b", "d/b.txt");
            j.check(Times::NotOfDirs);
            assert!(j.m.dst().has("other/planted.tmp") && j.m.dst().has("d/planted"), "what is left out was deleted");
            crate::expressions::reconcile(&j.m);
            j.check(Times::NotOfDirs);
            Ok(())
        }),
        case("only_excluded_changes_send_nothing", ALL, |fs| {
            let j = Judged::start(fs)?;
            let src = &j.m.src;
            src.mkdirs("cache/sub");
            j.check(Times::All);
            let runs = |j: &Judged| j.m.daemon.target_status("t1").runs;
            let before = runs(&j);
            for n in 0..500 {
                src.write(format!("cache/sub/{n}"), b"excluded");
            }
            j.check(Times::All);
            let after = runs(&j);
            assert!(after == before, "changes below an excluded directory started {} rsync runs", after - before);
            Ok(())
        }),
        case("in_bursts", ALL, |fs| {
            let j = Judged::start(fs)?;
            for dir in 0..10 {
                j.m.src.mkdirs(format!("d{dir}/node_modules"));
                for n in 0..100 {
                    j.m.src.write(format!("d{dir}/{n}"), b"included");
                    j.m.src.write(format!("d{dir}/{n}.swp"), b"excluded");
                    j.m.src.write(format!("d{dir}/node_modules/{n}"), b"excluded");
                }
            }
            j.check(Times::All);
            Ok(())
        }),
        case("renamed_out_of_exclusion_and_back", ALL, |fs| {
            let j = Judged::start(fs)?;
            let src = &j.m.src;
            src.write("f.swp", b"a file");
            src.mkdirs("node_modules/x/deep");
            src.write("node_modules/x/deep/file", b"a tree");
            j.check(Times::All);
            src.rename("f.swp", "f");
            src.rename("node_modules", "modules");
            src.write("modules/x/deep/new", b"now included");
            j.check(Times::All);
            src.rename("f", "f.swp");
            src.rename("modules", "node_modules");
            j.check(Times::All);
            src.rename("node_modules/x", "x");
            j.check(Times::All);
            src.rename("x", "cache");
            src.write("cache/deep/file", b"excluded now");
            j.check(Times::All);
            Ok(())
        }),
        case("editor_save_by_rename", ALL, |fs| {
            let j = Judged::start(fs)?;
            for n in 0..20 {
                j.m.src.write("text.swp", format!("edition {n}"));
                j.m.src.rename("text.swp", "text");
                j.check(Times::All);
            }
            Ok(())
        }),
        case("deleted_dir_keeps_what_only_the_target_has", ALL, |fs| {
            let j = Judged::start(fs)?;
            let src = &j.m.src;
            src.mkdirs("d/sub");
            src.write("d/sub/file", b"included");
            src.mkdirs("e/sub");
            src.write("e/sub/file", b"included");
            j.check(Times::NotOfDirs);
            j.plant("d/sub/theirs.swp");
            src.remove("d");
            src.rename("e", "e2");
            j.check(Times::NotOfDirs);
            assert!(j.m.dst().has("d/sub/theirs.swp"), "an excluded file of the target was deleted with its directory");
            Ok(())
        }),
        case("present_at_start", ALL, |fs| {
            let m = Setup::new(fs).exclude(EXCLUDE).before(|src| {
                src.write("a.swp", b"excluded");
                src.mkdir("cache");
                src.write("cache/file", b"excluded");
                src.write("a", b"included");
            });
            let m = m.start()?;
            let oracle = Dir::new(m.scratch("oracle"));
            oracle.mkdir(".");
            let j = Judged { m, oracle, rules: excludes() };
            j.check(Times::All);
            assert!(!j.m.dst().has("cache") && !j.m.dst().has("a.swp"), "an excluded name was sent at the start");
            Ok(())
        }),
    ]
}
