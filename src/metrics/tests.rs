//! What is exported, and what documents, rules and dashboard make of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::failover::control::Status as FailoverStatus;
use crate::failover::machine::{Alarm, Report, Side};
use crate::failover::monitor::{Shown, ShownServer};
use crate::status::tests::snapshot;

fn failover() -> FailoverStatus {
    let shown = Shown {
        name: "web".into(),
        on: Some(Side::Backup),
        epoch: 4,
        alarm: Some(Alarm::SplitBrain),
        servers: vec![ShownServer::default(); 2],
        ..Shown::default()
    };
    let front = crate::failover::front::Shown { confined: true, restarts: 3, ..Default::default() };
    let server = Some(Report { writable: true, ..Report::default() });
    FailoverStatus { version: "1".into(), server, failovers: vec![shown], front }
}

/// Every metric there is, of both daemons.
fn every() -> Vec<Metric> {
    [all(), crate::failover::metrics::all()].concat()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// Whole words that begin with the prefix; a name that goes on after `*` or `…` names several.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '*' || c == '…'));
    words.filter(|w| w.starts_with("fansync_") && !w.contains(['*', '…'])).collect()
}

/// Names and labels as Prometheus reads them, with their values.
fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    lines.map(|l| l.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap()).collect()
}

#[test]
fn names_follow_the_conventions() {
    let mut seen = BTreeSet::new();
    for m in every() {
        assert!(seen.insert(m.name), "{} is there twice", m.name);
        assert!(m.name.starts_with("fansync_") && m.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", m.name);
        assert_eq!(m.name.ends_with("_total"), m.kind == Kind::Counter, "{}", m.name);
        assert!(m.help.ends_with('.') && !m.help.contains('\n'), "{}: {}", m.name, m.help);
        for unit in ["_ms", "_milliseconds", "_kb", "_kilobytes", "_minutes", "_percent", "_time", "_unix"] {
            assert!(!m.name.trim_end_matches("_total").ends_with(unit), "{} is in no base unit", m.name);
        }
    }
}

#[test]
fn every_metric_is_exported_with_help_and_type() {
    let mut feed = snapshot();
    feed.mirrors[0].targets[0].feed = Some(crate::status::Feed::default());
    feed.mirrors[0].targets[0].position = Some(crate::status::Position::default());
    feed.mirrors[0].targets[0].inline = Some(crate::status::Inline::default());
    let text = of_daemon(&feed) + &crate::failover::metrics::text(&failover());
    for m in every() {
        let kind = word(m.kind);
        for line in [format!("# HELP {} {}\n", m.name, m.help), format!("# TYPE {} {kind}\n", m.name)] {
            assert!(text.contains(&line), "{line:?} is not in\n{text}");
        }
        let name = if m.kind == Kind::Histogram { format!("{}_bucket", m.name) } else { m.name.into() };
        let has_value = text.lines().any(|l| l.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        assert!(has_value, "{} has no value", m.name);
    }
}

#[test]
fn a_feed_has_bounded_series_whatever_the_number_of_followers() {
    let follower = |n: u64| crate::status::Follower {
        name: format!("f{n}"),
        state: if n == 0 { "silent" } else { "idle" }.into(),
        behind: 100 - n,
        lag_seconds: n as f64,
        ..Default::default()
    };
    let of = |count: u64| {
        let mut s = snapshot();
        let feed = crate::status::Feed { sequence: 9, kept_seconds: 90.0, ..Default::default() };
        let feed = feed.of((0..count).map(follower).collect());
        s.mirrors[0].targets[0].feed = Some(feed);
        series(&of_daemon(&s))
    };
    let (few, many) = (of(3), of(50));
    assert_eq!(few.len(), many.len());
    let value = |name: &str| *many.iter().find(|(series, _)| series.starts_with(name)).expect(name).1;
    assert_eq!((value("fansync_feed_sequence{"), value("fansync_feed_behind_records{")), (9.0, 99.0));
    assert_eq!(value("fansync_feed_behind_seconds{"), 49.0);
    let quantiles: Vec<f64> =
        many.iter().filter(|(name, _)| name.starts_with("fansync_feed_follower_lag")).map(|(_, n)| *n).collect();
    assert_eq!(quantiles, [25.0, 45.0, 49.0]);
    assert_eq!((value("fansync_feed_unread_seconds{"), value("fansync_feed_kept_seconds{")), (49.0, 90.0));
    let idle = many.iter().find(|(name, _)| name.starts_with("fansync_feed_followers{") && name.contains("\"idle\""));
    assert_eq!(idle.map(|(_, n)| *n), Some(49.0));
}

#[test]
fn values_are_those_of_the_status() {
    let mut s = snapshot();
    let t = &mut s.mirrors[0].targets[0];
    (t.runs, t.bytes_sent, t.paused_unix) = (10, 1 << 40, 5.0);
    t.bad_runs = [("busy".into(), 2), ("target_down".into(), 1)].into();
    t.failures_more = 6;
    let progress = |files_done, bytes| crate::progress::Progress { files_done, files_total: 90, bytes, ..Default::default() };
    t.verify = Some(crate::status::Verify { running: true, progress: Some(progress(5, 0)), ..Default::default() });
    t.passes = vec![progress(7, 2), progress(8, 3)];
    let place = |held| crate::status::Apart { path: "d".into(), why: "gone".into(), held };
    s.mirrors[0].apart = vec![place(true), place(false), place(true)];
    let got = series(&of_daemon(&s));
    let target = "mirror=\"data\",target=\"backup\"";
    for (name, value) in [
        (format!("fansync_target_lag_seconds{{{target}}}"), 75.0),
        (format!("fansync_target_pending_paths{{{target}}}"), 3.0),
        (format!("fansync_target_state{{{target},state=\"down\"}}"), 1.0),
        (format!("fansync_target_state{{{target},state=\"idle\"}}"), 0.0),
        (format!("fansync_target_rsync_runs_total{{{target},outcome=\"done\"}}"), 7.0),
        (format!("fansync_target_rsync_runs_total{{{target},outcome=\"busy\"}}"), 2.0),
        (format!("fansync_target_rsync_runs_total{{{target},outcome=\"killed\"}}"), 0.0),
        (format!("fansync_target_verify_running{{{target}}}"), 1.0),
        (format!("fansync_target_failed_paths{{{target}}}"), 7.0),
        (format!("fansync_target_progress_entries{{{target},work=\"pass\"}}"), 15.0),
        (format!("fansync_target_progress_bytes{{{target},work=\"pass\"}}"), 5.0),
        (format!("fansync_target_progress_expected_entries{{{target},work=\"verify\"}}"), 90.0),
        (format!("fansync_target_progress_entries{{{target},work=\"full_pass\"}}"), 0.0),
        (format!("fansync_target_sent_bytes_total{{{target}}}"), (1u64 << 40) as f64),
        ("fansync_rescans_total{mirror=\"data\",cause=\"queue_overflow\"}".into(), 2.0),
        ("fansync_rescans_total{mirror=\"data\",cause=\"unwatched\"}".into(), 0.0),
        ("fansync_reader_pauses_total{mirror=\"data\"}".into(), 4.0),
        ("fansync_mirror_held_places{mirror=\"data\"}".into(), 2.0),
        ("fansync_hook_state{mirror=\"data\",hook=\"purge\",state=\"retrying\"}".into(), 1.0),
        ("fansync_hook_dropped_changes_total{mirror=\"data\",hook=\"purge\"}".into(), 7.0),
    ] {
        assert_eq!(got.get(&name), Some(&value), "{name} in {got:#?}");
    }
    let got = series(&crate::failover::metrics::text(&failover()));
    for (name, value) in [
        ("fansync_failover_mounted{failover=\"web\",side=\"backup\"}", 1.0),
        ("fansync_failover_mounted{failover=\"web\",side=\"primary\"}", 0.0),
        ("fansync_failover_alarm{failover=\"web\",alarm=\"split_brain\"}", 1.0),
        ("fansync_failover_alarm{failover=\"web\",alarm=\"held\"}", 0.0),
        ("fansync_failover_export_writable", 1.0),
        ("fansync_failover_front_up", 0.0),
        ("fansync_failover_front_confined", 1.0),
        ("fansync_failover_front_restarts_total", 3.0),
    ] {
        assert_eq!(got.get(name), Some(&value), "{name}");
    }
}

#[test]
fn the_last_comparison_is_told_and_none_is_zero() {
    let mut s = snapshot();
    let series = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().map(str::to_owned)
    };
    s.mirrors[0].targets[0].verify = None;
    assert_eq!(series(&of_daemon(&s), "fansync_target_verify_differing_paths{").as_deref(), Some("0"));
    let (ended_unix, differing, repaired, error) = (1_700_000_000.0, 3, 2, "denied".to_owned());
    s.mirrors[0].targets[0].verify = Some(crate::status::Verify { ended_unix, differing, repaired, error, ..Default::default() });
    let text = of_daemon(&s);
    for (name, value) in
        [("timestamp_seconds", "1700000000"), ("differing_paths", "3"), ("repaired_paths", "2"), ("incomplete", "1")]
    {
        assert_eq!(series(&text, &format!("fansync_target_verify_{name}{{")).as_deref(), Some(value), "{name}");
    }
}

#[test]
fn the_documents_list_every_metric_and_no_other() {
    let known: BTreeSet<&str> = every().iter().map(|m| m.name).collect();
    let docs = read("docs/monitoring.md");
    let histograms = every().into_iter().filter(|m| m.kind == Kind::Histogram);
    let parts: BTreeSet<String> =
        histograms.flat_map(|m| ["bucket", "sum", "count"].map(|part| format!("{}_{part}", m.name))).collect();
    let unknown: Vec<_> = named(&docs).into_iter().filter(|name| !known.contains(name) && !parts.contains(*name)).collect();
    assert!(unknown.is_empty(), "docs/monitoring.md names what is not exported: {unknown:?}");
    let row = |m: &Metric| {
        let kind = word(m.kind);
        let labels = m.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ");
        format!("| `{}` | {kind} | {labels} | {} |", m.name, m.help).replace("|  |", "| |")
    };
    let lacks: Vec<_> = every().iter().map(row).filter(|row| !docs.lines().any(|line| line == row)).collect();
    assert!(lacks.is_empty(), "docs/monitoring.md lacks these rows:\n{}", lacks.join("\n"));
}

/// A metric of an expression, with the labels that are chosen by.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let metric = regex::Regex::new(r#"(fansync_[a-z_]+)(?:\{([^}]*)\})?"#).unwrap();
    let label = regex::Regex::new(r#"([a-z_]+)\s*[=!]~?=?\s*""#).unwrap();
    let labels = |of: &str| label.captures_iter(of).map(|c| c[1].to_owned()).collect();
    metric.captures_iter(expression).map(|c| (c[1].to_owned(), c.get(2).map_or(Vec::new(), |of| labels(of.as_str())))).collect()
}

#[track_caller]
fn check_expression(expression: &str, place: &str) {
    for (name, labels) in selectors(expression) {
        let is = |m: &Metric| m.name == name || m.kind == Kind::Histogram && Some(m.name) == name.strip_suffix("_bucket");
        let metric = every().into_iter().find(is);
        let metric = metric.unwrap_or_else(|| panic!("{place}: {name} is not exported: {expression}"));
        for label in labels {
            let there = metric.labels.contains(&label.as_str()) || ["job", "instance"].contains(&label.as_str());
            assert!(there, "{place}: {name} has no label {label}: {expression}");
        }
    }
}

#[test]
fn the_alert_rules_ask_for_what_is_exported() {
    let rules = read("packaging/fansync.rules.yml");
    let mut seen = 0;
    for line in rules.lines() {
        if let Some(expression) = line.trim().strip_prefix("expr: ") {
            check_expression(expression, "fansync.rules.yml");
            seen += 1;
        }
        // Annotations may name labels of what their rule selects.
        if let Some(state) = line.trim().strip_prefix("expr: fansync_target_state{state=~\"") {
            let states = state.split('"').next().unwrap().split('|');
            states
                .for_each(|s| assert!(crate::status::TargetState::ALL.iter().any(|state| state.name() == s), "{s} is no state"));
        }
    }
    assert_eq!(seen, rules.matches("- alert:").count());
    let docs = read("docs/monitoring.md");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(docs.contains(&format!("| `{alert}` |")), "docs/monitoring.md does not name {alert}");
    }
    let tested = read("packaging/fansync.rules.test.yml");
    named(&tested).iter().for_each(|name| check_expression(name, "fansync.rules.test.yml"));
}

#[test]
fn the_dashboard_is_sound_and_asks_for_what_is_exported() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("packaging/fansync-dashboard.json")).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    assert_eq!((text(&dashboard["title"]), text(&dashboard["uid"])), ("fansync".into(), "fansync".into()));
    assert!(dashboard["id"].is_null() && dashboard["schemaVersion"].as_u64() >= Some(36));
    let variables: Vec<String> = dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| text(&v["name"])).collect();
    let known = |expression: &str| {
        let word = regex::Regex::new(r"\$\{?([a-z_]+)").unwrap();
        for c in word.captures_iter(expression) {
            assert!(variables.contains(&c[1].to_owned()) || c[1].starts_with("__"), "${} is no variable: {expression}", &c[1]);
        }
        check_expression(expression, "fansync-dashboard.json");
    };
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        known(&text(&variable["definition"]));
    }
    known(&text(&dashboard["annotations"]["list"][1]["expr"]));
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has the id of another panel");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|k| panel["gridPos"][k].as_u64().unwrap());
        assert!(w > 0 && h > 0 && x + w <= 24, "{title} does not fit into 24 columns");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies on another panel");
        }
        let kind = text(&panel["type"]);
        if kind == "row" {
            continue;
        }
        assert!(["stat", "timeseries", "state-timeline", "heatmap"].contains(&kind.as_str()), "{title} is of kind {kind}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        let mut letters = BTreeSet::new();
        for target in targets {
            let expression = text(&target["expr"]);
            assert!(!selectors(&expression).is_empty(), "{title} selects nothing: {expression}");
            assert!(letters.insert(text(&target["refId"])), "{title} has a refId twice");
            assert_eq!(text(&target["datasource"]["uid"]), "${datasource}", "{title}");
            known(&expression);
        }
    }
    assert!(ids.len() > 15);
}

#[test]
fn a_histogram_counts_each_path_in_every_bucket_above_it() {
    let text = of_daemon(&snapshot());
    let labels = r#"mirror="data",target="backup""#;
    for (name, labels, value) in [
        ("bucket", format!(r#"{labels},le="0.01""#), 39.0),
        ("bucket", format!(r#"{labels},le="1""#), 39.0),
        ("bucket", format!(r#"{labels},le="+Inf""#), 40.0),
        ("count", labels.to_owned(), 40.0),
        ("sum", labels.to_owned(), 1.6),
    ] {
        let key = format!("fansync_target_latency_seconds_{name}{{{labels}}}");
        assert_eq!(series(&text).get(&key), Some(&value), "{key} in\n{text}");
    }
}
