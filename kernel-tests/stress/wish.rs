//! What a stress run is asked for: the combinations of filesystem, backend, settings and work, and
//! how long.

use std::fmt;
use std::path::PathBuf;

use crate::fixture::fs::{ALL, Fs};

use super::ops::Act;

/// One combination.
#[derive(Clone, Debug)]
pub struct Combination {
    pub fs: Fs,
    pub watch: Watch,
    pub settings: Settings,
    pub work: Work,
    /// Operations of our own storm that are left out.
    pub without: Vec<Act>,
}

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Fanotify,
    Inotify,
}

/// How the mirror is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settings {
    /// As the daemon has it.
    Defaults,
    /// Hard links, attributes, ACLs and holes are kept, open files are followed.
    All,
}

/// Who changes the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// [`super::ops`].
    Own,
    /// The program of this name, from xfstests.
    Fsstress(PathBuf),
}

impl Watch {
    pub fn name(self) -> &'static str {
        match self {
            Watch::Fanotify => "fanotify",
            Watch::Inotify => "inotify",
        }
    }
}

impl Settings {
    fn name(self) -> &'static str {
        match self {
            Settings::Defaults => "defaults",
            Settings::All => "all",
        }
    }
}

impl Work {
    fn name(&self) -> &'static str {
        match self {
            Work::Own => "own",
            Work::Fsstress(_) => "fsstress",
        }
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6} {:<8} {:<8} {:<8}", self.fs.name(), self.watch.name(), self.settings.name(), self.work.name())
    }
}

/// What was asked for.
#[derive(Debug)]
pub struct Wish {
    fs: Vec<Fs>,
    watch: Vec<Watch>,
    settings: Vec<Settings>,
    work: Vec<Work>,
    pub rounds: u64,
    pub operations: usize,
    pub seed: u64,
    /// Operations of our own storm that are left out.
    pub without: Vec<Act>,
}

impl Wish {
    /// Reads `--fs`, `--watch`, `--settings` and `--work`, each with a list, and `--rounds`,
    /// `--ops`, `--seed`, `--without`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn read(args: &[String]) -> Result<Wish, String> {
        let fsstress = fsstress();
        let mut wish = Wish {
            fs: ALL.to_vec(),
            watch: vec![Watch::Fanotify, Watch::Inotify],
            settings: vec![Settings::Defaults, Settings::All],
            work: fsstress.iter().cloned().map(Work::Fsstress).chain([Work::Own]).collect(),
            rounds: 1,
            operations: 24_000,
            seed: fastrand::u64(..1 << 31),
            without: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().ok_or(format!("{arg} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|e| format!("{arg} {value}: {e}"));
            match arg.as_str() {
                "--fs" => wish.fs = several(value, ALL, |fs| fs.name().into())?,
                "--watch" => wish.watch = several(value, &[Watch::Fanotify, Watch::Inotify], |watch| watch.name().into())?,
                "--settings" => wish.settings = several(value, &[Settings::Defaults, Settings::All], |s| s.name().into())?,
                "--work" => {
                    let known: Vec<Work> = fsstress.iter().cloned().map(Work::Fsstress).chain([Work::Own]).collect();
                    wish.work = several(value, &known, |work| work.name().into())
                        .map_err(|e| format!("{e} (fsstress is taken from PATH, or from $FSSTRESS)"))?;
                }
                "--rounds" => wish.rounds = number()?,
                "--ops" => wish.operations = number()? as usize,
                "--seed" => wish.seed = number()?,
                "--without" => wish.without = several(value, &Act::all().collect::<Vec<_>>(), |act| format!("{act:?}"))?,
                unknown => return Err(format!("{unknown} is no option")),
            }
        }
        Ok(wish)
    }

    /// All combinations.
    pub fn combinations(&self) -> Vec<Combination> {
        let mut all = Vec::new();
        for work in &self.work {
            for &settings in &self.settings {
                for &watch in &self.watch {
                    all.extend(self.fs.iter().map(|&fs| Combination {
                        fs,
                        watch,
                        settings,
                        work: work.clone(),
                        without: self.without.clone(),
                    }));
                }
            }
        }
        all
    }
}

/// A list of names, separated by commas.
fn several<T: Clone>(list: &str, known: &[T], name: impl Fn(&T) -> String) -> Result<Vec<T>, String> {
    let one = |wanted: &str| {
        let names: Vec<String> = known.iter().map(&name).collect();
        known.iter().find(|known| name(known) == wanted).cloned().ok_or(format!("{wanted} is none of {}", names.join(", ")))
    };
    list.split(',').map(one).collect()
}

/// The program, where there is one.
fn fsstress() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("FSSTRESS").map(PathBuf::from);
    named.or_else(|| std::env::split_paths(&path).map(|dir| dir.join("fsstress")).find(|program| program.is_file()))
}
