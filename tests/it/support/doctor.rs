//! The doctor's checks of the surroundings, run on a configuration.

use std::net::SocketAddr;

use gantry::config;
use gantry::doctor::{self, Context, Finding, Verdict};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;

use super::proxy::settings;
use super::within;

/// What a check of the surroundings starts from: a workspace, and keys that beat the least configuration.
pub struct Patient {
    base: Vec<(String, String)>,
    file: Option<String>,
    keys: Vec<(String, String)>,
    sample: Option<HeaderMap>,
}

impl Patient {
    /// With the least configuration.
    pub fn of(upstream: SocketAddr) -> Self {
        Self { base: settings(upstream), file: None, keys: Vec::new(), sample: None }
    }

    /// With this configuration file.
    pub fn with_file(text: &str) -> Self {
        Self { base: Vec::new(), file: Some(text.to_owned()), keys: Vec::new(), sample: None }
    }

    /// With this key set.
    pub fn key(mut self, key: &str, value: impl Into<String>) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self.keys.push((key.to_owned(), value.into()));
        self
    }

    /// Whose who-am-I endpoint is this.
    pub fn asking(self, me: impl Into<String>) -> Self {
        self.key("identity.source", "forward_auth").key("identity.header.id", "").key("identity.forward_auth.url", me)
    }

    /// Whose sessions are tokens in the cookie `session`, signed with RS256 by the keys at this URL.
    pub fn tokens(self, jwks: impl Into<String>) -> Self {
        self.key("identity.source", "jwt")
            .key("identity.header.id", "")
            .key("identity.jwt.cookie", "session")
            .key("identity.jwt.jwks_url", jwks)
            .key("identity.jwt.algorithms", "RS256")
    }

    /// Looked at with this session.
    pub fn signed_in(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).unwrap();
        self.sample = Some([(HeaderName::from_static(name), value)].into_iter().collect());
        self
    }

    /// All findings.
    pub async fn examine(self) -> Findings {
        let mut all = self.base;
        for (key, value) in self.keys {
            all.retain(|(known, _)| *known != key);
            all.push((key, value));
        }
        let config = config::load(self.file.as_deref().map(|text| ("proxy.toml", text)), [], &all)
            .unwrap_or_else(|problems| panic!("{problems:#?}"))
            .config;
        let context = Context::new(config, &Handle::current(), self.sample).unwrap();
        Findings(within("the doctor's findings", doctor::surroundings(&context)).await)
    }
}

/// What the doctor found.
#[derive(Debug)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// The findings of this check.
    pub fn of(&self, check: &str) -> Vec<&Finding> {
        self.0.iter().filter(|finding| finding.check == check).collect()
    }

    /// Asserts that this check came out so, with these words in what was seen and in what mends it.
    #[track_caller]
    pub fn expect(&self, check: &str, verdict: Verdict, seen: &str, fix: &str) -> &Self {
        let found = self.of(check);
        let fits = found.iter().any(|one| one.verdict == verdict && one.seen.contains(seen) && one.fix.contains(fix));
        assert!(fits, "{check} {verdict:?} {seen:?} {fix:?}:\n{found:#?}");
        self
    }

    /// Asserts that none of the findings says this.
    #[track_caller]
    pub fn hide(&self, secret: &str) -> &Self {
        let told = self.0.iter().find(|one| one.seen.contains(secret) || one.fix.contains(secret));
        assert!(told.is_none(), "{secret} is told: {told:?}");
        self
    }

    /// Checks that are warnings or worse.
    pub fn faults(&self) -> Vec<&Finding> {
        self.0.iter().filter(|one| matches!(one.verdict, Verdict::Warning | Verdict::Bad)).collect()
    }
}
