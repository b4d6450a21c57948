//! What the service account has to be allowed, and is.

use std::collections::BTreeMap;

use super::settings::Settings;
use super::version;
use crate::config::{Config, MatchBy};
use crate::doctor::{Finding, Verdict};
use crate::rocketchat::{Limiter, Trouble, User, Version};

type Granted<'a> = Result<&'a BTreeMap<String, Vec<String>>, &'a Trouble>;

const RATE_LIMIT: &str = "permissions.api-bypass-rate-limit";

/// One permission that this configuration needs.
struct Need {
    check: &'static str,
    permission: &'static str,
    /// What happens without.
    without: &'static str,
    /// How bad that is.
    verdict: Verdict,
}

fn needs(config: &Config, version: Option<Version>) -> Vec<Need> {
    let users = &config.users;
    let mut needs = vec![
        Need {
            check: "permissions.user-generate-access-token",
            permission: "user-generate-access-token",
            without: "nobody can be signed in",
            verdict: if version::checks_permission(version) { Verdict::Bad } else { Verdict::Warning },
        },
        Need {
            check: "permissions.view-full-other-user-info",
            permission: "view-full-other-user-info",
            without: "roles of accounts cannot be seen, so nobody is signed in",
            verdict: if users.deny_roles.is_empty() && users.external_id.is_none() { Verdict::Warning } else { Verdict::Bad },
        },
    ];
    if users.create {
        needs.push(Need {
            check: "permissions.create-user",
            permission: "create-user",
            without: "accounts cannot be created (users.create)",
            verdict: Verdict::Bad,
        });
    }
    if users.external_id.is_some() {
        needs.push(Need {
            check: "permissions.edit-other-user-info",
            permission: "edit-other-user-info",
            without: "accounts that exist already cannot be marked with users.external_id",
            verdict: if users.adopt_unmarked { Verdict::Bad } else { Verdict::Warning },
        });
    }
    if users.match_by.contains(&MatchBy::Email) && version.is_none_or(|version| version < Version::INFO_BY_EMAIL) {
        needs.push(Need {
            check: "permissions.view-d-room",
            permission: "view-d-room",
            without: "before 8.4 nobody is found by e-mail (users.match_by)",
            verdict: Verdict::Bad,
        });
    }
    needs.extend(sync_needs(config));
    needs
}

/// What `[sync]` needs. Without it people are signed in all the same.
fn sync_needs(config: &Config) -> Vec<Need> {
    let sync = &config.sync;
    let need = |check, permission, without| Need { check, permission, without, verdict: Verdict::Warning };
    let channels = sync.all_channels().next().is_some();
    let teams = sync.all_teams().next().is_some();
    let mut needs = Vec::new();
    if (sync.name || sync.email || sync.username) && config.users.external_id.is_none() {
        let without = "names, e-mail addresses and usernames are not kept up to date ([sync])";
        needs.push(need("permissions.edit-other-user-info", "edit-other-user-info", without));
    }
    if sync.avatar {
        needs.push(need("permissions.edit-other-user-avatar", "edit-other-user-avatar", "pictures are not kept up to date (sync.avatar)"));
    }
    if !sync.roles.is_empty() {
        needs.push(need("permissions.access-permissions", "access-permissions", "roles are neither given nor taken away (sync.roles)"));
    }
    if channels || teams {
        let without = "it is not known who is in a channel or team already, so nobody is ever taken out of one ([sync])";
        needs.push(need("permissions.view-other-user-channels", "view-other-user-channels", without));
    }
    if channels {
        let without = "nobody is put into public channels (sync.channels), unless the service account is in them";
        needs.push(need("permissions.add-user-to-any-c-room", "add-user-to-any-c-room", without));
        let without = "nobody is put into private channels (sync.channels)";
        needs.push(need("permissions.add-user-to-any-p-room", "add-user-to-any-p-room", without));
    }
    if !sync.channels_by_role.is_empty() {
        let without = "nobody is taken out of a channel again (sync.channels_by_role)";
        needs.push(need("permissions.remove-user", "remove-user", without));
        let without = "nobody is taken out of a public channel again (sync.channels_by_role), unless the service account is in it";
        needs.push(need("permissions.kick-user-from-any-c-room", "kick-user-from-any-c-room", without));
        let without = "nobody is taken out of a private channel again (sync.channels_by_role), unless the service account is in it";
        needs.push(need("permissions.kick-user-from-any-p-room", "kick-user-from-any-p-room", without));
    }
    if teams {
        needs.push(need("permissions.view-all-teams", "view-all-teams", "private teams are not found (sync.teams)"));
        needs.push(need("permissions.add-team-member", "add-team-member", "nobody is put into teams (sync.teams)"));
    }
    if !sync.teams_by_role.is_empty() {
        needs.push(need("permissions.edit-team-member", "edit-team-member", "nobody is taken out of a team again (sync.teams_by_role)"));
    }
    needs
}

pub(super) fn skipped(config: &Config, version: Option<Version>, why: &str) -> Vec<Finding> {
    let checks = needs(config, version).into_iter().map(|need| need.check).chain([RATE_LIMIT]);
    checks.map(|check| Finding::skipped(check, why)).collect()
}

pub(super) fn checks(
    config: &Config,
    version: Option<Version>,
    user: &User,
    granted: Granted<'_>,
    limiter: Limiter,
    settings: &Settings,
) -> Vec<Finding> {
    let roles = user.roles.as_deref();
    let mut findings: Vec<Finding> = needs(config, version)
        .into_iter()
        .map(|need| match holds(granted, roles, need.permission) {
            Err(why) => Finding::skipped(need.check, why),
            Ok(true) => Finding::good(need.check, "granted"),
            Ok(false) => {
                let seen = format!("the service account lacks the permission {}: {}", need.permission, need.without);
                Finding { verdict: need.verdict, ..Finding::bad(need.check, seen, grant(need.permission, roles)) }
            }
        })
        .collect();
    findings.push(rate_limit(granted, roles, limiter, settings));
    findings
}

/// Whether one of the account's roles has the permission.
fn holds(granted: Granted<'_>, roles: Option<&[String]>, permission: &str) -> Result<bool, String> {
    let granted = granted.map_err(|trouble| format!("the workspace's permissions cannot be listed: {trouble}"))?;
    let roles = roles.ok_or("the service account's roles are not shown")?;
    if granted.is_empty() {
        return Err("the workspace lists no permissions at all".to_owned());
    }
    Ok(granted.get(permission).is_some_and(|holders| holders.iter().any(|holder| roles.contains(holder))))
}

fn grant(permission: &str, roles: Option<&[String]>) -> String {
    let own: Vec<&str> = roles.unwrap_or_default().iter().map(String::as_str).filter(|role| !matches!(*role, "user" | "guest")).collect();
    let to = match own.as_slice() {
        [] => "a role of its own that you give to the service account".to_owned(),
        roles => format!("the role {}", roles.join(" or ")),
    };
    format!("Administration > Workspace > Permissions: tick {permission} for {to}")
}

/// The limiter's own headers are believed over the list of permissions.
fn rate_limit(granted: Granted<'_>, roles: Option<&[String]>, limiter: Limiter, settings: &Settings) -> Finding {
    if settings.on("API_Enable_Rate_Limiter") == Some(false) {
        return Finding::good(RATE_LIMIT, "not needed: API_Enable_Rate_Limiter is off");
    }
    match (limiter, holds(granted, roles, "api-bypass-rate-limit")) {
        (Limiter::Counts(limit), held) => {
            let limit = limit.map_or_else(String::new, |limit| format!(", {limit} a minute to one endpoint"));
            let seen = format!("Rocket.Chat's rate limiter counts Gantry's calls{limit}: logins queue up, and some are told to come back");
            let fix = match held {
                Ok(true) => {
                    "The permission api-bypass-rate-limit is granted and does not count: does something between change the headers?"
                        .to_owned()
                }
                _ => grant("api-bypass-rate-limit", roles),
            };
            Finding::warning(RATE_LIMIT, seen, fix)
        }
        (_, Ok(true)) => Finding::good(RATE_LIMIT, "granted"),
        (_, Ok(false)) => {
            let seen = "the service account lacks the permission api-bypass-rate-limit: with a rate limiter logins would queue up";
            Finding::warning(RATE_LIMIT, seen, grant("api-bypass-rate-limit", roles))
        }
        (Limiter::Passes, Err(_)) => Finding::good(RATE_LIMIT, "the rate limiter does not count Gantry's calls"),
        (Limiter::Unknown, Err(why)) => Finding::skipped(RATE_LIMIT, why),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::example;

    fn user(roles: &[&str]) -> User {
        User {
            id: "service-id".into(),
            username: Some("gantry".into()),
            emails: None,
            active: Some(true),
            roles: Some(roles.iter().map(ToString::to_string).collect()),
            kind: None,
            custom_fields: serde_json::Map::new(),
            logged_in: true,
            federated: false,
        }
    }

    #[test]
    fn what_is_needed_depends_on_configuration_and_version() {
        let names = |keys: &[(&str, &str)], version| -> Vec<&str> {
            needs(&example(keys), version).into_iter().map(|need| need.permission).collect()
        };
        let old = Some(Version::new(8, 3));
        assert_eq!(names(&[("users.create", "false")], old), ["user-generate-access-token", "view-full-other-user-info"]);
        let all = names(&[("users.external_id", "hostId"), ("users.match_by", "username,email")], old);
        assert_eq!(all[2..], ["create-user", "edit-other-user-info", "view-d-room"]);
        assert!(!names(&[("users.match_by", "email")], Some(Version::new(8, 8))).contains(&"view-d-room"));
        for (key, value, expected) in [
            ("sync.name", "true", &["edit-other-user-info"][..]),
            ("sync.avatar", "true", &["edit-other-user-avatar"]),
            ("sync.roles", "staff=leader", &["access-permissions"]),
            ("sync.channels", "general", &["view-other-user-channels", "add-user-to-any-c-room", "add-user-to-any-p-room"]),
            (
                "sync.channels_by_role",
                "staff=berths",
                &[
                    "view-other-user-channels",
                    "add-user-to-any-c-room",
                    "add-user-to-any-p-room",
                    "remove-user",
                    "kick-user-from-any-c-room",
                    "kick-user-from-any-p-room",
                ],
            ),
            ("sync.teams_by_role", "staff=crew", &["view-other-user-channels", "view-all-teams", "add-team-member", "edit-team-member"]),
        ] {
            let all = names(&[("users.create", "false"), (key, value)], Some(Version::new(8, 8)));
            assert_eq!(&all[2..], expected, "{key}");
        }
        let twice = names(&[("users.external_id", "hostId"), ("sync.email", "true")], old);
        assert_eq!(twice.iter().filter(|name| **name == "edit-other-user-info").count(), 1);
    }

    #[test]
    fn the_limiters_headers_are_believed_first() {
        let list =
            |bypass: &[&str]| BTreeMap::from([("api-bypass-rate-limit".to_owned(), bypass.iter().map(ToString::to_string).collect())]);
        let (with, without) = (list(&["gantry"]), list(&["admin"]));
        let off = Settings::of(&[("API_Enable_Rate_Limiter", json!(false))]);
        let on = Settings::of(&[]);
        for (granted, limiter, settings, verdict) in [
            (&with, Limiter::Passes, &on, Verdict::Good),
            (&without, Limiter::Counts(Some(10)), &on, Verdict::Warning),
            (&with, Limiter::Counts(Some(10)), &on, Verdict::Warning),
            (&without, Limiter::Passes, &on, Verdict::Warning),
            (&without, Limiter::Passes, &off, Verdict::Good),
        ] {
            let user = user(&["gantry"]);
            let finding = rate_limit(Ok(granted), user.roles.as_deref(), limiter, settings);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
        }
        let finding = rate_limit(Err(&Trouble::Absent), None, Limiter::Unknown, &on);
        assert_eq!(finding.verdict, Verdict::Skipped);
    }

    #[test]
    fn the_fix_names_a_role_that_is_the_accounts_own() {
        assert!(grant("create-user", Some(&["user".into(), "gantry".into()])).ends_with("for the role gantry"));
        assert!(grant("create-user", Some(&["user".into()])).contains("a role of its own"));
    }
}
