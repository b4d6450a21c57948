//! What one generation of the configuration comes to. A reload makes the next one, which takes over what of
//! the present one still holds.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::StartError;
use crate::certs::{Certificates, Flaw, HttpChallenges, acme};
use crate::config::Config;
use crate::edge::Policies;
use crate::identity::Validator;
use crate::lifecycle::Health;
use crate::login::{Kept, Login};
use crate::metrics::{CallTarget, Metrics};
use crate::outbound::api::{Api, Bounds};
use crate::outbound::connect::{Connector, Target};
use crate::rocketchat::Client;
use crate::trace::Tracer;

/// What lives as long as the process.
#[derive(Clone, Debug)]
pub(super) struct Lasting {
    pub(super) metrics: Arc<Metrics>,
    pub(super) health: Arc<Health>,
    pub(super) challenges: HttpChallenges,
    pub(super) tracer: Option<Tracer>,
    pub(super) control: Handle,
}

/// One generation.
#[derive(Debug)]
pub(super) struct Site {
    /// Counted from 1.
    pub(super) generation: u64,
    /// The generation from which `[server.acme]` has been as it is.
    pub(super) acme_since: u64,
    pub(super) config: Config,
    pub(super) policies: Arc<Policies>,
    pub(super) way: Arc<Way>,
    pub(super) certificates: Option<Certificates>,
    pub(super) client: Client,
    pub(super) login: Login,
}

/// The way to the workspace and the host app. While it stays the same, connections do too.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) target: Target,
    /// To the workspace.
    pub(super) connector: Connector,
    workspace: Api,
    host_app: Api,
}

impl Way {
    /// The keys that it is made from.
    const KEYS: [&str; 9] = [
        "rocketchat.url",
        "rocketchat.tls.",
        "upstream.",
        "server.header_timeout",
        "limits.host_app_calls",
        "limits.rocketchat_calls",
        "limits.queue",
        "limits.queue_timeout",
        "limits.call_head",
    ];

    fn new(config: &Config, control: &Handle, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let to_others = if config.dev.as_ref().is_none_or(|dev| dev.verify) {
            Connector::of(&config.upstream).map_err(|bad| StartError::new(bad.key, bad.why))?
        } else {
            Connector::unverified(config.upstream.connect_timeout)
        };
        let connector = to_others.for_workspace(&config.rocketchat.tls).map_err(|bad| StartError::new(bad.key, bad.why))?;
        let target = Target::of(&config.rocketchat.url).map_err(|why| StartError::new("rocketchat.url", why))?;
        let limits = &config.limits;
        let workspace = Api::within(Bounds::of(limits, limits.rocketchat_calls), connector.clone(), control.clone());
        let host_app = Api::within(Bounds::of(limits, limits.host_app_calls), to_others, control.clone());
        let workspace = workspace.counted(CallTarget::RocketChat, Arc::clone(metrics));
        let host_app = host_app.counted(CallTarget::HostApp, Arc::clone(metrics));
        Ok(Self { target, connector, workspace, host_app })
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
        let Lasting { metrics, health, challenges, tracer, control } = lasting;
        let kept = |keys: &[&str]| before.as_ref().and_then(|before| before.unless(keys));
        let way = match kept(&Way::KEYS).filter(|_| !Way::reads_files(&config)) {
            Some(old) => Arc::clone(&old.way),
            None => Arc::new(Way::new(&config, control, metrics)?),
        };
        let same_way = before.as_ref().is_some_and(|before| Arc::ptr_eq(&before.site.way, &way));
        // It tells the workspace by which scheme browsers come.
        let client = match kept(&["rocketchat.", "login.timeout", "server.public_url"]).filter(|_| same_way) {
            Some(old) => old.client.clone(),
            None => Client::new(&config, way.workspace.clone(), Arc::clone(metrics)),
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
            let same_issuer = kept(&["session.back_channel."]).is_some();
            let validator = (!same_identity || !same_way || !same_issuer).then(|| validator(&config, &way));
            old.renewed(&config, validator, client.clone(), held)
        } else {
            let validator = validator(&config, &way);
            Login::new(&config, validator, client.clone(), Arc::clone(metrics), control.clone())
        };
        let policies = Policies::new(&config, login.clone(), Arc::clone(metrics), Arc::clone(health), challenges.clone())
            .map_err(|why| StartError::new("login", why))?;
        let certificates = certificates(&config, before.as_ref())?;
        let policies = policies.traced(tracer.clone()).for_dev(&config, client.clone());
        // Now that nothing can fail any more: it is one for all generations.
        login.sync().configure(&config, client.clone());
        let generation = before.map_or(0, |before| before.site.generation) + 1;
        let acme_since = kept(&["server.acme."]).map_or(generation, |old| old.acme_since);
        Ok(Self { generation, acme_since, config, policies: Arc::new(policies), way, certificates, client, login })
    }
}

fn validator(config: &Config, way: &Way) -> Validator {
    match &config.dev {
        None => Validator::new(&config.identity, way.host_app.clone()),
        Some(dev) => Validator::chosen(dev.chosen.clone()),
    }
}

/// The certificates of a generation. The last step that may fail, since those in use change with it.
fn certificates(config: &Config, before: Option<&Before<'_>>) -> Result<Option<Certificates>, StartError> {
    if config.server.tls.is_none() {
        return Ok(None);
    }
    if let Some(acme) = &config.server.acme {
        acme::check(acme).map_err(|flaw| first(&[flaw]))?;
    }
    if let Some(shown) = before.and_then(|before| before.site.certificates.clone()) {
        shown.configure(&config.server).map_err(|flaws| first(&flaws))?;
        return Ok(Some(shown));
    }
    Certificates::load(&config.server).map(Some).map_err(|flaws| first(&flaws))
}

/// The first flaw; `gantry check` tells all of them.
fn first(flaws: &[Flaw]) -> StartError {
    flaws.first().map_or_else(|| StartError::new("server.tls", "cannot be used"), |flaw| StartError::new(flaw.key, flaw.why.clone()))
}
