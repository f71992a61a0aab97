//! Completions that know the mirrors and targets of the daemons that run.
//!
//! clap's scripts offer files for a value that they know nothing of. Where the value is a mirror or
//! a target, the script asks `fansync names`, which asks the daemons.

use clap_complete::Shell;

/// Options whose value is a name, and what `fansync names` calls them.
const NAMES: [(&str, &str); 2] = [("--mirror", "mirrors"), ("--target", "targets")];

/// A script in which the values of [`NAMES`] are those of the daemons that run. Shells other than
/// bash, fish and zsh have it as it was.
pub(super) fn completed(shell: Shell, script: &str) -> String {
    let mut out = String::with_capacity(script.len());
    let mut named = None;
    for line in script.split_inclusive('\n') {
        let asks = |kind: &str| format!("$(fansync names {kind} 2>/dev/null)");
        let completed = match shell {
            // `--target)` is a line, what completes its value the next one.
            Shell::Bash => {
                let asked = named.take();
                named = NAMES.iter().find(|(option, _)| line.trim() == format!("{option})")).map(|(_, kind)| *kind);
                asked.map(|kind| line.replace("compgen -f \"${cur}\"", &format!("compgen -W \"{}\" -- \"${{cur}}\"", asks(kind))))
            }
            Shell::Fish => NAMES
                .iter()
                .find(|(option, _)| line.contains(&format!(" -l {} ", &option[2..])) && line.trim_end().ends_with(" -r"))
                .map(|(_, kind)| format!("{} -f -a '(fansync names {kind} 2>/dev/null)'\n", line.trim_end())),
            Shell::Zsh => NAMES
                .iter()
                .find(|(option, _)| line.contains(&format!("{option}=[")))
                .map(|(_, kind)| line.replace(":_default'", &format!(":{{compadd -- ${{(f)\"{}\"}}}}'", asks(kind)))),
            _ => None,
        };
        out.push_str(completed.as_deref().unwrap_or(line));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_asks_for_names() {
        let bash = "    --mirror)\n        COMPREPLY=($(compgen -f \"${cur}\"))\n    --socket)\n        COMPREPLY=($(compgen -f \"${cur}\"))\n";
        let made = completed(Shell::Bash, bash);
        assert!(made.contains("compgen -W \"$(fansync names mirrors 2>/dev/null)\" -- \"${cur}\""), "{made}");
        assert!(made.ends_with("--socket)\n        COMPREPLY=($(compgen -f \"${cur}\"))\n"), "{made}");
        let fish = "complete -c fansync -l target -d 'Only the targets with this name' -r\n";
        assert_eq!(completed(Shell::Fish, fish), fish.trim_end().to_owned() + " -f -a '(fansync names targets 2>/dev/null)'\n");
        let zsh = "'--target=[Only the targets with this name]:NAME:_default' \\\n";
        let made = completed(Shell::Zsh, zsh);
        assert_eq!(
            made,
            "'--target=[Only the targets with this name]:NAME:{compadd -- ${(f)\"$(fansync names targets 2>/dev/null)\"}}' \\\n"
        );
    }

    #[test]
    fn every_option_that_takes_a_name_is_known() {
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let script = String::from_utf8(super::super::completions(shell)).unwrap();
            for (_, kind) in NAMES {
                assert!(script.matches(&format!("fansync names {kind}")).count() >= 4, "{shell} {kind}: {script}");
            }
        }
    }
}
