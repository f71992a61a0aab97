//! What each pass does to a target, row by row.

use std::ffi::OsString;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fansync::sync::argv::{Deletions, Pass};
use fansync::sync::outcome::Verdict;

use crate::fixture::{Fixture, ROADS, Road, assert_same, make, names, snapshot};

fn each(test: impl Fn(Fixture)) {
    ROADS.into_iter().for_each(|road| test(Fixture::new(road)));
}

/// Both sides equal, by a full pass.
fn equal(fixture: &Fixture, tree: &[&str]) {
    make(&fixture.src(), tree);
    fixture.done(Pass::Full { progress: false }, &[]);
    fixture.assert_same();
}

#[test]
fn shallow_changes_of_every_type() {
    each(|f| {
        equal(
            &f,
            &["file", "empty/", "full/a", "full/sub/b", "todir", "tofile/x/y", "tolink/x", "gone", "l -> full", "deep/a/b/c"],
        );
        let src = f.src();
        for gone in ["file", "gone", "l", "todir"] {
            fs::remove_file(src.join(gone)).unwrap();
        }
        for gone in ["empty", "full", "tofile", "tolink"] {
            fs::remove_dir_all(src.join(gone)).unwrap();
        }
        fs::remove_dir_all(f.dst().join("deep")).unwrap();
        make(&src, &["todir/", "tofile", "tolink -> nowhere", "new/dir/", "new/file"]);
        let listed = ["file", "gone", "l", "empty", "full", "todir", "tofile", "tolink", "new/dir", "new/file", "deep/a/b/c"];
        f.done(Pass::Shallow, &listed.map(str::as_bytes));
        f.assert_same();
    });
}

#[test]
fn names_that_mean_something_elsewhere() {
    each(|f| {
        let long = "n".repeat(255);
        let mut names: Vec<&[u8]> =
            vec![b"#x", b";x", b"-x", b"--delete", b":x", b"h::m", b"*", b"?", b"[a]", b"\\", b" ", b"\n", b"\r"];
        names.extend([&b"'\""[..], b"$(id)", b"\x01", b"\xff\xfe", b"~", b"\\#012", b"+ x", b"- x", b"!", long.as_bytes()]);
        let path = |name: &[u8]| f.src().join(std::ffi::OsStr::from_bytes(name));
        equal(&f, &["keep"]);
        names.iter().for_each(|name| fs::write(path(name), name).unwrap());
        f.done(Pass::Shallow, &names);
        f.assert_same();
        names.iter().for_each(|name| fs::remove_file(path(name)).unwrap());
        f.done(Pass::Shallow, &names);
        f.assert_same();
        names.iter().for_each(|name| make(&path(name), &["a/b"]));
        f.done(Pass::Deep, &names);
        f.assert_same();
        names.iter().for_each(|name| fs::remove_dir_all(path(name)).unwrap());
        f.done(Pass::Shallow, &names);
        f.assert_same();
    });
}

#[test]
fn a_rewrite_of_the_same_size_within_the_second() {
    each(|f| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        let write = |content: &str, nanos: u32| {
            let mut file = File::create(f.src().join("a")).unwrap();
            std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
            file.set_times(FileTimes::new().set_modified(at + Duration::new(0, nanos))).unwrap();
        };
        write("one", 1_000_000);
        f.done(Pass::Shallow, &[b"a"]);
        for (pass, content, nanos) in [
            (Pass::Shallow, "two", 2_000_000),
            (Pass::Deep, "tri", 3_000_000),
            (Pass::Full { progress: false }, "for", 4_000_000),
        ] {
            write(content, nanos);
            f.done(pass, &[b"a"]);
            f.assert_same();
        }
    });
}

#[test]
fn one_level_is_exact_and_touches_nothing_else() {
    each(|f| {
        equal(&f, &["d/keep", "d/sub/x", "e/x"]);
        make(&f.dst(), &["d/extra", "d/extradir/x/y", "d/sub/extra", "e/extra", "extra"]);
        make(&f.src(), &["d/new", "d/newdir/x", "e/new"]);
        f.done(Pass::ShallowOneLevel, &[b"d/", b"e/new"]);
        let want =
            ["d/", "d/keep", "d/new", "d/newdir/", "d/sub/", "d/sub/extra", "d/sub/x", "e/", "e/extra", "e/new", "e/x", "extra"];
        assert_eq!(names(&f.dst()), want, "{:?}", f.road);
        f.done(Pass::ShallowOneLevel, &[b"/"]);
        assert!(!f.dst().join("extra").exists() && f.dst().join("e/extra").exists());
    });
}

#[test]
fn deep_is_exact_and_touches_nothing_else() {
    each(|f| {
        equal(&f, &["d/sub/x", "d2/x", "file"]);
        make(&f.dst(), &["d/extra", "d/sub/extra/y", "d2/extra"]);
        fs::remove_file(f.src().join("d/sub/x")).unwrap();
        make(&f.src(), &["d/sub/new/y", "other"]);
        f.done(Pass::Deep, &[b"d", b"file"]);
        let want = ["d/", "d/sub/", "d/sub/new/", "d/sub/new/y", "d2/", "d2/extra", "d2/x", "file"];
        assert_eq!(names(&f.dst()), want, "{:?}", f.road);
    });
}

#[test]
fn deep_takes_a_link_as_a_link() {
    each(|f| {
        equal(&f, &["real/x", "d/x"]);
        fs::remove_dir_all(f.src().join("d")).unwrap();
        make(&f.src(), &["d -> real"]);
        f.done(Pass::Deep, &[b"d"]);
        f.assert_same();
    });
}

#[test]
fn full_with_progress_knows_its_total() {
    each(|f| {
        let files: Vec<String> = (0..300).map(|i| format!("d{}/f{i}", i % 7)).collect();
        make(&f.src(), &files.iter().map(String::as_str).collect::<Vec<_>>());
        make(&f.dst(), &["extra/x"]);
        let mut totals = Vec::new();
        let mut run = f.start(Pass::Full { progress: true }, fansync::sync::run::Input::None);
        let outcome = run.wait(crate::fixture::PATIENCE, |output| totals.extend(output.progress)).unwrap();
        assert_eq!(outcome.verdict, Verdict::Done, "{outcome:?}");
        assert_eq!((outcome.counters.files_sent, outcome.counters.deleted), (300, 2));
        assert!(outcome.counters.wire_sent > 0);
        // The tree has the root, seven directories and the files.
        let last = totals.last().expect("progress was reported");
        assert_eq!((last.files_done, last.files_total, last.percent), (308, 308, 100));
        assert!(totals.iter().all(|progress| !progress.scanning), "the total is known from the first report on");
        f.assert_same();
    });
}

#[test]
fn without_delete_all_stays() {
    each(|mut f| {
        f.options.keep = true;
        equal(&f, &["a", "d/x", "e/x"]);
        make(&f.dst(), &["extra", "d/extra"]);
        let before = names(&f.dst());
        fs::remove_file(f.src().join("a")).unwrap();
        fs::remove_dir_all(f.src().join("e")).unwrap();
        for (pass, entries) in [
            (Pass::Shallow, &[&b"a"[..], b"e"][..]),
            (Pass::ShallowOneLevel, &[b"/", b"d/"]),
            (Pass::Deep, &[b"d", b"e"]),
            (Pass::Full { progress: false }, &[]),
        ] {
            f.done(pass, entries);
            assert_eq!(names(&f.dst()), before, "{:?} {pass:?}", f.road);
        }
        // A type that would need a delete is reported, not carried out.
        make(&f.src(), &["e"]);
        let outcome = f.run(Pass::Shallow, &[b"e"]);
        assert_eq!(outcome.verdict, Verdict::Partial, "{outcome:?}");
        assert_eq!(outcome.failed.iter().map(|f| f.path.to_string()).collect::<Vec<_>>(), ["e"]);
        assert_eq!(names(&f.dst()), before);
    });
}

#[test]
fn deletions_by_parent_where_missing_arguments_are_not_known() {
    each(|mut f| {
        f.options.no_missing_args = true;
        assert_eq!(f.with_spec(|spec| spec.deletions()), Deletions::ByParent);
        equal(&f, &["d/gone", "d/gonedir/x/y", "d/stays/x", "top"]);
        for gone in ["d/gone", "top"] {
            fs::remove_file(f.src().join(gone)).unwrap();
        }
        fs::remove_dir_all(f.src().join("d/gonedir")).unwrap();
        let before = names(&f.dst());
        f.done(Pass::Shallow, &[b"d/gone", b"d/gonedir"]);
        assert_eq!(names(&f.dst()), before, "by name nothing is deleted");
        f.done(Pass::ShallowOneLevel, &[b"d/", b"/"]);
        f.assert_same();
    });
}

fn filters(f: &mut Fixture, args: &[&str]) {
    f.options.filters = args.iter().map(OsString::from).collect();
}

#[test]
fn excluded_names_survive_every_delete() {
    each(|mut f| {
        filters(&mut f, &["--exclude=*.swp", "--exclude=/cache/"]);
        assert_eq!(f.with_spec(|spec| spec.deletions()), Deletions::ByName);
        let protected = ["cache/x", "gone/a.swp", "gone/sub/b.swp", "oneleveled/c.swp", "deep/sub/d.swp"];
        for pass in [Pass::Shallow, Pass::ShallowOneLevel, Pass::Deep, Pass::Full { progress: false }] {
            make(&f.src(), &["listed", "deep/x", "oneleveled/x"]);
            make(&f.dst(), &protected);
            make(&f.dst(), &["gone/plain", "gone/sub/plain", "oneleveled/plain", "deep/sub/plain", "plaingone/x/y"]);
            let entries: &[&[u8]] = match pass {
                Pass::ShallowOneLevel => &[b"/", b"oneleveled/"],
                Pass::Deep => &[b"gone", b"deep", b"oneleveled", b"plaingone"],
                _ => &[b"gone", b"listed", b"deep", b"plaingone"],
            };
            f.done(pass, entries);
            let left = names(&f.dst());
            for name in protected {
                assert!(left.contains(&name.to_owned()), "{:?} {pass:?} lost {name}: {left:?}", f.road);
            }
            assert!(
                !left.iter().any(|name| name.starts_with("gone/") && name.ends_with("plain")),
                "{:?} {pass:?}: {left:?}",
                f.road
            );
            if pass == Pass::Shallow {
                assert!(left.contains(&"deep/sub/plain".to_owned()), "a listed directory is not emptied: {left:?}");
            }
            assert!(!left.iter().any(|name| name.starts_with("plaingone")), "{:?} {pass:?}: {left:?}", f.road);
        }
    });
}

#[test]
fn listed_names_are_sent_whatever_the_filters_say() {
    each(|mut f| {
        filters(&mut f, &["--include=*/", "--include=*.txt", "--exclude=*"]);
        make(&f.src(), &["plain", "d/plain", "d/a.txt"]);
        f.done(Pass::Shallow, &[b"plain", b"d/plain", b"d/a.txt"]);
        f.assert_same();
    });
}

#[test]
fn under_an_include_list_deletions_go_by_parent() {
    each(|mut f| {
        filters(&mut f, &["--include=*/", "--include=*.txt", "--exclude=*"]);
        assert_eq!(f.with_spec(|spec| spec.deletions()), Deletions::ByParent);
        make(&f.src(), &["stays/a.txt"]);
        make(&f.dst(), &["gone/a.txt", "gone/sub/b.txt", "kept/a.txt", "kept/foreign", "gone.txt", "foreign", "stays/b.txt"]);
        f.done(Pass::Shallow, &[b"gone", b"gone.txt", b"stays/a.txt"]);
        assert!(f.dst().join("gone/a.txt").exists(), "by name nothing is deleted");
        f.done(Pass::ShallowOneLevel, &[b"/", b"stays/"]);
        assert_eq!(names(&f.dst()), ["foreign", "kept/", "kept/foreign", "stays/", "stays/a.txt"], "{:?}", f.road);
    });
}

#[test]
fn a_parent_that_leads_out_of_the_tree() {
    each(|f| {
        if !f.facts.confine_root {
            println!("skipped: this rsync has no --confine-root");
            return;
        }
        make(f.dir.path(), &["outside/secret"]);
        make(&f.src(), &["d -> ../outside", "ok"]);
        let outcome = f.run(Pass::Shallow, &[b"d/secret", b"ok"]);
        assert_eq!(outcome.verdict, Verdict::Partial, "{outcome:?}");
        assert!(f.dst().join("ok").exists() && !f.dst().join("d/secret").exists(), "{:?}", names(&f.dst()));
    });
}

#[test]
fn unreadable_is_not_missing() {
    // Only where permissions bind; root reads everything.
    if nix::unistd::geteuid().is_root() {
        println!("skipped: root reads everything");
        return;
    }
    let f = Fixture::new(Road::Local);
    equal(&f, &["d/x", "y"]);
    fs::set_permissions(f.src().join("d"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let outcome = f.run(Pass::Shallow, &[b"d/x", b"y"]);
    fs::set_permissions(f.src().join("d"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(outcome.verdict, Verdict::Partial, "{outcome:?}");
    assert!(f.dst().join("d/x").exists());
}

#[test]
fn deletions_held_at_the_limit() {
    each(|mut f| {
        f.options.extra = vec!["--max-delete=2".into()];
        equal(&f, &["a", "b", "c", "d"]);
        let all = snapshot(&f.dst());
        ["a", "b", "c", "d"].iter().for_each(|name| fs::remove_file(f.src().join(name)).unwrap());
        let outcome = f.run(Pass::Shallow, &[b"a", b"b", b"c", b"d"]);
        assert_eq!(outcome.verdict, Verdict::DeletesHeld, "{:?}: {outcome:?}", f.road);
        assert_eq!(outcome.counters.deleted, 2);
        assert_eq!(snapshot(&f.dst()).len(), all.len() - 2);
    });
}

#[test]
fn a_list_that_was_not_normalised_is_reported() {
    each(|f| {
        equal(&f, &["d/x"]);
        fs::remove_dir_all(f.src().join("d")).unwrap();
        let outcome = f.run(Pass::Shallow, &[b"d/x"]);
        assert_eq!(outcome.verdict, Verdict::SourceRace, "{:?}: {outcome:?}", f.road);
        make(&f.src(), &["d"]);
        let outcome = f.run(Pass::Shallow, &[b"d/x"]);
        assert_eq!(outcome.verdict, Verdict::Partial, "{:?}: {outcome:?}", f.road);
        assert_eq!(outcome.failed.iter().map(|f| f.path.to_string()).collect::<Vec<_>>(), ["d/x"]);
        f.done(Pass::Shallow, &[b"d"]);
        f.assert_same();
    });
}

#[test]
fn items_of_a_dry_run_are_what_differs() {
    each(|mut f| {
        equal(&f, &["same", "content", "d/gone"]);
        f.options.extra = vec!["-n".into()];
        fs::remove_file(f.src().join("d/gone")).unwrap();
        fs::write(f.src().join("content"), b"new and longer").unwrap();
        make(&f.src(), &["l -> x"]);
        let before = snapshot(&f.dst());
        let (outcome, output) = f.run_reading(Pass::Full { progress: false }, &[]);
        assert_eq!(outcome.verdict, Verdict::Done);
        let mut paths: Vec<_> = output.items.iter().map(|item| item.path.to_string()).collect();
        paths.sort();
        assert_eq!(paths, [".", "content", "d", "d/gone", "l"], "{:?}", f.road);
        assert_same(&before, &snapshot(&f.dst()), f.road);
    });
}

#[test]
fn the_root_of_the_source_is_gone() {
    each(|f| {
        make(&f.dst(), &["a"]);
        fs::remove_dir(f.src()).unwrap();
        for pass in [Pass::Shallow, Pass::Deep, Pass::Full { progress: false }] {
            let outcome = f.run(pass, &[b"a"]);
            assert_eq!(outcome.verdict, Verdict::SourceRoot, "{:?} {pass:?}: {outcome:?}", f.road);
        }
        assert!(Path::exists(&f.dst().join("a")));
    });
}
