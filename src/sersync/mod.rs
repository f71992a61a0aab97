//! A drop-in for sersync 2.5.4: its command line, its `confxml.xml`, its meaning of them.
//!
//! The way of a file: `xml.rs` reads the file and knows where everything stands, `convert.rs` makes
//! of it the same [`Config`] that a TOML file gives, and the same rules judge it, with the places
//! of the XML in their messages. So whatever the XML asks for is something that TOML can say as
//! well, and `import.rs` says it. What sersync did and this does not, and the other way round, is
//! reported as a [`Note`], never passed over.
//!
//! `detach.rs` is `-d`: a process of its own, one for each configuration file.

mod convert;
pub(crate) mod detach;
mod import;
mod params;
mod plugins;
#[cfg(test)]
mod tests;
mod xml;

use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Config, ConfigErrors};

#[cfg(feature = "lsyncd")]
pub(crate) use convert::name;
pub use import::toml;
pub(crate) use xml::is_xml;

/// `fansync sersync`, and every `sersync` and `sersync2`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SersyncArgs {
    /// Detach from the terminal; a second one for the same file does not start
    #[arg(short = 'd')]
    pub(crate) detach: bool,
    /// First make the targets equal to the trees; changes are watched meanwhile
    #[arg(short = 'r')]
    pub(crate) reconcile: bool,
    /// rsync runs at the same time, per target
    #[arg(short = 'n', value_name = "N", allow_hyphen_values = true)]
    pub(crate) workers: Option<String>,
    /// The configuration, sersync's XML
    #[arg(short = 'o', value_name = "FILE", default_value = "confxml.xml")]
    pub(crate) file: PathBuf,
    /// Only this plugin, without any rsync
    #[arg(short = 'm', value_name = "NAME", value_parser = plugins::NAMES)]
    pub(crate) plugin: Option<String>,
}

/// `fansync import`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ImportArgs {
    /// What sersync is run with -r for: make the targets equal at each start
    #[arg(short = 'r')]
    pub(crate) reconcile: bool,
    /// What sersync is run with -n for: rsync runs at the same time, per target
    #[arg(short = 'n', value_name = "N", allow_hyphen_values = true)]
    pub(crate) workers: Option<String>,
    /// What sersync is run with -m for: only this plugin
    #[arg(short = 'm', value_name = "NAME", value_parser = plugins::NAMES)]
    pub(crate) plugin: Option<String>,
    /// Write the password of refreshCDN out, and not the name of a file for it
    #[arg(long)]
    pub(crate) show_secrets: bool,
    /// Read the files that lsyncd's configuration runs (dofile, require), below its own directory
    #[arg(long)]
    pub(crate) lua_files: bool,
    /// The configuration, sersync's XML or lsyncd's Lua
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// What the command line says beside the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `-r`.
    pub(crate) reconcile: bool,
    /// `-n`, as given.
    pub(crate) workers: Option<String>,
    /// `-m`.
    pub(crate) plugin: Option<String>,
}

impl From<&SersyncArgs> for Flags {
    fn from(args: &SersyncArgs) -> Flags {
        Flags { reconcile: args.reconcile, workers: args.workers.clone(), plugin: args.plugin.clone() }
    }
}

impl From<&ImportArgs> for Flags {
    fn from(args: &ImportArgs) -> Flags {
        Flags { reconcile: args.reconcile, workers: args.workers.clone(), plugin: args.plugin.clone() }
    }
}

/// Something in the file that does nothing here, or something else than it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// Line in the file, from 1; 0 for the command line.
    pub(crate) line: usize,
    /// What, and why.
    pub(crate) text: String,
}

/// A configuration that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// In the order of the file.
    pub(crate) notes: Vec<Note>,
    /// The program whose configuration it is.
    pub(crate) program: &'static str,
}

impl Loaded {
    /// What of the targets cannot be seen from here, and is often wrong where sersync was.
    pub(crate) fn unseen(&self) -> Vec<String> {
        let targets = self.config.mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t)));
        let daemons = targets.filter(|(_, t)| t.location.is_daemon());
        daemons
            .map(|(m, t)| {
                let deletes = if m.delete.ever() { "\"ignore errors\" deletes files that could not be read; " } else { "" };
                format!(
                    "{}: no module gives its settings. With \"use chroot = no\" and without \"munge symlinks = no\", symbolic links are stored as \
                     /rsyncd-munged/…; {deletes}\"max connections\" must be {} or more; \"timeout\" more than {:?}",
                    t.location,
                    t.jobs + t.small_jobs + t.standby,
                    t.standby_max_age,
                )
            })
            .collect()
    }
}

/// Reads and checks sersync's configuration file.
///
/// # Errors
/// As [`Config::load`], with the places in the XML.
pub(crate) fn load(path: &Path, flags: &Flags) -> Result<Loaded, ConfigErrors> {
    let mut loaded = read(&crate::config::read_trusted_bytes(path)?, Some(path), flags)?;
    // sersync took such a file, so it is not refused here as one in TOML is.
    if let (Some(what), Some(error)) = (loaded.config.secret(), crate::config::readable(path)) {
        let text = format!("the file holds a secret ({what}), and {error}: {}", error.help());
        loaded.notes.insert(0, Note { line: 0, text });
    }
    Ok(loaded)
}

/// The same for the file's content.
///
/// # Errors
/// All that is wrong with it.
pub fn read(bytes: &[u8], path: Option<&Path>, flags: &Flags) -> Result<Loaded, ConfigErrors> {
    let decoded = xml::decode(bytes).map_err(|problem| ConfigErrors::new(path, "", vec![problem]))?;
    let text = &decoded.text;
    let options = roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: 100_000, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options)
        .map_err(|error| ConfigErrors::new(path, text, vec![xml::syntax(text, &error)]))?;
    let (config, found) = convert::config(&document, &decoded, flags);
    let mut problems = found.problems;
    if problems.is_empty() {
        problems = crate::config::judge(&config, &found.places);
    }
    if !problems.is_empty() {
        return Err(ConfigErrors::new(path, text, problems));
    }
    let line = |at: &Range<usize>| text.as_bytes()[..at.start].iter().filter(|&&b| b == b'\n').count() + 1;
    let mut notes: Vec<Note> =
        found.notes.into_iter().map(|(at, text)| Note { line: at.as_ref().map_or(0, line), text }).collect();
    notes.sort_by_key(|n| n.line);
    Ok(Loaded { config, notes, program: "sersync" })
}
