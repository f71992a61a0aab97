//! Who made a message, and for which: codes (HMAC-SHA-256) under the key that all hosts of a set
//! share.
//!
//! A code covers the version of the protocol, what kind of message it is, the numbers that both
//! sides made up for this connection, who sends it and to whom, and for a reply the request that it
//! answers. So a message is good once, on its connection, for the one that it was made for. The
//! parts are written with their lengths, so that none can pass for another.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::trust::{self, Mind, TrustError};

/// The first word of what a server says, and a part of every code.
pub(crate) const VERSION: &str = "fansync-failover/3";
/// Bytes of a code.
pub(crate) const CODE: usize = 32;
/// Bytes of a random number.
pub(crate) const ID: usize = 16;

/// The key that all hosts of a set share.
#[derive(Clone)]
pub struct Key([u8; 16]);

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Its file is open to others, or does not exist.
    #[error("cannot use the key file {path}: {source}; {}", .source.help())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TrustError,
    },
    /// It holds something else.
    #[error("the key file {path} must hold 32 hexadecimal digits; make one: openssl rand -hex 16 > {path}")]
    Form {
        /// The file.
        path: PathBuf,
    },
}

impl Key {
    /// Reads it from a file that is ours alone.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read(path: &Path) -> Result<Key, KeyError> {
        let bytes = trust::read(path, Mind::Secret, 256).map_err(|source| KeyError::File { path: path.into(), source })?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        Key::parse(text.trim()).ok_or_else(|| KeyError::Form { path: path.into() })
    }

    pub(in crate::failover) fn parse(text: &str) -> Option<Key> {
        let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32 && !text.starts_with('+'))?;
        Some(Key(number.to_be_bytes()))
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in std::iter::once(&VERSION.as_bytes()).chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    /// The code of these parts.
    pub(super) fn code(&self, parts: &[&[u8]]) -> [u8; CODE] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `code` is that of these parts. It takes as long whichever byte differs.
    pub(super) fn is_code(&self, code: &[u8; CODE], parts: &[&[u8]]) -> bool {
        self.mac(parts).verify_slice(code).is_ok()
    }
}

/// What identifies one process of one host for as long as it runs, or a connection: 16 random
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id([u8; ID]);

impl Id {
    /// One that was never used before and cannot be guessed.
    ///
    /// # Errors
    /// Those of reading /dev/urandom.
    pub fn new() -> io::Result<Id> {
        let mut bytes = [0; ID];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Id(bytes))
    }

    /// The number that these bytes are: any are one.
    pub fn from_bytes(bytes: [u8; ID]) -> Id {
        Id(bytes)
    }

    /// Its bytes, as they are sent.
    pub(crate) fn bytes(&self) -> &[u8; ID] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for (text, good) in [("0123456789abcdef0123456789ABCDEF\n", true), ("0123", false), ("", false), (&"x".repeat(32), false)]
        {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            assert_eq!(Key::read(&path).is_ok(), good, "{text:?}");
        }
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(Key::read(&path), Err(KeyError::File { .. })));
    }

    /// RFC 4231 has no case with a key of 16 bytes; this one was made with Python's hmac and
    /// hashlib.
    #[test]
    fn it_is_hmac_sha_256() {
        let key = Key::parse("000102030405060708090a0b0c0d0e0f").unwrap();
        let code: String = key.code(&[b"request", b"x"]).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(code, "3c0d3a4ae50564ca7a1e8e68f17212d5cf12ac847eae621a7ea3bf9cc2d48a52");
    }

    #[test]
    fn parts_cannot_pass_for_each_other() {
        let key = Key::parse(&"a".repeat(32)).unwrap();
        let code = key.code(&[b"ab", b"c"]);
        assert!(key.is_code(&code, &[b"ab", b"c"]));
        for other in [&[&b"a"[..], b"bc"][..], &[b"abc"], &[b"ab", b"c", b""], &[b"ab"], &[b"c", b"ab"]] {
            assert!(!key.is_code(&code, other), "{other:?}");
        }
        assert!(!Key::parse(&"b".repeat(32)).unwrap().is_code(&code, &[b"ab", b"c"]));
        for bit in 0..8 * CODE {
            let mut broken = code;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.is_code(&broken, &[b"ab", b"c"]), "bit {bit}");
        }
    }
}
