//! Configurations of other programs, detected and read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::config::{ConfigErrors, Problem};
use crate::sersync::{self, Flags, ImportArgs, Loaded};

/// How much of a file is read to determine its program, in bytes.
const HEAD_BYTES: u64 = 64 << 10;

/// A program whose configuration can be carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// XML.
    Sersync,
    /// Lua.
    Lsyncd,
}

impl Program {
    /// Whose configuration a file is; `None` for fansync's own, and for what cannot be read.
    pub(crate) fn of(path: &Path) -> Option<Program> {
        let mut head = Vec::new();
        File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head)).ok()?;
        if sersync::is_xml(&head) {
            return Some(Program::Sersync);
        }
        lsyncd::is_one(path, &head).then_some(Program::Lsyncd)
    }

    /// Reads and checks its configuration.
    ///
    /// # Errors
    /// As [`crate::config::Config::load`], with the places in that file.
    pub(crate) fn load(self, path: &Path, flags: &Flags, lua_files: bool) -> Result<Loaded, ConfigErrors> {
        match self {
            Program::Sersync => sersync::load(path, flags),
            Program::Lsyncd => lsyncd::load(path, lua_files),
        }
    }
}

/// What `fansync import` prints.
///
/// # Errors
/// The file is none of these, or wrong.
pub(crate) fn toml(args: &ImportArgs) -> Result<String, ConfigErrors> {
    let fail = |problem| ConfigErrors::new(Some(&args.file), "", vec![problem]);
    let program = match Program::of(&args.file) {
        Some(program) => program,
        // sersync's reader says best why a file cannot be read.
        None if !args.file.is_file() => Program::Sersync,
        None => {
            let problem = Problem::new("this is no configuration of sersync's (XML) or lsyncd's (Lua)");
            return Err(fail(problem.help("fansync's own TOML needs no import: fansync check --config FILE")));
        }
    };
    if program == Program::Lsyncd && (args.reconcile || args.workers.is_some() || args.plugin.is_some()) {
        let problem = Problem::new("-r, -n and -m are options of sersync's");
        return Err(fail(problem.help("lsyncd has them in its configuration: init, maxProcesses")));
    }
    let loaded = program.load(&args.file, &Flags::from(args), args.lua_files)?;
    sersync::toml(&loaded, args.show_secrets).map_err(|error| fail(Problem::new(error.to_string())))
}

#[cfg(feature = "lsyncd")]
use crate::lsyncd;

/// In place of the module that this program is built without.
#[cfg(not(feature = "lsyncd"))]
mod lsyncd {
    use std::path::Path;

    use crate::config::{ConfigErrors, Problem};
    use crate::sersync::Loaded;

    pub(super) fn is_one(path: &Path, _: &[u8]) -> bool {
        path.extension().is_some_and(|e| e == "lua")
    }

    pub(super) fn load(path: &Path, _: bool) -> Result<Loaded, ConfigErrors> {
        let problem = Problem::new("this fansync is built without the import of lsyncd's configuration");
        Err(ConfigErrors::new(Some(path), "", vec![problem.help("build it with the feature lsyncd")]))
    }
}
