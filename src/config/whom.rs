//! Which daemon a command talks to.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{ConfigErrors, read_trusted, toml};

/// What a command line says of it; nothing: the usual one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Whom {
    /// The daemon's socket, if not the usual one or FANSYNC_SOCKET
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The daemon's configuration file, whose socket it is
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    pub(crate) config: Option<PathBuf>,
}

impl Whom {
    /// The socket that it names. Of a configuration no more is read than that: the daemon may run
    /// on what the file was before.
    ///
    /// # Errors
    /// The file cannot be read or trusted, or is no TOML.
    pub(crate) fn named(&self) -> Result<Option<PathBuf>, ConfigErrors> {
        match (&self.socket, &self.config) {
            (Some(socket), _) => Ok(Some(socket.clone())),
            (None, Some(file)) => socket_of(file).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn socket_of(file: &Path) -> Result<PathBuf, ConfigErrors> {
    toml::socket(&read_trusted(file)?, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_configuration_names_its_socket_though_the_rest_of_it_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.toml");
        let named = |text: &str| {
            fs::write(&file, text).unwrap();
            Whom { socket: None, config: Some(file.clone()) }.named()
        };
        let socket = |text: &str| named(text).unwrap().unwrap();
        assert_eq!(socket("[daemon]\nstatus_socket = \"/r/web.sock\"\nno_such_key = 1\n"), Path::new("/r/web.sock"));
        let usual = super::super::Daemon::default().status_socket;
        assert_eq!((socket(""), socket("[daemon]\npage = false")), (usual.clone(), usual));
        assert!(named("[daemon\n").unwrap_err().to_string().contains("f.toml:1:"));
        let wrong = named("[daemon]\nstatus_socket = 3\n[[mirror]]\n").unwrap_err().to_string();
        assert!(wrong.contains("status_socket is a number"), "{wrong}");
        let unset = named("[daemon]\nstatus_socket = \"/r/${NO_SUCH_VARIABLE_HERE}\"\n").unwrap_err().to_string();
        assert!(unset.contains("NO_SUCH_VARIABLE_HERE is not set") && unset.contains("f.toml:2:"), "{unset}");
        let given = Whom { socket: Some("s".into()), config: None };
        assert_eq!((given.named(), Whom::default().named()), (Ok(Some("s".into())), Ok(None)));
        assert!(Whom { socket: None, config: Some(dir.path().join("none")) }.named().is_err());
    }
}
