//! Names that shells, list parsers and pattern matchers trip over.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::tree::bytes;
use crate::fixture::{Case, Setup, case};

use std::path::PathBuf;

/// All on one filesystem: nothing here but NUL and `/` is special to the kernel.
pub fn hostile() -> Vec<PathBuf> {
    let mut names: Vec<Vec<u8>> = [
        b"#comment".as_slice(),
        b";comment",
        b"-rf",
        b"--delete",
        b" ",
        b" leading space",
        b"trailing space ",
        b"new\nline",
        b"\n",
        b"carriage\rreturn",
        b"tab\tinside",
        b"*",
        b"?",
        b"[a-z]",
        b"[",
        b"back\\slash",
        b"\\",
        b"\\#012",
        b"$(reboot)",
        b"`reboot`",
        b"$HOME",
        b"single ' quote",
        b"double \" quote",
        b"~",
        b"~root",
        b".~tmp~",
        b".f.AbCdEf",
        b"...",
        b"a:b",
        b"host::module",
        b":colon",
        b"!bang",
        b"+plus",
        b"&&",
        b"|",
        b"{a,b}",
        b"%2F",
        b"(deleted)",
        b"gone (deleted)",
        "gr\u{fc}\u{df}e \u{1f980}".as_bytes(),
        b"latin-1 \xfc\xdf",
        b"\xff\xfe",
        b"\x01\x1b[31m\x7f",
        b"*deleting   f",
        b">f+++++++++ f",
    ]
    .iter()
    .map(|name| name.to_vec())
    .collect();
    names.push(vec![b'x'; 255]);
    names.push([b"\xff".repeat(254), b"#".to_vec()].concat());
    names.iter().map(|name| bytes(name).to_path_buf()).collect()
}

pub fn cases() -> Vec<Case> {
    vec![
        case("of_files", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            for name in &hostile() {
                m.src.write(name, b"created");
            }
            m.check();
            for name in &hostile() {
                m.src.write(name, b"written again");
            }
            m.check();
            for name in &hostile() {
                m.src.chmod(name, 0o600);
            }
            m.check();
            for name in &hostile() {
                m.src.remove(name);
            }
            m.check();
            Ok(())
        }),
        case("one_by_one", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).start()?;
            // Alone in its batch a name cannot be carried along by another.
            for name in &hostile() {
                m.src.write(name, b"created");
                m.check();
                m.src.remove(name);
                m.check();
            }
            Ok(())
        }),
        case("of_dirs", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            for name in &hostile() {
                m.src.mkdirs(name.join("sub").join(name));
                m.src.write(name.join("file"), b"f");
                m.src.write(name.join("sub").join(name).join(name), b"deep");
            }
            m.check();
            for name in &hostile() {
                m.src.write(name.join("sub").join(name).join(name), b"changed");
                m.src.remove(name.join("file"));
            }
            m.check();
            for name in &hostile() {
                m.src.remove(name);
            }
            m.check();
            Ok(())
        }),
        case("in_renames", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            m.src.mkdir("to");
            for name in &hostile() {
                m.src.mkdir(name);
                m.src.write(name.join("file"), b"f");
            }
            m.check();
            for name in &hostile() {
                m.src.rename(name, bytes(b"to").join(name));
            }
            m.check();
            let names = hostile();
            for (n, pair) in names.windows(2).enumerate().filter(|(n, _)| n % 2 == 0) {
                // In place of its neighbour, which goes.
                m.src.remove(bytes(b"to").join(&pair[1]));
                m.src.rename(bytes(b"to").join(&pair[0]), bytes(b"to").join(&pair[1]));
                m.src.write(bytes(b"to").join(&pair[1]).join("n"), format!("{n}"));
            }
            m.check();
            Ok(())
        }),
        case("of_symlinks", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            for name in &hostile() {
                m.src.symlink(name, name);
            }
            m.check();
            for name in &hostile() {
                m.src.remove(name);
                m.src.symlink("/", name);
            }
            m.check();
            Ok(())
        }),
        case("long_path", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            // 14 components of 255 bytes: about as long as a path may be below a root of usual
            // length.
            let mut path = PathBuf::new();
            for n in 0..14u8 {
                path.push(bytes(&[b'a' + n; 255]));
                m.src.mkdir(&path);
            }
            m.src.write(path.join("f"), b"far down");
            m.check();
            m.src.write(path.join("f"), b"changed far down");
            m.check();
            m.src.remove(bytes(&[b'a'; 255]));
            m.check();
            Ok(())
        }),
    ]
}
