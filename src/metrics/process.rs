//! The process: what it is, and what it takes.
//!
//! The ways of the kernel's own accounting: getrusage(2) for CPU time, to the microsecond;
//! /proc/self/stat for memory and threads (proc_pid_stat(5)); the number of names in /proc/self/fd.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};
use prometheus::proto::MetricFamily;

use super::Kind::{Counter, Gauge};
use super::{Row, row};

const ROWS: &[Row<Process>] = &[
    row(Gauge, "fansync_build_info", &["version"], "1, with the version as a label.", |_, v| {
        v.with(&[env!("CARGO_PKG_VERSION")], 1.0);
    }),
    row(Gauge, "fansync_process_start_time_seconds", &[], "When the process started, in seconds since 1970.", |p, v| {
        p.ticks_at_start.and_then(started).into_iter().for_each(|s| v.put(s));
    }),
    row(Counter, "fansync_process_cpu_seconds_total", &[], "CPU time of the process, user and system.", |_, v| {
        cpu(UsageWho::RUSAGE_SELF).into_iter().for_each(|s| v.put(s));
    }),
    row(Counter, "fansync_children_cpu_seconds_total", &[], "CPU time of rsync and other children that have ended.", |_, v| {
        cpu(UsageWho::RUSAGE_CHILDREN).into_iter().for_each(|s| v.put(s));
    }),
    row(Gauge, "fansync_process_resident_memory_bytes", &[], "Memory of the process in RAM.", |p, v| {
        p.resident.into_iter().for_each(|bytes| v.put(bytes));
    }),
    row(Gauge, "fansync_process_virtual_memory_bytes", &[], "Address space of the process.", |p, v| {
        p.virtual_.into_iter().for_each(|bytes| v.put(bytes));
    }),
    row(Gauge, "fansync_process_threads", &[], "Threads of the process.", |p, v| {
        p.threads.into_iter().for_each(|n| v.put(n));
    }),
    row(Gauge, "fansync_process_open_fds", &[], "Open file descriptors.", |_, v| {
        // One of them is that of the directory itself.
        std::fs::read_dir("/proc/self/fd").into_iter().for_each(|dir| v.put(dir.count().saturating_sub(1) as f64));
    }),
    row(Counter, "fansync_log_lost_lines_total", &[], "Lines of the log that could not be written.", |_, v| {
        v.put(crate::log::lost().lines as f64);
    }),
    row(Gauge, "fansync_process_max_fds", &[], "The limit of open file descriptors.", |_, v| {
        getrlimit(Resource::RLIMIT_NOFILE).into_iter().for_each(|(soft, _)| v.put(soft as f64));
    }),
];

/// From /proc/self/stat; `None` what cannot be read.
#[derive(Default)]
struct Process {
    resident: Option<f64>,
    virtual_: Option<f64>,
    threads: Option<f64>,
    /// Clock ticks from boot to its start.
    ticks_at_start: Option<f64>,
}

impl Process {
    fn read() -> Process {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().map(|bytes| bytes as f64);
        Process::parse(&stat, page)
    }

    /// proc_pid_stat(5): num_threads is field 20, starttime (ticks since boot) 22, vsize (bytes)
    /// 23, rss (pages) 24. The name, field 2, may hold anything, `)` as well.
    fn parse(stat: &str, page: Option<f64>) -> Process {
        let Some((_, rest)) = stat.rsplit_once(')') else { return Process::default() };
        let field = |number: usize| rest.split_whitespace().nth(number - 3).and_then(|f| f.parse::<f64>().ok());
        Process {
            threads: field(20),
            ticks_at_start: field(22),
            virtual_: field(23),
            resident: field(24).zip(page).map(|(pages, page)| pages * page),
        }
    }
}

fn cpu(who: UsageWho) -> Option<f64> {
    let usage = getrusage(who).ok()?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// By the wall clock, read once: it must not move when that clock is set.
fn started(ticks_at_start: f64) -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten()? as f64;
        let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?).as_secs_f64();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        Some(now - (since_boot - ticks_at_start / per_second))
    })
}

pub(super) fn families() -> Vec<MetricFamily> {
    let process = Process::read();
    super::families(ROWS, std::iter::once((Vec::new(), &process)))
}

#[cfg(test)]
pub(super) fn all() -> Vec<super::Metric> {
    ROWS.iter().map(|row| row.metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_anything_in_it_is_skipped() {
        let stat = "7 (a) R 1) S 1 7 7 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 3 0 100 8192 2 18446744073709551615 1";
        let p = Process::parse(stat, Some(4096.0));
        assert_eq!((p.threads, p.virtual_, p.resident), (Some(3.0), Some(8192.0), Some(8192.0)));
        assert!(Process::parse("", Some(1.0)).threads.is_none());
    }

    #[test]
    fn this_process_has_memory_threads_and_time() {
        let p = Process::read();
        assert!(p.resident > Some(100_000.0) && p.virtual_ >= p.resident && p.threads >= Some(1.0));
        assert!(cpu(UsageWho::RUSAGE_SELF) > Some(0.0));
        let begun = started(p.ticks_at_start.unwrap()).unwrap();
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - begun;
        assert!((0.0..3600.0).contains(&age), "{age}");
        assert_eq!(families().len(), ROWS.len());
    }
}
