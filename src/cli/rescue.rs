//! `gantry rescue`: see [`crate::doctor::rescue`].

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{ConfigArgs, USAGE, complain, fail, read, refuse};
use crate::config::rescue::{Rescue, rescue};
use crate::doctor::rescue::{Action, Options, Person, run as go};
use crate::secret::Secret;

#[derive(Clone, Debug, Args)]
pub(super) struct RescueArgs {
    /// off: everybody gets Rocket.Chat's own login form. on: people are signed in through the iframe again. status: says
    /// how it is.
    action: Word,
    /// Rocket.Chat's own address, past Gantry; else `rocketchat.url` of the configuration.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Logs in as this user, such as a local administrator, instead of calling as the service account.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A file that holds the user's password. Without it the password is asked for, or read from standard input.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// The user's code of a second factor.
    #[arg(long, value_name = "CODE", requires = "user")]
    code: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Word {
    Off,
    On,
    Status,
}

/// Finds the workspace and who calls it, and goes.
pub(super) fn run(args: &RescueArgs, config: &ConfigArgs, env: Vec<(String, String)>) -> ExitCode {
    let found = match find(args, config, env) {
        Ok(found) => found,
        Err(code) => return code,
    };
    let action = match args.action {
        Word::Off => Action::Off,
        Word::On => Action::On,
        Word::Status => Action::Status,
    };
    let person = match &args.user {
        Some(name) if action != Action::Status => match password(name, args.password_file.as_deref()) {
            Ok(password) => Some(Person { name: name.clone(), password, code: args.code.as_deref().map(Secret::new) }),
            Err(why) => return usage(&why),
        },
        _ => None,
    };
    if action != Action::Status && person.is_none() && !found.service_account {
        return usage(
            "nobody is named who could write the setting: set rocketchat.user_id and rocketchat.auth_token (of the service account), or \
             log in as an administrator with --user NAME",
        );
    }
    match go(found.config, &Options { action, person, undo: undo(args, config) }) {
        Ok(code) => ExitCode::from(code),
        Err(why) => fail(&why),
    }
}

fn find(args: &RescueArgs, config: &ConfigArgs, env: Vec<(String, String)>) -> Result<Rescue, ExitCode> {
    let flags = read::set_flags(config).map_err(|problems| refuse(&problems))?;
    let name = read::found(config, &env);
    let text = match name.as_deref().map(read::read).transpose() {
        Ok(text) => text,
        // Whoever gives the address does not need the file.
        Err(problems) if args.url.is_some() => {
            for problem in problems {
                complain(&format!("passed over: {problem}"));
            }
            None
        }
        Err(problems) => return Err(refuse(&problems)),
    };
    let name = name.as_deref().map(Path::display).map(|path| path.to_string()).unwrap_or_default();
    let text = text.as_deref().map(|text| (name.as_str(), text));
    // To say how it is, nobody has to be anybody.
    let with_account = args.user.is_none() && args.action != Word::Status;
    let found = rescue(text, env, &flags, args.url.as_deref(), with_account).map_err(|problems| {
        complain("--url gives the address of Rocket.Chat, and --user somebody who logs in, where the configuration cannot");
        refuse(&problems)
    })?;
    if found.passed_over > 0 {
        complain("something else in the configuration is wrong, which does not matter here; gantry check tells all of it");
    }
    Ok(found)
}

fn usage(why: &str) -> ExitCode {
    complain(why);
    ExitCode::from(USAGE)
}

/// From the file, from whoever sits there, or from standard input.
fn password(name: &str, file: Option<&Path>) -> Result<Secret, String> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| format!("--password-file {}: {error}", file.display()))?,
        None if std::io::stdin().is_terminal() => rpassword::prompt_password(format!("Password of {name}: "))
            .map_err(|error| format!("the password cannot be asked for: {error}"))?,
        None => {
            let mut line = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut line)
                .map_err(|error| format!("the password cannot be read from standard input: {error}"))?;
            line
        }
    };
    let text = zeroize::Zeroizing::new(text);
    let bare = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if bare.is_empty() {
        return Err(format!("there is no password of {name}: give it with --password-file, or on standard input"));
    }
    Ok(Secret::new(bare))
}

/// The command that does the opposite.
fn undo(args: &RescueArgs, config: &ConfigArgs) -> String {
    let mut words = vec!["gantry".to_owned(), "rescue".to_owned(), if args.action == Word::Off { "on" } else { "off" }.to_owned()];
    let path = |path: &PathBuf| path.display().to_string();
    let flags = [
        ("--config", config.config.as_ref().map(path)),
        ("--url", args.url.clone()),
        ("--user", args.user.clone()),
        ("--password-file", args.password_file.as_ref().map(path)),
    ];
    for (flag, value) in flags {
        words.extend(value.into_iter().flat_map(|value| [flag.to_owned(), quoted(&value)]));
    }
    // Values may be secrets: their keys alone are named.
    words.extend(config.set.iter().filter_map(|set| Some(format!("--set {}=…", set.split_once('=')?.0))));
    words.join(" ")
}

/// For a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_undo_command_is_the_opposite_without_secrets() {
        let args = RescueArgs {
            action: Word::Off,
            url: Some("http://127.0.0.1:3000".into()),
            user: Some("o'hara".into()),
            password_file: None,
            code: Some("123456".into()),
        };
        let config = ConfigArgs { config: Some("/etc/my gantry/proxy.toml".into()), set: vec!["rocketchat.auth_token=hunter2".into()] };
        assert_eq!(
            undo(&args, &config),
            "gantry rescue on --config '/etc/my gantry/proxy.toml' --url http://127.0.0.1:3000 --user 'o'\\''hara' --set rocketchat.auth_token=…"
        );
    }

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [("a pass word\r\n", Some("a pass word")), ("x", Some("x")), ("\n", None), ("", None)] {
            std::fs::write(file.path(), text).unwrap();
            let found = password("ada", Some(file.path())).ok();
            assert_eq!(found.as_ref().map(Secret::expose), expected, "{text:?}");
        }
        assert!(password("ada", Some(Path::new("/nowhere"))).is_err());
    }
}
