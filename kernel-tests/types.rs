//! Names that change what they are, between and within batches, with content in the way.

use crate::fixture::fs::{ALL, Fs};
use crate::fixture::tree::Dir;
use crate::fixture::{Case, Mirror, Setup, case, step};

fn full_dir(src: &Dir) {
    src.mkdirs("x/sub/deep");
    src.write("x/file", b"x");
    src.write("x/sub/deep/file", b"deep");
    src.mkdir("elsewhere");
    src.write("elsewhere/kept", b"must survive");
}

fn file(src: &Dir) {
    src.write("x", b"a file");
    src.mkdir("elsewhere");
    src.write("elsewhere/kept", b"must survive");
}

fn link_to_dir(src: &Dir) {
    src.mkdir("elsewhere");
    src.write("elsewhere/kept", b"must survive");
    src.symlink("elsewhere", "x");
}

fn fifo(src: &Dir) {
    src.fifo("x");
}

pub fn cases() -> Vec<Case> {
    let of = |name, given: fn(&Dir), act: fn(&Mirror)| step(name, ALL, given, act);
    vec![
        of("file_to_dir", file, |m| (m.src.remove("x"), full_again(m)).1),
        of("dir_to_file", full_dir, |m| (m.src.remove("x"), m.src.write("x", b"now a file")).1),
        of("dir_to_symlink_to_dir", full_dir, |m| (m.src.remove("x"), m.src.symlink("elsewhere", "x")).1),
        of("symlink_to_dir", link_to_dir, |m| (m.src.remove("x"), full_again(m)).1),
        of("symlink_to_file", link_to_dir, |m| (m.src.remove("x"), m.src.write("x", b"a file")).1),
        of("symlink_points_elsewhere", link_to_dir, |m| (m.src.remove("x"), m.src.symlink("/dev/null", "x")).1),
        of("file_to_fifo", file, |m| (m.src.remove("x"), m.src.fifo("x")).1),
        of("fifo_to_file", fifo, |m| (m.src.remove("x"), m.src.write("x", b"a file")).1),
        of("dir_to_fifo", full_dir, |m| (m.src.remove("x"), m.src.fifo("x")).1),
        of("file_to_device", file, |m| (m.src.remove("x"), m.src.device("x", 1, 5)).1),
        of("dir_replaced_by_rename", full_dir, |m| {
            m.src.write("new", b"a file under another name");
            m.src.remove("x");
            m.src.rename("new", "x");
        }),
        of("file_replaced_by_moved_dir", file, |m| {
            m.src.mkdirs("new/sub");
            m.src.write("new/sub/file", b"f");
            m.src.remove("x");
            m.src.rename("new", "x");
        }),
        of("dir_moved_away_symlink_in_its_place", full_dir, |m| {
            m.src.rename("x", "y");
            m.src.symlink("y", "x");
            m.src.write("y/sub/new", b"through neither");
        }),
        case("there_and_back", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            m.src.write("x", b"a file");
            m.check();
            for turn in 0..3 {
                m.src.remove("x");
                m.src.fifo("x");
                m.check();
                m.src.remove("x");
                m.src.mkdir("x");
                m.src.write("x/file", format!("turn {turn}"));
                m.check();
                m.src.remove("x");
                m.src.write("x", format!("a file, turn {turn}"));
                m.check();
            }
            Ok(())
        }),
        case("dir_to_file_to_symlink_and_back", &[Fs::Ext4], |fs| {
            let m = Setup::new(fs).start()?;
            full_dir(&m.src);
            m.check();
            for turn in 0..3 {
                m.src.rename("x", "away");
                m.src.write("x", format!("a file, turn {turn}"));
                m.check();
                m.src.remove("x");
                m.src.symlink("away", "x");
                m.src.write("away/file", format!("turn {turn}"));
                m.check();
                // The link goes and the directory comes back in one window, with content written
                // under either name.
                m.src.write("x/sub/through the link", b"x");
                m.src.remove("x");
                m.src.rename("away", "x");
                m.src.write("x/sub/new", format!("turn {turn}"));
                m.check();
            }
            Ok(())
        }),
        case("all_types_in_one_window", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            full_dir(&m.src);
            m.check();
            m.src.remove("x");
            m.src.write("x", b"file");
            m.src.remove("x");
            m.src.symlink("elsewhere", "x");
            m.src.remove("x");
            m.src.fifo("x");
            m.src.remove("x");
            m.src.mkdir("x");
            m.src.write("x/only this", b"content");
            m.check();
            Ok(())
        }),
        case("same_dir_name_other_content", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            for n in 0..50 {
                m.src.mkdirs(format!("d{n}/sub"));
                m.src.write(format!("d{n}/old"), b"old");
                m.src.write(format!("d{n}/sub/old"), b"old");
            }
            m.check();
            for n in 0..50 {
                m.src.remove(format!("d{n}"));
                m.src.mkdirs(format!("d{n}/sub"));
                m.src.write(format!("d{n}/sub/new"), b"new");
            }
            m.check();
            Ok(())
        }),
        case("mkdir_delete_mkdir", ALL, |fs| {
            let m = Setup::new(fs).start()?;
            for n in 0..50 {
                m.src.mkdirs(format!("d{n}/sub"));
                m.src.write(format!("d{n}/sub/first"), b"first");
                m.src.remove(format!("d{n}"));
                m.src.mkdirs(format!("d{n}/sub"));
                m.src.write(format!("d{n}/sub/second"), b"second");
            }
            m.check();
            Ok(())
        }),
    ]
}

fn full_again(m: &Mirror) {
    m.src.mkdirs("x/sub");
    m.src.write("x/sub/file", b"in the new directory");
}
