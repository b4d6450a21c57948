//! `gantry doctor`: asks the live workspace and host app what is right, what is wrong, and what mends it.

mod surroundings;

use http::HeaderMap;
use serde::Serialize;

use crate::config::Config;
use crate::outbound::api::Api;
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
    /// The headers of a person who is signed in to the host app, for checks that want a session. Never shown.
    pub sample: Option<HeaderMap>,
}

/// Looks at what surrounds Gantry: the host app and its session, the public address and what stands in front.
pub async fn surroundings(context: &Context) -> Vec<Finding> {
    // All its looks at once are a large future.
    Box::pin(surroundings::checks(context)).await
}
