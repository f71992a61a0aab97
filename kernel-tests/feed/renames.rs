//! What is renamed at the source is renamed at the followers, and hardly a byte is pulled.

use super::*;

/// Bytes of the large tree.
const LARGE: usize = 8 << 20;

/// A tree that is worth a rename: files of another content each.
fn fill(src: &Dir, dir: &str) {
    src.mkdirs(format!("{dir}/deep"));
    for n in 0..32_u8 {
        src.write(format!("{dir}/deep/{n}"), vec![n; LARGE / 32]);
    }
}

fn pulled(follower: &Follower) -> u64 {
    follower.daemon.target_status("upstream").bytes_sent
}

fn renamed(follower: &Follower) -> usize {
    follower.daemon.log().matches("renamed here").count()
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a_directory_and_a_large_file_are_renamed_at_followers", ON, |fs| {
            let w = World::new(fs, 2)?;
            fill(&w.src, "large");
            w.src.mkdir("into");
            w.src.write("file", fastrand_bytes(LARGE));
            w.check();
            let before: Vec<u64> = w.followers.iter().map(pulled).collect();
            for (from, to) in [("large", "other"), ("other", "into/large"), ("into/large", "large"), ("file", "into/file")] {
                w.src.rename(from, to);
                w.check();
            }
            for (follower, before) in w.followers.iter().zip(before) {
                let bytes = pulled(follower) - before;
                assert!(bytes < 256 << 10, "{} pulled {bytes} bytes of {}\n{}", follower.name, 4 * LARGE, follower.daemon.log());
            }
            // What is in it goes on to change.
            w.src.rename("large", "again");
            w.src.write("again/deep/3", b"another");
            w.src.remove("again/deep/4");
            w.src.mkdir("large");
            w.src.write("large/own", b"of the new one");
            w.check();
            Ok(())
        }),
        case("what_a_follower_renames_is_compared_by_content", ON, |fs| {
            let mut w = World::new(fs, 1)?;
            fill(&w.src, "large");
            w.check();
            // By another program, under the same size and times.
            let copy = w.followers[0].dir.at("large/deep/7");
            let times = copy.metadata().expect("it is there").modified().expect("it has a time");
            std::fs::write(&copy, vec![b'!'; LARGE / 32]).expect("it can be written");
            File::options().write(true).open(&copy).and_then(|f| f.set_modified(times)).expect("its time can be set");
            w.src.rename("large", "other");
            w.check();
            assert_eq!(w.followers[0].dir.read("other/deep/7"), w.src.read("other/deep/7"));
            // Killed with the new name given, and nothing compared.
            w.rsyncd.stop();
            w.src.rename("other", "third");
            w.daemon.flush(None);
            let given = || w.followers[0].dir.has("third").then_some(());
            assert!(poll_until(WAIT, given).is_some(), "it is not renamed:\n{}", w.followers[0].daemon.log());
            let copy = w.followers[0].dir.at("third/deep/8");
            let times = copy.metadata().expect("it is there").modified().expect("it has a time");
            std::fs::write(&copy, vec![b'!'; LARGE / 32]).expect("it can be written");
            File::options().write(true).open(&copy).and_then(|f| f.set_modified(times)).expect("its time can be set");
            w.followers[0].restart();
            w.rsyncd.restart();
            w.check();
            Ok(())
        }),
        case("a_rename_leaves_no_followers_directory_and_replaces_nothing", ON, |fs| {
            let w = World::new(fs, 1)?;
            fill(&w.src, "large");
            w.src.mkdirs("in/to");
            w.src.mkdir("here");
            w.check();
            let copy = &w.followers[0].dir;
            let outside = Dir::new(w.work.path().join("outside"));
            outside.mkdirs("to");
            outside.write("to/kept", b"not the follower's");
            copy.remove("in");
            copy.symlink(outside.root(), "in");
            w.src.rename("large", "in/to/large");
            w.check();
            let left = || std::fs::read_dir(outside.root().join("to")).expect("it can be listed").count();
            assert_eq!((left(), outside.read("to/kept")), (1, Some(b"not the follower's".to_vec())));
            // From there.
            copy.remove("in");
            outside.mkdirs("to/large");
            copy.symlink(outside.root(), "in");
            w.src.rename("in/to/large", "here/large");
            w.check();
            assert!(outside.has("to/large") && left() == 2, "nothing is taken from outside");
            // What has the new name is not moved aside, and goes as it ever did.
            copy.mkdir("taken");
            copy.write("taken/x", b"by another program");
            w.src.rename("here/large", "taken");
            w.check();
            Ok(())
        }),
        case("what_a_follower_leaves_out_is_not_renamed_along", ON, |fs| {
            let w = World::with(fs, 1, "", "exclude = [\"own\"]\n", "")?;
            fill(&w.src, "large");
            w.check();
            w.followers[0].dir.write("large/own", b"the follower's");
            w.src.rename("large", "other");
            w.barrier("f0");
            let copy = &w.followers[0].dir;
            assert_eq!((copy.read("large/own"), copy.has("other/own")), (Some(b"the follower's".to_vec()), false));
            assert_eq!(copy.read("other/deep/9"), w.src.read("other/deep/9"));
            assert_eq!(renamed(&w.followers[0]), 0);
            Ok(())
        }),
    ]
}

/// Bytes that do not compress, nor repeat.
fn fastrand_bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(3);
    (0..len).map(|_| random.u8(..)).collect()
}
