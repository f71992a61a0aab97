//! Answers followers of a mirror's feeds up to where those are published: see
//! [`crate::feed::barriers`].

use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::config::Mirror;
use crate::engine::{Handle, Live};
use crate::feed::barriers::{Questions, WITHIN};

/// Before the next request to the engine for its publisher.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the threads of a mirror running.
#[derive(Default)]
pub(super) struct Barriers {
    _lives: Option<Sender<()>>,
}

/// Starts a thread for each feed of a mirror.
pub(super) fn start(mirror: &Mirror, engine: &Handle) -> Barriers {
    let (lives, ended) = bounded(0);
    for feed in mirror.targets.iter().filter(|target| target.location.is_feed()) {
        let (live, ended) = (Live::new(engine.clone(), feed.name.clone()), ended.clone());
        let thread = std::thread::Builder::new().name("fansync-barrier".into()).spawn(move || run(&live, &ended));
        if let Err(error) = thread {
            tracing::error!(mirror = %mirror.name, %error, "followers cannot be verified: no thread can be started for it; restart fansync");
        }
    }
    Barriers { _lives: Some(lives) }
}

fn run(live: &Live, ended: &Receiver<()>) {
    loop {
        if let Some(questions) = live.questions()
            && serve(live, &questions, ended)
        {
            return;
        }
        // The source is opened anew.
        if ended.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// `true`: the mirror ends; `false`: the publisher has ended.
fn serve(live: &Live, questions: &Questions, ended: &Receiver<()>) -> bool {
    loop {
        let first = crossbeam::select! {
            recv(questions.asked) -> first => first,
            recv(ended) -> _ => return true,
        };
        let Ok(first) = first else { return false };
        let numbers = questions.with(first);
        if live.flush(WITHIN).is_some_and(|(waiting, _)| waiting.is_empty()) {
            (questions.answer)(numbers);
        }
    }
}
