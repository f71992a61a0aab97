//! The walks over the source that look for what no event leads to: each on a thread of its own, and
//! of each kind one at a time.

use std::os::fd::AsFd;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::{Engine, byhandle, linked, nameless, names, outside, strays};
use crate::config::Mirror;
use crate::filter::Filter;
use crate::links::search::Within;

/// Each search, with what it knows and what its walk has found.
pub(super) struct Searches {
    /// Which names are one file; only with `hard_links`.
    pub(super) linking: Option<linked::Linking>,
    /// Names of changed files, where an event does not lead to all of them.
    pub(super) naming: names::Naming,
    pub(super) nameless_walks: nameless::Walks,
    pub(super) by_handle: byhandle::ByHandle,
    pub(super) strays: strays::Strays,
    pub(super) outside: outside::Outside,
}

impl Searches {
    /// To be made before the marks: what changed earlier is found otherwise.
    pub(super) fn new(mirror: &Mirror) -> Searches {
        Searches {
            linking: mirror.extras.hard_links.then(linked::Linking::new),
            naming: names::Naming::new(),
            nameless_walks: nameless::Walks::new(),
            by_handle: byhandle::ByHandle::new(byhandle::wall_clock()),
            strays: strays::Strays::new(),
            outside: outside::Outside::new(),
        }
    }
}

impl Engine {
    /// Does `work` on a thread of its own, sends what it gives, and wakes the engine.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn walk_beside<T: Send + 'static>(
        &self,
        name: &str,
        done: &Sender<T>,
        work: impl FnOnce(Within<'_>, &Filter) -> T + Send + 'static,
    ) -> std::io::Result<()> {
        let (root, apart) = (self.root.as_fd().try_clone_to_owned()?, Arc::clone(&self.guard.apart));
        let (filter, done, wake) = (self.mirror.filter.clone(), done.clone(), Arc::clone(&self.io.wake));
        std::thread::Builder::new().name(name.into()).spawn(move || {
            // An engine that has ended meanwhile does not receive any more.
            let _ = done.send(work(Within { fd: root.as_fd(), apart: &apart }, &filter));
            wake.wake();
        })?;
        Ok(())
    }
}
