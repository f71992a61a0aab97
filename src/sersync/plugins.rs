//! Plugins as hooks of the mirrors, or alone (`-m`).

use std::path::PathBuf;

use super::xml::{Element, Found};
use crate::config::hook::{Action, Address, Cdn, CdnForm, Command, Hook, Input, Pattern, Secret, Socket, SocketForm, When};

/// The plugins that there are.
pub(super) const NAMES: [&str; 3] = ["command", "socket", "refreshCDN"];

/// A plugin's block: its hook, and the tree it watches when it runs alone.
pub(super) struct Plugin {
    pub(super) hook: Hook,
    pub(super) watch: Option<PathBuf>,
}

/// The block called `name`. `when`: what its hook is notified of.
pub(super) fn plugin(head: Element<'_>, name: &str, when: When, found: &mut Found) -> Option<Plugin> {
    let mut blocks = head.all("plugin").filter(|p| p.value("name").is_some_and(|v| v.text == name));
    let Some(block) = blocks.next() else {
        found.wrong(head.at(), format!("there is no <plugin name=\"{name}\"> in <head>"), "add it, or switch the plugin off");
        return None;
    };
    if let Some(second) = blocks.next() {
        found.note(second.at(), format!("a second <plugin name=\"{name}\"> is not looked at"));
    }
    match name {
        "command" => command(block, when, found),
        "socket" => socket(block, when, found),
        _ => cdn(block, when, found),
    }
}

/// The plugin that `<sersync>` switches on.
pub(super) fn attached(head: Element<'_>, sersync: Element<'_>, found: &mut Found) -> Option<Hook> {
    let element = sersync.child("plugin", found)?;
    element.known(&["start", "name"], &[], found);
    if !element.on(found) {
        return None;
    }
    let name = element.required("name", found)?;
    if !NAMES.contains(&name.text) {
        let help = format!("the plugins are {}", NAMES.join(", "));
        let text = if name.text == "http" {
            "the plugin http was named in sersync's help and never built"
        } else {
            "there is no such plugin"
        };
        found.wrong(name.at, format!("{text}: {:?}", name.text), help);
        return None;
    }
    plugin(head, name.text, When::Confirmed, found).map(|p| p.hook)
}

/// Blocks of plugins that are not switched on are checked for what they could not mean.
pub(super) fn unused(head: Element<'_>, found: &mut Found) {
    for block in head.all("plugin") {
        let name = block.value("name");
        if name.as_ref().is_none_or(|n| !NAMES.contains(&n.text)) {
            let name = name.map(|n| n.text).unwrap_or_default();
            found.note(block.at(), format!("there is no plugin {name:?}; the plugins are {}", NAMES.join(", ")));
        }
    }
}

fn command(block: Element<'_>, when: When, found: &mut Found) -> Option<Plugin> {
    block.known(&["name"], &["param", "filter"], found);
    let param = block.child("param", found);
    let text = |name: &str| param.and_then(|p| p.value(name)).map(|v| v.text.trim().to_owned()).unwrap_or_default();
    let (prefix, suffix) = (text("prefix"), text("suffix"));
    if let Some(param) = param {
        param.known(&["prefix", "suffix", "ignoreError"], &[], found);
    }
    if prefix.is_empty() {
        found.wrong(
            block.at(),
            "the plugin command has no program",
            "add <param prefix=\"/the/program\" suffix=\"\" ignoreError=\"false\"/>",
        );
        return None;
    }
    // sersync gave the line to a shell; where that makes a difference it is one here, too, but the
    // path is never a part of the text.
    let shell = [&prefix, &suffix].iter().any(|t| t.contains(|c| "|&;<>()$`*?[#~\n{}".contains(c)));
    let ignore_error = param.is_some_and(|p| p.flag("ignoreError", found).unwrap_or_default());
    let action = Command { prefix, suffix, shell, input: Input::Argument, success: vec![0], ignore_error };
    let mut hook = Hook::new("command", when, Action::Command(action));
    if let Some(filter) = block.child("filter", found) {
        filter.known(&["start"], &["include"], found);
        let on = filter.on(found);
        for include in filter.all("include").filter(|_| on) {
            include.known(&["expression"], &[], found);
            let Some(value) = include.required("expression", found) else { continue };
            match Pattern::whole(value.text) {
                Ok(pattern) => hook.matches.push(pattern),
                Err(why) => found.wrong(value.at, why, "sersync drops such an expression with a message"),
            }
        }
    }
    Some(Plugin { hook, watch: None })
}

fn socket(block: Element<'_>, when: When, found: &mut Found) -> Option<Plugin> {
    block.known(&["name"], &["localpath"], found);
    let Some(tree) = block.child("localpath", found) else {
        found.wrong(block.at(), "the plugin socket has no <localpath>", "add it with its <deshost ip=\"…\" port=\"…\"/>");
        return None;
    };
    tree.known(&["watch"], &["deshost"], found);
    let Some(host) = tree.child("deshost", found) else {
        found.wrong(tree.at(), "<localpath> has no <deshost>", "add <deshost ip=\"…\" port=\"…\"/>");
        return None;
    };
    host.known(&["ip", "port"], &[], found);
    let ip = host.required("ip", found);
    let port = host.number("port", 65535, found);
    let socket = Socket { address: Address::Tcp(address(ip?.text, port?)), form: SocketForm::Path, acknowledge: false };
    Some(Plugin { hook: Hook::new("socket", when, Action::Socket(socket)), watch: tree.value("watch").map(|v| v.text.into()) })
}

fn cdn(block: Element<'_>, when: When, found: &mut Found) -> Option<Plugin> {
    block.known(&["name"], &["localpath"], found);
    let Some(tree) = block.child("localpath", found) else {
        found.wrong(block.at(), "the plugin refreshCDN has no <localpath>", "add it with <cdninfo>, <sendurl> and <regexurl>");
        return None;
    };
    tree.known(&["watch"], &["cdninfo", "sendurl", "regexurl"], found);
    let (Some(info), Some(send)) = (tree.child("cdninfo", found), tree.child("sendurl", found)) else {
        found.wrong(tree.at(), "<localpath> of refreshCDN needs <cdninfo> and <sendurl>", "add what is missing");
        return None;
    };
    info.known(&["domainname", "port", "username", "passwd"], &[], found);
    send.known(&["base"], &[], found);
    let domain = info.required("domainname", found);
    let port = info.number("port", 65535, found);
    let (user, password) = (info.required("username", found), info.required("passwd", found));
    let base = send.required("base", found);
    let mut url_match = None;
    if let Some(regex) = tree.child("regexurl", found) {
        regex.known(&["regex", "match"], &[], found);
        if regex.flag("regex", found) == Some(true)
            && let Some(value) = regex.required("match", found)
        {
            match Pattern::search(value.text) {
                Ok(pattern) => url_match = Some(pattern),
                Err(why) => found.wrong(value.at, why, "the match is a regular expression with one group"),
            }
        }
    }
    let domain = domain?.text;
    let form = CdnForm::Chinacache {
        address: address(domain, port?),
        domain: domain.to_owned(),
        user: user?.text.to_owned(),
        password: Secret::Text(password?.text.to_owned()),
    };
    let action = Cdn { base: base?.text.to_owned(), url_match, form };
    Some(Plugin { hook: Hook::new("refreshCDN", when, Action::Cdn(action)), watch: tree.value("watch").map(|v| v.text.into()) })
}

fn address(host: &str, port: u64) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
