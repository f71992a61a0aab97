//! A mirror that the command line describes, without a file.

use super::*;

#[test]
fn without_a_file() {
    let targets = ["rsync://h/m".to_owned(), "h:/p".to_owned()];
    let overrides = Overrides {
        extras: Extras { hard_links: true, acls: true, ..Extras::default() },
        filter: vec![b"- *.log".to_vec()],
        include: vec![b"a\xff".to_vec()],
        exclude: vec![b"*".to_vec()],
        no_delete: true,
        no_send_renames: true,
        max_delete: Some(MaxDelete::Count(9)),
        first_max_delete: Some(MaxDelete::Percent(7)),
        allow_empty: true,
        watch: Some(Watch::Fanotify),
        follow_open_files: FollowOpenFiles::On,
        password_file: Some("pass".into()),
        jobs: Some(7),
        status_socket: Some("x.sock".into()),
        log_format: Some(LogFormat::Json),
        log_level: Some(Level::Warn),
    };
    let config = Config::for_mirror(Path::new("no-such-tree"), &targets, &overrides).unwrap();
    let here = std::env::current_dir().unwrap();
    let m = &config.mirrors[0];
    assert_eq!((m.name.as_str(), &m.source), ("mirror", &here.join("no-such-tree")));
    assert_eq!(m.targets.iter().map(|t| (t.name.as_str(), t.jobs)).collect::<Vec<_>>(), [("t1", 7), ("t2", 7)]);
    assert_eq!((&m.targets[0].password_file, &m.targets[1].password_file), (&Some(here.join("pass")), &None));
    assert_eq!((m.max_delete, m.allow_empty), (Some(MaxDelete::Count(9)), true));
    assert_eq!(m.first_max_delete, MaxDelete::Percent(7));
    assert!(
        !m.delete.ever()
            && !m.send_renames
            && m.follow_open_files == FollowOpenFiles::On
            && m.watch == Watch::Fanotify
            && !m.filter.excludes(b"a\xff", false)
            && m.filter.excludes(b"b", false)
    );
    assert_eq!(config.daemon.status_socket, here.join("x.sock"));
    assert_eq!((config.daemon.log.format, config.daemon.log.level), (LogFormat::Json, Level::Warn));
    // Patterns that are not text cannot be written into a file.
    assert!(config.to_toml().is_err());

    let plain = Config::for_mirror(Path::new("/no/such"), &targets, &Overrides::default()).unwrap();
    assert_eq!(read(&plain.to_toml().unwrap()).unwrap(), plain);
}

#[test]
fn wrong_arguments_are_reported_all_at_once() {
    let overrides = Overrides { exclude: vec![Vec::new()], ..Overrides::default() };
    let errors = Config::for_mirror(Path::new("/no/such"), &["h:~bob".into(), "h::".into()], &overrides).unwrap_err();
    assert_eq!(errors.problems.len(), 3, "{errors}");
    let overrides = Overrides { password_file: Some("/p".into()), ..Overrides::default() };
    let errors = Config::for_mirror(Path::new("/no/such"), &["h:/p".into()], &overrides).unwrap_err();
    assert_eq!(errors.to_string(), "error: a password file is given, but no target is an rsync daemon");
    let overrides = Overrides { filter: vec![b"*.log".to_vec()], ..Overrides::default() };
    let errors = Config::for_mirror(Path::new("/no/such"), &["h:/p".into()], &overrides).unwrap_err();
    assert!(errors.to_string().contains("cannot use the filter rule \"*.log\": it has no sign"), "{errors}");
    let errors = Config::for_mirror(Path::new("/no/such"), &[], &Overrides::default()).unwrap_err();
    assert!(errors.to_string().contains("there is no target"));
    let errors = Config::for_mirror(Path::new("."), &["/no/../x".into()], &Overrides::default()).unwrap_err();
    assert!(errors.to_string().contains(".."));
}
