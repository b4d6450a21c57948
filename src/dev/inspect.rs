//! What the workspace says before the dev proxy opens: its version, whether the service account can work
//! there, and whether the person asked for exists.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::outbound::connect::Connector;
use crate::rocketchat::Client;

/// How long one looks; a workspace that is being restarted is waited for by the proxy, not here.
const PATIENCE: Duration = Duration::from_secs(8);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The version, as the workspace tells it.
    pub version: Option<String>,
    /// `Site_Url`.
    pub site: Option<String>,
    /// What keeps it from working, in words; it may pass.
    pub trouble: Vec<String>,
    /// The id of the person asked for.
    pub user_id: Option<String>,
    /// Why nobody can be signed in as the person asked for, which will not pass.
    pub nobody: Option<String>,
}

/// Looks at the workspace of `config`, and at `username` there.
///
/// # Errors
/// No connection can ever be made with this configuration; the words name the key.
pub fn inspect(config: &Config, username: Option<&str>) -> Result<Found, String> {
    let connector = if config.dev.as_ref().is_none_or(|dev| dev.verify) {
        let connector = Connector::of(&config.upstream).and_then(|connector| connector.for_workspace(&config.rocketchat.tls));
        connector.map_err(|bad| bad.to_string())?
    } else {
        Connector::unverified(config.upstream.connect_timeout)
    };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    Ok(runtime.block_on(async {
        let api = Api::new(connector, runtime.handle().clone());
        let client = Client::new(config, api, Metrics::new(1));
        let mut found = Found::default();
        if timeout(PATIENCE, look(&client, config, username, &mut found)).await.is_err() {
            found.trouble.push(format!("the workspace does not answer within {}", humantime::format_duration(PATIENCE)));
        }
        found
    }))
}

async fn look(client: &Client, config: &Config, username: Option<&str>, found: &mut Found) {
    let client = client.until(Instant::now() + PATIENCE);
    if let Err(refusal) = client.ping(true).await {
        found.trouble.push(refusal.detail);
        return;
    }
    found.version = client.version().await.map(|version| version.to_string());
    if let Err(why) = client.check_service_account().await {
        found.trouble.push(format!("the service account cannot be used: {why}"));
        return;
    }
    found.site = client.public_setting("Site_Url").await.ok().flatten().and_then(|value| value.as_str().map(str::to_owned));
    let Some(username) = username else { return };
    match client.find_by_username(username).await {
        Err(refusal) => found.trouble.push(refusal.detail),
        Ok(user) => {
            let user = user.filter(|user| user.username.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(username)));
            found.user_id = user.as_ref().map(|user| user.id.clone());
            found.nobody = match user {
                None => Some(format!("there is no user @{username} at {}; leave --as out to choose from a list", config.rocketchat.url)),
                Some(user) if user.active == Some(false) => Some(format!("@{username} is deactivated")),
                Some(user) if user.id == config.rocketchat.user_id => {
                    Some(format!("@{username} is the service account, which is never signed in"))
                }
                Some(user) => {
                    let roles = user.roles.unwrap_or_default();
                    let denied = roles.iter().find(|role| config.users.deny_roles.contains(role));
                    denied.map(|role| match role.as_str() {
                        "admin" => format!("@{username} has the role admin: add --allow-admin to become this user all the same"),
                        role => format!("@{username} has the role {role}, which users.deny_roles keeps out"),
                    })
                }
            };
        }
    }
}
