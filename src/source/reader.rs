//! temp
use crate::sys::event::EventFd;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
#[derive(Clone, Copy, Debug)]
pub enum Feed {
    Fanotify,
    Inotify,
}
pub struct Buf {
    pub feed: Feed,
    pub data: Vec<u8>,
}
pub enum Item {
    Buf(Buf),
    Drained(u64),
    Failed { feed: Feed, error: io::Error },
}
pub struct Input {
    pub feed: Feed,
    pub fd: OwnedFd,
}
#[derive(Clone, Copy)]
pub enum Backend {
    Auto,
    Poll,
}
pub struct ReaderConfig {
    pub settle: Duration,
    pub buf_bytes: usize,
    pub bufs: usize,
    pub backend: Backend,
}
pub struct Reader {
    rx: crossbeam::channel::Receiver<Item>,
    dtx: crossbeam::channel::Sender<u64>,
    ctl: Arc<EventFd>,
}
impl Reader {
    pub fn spawn(inputs: Vec<Input>, cfg: ReaderConfig, wake: Arc<EventFd>) -> io::Result<Reader> {
        let (tx, rx) = crossbeam::channel::unbounded();
        let (dtx, drx) = crossbeam::channel::unbounded::<u64>();
        let ctl = Arc::new(EventFd::new()?);
        let c2 = ctl.clone();
        std::thread::spawn(move || {
            let mut buf = vec![0u8; 131072];
            loop {
                {
                    let mut fds: Vec<_> =
                        inputs.iter().map(|i| nix::poll::PollFd::new(i.fd.as_fd(), nix::poll::PollFlags::POLLIN)).collect();
                    fds.push(nix::poll::PollFd::new(c2.as_fd(), nix::poll::PollFlags::POLLIN));
                    let _ = nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE);
                }
                c2.clear();
                let toks: Vec<u64> = drx.try_iter().collect();
                let mut n = 0;
                for i in &inputs {
                    while let Ok(k) = nix::unistd::read(&i.fd, &mut buf) {
                        if k == 0 {
                            break;
                        }
                        n += 1;
                        let _ = tx.send(Item::Buf(Buf { feed: i.feed, data: buf[..k].to_vec() }));
                    }
                }
                for t in toks {
                    let _ = tx.send(Item::Drained(t));
                    n += 1;
                }
                if n > 0 {
                    wake.wake();
                }
                std::thread::sleep(cfg.settle / 8);
            }
        });
        Ok(Reader { rx, dtx, ctl })
    }
    pub fn pop(&self) -> Option<Item> {
        self.rx.try_recv().ok()
    }
    pub fn give_back(&self, _b: Buf) {}
    pub fn request_drain(&self, t: u64) {
        let _ = self.dtx.send(t);
        self.ctl.wake();
    }
    pub fn backend_name(&self) -> &'static str {
        "poll"
    }
    pub fn backend_reason(&self) -> &str {
        "temp"
    }
}
