//! What this process may do: its effective capabilities (capabilities(7)).

use std::io;

/// A set of capabilities, as the kernel shows it in /proc/self/status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps(u64);

impl Caps {
    /// The effective set of this process (of its main thread).
    ///
    /// # Errors
    /// Those of reading /proc/self/status; `InvalidData` when it has no such line.
    pub fn effective() -> io::Result<Caps> {
        let status = std::fs::read("/proc/self/status")?;
        Caps::parse(&status).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status has no CapEff line"))
    }

    fn parse(status: &[u8]) -> Option<Caps> {
        let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"CapEff:"))?;
        u64::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 16).ok().map(Caps)
    }

    /// `CAP_SYS_ADMIN`: fanotify filesystem marks, the unlimited queue. In a user namespace it is there and does not help:
    /// the kernel asks for it in the first one.
    pub fn sys_admin(self) -> bool {
        self.has(21)
    }

    /// `CAP_DAC_READ_SEARCH`: open_by_handle_at(2), and reading every directory.
    pub fn dac_read_search(self) -> bool {
        self.has(2)
    }

    fn has(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_self_status() {
        for (status, admin, read) in [
            (&b"Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"[..], true, true),
            (b"CapEff:\t0000000000000000\n", false, false),
            (b"CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000004", false, true),
            (b"CapEff:\t0000000000200000\n", true, false),
        ] {
            let caps = Caps::parse(status).unwrap();
            assert_eq!((caps.sys_admin(), caps.dac_read_search()), (admin, read), "{}", status.escape_ascii());
        }
        for status in [&b""[..], b"CapEff:\tno\n", b"Name:\tCapEff:\t1\n"] {
            assert_eq!(Caps::parse(status), None);
        }
    }

    #[test]
    fn this_process_agrees_with_what_the_kernel_lets_it_do() {
        let caps = Caps::effective().unwrap();
        let marks = crate::sys::fanotify::Group::open(&Default::default())
            .is_ok_and(|group| group.mark_filesystem(std::path::Path::new("/tmp")).is_ok());
        assert!(caps.sys_admin() || !marks);
    }
}
