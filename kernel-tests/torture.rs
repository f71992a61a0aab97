//! Torture: everything at once, at full speed, by two threads, on a small name space, while a
//! target hangs, falls and rises and the daemon is killed; and then whole trees have to be equal in
//! every attribute.
//!
//! [`cases`] is the short form, with fixed seeds: about 60,000 operations on each filesystem.
//! [`soak`] is the long form, with a seed and a duration of choice (`scripts/check/soak`).

mod ops;
mod storm;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::{Case, Run, Setup, Skip, case};

use ops::Mood;
use storm::{Differs, World};

pub fn cases() -> Vec<Case> {
    vec![
        case("seed_1", ALL, |fs| play(Setup::new(fs), 1)),
        case("seed_2_inotify", &[Fs::Tmpfs], |fs| play(Setup::new(fs).watch("inotify"), 2)),
    ]
}

fn play(setup: Setup, seed: u64) -> Run<()> {
    let mut world = storm::setup(setup, seed)?;
    if let Err(Differs(text)) = world.storm(Mood::Moves, storm::STEPS) {
        panic!("{text}");
    }
    for force in storm::FORCES {
        for mood in [Mood::Any, Mood::Crash] {
            if let Err(Differs(text)) = world.storm(mood, force) {
                panic!("{text}");
            }
        }
    }
    Ok(())
}

/// The long form: storms until the time is over or something differs.
///
/// `args`: `DURATION [--seed N] [--fs NAME] [--watch NAME] [--moves] [--hard-links]`. One line for
/// each storm goes to standard output.
pub fn soak(args: &[String]) -> ExitCode {
    let (wish, _arena) = match crate::fixture::long_form(Wish::read(args)) {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    let links = if wish.hard_links { ", hard_links" } else { "" };
    let duration = humantime::format_duration(wish.duration);
    println!("seed {}, {}, watch {}{links}, {duration}", wish.seed, wish.fs.name(), wish.watch);
    let setup = Setup::new(wish.fs).watch(&wish.watch);
    let setup = if wish.hard_links { setup.carrying(&["hard_links"]) } else { setup };
    match storm::setup(setup, wish.seed) {
        Ok(world) => weather(world, wish.duration, wish.moves),
        Err(Skip(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(69)
        }
    }
}

fn weather(mut world: World, duration: Duration, moves: bool) -> ExitCode {
    let begun = Instant::now();
    let (mut cycle, mut total) = (0, 0);
    while begun.elapsed() < duration {
        cycle += 1;
        let mood = if moves { Mood::Moves } else { [Mood::Crash, Mood::Any, Mood::Moves, Mood::Any][cycle % 4] };
        let force = if mood == Mood::Moves { storm::STEPS } else { storm::FORCES[(cycle + cycle / 4) % storm::FORCES.len()] };
        let tally = match world.storm(mood, force) {
            Ok(tally) => tally,
            Err(differs) => {
                println!("{}", differs.0);
                match world.keep(&differs) {
                    Ok(kept) => println!("trees, log and status are kept in {}", kept.display()),
                    Err(e) => println!("{}\nthe trees could not be kept: {e}", world.mirror.daemon.report()),
                }
                return ExitCode::FAILURE;
            }
        };
        total += tally.operations;
        let mirror = world.mirror.daemon.status().mirrors.remove(0);
        println!(
            "{:7.1} s  cycle {cycle:4}  {mood:5?}  {:5} ops  {:6.0} ops/s  lag {:5.0} ms  rss {:5.1} MiB  runs {}",
            begun.elapsed().as_secs_f64(),
            tally.operations,
            tally.operations as f64 / tally.took.as_secs_f64(),
            tally.lag.as_secs_f64() * 1e3,
            world.mirror.daemon.rss() as f64 / (1 << 20) as f64,
            mirror
                .targets
                .iter()
                .map(|t| format!("{} {} ({} renames)", t.name, t.runs, t.renames))
                .collect::<Vec<_>>()
                .join(", "),
        );
    }
    println!("{cycle} cycles, {total} operations, no difference");
    ExitCode::SUCCESS
}

/// What the long form is asked for.
struct Wish {
    duration: Duration,
    seed: u64,
    fs: Fs,
    watch: String,
    /// Only storms that are mostly renames.
    moves: bool,
    /// Names of one file stay names of one file on the targets.
    hard_links: bool,
}

impl Wish {
    fn read(args: &[String]) -> Result<Wish, String> {
        let (duration, seed) = (Duration::from_secs(600), fastrand::u64(..1 << 32));
        let mut wish = Wish { duration, seed, fs: Fs::Ext4, watch: "auto".into(), moves: false, hard_links: false };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--moves" => wish.moves = true,
                "--hard-links" => wish.hard_links = true,
                "--seed" => wish.seed = value()?.parse().map_err(|e| format!("--seed: {e}"))?,
                "--fs" => {
                    let name = value()?;
                    let known = ALL.iter().find(|fs| fs.name() == name);
                    wish.fs = *known.ok_or(format!("--fs: {name} is none of ext4, xfs, btrfs, tmpfs"))?;
                }
                "--watch" => match value()?.as_str() {
                    known @ ("auto" | "fanotify" | "inotify") => wish.watch = known.into(),
                    other => return Err(format!("--watch: {other} is none of auto, fanotify, inotify")),
                },
                duration => {
                    wish.duration =
                        humantime::parse_duration(duration).map_err(|e| format!("{duration:?} is no duration: {e}"))?;
                }
            }
        }
        Ok(wish)
    }
}
