//! `follow_open_files`: what is written to files that stay open arrives, and not more often than
//! asked for.
//!
//! How often is counted in runs of rsync, from the status, so that a slow machine changes nothing.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::poll_until;
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, WAIT, case};

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

const INTERVAL: &str = "200ms";

/// Waits for a file to have this content on the target, without asking for it.
#[track_caller]
fn arrives(m: &Mirror, name: &str, content: &[u8]) {
    let there = poll_until(WAIT, || (m.dst().read(name).as_deref() == Some(content)).then_some(()));
    assert!(there.is_some(), "{name} was never sent while it was open");
}

fn runs(m: &Mirror) -> u64 {
    m.daemon.target_status("t1").runs
}

/// Both backends that report writes.
fn both(name: &'static str, on: &'static [Fs], run: fn(&Mirror)) -> [Case; 2] {
    let names: [&'static str; 2] = [name, Box::leak(format!("inotify_{name}").into_boxed_str())];
    [(names[0], "fanotify"), (names[1], "inotify")].map(|(name, watch)| {
        case(name, on, move |fs| {
            let m = Setup::new(fs).watch(watch).follow(INTERVAL).start()?;
            run(&m);
            m.check();
            Ok(())
        })
    })
}

fn log_is_followed(m: &Mirror) {
    m.src.write("log", b"");
    m.check();
    let mut log = m.src.open("log");
    for n in 0..3 {
        writeln!(log, "line {n}").expect("a line can be written");
        log.sync_all().expect("a log can be synced");
        arrives(m, "log", &m.src.read("log").expect("it is there"));
    }
    // Who asks does not wait for the interval.
    writeln!(log, "the last line").expect("a line can be written");
    m.check();
    drop(log);
}

fn file_created_and_never_closed(m: &Mirror) {
    let mut file = m.src.open("new");
    file.write_all(b"one").expect("a file can be written");
    arrives(m, "new", b"one");
    file.write_all(b" two").expect("a file can be written");
    arrives(m, "new", b"one two");
}

fn truncate_by_name(m: &Mirror) {
    m.src.write("f", b"something long");
    m.check();
    nix::unistd::truncate(&m.src.at("f"), 4).expect("a file can be cut");
    arrives(m, "f", b"some");
}

fn many_open_files(m: &Mirror) {
    let mut files: Vec<File> = (0..200).map(|n| m.src.open(format!("f{n}"))).collect();
    m.check();
    for round in 0..3 {
        for file in &mut files {
            writeln!(file, "round {round}").expect("a file can be written");
        }
        let want = m.src.read("f0").expect("it is there");
        for n in 0..200 {
            arrives(m, &format!("f{n}"), &want);
        }
    }
    // A directory that moves takes its open files along.
    m.src.mkdir("d");
    for n in 0..200 {
        m.src.rename(format!("f{n}"), format!("d/f{n}"));
    }
    m.src.rename("d", "e");
    for file in &mut files {
        file.write_all(b"behind the move").expect("a file can be written");
    }
    let want = m.src.read("e/f0").expect("it is there");
    for n in 0..200 {
        arrives(m, &format!("e/f{n}"), &want);
    }
}

/// Writes without a pause for many intervals; looks at the count of runs, and at what an interval
/// allows.
fn fast_writer(m: &Mirror) {
    let file = m.src.open("fast");
    file.write_all_at(&[0; 4096], 0).ok();
    m.check();
    let (before, begun) = (runs(m), Instant::now());
    let mut n = 0u64;
    while begun.elapsed() < Duration::from_secs(2) {
        (&file).write_all(&n.to_le_bytes()).expect("a file can be written");
        n += 1;
    }
    let (sent, intervals) = (runs(m) - before, begun.elapsed().as_millis() as u64 / 200);
    assert!(n > 1_000, "only {n} writes: this says nothing");
    // One run for each interval; one more as the last may just have begun. (A file that is being
    // sent while the next interval ends waits for that.)
    assert!((1..=intervals + 1).contains(&sent), "{sent} runs for {n} writes in {intervals} intervals");
}

fn muted(m: &Mirror) -> (u64, u64) {
    let status = m.daemon.status();
    (status.mirrors[0].muted_files, status.mirrors[0].events)
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        both("log", ALL, log_is_followed),
        both("created_and_never_closed", &[Fs::Ext4, Fs::Tmpfs], file_created_and_never_closed),
        both("truncate_by_name", ALL, truncate_by_name),
        both("many_open_files", &[Fs::Ext4, Fs::Xfs], many_open_files),
        both("fast_writer", ALL, fast_writer),
    ]
    .into_iter()
    .flatten()
    .collect();
    cases.extend([
        case("written_by_hundreds_of_writers", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).follow(INTERVAL).start()?;
            let dir: Dir = m.src.clone();
            let writers: Vec<_> = (0..4)
                .map(|w| {
                    let dir = dir.clone();
                    std::thread::spawn(move || {
                        for round in 0..50 {
                            for n in 0..20 {
                                let mut file = dir.open(format!("{w}-{n}"));
                                writeln!(file, "{round}").expect("a file can be written");
                                // Some are renamed, deleted and replaced while they are open.
                                match (round + n) % 7 {
                                    0 => dir.rename(format!("{w}-{n}"), format!("{w}-{n}.was")),
                                    1 => dir.remove(format!("{w}-{n}")),
                                    _ => {}
                                }
                                writeln!(file, "more of {round}").expect("a file can be written");
                            }
                        }
                    })
                })
                .collect();
            writers.into_iter().for_each(|w| w.join().expect("a writer ends well"));
            m.check();
            Ok(())
        }),
        case("foreign_writer_is_muted", ALL, |fs| {
            let m = Setup::new(fs).follow(INTERVAL).start()?;
            let mut foreign = m.out.open("busy");
            foreign.write_all(b"1").expect("a file can be written");
            let muted_once = poll_until(WAIT, || (muted(&m).0 == 1).then_some(()));
            assert!(muted_once.is_some(), "a file outside was not muted at its first write");
            let (_, before) = muted(&m);
            for _ in 0..5_000 {
                foreign.write_all(b"2").expect("a file can be written");
            }
            m.check();
            let (_, after) = muted(&m);
            // Those of the target, which may lie on the same filesystem, count as well; 5,000
            // writes do not hide among them.
            assert!(after - before < 100, "{} events for writes to a muted file", after - before);
            // It comes inside while it is open.
            m.out.rename_to("busy", &m.src, "inside");
            foreign.write_all(b"3").expect("a file can be written");
            arrives(&m, "inside", &m.src.read("inside").expect("it is there"));
            foreign.write_all(b"4").expect("a file can be written");
            arrives(&m, "inside", &m.src.read("inside").expect("it is there"));
            m.check();
            Ok(())
        }),
        case("off_by_default", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).start()?;
            m.src.write("log", b"");
            m.check();
            let mut log = m.src.open("log");
            writeln!(log, "unreported").expect("a line can be written");
            m.src.write("other", b"reported");
            m.daemon.flush(None);
            assert_eq!(m.dst().read("log").as_deref(), Some(&b""[..]), "an open file was sent");
            drop(log);
            m.check();
            Ok(())
        }),
    ]);
    cases
}
