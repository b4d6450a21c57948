//! `gantry doctor`: asks the live workspace and host app what is right, what is wrong, and what mends it.

pub mod command;
mod consequences;
mod fix;
mod report;
pub mod rescue;
mod surroundings;
mod workspace;

use std::time::Duration;

use http::HeaderMap;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbound::api::{Api, Bounds};
use crate::outbound::connect::Connector;
use crate::outbound::tls::BadFile;
use crate::rocketchat::Client;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, and will bite somebody.
    Warning,
    /// Keeps people from signing in, or is unsafe.
    Bad,
    /// Could not be looked at; the words say why.
    Skipped,
}

/// The outcome of one check: one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's stable name, such as `workspace.reachable`.
    pub check: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// The exact command, setting or line that mends it; empty when nothing has to be.
    pub fix: String,
    /// What `--fix` may write by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<SettingWrite>,
}

impl Finding {
    fn good(check: &'static str, seen: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Good, seen: seen.into(), fix: String::new(), write: None }
    }

    fn warning(check: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, seen: seen.into(), fix: fix.into(), write: None }
    }

    fn bad(check: &'static str, seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Bad, seen: seen.into(), fix: fix.into(), write: None }
    }

    fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Skipped, seen: why.into(), fix: String::new(), write: None }
    }

    fn writing(self, write: SettingWrite) -> Self {
        Self { write: Some(write), ..self }
    }
}

/// A setting of the workspace that `--fix` writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingWrite {
    /// The setting's `_id`.
    pub setting: &'static str,
    /// What it becomes.
    pub value: serde_json::Value,
}

/// What checks ask with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The configuration that is looked at.
    pub config: Config,
    /// Calls to the host app and whoever else is not the workspace.
    pub api: Api,
    /// Plain calls to the workspace, with what `[rocketchat.tls]` says.
    pub workspace: Api,
    /// Calls to the workspace.
    pub client: Client,
    /// The headers of a person who is signed in to the host app, for checks that want a session. Never shown.
    pub sample: Option<HeaderMap>,
}

/// Looks at what surrounds Gantry: the host app and its session, the public address and what stands in front.
pub async fn surroundings(context: &Context) -> Vec<Finding> {
    // All its looks at once are a large future.
    Box::pin(surroundings::checks(context)).await
}

/// Somebody is waiting for the answer: no call takes longer, whatever the proxy's own patience is.
const PATIENCE: Duration = Duration::from_secs(5);

impl Context {
    /// Ready to ask; calls run on `control`. `sample` is a session at the host app that somebody lends.
    ///
    /// # Errors
    /// A file for TLS cannot be used.
    pub fn new(mut config: Config, control: &Handle, sample: Option<HeaderMap>) -> Result<Self, BadFile> {
        for limit in [&mut config.upstream.connect_timeout, &mut config.rocketchat.timeout, &mut config.login.timeout] {
            *limit = (*limit).min(PATIENCE);
        }
        let connector = Connector::of(&config.upstream)?;
        let to_workspace = connector.for_workspace(&config.rocketchat.tls)?;
        let limits = &config.limits;
        let workspace = Api::within(Bounds::of(limits, limits.rocketchat_calls), to_workspace, control.clone());
        let client = Client::new(&config, workspace.clone(), Metrics::new(1));
        let api = Api::within(Bounds::of(limits, limits.host_app_calls), connector, control.clone());
        Ok(Self { config, api, workspace, client, sample })
    }
}

/// Looks at the workspace, and asks it over REST.
pub async fn workspace(context: &Context) -> Vec<Finding> {
    // The same.
    Box::pin(workspace::checks(context)).await
}

/// Every check, in the order in which the findings are read.
pub async fn examine(context: &Context) -> Vec<Finding> {
    let (mut findings, surroundings) = tokio::join!(workspace(context), surroundings(context));
    findings.extend(surroundings);
    consequences::settle(&mut findings);
    findings
}
