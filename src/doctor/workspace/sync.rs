//! What `[sync]` names: role ids, channels and teams that the workspace has to have, and calls that it has to allow.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::doctor::Finding;
use crate::rocketchat::{ChangeError, Client, Place, Role, Trouble};

const ROLES: &str = "sync.roles";
const CHANNELS: &str = "sync.channels";
const TEAMS: &str = "sync.teams";

pub(super) fn skipped(config: &Config, why: &str) -> Vec<Finding> {
    used(config).into_iter().map(|check| Finding::skipped(check, why)).collect()
}

/// The checks that this configuration asks for.
fn used(config: &Config) -> Vec<&'static str> {
    let sync = &config.sync;
    let wanted =
        [(ROLES, !sync.roles.is_empty()), (CHANNELS, sync.all_channels().next().is_some()), (TEAMS, sync.all_teams().next().is_some())];
    wanted.into_iter().filter_map(|(check, wanted)| wanted.then_some(check)).collect()
}

pub(super) async fn checks(config: &Config, client: &Client, known: Result<&Vec<Role>, &Trouble>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for check in used(config) {
        findings.push(match check {
            ROLES => match known {
                Ok(known) => roles(config, known),
                Err(trouble) => Finding::skipped(ROLES, format!("the workspace's roles cannot be listed: {trouble}")),
            },
            CHANNELS => channels(config, client).await,
            _ => teams(config, client).await,
        });
    }
    findings
}

fn roles(config: &Config, known: &[Role]) -> Finding {
    let wanted: BTreeSet<&str> = config.sync.roles.iter().map(|one| one.gives.as_str()).collect();
    let Some(unknown) = wanted.iter().find(|wanted| !known.iter().any(|role| role.id == **wanted)) else {
        return Finding::good(ROLES, format!("the workspace has {}", list(&wanted)));
    };
    let seen = format!("sync.roles gives {unknown}, and the workspace has no role with that id: nobody gets it");
    let fix = match known.iter().find(|role| role.name.eq_ignore_ascii_case(unknown)) {
        Some(role) => format!("Its id is {}: write that in sync.roles, in place of {unknown}", role.id),
        None => format!("Make the role {unknown} in Rocket.Chat, or take it out of sync.roles"),
    };
    Finding::warning(ROLES, seen, fix)
}

async fn channels(config: &Config, client: &Client) -> Finding {
    let wanted: BTreeSet<&str> = config.sync.all_channels().collect();
    for name in &wanted {
        let found = client.find_channel(name).await;
        let fix = format!(
            "Make the channel {name}, or take it out of sync.channels and sync.channels_by_role; if it is a private one, add the service \
             account to it"
        );
        if let Some(finding) = missing(CHANNELS, "channel", name, found, fix) {
            return finding;
        }
    }
    Finding::good(CHANNELS, format!("the workspace has {}", list(&wanted)))
}

async fn teams(config: &Config, client: &Client) -> Finding {
    let wanted: BTreeSet<&str> = config.sync.all_teams().collect();
    for name in &wanted {
        let found = client.find_team(name).await;
        let fix = format!("Make the team {name}, or take it out of sync.teams and sync.teams_by_role");
        if let Some(finding) = missing(TEAMS, "team", name, found, fix) {
            return finding;
        }
    }
    Finding::good(TEAMS, format!("the workspace has {}", list(&wanted)))
}

fn missing(check: &'static str, kind: &str, name: &str, found: Result<Option<Place>, ChangeError>, fix: String) -> Option<Finding> {
    match found {
        Ok(Some(_)) => None,
        Ok(None) => {
            let seen = format!("[sync] names the {kind} {name}, and there is none that the service account can see: nobody is put into it");
            Some(Finding::warning(check, seen, fix))
        }
        Err(ChangeError::Forbidden(why)) => Some(Finding::warning(check, format!("the {kind} {name} cannot be looked up: {why}"), fix)),
        Err(ChangeError::Limited(_)) => {
            Some(Finding::skipped(check, format!("Rocket.Chat's rate limiter lets no more {kind}s be looked up at the moment")))
        }
        Err(error) => Some(Finding::skipped(check, format!("the {kind} {name} cannot be looked up: {error:?}"))),
    }
}

fn list(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}
