//! Copying towards us: rsync's words for each kind of run, and what its end means.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::{Mirror, Target};
use crate::dirty::Kind;
use crate::feed::machine::{Complaint, End, Work};
use crate::feed::mark;
use crate::feed::pending::Trust;
use crate::location::{Location, whole_seconds};
use crate::path::RelPath;
use crate::sync::argv::{self, Compare, ITEMS, Peer, receiver_only};
use crate::sync::dialect::Dialect;
use crate::sync::filelist::{self, Form};
use crate::sync::outcome::{Outcome, Verdict};
use crate::sync::output::Names;

/// One line with the bytes on the wire.
const STATS: &str = "--info=stats1";

/// What a run copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) pass: Pass,
    /// Which files are taken for equal.
    pub(crate) compare: Compare,
    /// Something may be deleted.
    pub(crate) deletes: bool,
    /// At most so many entries are.
    pub(crate) max_delete: Option<u64>,
    /// Nothing is changed.
    pub(crate) dry: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Listed paths.
    Listed,
    /// Listed paths, some of them directories one level deep.
    OneLevel,
    /// Listed directories with all below them.
    Deep,
    Whole,
}

/// The words for a run from the upstream of `mirror` into its directory, the program first.
pub(crate) fn words(mirror: &Mirror, upstream: &Target, manner: Manner) -> Vec<OsString> {
    let Manner { pass, compare, deletes, max_delete, dry } = manner;
    let mut args: Vec<OsString> = vec![mirror.rsync.clone().into(), "-lptgoD".into()];
    let mut add = |arg: &str| args.push(arg.into());
    if matches!(pass, Pass::Deep | Pass::Whole) {
        add("-r");
    }
    argv::attributes(mirror.extras, Dialect::Current).into_iter().for_each(&mut add);
    add("--numeric-ids");
    if pass != Pass::Whole {
        add("--from0");
        add("--files-from=-");
        // What is missing is deleted only where a record says that it is gone: a directory that is
        // not the source must not delete anything.
        add(if deletes { "--delete-missing-args" } else { "--ignore-missing-args" });
    }
    let rules = mirror.filter.rsync_args();
    let follow = mirror.follow.as_ref();
    let relays = follow.is_some_and(|follow| follow.serve.is_some());
    if pass != Pass::Listed {
        add(&format!("--filter=- /{}/", mark::RELAY));
        if relays && pass == Pass::Whole {
            // It comes when all is there.
            add(&format!("--filter=- /{}", mark::FILE));
        }
    }
    if deletes {
        if pass != Pass::Listed || !rules.is_empty() {
            add("--delete");
        }
        add("--force");
        if let Some(most) = max_delete {
            add(&format!("--max-delete={most}"));
        }
    } else {
        // A directory in the place of a file is a matter of the record, too.
        add("--force");
    }
    if dry {
        add("-n");
    }
    add("--modify-window=-1");
    match compare {
        Compare::Quick => {}
        Compare::Resend => add("--ignore-times"),
        Compare::Checksum => add("--checksum"),
    }
    match pass {
        Pass::Listed => args.extend(rules.iter().map(|rule| receiver_only(rule))),
        Pass::OneLevel | Pass::Deep | Pass::Whole => args.extend(rules),
    }
    if relays {
        // Followers must not copy what is half copied.
        let mut dir = OsString::from("--temp-dir=");
        dir.push(mirror.source.join(mark::RELAY));
        args.push(dir);
    }
    args.extend(wire(upstream));
    args.push(ITEMS.into());
    args.push(STATS.into());
    args.push("--".into());
    args.push(below(&upstream.location, b"/"));
    let mut here = mirror.source.clone().into_os_string();
    here.push("/.");
    args.push(here);
    args
}

/// The same, with what a comparison shows of its progress.
pub(crate) fn comparing_words(mirror: &Mirror, upstream: &Target, manner: Manner) -> Vec<OsString> {
    let mut args = words(mirror, upstream, manner);
    if let Some(at) = args.iter().position(|arg| arg == STATS).filter(|_| manner.pass == Pass::Whole) {
        args.splice(at..=at, ["--no-inc-recursive".into(), "--info=flist2,progress2,stats1".into()]);
    }
    args
}

/// The words for the run that copies the upstream's mark into `dir`, and its name if it is a relay.
pub(crate) fn mark_words(mirror: &Mirror, upstream: &Target, dir: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![mirror.rsync.clone().into()];
    args.push(format!("--max-size={}", mark::MAX_BYTES).into());
    args.push("--ignore-times".into());
    // A source has no name of a relay.
    args.push("--ignore-missing-args".into());
    args.extend(wire(upstream));
    args.push("--".into());
    for file in [mark::FILE, mark::RELAY_NAME] {
        args.push(below(&upstream.location, format!("/{file}").as_bytes()));
    }
    let mut here = dir.as_os_str().to_owned();
    here.push("/.");
    args.push(here);
    args
}

fn below(location: &Location, path: &[u8]) -> OsString {
    let mut out = location.dest_below(b"");
    out.push(OsStr::from_bytes(path));
    out
}

fn wire(upstream: &Target) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    if let Some(choice) = upstream.compress.choice() {
        out.extend(["-z".into(), format!("--compress-choice={choice}").into()]);
    }
    out.push(format!("--timeout={}", whole_seconds(upstream.timeout)).into());
    out.extend(Peer::of(upstream).transport().into_iter().map(OsString::from));
    out
}

/// How the messages of such a run name paths: what the sender writes is below the upstream's place.
pub(crate) fn names(mirror: &Mirror, upstream: &Target) -> Names {
    let there = match &upstream.location {
        Location::Daemon { path, .. } => format!("/{path}"),
        Location::Ssh { path, .. } => path.clone(),
        Location::Local(path) => path.to_string_lossy().into_owned(),
        Location::Feed { .. } => String::new(),
    };
    Names::new(Path::new(&there), &Location::Local(mirror.source.clone()))
}

/// The list of a work, and the paths that cannot be listed.
pub(crate) fn list(paths: &[(RelPath, Kind)]) -> (Vec<u8>, Pass, Vec<RelPath>) {
    // A root by itself would be entered. Its attributes travel with any list, so with one that
    // names nothing there is.
    let nothing = RelPath::from_normal(".probe-0000000000000000");
    let form = |path: &RelPath, kind: Kind| match kind {
        Kind::Contents => (path.clone(), Form::OneLevel),
        Kind::Entry if path.is_root() => (nothing.clone(), Form::Plain),
        _ => (path.clone(), Form::Plain),
    };
    let listed: Vec<(RelPath, Form)> = paths.iter().map(|(path, kind)| form(path, *kind)).collect();
    let encoded = filelist::encode(listed.iter().map(|(path, form)| (path, *form)));
    let pass = match () {
        () if paths.iter().any(|(_, kind)| *kind == Kind::Subtree) => Pass::Deep,
        () if paths.iter().any(|(_, kind)| *kind == Kind::Contents) => Pass::OneLevel,
        () => Pass::Listed,
    };
    (encoded.bytes, pass, encoded.refused.into_iter().map(|(path, _)| path).collect())
}

/// In which manner a work is carried out, and its list; paths that cannot be listed apart.
pub(crate) fn manner(work: &Work, max_delete: Option<u64>) -> (Manner, Vec<u8>, Vec<RelPath>) {
    match work {
        Work::Whole => {
            let manner = Manner { pass: Pass::Whole, compare: Compare::Quick, deletes: true, max_delete, dry: false };
            (manner, Vec::new(), Vec::new())
        }
        // It is applied, and has no list.
        Work::Batch { .. } => {
            let manner = Manner { pass: Pass::Listed, compare: Compare::Resend, deletes: false, max_delete, dry: false };
            (manner, Vec::new(), Vec::new())
        }
        Work::List { trust, paths, deletes, .. } => {
            let (bytes, pass, refused) = list(paths);
            let compare = match trust {
                Trust::SizeAndTimes => Compare::Quick,
                Trust::Nothing => Compare::Resend,
                Trust::Content => Compare::Checksum,
            };
            (Manner { pass, compare, deletes: *deletes, max_delete, dry: false }, bytes, refused)
        }
    }
}

/// What a run's end means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// For its paths.
    Ended(End),
    /// The bound on deletions stopped it.
    DeletesHeld(String),
    /// The upstream cannot be pulled from; whether the configuration is to blame.
    Away { config: bool, why: String },
}

pub(crate) fn judge(outcome: &Outcome) -> Judged {
    match &outcome.verdict {
        Verdict::Done => Judged::Ended(End::Done),
        // Where there is no room here, the file that does not fit must not keep the others away.
        Verdict::Partial | Verdict::Unproven | Verdict::SourceRace | Verdict::TargetFull => {
            let absent =
                |words: &str| ["No such file or directory", "Not a directory", "vanished"].iter().any(|w| words.contains(w));
            let complaints = outcome.failed.iter().map(|failed| Complaint {
                path: failed.path.clone(),
                absent: absent(&failed.words),
                words: failed.words.clone(),
            });
            let complaints: Vec<Complaint> = complaints.collect();
            // A run that finds no room ends there.
            let all = outcome.failed_more == 0 && outcome.verdict != Verdict::TargetFull;
            let complete = all && !complaints.is_empty();
            Judged::Ended(End::Partly { complaints, complete })
        }
        Verdict::DeletesHeld => Judged::DeletesHeld(outcome.reason.clone()),
        // The sender's root is the upstream's.
        Verdict::SourceRoot => {
            Judged::Away { config: false, why: format!("the upstream has no such directory: {}", outcome.reason) }
        }
        Verdict::TargetMissing => Judged::Away { config: false, why: "the directory is not there".into() },
        Verdict::Config | Verdict::Refused { .. } => Judged::Away { config: true, why: outcome.reason.clone() },
        _ => Judged::Away { config: false, why: outcome.reason.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::filter::Filter;

    fn mirror() -> Mirror {
        let given = crate::config::Following::default();
        let config = Config::for_follow("nats://hub/web", "rsync://m@hub/web", Path::new("/srv/web"), given).unwrap();
        config.mirrors.into_iter().next().unwrap()
    }

    fn shown(mirror: &Mirror, manner: Manner) -> Vec<String> {
        words(mirror, &mirror.targets[0], manner).iter().map(|w| w.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_run_deletes_only_what_a_record_says_is_gone() {
        let manner = Manner { pass: Pass::Listed, compare: Compare::Resend, deletes: false, max_delete: Some(5), dry: false };
        let plain = shown(&mirror(), manner);
        assert!(plain.iter().any(|w| w == "--ignore-missing-args") && plain.iter().any(|w| w == "--ignore-times"));
        assert!(!plain.iter().any(|w| w.starts_with("--delete") || w.starts_with("--max-delete")), "{plain:?}");
        assert_eq!(plain[plain.len() - 3..], ["--", "rsync://m@hub/web/", "/srv/web/."]);
        let gone = shown(&mirror(), Manner { deletes: true, ..manner });
        assert!(gone.iter().any(|w| w == "--delete-missing-args") && gone.iter().any(|w| w == "--max-delete=5"));
        assert!(!gone.iter().any(|w| w == "--delete"), "{gone:?}");
        let whole = shown(&mirror(), Manner { pass: Pass::Whole, deletes: true, dry: true, ..manner });
        assert!(whole.iter().any(|w| w == "-r") && whole.iter().any(|w| w == "--delete") && whole.iter().any(|w| w == "-n"));
        assert!(!whole.iter().any(|w| w.contains("missing-args") || w.contains("files-from")), "{whole:?}");
    }

    #[test]
    fn what_a_follower_leaves_out_is_not_deleted() {
        let mut mirror = mirror();
        mirror.filter = Filter::new::<&str, _>(&[], &["/cache/"]).unwrap();
        let manner = Manner { pass: Pass::Listed, compare: Compare::Quick, deletes: true, max_delete: None, dry: false };
        let listed = shown(&mirror, manner);
        assert!(listed.iter().any(|w| w == "--filter=-r /cache/") && listed.iter().any(|w| w == "--delete"), "{listed:?}");
        let deep = shown(&mirror, Manner { pass: Pass::Deep, ..manner });
        assert!(deep.iter().any(|w| w == "--filter=- /cache/"), "{deep:?}");
    }

    #[test]
    fn a_relay_serves_nothing_that_is_half_copied() {
        let manner = Manner { pass: Pass::Whole, compare: Compare::Quick, deletes: true, max_delete: None, dry: false };
        let mut mirror = mirror();
        let plain = shown(&mirror, manner);
        assert!(plain.iter().any(|w| w == "--filter=- /.fansync/relay/"), "{plain:?}");
        assert!(!plain.iter().any(|w| w.starts_with("--temp-dir") || w == "--filter=- /.fansync/feed"), "{plain:?}");
        let serve = Location::parse("rsync://relay/web").unwrap();
        mirror.follow.as_mut().unwrap().serve = Some(serve);
        let whole = shown(&mirror, manner);
        for word in ["--temp-dir=/srv/web/.fansync/relay", "--filter=- /.fansync/relay/", "--filter=- /.fansync/feed"] {
            assert!(whole.iter().any(|w| w == word), "{word}: {whole:?}");
        }
        let listed = shown(&mirror, Manner { pass: Pass::Listed, ..manner });
        assert!(listed.iter().any(|w| w.starts_with("--temp-dir")) && !listed.iter().any(|w| w.starts_with("--filter")));
    }

    #[test]
    fn a_list_has_the_form_of_its_paths() {
        let path = |text: &str| RelPath::new(text.as_bytes()).unwrap();
        let (bytes, pass, refused) = list(&[(path("a"), Kind::Entry), (path("d"), Kind::Contents)]);
        assert_eq!((bytes.as_slice(), pass, refused), (&b"./a\0./d/\0"[..], Pass::OneLevel, vec![]));
        assert_eq!(list(&[(path("d"), Kind::Subtree)]).1, Pass::Deep);
        let (bytes, pass, _) = list(&[(path(""), Kind::Entry)]);
        assert!(bytes.starts_with(b"./.probe-") && pass == Pass::Listed, "the root by itself is not entered");
        assert_eq!(list(&[(path(&"x/".repeat(3_000)), Kind::Entry)]).2.len(), 1);
    }

    #[test]
    fn the_end_of_a_run() {
        let outcome = |verdict: Verdict| Outcome { verdict, ..Outcome::unknown("why".into()) };
        assert_eq!(judge(&outcome(Verdict::Done)), Judged::Ended(End::Done));
        assert_eq!(judge(&outcome(Verdict::DeletesHeld)), Judged::DeletesHeld("why".into()));
        let nothing = End::Partly { complaints: Vec::new(), complete: false };
        assert_eq!(judge(&outcome(Verdict::SourceRace)), Judged::Ended(nothing), "which paths it is about is not known");
        for (verdict, config) in [(Verdict::TargetDown, false), (Verdict::Config, true), (Verdict::SourceRoot, false)] {
            assert!(matches!(judge(&outcome(verdict)), Judged::Away { config: c, .. } if c == config));
        }
    }
}
