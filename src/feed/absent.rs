//! In place of the publisher where fansync is built without feeds: a configuration with one is
//! refused, so none of this is ever reached.

use std::io;
use std::path::Path;

use super::barriers::Questions;
use super::batch::{Inline, Making};
use super::record::{Identity, Item};
use crate::config;
use crate::location::Location;
use crate::status;
use crate::sync::publication::{Publication, Published, publication};

/// See the module's text.
pub(crate) struct Publisher(());

impl Publisher {
    /// There is none.
    pub(crate) fn start(
        _: &Location,
        _: &config::Feed,
        _: &str,
        _: Option<(&Path, &Path)>,
        _: Option<Making>,
    ) -> io::Result<Publisher> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// There is no answer.
    pub(crate) fn probe(&self) -> io::Result<Publication> {
        self.publish(Identity::default(), false, false, Vec::new(), None)
    }

    /// Nothing is stored.
    pub(crate) fn publish(&self, _: Identity, _: bool, _: bool, _: Vec<Item>, _: Option<Inline>) -> io::Result<Publication> {
        let (publication, promise) = publication()?;
        promise.keep(Published::not("this fansync was built without feeds"));
        Ok(publication)
    }

    /// No follower is there.
    pub(crate) fn hold(&self, _: bool) {}

    /// None asks.
    pub(crate) fn questions(&self) -> Questions {
        Questions { asked: crossbeam::channel::never(), answer: Box::new(|_| {}) }
    }

    /// It has none.
    pub(crate) fn had_records(&self) -> bool {
        false
    }

    /// Nothing is known.
    pub(crate) fn status(&self) -> status::Feed {
        status::Feed::default()
    }
}
