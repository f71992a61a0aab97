//! How far a verification is, on a terminal, while its client waits.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::control::{self, Reply, Request};
use crate::status::Snapshot;

/// How often it is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Does `work`, which asks the daemon at `socket` for a long time, and draws meanwhile how far its verifications are.
pub(super) fn beside<T: Send>(socket: &Path, work: impl FnOnce() -> T + Send) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (done, wait) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {bar:30} {pos}/{len} entries [{elapsed}, eta {eta}]")
            {
                bar.set_style(style);
            }
            while wait.recv_timeout(DRAW_EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Ok(Reply::Status(snapshot)) = control::ask(socket, &Request::Status, DRAW_EVERY) {
                    draw(&bar, &snapshot);
                }
            }
            bar.finish_and_clear();
        });
        let out = work();
        drop(done);
        out
    })
}

fn draw(bar: &ProgressBar, snapshot: &Snapshot) {
    let targets = snapshot.mirrors.iter().flat_map(|m| m.targets.iter().map(move |t| (m, t)));
    let running = targets.filter_map(|(m, t)| Some((m, t, t.verify.as_ref().filter(|v| v.running)?)));
    for (mirror, target, verify) in running.take(1) {
        bar.set_length(verify.files_total);
        bar.set_position(verify.files_done);
        bar.set_message(format!("comparing {}/{}", mirror.name, target.name));
    }
    bar.tick();
}
