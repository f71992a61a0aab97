//! Runs the fuzz targets without cargo-fuzz: seeds are changed at random, byte by byte and piece by
//! piece, for so long each.
//!
//!   cargo test --test fuzz                                        a second each
//!   FANSYNC_FUZZ_SECONDS=60 cargo test --test fuzz -- [TARGET…]   those that are named, 60 s each
//!
//! An input that panics is printed in hexadecimal and ends the run. `FANSYNC_FUZZ_SEED` repeats a
//! run.

mod bodies;

use std::panic::catch_unwind;
use std::process::ExitCode;
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

fn change(random: &mut fastrand::Rng, seeds: &[Vec<u8>], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&seeds[random.usize(..seeds.len())]);
    for _ in 0..=random.usize(..8) {
        let at = random.usize(..=out.len());
        let end = (at + random.usize(..16)).min(out.len());
        match random.u8(..8) {
            0 if at < out.len() => out[at] ^= 1 << random.u8(..8),
            1 if at < out.len() => out[at] = random.u8(..),
            2 => drop(out.drain(at..end)),
            3 => {
                let piece = out[at..end].to_vec();
                let to = random.usize(..=out.len());
                out.splice(to..to, piece);
            }
            4 => drop(out.splice(at..at, WORDS[random.usize(..WORDS.len())].iter().copied())),
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

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let time = Duration::from_secs(number("FANSYNC_FUZZ_SECONDS").unwrap_or(1));
    let seed = number("FANSYNC_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let (mut passed, mut failed) = (0, 0);
    for target in bodies::TARGETS.iter().filter(|t| wanted.is_empty() || wanted.iter().any(|word| t.name.contains(&**word))) {
        let mut random = fastrand::Rng::with_seed(seed);
        let seeds = (target.seeds)();
        let (mut input, mut count, begun) = (Vec::new(), 0u64, Instant::now());
        let mut broken = seeds.iter().any(|seed| catch_unwind(|| (target.body)(seed)).is_err());
        while !broken && begun.elapsed() < time {
            for _ in 0..AT_A_TIME {
                change(&mut random, &seeds, &mut input);
                count += 1;
                if catch_unwind(|| (target.body)(&input)).is_err() {
                    let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
                    println!("input {hex}\nas text {}", input.escape_ascii());
                    broken = true;
                    break;
                }
            }
        }
        println!("test fuzz::{} ... {} ({count} inputs, seed {seed})", target.name, if broken { "FAILED" } else { "ok" });
        (passed, failed) = if broken { (passed, failed + 1) } else { (passed + 1, failed) };
    }
    let outcome = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {outcome}. {passed} passed; {failed} failed; 0 ignored; 0 measured");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
