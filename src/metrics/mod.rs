//! Numbers for Prometheus, in its text format.
//!
//! Each number is one row of a table (`mirrors`, `process`, and `failover::metrics`): name, kind,
//! labels, help, and how it is read from the same [`Snapshot`] that `fansync status` prints, so the
//! two agree. The tables are all there is: documents, alert rules and the dashboard are checked
//! against them.
//!
//! A snapshot is requested at most every [`sampler::FRESH`], however often clients ask, so an
//! engine's work does not grow with the number of scrapes; an engine that does not answer makes the
//! scrape fail instead of showing old numbers.
//!
//! Names follow Prometheus' conventions: prefix `fansync_`, base units, `_total` for counters. So
//! do those of the process (`fansync_process_…`): in the textfile collector's file, `process_…`
//! would collide with node_exporter's own. Counters of a mirror begin at 0 with the process, and
//! when its source is opened anew.

mod file;
mod history;
mod mirrors;
mod process;
pub(crate) mod sampler;

use prometheus::TextEncoder;
use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use crate::status::{Latency, Snapshot};
pub(crate) use file::MetricsFile;

/// The content type of metrics.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a number moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Up only, from 0 at the start.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts of durations below bounds.
    Histogram,
}

/// What is known of a metric beside its values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// With prefix and suffix.
    pub(crate) name: &'static str,
    /// How it moves.
    pub(crate) kind: Kind,
    /// The names of its labels, in order.
    pub(crate) labels: &'static [&'static str],
    /// One sentence.
    pub(crate) help: &'static str,
}

/// A metric of `T`, and how to read it.
pub(crate) struct Row<T: ?Sized> {
    pub(crate) metric: Metric,
    read: fn(&T, &mut Values<'_>),
}

pub(crate) const fn row<T: ?Sized>(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&T, &mut Values<'_>),
) -> Row<T> {
    Row { metric: Metric { name, kind, labels, help }, read }
}

/// Where a row puts its values: those of the first labels are given, those of the others come with
/// each value.
pub(crate) struct Values<'a> {
    metric: &'a Metric,
    first: &'a [&'a str],
    out: &'a mut Vec<proto::Metric>,
}

impl Values<'_> {
    pub(crate) fn put(&mut self, value: f64) {
        self.with(&[], value);
    }

    pub(crate) fn with(&mut self, more: &[&str], value: f64) {
        let mut metric = proto::Metric::from_label(self.labels(more));
        match self.metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Histogram => unreachable!("{} has no single value", self.metric.name),
        }
        self.out.push(metric);
    }

    /// The buckets of a histogram, without that of infinity, which the encoder adds.
    pub(crate) fn histogram(&mut self, latency: &Latency) {
        debug_assert_eq!(self.metric.kind, Kind::Histogram, "{}", self.metric.name);
        let buckets = latency.buckets.iter().map(|of| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(of.seconds);
            bucket.set_cumulative_count(of.paths);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(latency.paths);
        histogram.set_sample_sum(latency.sum_seconds);
        histogram.set_bucket(buckets.collect());
        let mut metric = proto::Metric::from_label(self.labels(&[]));
        metric.set_histogram(histogram);
        self.out.push(metric);
    }

    fn labels(&self, more: &[&str]) -> Vec<LabelPair> {
        let values = self.first.iter().chain(more);
        debug_assert_eq!(self.first.len() + more.len(), self.metric.labels.len(), "{}", self.metric.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*value).into());
            pair
        };
        self.metric.labels.iter().zip(values).map(pair).collect()
    }

    /// 1 for the one of `all` that is `now`, 0 for the others.
    pub(crate) fn one_of(&mut self, all: impl Iterator<Item = &'static str>, now: &str) {
        all.for_each(|name| self.with(&[name], truth(name == now)));
    }
}

/// What rows give for all of `things`, each with the values of its first labels.
pub(crate) fn families<'t, T: 't>(
    rows: &[Row<T>],
    things: impl Iterator<Item = (Vec<&'t str>, &'t T)> + Clone,
) -> Vec<MetricFamily> {
    let family = |row: &Row<T>| {
        let mut out = Vec::new();
        for (first, thing) in things.clone() {
            (row.read)(thing, &mut Values { metric: &row.metric, first: &first, out: &mut out });
        }
        let mut family = MetricFamily::default();
        family.set_name(row.metric.name.into());
        family.set_help(row.metric.help.into());
        family.set_field_type(match row.metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(out);
        family
    };
    // The format knows no family without a value.
    rows.iter().map(family).filter(|family| !family.get_metric().is_empty()).collect()
}

fn text(families: &[MetricFamily]) -> String {
    TextEncoder::new().encode_to_string(families).unwrap_or_else(|e| panic!("families have names and values: {e}"))
}

/// The mirror daemon's metrics.
pub(crate) fn of_daemon(snapshot: &Snapshot) -> String {
    with_process(mirrors::families(snapshot))
}

/// Those of a process, and others.
pub(crate) fn with_process(families: Vec<MetricFamily>) -> String {
    text(&[process::families(), families].concat())
}

/// Every metric of the mirror daemon, each once.
#[cfg(test)]
pub(crate) fn all() -> Vec<Metric> {
    [process::all(), mirrors::all()].concat()
}

pub(crate) fn truth(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

#[cfg(test)]
mod tests;
