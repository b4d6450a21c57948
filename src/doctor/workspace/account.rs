//! The service account: whether it gets in, with what kind of token, and as whom.

use crate::config::Config;
use crate::doctor::{Context, Finding};
use crate::rocketchat::{TokenKind, Trouble, User};

const LOGIN: &str = "account.login";
const ACTIVE: &str = "account.active";
const ROLE: &str = "account.role";
const KIND: &str = "account.token_kind";
const TWO_FACTOR: &str = "account.two_factor";

/// Meteor's ids are of this length.
const ID_LENGTH: usize = 17;

pub(super) fn skipped(why: &str) -> Vec<Finding> {
    [LOGIN, ACTIVE, ROLE, KIND, TWO_FACTOR].map(|check| Finding::skipped(check, why)).to_vec()
}

pub(super) async fn checks(context: &Context, account: &Result<User, Trouble>) -> Vec<Finding> {
    let config = &context.config;
    let user = match account {
        Ok(user) => user,
        Err(trouble) => {
            let mut findings = vec![no_login(config, trouble)];
            findings.extend([ACTIVE, ROLE, KIND, TWO_FACTOR].map(|check| Finding::skipped(check, "the service account cannot be used")));
            return findings;
        }
    };
    let name = user.username.as_deref().unwrap_or(&user.id);
    let mut findings = vec![if user.id == config.rocketchat.user_id {
        Finding::good(LOGIN, format!("the token belongs to the account {name}"))
    } else {
        let fix = format!("in [rocketchat] of proxy.toml: user_id = \"{}\"", user.id);
        Finding::bad(LOGIN, format!("the token belongs to the account {name}, whose id is {}", user.id), fix)
    }];
    if user.active == Some(false) {
        let fix = format!(
            "Activate the account {name} (Administration > Workspace > Users), then {}\nDeactivating it has ended its tokens.",
            new_token(config)
        );
        findings.push(Finding::bad(ACTIVE, format!("the account {name} is deactivated"), fix));
        findings.extend([ROLE, KIND, TWO_FACTOR].map(|check| Finding::skipped(check, "the service account is deactivated")));
        return findings;
    }
    findings.push(Finding::good(ACTIVE, "the account is active"));
    findings.push(role(user, name));
    findings.extend(token(context).await);
    findings
}

/// How to get a token that works.
fn new_token(config: &Config) -> String {
    let place = match config.rocketchat.auth_token.path() {
        Some(path) => format!("into {}", path.display()),
        None => "into rocketchat.auth_token".to_owned(),
    };
    format!(
        "sign in to Rocket.Chat as that account, My Account > Personal Access Tokens, tick \"Ignore Two Factor Authentication\", add a token; \
         put it {place}"
    )
}

fn no_login(config: &Config, trouble: &Trouble) -> Finding {
    if *trouble != Trouble::NotLoggedIn {
        let seen = format!("whether the service account gets in cannot be told: {trouble}");
        return match trouble {
            Trouble::RateLimited(_) => Finding::skipped(LOGIN, seen),
            _ => Finding::bad(LOGIN, seen, "Look at Rocket.Chat's own log, and run gantry doctor again."),
        };
    }
    let id = &config.rocketchat.user_id;
    let odd = id.len() != ID_LENGTH || !id.bytes().all(|b| b.is_ascii_alphanumeric());
    let hint = if odd {
        format!(
            "\nrocketchat.user_id is \"{id}\", which does not look like an id: ids have {ID_LENGTH} letters and digits, and are no usernames."
        )
    } else {
        String::new()
    };
    Finding::bad(
        LOGIN,
        "Rocket.Chat does not know the service account: rocketchat.user_id and rocketchat.auth_token do not belong together, or the token \
         was revoked",
        format!("Make a new one: {}, and the user id that is shown with it into rocketchat.user_id.{hint}", new_token(config)),
    )
}

fn role(user: &User, name: &str) -> Finding {
    let roles = user.roles.as_deref().unwrap_or_default();
    if roles.iter().any(|role| role == "admin") {
        return Finding::warning(
            ROLE,
            format!("the account {name} is an administrator: whoever gets hold of its token owns the workspace"),
            format!(
                "Give the account {name} a role of its own with the permissions below, and take admin away\n\
                 (Administration > Workspace > Permissions > New role)."
            ),
        );
    }
    let what = if roles.is_empty() { "its roles are not shown".to_owned() } else { format!("its roles are {}", roles.join(", ")) };
    Finding::good(ROLE, format!("no administrator; {what}"))
}

async fn token(context: &Context) -> [Finding; 2] {
    let config = &context.config;
    let renew = || format!("Make a personal access token: {}.", new_token(config));
    let listed = context.client.token_kind().await;
    let (kind, told) = match &listed {
        Ok(TokenKind::Personal { bypass_two_factor }) => {
            (Finding::good(KIND, "a personal access token, which does not run out"), *bypass_two_factor)
        }
        Ok(TokenKind::Session) => {
            let seen = "the token is one of a login, not a personal access token: it runs out, and others can push it out";
            (Finding::bad(KIND, seen, renew()), Some(false))
        }
        Err(Trouble::Forbidden) => {
            let why = "without the permission create-personal-access-tokens the account cannot list its tokens";
            (Finding::skipped(KIND, why), None)
        }
        Err(trouble) => (Finding::skipped(KIND, format!("the account's tokens cannot be listed: {trouble}")), None),
    };
    let passes = match told {
        Some(passes) => Ok(passes),
        None => context.client.passes_two_factor().await,
    };
    let two_factor = match passes {
        Ok(true) => Finding::good(TWO_FACTOR, "the token passes two-factor checks"),
        Ok(false) => {
            let why = "the token was made without \"Ignore Two Factor Authentication\", or is no personal access token";
            let sync = &config.sync;
            if config.users.external_id.is_none() && (sync.name || sync.email || sync.username) {
                Finding::warning(
                    TWO_FACTOR,
                    format!(
                        "{why}: names, e-mail addresses and usernames are not kept up to date ([sync]), and gantry doctor --fix cannot write"
                    ),
                    renew(),
                )
            } else if config.users.external_id.is_some() {
                Finding::bad(
                    TWO_FACTOR,
                    format!("{why}: users.external_id cannot be written, nor anything by gantry doctor --fix"),
                    renew(),
                )
            } else {
                Finding::warning(
                    TWO_FACTOR,
                    format!("{why}: gantry doctor --fix cannot write, and Rocket.Chat asks for a second factor in ever more places"),
                    renew(),
                )
            }
        }
        Err(trouble) => Finding::skipped(TWO_FACTOR, format!("whether the token passes two-factor checks cannot be told: {trouble}")),
    };
    [kind, two_factor]
}
