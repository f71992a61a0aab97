use super::*;
use clap::ValueEnum;

fn page(name: &str) -> String {
    pages().into_iter().find(|p| p.name == name).unwrap_or_else(|| panic!("there is no page {name}")).text
}

/// As a reader sees it: without the marks of fonts and the escapes.
fn plain(text: &str) -> String {
    text.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\-", "-").replace("\\*(Aq", "'").replace("\\&", "")
}

#[test]
fn every_command_and_option_has_its_place() {
    fn look(command: &Command) {
        let text = plain(&page(command.get_display_name().unwrap_or(command.get_name())));
        for arg in command.get_arguments().filter(|a| !a.is_hide_set()) {
            let name = arg.get_long().map(|l| format!("--{l}")).or(arg.get_short().map(|s| format!("-{s}")));
            let name = name.unwrap_or_else(|| arg.get_value_names().unwrap_or_default()[0].to_string());
            assert!(text.contains(&name), "{name} is not in {text}");
        }
        assert!(text.contains("EXIT STATUS") && text.contains("SEE ALSO"), "{text}");
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let name = sub.get_display_name().unwrap();
            assert!(text.contains(&format!("{name}({})", section_of(name))), "{name} is not in {text}");
            look(sub);
        }
    }
    let mut command = command();
    command.build();
    look(&command);
}

#[test]
fn the_file_format_has_every_key() {
    let text = plain(&page("fansync.toml"));
    let mut keys = 0;
    for line in include_str!("../../../docs/config.md").lines() {
        let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')).map(|(key, _)| key) else { continue };
        assert!(text.contains(&format!(".TP\n{key} (")), "{key} is not in {text}");
        keys += 1;
    }
    assert!(keys > 80, "{keys} keys were found");
    let (body, _) = text.split_once(".SH EXAMPLE").unwrap();
    assert!(!body.contains("](") && !body.contains('`'), "{body}");
}

#[test]
fn daemons_have_files_signals_and_environment() {
    for name in ["fansync", "fansync-run", "fansync-mirror"] {
        let text = page(name);
        for title in [".SH FILES", ".SH SIGNALS", ".SH ENVIRONMENT"] {
            assert!(text.contains(title), "{name}: {title}");
        }
        let text = plain(&text);
        for word in ["state_dir/MIRROR/state", "SIGUSR1", "FANSYNC_SOCKET"] {
            assert!(text.contains(word), "{name}: {word}");
        }
        assert!(!text.contains("]("), "{name}");
    }
    let sections: Vec<_> =
        pages().into_iter().filter(|p| p.section != "1").map(|p| format!("{}({})", p.name, p.section)).collect();
    let mut expected = vec!["fansync-failover(8)", "fansync-run(8)", "fansync.toml(5)", "fansync-failover.toml(5)"];
    if cfg!(feature = "feed") {
        expected.insert(0, "fansync-follow(8)");
    }
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    assert_eq!(sorted(sections), sorted(expected.into_iter().map(str::to_owned).collect()));
}

#[test]
fn the_failover_page_has_its_keys() {
    let text = plain(&page("fansync-failover.toml"));
    for word in ["key_file", "daemon.sandbox_user", "failover.probe", "server.flush_timeout", "primary.version"] {
        assert!(text.contains(word), "{word}");
    }
}

#[test]
fn help_is_taken_apart() {
    let help = "One\nparagraph.\n\nExamples:\n  fansync x\n  fansync y\n\nExit codes: 0 done (so, or so), 1 not done, 64 usage.";
    let help = Help::of(&Command::new("x").after_help(help));
    assert_eq!(help.paragraphs, ["One paragraph."]);
    assert_eq!(help.blocks, [("EXAMPLES".to_owned(), vec!["fansync x".to_owned(), "fansync y".to_owned()])]);
    let codes: Vec<_> = help.codes.iter().map(|(c, m)| (c.as_str(), m.as_str())).collect();
    assert_eq!(codes, [("0", "done (so, or so)"), ("1", "not done"), ("64", "usage")]);
    assert_eq!(codes_in("\n  0   done\n  64  the line is wrong").len(), 2);
}

#[test]
fn completions_know_the_commands() {
    for shell in clap_complete::Shell::value_variants() {
        let script = String::from_utf8(completions(*shell)).unwrap();
        for word in ["mirror", "accept-source", "failback"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(!script.contains("call-"), "{shell}");
    }
}

#[test]
fn the_pages_lie_where_man_looks() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path()).unwrap();
    assert!(dir.path().join("man1/fansync-mirror.1").is_file() && dir.path().join("man8/fansync-run.8").is_file());
    assert!(dir.path().join("man5/fansync.toml.5").is_file());
    let file = dir.path().join("man1/fansync.1");
    assert_eq!(write(&file).map_err(|e| e.exit_code()), Err(ExitCode::Unavailable));
}
