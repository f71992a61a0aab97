//! Files written again: within one second, with the same size, while open, halfway.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::proc::poll_until;
use crate::fixture::{Case, Mirror, Setup, WAIT, case};

use std::io::Write as _;

pub fn cases() -> Vec<Case> {
    vec![
        case("same_size_within_a_second", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            // Nothing but the nanoseconds of the time tells one generation from the next.
            for generation in 0..5 {
                for file in 0..20 {
                    m.src.write(format!("f{file}"), format!("generation {generation} of {file:02}"));
                }
                m.check();
            }
            Ok(())
        }),
        case("same_size_without_a_pause", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            for generation in 0..200 {
                for file in 0..20 {
                    m.src.write(format!("f{file}"), format!("generation {generation:03} of {file:02}"));
                }
            }
            m.check();
            Ok(())
        }),
        case("same_size_and_time_around_a_comparison", &[Fs::Ext4, Fs::Btrfs], |fs| {
            let mut m = Setup::new(fs).start()?;
            let write = |m: &Mirror, name: &str, content: &str| {
                m.src.write(name, content);
                m.src.set_mtime(name, 1_000_000_000, 7);
            };
            for name in ["before", "while it waits"] {
                write(&m, name, "the old one");
            }
            m.check();
            m.rsyncd.as_mut().expect("t1 is a module").stop();
            write(&m, "before", "the new one");
            m.src.write("seen", b"x");
            nix::sys::signal::kill(m.daemon.pid(), nix::sys::signal::Signal::SIGUSR1).expect("the daemon lives");
            // The comparison covers what waited beside it.
            let waits = poll_until(WAIT, || (m.daemon.target_status("t1").pending == 1).then_some(()));
            assert!(waits.is_some(), "the whole tree is not pending: {:?}", m.daemon.target_status("t1"));
            write(&m, "while it waits", "the new one");
            m.rsyncd.as_mut().expect("t1 is a module").restart();
            m.check();
            Ok(())
        }),
        case("one_file_many_times", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            for n in 0..2_000 {
                m.src.write("f", format!("{n}"));
            }
            m.check();
            m.src.write("f", b"the last word");
            m.check();
            Ok(())
        }),
        case("log_appended_while_open", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            let mut log = m.src.open("log");
            for n in 0..100 {
                writeln!(log, "line {n}").expect("a line can be written");
            }
            m.check();
            for n in 0..100 {
                writeln!(log, "later line {n}").expect("a line can be written");
            }
            drop(log);
            m.check();
            Ok(())
        }),
        case("open_file_is_held_until_closed", ALL, |fs| {
            let m = Setup::new(fs).batch("create_hold", "1h").start()?;
            let mut half = m.src.open("half");
            half.write_all(&[1; 100_000]).expect("a file can be written");
            m.src.write("whole", b"closed");
            let seen = poll_until(WAIT, || m.dst().has("whole").then_some(()));
            assert!(seen.is_some(), "a closed file did not arrive beside an open one");
            assert!(!m.dst().has("half"), "an open file was sent before it was closed");
            half.write_all(&[2; 100_000]).expect("a file can be written");
            drop(half);
            // Closing it is enough; no command is needed.
            let equal = || m.dst().read("half").is_some_and(|content| content.len() == 200_000).then_some(());
            assert!(poll_until(WAIT, equal).is_some(), "the file did not arrive after it was closed");
            m.check();
            Ok(())
        }),
        case("flush_sends_what_is_held", ALL, |fs| {
            let m = Setup::new(fs).batch("create_hold", "1h").start()?;
            let mut half = m.src.open("half");
            half.write_all(&[1; 100_000]).expect("a file can be written");
            m.check();
            half.write_all(&[2; 100_000]).expect("a file can be written");
            drop(half);
            m.check();
            Ok(())
        }),
        case("hold_ends_by_itself", ALL, |fs| {
            let m = Setup::new(fs).batch("create_hold", "200ms").start()?;
            let mut open = m.src.open("never closed");
            open.write_all(b"so far").expect("a file can be written");
            let seen = poll_until(WAIT, || m.dst().has("never closed").then_some(()));
            assert!(seen.is_some(), "a file that stays open was never sent");
            m.check();
            drop(open);
            m.check();
            Ok(())
        }),
    ]
}
