//! Stress: thousands of system calls of every kind by several processes, then quiet, then whole
//! trees have to be equal, with nothing held and no target down on the way.
//!
//! Unlike the torture test, nothing fails from outside: what is tried here is that every call is
//! noticed and carried ([`ops`]), also by a tool that was not written for it (fsstress of xfstests,
//! where it is installed). [`cases`] is the short form; [`long`] is `scripts/check/stress`, with
//! filesystems, backends, settings and length of choice.

mod ops;
mod round;
mod wish;

use std::process::ExitCode;

use crate::fixture::Case;
use crate::fixture::case;
use crate::fixture::fs::{ALL, Fs};

use ops::Act;
use round::{Judgement, Scene};
use wish::{Combination, Settings, Watch, Wish, Work};

/// The short form: few operations at a time, since the more there are, the more of them put right
/// what an earlier one left wrong.
const SHORT_ROUNDS: u64 = 8;
const SHORT: usize = 200;

pub fn cases() -> Vec<Case> {
    let short = |settings, watch| {
        move |fs| {
            let combination = Combination { fs, watch, settings, work: Work::Own, without: left_out(watch) };
            let mut scene = Scene::set(&combination)?;
            for round in 1..=SHORT_ROUNDS {
                if let Judgement::Fault(why) = scene.round(round, SHORT) {
                    panic!("round {round}: {why}");
                }
            }
            Ok(())
        }
    };
    vec![
        case("all_options", ALL, short(Settings::All, Watch::Fanotify)),
        case("defaults", &[Fs::Ext4, Fs::Btrfs], short(Settings::Defaults, Watch::Fanotify)),
        case("inotify", &[Fs::Xfs], short(Settings::Defaults, Watch::Inotify)),
    ]
}

/// What the short form leaves out: with inotify, which reports names only, writes to a file that
/// has lost the name it was opened by.
fn left_out(watch: Watch) -> Vec<Act> {
    match watch {
        Watch::Fanotify => Vec::new(),
        Watch::Inotify => vec![Act::Hold, Act::Nameless],
    }
}

/// The long form: every combination that was asked for, one line each, and what differs below it.
pub fn long(args: &[String]) -> ExitCode {
    let (wish, _arena) = match crate::fixture::long_form(Wish::read(args)) {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    println!("seed {}, {} operations a round", wish.seed, wish.operations);
    println!("{}", round::HEAD);
    let (mut faults, mut rounds) = (0, 0);
    for combination in wish.combinations() {
        let mut scene = match Scene::set(&combination) {
            Ok(scene) => scene,
            Err(skip) => {
                println!("{combination}  skipped: {}", skip.0);
                continue;
            }
        };
        for round in 1..=wish.rounds {
            let judgement = scene.round(wish.seed.wrapping_add(round), wish.operations);
            rounds += 1;
            println!("{combination} {round:>5}  {judgement}");
            if let Judgement::Fault(why) = judgement {
                faults += 1;
                match scene.keep(&why) {
                    Ok(kept) => println!("  trees, log and status are kept in {}", kept.display()),
                    Err(e) => println!("  the trees could not be kept: {e}\n{}", scene.report()),
                }
                break;
            }
        }
    }
    println!("{rounds} rounds, {faults} with a fault");
    if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
