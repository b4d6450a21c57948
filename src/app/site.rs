//! What one generation of the configuration comes to. A reload makes the next one, which takes over what of
//! the present one still holds.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::StartError;
use crate::certs::Certificates;
use crate::config::Config;
use crate::edge::Policies;
use crate::identity::Validator;
use crate::lifecycle::Health;
use crate::login::{Kept, Login};
use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::outbound::connect::{Connector, Target};
use crate::rocketchat::Client;

/// What lives as long as the process.
#[derive(Clone, Debug)]
pub(super) struct Lasting {
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) control: Handle,
}

/// One generation.
#[derive(Debug)]
pub(super) struct Site {
    /// Counted from 1.
    pub(super) generation: u64,
    pub(super) config: Config,
    pub(super) policies: Arc<Policies>,
    pub(super) way: Arc<Way>,
    pub(super) certificates: Option<Certificates>,
    pub(super) client: Client,
    login: Login,
}

/// The way to the workspace and the host app. While it stays the same, connections do too.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) target: Target,
    pub(super) connector: Connector,
    api: Api,
}

impl Way {
    /// The keys that it is made from.
    const KEYS: [&str; 4] = ["rocketchat.url", "rocketchat.tls.", "upstream.", "server.header_timeout"];

    fn new(config: &Config, control: &Handle) -> Result<Self, StartError> {
        let connector = Connector::new(config.upstream.connect_timeout, config.upstream.ca_file.as_deref())
            .map_err(|error| StartError::new("upstream.ca_file", error.to_string()))?;
        let target = Target::of(&config.rocketchat.url).map_err(|why| StartError::new("rocketchat.url", why))?;
        let api = Api::new(connector.clone(), control.clone());
        Ok(Self { target, connector, api })
    }

    /// Whether it was made from files, which may have changed though no key has.
    fn reads_files(config: &Config) -> bool {
        config.upstream.ca_file.is_some() || config.rocketchat.tls.client_pair.is_some()
    }
}

/// The generation before, and the keys whose values are others now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    pub(super) site: &'a Site,
    pub(super) changed: &'a [&'static str],
}

impl<'a> Before<'a> {
    /// The site, if no key changed that is one of these or stands in one of these sections (`users.`).
    fn unless(&self, keys: &[&str]) -> Option<&'a Site> {
        let concerns = |changed: &str| keys.iter().any(|key| changed == *key || (key.ends_with('.') && changed.starts_with(key)));
        (!self.changed.iter().any(|changed| concerns(changed))).then_some(self.site)
    }
}

impl Site {
    /// Builds a generation: from nothing, or as the successor of another.
    pub(super) fn new(config: Config, before: Option<Before<'_>>, lasting: &Lasting) -> Result<Self, StartError> {
        let Lasting { metrics, health, control } = lasting;
        let kept = |keys: &[&str]| before.as_ref().and_then(|before| before.unless(keys));
        let way = match kept(&Way::KEYS).filter(|_| !Way::reads_files(&config)) {
            Some(old) => Arc::clone(&old.way),
            None => Arc::new(Way::new(&config, control)?),
        };
        let same_way = before.as_ref().is_some_and(|before| Arc::ptr_eq(&before.site.way, &way));
        let client = match kept(&["rocketchat.", "login.timeout"]).filter(|_| same_way) {
            Some(old) => old.client.clone(),
            None => Client::new(&config, way.api.clone(), Arc::clone(metrics)),
        };
        let login = if let Some(old) = before.as_ref().map(|before| &before.site.login) {
            let same_identity = kept(&["identity."]).is_some();
            let same_workspace = kept(&["rocketchat.url"]).is_some();
            let held = Kept {
                sessions: same_identity && kept(&["cache.sessions."]).is_some(),
                accounts: same_identity && same_workspace && kept(&["users.", "cache.users."]).is_some(),
                tokens: same_workspace,
            };
            // Its keys stay in memory unless something about it is new.
            let validator = (!same_identity || !same_way).then(|| Validator::new(&config.identity, way.api.clone()));
            old.renewed(&config, validator, client.clone(), held)
        } else {
            let validator = Validator::new(&config.identity, way.api.clone());
            Login::new(&config, validator, client.clone(), Arc::clone(metrics), control.clone())
        };
        let policies =
            Policies::new(&config, login.clone(), Arc::clone(metrics), Arc::clone(health)).map_err(|why| StartError::new("login", why))?;
        let certificates = certificates(&config, before.as_ref())?;
        let generation = before.map_or(0, |before| before.site.generation) + 1;
        Ok(Self { generation, config, policies: Arc::new(policies), way, certificates, client, login })
    }
}

/// The certificates of a generation: read again in any case, so that a reload is a way to have them looked at.
fn certificates(config: &Config, _before: Option<&Before<'_>>) -> Result<Option<Certificates>, StartError> {
    let load = |tls| Certificates::load(tls).map_err(|why| StartError::new("server.tls", why));
    config.server.tls.as_ref().map(load).transpose()
}
