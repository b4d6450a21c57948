//! Whether login tokens can be minted at all.

use crate::doctor::{Context, Finding};
use crate::error::RefusalKind;
use crate::rocketchat::{Minting, Version};

pub(super) const CHECK: &str = "minting.create_token";

/// Mints one token, for the service account itself, and logs it out.
pub(super) async fn check(context: &Context, version: Option<Version>) -> Finding {
    judge(context, version, context.client.try_minting().await)
}

fn judge(context: &Context, version: Option<Version>, minting: Minting) -> Finding {
    let rocketchat = &context.config.rocketchat;
    let by_secret = version.map_or(rocketchat.create_token_secret.is_some(), |version| version >= Version::SECRET_IN_BODY);
    let named = version.map_or_else(|| "Rocket.Chat".to_owned(), |version| format!("Rocket.Chat {version}"));
    match minting {
        Minting::Works => {
            let rest = if !by_secret && rocketchat.create_token_secret.is_some() {
                "; rocketchat.create_token_secret is not used before 8.0"
            } else {
                ""
            };
            Finding::good(CHECK, format!("login tokens are minted (one for the service account, logged out again){rest}"))
        }
        Minting::NotLoggedOut(refusal) => Finding::warning(
            CHECK,
            format!("login tokens are minted, but the one that was tried could not be logged out: {}", refusal.detail),
            "It ends by itself after Accounts_LoginExpiration days, or when the service account logs its other clients out.",
        ),
        Minting::NoSecretHere => Finding::bad(
            CHECK,
            format!("rocketchat.create_token_secret is not set, and {named} mints login tokens only with it"),
            format!("{VARIABLE}\nin [rocketchat] of proxy.toml: create_token_secret_file = \"<file with the same secret>\"\n{OLD_NAME}"),
        ),
        Minting::Off if by_secret => Finding::bad(
            CHECK,
            format!(
                "{named} refuses rocketchat.create_token_secret: its variable CREATE_TOKENS_FOR_USERS_SECRET is unset or holds another value"
            ),
            format!("{VARIABLE}\n{}\n{OLD_NAME}", same(context)),
        ),
        Minting::Off => Finding::bad(
            CHECK,
            format!("{named} mints no login tokens: its variable CREATE_TOKENS_FOR_USERS is not set"),
            "in Rocket.Chat's environment: CREATE_TOKENS_FOR_USERS=true\nthen restart it; the variable is read at start. \
             CREATE_TOKENS_FOR_USERS_SECRET counts from 8.0 on only.",
        ),
        Minting::Failed(refusal) if refusal.kind == RefusalKind::RateLimited => {
            Finding::skipped(CHECK, format!("not tried: {}", refusal.detail))
        }
        Minting::Failed(refusal) => {
            Finding::bad(CHECK, format!("no login token could be minted: {}", refusal.detail), "Look at Rocket.Chat's own log.")
        }
    }
}

const VARIABLE: &str =
    "in Rocket.Chat's environment: CREATE_TOKENS_FOR_USERS_SECRET=<secret>\nthen restart it; the variable is read at start.";
const OLD_NAME: &str = "The older CREATE_TOKENS_FOR_USERS=true no longer counts from 8.0 on.";

fn same(context: &Context) -> String {
    let place = match context.config.rocketchat.create_token_secret.as_ref().and_then(|secret| secret.path()) {
        Some(path) => format!("the file {} (rocketchat.create_token_secret_file)", path.display()),
        None => "rocketchat.create_token_secret".to_owned(),
    };
    format!("The same secret has to stand in {place}.")
}
