//! What is served over HTTP: metrics, and the status page.
//!
//! Read-only, without state of its own, and without anything to log in to: any process that can
//! connect may read metrics. File names are in the page and in `status.json`, so these two are for
//! connections from this host only ([`site`]).

pub mod http;
pub mod site;
