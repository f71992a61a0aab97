//! Packets of one length between two processes, each with at most one descriptor: a pair of
//! SOCK_SEQPACKET sockets.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, recvmsg, sendmsg, setsockopt,
    shutdown, socketpair, sockopt,
};
use nix::sys::time::TimeVal;

/// One end. Both close on exec.
#[derive(Debug)]
pub(crate) struct Packets(OwnedFd);

/// What came.
#[derive(Debug)]
pub(crate) enum Came<const N: usize> {
    /// A packet, and its descriptor.
    Packet([u8; N], Option<OwnedFd>),
    /// Something that is no packet of this length.
    Other,
    /// The other end is closed.
    End,
}

impl From<OwnedFd> for Packets {
    fn from(fd: OwnedFd) -> Packets {
        Packets(fd)
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Packets {
    /// Two ends.
    ///
    /// # Errors
    /// socketpair(2).
    pub(crate) fn pair() -> io::Result<(Packets, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Packets(ours), theirs))
    }

    /// How long [`Packets::send`] waits at most for a reader that does not keep up.
    ///
    /// # Errors
    /// setsockopt(2).
    pub(crate) fn patience(&self, most: Duration) -> io::Result<()> {
        let most = TimeVal::new(most.as_secs() as i64, most.subsec_micros().into());
        Ok(setsockopt(&self.0, sockopt::SendTimeout, &most)?)
    }

    /// Sends a packet, and a copy of a descriptor.
    ///
    /// # Errors
    /// sendmsg(2); `WouldBlock` after [`Packets::patience`].
    pub(crate) fn send(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_with(packet, fd, MsgFlags::empty())
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// sendmsg(2); `WouldBlock` when it would have to wait.
    pub(crate) fn send_now(&self, packet: &[u8]) -> io::Result<()> {
        self.send_with(packet, None, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(&self, packet: &[u8], fd: Option<BorrowedFd<'_>>, flags: MsgFlags) -> io::Result<()> {
        let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights };
        let iov = [IoSlice::new(packet)];
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &iov, rights, flags | MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Takes the next packet, without waiting.
    ///
    /// # Errors
    /// recvmsg(2); `WouldBlock` when there is none yet.
    pub(crate) fn recv_now<const N: usize>(&self) -> io::Result<Came<N>> {
        let mut room = nix::cmsg_space!(std::os::fd::RawFd);
        self.recv_with(Some(&mut room))
    }

    /// The same; a descriptor that comes along is closed by the kernel.
    ///
    /// # Errors
    /// As [`Packets::recv_now`].
    pub(crate) fn recv_bytes_now<const N: usize>(&self) -> io::Result<Came<N>> {
        self.recv_with(None)
    }

    fn recv_with<const N: usize>(&self, room: Option<&mut [u8]>) -> io::Result<Came<N>> {
        let mut packet = [0; N];
        let mut iov = [IoSliceMut::new(&mut packet)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let (bytes, cut, fd) = {
            let message = recvmsg::<()>(self.0.as_raw_fd(), &mut iov, room, flags)?;
            let cut = message.flags.contains(MsgFlags::MSG_TRUNC);
            let mut fds = Vec::new();
            for control in message.cmsgs().into_iter().flatten() {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    // SAFETY: the kernel has just made these descriptors for this process, and
                    // nothing else knows of them.
                    fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            (message.bytes, cut, fds.pop())
        };
        Ok(match bytes {
            0 => Came::End,
            n if n == N && !cut => Came::Packet(packet, fd),
            _ => Came::Other,
        })
    }

    /// Ends it: both ends read [`Came::End`] from now on.
    pub(crate) fn end(&self) {
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

/// Closes every descriptor of this process from `first` on.
///
/// # Errors
/// close_range(2), which kernels have from 5.9 on; before that, those of reading /proc/self/fd.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: no descriptor is owned by anything yet that would go on to use it: the caller is at
    // the start of its process.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) };
    match Errno::result(done) {
        Ok(_) => return Ok(()),
        Err(Errno::ENOSYS | Errno::EPERM) => {}
        Err(e) => return Err(e.into()),
    }
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for fd in open.into_iter().filter(|fd| u32::try_from(*fd).is_ok_and(|fd| fd >= first)) {
        // The directory's own is closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn packets_with_and_without_a_descriptor() {
        let (a, b) = Packets::pair().unwrap();
        let b = Packets::from(b);
        assert_eq!(b.recv_now::<4>().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (mut read, write) = std::io::pipe().unwrap();
        a.send(b"1234", Some(write.as_fd())).unwrap();
        a.send(b"5678", None).unwrap();
        let Came::Packet(packet, Some(fd)) = b.recv_now::<4>().unwrap() else { panic!("no descriptor came") };
        assert_eq!(&packet, b"1234");
        std::fs::File::from(fd).write_all(b"x").unwrap();
        assert!(matches!(b.recv_now::<4>().unwrap(), Came::Packet(p, None) if &p == b"5678"));
        drop(write);
        let mut all = Vec::new();
        read.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"x");
    }

    #[test]
    fn what_has_another_length_is_no_packet() {
        let (a, b) = Packets::pair().unwrap();
        let b = Packets::from(b);
        for wrong in [&b"123"[..], b"12345"] {
            a.send(wrong, None).unwrap();
            assert!(matches!(b.recv_bytes_now::<4>().unwrap(), Came::Other), "{wrong:?}");
        }
        // A descriptor that was not requested is closed with its packet.
        let (mut read, write) = std::io::pipe().unwrap();
        a.send(b"1234", Some(write.as_fd())).unwrap();
        drop(write);
        assert!(matches!(b.recv_bytes_now::<4>().unwrap(), Came::Packet(_, None)));
        assert_eq!(read.read(&mut [0]).unwrap(), 0);
        a.end();
        assert!(matches!(b.recv_bytes_now::<4>().unwrap(), Came::End));
        assert!(b.send(b"1234", None).is_err());
    }

    #[test]
    fn a_reader_that_does_not_keep_up_is_waited_for_once() {
        let (a, _b) = Packets::pair().unwrap();
        a.patience(Duration::from_millis(20)).unwrap();
        let mut sent = 0;
        let error = loop {
            match a.send(&[0; 1024], None) {
                Ok(()) => sent += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(sent > 16, "{sent}");
    }
}
