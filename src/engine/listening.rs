//! The engine's part in `fansync events`.

use std::time::Duration;

use super::asking::ask;
use crate::control::Handle;
use crate::events::Listeners;

/// How long an engine may take to let somebody listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets somebody listen; without effect on an engine that has ended.
pub(crate) fn listen(handle: &Handle, add: impl FnOnce(&mut Listeners) + Send + 'static) {
    ask(handle, false, PATIENCE, |engine| add(&mut engine.listeners));
}
