//! The failover monitor's metrics: of this host's part as a server, and of each mount.

use prometheus::proto::MetricFamily;

use super::control::Status;
use super::front::Shown as Front;
use super::machine::{Alarm, Report, Side};
use super::monitor::{Shown, ShownServer};
use crate::metrics::Kind::{Counter, Gauge};
use crate::metrics::{self, Row, row, truth};
use crate::role::mark::Role;

const SERVER: &[Row<Report>] = &[
    row(Gauge, "fansync_failover_role_primary", &[], "1 while this server's tree is marked as the primary's.", |r, v| {
        v.put(truth(r.mark.as_ref().is_some_and(|m| m.role == Role::Primary)));
    }),
    row(Gauge, "fansync_failover_role_epoch", &[], "The epoch of this server's mark; 0 without one.", |r, v| {
        v.put(r.mark.as_ref().map_or(0.0, |m| m.epoch as f64));
    }),
    row(Gauge, "fansync_failover_export_writable", &[], "1 while this server exports read-write.", |r, v| {
        v.put(truth(r.writable))
    }),
    row(Gauge, "fansync_failover_peer_whole", &[], "1 while the other server is known to hold a whole copy.", |r, v| {
        v.put(truth(r.peer_whole == Some(true)));
    }),
    row(Gauge, "fansync_failover_handing_over", &[], "1 while this server hands over.", |r, v| v.put(truth(r.handing_over))),
    row(Gauge, "fansync_failover_server_trouble", &[], "1 while something is wrong with this server's part.", |r, v| {
        v.put(truth(!r.trouble.is_empty()));
    }),
];

const MOUNT: &[Row<Shown>] = &[
    row(Gauge, "fansync_failover_mounted", S, "1 for the side that the mount is on.", |f, v| {
        for side in [Side::Primary, Side::Backup] {
            v.with(&[&side.to_string()], truth(f.on == Some(side)));
        }
    }),
    row(Gauge, "fansync_failover_epoch", F, "The newest epoch seen.", |f, v| v.put(f.epoch as f64)),
    row(Gauge, "fansync_failover_held", F, "1 while a hold is in force.", |f, v| v.put(truth(f.held))),
    row(Gauge, "fansync_failover_alarm", &["failover", "alarm"], "1 for what needs an administrator.", |f, v| {
        v.one_of(Alarm::ALL.map(Alarm::name).into_iter(), f.alarm.map_or("", Alarm::name));
    }),
    row(Counter, "fansync_failover_probe_rounds_total", F, "Rounds of probes made.", |f, v| v.put(f.rounds as f64)),
    row(Counter, "fansync_failover_switches_total", F, "Times the mount was moved.", |f, v| v.put(f.switches as f64)),
    row(
        Counter,
        "fansync_failover_failures_total",
        F,
        "Moves of the mount and promotions that failed; each is tried again.",
        |f, v| {
            v.put(f.failures as f64);
        },
    ),
    row(Gauge, "fansync_failover_last_switch_duration_seconds", F, "How long the last move took; 0 before the first.", |f, v| {
        v.put(f.last_switch_seconds);
    }),
    row(
        Gauge,
        "fansync_failover_blocked_processes",
        F,
        "Processes that were blocked on the dead server at the last move.",
        |f, v| {
            v.put(f.stuck.len() as f64);
        },
    ),
    row(Gauge, "fansync_failover_unfinished_calls", F, "Mount calls that were given up and have not ended.", |f, v| {
        v.put(f.calls.len() as f64);
    }),
];

const SIDE: &[Row<ShownServer>] = &[
    row(Gauge, "fansync_failover_server_up", S, "1 while this server counts as alive.", |s, v| v.put(truth(s.health.alive))),
    row(Gauge, "fansync_failover_server_ready", S, "1 while this server is mounted, in place or aside.", |s, v| {
        v.put(truth(s.ready))
    }),
];

const FRONT: &[Row<Front>] = &[
    row(Gauge, "fansync_failover_front_up", &[], "1 while there is a process that reads from the network.", |f, v| {
        v.put(truth(f.pid != 0));
    }),
    row(Gauge, "fansync_failover_front_confined", &[], "1 if that process has no rights.", |f, v| v.put(truth(f.confined))),
    row(Counter, "fansync_failover_front_restarts_total", &[], "Times that process was started again.", |f, v| {
        v.put(f.restarts as f64);
    }),
];

const F: &[&str] = &["failover"];
const S: &[&str] = &["failover", "side"];

/// The failover monitor's metrics.
pub(crate) fn text(status: &Status) -> String {
    metrics::with_process(families(status))
}

fn families(status: &Status) -> Vec<MetricFamily> {
    let mounts = status.failovers.iter();
    let sides = mounts.clone().flat_map(|f| {
        let named = ["primary", "backup"].into_iter().zip(&f.servers);
        named.map(|(side, s)| (vec![f.name.as_str(), side], s))
    });
    [
        metrics::families(SERVER, status.server.iter().map(|r| (Vec::new(), r))),
        metrics::families(MOUNT, mounts.map(|f| (vec![f.name.as_str()], f))),
        metrics::families(SIDE, sides),
        metrics::families(FRONT, std::iter::once((Vec::new(), &status.front))),
    ]
    .concat()
}

#[cfg(test)]
pub(crate) fn all() -> Vec<metrics::Metric> {
    let (server, mount, side) = (SERVER.iter().map(|r| r.metric), MOUNT.iter().map(|r| r.metric), SIDE.iter().map(|r| r.metric));
    server.chain(mount).chain(side).chain(FRONT.iter().map(|r| r.metric)).collect()
}
