//! Files that others can read or change, and secrets.

use super::*;

#[test]
fn files_that_must_not_be_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.toml");
    let load = || Config::load(&path).map_err(|e| e.to_string());
    assert!(load().unwrap_err().contains("cannot read the configuration: No such file"));
    fs::write(&path, least("", "")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(load().is_ok());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    assert!(load().unwrap_err().contains("has mode 0646, so that everybody can change it"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, b"\xff").unwrap();
    assert!(load().unwrap_err().contains("not UTF-8"));
    if nix::unistd::geteuid().is_root() {
        fs::write(&path, least("", "")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        assert!(load().is_ok());
        std::os::unix::fs::chown(&path, None, Some(65534)).unwrap();
        assert!(load().unwrap_err().contains("group 65534 can change it"));
    }
    assert!(Config::load(dir.path()).unwrap_err().to_string().contains("cannot read"));
}

const SECRETS: &str = r#"
[[mirror.hook]]
name = "h"
kind = "http"
url = "https://me:pw1@h/hooks?token=pw2"
headers = ["Authorization: Bearer pw3", "X-Plain: shown"]
[[mirror.hook]]
name = "d"
kind = "cdn"
form = "chinacache"
base = "http://b"
address = "h:80"
user = "me"
password = "pw4"
"#;

#[test]
fn a_file_with_a_secret_must_not_be_readable_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.toml");
    let hooks: Vec<&str> = SECRETS.split("[[mirror.hook]]").skip(1).collect();
    for hook in hooks {
        fs::write(&path, format!("{}[[mirror.hook]]{hook}", least("", ""))).unwrap();
        for (mode, taken) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let loaded = Config::load(&path).map_err(|e| e.to_string());
            assert_eq!(loaded.is_ok(), taken, "{mode:o} {hook}: {loaded:?}");
            assert!(taken || loaded.unwrap_err().contains("chmod 600"), "{hook}");
        }
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = read(&(least("", "") + SECRETS)).unwrap();
    let shown = config.without_secrets().to_toml().unwrap();
    assert!(!shown.contains("pw") && shown.contains("X-Plain: shown") && shown.contains("password = \"***\""), "{shown}");
    assert!(read(&shown).is_ok(), "{shown}");
    // Neither are lines that are cited, wherever the mistake is in them.
    for (from, to) in [
        ("password = \"pw4\"", "password = \"pw4"),
        ("password = ", "passwrd = "),
        ("\"pw4\"", "[\"pw4\"]"),
        ("\"Authorization: Bearer pw3\"", "\"Authorization Bearer pw3\""),
        ("\"Authorization: Bearer pw3\"", "\"Authorization: Bearer pw3"),
        ("url = \"https://me:pw1@h/hooks?token=pw2\"", "url = \"https://me:pw1@h/hooks?token=pw2<\""),
        ("url = \"https://", "webhook = \"https://"),
    ] {
        let text = (least("", "") + SECRETS).replace(from, to);
        let errors = read(&text).unwrap_err().to_string();
        assert!(!errors.contains("pw"), "{to}: {errors}");
    }
}

/// A key that is not known to be plain is never cited, which would make messages poor.
#[test]
fn every_key_is_known_to_be_plain_or_secret() {
    for key in keys(&read(EVERY_KEY).unwrap()) {
        let line = format!("{} = 1", key.rsplit('.').next().unwrap());
        let secret = ["password", "headers", "body", "token_header"].iter().any(|k| line == format!("{k} = 1"));
        assert_eq!(secrets::may_hold_secret(&line, 0), secret, "{key}");
    }
}

#[test]
fn check_warns_of_set_id_files_that_change_hands() {
    let config = |url: &str, args: &str| read(&least("", args).replace("rsync://h/m", url)).unwrap();
    let warned = |url: &str, args: &str| {
        let config = config(url, args);
        let (checked, started) = (texts(config.warnings(&crate::sync::probe::Asked)), texts(config.set_id_changes_hands()));
        assert!(started.iter().all(|text| checked.contains(text)), "{checked:?}");
        started
    };
    let warnings = warned("bob@h:/d", "");
    assert!(warnings.len() == 1 && warnings[0].contains("those of bob") && warnings[0].contains("--chmod=Fug-s"), "{warnings:?}");
    assert_eq!(warned("bob@h:/d", "args = [\"--chmod=Fug-s\"]"), Vec::<String>::new());
    assert_eq!(warned("rsync://h/m", ""), Vec::<String>::new());
}

#[test]
fn a_hooks_program_that_others_can_change_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("purge");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    let hook = format!("[[mirror.hook]]\nname = \"h\"\nkind = \"command\"\nprefix = \"{} -x\"\n", program.display());
    let judged = |mode: u32| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        messages(&(least("", "") + &hook))
    };
    assert_eq!(read(&(least("", "") + &hook)).map(|_| ()).map_err(|e| e.to_string()), Ok(()));
    assert!(judged(0o777)[0].contains("others can change what it runs"));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    // rsync, certificates, and where files are written are warned of.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(dir.path().join("ca.pem"), "").unwrap();
    let d = dir.path().display();
    let text = format!(
        "[daemon]\nstate_dir = \"{d}/state\"\nstatus_socket = \"{d}/run/sock\"\nmetrics_file = \"{d}/f.prom\"\n{}\n\
         [[mirror.hook]]\nname = \"h\"\nkind = \"http\"\nurl = \"http://h\"\nca_file = \"{d}/ca.pem\"\n",
        least(&format!("rsync = \"{}\"\nfail_log = \"{d}/log\"", program.display()), "")
            .replace("rsync://h/m", "h:/d\"\nssh = \"PROGRAM -p 1")
    );
    let warnings = read(&text.replace("PROGRAM", program.to_str().unwrap())).unwrap().others_can_change();
    let warnings = texts(warnings);
    for what in ["state_dir", "status_socket", "metrics_file", "fail_log", "rsync", "ssh", "ca_file"] {
        let found = warnings.iter().any(|w| w.contains(what) && w.contains("has mode 0777"));
        assert!(found, "{what} is not warned of: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 7, "{warnings:#?}");
}
