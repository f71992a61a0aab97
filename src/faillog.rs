//! A file that says which paths do not go through, why, and how to send one by hand (`fail_log`).
//!
//! It always shows the present state: a path that went through is gone from it, also after a
//! restart. fansync never reads or runs it. Readable by its owner alone, since a line may name a
//! password file and every path; replaced whole by a rename, so that a link or a stranger's file in
//! its place (in `/tmp`) is neither followed nor kept.
//!
//! Several mirrors may name one file; each target has its section.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use crate::path::Shown;
use crate::sys::replace::Replace;

const HEAD: &str = "\
# Paths that do not go through, and why. Each is tried again by itself, and leaves this file when it went through.
# To send one by hand, run its line in a shell. Nothing runs this file.
";

/// The record of one file. See the module's text.
#[derive(Debug)]
pub(crate) struct FailLog {
    path: PathBuf,
    /// By mirror and target.
    sections: Mutex<BTreeMap<String, Vec<u8>>>,
}

/// The records of this process, so that mirrors that name one file share it.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<FailLog>>> = Mutex::new(BTreeMap::new());

impl FailLog {
    /// The record at `path`, shared by all who ask for it.
    pub(crate) fn open(path: &Path) -> Arc<FailLog> {
        let mut open = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(log) = open.get(path).and_then(Weak::upgrade) {
            return log;
        }
        let log = Arc::new(FailLog { path: path.into(), sections: Mutex::default() });
        open.insert(path.into(), Arc::downgrade(&log));
        log
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the text of one section; an empty one has none. Writes the file if that changed
    /// anything, or if it holds what an earlier process left.
    ///
    /// # Errors
    /// The file cannot be written; it is as it was, and the next call tries again.
    pub(crate) fn set(&self, section: &str, text: Vec<u8>) -> io::Result<()> {
        let mut sections = self.sections.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = !sections.contains_key(section);
        let same = sections.get(section).map_or(text.is_empty(), |old| *old == text);
        if same && !(first && self.path.symlink_metadata().is_ok()) {
            sections.entry(section.to_owned()).or_default();
            return Ok(());
        }
        let old = sections.insert(section.to_owned(), text);
        let mut whole = HEAD.as_bytes().to_vec();
        for text in sections.values().filter(|t| !t.is_empty()) {
            whole.push(b'\n');
            whole.extend_from_slice(text);
        }
        let written = self.replace(&whole);
        if written.is_err() {
            match old {
                Some(old) => sections.insert(section.to_owned(), old),
                None => sections.remove(section),
            };
        }
        written
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        // No name that another user could hold, where the directory is everybody's.
        let aside = format!(".{name}.{:016x}", fastrand::u64(..));
        let new = Replace { aside: aside.as_ref(), mode: 0o600, durable: false };
        new.put_at(&self.path, bytes).map(drop)
    }
}

/// `word` as a shell reads it back, byte for byte, and as a terminal shows it harmlessly: what
/// would steer one is written by its number, by `printf` in a command substitution, which every
/// POSIX shell has.
pub fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    // What is shown otherwise than it is has something in it that must not be shown.
    let shown = Shown(word).to_string().replace("\\\\", "\\");
    if word.is_empty() || shown.as_bytes() == word {
        return single(word);
    }
    // A command substitution takes line breaks off the end of what it gives.
    let end = word.iter().rposition(|&b| b != b'\n').map_or(0, |at| at + 1);
    let mut out = b"\"$(printf '".to_vec();
    for (at, &b) in word[..end].iter().enumerate() {
        match b {
            // As the first it would begin an option of printf.
            b'-' if at == 0 => out.extend_from_slice(b"\\055"),
            b'\'' | b'\\' | b'%' | 0..0x20 | 0x7f.. => out.extend_from_slice(format!("\\{b:03o}").as_bytes()),
            _ => out.push(b),
        }
    }
    out.extend_from_slice(b"')\"");
    if end < word.len() {
        out.extend(single(&word[end..]));
    }
    out
}

fn single(word: &[u8]) -> Vec<u8> {
    let mut out = vec![b'\''];
    for &b in word {
        if b == b'\'' {
            out.extend_from_slice(b"'\\''");
        } else {
            out.push(b);
        }
    }
    out.push(b'\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    #[test]
    fn sections_come_and_go_in_one_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let victim = dir.path().join("victim");
        fs::write(&victim, "theirs").unwrap();
        symlink(&victim, &path).unwrap();
        let (a, b) = (FailLog::open(&path), FailLog::open(&path));
        assert!(Arc::ptr_eq(&a, &b));
        a.set("m/a", b"one\n".to_vec()).unwrap();
        b.set("m/b", b"two\n".to_vec()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{HEAD}\none\n\ntwo\n"));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "theirs");
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        a.set("m/a", Vec::new()).unwrap();
        b.set("m/b", Vec::new()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), HEAD);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a temporary file is left");
    }

    #[test]
    fn what_an_earlier_process_left_is_replaced_and_no_file_made_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        FailLog::open(&path).set("m/a", Vec::new()).unwrap();
        assert!(!path.exists());
        fs::write(&path, "touch /planted").unwrap();
        FailLog::open(&path).set("m/a", Vec::new()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), HEAD);
    }

    #[test]
    fn nothing_that_steers_a_terminal_is_in_it() {
        for (word, want) in [
            (&b"a b"[..], &b"'a b'"[..]),
            (b"it's", b"'it'\\''s'"),
            ("é ü".as_bytes(), "'é ü'".as_bytes()),
            (b"back\\slash", b"'back\\slash'"),
            (b"\x1b[2Jx", b"\"$(printf '\\033[2Jx')\""),
            (b"a\rb%'\\$x`", b"\"$(printf 'a\\015b\\045\\047\\134$x`')\""),
            (b"\xff", b"\"$(printf '\\377')\""),
            (b"-\x7f-", b"\"$(printf '\\055\\177-')\""),
            ("a\u{202e}b".as_bytes(), b"\"$(printf 'a\\342\\200\\256b')\""),
            (b"a\n", b"\"$(printf 'a')\"'\n'"),
            (b"", b"''"),
        ] {
            assert_eq!(quoted(word), want, "{}", Shown(&quoted(word)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn a_shell_reads_back_what_was_quoted(word in proptest::collection::vec(1u8.., 0..20)) {
            use std::os::unix::ffi::OsStringExt;
            let script = [b"printf %s ".to_vec(), quoted(&word)].concat();
            let ran = Command::new("sh").arg("-c").arg(std::ffi::OsString::from_vec(script)).output().unwrap();
            prop_assert_eq!(ran.stdout, word.clone());
            let steers = |text: &[u8]| text.iter().any(|&b| (b < 0x20 && b != b'\n') || b == 0x7f);
            prop_assert!(!steers(&quoted(&word)));
        }
    }
}
