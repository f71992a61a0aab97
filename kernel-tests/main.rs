//! Tests that need root and a real kernel: the `fansync` binary, real filesystems, real rsync.
//!
//! Each case runs on a fresh filesystem of every kind it names; `ext4::renames::chain` is one test.
//! Names are filtered as with `cargo test`, four tests run at a time. Where the machine lacks
//! something, the test is skipped, and the end of the run says so aloud; with
//! `FANSYNC_TEST_STRICT=1` a skip is a failure. `FANSYNC_TEST_LOG` is the daemon's log level,
//! `FANSYNC_TEST_BINARY` another binary to test, `FANSYNC_TEST_RSYNCD` another rsync for the
//! daemons that are mirrored to, `FANSYNC_TEST_TIMES=1` lists the slowest tests,
//! `FANSYNC_TEST_OLD_RSYNC` an old rsync (3.1.2) in the place of one that only answers as it would,
//! `FANSYNC_TEST_FLOOD` is how many entries of each kind the hostile flood makes. With `--soak` as
//! its first argument the binary runs the long form of the torture test instead
//! (`scripts/check/soak`), with `--stress` that of the stress test (`scripts/check/stress`), with
//! `--facts` it tells what the kernel offers (`scripts/vm/kernels`).

mod backups;
mod below;
mod bursts;
mod byhandle;
mod cli;
mod commands;
mod connect;
mod damaged;
mod delete;
mod dirtimes;
mod emptied;
mod events;
mod exchanges;
mod exported;
mod expressions;
mod facts;
mod fail_log;
mod failover;
mod fallback;
mod feed;
mod filters;
mod first;
mod fixture;
mod follow;
mod foreign;
mod frozen;
mod history;
mod holds;
mod hooks;
mod hostile;
mod identity;
mod idle;
mod kernels;
mod lanes;
mod lifecycle;
mod limits;
mod links;
mod looking;
mod losses;
mod lsyncd;
mod manager;
mod mapped;
mod monitoring;
mod mounts;
mod moving;
mod muting;
mod names;
mod older;
mod options;
mod order;
mod orphans;
mod outages;
mod output;
mod outside;
mod privilege;
mod progress;
mod races;
mod recount;
mod reload;
mod remounts;
mod renames;
mod restart;
mod rewrite;
mod roles;
mod schedule;
mod sersync;
mod snapshots;
mod specials;
mod steering;
mod strays;
mod stress;
mod switches;
mod targets;
mod terminal;
mod torture;
mod trust;
mod types;
mod unopened;
mod unread;
mod verify;
mod words;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sched::{CloneFlags, unshare};

use fixture::fs::Fs;
use fixture::{Case, Run, Skip};

/// The most tests at a time: each is a daemon, an rsync daemon and several rsync processes.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--soak") {
        return torture::soak(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--stress") {
        return stress::long(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--facts") {
        return facts::print();
    }
    if words.first().is_some_and(|word| word == "--confined") {
        return failover::front::confined(&words[1..]);
    }
    let mut args = Arguments::from_args();
    args.test_threads = Some(args.test_threads.map_or(MOST_THREADS, |n| n.min(MOST_THREADS)));
    let strict = std::env::var_os("FANSYNC_TEST_STRICT").is_some_and(|v| v == "1");
    // Listing needs no ground to stand on.
    let entered = if args.list { Err("only listing".to_string()) } else { fixture::fs::enter() };
    let missing = entered.as_ref().err().cloned();
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" ({l})")).unwrap_or_default();
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic without words");
        PANIC.with_borrow_mut(|panic| *panic = format!("{text}{place}\n"));
    }));

    let spent = Arc::new(Mutex::new(Vec::new()));
    let skipped = Arc::new(Mutex::new(Vec::new()));
    let mut trials = Vec::new();
    for (subject, cases) in subjects() {
        for case in cases {
            let case = Arc::new(case);
            for &fs in case.on {
                let name = format!("{}::{subject}::{}", fs.name(), case.name);
                let (case, missing, shown) = (case.clone(), missing.clone(), name.clone());
                let (skipped, spent) = (skipped.clone(), spent.clone());
                trials.push(Trial::ignorable_test(name, move || {
                    let begun = Instant::now();
                    own_descriptors();
                    let result = match missing {
                        Some(why) => Ok(Err(Skip(why))),
                        None => run(&case, fs),
                    };
                    spent.lock().expect("no holder panics").push((begun.elapsed(), shown.clone()));
                    match result? {
                        Ok(()) => Ok(Completion::Completed),
                        Err(Skip(why)) if strict => Err(Failed::from(format!("skipped, which strict runs forbid: {why}"))),
                        Err(Skip(why)) => {
                            skipped.lock().expect("no holder panics").push(format!("{shown}: {why}"));
                            Ok(Completion::ignored_with(why))
                        }
                    }
                }));
            }
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    drop(entered);
    print_skips(&skipped.lock().expect("no holder panics"), missing.as_deref());
    if std::env::var_os("FANSYNC_TEST_TIMES").is_some() {
        print_times(&mut spent.lock().expect("no holder panics"));
    }
    conclusion.exit_code()
}

/// Gives this thread, and those that it starts, a table of descriptors of their own. A child holds
/// a copy of its parent's table from fork to exec: a file that one test closes would stay open, and
/// its event come late, as long as a child that another test starts has not called exec.
fn own_descriptors() {
    unshare(CloneFlags::CLONE_FILES).expect("a thread can have its own table of descriptors");
}

fn subjects() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("dirtimes", dirtimes::cases()),
        ("emptied", emptied::cases()),
        ("events", events::cases()),
        ("renames", renames::cases()),
        ("rewrite", rewrite::cases()),
        ("types", types::cases()),
        ("races", races::cases()),
        ("recount", recount::cases()),
        ("identity", identity::cases()),
        ("backups", backups::cases()),
        ("kernels", kernels::cases()),
        ("lanes", lanes::cases()),
        ("moving", moving::cases()),
        ("limits", limits::cases()),
        ("links", links::cases()),
        ("names", names::cases()),
        ("below", below::cases()),
        ("bursts", bursts::cases()),
        ("byhandle", byhandle::cases()),
        ("filters", filters::cases()),
        ("failover", failover::cases()),
        ("roles", roles::cases()),
        ("follow", follow::cases()),
        ("exported", exported::cases()),
        ("foreign", foreign::cases()),
        ("snapshots", snapshots::cases()),
        ("specials", specials::cases()),
        ("muting", muting::cases()),
        ("expressions", expressions::cases()),
        ("switches", switches::cases()),
        ("schedule", schedule::cases()),
        ("delete", delete::cases()),
        ("fail_log", fail_log::cases()),
        ("sersync", sersync::cases()),
        ("targets", targets::cases()),
        ("order", order::cases()),
        ("orphans", orphans::cases()),
        ("outages", outages::cases()),
        ("output", output::cases()),
        ("outside", outside::cases()),
        ("fallback", fallback::cases()),
        ("feed", feed::cases()),
        ("losses", losses::cases()),
        ("lsyncd", lsyncd::cases()),
        ("looking", looking::cases()),
        ("mapped", mapped::cases()),
        ("monitoring", monitoring::cases()),
        ("privilege", privilege::cases()),
        ("trust", trust::cases()),
        ("progress", progress::cases()),
        ("cli", cli::cases()),
        ("commands", commands::cases()),
        ("connect", connect::cases()),
        ("terminal", terminal::cases()),
        ("lifecycle", lifecycle::cases()),
        ("manager", manager::cases()),
        ("reload", reload::cases()),
        ("holds", holds::cases()),
        ("hostile", hostile::cases()),
        ("mounts", mounts::cases()),
        ("remounts", remounts::cases()),
        ("idle", idle::cases()),
        ("first", first::cases()),
        ("steering", steering::cases()),
        ("verify", verify::cases()),
        ("words", words::cases()),
        ("older", older::cases()),
        ("options", options::cases()),
        ("unread", unread::cases()),
        ("damaged", damaged::cases()),
        ("unopened", unopened::cases()),
        ("restart", restart::cases()),
        ("history", history::cases()),
        ("frozen", frozen::cases()),
        ("hooks", hooks::cases()),
        ("exchanges", exchanges::cases()),
        ("strays", strays::cases()),
        ("stress", stress::cases()),
        ("torture", torture::cases()),
    ]
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a case; a panic becomes a failure that carries what the daemon and the trees had to say.
fn run(case: &Case, fs: Fs) -> Result<Run<()>, Failed> {
    catch_unwind(AssertUnwindSafe(|| (case.run)(fs)))
        .map_err(|_| Failed::from(format!("{}{}", PANIC.take(), fixture::take_report())))
}

fn print_times(spent: &mut [(Duration, String)]) {
    spent.sort();
    for (time, name) in spent.iter().rev().take(25) {
        eprintln!("{:7.2} s  {name}", time.as_secs_f64());
    }
}

fn print_skips(skipped: &[String], missing: Option<&str>) {
    match (skipped, missing) {
        ([], _) => {}
        (all, Some(why)) => eprintln!("WARNING: all {} kernel tests were SKIPPED: {why}", all.len()),
        (some, None) => eprintln!("WARNING: {} kernel tests were SKIPPED:\n  {}", some.len(), some.join("\n  ")),
    }
}

/// Runs a test on a thread of its own: one that takes away from itself what does not come back.
fn on_a_thread(run: impl FnOnce() -> Run<()> + Send) -> Run<()> {
    let kept = || {
        own_descriptors();
        catch_unwind(AssertUnwindSafe(run)).map_err(|_| format!("{}{}", PANIC.take(), fixture::take_report()))
    };
    let ended = std::thread::scope(|scope| scope.spawn(kept).join());
    ended.unwrap_or_else(|_| Err("its thread ended".into())).unwrap_or_else(|text| panic!("{text}"))
}
