//! The status for a terminal: what is in sync, what is not, and why.
//!
//! One line for each thing, its label first; a label in capitals needs an action.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{BRING_BACK, Bwlimit, Feed, Hook, Links, MAKE_SOURCE, Mirror, Moved, Snapshot, StartKind, Target, Watch};
use bytesize::ByteSize;

use crate::lost::Cause;
use crate::text::{plural, span};

/// Relays of a feed that are named.
const RELAYS: usize = 20;
/// Followers of a feed that are named.
const SLOWEST: usize = 10;

impl Snapshot {
    /// Several lines for a terminal: what is in sync, what is not, and why.
    pub(crate) fn human(&self) -> String {
        let mut out = format!("{}\n{}\n", self.verdict(), self.overview());
        self.daemon(&mut out);
        self.mirrors.iter().for_each(|m| m.human(&mut out));
        out
    }

    /// The process, and what is wrong with its configuration and its log.
    fn daemon(&self, out: &mut String) {
        let _ = writeln!(out, "fansync {} pid {} up {}", self.version, self.pid, span(self.uptime_seconds));
        let capabilities = if self.capabilities.is_empty() { "none".into() } else { self.capabilities.join(" ") };
        let _ = writeln!(out, "capabilities {capabilities}");
        if let Some(bwlimit) = &self.bwlimit {
            let _ = writeln!(out, "bwlimit {}", bwlimit.human());
        }
        if !self.config_error.is_empty() {
            let _ = writeln!(out, "CONFIG {}", self.config_error);
        }
        let lost = &self.log_lost;
        if lost.lines > 0 {
            let since = if lost.failing { "the log cannot be written" } else { "the log is written again" };
            let _ = writeln!(out, "LOG    {} not written ({}); {since}", plural(lost.lines, "line"), lost.reason);
        }
    }
}

impl Bwlimit {
    fn human(&self) -> String {
        let limit = |bytes: Option<u64>| bytes.map_or_else(|| "no bound".to_owned(), |b| format!("{} a second", ByteSize(b)));
        let mut out = match self.bytes_per_second {
            Some(_) => format!(
                "{} over all targets on other hosts, {} of it given to runs",
                limit(self.bytes_per_second),
                ByteSize(self.given_bytes_per_second)
            ),
            None => "none at this time of day".to_owned(),
        };
        if !self.until.is_empty() {
            let _ = write!(out, "; from {} on {}", self.until, limit(self.then_bytes_per_second));
        }
        out
    }
}

impl Mirror {
    fn human(&self, out: &mut String) {
        let link = if self.given.is_empty() { String::new() } else { format!(" (given as {}, by a symbolic link)", self.given) };
        let _ = writeln!(out, "\nmirror {}  {}{link}", self.name, self.source);
        self.troubles(out);
        self.watch.iter().for_each(|w| w.human(out));
        self.events(out);
        if let Some(links) = &self.links {
            links.human(out);
        }
        if let Some(moved) = &self.moved {
            moved.human(out);
        }
        for (cause, n) in &self.lost {
            let then = if cause == Cause::FailingPath.name() { "tried" } else { "compared" };
            let _ = writeln!(out, "  lost   {cause}: {n} ({then} again)");
        }
        self.targets.iter().for_each(|t| t.human(out));
        self.hooks.iter().for_each(|h| h.human(out));
    }

    /// What holds the mirror back, or makes what follows doubtful.
    fn troubles(&self, out: &mut String) {
        if !self.held.is_empty() {
            let _ = writeln!(out, "  HELD   {}", self.held);
            let _ = writeln!(out, "  next   {}", if self.ready { BRING_BACK } else { MAKE_SOURCE });
        }
        if !self.rsync_unsafe.is_empty() {
            let _ = writeln!(out, "  UNSAFE {}", self.rsync_unsafe);
        }
        if self.unanswered_seconds > 0.0 {
            let since = span(self.unanswered_seconds);
            let _ = writeln!(
                out,
                "  SILENT for {since}, it was as follows then: a call on its source or on state_dir does not return"
            );
        }
        if !self.state_unsaved.is_empty() {
            let since = span(self.state_unsaved_seconds);
            let _ = writeln!(out, "  STATE  not saved for {since}: {}", self.state_unsaved);
        }
        for place in &self.apart {
            let label = if place.held { "HELD" } else { "apart" };
            let _ = writeln!(out, "  {label:<6} {}: {}", place.path, place.why);
        }
    }

    /// How it started, and what it reads since.
    fn events(&self, out: &mut String) {
        if self.start.how != StartKind::Undecided {
            let _ = writeln!(out, "  start  {}", self.start.human());
        }
        // Nothing reads yet where the source is missing.
        if !self.reader.is_empty() {
            let _ = write!(out, "  events {} read by {}, {} outside or excluded", self.events, self.reader, self.foreign);
            if self.reader_pauses > 0 {
                let _ = write!(out, "; the reader waited {}", plural(self.reader_pauses, "time"));
            }
            out.push('\n');
        }
        if self.follow_open_files {
            let _ = writeln!(out, "  follow files are sent while they are open: {}", self.follow_why);
        }
        if self.muted_directories + self.muted_files + self.following > 0 {
            let _ = writeln!(
                out,
                "  muted  {} and {} outside or excluded; {} followed while open",
                plural(self.muted_directories, "directory"),
                plural(self.muted_files, "file"),
                plural(self.following, "file")
            );
        }
    }
}

impl Moved {
    fn human(&self, out: &mut String) {
        let (files, bytes) = (plural(self.files, "file"), ByteSize(self.bytes));
        let least = if self.more { "at least " } else { "" };
        let _ = write!(
            out,
            "  moved  {files} with {bytes} removed from the source; {least}{} waiting, {} in use or changed, {} different on a target",
            self.waiting, self.in_use, self.differing
        );
        if self.unremovable > 0 {
            let _ = write!(out, ", {} not removable (see the log)", self.unremovable);
        }
        out.push('\n');
    }
}

impl Watch {
    fn human(&self, out: &mut String) {
        let _ = write!(out, "  watch  {} on {} ({})", self.backend, self.mount, self.why);
        if self.backend == "inotify" {
            let _ = write!(out, ", {}", plural(self.watches, "watch"));
        }
        out.push('\n');
        for u in &self.unwatched {
            let _ = writeln!(out, "         not watched, compared periodically: {u}");
        }
        if !self.unreported.is_empty() {
            let _ = writeln!(out, "         not reported: {}", self.unreported);
        }
    }
}

impl Links {
    fn human(&self, out: &mut String) {
        let (files, names, walks) = (plural(self.files, "file"), plural(self.names, "name"), plural(self.walks, "time"));
        let _ = write!(out, "  links  {files} with {names}, looked for {walks}");
        let _ = match self.apart {
            0 => writeln!(out),
            n => writeln!(out, "; {n} with too many names to be linked"),
        };
    }
}

impl Target {
    fn human(&self, out: &mut String) {
        let _ = writeln!(out, "  target {}  {}", self.name, self.url);
        self.state_and_advice(out);
        if self.epoch > 0 {
            let aside = if self.keeps_aside { "; what only the target held is kept aside" } else { "" };
            let _ = writeln!(out, "    role    primary of epoch {}{aside}", self.epoch);
        }
        let lag = match self.lag_seconds > 0.0 {
            true => span(self.lag_seconds),
            false if self.waits_its_delay() => format!("none beyond the delay of {}", span(self.delay_seconds)),
            false => "none, in sync".into(),
        };
        let leaving = self.leaving().map(|leaving| format!(" {leaving}")).unwrap_or_default();
        let _ = writeln!(out, "    lag     {lag}; {} pending{leaving}, {} in flight", self.pending, self.in_flight);
        if self.latency.recent > 0 {
            let of = plural(self.latency.recent, "path");
            let (p50, p99) = (span(self.latency.p50_seconds), span(self.latency.p99_seconds));
            let _ = writeln!(out, "    latency p50 {p50}, p99 {p99} of the last {of}");
        }
        for (label, p) in self.reconcile.iter().map(|p| ("full", p)).chain(self.passes.iter().map(|p| ("pass", p))) {
            let _ = writeln!(out, "    {label}    {} for {}: {}", p.what, span(p.seconds), p.figures());
        }
        self.sent(out);
        if let Some(feed) = &self.feed {
            feed.human(out);
        }
        if let Some(at) = &self.position {
            let held = if at.sequence == 0 { "none known to be held".to_owned() } else { format!("held to {}", at.sequence) };
            let _ = writeln!(out, "    feed    read to record {}, {held}; reports as {}", at.read, at.follower);
        }
        if let Some(v) = &self.verify {
            v.human(out);
        }
        if !self.deletes_off.is_empty() {
            let _ = writeln!(out, "    deletes nothing: {}", self.deletes_off);
        }
        for weaker in &self.weaker {
            let _ = writeln!(out, "    weaker  {weaker}");
        }
        if !self.held_reason.is_empty() {
            let _ = writeln!(out, "    HELD    {}", self.held_reason);
        }
        self.failing_paths(out);
    }

    fn state_and_advice(&self, out: &mut String) {
        let _ = write!(out, "    state   {}", self.state);
        if !self.reason.is_empty() {
            let _ = write!(out, ": {}", self.reason);
        }
        if self.retry_seconds > 0.0 {
            let _ = write!(out, " (next try in {})", span(self.retry_seconds));
        } else if self.trying && self.tries > 0 {
            let _ = write!(out, " (try {} goes on)", self.tries + 1);
        }
        out.push('\n');
        if !self.advice.is_empty() {
            let _ = writeln!(out, "    next    {}", self.advice);
        }
    }

    /// What the runs carried over since the daemon's start, and the last batch of them.
    fn sent(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "    sent    {}, {} deleted, {} in {} ({} from standby)",
            plural(self.files_sent, "file"),
            self.deleted,
            ByteSize(self.bytes_sent),
            plural(self.runs, "run"),
            self.standby_hits
        );
        if self.renames + self.renames_sent_whole > 0 {
            let _ = writeln!(out, "    renames {} made on the target, {} sent whole", self.renames, self.renames_sent_whole);
        }
        if !self.last_batch.is_empty() {
            let _ = writeln!(out, "    last    {}", self.last_batch);
        }
        if !self.unknown_words.is_empty() {
            let _ = writeln!(out, "    unknown {} (not understood, so compared once more)", self.unknown_words);
        }
    }

    fn failing_paths(&self, out: &mut String) {
        for f in &self.failures {
            let _ = writeln!(
                out,
                "    FAILED  {} after {}, next in {}: {}",
                f.path,
                plural(f.tries.into(), "try"),
                span(f.retry_seconds),
                f.reason
            );
        }
        if self.failures_more > 0 {
            let _ = writeln!(out, "    FAILED  and {} more", self.failures_more);
        }
    }
}

impl Feed {
    /// Where it is, how many followers are in which state, and the slowest.
    fn human(&self, out: &mut String) {
        let bytes = ByteSize(self.record_bytes);
        let _ = writeln!(
            out,
            "    feed    at record {}; {} with {bytes} since the start",
            self.sequence,
            plural(self.records, "record")
        );
        let states: Vec<String> = self.states.iter().map(|(state, n)| format!("{n} {state}")).collect();
        let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
        let _ = writeln!(out, "    known   {}{states}", plural(self.followers_known, "follower"));
        let silent: Vec<&str> = self.followers.iter().filter(|f| f.state == "silent").map(|f| &*f.name).collect();
        if !silent.is_empty() {
            let more = silent.len().saturating_sub(SLOWEST);
            let more = if more > 0 { format!(", and {more} more") } else { String::new() };
            let _ = writeln!(out, "    silent  {}{more}", silent[..silent.len().min(SLOWEST)].join(", "));
        }
        let mut by: BTreeMap<String, u64> = BTreeMap::new();
        let anybody = |place: &'_ str| match place.split_once("://") {
            Some((_, rest)) => rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_owned(),
            None => place.to_owned(),
        };
        self.followers.iter().for_each(|f| *by.entry(anybody(&f.upstream)).or_default() += 1);
        for f in self.followers.iter().filter(|f| !f.serve.is_empty()).take(RELAYS) {
            let children = plural(by.get(&anybody(&f.serve)).copied().unwrap_or(0), "follower");
            let _ = writeln!(out, "    relay   {} {} at {}, pulled from by {children}", f.name, f.state, f.serve);
        }
        for f in self.followers.iter().filter(|f| f.failed > 0).take(SLOWEST) {
            let why = if f.state == "failing" && !f.reason.is_empty() { format!(": {}", f.reason) } else { String::new() };
            let _ = writeln!(out, "    FAILED  {} lacks {}{why}", f.name, plural(f.failed, "path"));
        }
        for f in self.followers.iter().filter(|f| f.behind > 0).take(SLOWEST) {
            let why = if f.reason.is_empty() { String::new() } else { format!(": {}", f.reason) };
            let lacks = plural(f.behind, "record");
            let _ = writeln!(out, "    behind  {} {}, lacks {lacks} for {}{why}", f.name, f.state, span(f.lag_seconds));
        }
    }
}

impl Hook {
    fn human(&self, out: &mut String) {
        let _ = writeln!(out, "  hook {}  {}", self.name, self.kind);
        let _ = write!(out, "    state   {}", self.state);
        if !self.reason.is_empty() {
            let _ = write!(out, ": {} (next try in {})", self.reason, span(self.retry_seconds));
        }
        let _ = write!(out, "\n    sent    {}; {} pending, {} in flight", self.delivered, self.pending, self.in_flight);
        if self.waiting > 0 {
            let _ = write!(out, ", {} wait for another target", self.waiting);
        }
        out.push('\n');
        if self.dropped > 0 {
            let _ = writeln!(out, "    LOST    {} that did not fit into the queue", plural(self.dropped, "change"));
        }
        for f in &self.failures {
            let next = if f.retry_seconds > 0.0 { format!("next in {}", span(f.retry_seconds)) } else { "given up".into() };
            let _ = writeln!(out, "    FAILED  {} after {}, {next}: {}", f.path, plural(f.tries.into(), "try"), f.reason);
        }
        if self.failures_more > 0 {
            let _ = writeln!(out, "    FAILED  and {} more", self.failures_more);
        }
    }
}
