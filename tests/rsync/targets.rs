//! Targets that are usable, and those that are not.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use fansync::location::Location;
use fansync::sync::argv::Pass;
use fansync::sync::outcome::Verdict;
use fansync::sync::probe::{TargetState, interpret_probe, probe_list};
use fansync::sync::run::Input;

use crate::fixture::{Daemon, Fixture, PATIENCE, ROADS, Road, make, names};

fn probe(f: &Fixture) -> TargetState {
    let list = probe_list();
    let mut run = f.start(Pass::Probe, Input::List(&list));
    let outcome = run.wait(PATIENCE, |_| {}).unwrap();
    interpret_probe(&outcome, &run.output().signs)
}

#[test]
fn usable_and_untouched() {
    for road in ROADS {
        let mut f = Fixture::new(road);
        make(&f.src(), &["a"]);
        make(&f.dst(), &["b"]);
        for (keep, no_missing_args, filters) in
            [(false, false, false), (true, false, false), (false, true, false), (false, false, true)]
        {
            f.options.keep = keep;
            f.options.no_missing_args = no_missing_args;
            f.options.filters = if filters { vec!["--include=*.c".into(), "--exclude=*".into()] } else { vec![] };
            assert_eq!(probe(&f), TargetState::Usable, "{road:?}");
        }
        assert_eq!(names(&f.dst()), ["b"]);
    }
}

#[test]
fn a_missing_target_directory_is_not_made() {
    for road in ROADS {
        let f = Fixture::new(road);
        fs::remove_dir(f.dst()).unwrap();
        make(&f.src(), &["a"]);
        // A module whose own directory is gone cannot be entered at all, which the server tells as
        // it tells of wrong paths.
        let is_config = road == Road::Module;
        let state = probe(&f);
        assert_eq!(matches!(state, TargetState::Config(_)), is_config, "{road:?}: {state:?}");
        assert_eq!(matches!(state, TargetState::Down(_)), !is_config, "{road:?}: {state:?}");
        for pass in [Pass::Shallow, Pass::Full { progress: false }] {
            let want = if is_config { Verdict::Config } else { Verdict::TargetMissing };
            assert_eq!(f.run(pass, &[b"a"]).verdict, want, "{road:?}");
        }
        assert!(!f.dst().exists());
    }
}

#[test]
fn modules_that_say_no() {
    let mut f = Fixture::new(Road::Module);
    let (base, dst) = (f.dir.path().to_owned(), f.dst());
    fs::write(base.join("secrets"), "bob:pw\n").unwrap();
    fs::set_permissions(base.join("secrets"), fs::Permissions::from_mode(0o600)).unwrap();
    let module = |name: &str, line: &str| format!("[{name}]\npath = {}\n{line}\n", dst.display());
    let daemon = Daemon::start(
        &base,
        &[
            module("ro", "read only = yes"),
            module("refdel", "refuse options = delete"),
            module("refforce", "refuse options = force"),
            module("refmiss", "refuse options = delete-missing-args"),
            module("busy", "max connections = -1"),
            module("auth", &format!("auth users = bob\nsecrets file = {}", base.join("secrets").display())),
            module("deny", "hosts deny = *"),
            module("prexfer", "pre-xfer exec = /bin/false"),
            module("excl", "exclude = secret"),
        ]
        .concat(),
    );
    make(&f.src(), &["a", "secret"]);
    make(&dst, &["gone"]);
    let refused = |option: &str| Verdict::Refused { option: option.into() };
    for (name, want) in [
        ("ro", Verdict::Config),
        ("refforce", refused("--force")),
        ("busy", Verdict::Busy),
        ("auth", Verdict::Config),
        ("deny", Verdict::Config),
        ("prexfer", Verdict::Config),
        ("none", Verdict::Config),
    ] {
        f.location = daemon.module(name);
        let outcome = f.run(Pass::Shallow, &[b"a", b"gone"]);
        assert_eq!(outcome.verdict, want, "{name}: {outcome:?}");
        let state = probe(&f);
        let is_down = want == Verdict::Busy;
        assert_eq!(matches!(state, TargetState::Down(_)), is_down, "{name}: {state:?}");
        assert_eq!(matches!(state, TargetState::Config(_)), !is_down, "{name}: {state:?}");
    }
    assert_eq!(names(&dst), ["gone"]);

    f.location = daemon.module("refdel");
    assert_eq!(f.run(Pass::Deep, &[b"a"]).verdict, refused("--delete"));
    assert!(matches!(probe(&f), TargetState::Config(reason) if reason.contains("refuse --delete")));

    f.location = daemon.module("excl");
    let outcome = f.run(Pass::Shallow, &[b"a", b"secret"]);
    assert_eq!(outcome.verdict, Verdict::Partial, "{outcome:?}");
    assert_eq!(outcome.failed.iter().map(|f| f.path.to_string()).collect::<Vec<_>>(), ["secret"]);

    f.location = daemon.module("refmiss");
    assert_eq!(probe(&f), TargetState::UseFallback);
    assert_eq!(f.run(Pass::Shallow, &[b"gone"]).verdict, Verdict::NoMissingArgs);
    f.options.no_missing_args = true;
    assert_eq!(probe(&f), TargetState::Usable);
    f.done(Pass::ShallowOneLevel, &[b"/"]);
    f.assert_same();
}

#[test]
fn a_password_file_and_the_lack_of_one() {
    let mut f = Fixture::new(Road::Module);
    let base = f.dir.path().to_owned();
    for (file, text) in [("secrets", "bob:pw\n"), ("good", "pw\n"), ("bad", "wrong\n")] {
        fs::write(base.join(file), text).unwrap();
        fs::set_permissions(base.join(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let auth =
        format!("[auth]\npath = {}\nauth users = bob\nsecrets file = {}\n", f.dst().display(), base.join("secrets").display());
    let daemon = Daemon::start(&base, &auth);
    f.location = match daemon.module("auth") {
        Location::Daemon { host, port, module, path, .. } => {
            Location::Daemon { shell: false, user: Some("bob".into()), host, port, module, path }
        }
        other => other,
    };
    make(&f.src(), &["a"]);
    for (file, done) in [(None, false), (Some("bad"), false), (Some("good"), true)] {
        let path = file.map(|file| base.join(file));
        let list = crate::fixture::list(&[b"a"]);
        let mut run = f
            .with_spec(|spec| {
                let peer = fansync::sync::argv::Peer { password_file: path.as_deref(), ..spec.peer };
                let spec = fansync::sync::argv::Spec { peer, ..*spec };
                fansync::sync::run::Run::start(&spec, Pass::Shallow, &f.env, Input::List(&list))
            })
            .unwrap();
        let outcome = run.wait(PATIENCE, |_| {}).unwrap();
        assert_eq!(outcome.is_done(), done, "{file:?}: {outcome:?}");
        assert_eq!(outcome.verdict == Verdict::Config, !done, "{file:?}: {outcome:?}");
    }
    f.assert_same();
}

#[test]
fn no_server_listens() {
    let mut f = Fixture::new(Road::Module);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    f.location = Location::Daemon {
        shell: false,
        user: None,
        host: "127.0.0.1".into(),
        port: Some(port),
        module: "m".into(),
        path: String::new(),
    };
    assert!(matches!(probe(&f), TargetState::Down(reason) if reason.contains("Connection refused")));
}

#[test]
fn a_standby_waits_and_then_runs_once() {
    for road in ROADS {
        let f = Fixture::new(road);
        make(&f.src(), &["early"]);
        let mut run = f.start(Pass::Shallow, Input::Standby);
        assert!(run.capacity().is_some_and(|capacity| capacity >= 4096));
        // What happens while it waits is in its list all the same.
        make(&f.src(), &["late"]);
        run.feed(&crate::fixture::list(&[b"early", b"late"])).unwrap();
        assert_eq!(run.capacity(), None);
        let outcome = run.wait(PATIENCE, |_| {}).unwrap();
        assert_eq!(outcome.verdict, Verdict::Done, "{road:?}: {outcome:?}");
        f.assert_same();
    }
}

#[test]
fn a_standby_that_is_dropped_does_nothing_and_is_gone() {
    for road in ROADS {
        let f = Fixture::new(road);
        make(&f.src(), &["a"]);
        let run = f.start(Pass::Shallow, Input::Standby);
        let pid = run.pid();
        drop(run);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(names(&f.dst()), [""; 0]);
    }
}
