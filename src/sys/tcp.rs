//! Connections that no process here holds any more, and that the other side has not closed
//! (proc(5), `/proc/net/tcp`).
//!
//! A process that is killed leaves its connections to the kernel, which goes on until the peer has
//! closed its side too, or for `net.ipv4.tcp_fin_timeout` (60 s). So the peer of a killed rsync
//! still reads what was sent to it for as long as its connection stands here as half closed, and no
//! longer: with a receiver that was slow, all of 1,000 files arrived within three seconds after
//! their sender was killed, and the connection was there until the last of them (rsync 3.5.0).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `include/net/tcp_states.h`.
const FIN_WAIT1: &[u8] = b"04";
const FIN_WAIT2: &[u8] = b"05";

/// What is left of connections to one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HalfClosed {
    /// The peer's host knows that our side is closed, its program has not closed the other.
    pub known: bool,
    /// The peer's host has not acknowledged it yet.
    pub unknown: bool,
}

/// The connections of this network namespace to `port`, at `address` where that is known. None
/// where the kernel does not report it.
pub(crate) fn half_closed(address: Option<IpAddr>, port: u16) -> HalfClosed {
    let mut found = HalfClosed::default();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        add(&mut found, &fs::read(table).unwrap_or_default(), address, port);
    }
    found
}

/// The same, of one table.
pub fn half_closed_in(table: &[u8], address: Option<IpAddr>, port: u16) -> HalfClosed {
    let mut found = HalfClosed::default();
    add(&mut found, table, address, port);
    found
}

/// Adds what a table says. A line: number, local address, remote address, state; numbers in
/// hexadecimal, each four bytes of an address in the order of this machine, the port in that of its
/// digits.
fn add(found: &mut HalfClosed, table: &[u8], address: Option<IpAddr>, port: u16) {
    for line in table.split(|byte| *byte == b'\n').skip(1) {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let (Some(remote), Some(state)) = (words.nth(2), words.next()) else { continue };
        let (known, unknown) = (state == FIN_WAIT2, state == FIN_WAIT1);
        if (known || unknown)
            && let Some((ip, at)) = place(remote)
            && at == port
            && address.is_none_or(|address| address.to_canonical() == ip)
        {
            found.known |= known;
            found.unknown |= unknown;
        }
    }
}

fn place(word: &[u8]) -> Option<(IpAddr, u16)> {
    let (address, port) = std::str::from_utf8(word).ok()?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let part = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(part(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, to) in bytes.chunks_mut(4).enumerate() {
                to.copy_from_slice(&part(8 * at)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::Read;
    use std::net::{Shutdown, TcpListener, TcpStream};

    #[test]
    fn lines_of_the_kernel() {
        let table = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 0200007F:0369 05 00000000:00000000 00:00000000 00000000     0        0 0 1 x\n\
            \x20  1: 0100007F:1F90 0100007F:036A 04 00000000:00000000 00:00000000 00000000     0        0 0 1 x\n\
            \x20  2: 0100007F:1F90 0100007F:036B 01 00000000:00000000 00:00000000 00000000     0        0 0 1 x\n\
            \x20  3: short\n\x20  4: a b c 05\n\x20  5: a 0:1 0:zz 05\n";
        let says = |address: &str, port| {
            let mut found = HalfClosed::default();
            add(&mut found, table, address.parse().ok(), port);
            (found.known, found.unknown)
        };
        assert_eq!(says("", 0x369), (true, false));
        assert_eq!(says("127.0.0.2", 0x369), (cfg!(target_endian = "little"), false));
        assert_eq!(says("127.0.0.1", 0x369), (false, false));
        assert_eq!(says("::ffff:127.0.0.2", 0x369), (cfg!(target_endian = "little"), false));
        assert_eq!(says("", 0x36a), (false, true));
        assert_eq!(says("", 0x36b), (false, false), "open on both sides");
        let mut six = HalfClosed::default();
        add(&mut six, b"\n 0: 0:1 00000000000000000000000001000000:0369 05\n", "::1".parse().ok(), 0x369);
        assert_eq!(six.known, cfg!(target_endian = "little"));
    }

    #[test]
    fn one_side_closed_then_both() {
        for address in ["127.0.0.1", "::1"] {
            let Ok(listener) = TcpListener::bind((address, 0)) else { continue };
            let at = listener.local_addr().unwrap();
            let own = TcpStream::connect(at).unwrap();
            let (mut other, _) = listener.accept().unwrap();
            assert_eq!(half_closed(Some(at.ip()), at.port()), HalfClosed::default());
            own.shutdown(Shutdown::Write).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap(), 0, "its host knows");
            drop(own);
            let known = |known| {
                let began = std::time::Instant::now();
                while half_closed(Some(at.ip()), at.port()).known != known {
                    assert!(began.elapsed().as_secs() < 60, "{address}: never {known}");
                    std::thread::yield_now();
                }
            };
            known(true);
            drop(other);
            known(false);
        }
    }
}
