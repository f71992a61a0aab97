//! Manual pages and shell completions, made from what the program itself goes by.
//!
//! The pages of sections 1 and 8 come from the table that parses the command line and prints
//! `--help`; files, signals and environment come from the guides in `docs`. `fansync.toml(5)` comes
//! from `docs/config.md`, whose keys and defaults a test compares with those of the parser, and the
//! sample file; `fansync-failover.toml(5)` from `docs/failover.md`. So there is no second text to
//! keep in step, and who installed the program alone (`cargo install`) has the pages too.
//!
//! Given up: what `--help` prints in one paragraph is not set further than into description,
//! examples and exit status.

mod markdown;
mod names;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;
use roff::{Roff, bold, roman};

use crate::exit::ExitCode;

pub(crate) const COMPLETIONS_HELP: &str = "\
Examples:
  fansync completions bash > /etc/bash_completion.d/fansync
  fansync completions zsh > ~/.zfunc/_fansync
  fansync completions fish > ~/.config/fish/completions/fansync.fish

Exit codes: 0 done, 64 usage, 69 standard output cannot be written.";

pub(crate) const MAN_HELP: &str = "\
The pages go to DIR/man1, DIR/man5 and DIR/man8, which are made where they are missing.

Examples:
  fansync man ~/.local/share/man
  sudo fansync man /usr/local/share/man

Exit codes: 0 done, 64 usage, 69 a page cannot be written, 77 not permitted.";

/// `fansync completions`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// `fansync man`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ManArgs {
    /// A directory of manual pages
    pub(crate) dir: PathBuf,
}

/// What went wrong with a page.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}")]
pub(crate) struct ManualError {
    path: PathBuf,
    source: io::Error,
}

impl ManualError {
    /// The code to leave with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            _ => ExitCode::Unavailable,
        }
    }
}

/// One manual page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// As in `fansync.toml`.
    pub(crate) name: String,
    /// As in `5`.
    pub(crate) section: &'static str,
    /// For troff, with the macros of man(7).
    pub(crate) text: String,
}

/// Every page.
pub(crate) fn pages() -> Vec<Page> {
    let mut command = command();
    command.build();
    let mut pages = Vec::new();
    of_command(&command, &mut pages);
    pages.extend([config(), failover_config()]);
    pages
}

/// Commands that run until a signal ends them, for the administrator: section 8.
const DAEMONS: [&str; 3] = ["fansync-failover", "fansync-follow", "fansync-run"];
/// Those that stay in the foreground besides, for any user.
const FOREGROUND: [&str; 3] = ["fansync", "fansync-mirror", "fansync-sersync"];

/// The section of a command's page.
fn section_of(name: &str) -> &'static str {
    if DAEMONS.contains(&name) { "8" } else { "1" }
}

/// Writes every page below `dir`, into one directory for each section.
///
/// # Errors
/// The first file or directory that could not be written.
pub(crate) fn write(dir: &Path) -> Result<(), ManualError> {
    for page in pages() {
        let dir = dir.join(format!("man{}", page.section));
        let path = dir.join(format!("{}.{}", page.name, page.section));
        fs::create_dir_all(&dir).and_then(|()| fs::write(&path, page.text)).map_err(|source| ManualError { path, source })?;
    }
    Ok(())
}

/// The completions for one shell, a script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut command(), "fansync", &mut out);
    names::completed(shell, &String::from_utf8(out).expect("made of text")).into_bytes()
}

fn command() -> Command {
    // `fansync help COMMAND` is the same as `fansync COMMAND --help`: no pages and completions of
    // its own.
    <crate::cli::Cli as clap::CommandFactory>::command().disable_help_subcommand(true)
}

/// The page of a command and those of its commands.
fn of_command(command: &Command, pages: &mut Vec<Page>) {
    let seen: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    for sub in &seen {
        of_command(sub, pages);
    }
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let text = render(command, &name, !seen.is_empty()).expect("memory can be written");
    pages.push(Page { section: section_of(&name), name, text });
}

fn render(command: &Command, name: &str, has_commands: bool) -> io::Result<String> {
    let mut out = Vec::new();
    let man = Man::new(command.clone());
    let help = Help::of(command);
    title(name, section_of(name)).to_writer(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    help.paragraphs.iter().fold(&mut Roff::new(), |roff, p| roff.control("PP", []).text([roman(p)])).to_writer(&mut out)?;
    man.render_options_section(&mut out)?;
    if has_commands {
        man.render_subcommands_section(&mut out)?;
    }
    let mut roff = Roff::new();
    for (title, lines) in help.blocks {
        section(&mut roff, &title);
        markdown::verbatim(&mut roff, true, &lines);
    }
    if !help.codes.is_empty() {
        section(&mut roff, "EXIT STATUS");
        for (code, meaning) in help.codes {
            roff.control("TP", ["6"]).text([bold(code)]).text([roman(meaning)]);
        }
    }
    guides(&mut roff, name);
    section(&mut roff, "SEE ALSO");
    let main = command.get_bin_name().is_none_or(|name| name == "fansync");
    roff.text(if main {
        vec![bold("fansync.toml"), roman("(5), "), bold("rsync"), roman("(1), "), bold("fanotify"), roman("(7)")]
    } else {
        vec![bold("fansync"), roman("(1), "), bold("fansync.toml"), roman("(5)")]
    });
    roff.to_writer(&mut out)?;
    let text = String::from_utf8(out).expect("made of text");
    // The list of commands has them all in one section.
    Ok(DAEMONS.iter().fold(text, |text, name| {
        let named = name.replace('-', "\\-");
        text.replace(&format!("{named}(1)"), &format!("{named}(8)"))
    }))
}

/// What the guides say of files, signals and environment.
fn guides(roff: &mut Roff, name: &str) {
    const OPERATING: &str = include_str!("../../docs/operating.md");
    if name == "fansync-failover" {
        section(roff, "FILES AND SIGNALS");
        markdown::body(markdown::part(include_str!("../../docs/failover.md"), "### Files and signals"), roff);
    } else if DAEMONS.contains(&name) || FOREGROUND.contains(&name) {
        section(roff, "FILES");
        markdown::body(markdown::part(OPERATING, "## Where things are"), roff);
        section(roff, "SIGNALS");
        let part = markdown::part(OPERATING, "## Signals and exit codes");
        // The table of exit codes behind it has a section of its own.
        markdown::body(part.split_once("\n| ").map_or(part, |(signals, _)| signals), roff);
    } else {
        return;
    }
    section(roff, "ENVIRONMENT");
    markdown::body(markdown::part(OPERATING, "## Environment"), roff);
}

/// `fansync.toml(5)`.
fn config() -> Page {
    let mut roff = title("fansync.toml", "5");
    section(&mut roff, "NAME");
    roff.text([roman("fansync.toml - configuration of fansync")]);
    section(&mut roff, "DESCRIPTION");
    markdown::body(include_str!("../../docs/config.md"), &mut roff);
    section(&mut roff, "EXAMPLE");
    markdown::verbatim(&mut roff, true, include_str!("../../packaging/fansync.toml").lines());
    section(&mut roff, "SEE ALSO");
    roff.text([bold("fansync"), roman("(1), "), bold("fansync-check"), roman("(1), "), bold("rsync"), roman("(1)")]);
    Page { name: "fansync.toml".into(), section: "5", text: roff.render() }
}

/// `fansync-failover.toml(5)`.
fn failover_config() -> Page {
    let mut roff = title("fansync-failover.toml", "5");
    section(&mut roff, "NAME");
    roff.text([roman("fansync-failover.toml - configuration of fansync failover")]);
    section(&mut roff, "DESCRIPTION");
    markdown::body(markdown::part(include_str!("../../docs/failover.md"), "## The client: `fansync failover`"), &mut roff);
    section(&mut roff, "FILES");
    roff.text([roman("/etc/fansync/failover.toml")]);
    section(&mut roff, "SEE ALSO");
    roff.text([bold("fansync-failover"), roman("(8), "), bold("fansync.toml"), roman("(5), "), bold("nfs"), roman("(5)")]);
    Page { name: "fansync-failover.toml".into(), section: "5", text: roff.render() }
}

fn title(name: &str, section: &str) -> Roff {
    let source = concat!("fansync ", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    // Without a date: the same program makes the same page. The quotes are those of troff.
    roff.control("TH", [name, section, "\"\"", source, "fansync"]);
    roff
}

fn section(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

/// The text below the options of `--help`, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct Help {
    paragraphs: Vec<String>,
    /// Title, and lines to be shown as they are.
    blocks: Vec<(String, Vec<String>)>,
    codes: Vec<(String, String)>,
}

impl Help {
    fn of(command: &Command) -> Help {
        let text = command.get_after_help().map(|t| t.to_string()).unwrap_or_default();
        let mut help = Help::default();
        for block in text.split("\n\n") {
            let first = block.lines().next().unwrap_or_default();
            if let Some(codes) = block.strip_prefix("Exit codes:") {
                help.codes = codes_in(codes);
            } else if let Some(title) = first.strip_suffix(':').filter(|_| block.lines().skip(1).all(|l| l.starts_with("  "))) {
                let lines = block.lines().skip(1).map(|l| l[2..].to_owned()).collect();
                let title = if title == "Example" { "Examples" } else { title };
                help.blocks.push((title.to_uppercase(), lines));
            } else if !block.is_empty() {
                help.paragraphs.push(block.replace('\n', " "));
            }
        }
        help
    }
}

/// `0 done, 1 some paths failed, …` or a line for each, as pairs. A code follows a comma or begins
/// a line.
fn codes_in(text: &str) -> Vec<(String, String)> {
    let mut codes: Vec<(String, String)> = Vec::new();
    for piece in text.trim().trim_end_matches('.').split([',', '\n']).map(str::trim) {
        match piece.split_once(' ') {
            Some((code, meaning)) if code.bytes().all(|b| b.is_ascii_digit()) => {
                codes.push((code.to_owned(), meaning.trim().to_owned()));
            }
            // A comma or a line's end within a meaning.
            _ => match codes.last_mut() {
                Some((_, meaning)) => {
                    let glue = if meaning.ends_with(' ') || piece.is_empty() { "" } else { ", " };
                    meaning.push_str(glue);
                    meaning.push_str(piece);
                }
                None => codes.push((String::new(), piece.to_owned())),
            },
        }
    }
    codes
}

#[cfg(test)]
mod tests;
