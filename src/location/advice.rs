//! What a person may do about a target that takes nothing.

use std::path::Path;
use std::time::Duration;

use super::{DAEMON, Location, at, remote_shell, whole_seconds};

/// Why a target takes nothing, as far as what helps depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Trouble {
    /// It does not answer, or nothing more is known.
    #[default]
    Away,
    /// Its directory is not there.
    Missing,
    /// Its filesystem has no room.
    Full,
    /// The user that writes there has used up its quota.
    Quota,
    /// The server knows no such module.
    UnknownModule,
    /// The module takes nothing.
    ReadOnlyModule,
    /// The server cannot enter the module's directory.
    ClosedModule,
    /// The module does not serve this host.
    HostDenied,
    /// The user or the password is wrong.
    AuthFailed,
}

impl Location {
    /// What to look at, as the end of a sentence. A command in it works in a shell as it stands.
    pub(crate) fn advice(&self, cause: Trouble, reach: &Reach<'_>) -> String {
        match cause {
            Trouble::Missing => self.missing_advice(),
            Trouble::Full => format!("make room on the target: the filesystem that holds {} is full", self.place()),
            Trouble::Quota => {
                format!(
                    "the quota of the user that writes is used up on the filesystem that holds {}: raise it, or make room",
                    self.place()
                )
            }
            _ => self.unanswered_advice(reach),
        }
    }

    /// Its directory, in a sentence.
    fn place(&self) -> String {
        match self {
            Location::Daemon { host, module, path, .. } if path.is_empty() => format!("the module {module} of {host}"),
            Location::Daemon { host, module, path, .. } => format!("{path} in the module {module} of {host}"),
            Location::Ssh { host, path, .. } => format!("{} on {host}", behind_ssh(path)),
            Location::Local(path) => path.display().to_string(),
            Location::Feed { feed, .. } => format!("the stream of the feed {feed}"),
        }
    }

    fn unanswered_advice(&self, reach: &Reach<'_>) -> String {
        match self {
            Location::Daemon { shell: true, host, module, .. } => format!(
                "see that {}, and that the rsyncd.conf of this login on {host} has the module {module}",
                self.shell_advice(reach)
            ),
            Location::Daemon { host, port, module, .. } => format!(
                "see that {host} answers on port {} and serves the module {module}: `{} {}` lists what is there",
                port.unwrap_or(873),
                reach.rsync_of_daemon(),
                word(&format!("{self}/"))
            ),
            Location::Ssh { .. } => format!("see that {}", self.shell_advice(reach)),
            Location::Local(path) => format!("see that {} is there, and that what belongs there is mounted", path.display()),
            Location::Feed { servers, .. } => {
                format!("see that nats-server runs with JetStream and answers on {}", servers.join(", "))
            }
        }
    }

    /// A command that tries the remote shell, and what it is to do; nothing where there is none.
    fn shell_advice(&self, reach: &Reach<'_>) -> String {
        let (Location::Ssh { user, host, .. } | Location::Daemon { user, host, .. }) = self else { return String::new() };
        let shell = remote_shell(reach.ssh, reach.connect_timeout);
        // Its quotes are those of fansync's words; a shell also expands `~`, `$` and `*`.
        let shell = shlex::split(&shell).map_or(shell, |words| words.iter().map(|w| word(w)).collect::<Vec<_>>().join(" "));
        let login = word(&format!("{}{host}", at(user)));
        match self.is_daemon() {
            true => format!(
                "`{shell} {login} {} </dev/null` answers @RSYNCD without a question, as the user that fansync runs as",
                remote_command(reach.rsync_path, DAEMON)
            ),
            false => format!(
                "`{shell} {login} {}` works without a question, as the user that fansync runs as",
                remote_command(reach.rsync_path, "--version")
            ),
        }
    }

    fn missing_advice(&self) -> String {
        match self {
            Location::Daemon { module, path, .. } if path.is_empty() => format!("see what the module {module} has as its `path`"),
            Location::Daemon { module, path, .. } => format!("the directory is {path} in the module {module}"),
            Location::Ssh { host, path, .. } => format!("the directory is {} on {host}", behind_ssh(path)),
            Location::Local(path) => format!("the directory is {}", path.display()),
            Location::Feed { feed, .. } => format!("the stream is that of the feed {feed}"),
        }
    }

    /// What to look at when it refuses: a sentence and a space behind it, or nothing where the
    /// reason says it.
    pub(crate) fn refusal_advice(&self, cause: Trouble, reach: &Reach<'_>) -> String {
        let Location::Daemon { shell, user, host, port, module, .. } = self else { return String::new() };
        match cause {
            Trouble::UnknownModule if *shell => {
                return format!(
                    "The daemon behind the remote shell reads /etc/rsyncd.conf where the login is root, else rsyncd.conf in its home, \
                     or what a forced command names: write the module {module} there. "
                );
            }
            Trouble::UnknownModule => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let rsync = Reach { password_file: None, ..*reach }.rsync_of_daemon();
                return format!("`{rsync} {}` lists the modules that are served. ", word(&format!("rsync://{host}{port}/")));
            }
            Trouble::ReadOnlyModule => return format!("Write `read only = no` into the module {module}. "),
            Trouble::ClosedModule => {
                return format!("The `path` of the module {module} has to be there, and open to the module's `uid`. ");
            }
            Trouble::HostDenied => {
                return format!("The `hosts allow` of the module {module} has to name the address of this host. ");
            }
            Trouble::Away | Trouble::Missing | Trouble::Full | Trouble::Quota => return String::new(),
            Trouble::AuthFailed => {}
        }
        match (user, reach.password_file) {
            (Some(user), Some(file)) => format!(
                "See that {} holds the password of {user}, as in the `secrets file` of the module {module}, and that its `auth users` name \
                 {user}. ",
                file.display()
            ),
            (None, _) => {
                format!("The module {module} wants a user: write it in the url, and its password into `password_file`. ")
            }
            (Some(user), None) => format!("The module {module} wants a password of {user}: set `password_file`. "),
        }
    }
}

/// A directory behind ssh, in a sentence.
fn behind_ssh(path: &str) -> String {
    match path {
        "" => "the home of the login".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("{path} in the home of the login"),
    }
}

/// How a target is reached, as its configuration says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    /// This side's rsync.
    pub(crate) rsync: &'a Path,
    /// The remote shell and its words.
    pub(crate) ssh: Option<&'a str>,
    /// The rsync behind the remote shell.
    pub(crate) rsync_path: Option<&'a str>,
    pub(crate) password_file: Option<&'a Path>,
    pub(crate) connect_timeout: Duration,
}

impl Reach<'_> {
    /// An rsync that calls a daemon as a run does, without the place.
    fn rsync_of_daemon(&self) -> String {
        let password = self.password_file.map(|file| format!(" --password-file={}", word(&file.to_string_lossy())));
        format!(
            "{} --contimeout={}{}",
            word(&self.rsync.to_string_lossy()),
            whole_seconds(self.connect_timeout),
            password.unwrap_or_default()
        )
    }
}

/// `text` as one word of a shell.
fn word(text: &str) -> String {
    // `=`, `@`, `:` and the like mean nothing to a shell within a word.
    let plain = |c: char| c.is_alphanumeric() || "-_./=@:,+%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => shlex::try_quote(text).map_or_else(|_| text.to_owned(), Into::into),
    }
}

/// What the remote shell is to run, as one or more words of a shell here: the shell there splits it
/// once more.
fn remote_command(rsync_path: Option<&str>, args: &str) -> String {
    let command = format!("{} {args}", rsync_path.unwrap_or("rsync"));
    match command.split(' ').all(|part| word(part) == part) {
        true => command,
        false => word(&command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_what_to_try() {
        use Trouble::{Away, Full, Missing, Quota};
        let plain = reach();
        for (cause, text, wants) in [
            (Missing, "rsync://h/m/sub", ["the directory is sub", "the module m"]),
            (Full, "rsync://h/m", ["make room on the target", "the module m of h is full"]),
            (Full, "u@h:/a", ["make room on the target", "the filesystem that holds /a on h"]),
            (Full, "u@h:a", ["make room on the target", "that holds a in the home of the login on h is full"]),
            (Missing, "u@h:", ["the directory is", "the home of the login on h"]),
            (Full, "/a/b", ["make room on the target", "the filesystem that holds /a/b"]),
            (Quota, "rsync://h/m/sub", ["quota", "sub in the module m of h: raise it, or make room"]),
        ] {
            let advice = Location::parse(text).unwrap().advice(cause, &plain);
            assert!(wants.iter().all(|want| advice.contains(want)), "{text}: {advice}");
        }
        let own = Reach { ssh: Some("/usr/bin/ssh -p 2222 -i /k"), ..plain };
        let odd = Reach { ssh: Some("ssh -i '/my key' -o ProxyCommand=~/jump"), rsync_path: Some("sudo -u b rsync"), ..plain };
        let other = Reach { ssh: Some("sudo -u me ssh -p 1"), rsync_path: Some("nice rsync; true"), ..plain };
        let secret = Reach { password_file: Some(Path::new("/etc/fansync/my pass")), ..plain };
        let older = Reach { rsync: Path::new("/opt/rsync"), ..plain };
        for (text, reach, wants) in [
            (
                "rsync://u@h/m/sub",
                &plain,
                ["h answers on port 873 and serves the module m", "`rsync --contimeout=5 rsync://u@h/m/sub/`"],
            ),
            (
                "rsync://u@h/m/s p",
                &secret,
                [": `rsync --contimeout=5 --password-file='/etc/fansync/my pass' ", " 'rsync://u@h/m/s p/'` "],
            ),
            ("rsync://h:1/m", &older, ["port 1 ", "`/opt/rsync --contimeout=5 rsync://h:1/m/`"]),
            ("rsync://[::1]/m", &plain, ["::1 answers", "`rsync --contimeout=5 'rsync://[::1]/m/'`"]),
            ("u@h:/a", &plain, ["`ssh -o BatchMode=yes -o ConnectTimeout=5 u@h rsync --version`", "without a question"]),
            ("u@h:/a", &own, ["`/usr/bin/ssh -p 2222 -i /k -o BatchMode=yes -o ConnectTimeout=5 u@h rsync", "question"]),
            ("u@h:/a", &odd, ["`ssh -i '/my key' -o 'ProxyCommand=~/jump' -o BatchMode=yes ", "u@h sudo -u b rsync --version`"]),
            ("u@h:/a", &other, ["`sudo -u me ssh -p 1 u@h 'nice rsync; true --version'`", "question"]),
            (
                "ssh+rsync://u@h/m",
                &own,
                ["u@h rsync --server --daemon . </dev/null` answers @RSYNCD", "rsyncd.conf of this login on h has the module m"],
            ),
            ("/a/b", &plain, ["/a/b is there", "mounted"]),
        ] {
            let advice = Location::parse(text).unwrap().advice(Away, reach);
            assert!(wants.iter().all(|want| advice.contains(want)), "{text}: {advice}");
        }
    }

    fn reach() -> Reach<'static> {
        Reach {
            rsync: Path::new("rsync"),
            ssh: None,
            rsync_path: None,
            password_file: None,
            connect_timeout: Duration::from_millis(4500),
        }
    }

    #[test]
    fn advice_on_a_refusal_names_what_to_correct() {
        const FILE: Option<&str> = Some("/etc/fansync/p");
        let (auth, unknown) = (Trouble::AuthFailed, Trouble::UnknownModule);
        for (text, cause, file, wants) in [
            ("rsync://u@h/m", auth, FILE, ["/etc/fansync/p holds the password of u", "`auth users` name u"]),
            ("rsync://u@h/m", auth, None, ["wants a password of u", "`password_file`"]),
            ("rsync://h/m", auth, None, ["wants a user", "url"]),
            ("rsync://u@h:1/m/sub", unknown, FILE, ["`rsync --contimeout=5 rsync://h:1/`", "lists the modules"]),
            ("ssh+rsync://u@h/m", unknown, FILE, ["/etc/rsyncd.conf", "write the module m there"]),
            ("rsync://[::1]/m", unknown, FILE, ["`rsync --contimeout=5 'rsync://[::1]/'`", "lists the modules"]),
            ("rsync://h/m", Trouble::ReadOnlyModule, None, ["`read only = no`", "the module m"]),
            ("rsync://h/m", Trouble::ClosedModule, None, ["`path` of the module m", "`uid`"]),
            ("rsync://h/m", Trouble::HostDenied, None, ["`hosts allow`", "of this host"]),
        ] {
            let advice =
                Location::parse(text).unwrap().refusal_advice(cause, &Reach { password_file: file.map(Path::new), ..reach() });
            assert!(wants.iter().all(|want| advice.contains(want)) && advice.ends_with(". "), "{text}: {advice}");
        }
        for (text, cause) in [("u@h:/a", auth), ("rsync://h/m", Trouble::Away), ("rsync://h/m", Trouble::Full)] {
            assert_eq!(Location::parse(text).unwrap().refusal_advice(cause, &reach()), "");
        }
    }
}
