//! `fansync flush --followers`: waits until followers report that they hold what the feeds held
//! when the flush was done.

use super::*;
use crate::cli::Followers;
use crate::control::{Flushed, Waiting};
use crate::status::{Feed, Follower, Snapshot};
use crate::text::plural;

/// How often followers are requested, and by how much less for each that is known.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const EACH: Duration = Duration::from_micros(20);

/// The feeds that are waited for: by mirror and target, where each was.
type Goals = Vec<(String, String, u64)>;

/// Waits until `deadline`. What is left then, as of targets that do not hold every change.
///
/// # Errors
/// The code to leave with.
pub(super) fn wait(args: &FlushArgs, which: &Followers, deadline: Instant) -> Result<Flushed, ExitCode> {
    let mut goals: Option<Goals> = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // The status lists only some of them.
        let snapshot = match ask(&args.whom, &Request::Followers, Duration::from_secs(10).max(left))? {
            Reply::Status(snapshot) => *snapshot,
            _ => return Err(ExitCode::Bug),
        };
        // Where the feeds are after the flush is what followers have to hold.
        let goals = goals.get_or_insert_with(|| goals_of(&snapshot, args));
        if goals.is_empty() {
            out::error("there is no feed among the targets: leave --followers out, or add a [[mirror.feed]]");
            return Err(ExitCode::Usage);
        }
        let lacking = missing(&snapshot, goals, which);
        // What failed again and again is tried again after a pause, without a wait for it.
        if left.is_zero() || lacking.iter().all(|lacks| lacks.failed) {
            return Ok(Flushed { waiting: lacking.into_iter().map(|lacks| lacks.waiting).collect() });
        }
        let known = feeds(&snapshot).map(|(.., feed)| feed.followers.len() as u32).sum();
        std::thread::sleep(POLL_INTERVAL.max(EACH.saturating_mul(known)).min(left));
    }
}

fn feeds(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &str, &Feed)> {
    let targets = snapshot.mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (&*m.name, &*t.name, t.feed.as_ref())));
    targets.filter_map(|(mirror, target, feed)| Some((mirror, target, feed?)))
}

fn goals_of(snapshot: &Snapshot, args: &FlushArgs) -> Goals {
    let chosen = |asked: &Option<String>, name: &str| asked.as_ref().is_none_or(|asked| asked == name);
    let chosen = feeds(snapshot).filter(|(m, t, _)| chosen(&args.mirror, m) && chosen(&args.target, t));
    chosen.map(|(m, t, feed)| (m.to_owned(), t.to_owned(), feed.sequence)).collect()
}

/// Who lacks something.
struct Lacks {
    waiting: Waiting,
    /// It is as far as it gets: it lacks what it could not pull.
    failed: bool,
}

impl From<Waiting> for Lacks {
    fn from(waiting: Waiting) -> Lacks {
        Lacks { waiting, failed: false }
    }
}

fn missing(snapshot: &Snapshot, goals: &Goals, which: &Followers) -> Vec<Lacks> {
    let mut out: Vec<Lacks> = Vec::new();
    for (mirror, target, goal) in goals {
        let place = format!("{mirror}/{target}");
        let Some((.., feed)) = feeds(snapshot).find(|(m, t, _)| m == mirror && t == target) else {
            out.push(Waiting { target: place, why: "the feed is gone".into(), unreachable: true }.into());
            continue;
        };
        let there = |f: &Follower| f.sequence >= *goal;
        let holds = |f: &&Follower| there(f) && f.failed == 0;
        let word = |f: &Follower| {
            let why = if f.reason.is_empty() { String::new() } else { format!(": {}", f.reason) };
            let failed = if f.failed > 0 { format!(", lacks {}", plural(f.failed, "path")) } else { String::new() };
            let why = format!("{}, at record {} of {goal}{failed}{why}", f.state, f.sequence);
            let unreachable = matches!(&*f.state, "silent" | "down");
            let waiting = Waiting { target: format!("{place} at {}", f.name), why, unreachable };
            Lacks { waiting, failed: there(f) }
        };
        match which {
            Followers::All if feed.followers.is_empty() => {
                out.push(Waiting { target: place, why: "no follower is known".into(), unreachable: true }.into());
            }
            Followers::All => out.extend(feed.followers.iter().filter(|f| !holds(f)).map(word)),
            Followers::Relays => {
                let mut relays = feed.followers.iter().filter(|f| !f.serve.is_empty()).peekable();
                if relays.peek().is_none() {
                    out.push(Waiting { target: place.clone(), why: "no relay is known".into(), unreachable: true }.into());
                }
                out.extend(relays.filter(|f| !holds(f)).map(word));
            }
            Followers::Count(count) => {
                let there = feed.followers.iter().filter(holds).count();
                if there < *count {
                    let why = format!("{there} of {count} followers hold it");
                    out.push(Waiting { target: place, why, unreachable: feed.followers.len() < *count }.into());
                }
            }
            Followers::Named(names) => {
                for name in names {
                    match feed.followers.iter().find(|f| f.name == *name) {
                        Some(f) if holds(&f) => {}
                        Some(f) => out.push(word(f)),
                        None => {
                            let why = "no follower of this name has reported anything".into();
                            out.push(Waiting { target: format!("{place} at {name}"), why, unreachable: true }.into());
                        }
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status;

    fn snapshot(followers: &[(&str, u64)]) -> Snapshot {
        let follower =
            |(name, sequence): &(&str, u64)| Follower { name: (*name).into(), sequence: *sequence, ..Follower::default() };
        let feed = Feed { sequence: 9, followers: followers.iter().map(follower).collect(), ..Feed::default() };
        let target = status::Target { name: "t".into(), feed: Some(feed), ..status::Target::default() };
        let mirror = status::Mirror { name: "m".into(), targets: vec![target], ..status::Mirror::default() };
        Snapshot { mirrors: vec![mirror], ..Snapshot::default() }
    }

    #[test]
    fn whoever_is_behind_is_named() {
        let two = snapshot(&[("a", 9), ("b", 8)]);
        let goals = vec![("m".to_owned(), "t".to_owned(), 9)];
        let names =
            |which: &Followers| missing(&two, &goals, which).into_iter().map(|lacks| lacks.waiting.target).collect::<Vec<_>>();
        assert_eq!(names(&Followers::All), ["m/t at b"]);
        assert_eq!(names(&Followers::Count(1)), Vec::<String>::new());
        assert_eq!(names(&Followers::Count(2)), ["m/t"]);
        assert_eq!(names(&Followers::Named(vec!["a".into(), "c".into()])), ["m/t at c"]);
        assert_eq!(missing(&snapshot(&[]), &goals, &Followers::All).len(), 1, "no follower is not every follower");
        assert_eq!(names(&Followers::Relays), ["m/t"], "no relay is known");
        let mut relays = snapshot(&[("a", 9), ("b", 8), ("c", 8)]);
        let feed = relays.mirrors[0].targets[0].feed.as_mut().unwrap();
        feed.followers.iter_mut().take(2).for_each(|f| f.serve = "rsync://r/m".into());
        let left = missing(&relays, &goals, &Followers::Relays).into_iter().map(|lacks| lacks.waiting.target).collect::<Vec<_>>();
        assert_eq!(left, ["m/t at b"]);
        assert_eq!(missing(&Snapshot::default(), &goals, &Followers::All).len(), 1);
    }

    #[test]
    fn who_could_not_pull_a_path_does_not_hold_everything() {
        let mut some = snapshot(&[("a", 9), ("b", 9), ("c", 8)]);
        let feed = some.mirrors[0].targets[0].feed.as_mut().unwrap();
        feed.followers[1].failed = 2;
        let goals = vec![("m".to_owned(), "t".to_owned(), 9)];
        let lacking = missing(&some, &goals, &Followers::All);
        let shown: Vec<(&str, bool)> = lacking.iter().map(|lacks| (&*lacks.waiting.target, lacks.failed)).collect();
        assert_eq!(shown, [("m/t at b", true), ("m/t at c", false)]);
        assert!(lacking[0].waiting.why.contains("lacks 2 paths"), "{}", lacking[0].waiting.why);
        assert_eq!(missing(&some, &goals, &Followers::Count(2)).len(), 1);
    }

    #[test]
    fn a_barrier_counts_followers_that_the_status_does_not_list() {
        let many = |name: String, state: &str, sequence| Follower { name, state: state.into(), sequence, ..Follower::default() };
        let silent = (0..1_500).map(|n| many(format!("silent-{n}"), status::SILENT, 9));
        let all: Vec<Follower> = silent.chain([many("behind".into(), "idle", 8)]).collect();
        let mut whole = snapshot(&[]);
        let feed = whole.mirrors[0].targets[0].feed.insert(Feed { sequence: 9, ..Feed::default() }.of(all));
        assert_eq!((feed.followers.len(), feed.followers_known), (1_000, 1_501));
        feed.list_all();
        feed.list_all();
        let sent = serde_json::to_string(&whole).unwrap();
        let read: Snapshot = serde_json::from_str(&sent).unwrap();
        let goals = vec![("m".to_owned(), "t".to_owned(), 9)];
        let names =
            |which: &Followers| missing(&read, &goals, which).into_iter().map(|lacks| lacks.waiting.target).collect::<Vec<_>>();
        assert_eq!(names(&Followers::All), ["m/t at behind"]);
        assert_eq!(names(&Followers::Count(1_500)), Vec::<String>::new());
        assert_eq!(names(&Followers::Count(1_501)), ["m/t"]);
        assert_eq!(names(&Followers::Named(vec!["silent-1499".into()])), Vec::<String>::new());
    }
}
