//! Every check that asks the workspace. What is asked is written down first; the checks then look at what was
//! written, and never ask twice.

mod account;
mod iframe;
mod integration;
mod minting;
mod origins;
mod permissions;
mod reach;
mod settings;
mod site;
mod sync;
mod users;
mod version;

use serde_json::Value;

use super::{Context, Finding, SettingWrite};
use crate::config::Config;
use crate::rocketchat::{Trouble, Version};

pub(super) use reach::{IS_ROCKETCHAT, REACHABLE};
pub(super) use settings::Settings;

/// Checks that look at settings and at nothing else, so that they can be looked at again after `--fix`.
pub(super) fn settings_checks(config: &Config, settings: &Settings) -> Vec<Finding> {
    let mut findings = iframe::checks(config, settings);
    findings.extend(integration::checks(config, settings));
    findings.extend(site::checks(config, settings));
    findings.push(users::external_id(config, settings));
    findings
}

/// The groups of checks, in the order in which one depends on another.
const GROUPS: [&str; 9] = ["workspace", "account", "permissions", "minting", "iframe", "integration", "settings", "users", "sync"];

/// The version of the workspace, as it tells strangers.
pub(super) async fn version(context: &Context) -> Result<String, Box<Finding>> {
    reach::reach(context).await.map(|reached| reached.version)
}

/// Asks the workspace and judges what it says.
pub(super) async fn checks(context: &Context) -> Vec<Finding> {
    let mut findings = match reach::reach(context).await {
        Ok(reached) => judge(context, reached).await,
        Err(finding) => no_workspace(&context.config, *finding),
    };
    findings.sort_by_key(|finding| GROUPS.iter().position(|group| finding.check.starts_with(&format!("{group}."))));
    findings
}

/// What is left to say without a Rocket.Chat.
fn no_workspace(config: &Config, finding: Finding) -> Vec<Finding> {
    let why = "the workspace cannot be asked";
    let mut findings = if finding.check == REACHABLE {
        vec![finding, Finding::skipped(IS_ROCKETCHAT, why)]
    } else {
        vec![Finding::good(REACHABLE, format!("something answers at {}", config.rocketchat.url)), finding]
    };
    findings.push(Finding::skipped(version::CHECK, why));
    findings.extend(account::skipped(why));
    findings.extend(permissions::skipped(config, None, why));
    findings.push(Finding::skipped(minting::CHECK, why));
    findings.extend(settings_checks(config, &Settings::unknown(&Trouble::Unavailable(why.to_owned()))));
    findings.extend(site::skipped(why));
    findings.extend(users::skipped(why));
    findings.extend(sync::skipped(config, why));
    findings
}

async fn judge(context: &Context, reached: reach::Reached) -> Vec<Finding> {
    let (config, client) = (&context.config, &context.client);
    let account = client.service_account().await;
    let usable = account.as_ref().is_ok_and(|user| user.active != Some(false));
    let (page, settings) = tokio::join!(reach::page(context), Settings::read(client, usable));
    // Strangers are told two parts of the version; who may see statistics, all three.
    let told = if usable { client.told_version().await } else { None };
    let told = told.unwrap_or(reached.version);
    let version = Version::parse(&told);

    let mut findings = vec![reached.reachable, reached.is_rocketchat, version::check(config, &told)];
    findings.extend(account::checks(context, &account).await);
    findings.extend(settings_checks(config, &settings));
    findings.extend(site::headers(&page, &settings));
    match &account {
        Ok(user) if usable => {
            let (granted, roles, admins) = tokio::join!(client.permissions(), client.roles(), client.administrators());
            findings.extend(permissions::checks(config, version, user, granted.as_ref(), client.limiter(), &settings));
            findings.push(minting::check(context, version).await);
            findings.extend(users::checks(config, version, &settings, roles.as_ref(), admins.as_ref()));
            findings.extend(sync::checks(config, client, roles.as_ref()).await);
        }
        _ => {
            let why = "the service account cannot be used";
            findings.extend(permissions::skipped(config, version, why));
            findings.push(Finding::skipped(minting::CHECK, why));
            findings.extend(users::skipped(why));
            findings.extend(sync::skipped(config, why));
        }
    }
    findings
}

/// How a setting is set by hand and by the workspace's environment.
fn set(setting: &str, value: &Value) -> String {
    let shown = shown(value);
    format!("{setting} = {shown}\nor, in Rocket.Chat's environment: OVERWRITE_SETTING_{setting}={shown}")
}

/// A finding's fix and write at once.
fn mend(finding: Finding, setting: &'static str, value: Value) -> Finding {
    Finding { fix: set(setting, &value), ..finding }.writing(SettingWrite { setting, value })
}

/// A setting's value as a person would write it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
