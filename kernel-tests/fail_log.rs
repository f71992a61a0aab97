//! `fail_log`: the paths that could not be sent, as commands that send them by hand.

use std::process::Command;

use crate::fixture::fs::Fs;
use crate::fixture::proc::{must, poll_until};
use crate::fixture::{Case, Setup, To, WAIT, case};

pub fn cases() -> Vec<Case> {
    vec![case("record_of_failures", &[Fs::Tmpfs], |fs| {
        let record = tempfile::tempdir().expect("a directory");
        let path = record.path().join("fail_log.sh");
        std::fs::write(&path, "touch /planted\n").expect("the file of an earlier program");
        let m = Setup::new(fs)
            .targets(&[To::Local])
            .key("fail_log", path.to_str().unwrap())
            .target_key("retry_max", "700ms")
            .before(|src| src.mkdirs("d"));
        let m = m.start()?;
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        poll_until(WAIT, || (!read().contains("planted")).then_some(())).expect("the old content is gone");
        // A name in the way that rsync cannot remove.
        must(Command::new("chattr").arg("+i").arg(m.dst().at("d")));
        let name = "d/it's $(touch owned) `x`\n";
        m.src.write(name, b"content");
        let listed = poll_until(WAIT, || read().contains("it's $(touch owned)").then_some(()));
        let text = read();
        must(Command::new("chattr").arg("-i").arg(m.dst().at("d")));
        listed.unwrap_or_else(|| panic!("the failure is not in the record:\n{text}"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        poll_until(WAIT, || (!read().contains("owned")).then_some(())).expect("what went through leaves the record");
        assert_eq!(m.dst().read(name).as_deref(), Some(&b"content"[..]));
        // The line does by hand what the daemon did.
        m.dst().remove(name);
        let script = m.scratch("replay.sh");
        std::fs::write(&script, text).expect("a script");
        must(Command::new("sh").arg(&script).current_dir(record.path()));
        assert_eq!(m.dst().read(name).as_deref(), Some(&b"content"[..]), "the recorded line does not send the path");
        assert!(!record.path().join("owned").exists());
        Ok(())
    })]
}
