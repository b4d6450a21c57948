//! Accounts: the roles and the custom field that the configuration names, the first administrator, second factors.

use serde_json::{Map, Value, json};

use super::settings::Settings;
use crate::config::Config;
use crate::doctor::{Finding, SettingWrite};
use crate::rocketchat::{Role, Trouble, Version};

const ROLES: &str = "users.roles";
const DENIED: &str = "users.deny_roles";
const EXTERNAL_ID: &str = "users.external_id";
const FIRST_ADMIN: &str = "users.first_admin";
const TWO_FACTOR: &str = "users.two_factor";

pub(super) fn skipped(why: &str) -> Vec<Finding> {
    [ROLES, DENIED, FIRST_ADMIN, TWO_FACTOR].map(|check| Finding::skipped(check, why)).to_vec()
}

pub(super) fn checks(
    config: &Config,
    version: Option<Version>,
    settings: &Settings,
    roles: Result<&Vec<Role>, &Trouble>,
    admins: Result<&Vec<String>, &Trouble>,
) -> Vec<Finding> {
    let mut findings = match roles {
        Ok(roles) => vec![given(config, roles), denied(config, roles)],
        Err(trouble) => {
            let why = format!("the workspace's roles cannot be listed: {trouble}");
            vec![Finding::skipped(ROLES, why.clone()), Finding::skipped(DENIED, why)]
        }
    };
    findings.push(first_admin(config, settings, admins));
    findings.push(two_factor(config, version, settings, roles.map_or(&[], Vec::as_slice)));
    findings
}

/// Ids of roles are wanted; those that administrators make have a made-up id and a name that people see.
fn given(config: &Config, roles: &[Role]) -> Finding {
    let users = &config.users;
    if !users.create {
        return Finding::good(ROLES, "not used: users.create is off");
    }
    let Some(unknown) = users.roles.iter().find(|wanted| !roles.iter().any(|role| role.id == **wanted)) else {
        return Finding::good(ROLES, format!("the workspace has {}", users.roles.join(", ")));
    };
    let seen = format!("users.roles names {unknown}, and the workspace has no role with that id: no account can be created");
    let named = roles.iter().find(|role| role.name.eq_ignore_ascii_case(unknown));
    let fix = match named {
        Some(role) => {
            let list: Vec<String> =
                users.roles.iter().map(|wanted| format!("\"{}\"", if wanted == unknown { &role.id } else { wanted })).collect();
            format!("Its id is {}; in [users] of proxy.toml: roles = [{}]", role.id, list.join(", "))
        }
        None => format!("Make the role {unknown} in Rocket.Chat, or in [users] of proxy.toml: roles = [\"user\"]"),
    };
    Finding::bad(ROLES, seen, fix)
}

fn denied(config: &Config, roles: &[Role]) -> Finding {
    let denied = &config.users.deny_roles;
    if !denied.iter().any(|role| role.eq_ignore_ascii_case("admin")) {
        return Finding::warning(
            DENIED,
            "users.deny_roles lacks admin: whoever controls the host app's sessions can sign in as an administrator",
            "in [users] of proxy.toml: deny_roles = [\"admin\", \"bot\", \"app\"]",
        );
    }
    let Some(unknown) = denied.iter().find(|wanted| !roles.iter().any(|role| role.id.eq_ignore_ascii_case(wanted))) else {
        return Finding::good(DENIED, format!("nobody is signed in with {}", denied.join(", ")));
    };
    let seen = format!("users.deny_roles names {unknown}, and the workspace has no role with that id: it keeps nobody out");
    let fix = match roles.iter().find(|role| role.name.eq_ignore_ascii_case(unknown)) {
        Some(role) => format!("Its id is {}: write that in users.deny_roles, in place of {unknown}", role.id),
        None => format!("Correct {unknown} in users.deny_roles, or take it out"),
    };
    Finding::warning(DENIED, seen, fix)
}

/// `Accounts_CustomFields` is a JSON text: an object by field name.
pub(super) fn external_id(config: &Config, settings: &Settings) -> Finding {
    const ID: &str = "Accounts_CustomFields";
    let Some(wanted) = config.users.external_id.as_deref() else {
        return Finding::good(EXTERNAL_ID, "not used: an account is known by its username alone, so usernames must never be used again");
    };
    let Some(text) = settings.text(ID) else { return settings.skip(EXTERNAL_ID, ID) };
    let fields: Option<Map<String, Value>> = if text.trim().is_empty() { Some(Map::new()) } else { serde_json::from_str(text).ok() };
    let Some(mut fields) = fields else {
        let seen = format!("{ID} is no JSON object, so the field {wanted} cannot be in it");
        return Finding::bad(EXTERNAL_ID, seen, format!("Correct {ID}, under Administration > Settings > Accounts > Custom Fields"));
    };
    let demanded = fields.iter().find(|(name, field)| *name != wanted && field.get("required") == Some(&Value::Bool(true)));
    match fields.get(wanted) {
        Some(_) if config.users.create && demanded.is_some() => {
            let name = demanded.map(|(name, _)| name.as_str()).unwrap_or_default();
            Finding::warning(
                EXTERNAL_ID,
                format!("the field {wanted} is there; {ID} also wants {name} of every account, which Gantry does not fill in"),
                format!("In {ID}: \"required\": false for {name}"),
            )
        }
        Some(_) => Finding::good(EXTERNAL_ID, format!("{ID} has the field {wanted}")),
        None => {
            fields.insert(wanted.to_owned(), json!({ "type": "text", "required": false }));
            let value = Value::from(Value::Object(fields).to_string());
            let seen = format!("{ID} has no field {wanted}: Rocket.Chat keeps no ids, so accounts are taken for somebody else's");
            let fix = format!("{ID} = {}", super::shown(&value));
            Finding::bad(EXTERNAL_ID, seen, fix).writing(SettingWrite { setting: ID, value })
        }
    }
}

/// Without an administrator the next account that is made becomes one, and at a restart the oldest.
fn first_admin(config: &Config, settings: &Settings, admins: Result<&Vec<String>, &Trouble>) -> Finding {
    let admins = match admins {
        Ok(admins) => admins,
        Err(trouble) => return Finding::skipped(FIRST_ADMIN, format!("administrators cannot be listed: {trouble}")),
    };
    if admins.is_empty() {
        let fix = "In Rocket.Chat's environment: ADMIN_USERNAME=…, ADMIN_PASS=…, ADMIN_EMAIL=…; then restart it.";
        return if config.users.create {
            Finding::bad(FIRST_ADMIN, "the workspace has no administrator: the first person whom Gantry creates becomes one", fix)
        } else {
            Finding::warning(FIRST_ADMIN, "the workspace has no administrator: at its next start the oldest account becomes one", fix)
        };
    }
    if settings.text("Show_Setup_Wizard").is_some_and(|step| step == "pending" || step == "in_progress") {
        return Finding::warning(
            FIRST_ADMIN,
            "the workspace's setup wizard is not done: administrators meet it in place of the chat",
            "Sign in as an administrator and finish it, or in Rocket.Chat's environment: OVERWRITE_SETTING_Show_Setup_Wizard=completed",
        );
    }
    Finding::good(
        FIRST_ADMIN,
        format!(
            "the workspace has {}",
            if admins.len() == 1 { "an administrator".to_owned() } else { format!("{} administrators", admins.len()) }
        ),
    )
}

/// Login tokens are exempt from second factors (`m/app/2fa/server/loginHandler.ts`); a role that forces one to be
/// set up is not.
fn two_factor(config: &Config, version: Option<Version>, settings: &Settings, roles: &[Role]) -> Finding {
    const ID: &str = "Accounts_TwoFactorAuthentication_Enabled";
    if settings.on(ID) == Some(false) {
        return Finding::good(TWO_FACTOR, format!("{ID} is off"));
    }
    let forced = roles.iter().find(|role| role.mandatory_two_factor && config.users.roles.contains(&role.id));
    if let Some(role) = forced.filter(|_| config.users.create) {
        let version = version.map_or_else(String::new, |version| format!(" {version}"));
        return Finding::warning(
            TWO_FACTOR,
            format!(
                "the role {} of users.roles forces a second factor: Rocket.Chat{version} has people set one up before they see the chat",
                role.id
            ),
            format!("Administration > Workspace > Permissions > {}: switch \"Users must use Two Factor Authentication\" off", role.name),
        );
    }
    Finding::good(TWO_FACTOR, "login tokens are exempt from second factors, also for accounts that have one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;
    use crate::doctor::Verdict;

    fn roles() -> Vec<Role> {
        let role = |id: &str, name: &str, mandatory_two_factor| Role { id: id.into(), name: name.into(), mandatory_two_factor };
        vec![
            role("admin", "Admin", false),
            role("user", "User", false),
            role("bot", "Bot", false),
            role("app", "App", false),
            role("a7Gh", "Crew", true),
        ]
    }

    fn look(keys: &[(&str, &str)], check: &str, settings: &[(&str, Value)], admins: &[&str]) -> Finding {
        let admins: Vec<String> = admins.iter().map(ToString::to_string).collect();
        let (config, settings) = (example(keys), Settings::of(settings));
        let findings = checks(&config, None, &settings, Ok(&roles()), Ok(&admins));
        findings.into_iter().chain([external_id(&config, &settings)]).find(|finding| finding.check == check).expect("the check")
    }

    #[test]
    fn roles_are_looked_up_by_id() {
        for (keys, check, verdict, fix) in [
            (&[("users.roles", "user")][..], ROLES, Verdict::Good, ""),
            (&[("users.roles", "user,crew")], ROLES, Verdict::Bad, "roles = [\"user\", \"a7Gh\"]"),
            (&[("users.roles", "captain")], ROLES, Verdict::Bad, "roles = [\"user\"]"),
            (&[("users.roles", "captain"), ("users.create", "false")], ROLES, Verdict::Good, ""),
            (&[], DENIED, Verdict::Good, ""),
            (&[("users.deny_roles", "admin,auditors")], DENIED, Verdict::Warning, "auditors"),
            (&[("users.deny_roles", "admin,crew")], DENIED, Verdict::Warning, "a7Gh"),
            (&[("users.deny_roles", "bot")], DENIED, Verdict::Warning, "\"admin\""),
            (&[("users.roles", "a7Gh")], TWO_FACTOR, Verdict::Warning, "Crew"),
            (&[], TWO_FACTOR, Verdict::Good, ""),
        ] {
            let finding = look(keys, check, &[], &["root"]);
            assert_eq!(finding.verdict, verdict, "{keys:?}: {finding:?}");
            assert!(finding.fix.contains(fix), "{keys:?}: {finding:?}");
        }
    }

    #[test]
    fn the_custom_field_is_added_to_those_that_are_there() {
        let keys = [("users.external_id", "hostId")];
        for (text, verdict) in [
            (r#"{"hostId":{"type":"text","required":false}}"#, Verdict::Good),
            ("", Verdict::Bad),
            (r#"{"team":{"type":"text"}}"#, Verdict::Bad),
            ("{nonsense", Verdict::Bad),
            (r#"{"hostId":{"type":"text"},"team":{"type":"text","required":true}}"#, Verdict::Warning),
        ] {
            let finding = look(&keys, EXTERNAL_ID, &[("Accounts_CustomFields", json!(text))], &["root"]);
            assert_eq!(finding.verdict, verdict, "{text}: {finding:?}");
            let written = finding.write.map(|write| write.value);
            if text.contains("team") && verdict == Verdict::Bad {
                let fields: Value = serde_json::from_str(written.as_ref().and_then(Value::as_str).unwrap()).unwrap();
                assert_eq!(fields, json!({"team": {"type": "text"}, "hostId": {"type": "text", "required": false}}));
            } else {
                assert_eq!(written.is_some(), text.is_empty(), "{text}");
            }
        }
    }

    #[test]
    fn a_workspace_without_an_administrator_is_told_of() {
        assert_eq!(look(&[], FIRST_ADMIN, &[], &["root"]).verdict, Verdict::Good);
        let finding = look(&[], FIRST_ADMIN, &[], &[]);
        assert!(finding.verdict == Verdict::Bad && finding.fix.contains("ADMIN_PASS"), "{finding:?}");
        assert_eq!(look(&[("users.create", "false")], FIRST_ADMIN, &[], &[]).verdict, Verdict::Warning);
        assert_eq!(look(&[], FIRST_ADMIN, &[("Show_Setup_Wizard", json!("pending"))], &["root"]).verdict, Verdict::Warning);
    }
}
