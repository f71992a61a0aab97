use super::*;

/// What a program means: the TOML below the comments, and the notes as `LINE: TEXT`.
fn imported(text: &str) -> (String, Vec<String>) {
    let loaded = read(text, None, None).unwrap_or_else(|errors| panic!("{text}\n{errors}"));
    let toml = crate::sersync::toml(&loaded, false).unwrap();
    let body = toml.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect::<Vec<_>>().join("\n");
    crate::config::Config::from_toml(&body).unwrap_or_else(|errors| panic!("what is printed is not valid: {body}\n{errors}"));
    (body, loaded.notes.iter().map(|note| format!("{}: {}", note.line, note.text)).collect())
}

fn refused(text: &str) -> String {
    read(text, None, None).map(|loaded| panic!("{loaded:?}")).unwrap_err().to_string()
}

/// Situation, program, lines that the TOML has, beginnings of its notes.
type Case = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const CARRIED: &[Case] = &[
    (
        "literals, a module",
        r#"sync{ default.rsync, source="/srv/www", target="backup::www" }"#,
        &[r#"name = "www""#, r#"url = "rsync://backup/www""#, r#"args = ["--no-perms", "--no-owner", "--no-group", "--no-D"]"#],
        &[],
    ),
    (
        "archive keeps all of it",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true} }"#,
        &[r#"url = "rsync://b/a""#],
        &[],
    ),
    (
        "archive, less one thing",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true, owner=false} }"#,
        &[r#"args = ["--no-owner"]"#],
        &[],
    ),
    (
        "no archive, with some things",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={perms=true, owner=true, group=true} }"#,
        &[r#"args = ["--no-D"]"#],
        &[],
    ),
    ("a local copy", r#"sync{ default.direct, source="/a", target="/mnt/b/" }"#, &[r#"url = "/mnt/b""#], &[]),
    (
        "ssh with port, key and options",
        r#"sync{ default.rsyncssh, source="/a", host="u@h", targetdir="/b", ssh={port=2222, identityFile="/k", options={User="x"}} }"#,
        &[r#"url = "u@h:/b""#, r#"ssh = "ssh -i /k -o 'User=x' -p 2222""#],
        &[],
    ),
    (
        "a module of a daemon behind ssh",
        r#"sync{ default.rsync, source="/a", target="bob@h::m/b", rsync={rsh="ssh -p 22"} }"#,
        &[r#"url = "ssh+rsync://bob@h/m/b""#, r#"ssh = "ssh -p 22""#],
        &[],
    ),
    (
        "a target behind ssh, written as rsync does",
        r#"sync{ default.rsync, source="/a", target="root@h:/b", rsync={rsh="/usr/bin/ssh -p 22"} }"#,
        &[r#"url = "root@h:/b""#, r#"ssh = "/usr/bin/ssh -p 22""#],
        &[],
    ),
    (
        "paths from the home of the login",
        "sync{ default.rsync, source='/a', target='h:web/' }\nsync{ default.rsync, source='/a', target='u@h:' }\n\
         sync{ default.rsyncssh, source='/a', host='k', targetdir='b/c' }\nsync{ default.rsync, source='/a', target='k:~/d' }",
        &[r#"url = "h:web""#, r#"name = "h-web""#, r#"url = "u@h:""#, r#"name = "h""#, r#"url = "k:b/c""#, r#"url = "k:d""#],
        &[],
    ),
    (
        "excludes in a list",
        r#"sync{ default.rsync, source="/a", target="b::a", exclude={"*.tmp", "/cache/"} }"#,
        &[r#"exclude = ["*.tmp", "/cache/"]"#],
        &[],
    ),
    ("one exclude", r#"sync{ default.rsync, source="/a", target="b::a", exclude="*.o" }"#, &[r#"exclude = ["*.o"]"#], &[]),
    (
        "excludes among the words",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={_extra={"--exclude=*.a", "--exclude", "*.b"}} }"#,
        &[r#"exclude = ["*.a", "*.b"]"#],
        &[],
    ),
    ("no deletions", r#"sync{ default.rsync, source="/a", target="b::a", delete=false }"#, &["delete = false"], &[]),
    (
        "deletions at the start only",
        r#"sync{ default.rsync, source="/a", target="b::a", delete="startup" }"#,
        &["delete = \"startup\""],
        &[],
    ),
    (
        "deletions while it runs only",
        "sync{ default.rsync, source='/a', target='b::a',\n delete='running' }",
        &["delete = \"running\""],
        &[],
    ),
    ("no first copy", r#"sync{ default.rsync, source="/a", target="b::a", init=false }"#, &[r#"initial = "none""#], &[]),
    (
        "processes, for all",
        r#"settings{ maxProcesses=8 } sync{ default.rsync, source="/a", target="b::a" }"#,
        &["[daemon]", "max_runs = 8", "jobs = 8"],
        &[],
    ),
    (
        "what is replaced goes aside",
        r#"sync{ default.rsync, source="/a", target="b::a/copy", rsync={archive=true, backup=true, backup_dir="/old"} }"#,
        &[r#"backup_dir = "/old""#],
        &[],
    ),
    (
        "the same among further options",
        r#"sync{ default.rsync, source="/a", target="b:/a", rsync={archive=true, _extra={"--backup-dir=/old"}} }"#,
        &[r#"backup_dir = "/old""#],
        &[],
    ),
    (
        "a place for it that is left out of the copy",
        r#"sync{ default.rsync, source="/a", target="b::a", exclude={"/old/"}, rsync={archive=true, backup_dir="/old"} }"#,
        &[r#"backup_dir = "/old""#],
        &[],
    ),
    (
        "a place for it in the copy",
        "sync{ default.rsync, source='/a', target='b::a', rsync={archive=true,\n backup_dir='/old'} }",
        &[r#"url = "rsync://b/a""#],
        &["2: backup_dir is not carried over: /old lies inside the copy"],
    ),
    (
        "a place for it in the copy itself",
        "sync{ default.rsync, source='/a', target='b::a', rsync={archive=true,\n backup_dir='old'} }",
        &[r#"url = "rsync://b/a""#],
        &["2: backup_dir is not carried over: \"old\" is a relative path"],
    ),
    (
        "processes, for one",
        r#"settings{ maxProcesses=8 } sync{ default.rsync, source="/a", target="b::a", maxProcesses=1 }"#,
        &["max_runs = 8", "jobs = 1"],
        &[],
    ),
    (
        "a loop over hosts is one mirror with a target each",
        r#"for _, h in ipairs{"x", "y"} do sync{ default.rsync, source="/a", target=h.."::a" } end"#,
        &[r#"url = "rsync://x/a""#, r#"url = "rsync://y/a""#],
        &[],
    ),
    (
        "a function that declares",
        "local function m(dir)\n  sync{ default.rsync, source='/srv/'..dir, target='h::'..dir }\nend\nm('one') m('two')",
        &[r#"name = "one""#, r#"name = "two""#, r#"url = "rsync://h/two""#],
        &[],
    ),
    (
        "a table of its own that inherits",
        "base = { default.rsync, delete=false, rsync={archive=true} }\nsync{ base, source='/a', target='b::a', rsync={compress=true} }",
        &["delete = false", r#"compress = "zlib""#],
        &[],
    ),
    (
        "the environment, or what stands in for it",
        r#"sync{ default.rsync, source=os.getenv("NOT_SET_ANYWHERE") or "/a", target="b::a" }"#,
        &[r#"source = "/a""#],
        &[],
    ),
    (
        "settings by assignment, as in version 2.0",
        "settings = {\n logfile = '/l',\n nodaemon = true,\n}\nsync{ default.rsync, source='/a', target='b::a', rsyncOpts='-az' }",
        &[r#"url = "rsync://b/a""#],
        &["2: logfile is not carried over", "3: nodaemon is not carried over", "5: rsyncOpts is not carried over"],
    ),
    (
        "what changes the copy is left out with its reason",
        "sync{ default.rsync, source='/a', target='b::a',\n rsync = { archive=true,\n  update=true,\n  copy_links=true } }",
        &[r#"url = "rsync://b/a""#],
        &["3: update is not carried over: --update: ", "4: copy_links is not carried over: --copy-links: "],
    ),
    (
        "bandwidth, owners, a directory for temporary files",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true, bwlimit=2000, chown="w:w", temp_dir="/t"} }"#,
        &[r#""--bwlimit=2000""#, r#""--chown=w:w""#, r#""--temp-dir=/t""#],
        &[],
    ),
    (
        "a password file and limits of time",
        r#"sync{ default.rsync, source="/a", target="u@b::a", rsync={archive=true, password_file="/p", timeout=300} }"#,
        &[r#"password_file = "/p""#, r#"timeout = "5m""#, r#"watchdog = "6m 30s""#],
        &[],
    ),
    (
        "attributes, links and holes",
        r#"sync{ default.rsync, source="/a", target="b::a", rsync={archive=true, acls=true, xattrs=true, hard_links=true, sparse=true} }"#,
        &["acls = true", "xattrs = true", "hard_links = true", "sparse = true"],
        &[],
    ),
    (
        "files that stay open",
        r#"settings{ inotifyMode="CloseWrite or Modify" } sync{ default.rsync, source="/a", target="b::a" }"#,
        &["follow_open_files = "],
        &[],
    ),
    (
        "a delay, a crontab, a tunnel",
        "sync{ default.rsync, source='/a', target='localhost::a',\n delay=15,\n crontab={'0 3 * * *'},\n tunnel={'ssh','h'} }",
        &[r#"url = "rsync://localhost/a""#, "delay = \"15s\"", "full_at = [\"03:00\"]"],
        &["4: tunnel is not carried over"],
    ),
    (
        "a crontab with seconds, lists, and what is no time of day",
        "sync{ default.rsync, source='/a', target='b::a',\n crontab={'1 0,30 3,15 * * *', '*/5 * * * *', '0 4 * * 1'} }",
        &[r#"full_at = ["03:00", "03:30", "15:00", "15:30"]"#],
        &["2: crontab \"*/5 * * * *\" is not carried over", "2: crontab \"0 4 * * 1\" is not"],
    ),
    (
        "actions of its own beside a copy",
        "mail = { onCreate = 'mail ^pathname', maxProcesses = 1 }\nsync{ mail, source='/a' }\nsync{ default.rsync, source='/a', target='b::a' }",
        &[r#"url = "rsync://b/a""#],
        &["2: this sync is not carried over, as it runs actions of its own: onCreate = \"mail ^pathname\""],
    ),
    (
        "a table of hosts with their own modules and excludes",
        "local sites = {\n  { host = 'h1', path = 'web', skip = { '*.tmp' } },\n  { host = 'h2', path = 'mail', skip = { '*.lock', '/tmp/' } },\n}\n\
         for i = 1, #sites do\n  local s = sites[i]\n  sync{ default.rsync, source = '/srv/' .. s.path, target = s.host .. '::' .. s.path, exclude = s.skip }\nend",
        &[r#"source = "/srv/web""#, r#"exclude = ["*.tmp"]"#, r#"url = "rsync://h2/mail""#, r#"exclude = ["*.lock", "/tmp/"]"#],
        &[],
    ),
    (
        "users by hosts, two loops",
        "for _, u in ipairs{'ann','bob'} do for _, h in ipairs{'x','y'} do\n\
         sync{ default.rsyncssh, source='/home/'..u, host=u..'@'..h, targetdir='/home/'..u }\nend end",
        &[r#"url = "ann@x:/home/ann""#, r#"url = "bob@y:/home/bob""#, r#"name = "x-ann""#],
        &[],
    ),
    (
        "numbers and texts that are built",
        r#"local port = 8000 + 73 sync{ default.rsync, source="/a", target=string.format("rsync://%s:%d/%s", "h", port, ("m"):rep(3)) }"#,
        &[r#"url = "rsync://h:8073/mmm""#],
        &[],
    ),
    (
        "a table that is filled piece by piece",
        "skip = {}\nfor w in string.gmatch('a,b,c', '[^,]+') do table.insert(skip, '*.' .. w) end\n\
         sync{ default.rsync, source='/a', target='b::a', exclude=skip }",
        &[r#"exclude = ["*.a", "*.b", "*.c"]"#],
        &[],
    ),
    (
        "a mistake that the program catches",
        "local ok = pcall(function() error('no') end)\nif not ok then sync{ default.rsync, source='/a', target='b::a' } end",
        &[r#"url = "rsync://b/a""#],
        &[],
    ),
    (
        "rules in order, includes first",
        r#"sync{ default.rsync, source="/a", target="b::a", filter={"+ */", "+ *.jpg", "- *"}, exclude={"x"} }"#,
        &[r#"filter = ["+ */", "+ *.jpg", "- *"]"#, r#"exclude = ["x"]"#],
        &[],
    ),
    (
        "rules in order, with an include that changes nothing",
        r#"sync{ default.rsync, source="/a", target="b::a", filter={"- *.tmp", "- /cache/", "+ *"} }"#,
        &[r#"filter = ["- *.tmp", "- /cache/"]"#],
        &[],
    ),
    (
        "rules in order, an include behind an exclude",
        r#"sync{ default.rsync, source="/a", target="b::a", filter={"- /x", "+/y", "- *"} }"#,
        &[r#"filter = ["- /x", "+ /y", "- *"]"#],
        &[],
    ),
    (
        "rules in order among rsync's own options",
        r#"sync{ default.rsync, source="/a", target="b::a", filter={"- z"}, rsync={_extra={"--include=/keep/***", "--exclude", "*.o", "-f", "+ x"}} }"#,
        &[r#"filter = ["+ /keep/***", "- *.o", "+ x", "- z"]"#],
        &[],
    ),
    (
        "layer 3: programs for kinds of changes",
        "convert = {\n  delay = 5, maxProcesses = 3,\n  onCreate = 'convert ^sourcePathname ^targetPathname',\n  onDelete = 'rm ^targetPathname',\n}\n\
         sync{ convert, source='/a', target='/b' }\nsync{ default.direct, source='/a', target='/c' }",
        &[r#"url = "/c""#],
        &[
            "6: this sync is not carried over, as it runs actions of its own: onCreate = \"convert ^sourcePathname ^targetPathname\", \
           onDelete = \"rm ^targetPathname\". A hook runs a program for each change: [[mirror.hook]] with kind = \"command\", \
           when = \"event\", kinds = [\"changed\", \"deleted\", \"directory\"]",
        ],
    ),
    (
        "layer 2: a function for a kind of change",
        "sync{\n source='/a',\n onModify = function(event)\n  spawn(event, '/bin/m', event.sourcePath)\n end }\n\
         sync{ default.rsync, source='/a', target='b::a' }",
        &[r#"url = "rsync://b/a""#],
        &[
            "3: this sync is not carried over, as it runs actions of its own: onModify is a function. A hook runs a program for each \
           change: [[mirror.hook]] with kind = \"command\", when = \"event\", kinds = [\"changed\"]",
        ],
    ),
    (
        "layer 1: a function for all that waits, beside one of lsyncd's",
        "sync{ default.rsync, source='/a', target='b::a',\n action = function(inlet)\n  local e = inlet.getEvents()\n end }\n\
         sync{ default.rsync, source='/b', target='b::b' }",
        &[r#"url = "rsync://b/b""#],
        &[
            "2: this sync is not carried over, as it runs actions of its own: action is a function. A hook runs a program for each \
           change: [[mirror.hook]] with kind = \"command\", when = \"event\", prefix",
        ],
    ),
    (
        "a program at the start",
        "sync{ onStartup = 'cp -r ^source ^target', onCreate = 'x', source='/a', target='/b' }\nsync{ default.direct, source='/a', target='/c' }",
        &[r#"url = "/c""#],
        &[
            "1: this sync is not carried over, as it runs actions of its own: onCreate = \"x\", onStartup = \"cp -r ^source ^target\"",
        ],
    ),
    (
        "a function of lsyncd's that is named as an action is that action",
        r#"sync{ default.rsync, source="/a", target="b::a", prepare=default.rsync.prepare, action=default.rsync.action }"#,
        &[r#"url = "rsync://b/a""#],
        &[],
    ),
    (
        "settings of all kinds",
        "settings{\n logfile='/l',\n statusFile='/s',\n statusInterval=20,\n pidfile='/p',\n nodaemon=true,\n insist=true,\n \
         maxDelays=5000,\n inotifyMode='CloseWrite' }\nsync{ default.rsync, source='/a', target='b::a' }",
        &["max_pending = 5000", "follow_open_files = false"],
        &["2: logfile", "3: statusFile", "4: statusInterval", "5: pidfile", "6: nodaemon", "7: insist"],
    ),
    (
        "date and clock, and a version that is asked for",
        r#"local t = os.time() + os.clock() if lsyncdVersion >= "2.1" and t > 0 then sync{ default.rsync, source="/a", target="b::a", name="daily" } end"#,
        &[r#"name = "daily""#],
        &[],
    ),
    (
        "an address of version 6, a user, a port in the URL",
        r#"sync{ default.rsync, source="/a", target="rsync://u@[::1]:8730/m/sub", rsync={archive=true, timeout=30} }"#,
        &[r#"url = "rsync://u@[::1]:8730/m/sub""#, r#"timeout = "30s""#],
        &[],
    ),
    (
        "a table with a metatable is what it holds itself",
        "local base = { delete=false }\nsync(setmetatable({ default.rsync, source='/a', target='b::a' }, { __index=base, __pairs=error }))",
        &[r#"url = "rsync://b/a""#],
        &[],
    ),
];

#[test]
fn what_is_carried_over() {
    for (what, program, lines, notes) in CARRIED {
        let (toml, notices) = imported(program);
        for line in *lines {
            assert!(toml.contains(line), "{what}: {line}\n{toml}");
        }
        assert_eq!(notices.len(), notes.len(), "{what}: {notices:#?}");
        for (note, begins) in notices.iter().zip(*notes) {
            assert!(note.starts_with(begins), "{what}: {note}");
        }
    }
}

/// What would copy more, or elsewhere, than lsyncd does is an error with its place.
#[test]
fn what_is_refused() {
    for (program, line, words) in [
        ("sync{ default.rsync, source='/a', target='b::a',\n filter={'/x'} }", 2, "\"/x\" is no rule"),
        ("sync{ default.rsync, source='/a', target='b::a',\n filterFrom='/no/such' }", 2, "cannot read /no/such"),
        ("sync{ default.rsync, source='/a', target='b::a',\n rsync={filter='P x'} }", 2, "one side only"),
        (
            "sync{ default.rsync, source='/a', target='b::a',\n excludeFrom='/no/such' }",
            2,
            "cannot read the patterns in /no/such",
        ),
        ("sync{ default.rsync, source='/a',\n target='rel/' }", 2, "is a relative path"),
        ("sync{ default.rsync, source='/a',\n target='h:~bob/x' }", 2, "home of another user"),
        ("sync{ default.rsync, target='b::a' }", 1, "has no source"),
        ("sync{ default.rsync, source='/a' }", 1, "has no target"),
        ("sync{ default.rsyncssh, source='/a', host='h' }", 1, "no host, or no targetdir"),
        ("sync{ default.rsync, source='/a', target='b::a',\n delete='sometimes' }", 2, "delete is \"sometimes\""),
        ("x = 1", 0, "declares no sync"),
        ("sync{ default.rsync,\n source=", 2, "does not run"),
        ("\nerror('stop')", 2, "does not run: stop"),
        ("\nio.open('/etc/passwd')", 2, "does not run"),
        ("\nos.execute('id')", 2, "does not run"),
        ("\nload('return 1')()", 2, "does not run"),
        ("\nlocal host = io.popen('hostname'):read()", 2, "io.popen is not available in an import"),
        ("\nos.remove('/etc/passwd')", 2, "os.remove is not available in an import"),
        ("\nstring.dump(print)", 2, "does not run"),
        ("\nreaddir('.')", 2, "--lua-files"),
        ("\nsync{ default.rsync, source='/a', target='b::\\255' }", 2, "is not UTF-8"),
        ("\nerror({})", 0, "does not run"),
        ("\ndofile('x.lua')", 2, "--lua-files"),
    ] {
        let refusal = refused(program);
        assert!(refusal.contains(words), "{program}\n{refusal}");
        assert!(line == 0 || refusal.contains(&format!("\n{line} | ")), "{program}\n{refusal}");
    }
}

#[test]
fn a_program_is_bounded_in_time_and_memory() {
    assert!(refused("while true do end").contains("does not come to its end"));
    assert!(refused("while true do pcall(function() while true do end end) end").contains("does not come to its end"));
    assert!(refused("local s = 'x' while true do s = s .. s end").contains("memory"));
    assert!(refused("local t = {} t.t = t sync(t)").contains("without an end"));
}

/// Situation, program, a part of the error. None of them hangs or takes the process with it.
const HOSTILE: &[(&str, &str, &str)] = &[
    ("recursion", "local function f() return 1 + f() end f()", "stack overflow|memory|does not come to its end"),
    ("recursion through pcall", "local function f() return pcall(f) end f() while true do end", "does not come to its end"),
    (
        "a bound that is caught again and again",
        "local function f() while true do pcall(f) end end f()",
        "does not come to its end",
    ),
    ("a bomb in pcall", "while true do pcall(string.rep, 'x', 1 << 40) end", "memory|does not come to its end"),
    ("a long text", "sync{ default.rsync, source=string.rep('x', 1 << 40) }", "resulting string too large|memory"),
    (
        "texts that are copied again and again",
        "local s = string.rep('x', 1 << 12) while true do local t = s .. s end",
        "does not come to its end",
    ),
    (
        "one text in many places",
        "local s, t = string.rep('x', 1 << 20), {} for i = 1, 100 do t[i] = s end sync{ exclude=t }",
        "MiB of text",
    ),
    (
        "one table in many places",
        "local t = {} for i = 1, 12 do t = { t, t, t, t, t, t } end sync{ t }",
        "more than 50000 values",
    ),
    ("many syncs", "for i = 1, 1e6 do sync{ default.rsync, source='/a', target='b::a' } end", "more than 2000 syncs"),
    ("a finalizer", "setmetatable({}, { __gc = function() while true do end end })", "finalizers (__gc) are not available"),
    ("a text that is its own error", "error(setmetatable({}, { __tostring = function() while true do end end }))", ""),
    ("nested brackets", "BRACKETS", "overflow|levels"),
    ("a text that is no UTF-8 as a key", "sync{ ['\\xff'] = 1 }", "is not UTF-8"),
    ("another text for the environment", "default = nil sync{ default.rsync }", "attempt to index"),
    ("a call of what is no function", "pcall(1) error('after')", "after"),
    ("names of the environment", "os.getenv('\\0=') error('after')", "after"),
    ("no memory for a table", "local t = {} for i = 1, 1e9 do t[i] = { i, i, i } end", "memory|does not come to its end"),
];

#[test]
fn a_hostile_program_ends_with_an_error() {
    for (what, program, words) in HOSTILE {
        let program = program.replace("BRACKETS", &format!("x = {}", "{".repeat(50_000)));
        let bounds = script::Bounds::of(300_000);
        let failure = script::run_within(&program, None, bounds).expect_err(what);
        assert!(words.split('|').any(|word| failure.text.contains(word)), "{what}: {failure:?}");
        assert!(!failure.text.contains('\n'), "{what}: {failure:?}");
    }
    let large = " ".repeat(300 << 10);
    assert!(refused(&large).contains("larger than 256 KiB"));
}

/// A single call that takes longer than the whole program may. What it leaves ends the thread.
#[test]
fn a_call_that_does_not_return_is_left() {
    let program = "string.find(string.rep('a', 150), '.-.-.-b')\nwhile true do end";
    let failure = script::run_within(program, None, script::Bounds::default().within(std::time::Duration::from_millis(1)));
    assert!(failure.expect_err("it never ends").text.contains("does not come to its end"));
}

#[test]
fn other_files_are_read_below_the_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    std::fs::create_dir(&site).unwrap();
    std::fs::write(dir.path().join("outside.lua"), "hosts = {}").unwrap();
    std::fs::write(site.join("hosts.lua"), "hosts = { 'p', 'q' }").unwrap();
    let main = site.join("main.lua");
    std::fs::write(
        &main,
        "require('hosts')\nfor _, h in ipairs(hosts) do sync{ default.rsync, source='/a', target=h..'::a' } end",
    )
    .unwrap();
    assert_eq!(load(&main, true).unwrap().config.mirrors[0].targets.len(), 2);
    assert!(load(&main, false).unwrap_err().to_string().contains("--lua-files"));
    std::fs::write(&main, "dofile('../outside.lua')").unwrap();
    assert!(load(&main, true).unwrap_err().to_string().contains("it lies outside of"));
    std::fs::write(site.join("hosts.lua"), b"\x1bLua\x54").unwrap();
    std::fs::write(&main, "require('hosts')").unwrap();
    assert!(load(&main, true).is_err(), "a compiled chunk");
    std::fs::create_dir(site.join("conf.d")).unwrap();
    for name in ["a", "b"] {
        let text = format!("sync{{ default.rsync, source='/{name}', target='h::{name}' }}");
        std::fs::write(site.join(format!("conf.d/{name}.lua")), text).unwrap();
    }
    let program = "for name, dir in pairs(readdir('conf.d')) do if not dir then dofile('conf.d/' .. name) end end";
    std::fs::write(&main, program).unwrap();
    assert_eq!(load(&main, true).unwrap().config.mirrors.len(), 2);
    std::fs::write(&main, "readdir('/etc')").unwrap();
    assert!(load(&main, true).unwrap_err().to_string().contains("it lies outside of"));
}

#[test]
fn a_file_is_known_by_its_name_or_its_calls() {
    for (name, text, is) in [
        ("lsyncd.conf.lua", "", true),
        ("lsyncd.conf", "settings {\n}\nsync {\n}", true),
        ("lsyncd.conf", "-- mirrors\nsync\n{\n}", true),
        ("lsyncd.conf", "settings = {\n}", true),
        ("fansync.toml", "[[mirror]]\nname = \"sync\"", false),
        ("fansync.toml", "", false),
    ] {
        assert_eq!(is_one(Path::new(name), text.as_bytes()), is, "{name}: {text}");
    }
}

/// The file itself goes into the TOML, and its patterns count for what is judged.
#[test]
fn a_list_of_excludes_stays_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("excludes");
    let program = format!("sync{{ default.rsync, source='/a', target='b::a', exclude='x', excludeFrom='{}' }}", file.display());
    std::fs::write(&file, "# rebuilt\n*.tmp\n").unwrap();
    let (toml, notes) = imported(&program);
    assert!(toml.contains(r#"exclude = ["x"]"#) && toml.contains(&format!("exclude_from = [\"{}\"]", file.display())), "{toml}");
    assert!(notes.is_empty(), "{notes:?}");
    let loaded = read(&program, None, None).unwrap();
    assert_eq!(loaded.config.mirrors[0].filter.exclude(), [b"x".to_vec(), b"*.tmp".to_vec()]);
    std::fs::write(&file, "*.tmp\n+ keep\n").unwrap();
    assert!(refused(&program).contains("excludes:2: \"+ keep\" belongs into a file of include_from"));
}

/// The same of rules in order; a line that lsyncd alone reads goes into the TOML itself.
#[test]
fn a_list_of_rules_stays_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules");
    let program = format!("sync{{ default.rsync, source='/a', target='b::a', filter='- x', filterFrom='{}' }}", file.display());
    std::fs::write(&file, "# kept\n+ /keep/***\n- *.tmp\n").unwrap();
    let (toml, notes) = imported(&program);
    assert!(toml.contains("filter = [\"- x\"]") && toml.contains(&format!("filter_from = [\"{}\"]", file.display())), "{toml}");
    assert!(notes.is_empty(), "{notes:?}");
    std::fs::write(&file, "+/keep/***\n- *.tmp\n").unwrap();
    let (toml, notes) = imported(&program);
    assert!(toml.contains(r#"filter = ["- x", "+ /keep/***", "- *.tmp"]"#) && !toml.contains("filter_from"), "{toml}");
    assert_eq!(notes.len(), 1, "{notes:?}");
}

/// Comments of TOML hold no control characters.
#[test]
fn what_a_note_cites_is_fit_for_a_comment() {
    let program = "sync{ default.rsync, source = \"/a\", target = \"h:/b\", rsync = { chmod = \"\\18=rw\" } }";
    let loaded = read(program, None, None).unwrap();
    assert!(loaded.notes.iter().any(|note| note.text.contains("--chmod=\u{12}=rw")), "{:?}", loaded.notes);
    let toml = crate::sersync::toml(&loaded, false).unwrap();
    assert!(crate::config::Config::from_toml(&toml).is_ok() && toml.contains("\\u{12}=rw"), "{toml}");
}
