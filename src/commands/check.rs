//! `fansync check`.

use std::path::Path;

use super::{fail, refuse};
use crate::cli::CheckArgs;
use crate::config::{Config, Written};
use crate::exit::ExitCode;
use crate::failover::config::Config as FailoverConfig;
use crate::import::Program;
use crate::out;
use crate::sersync::Flags;
use crate::sync::probe::Asked;

pub(super) fn check_file(args: &CheckArgs) -> ExitCode {
    let file = args.config();
    if let Some(program) = Program::of(&file) {
        return match program.load(&file, &Flags::default(), false) {
            Ok(loaded) => {
                for note in &loaded.notes {
                    out::note(format_args!("{}:{}: {}", file.display(), note.line, note.text));
                }
                for text in loaded.unseen() {
                    out::note(format_args!("check the target: {text}"));
                }
                if program == Program::Lsyncd {
                    let text = "lsyncd's configuration; fansync runs TOML, which `fansync import` prints: fansync import";
                    out::note(format_args!("{0} is {text} {0} > /etc/fansync/fansync.toml", file.display()));
                }
                check(&loaded.config, &Written::default(), args)
            }
            Err(errors) => refuse(&errors),
        };
    }
    if FailoverConfig::is_one(&file) {
        return check_failover(&file, args);
    }
    match Config::load_written(&file) {
        Ok((config, written)) => check(&config, &written, args),
        Err(errors) => refuse(&errors),
    }
}

fn check_failover(file: &Path, args: &CheckArgs) -> ExitCode {
    if args.effective {
        out::error("--effective is for a configuration with a [[mirror]]");
        return ExitCode::Usage;
    }
    match FailoverConfig::load(file) {
        Ok(config) => {
            let warnings: Vec<String> = config.server.iter().flat_map(crate::failover::mirror::warnings).collect();
            warnings.iter().for_each(out::warning);
            valid(warnings.len(), args.strict)
        }
        Err(errors) => refuse(&errors),
    }
}

fn check(config: &Config, written: &Written, args: &CheckArgs) -> ExitCode {
    let warnings = config.warnings(&Asked);
    warnings.iter().for_each(|warning| out::cautioned(written.cite(warning)));
    let shown = || if args.show_secrets { config.to_toml() } else { config.without_secrets().to_toml() };
    match args.effective.then(shown) {
        None if args.connect => connect(config, warnings.len(), args.strict),
        None => valid(warnings.len(), args.strict),
        Some(Ok(text)) if args.strict && !warnings.is_empty() => out::print(text, ExitCode::Config),
        Some(Ok(text)) => out::print(text, ExitCode::Done),
        Some(Err(error)) => {
            fail(&error, None);
            ExitCode::Bug
        }
    }
}

/// Tries each target.
fn connect(config: &Config, warnings: usize, strict: bool) -> ExitCode {
    let (mut code, mut warnings) = (ExitCode::Done, warnings);
    crate::connect::try_all(config, &mut |tried| {
        // What is worse has the larger number: a path, a target, the configuration.
        if tried.exit_code().code() > code.code() {
            code = tried.exit_code();
        }
        warnings += tried.warnings();
        code = out::print(tried.human(), code);
    });
    match code {
        ExitCode::Done => valid(warnings, strict),
        code => code,
    }
}

/// The end of a check that found no errors.
fn valid(warnings: usize, strict: bool) -> ExitCode {
    match warnings {
        0 => out::print("the configuration is valid\n", ExitCode::Done),
        n if strict => {
            let number = if n == 1 { "the warning".to_owned() } else { format!("the {n} warnings") };
            out::error(format_args!("--strict takes {number} above for an error"));
            ExitCode::Config
        }
        1 => out::print("the configuration is valid, with 1 warning\n", ExitCode::Done),
        n => out::print(format_args!("the configuration is valid, with {n} warnings\n"), ExitCode::Done),
    }
}
