//! Runs the fuzz targets without cargo-fuzz: seeds are changed at random, byte by byte, piece by
//! piece and word by word, for so long each, two at a time or as many as there are processors.
//!
//!   cargo test --test fuzz                                        two seconds each
//!   FANSYNC_FUZZ_SECONDS=60 cargo test --test fuzz -- [TARGET…]   those that are named, 60 s each
//!
//! An input that panics is printed in hexadecimal and ends the run. `FANSYNC_FUZZ_SEED` repeats a
//! run.

mod bodies;

use std::num::NonZero;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Inputs between two looks at the clock.
const AT_A_TIME: u32 = 16;
const MOST_BYTES: usize = 16 * 1024;
/// Words that parsers know.
const WORDS: [&[u8]; 22] = [
    b"\"",
    b"\\",
    b"\n",
    b"\r",
    b"\0",
    b" -> ",
    b" (in m)",
    b"\\#033",
    b"[[",
    b"]]",
    b" = ",
    b"<",
    b"/>",
    b"&#x1;",
    b"..",
    b"//",
    b"***",
    b"{\"",
    b"18446744073709551615",
    b"-1",
    b"\x1b[2J",
    b"\xff\xfe",
];

/// Whether a byte is part of a word.
fn in_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | 128..)
}

/// The words of the seeds: what a parser looks for, as a rule.
fn words(seeds: &[Vec<u8>]) -> Vec<&[u8]> {
    let all = seeds.iter().flat_map(|seed| seed.split(|b| !in_word(b)));
    let mut words: Vec<&[u8]> = all.filter(|word| (1..=64).contains(&word.len())).collect();
    words.sort_unstable();
    words.dedup();
    words.extend(WORDS);
    words
}

/// The word at a place.
fn word_at(text: &[u8], at: usize) -> std::ops::Range<usize> {
    let begin = at - text[..at].iter().rev().take_while(|b| in_word(b)).count();
    begin..at + text[at..].iter().take_while(|b| in_word(b)).count()
}

fn change(random: &mut fastrand::Rng, seeds: &[Vec<u8>], words: &[&[u8]], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&seeds[random.usize(..seeds.len())]);
    for _ in 0..=random.usize(..8) {
        let at = random.usize(..=out.len());
        let end = (at + random.usize(..16)).min(out.len());
        match random.u8(..10) {
            0 if at < out.len() => out[at] ^= 1 << random.u8(..8),
            1 if at < out.len() => out[at] = random.u8(..),
            2 => drop(out.drain(at..end)),
            3 => {
                let piece = out[at..end].to_vec();
                let to = random.usize(..=out.len());
                out.splice(to..to, piece);
            }
            4 => drop(out.splice(at..at, words[random.usize(..words.len())].iter().copied())),
            8 => drop(out.splice(word_at(out, at), words[random.usize(..words.len())].iter().copied())),
            9 => {
                // A line again, elsewhere.
                let line = out[..at].iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
                let end = out[at..].iter().position(|&b| b == b'\n').map_or(out.len(), |n| at + n + 1);
                let line = out[line..end].to_vec();
                let to = random.usize(..=out.len());
                out.splice(to..to, line);
            }
            5 => out.truncate(at),
            6 => {
                let other = &seeds[random.usize(..seeds.len())];
                let from = random.usize(..=other.len());
                out.splice(at.., other[from..].iter().copied());
            }
            _ => {
                for byte in &mut out[at..end] {
                    *byte = byte.wrapping_add(random.u8(..3)).wrapping_sub(1);
                }
            }
        }
    }
    out.truncate(MOST_BYTES);
}

/// Feeds one target; whether it held.
fn run(target: &bodies::Target, time: Duration, seed: u64) -> bool {
    let mut random = fastrand::Rng::with_seed(seed);
    let seeds = (target.seeds)();
    let words = words(&seeds);
    let (mut input, mut count, begun) = (Vec::new(), 0u64, Instant::now());
    let mut broken = seeds.iter().find(|seed| catch_unwind(|| (target.body)(seed)).is_err()).cloned();
    while broken.is_none() && begun.elapsed() < time {
        for _ in 0..AT_A_TIME {
            change(&mut random, &seeds, &words, &mut input);
            count += 1;
            if catch_unwind(|| (target.body)(&input)).is_err() {
                broken = Some(input.clone());
                break;
            }
        }
    }
    let held = broken.is_none();
    if let Some(input) = broken {
        let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
        println!("input of {}: {hex}\nas text {}", target.name, input.escape_ascii());
    }
    println!("test fuzz::{} ... {} ({count} inputs, seed {seed})", target.name, if held { "ok" } else { "FAILED" });
    held
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let time = Duration::from_secs(number("FANSYNC_FUZZ_SECONDS").unwrap_or(2));
    let seed = number("FANSYNC_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let targets: Vec<&bodies::Target> =
        bodies::TARGETS.iter().filter(|t| wanted.is_empty() || wanted.iter().any(|word| t.name.contains(&**word))).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let workers = thread::available_parallelism().map_or(2, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !run(target, time, seed) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {outcome}. {} passed; {failed} failed; 0 ignored; 0 measured", targets.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
