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

/// Asks the workspace and judges what it says.
pub(super) async fn checks(context: &Context) -> Vec<Finding> {
    let config = &context.config;
    let reached = match reach::reach(context).await {
        Ok(reached) => reached,
        Err(finding) => {
            let why = "the workspace cannot be asked";
            let mut findings = if finding.check == REACHABLE {
                vec![*finding, Finding::skipped(IS_ROCKETCHAT, why)]
            } else {
                vec![Finding::good(REACHABLE, format!("something answers at {}", config.rocketchat.url)), *finding]
            };
            findings.push(Finding::skipped(version::CHECK, why));
            findings.extend(account::skipped(why));
            findings.extend(permissions::skipped(config, None, why));
            findings.push(Finding::skipped(minting::CHECK, why));
            findings.extend(settings_checks(config, &Settings::unknown(Trouble::Unavailable(why.to_owned()))));
            findings.push(Finding::skipped(site::HEADERS, why));
            findings.extend(users::skipped(why));
            return findings;
        }
    };
    let version = Version::parse(&reached.version);
    let mut findings = vec![reached.reachable, reached.is_rocketchat, version::check(config, &reached.version)];

    let account = context.client.service_account().await;
    let usable = account.as_ref().is_ok_and(|user| user.active != Some(false));
    let (headers, settings) = tokio::join!(reach::page(context), Settings::read(&context.client, usable));
    findings.extend(account::checks(context, &account).await);
    if let (true, Ok(user)) = (usable, &account) {
        let (granted, roles, admins) = tokio::join!(context.client.permissions(), context.client.roles(), context.client.administrators());
        let minting = minting::check(context, version).await;
        let limiter = context.client.limiter();
        findings.extend(permissions::checks(config, version, user, granted.as_ref(), limiter, &settings));
        findings.push(minting);
        findings.extend(settings_checks(config, &settings));
        findings.push(site::headers(&headers, &settings));
        findings.extend(users::checks(config, version, &settings, roles.as_ref(), admins.as_ref()));
    } else {
        let why = "the service account cannot be used";
        findings.extend(permissions::skipped(config, version, why));
        findings.push(Finding::skipped(minting::CHECK, why));
        findings.extend(settings_checks(config, &settings));
        findings.push(site::headers(&headers, &settings));
        findings.extend(users::skipped(why));
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
