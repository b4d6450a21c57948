//! `gantry rescue`: the workspace's iframe login off and on again, over REST and past everything else, for the day on
//! which nobody gets in. It needs the workspace's address, and somebody who may change its settings.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::fix::{self, Change, SWITCH};
use super::workspace::{self, shown};
use super::{Context, Finding};
use crate::config::Config;
use crate::rocketchat::{Client, LoginTrouble, SecondFactor, Trouble, password_factor};
use crate::secret::{Secret, SecretSource};

/// The other settings that the iframe login goes by.
const BESIDE: [&str; 3] = ["Accounts_iframe_url", "Accounts_Iframe_api_url", "Accounts_Iframe_api_method"];
/// How often what was written is looked for again, and how long in between: another instance may be the one that answers.
/// Strangers have ten calls a minute.
const LOOKS: usize = 3;
const BETWEEN: Duration = Duration::from_millis(800);
/// The workspace is not there, or is none (`EX_UNAVAILABLE` of sysexits.h).
const UNUSABLE: u8 = 69;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Rocket.Chat shows its own login form to everybody.
    Off,
    /// The iframe login is back.
    On,
    /// Nothing; it is said how it is.
    Status,
}

/// Somebody who logs in for it.
#[derive(Clone, Debug)]
pub struct Person {
    /// The username or e-mail address.
    pub name: String,
    /// The password.
    pub password: Secret,
    /// The code of a second factor.
    pub code: Option<Secret>,
}

/// How the command was called.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is to be done.
    pub action: Action,
    /// Who does it; without anybody, the service account of the configuration.
    pub person: Option<Person>,
    /// The command that undoes it.
    pub undo: String,
}

/// Does it, says what it did, and answers with the exit code.
///
/// # Errors
/// It could not begin, in words.
pub fn run(config: Config, options: &Options) -> Result<u8, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| format!("no runtime: {error}"))?;
    let context = Context::new(config, runtime.handle(), None).map_err(|error| error.to_string())?;
    runtime.block_on(async {
        match go(&context, options, runtime.handle()).await {
            Ok(()) => Ok(0),
            Err(Failed { code, words }) => {
                let _ = writeln!(std::io::stderr(), "gantry: {words}");
                Ok(code)
            }
        }
    })
}

/// Why it did not work, and the exit code for that.
struct Failed {
    code: u8,
    words: String,
}

impl Failed {
    fn because(words: impl Into<String>) -> Self {
        Self { code: 1, words: words.into() }
    }

    fn no_workspace(finding: &Finding) -> Self {
        let fix = if finding.fix.is_empty() { String::new() } else { format!("\n{}", finding.fix) };
        Self { code: UNUSABLE, words: format!("{}{fix}", finding.seen) }
    }
}

/// The four settings as anybody may read them.
struct Seen(std::collections::BTreeMap<String, Value>);

impl Seen {
    async fn read(client: &Client) -> Result<Self, Failed> {
        let ids: Vec<&str> = std::iter::once(SWITCH).chain(BESIDE).collect();
        client.public_settings(&ids).await.map(Self).map_err(|trouble| match trouble {
            Trouble::Unavailable(why) => Failed { code: UNUSABLE, words: format!("the settings cannot be read: {why}") },
            other => Failed::because(format!("the settings cannot be read: {other}")),
        })
    }

    fn is_on(&self) -> Option<bool> {
        self.0.get(SWITCH).and_then(Value::as_bool)
    }

    /// Those beside the switch that are empty: with one of them empty, the switch does nothing.
    fn empty(&self) -> Vec<&'static str> {
        BESIDE.into_iter().filter(|id| self.0.get(*id).and_then(Value::as_str).is_none_or(str::is_empty)).collect()
    }

    fn text(&self, before: Option<&Self>) -> String {
        let show = |seen: &Self, id: &str| match seen.0.get(id) {
            None => "(not shown)".to_owned(),
            Some(Value::String(text)) if text.is_empty() => "(empty)".to_owned(),
            Some(value) => shown(value),
        };
        let line = |id: &str| {
            let now = show(self, id);
            match before.map(|before| show(before, id)).filter(|before| *before != now) {
                Some(before) => format!("  {id:<28} {now}   (was {before})"),
                None => format!("  {id:<28} {now}"),
            }
        };
        std::iter::once(SWITCH).chain(BESIDE).map(line).collect::<Vec<_>>().join("\n")
    }

    /// What it means for people.
    fn meaning(&self) -> String {
        let empty = self.empty();
        match (self.is_on(), empty.as_slice()) {
            (Some(false), _) => {
                "Rocket.Chat shows its own login form to everybody. Who is signed in stays signed in; nobody is signed in through Gantry."
                    .into()
            }
            (Some(true), []) => "Rocket.Chat signs people in through the address above, and shows its own login form to nobody.".into(),
            (Some(true), empty) => {
                let verb = if empty.len() == 1 { "is" } else { "are" };
                format!(
                    "The iframe login is on, and yet Rocket.Chat shows its own login form to everybody: {} {verb} empty.\ngantry doctor --fix writes what belongs there.",
                    empty.join(", ")
                )
            }
            (None, _) => format!("This workspace does not tell its {SWITCH}."),
        }
    }
}

async fn go(context: &Context, options: &Options, control: &tokio::runtime::Handle) -> Result<(), Failed> {
    let version = workspace::version(context).await.map_err(|finding| Failed::no_workspace(&finding))?;
    say(&format!("Rocket.Chat {version} at {}\n", context.config.rocketchat.url));
    let before = Seen::read(&context.client).await?;
    let wanted = match options.action {
        Action::Status => {
            say(&format!("{}\n\n{}", before.text(None), before.meaning()));
            return Ok(());
        }
        Action::Off => false,
        Action::On => true,
    };
    if before.is_on() == Some(wanted) {
        say(&format!("{}\n\n{SWITCH} is {wanted} already, so nothing is written. {}", before.text(None), before.meaning()));
        return Ok(());
    }
    let old = before.0.get(SWITCH).cloned().unwrap_or_default();
    let change = Change::new(SWITCH, old, json!(wanted));
    match &options.person {
        None => write(&context.client, &change, "the service account").await?,
        Some(person) => by_person(context, person, &change, control).await?,
    }
    let after = look_again(&context.client, wanted).await?;
    if after.is_on() != Some(wanted) {
        return Err(Failed::because(format!(
            "Rocket.Chat took the change and still shows {SWITCH} as {}: something else sets it. Look for OVERWRITE_SETTING_{SWITCH} in \
             its environment, write OVERWRITE_SETTING_{SWITCH}={wanted} there, and restart it.",
            after.is_on().map_or_else(|| "nothing".to_owned(), |on| on.to_string())
        )));
    }
    say(&format!("{}\n\n{}", after.text(Some(&before)), after.meaning()));
    say(&format!(
        "If OVERWRITE_SETTING_{SWITCH} is in Rocket.Chat's environment, it wins again at its next start: change it there too.\n\nTo undo this:\n  {}",
        options.undo
    ));
    Ok(())
}

/// The settings as they are once the change shows, or after some time without it.
async fn look_again(client: &Client, wanted: bool) -> Result<Seen, Failed> {
    let unseen = |failed: Failed| {
        let words = format!(
            "Rocket.Chat took the change, but whether it stays could not be seen: {}; gantry rescue status looks again",
            failed.words
        );
        Failed { words, ..failed }
    };
    let mut after = Seen::read(client).await.map_err(unseen)?;
    for _ in 0..LOOKS {
        if after.is_on() == Some(wanted) {
            break;
        }
        tokio::time::sleep(BETWEEN).await;
        after = Seen::read(client).await.map_err(unseen)?;
    }
    Ok(after)
}

/// Logs somebody in, writes, and logs them out again, whatever became of it.
async fn by_person(context: &Context, person: &Person, change: &Change, control: &tokio::runtime::Handle) -> Result<(), Failed> {
    let Person { name, password, code } = person;
    let (id, token) = context.client.log_in(name, password, code.as_ref()).await.map_err(|trouble| kept_out(name, trouble))?;
    let mut config = context.config.clone();
    config.rocketchat.user_id.clone_from(&id);
    config.rocketchat.auth_token = SecretSource::inline(token.expose());
    let outcome = match Context::new(config, control, None) {
        Ok(context) => {
            let codes = code.iter().flat_map(|code| ["totp", "email"].map(|method| SecondFactor { method, code: code.clone() }));
            let mut outcome = Err(Failed::because(String::new()));
            // Which second factor the account has is not told beforehand.
            for factor in codes.chain([password_factor(password)]) {
                outcome = match fix::write(&context.client.with_second_factor(factor), std::slice::from_ref(change)).await.trouble() {
                    None => Ok(()),
                    Some(trouble) => Err(refused(trouble, name)),
                };
                if outcome.is_ok() {
                    break;
                }
            }
            outcome
        }
        Err(error) => Err(Failed::because(error.to_string())),
    };
    if let Err(refusal) = context.client.log_out(&id, &token).await {
        say(&format!("The session that {name} was logged in with is still open: {}. End it under My Account, Security.\n", refusal.detail));
    }
    outcome
}

async fn write(client: &Client, change: &Change, whom: &str) -> Result<(), Failed> {
    match fix::write(client, std::slice::from_ref(change)).await.trouble() {
        None => Ok(()),
        Some(trouble) => Err(refused(trouble, whom)),
    }
}

/// What kept a setting from being written.
fn refused(trouble: &Trouble, whom: &str) -> Failed {
    const BY_PASSWORD: &str = "or log in as an administrator with --user NAME";
    let service = whom == "the service account";
    let words = match trouble {
        Trouble::Unavailable(why) => return Failed { code: UNUSABLE, words: format!("{SWITCH} was not written: {why}") },
        Trouble::Forbidden if service => {
            format!("the service account lacks the permission edit-privileged-setting: give it to its role, {BY_PASSWORD}")
        }
        Trouble::Forbidden => format!("{whom} lacks the permission edit-privileged-setting, which administrators have: use another --user"),
        Trouble::TwoFactor if service => format!(
            "Rocket.Chat wants a second factor: rocketchat.auth_token has to be a personal access token made with \"Ignore Two Factor \
             Authentication\", {BY_PASSWORD}"
        ),
        Trouble::TwoFactor => format!(
            "Rocket.Chat wants a second factor of {whom}: give the present code with --code; one that came by mail is good once, so use an \
             account with an authenticator app, or the service account"
        ),
        Trouble::NotLoggedIn if service => {
            format!(
                "Rocket.Chat does not know the service account by rocketchat.user_id and rocketchat.auth_token: correct them, {BY_PASSWORD}"
            )
        }
        other => fix::reason(other),
    };
    Failed::because(format!("{SWITCH} was not written: {words}"))
}

/// What kept somebody out.
fn kept_out(name: &str, trouble: LoginTrouble) -> Failed {
    let words = match trouble {
        LoginTrouble::Wrong => format!(
            "Rocket.Chat does not let {name} in with this password. If the account has a second factor, give its code with --code: from 9.0 \
             on Rocket.Chat does not say that it wants one."
        ),
        LoginTrouble::WantsCode(method) if method == "email" => {
            format!("Rocket.Chat wants a second factor of {name} and has mailed a code: run this again with --code CODE")
        }
        LoginTrouble::WantsCode(_) => {
            format!("Rocket.Chat wants a second factor of {name}: run this again with --code CODE, from the authenticator app")
        }
        LoginTrouble::WrongCode => format!("Rocket.Chat does not take this --code of {name}: is it the present one?"),
        LoginTrouble::Blocked => {
            format!("Rocket.Chat lets {name} in no more for some minutes: too many logins have failed. Wait, then try again")
        }
        LoginTrouble::Inactive => format!("the account {name} is deactivated: use another --user"),
        LoginTrouble::Other(Trouble::Unavailable(why)) => {
            return Failed { code: UNUSABLE, words: format!("{name} was not logged in: {why}") };
        }
        LoginTrouble::Other(other) => format!("{name} was not logged in: {other}"),
    };
    Failed::because(words)
}

fn say(text: &str) {
    // A reader that has gone away is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(values: &[(&str, Value)]) -> Seen {
        Seen(values.iter().map(|(id, value)| ((*id).to_owned(), value.clone())).collect())
    }

    #[test]
    fn what_it_means_is_said_for_every_state() {
        let set = [
            ("Accounts_iframe_url", json!("https://x")),
            ("Accounts_Iframe_api_url", json!("https://x")),
            ("Accounts_Iframe_api_method", json!("POST")),
        ];
        let with = |on: Option<bool>, rest: &[(&str, Value)]| {
            let mut all = rest.to_vec();
            all.extend(on.map(|on| (SWITCH, json!(on))));
            seen(&all).meaning()
        };
        assert!(with(Some(false), &set).contains("its own login form to everybody"));
        assert!(with(Some(true), &set).contains("to nobody"));
        assert!(with(Some(true), &set[..2]).contains("Accounts_Iframe_api_method is empty"));
        assert!(with(Some(true), &[]).contains("are empty"));
        assert!(with(None, &set).contains("does not tell"));
    }

    #[test]
    fn old_and_new_stand_side_by_side() {
        let (before, after) = (seen(&[(SWITCH, json!(true))]), seen(&[(SWITCH, json!(false)), ("Accounts_iframe_url", json!(""))]));
        let text = after.text(Some(&before));
        for part in ["Accounts_iframe_enabled      false   (was true)", "Accounts_iframe_url          (empty)   (was (not shown))"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
