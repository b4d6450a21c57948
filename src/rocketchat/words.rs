//! What is wrong at the workspace, in words that name the setting to change. No secret gets in here.

use std::time::Duration;

use super::Version;
use super::error::{ApiError, Rejection};
use super::wire::Endpoint;
use crate::error::{Refusal, RefusalKind};

/// An error of a call.
pub(super) fn explain(endpoint: Endpoint, error: ApiError) -> Refusal {
    let no = match error {
        ApiError::Unavailable { why, retry_after, .. } => return unavailable(&why, retry_after),
        ApiError::RateLimited { wait } => return rate_limited(endpoint, wait),
        ApiError::Unsendable(why) => return misconfigured(format!("Rocket.Chat cannot be called: {why}.")),
        ApiError::Rejected(no) => no,
    };
    if no.is_not_logged_in() || no.is_doubtful_401() {
        return wrong_service_account();
    }
    if no.is_two_factor() {
        return two_factor(endpoint);
    }
    if no.is_permission() {
        return permission_for(endpoint, &no);
    }
    let about = match endpoint {
        Endpoint::UsersCreate => "to create the account",
        Endpoint::UsersUpdate => "to write the custom field of users.external_id (does it exist in Accounts_CustomFields?)",
        Endpoint::CreateToken => "to mint a login token",
        _ => "a call that Gantry needs",
    };
    Refusal::new(
        RefusalKind::Misconfigured,
        format!("Rocket.Chat refused {about}. Its reason is in Gantry's log."),
        format!("{} answered {no}", endpoint.label()),
    )
}

/// The same words for the page and for the log: whoever sets a workspace up looks at both.
fn misconfigured(words: String) -> Refusal {
    Refusal::new(RefusalKind::Misconfigured, words.clone(), words)
}

pub(super) fn unavailable(why: &str, retry_after: Option<Duration>) -> Refusal {
    let refusal = Refusal::new(
        RefusalKind::RocketchatUnavailable,
        "The chat server cannot be asked right now. It may be starting; this page tries again by itself.",
        why,
    );
    match retry_after {
        Some(wait) => refusal.retry_after(wait),
        None => refusal,
    }
}

fn rate_limited(endpoint: Endpoint, wait: Duration) -> Refusal {
    Refusal::new(
        RefusalKind::RateLimited,
        "Many people are signing in at the moment. It is your turn shortly.",
        format!(
            "Rocket.Chat's rate limiter keeps {} shut: give the service account a role with the permission api-bypass-rate-limit \
             (admin, bot and app have it), or raise API_Enable_Rate_Limiter_Limit_Calls_Default",
            endpoint.label()
        ),
    )
    .retry_after(Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)))
}

pub(super) fn wrong_service_account() -> Refusal {
    misconfigured(
        "Rocket.Chat does not know Gantry's service account: rocketchat.user_id and rocketchat.auth_token do not belong together, or the \
         token was revoked. Make a new personal access token for that account, with \"Ignore Two Factor Authentication\"."
            .to_owned(),
    )
}

pub(super) fn service_account_as_user() -> Refusal {
    Refusal::new(
        RefusalKind::UserNotAllowed,
        "This account cannot be used to sign in.",
        "the identity matches Gantry's own service account, which is never signed in as a user",
    )
}

fn two_factor(endpoint: Endpoint) -> Refusal {
    misconfigured(format!(
        "Rocket.Chat wants a second factor for {}: rocketchat.auth_token has to be a personal access token of the service account made \
         with \"Ignore Two Factor Authentication\".",
        endpoint.label()
    ))
}

pub(super) fn permission_missing(permission: &str) -> Refusal {
    misconfigured(format!(
        "The service account lacks the permission {permission} in Rocket.Chat. Give one of its roles that permission (Administration, \
         Permissions)."
    ))
}

/// The permission that an endpoint wants.
pub(super) fn permission_for(endpoint: Endpoint, no: &Rejection) -> Refusal {
    let permission = match endpoint {
        Endpoint::UsersInfo => "view-full-other-user-info",
        Endpoint::UsersList => "view-full-other-user-info (and view-d-room)",
        Endpoint::UsersCreate => "create-user",
        Endpoint::UsersUpdate => "edit-other-user-info",
        Endpoint::CreateToken => "user-generate-access-token",
        Endpoint::OwnTokens | Endpoint::RemoveToken => "create-personal-access-tokens",
        Endpoint::Setting => "view-privileged-setting",
        Endpoint::WriteSetting => "edit-privileged-setting",
        Endpoint::SetAvatar => "edit-other-user-avatar (or the setting Accounts_AllowUserAvatarChange is off)",
        Endpoint::GiveRole | Endpoint::TakeRole => "access-permissions",
        Endpoint::ChannelInvite => "add-user-to-any-c-room",
        Endpoint::GroupInvite => "add-user-to-any-p-room",
        Endpoint::ChannelKick => "remove-user (and kick-user-from-any-c-room)",
        Endpoint::GroupKick => "remove-user (and kick-user-from-any-p-room)",
        Endpoint::TeamInfo => "view-all-teams",
        Endpoint::TeamAdd => "add-team-member",
        Endpoint::TeamRemove => "edit-team-member",
        Endpoint::Info
        | Endpoint::Settings
        | Endpoint::OwnMe
        | Endpoint::Me
        | Endpoint::Logout
        | Endpoint::Login
        | Endpoint::Permissions
        | Endpoint::Roles
        | Endpoint::PublicRoles
        | Endpoint::ChannelInfo
        | Endpoint::GroupInfo => {
            let detail = format!("{} answered {no}", endpoint.label());
            return Refusal::new(
                RefusalKind::Misconfigured,
                "Rocket.Chat refuses a call that needs no permission. Is there something in between?",
                detail,
            );
        }
    };
    let mut refusal = permission_missing(permission);
    refusal.detail = format!("{} ({} answered {no})", refusal.message, endpoint.label());
    refusal
}

/// 8.0 and later, and no secret configured here.
pub(super) fn secret_unset_here(version: Version) -> Refusal {
    misconfigured(format!(
        "Rocket.Chat {version} mints login tokens only with a secret: set the environment variable CREATE_TOKENS_FOR_USERS_SECRET of \
         Rocket.Chat (it is read at start) and rocketchat.create_token_secret of Gantry to the same value. The older \
         CREATE_TOKENS_FOR_USERS no longer counts."
    ))
}

/// The service account cannot even mint for itself.
pub(super) fn minting_off(version: Option<Version>, have_secret: bool) -> Refusal {
    misconfigured(match version {
        Some(version) if version >= Version::SECRET_IN_BODY => format!(
            "Rocket.Chat {version} refuses rocketchat.create_token_secret: the environment variable CREATE_TOKENS_FOR_USERS_SECRET of \
             Rocket.Chat is unset or different. It is read at start: restart Rocket.Chat after setting it. The older \
             CREATE_TOKENS_FOR_USERS no longer counts."
        ),
        Some(version) => format!(
            "Rocket.Chat {version} mints no login tokens: set its environment variable CREATE_TOKENS_FOR_USERS=true and restart it."
        ),
        None => format!(
            "Rocket.Chat mints no login tokens. Before 8.0 its environment variable CREATE_TOKENS_FOR_USERS=true is needed; from 8.0 on \
             CREATE_TOKENS_FOR_USERS_SECRET, with the same value in rocketchat.create_token_secret ({}).",
            if have_secret { "which is set here, perhaps to another value" } else { "which is not set here" }
        ),
    })
}

pub(super) fn no_seat() -> Refusal {
    Refusal::new(
        RefusalKind::SeatLimit,
        "The chat workspace has no free seat for a new account. Please ask its administrators. Existing accounts go on working.",
        "error-license-user-limit-reached: the workspace's licence has no seat left; deactivate users or buy seats",
    )
}

pub(super) fn no_guest_seat() -> Refusal {
    Refusal::new(
        RefusalKind::SeatLimit,
        "The chat workspace has no free place for another guest account. Please ask its administrators.",
        "error-max-guests-number-reached: users.roles creates guests, and the licence allows no more of them",
    )
}

pub(super) fn email_refused(no: &Rejection) -> Refusal {
    Refusal::new(
        RefusalKind::UserNotAllowed,
        "The chat workspace does not accept accounts with your e-mail address. Please ask its administrators.",
        format!(
            "users.create answered {}: see Accounts_AllowedDomainsList, Accounts_BlockedDomainsList and \
             Accounts_UseDefaultBlockedDomainsList",
            no.kind
        ),
    )
}

pub(super) fn roles_refused(no: &Rejection, roles: &[String]) -> Refusal {
    let roles = roles.join(", ");
    if no.text.to_ascii_lowercase().contains("admin") {
        return misconfigured(format!(
            "The service account may not give the roles of users.roles ({roles}): the role admin needs the permission assign-admin-role."
        ));
    }
    misconfigured(format!("Rocket.Chat does not know a role of users.roles ({roles}). Role ids are wanted, not the names that are shown."))
}
