//! `gantry doctor`: asks the live workspace and host app what is right, what is wrong, and what mends it.

pub mod command;
mod fix;
mod report;
mod workspace;

use std::io;
use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::outbound::connect::Connector;
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
    /// Calls to anywhere.
    pub api: Api,
    /// Calls to the workspace.
    pub client: Client,
}

/// Somebody is waiting for the answer: no call takes longer, whatever the proxy's own patience is.
const PATIENCE: Duration = Duration::from_secs(5);

impl Context {
    /// Ready to ask; calls run on `control`.
    ///
    /// # Errors
    /// `upstream.ca_file` cannot be used.
    pub fn new(mut config: Config, control: Handle) -> io::Result<Self> {
        for limit in [&mut config.upstream.connect_timeout, &mut config.rocketchat.timeout, &mut config.login.timeout] {
            *limit = (*limit).min(PATIENCE);
        }
        let connector = Connector::new(config.upstream.connect_timeout, config.upstream.ca_file.as_deref())?;
        let api = Api::new(connector, control);
        let client = Client::new(&config, api.clone(), Metrics::new(1));
        Ok(Self { config, api, client })
    }
}

/// Every check, in the order in which the findings are read.
pub async fn examine(context: &Context) -> Vec<Finding> {
    workspace::checks(context).await
}
