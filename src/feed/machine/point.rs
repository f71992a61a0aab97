//! A place in the feed, and what may follow it.

use serde::{Deserialize, Serialize};

use crate::feed::record::Record;

/// A place in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Point {
    /// When the stream was made, in nanoseconds since 1970.
    pub stream: u64,
    /// That of the publisher.
    pub incarnation: u64,
    /// The record's number within it.
    pub number: u64,
    /// The record's number in the stream.
    pub sequence: u64,
}

impl Point {
    /// That of a record.
    pub fn of(sequence: u64, record: &Record) -> Point {
        Point { stream: record.stream, incarnation: record.incarnation, number: record.number, sequence }
    }

    /// Whether `next` is the record behind this one.
    pub(crate) fn is_followed_by(&self, next: &Point) -> bool {
        *next == Point { number: self.number.wrapping_add(1), sequence: self.sequence.wrapping_add(1), ..*self }
    }
}

/// Why `point` does not come after `read`.
pub(super) fn broken(read: &Point, point: &Point) -> String {
    if point.stream != read.stream {
        "it is another stream than before".into()
    } else if point.incarnation != read.incarnation {
        "the publisher began anew".into()
    } else if point.sequence <= read.sequence {
        "the stream was set back".into()
    } else {
        let missing = point.sequence - read.sequence - 1;
        format!("{} before record {} were not kept long enough", crate::text::plural(missing, "record"), point.sequence)
    }
}
