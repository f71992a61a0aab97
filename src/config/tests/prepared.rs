//! `include`, `[defaults]`, variables of the environment.

use super::*;

fn with(text: &str, vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    toml::parse_with(text, Some(Path::new("f.toml")), &var).map(|(config, _)| config)
}

fn mirror(name: &str) -> String {
    format!("[[mirror]]\nname = {name:?}\nsource = \"/no/such/{name}\"\n[[mirror.target]]\nname = \"t\"\nurl = \"h::{name}\"\n")
}

#[test]
fn defaults_are_filled_in_where_a_table_says_nothing() {
    let text = "[defaults]\nexclude = [\"*.tmp\"]\nhard_links = true\nbatch = { max_paths = 7, settle = \"3ms\" }\n\
        [defaults.target]\njobs = 5\ntimeout = \"20s\"\npassword_file = \"/p\"\nssh = \"ssh -p 1\"\n\
        [[mirror]]\nname = \"a\"\nsource = \"/no/such/a\"\n\
        [[mirror.target]]\nname = \"d\"\nurl = \"h::a\"\n[[mirror.target]]\nname = \"s\"\nurl = \"h:/a\"\njobs = 1\n\
        [[mirror.target]]\nname = \"l\"\nurl = \"/no/such/copy\"\n\
        [[mirror]]\nname = \"b\"\nsource = \"/no/such/b\"\nexclude = [\"*.log\"]\nhard_links = false\n[mirror.batch]\nmax_paths = 9\n\
        [[mirror.target]]\nname = \"d\"\nurl = \"h::b\"\n";
    let config = read(text).unwrap();
    let [a, b] = &config.mirrors[..] else { panic!("{config:?}") };
    assert!(a.extras.hard_links && !b.extras.hard_links);
    assert_eq!((a.filter.exclude(), b.filter.exclude()), (&[b"*.tmp".to_vec()][..], &[b"*.log".to_vec()][..]));
    assert_eq!((a.batch.max_paths, b.batch.max_paths, b.batch.settle), (7, 9, Duration::from_millis(3)));
    let of = |t: &Target| (t.jobs, t.timeout.as_secs(), t.password_file.is_some(), t.ssh.is_some());
    assert_eq!(a.targets.iter().map(of).collect::<Vec<_>>(), [(5, 20, true, false), (1, 20, false, true), (5, 20, false, false)]);
    assert_eq!(read(&config.to_toml().unwrap()).unwrap(), config, "what is in force says it all");
    for (defaults, want) in [
        ("[defaults]\nname = \"x\"", "[defaults] has name"),
        ("[defaults.target]\nurl = \"h::m\"", "[defaults.target] has url"),
        ("[[defaults]]\njobs = 1", "[defaults] should be one table"),
        ("[[defaults.target]]\njobs = 1", "write [defaults.target] with single brackets"),
        ("[defaults.hook]\nprefix = \"x\"", "[defaults.hook] has prefix"),
        ("[[defaults.hook]]\ntries = 1", "write [defaults.hook] with single brackets"),
        ("[defaults]\nhard_link = true", "unknown key \"hard_link\""),
        ("[defaults.target]\njobs = 0", "jobs is 0"),
        ("[defaults]\nexclude = 1", "exclude is a number"),
    ] {
        let got = read(&format!("{defaults}\n{}{}", mirror("a"), mirror("b"))).unwrap_err().to_string();
        assert!(got.contains(want) && got.contains("f.toml:"), "{defaults}: {got}");
        let once = got.matches("error:").count() == 1 || want == "jobs is 0";
        assert!(once, "named for each mirror: {got}");
    }
}

#[test]
fn defaults_of_hooks_go_to_each_that_says_nothing() {
    let hook = |keys: &str| format!("[[mirror.hook]]\nname = \"{0}\"\nkind = \"command\"\nprefix = \"x\"\n{1}", keys.len(), keys);
    let text = format!(
        "[defaults.hook]\ntries = 7\nexclude = [\"*.tmp\"]\n{}{}{}{}",
        mirror("a"),
        hook(""),
        hook("tries = 2\n"),
        mirror("b")
    );
    let config = read(&text).unwrap();
    let hooks = &config.mirrors[0].hooks;
    assert_eq!(hooks.iter().map(|hook| hook.tries).collect::<Vec<_>>(), [7, 2]);
    assert!(hooks.iter().all(|hook| hook.filter.exclude() == [b"*.tmp".to_vec()]) && config.mirrors[1].hooks.is_empty());
    let unused = format!("[defaults.hook]\ntries = 7\n{}", mirror("a"));
    assert_eq!(read(&unused).unwrap().mirrors.len(), 1);
}

#[test]
fn variables_stand_in_names_and_places_only() {
    let vars = [("HOST", "backup.example"), ("ROOT", "/no/such/root"), ("EMPTY", "")];
    let text = "[[mirror]]\nname = \"m\"\nsource = \"${ROOT}/web${EMPTY}\"\nexclude = [\"${HOST}\"]\n\
                [[mirror.target]]\nname = \"t\"\nurl = \"${HOST}::m\"\nargs = [\"--chown=${HOST}\"]\n\
                [[mirror.hook]]\nname = \"h\"\nkind = \"command\"\nprefix = \"echo ${HOME}\"\nshell = true\n";
    let config = with(text, &vars).unwrap();
    let m = &config.mirrors[0];
    assert_eq!(m.source.to_str(), Some("/no/such/root/web"));
    assert_eq!(m.targets[0].location.to_string(), "rsync://backup.example/m");
    assert_eq!((m.filter.exclude(), &m.targets[0].args[0][..]), (&[b"${HOST}".to_vec()][..], "--chown=${HOST}"));
    let wrong = with(text, &vars[1..]).unwrap_err().to_string();
    assert!(
        wrong.contains("the variable HOST is not set") && wrong.contains("f.toml:7:7") && wrong.contains("Environment="),
        "{wrong}"
    );
    for value in ["${", "${}", "${1}", "${A B}", "a${HOST"] {
        let wrong = with(&text.replace("${ROOT}/web${EMPTY}", value), &vars).unwrap_err().to_string();
        assert!(wrong.contains("without a name") && wrong.contains("f.toml:3:10"), "{value}: {wrong}");
    }
}

#[test]
fn included_files_bring_mirrors_and_keep_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let parts = dir.path().join("conf.d");
    fs::create_dir(&parts).unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("conf.d/b.toml", &mirror("b"));
    write("conf.d/a.toml", &format!("\u{feff}# first\n{}{}", mirror("a"), mirror("c")));
    write("conf.d/.hidden.toml", "[[[");
    write("conf.d/a.toml~", "[[[");
    write("one", &mirror("one"));
    let main = dir.path().join("main.toml");
    let load = |text: &str| {
        fs::write(&main, text).unwrap();
        Config::load(&main)
    };
    let include = "include = [\"conf.d/*.toml\", \"one\"]\n";
    let config = load(&format!("{include}[defaults]\nhard_links = true\n{}", mirror("own"))).unwrap();
    let names: Vec<_> = config.mirrors.iter().map(|m| (m.name.as_str(), m.extras.hard_links)).collect();
    assert_eq!(names, ["own", "a", "c", "b", "one"].map(|name| (name, true)));
    assert_eq!(config.mirrors[1].origins.of("source", 0), format!("{}:4:10", parts.join("a.toml").display()));
    assert_eq!(load("include = [\"conf.d/*.toml\"]\n").unwrap().mirrors.len(), 3, "no mirror of its own");
    assert_eq!(load(&format!("include = [\"empty/*.toml\", \"conf.d/*.no\"]\n{}", mirror("m"))).unwrap_err().problems.len(), 1);
    for (text, want) in [
        ("[[mirror]]\nname = \"x\"\nsource = \"/x\"\nexlude = []\n", "did you mean \"exclude\""),
        ("[[mirror]\nname = 1\n", "conf.d/b.toml:1:"),
        ("[daemon]\npage = false\n", "\"daemon\" in an included file"),
        ("include = [\"x\"]\n", "\"include\" in an included file"),
        ("mirror = 1\n", "mirror should be a list of tables"),
        (&mirror("own"), "another mirror has this name"),
    ] {
        write("conf.d/b.toml", text);
        let wrong = load(&format!("{include}{}", mirror("own"))).unwrap_err().to_string();
        assert!(wrong.contains(want) && wrong.contains("conf.d/b.toml:"), "{text}: {wrong}");
    }
    write("conf.d/b.toml", &mirror("b"));
    for (text, want) in [
        ("include = [\"none.toml\"]\n", "none.toml: cannot read the configuration: No such file"),
        ("include = [\"none.toml\"]\n", "help: see that it is there"),
        ("include = [\"*/b.toml\"]\n", "only the last part"),
        ("include = [\"none/*\"]\n", "cannot read"),
        ("include = \"one\"\n", "include is a string, and should be a list of strings"),
    ] {
        let wrong = load(&format!("{text}{}", mirror("own"))).unwrap_err().to_string();
        assert!(wrong.contains(want) && wrong.contains("main.toml:1:"), "{text}: {wrong}");
        assert!(!wrong.contains("help: \n") && !wrong.ends_with("help: "), "{text}: {wrong}");
    }
    fs::set_permissions(parts.join("b.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    let wrong = load(include).unwrap_err().to_string();
    assert!(wrong.contains("b.toml: cannot trust the configuration"), "{wrong}");
    let from_text = Config::from_toml(&format!("include = [\"x\"]\n{}", mirror("m"))).unwrap_err().to_string();
    assert!(from_text.contains("include is for files"), "{from_text}");
}

#[test]
fn a_secret_in_an_included_file_is_that_files_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (main, part) = (dir.path().join("main.toml"), dir.path().join("part"));
    fs::write(&main, format!("include = [\"part\"]\n{}", mirror("own"))).unwrap();
    let hook = "[[mirror.hook]]\nname = \"h\"\nkind = \"cdn\"\nform = \"chinacache\"\nbase = \"http://b\"\naddress = \"h:80\"\nuser = \"u\"\npassword = \"p\"\n";
    fs::write(&part, format!("{}{hook}", mirror("m"))).unwrap();
    let wrong = Config::load(&main).unwrap_err().to_string();
    assert!(wrong.contains("holds a secret") && wrong.contains(&format!("--> {}", part.display())), "{wrong}");
    fs::set_permissions(&part, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Config::load(&main).is_ok());
}
