//! Who a host session belongs to, remembered for a short while.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use moka::Expiry;
use moka::future::Cache;

use crate::config::{CacheSize, HostLogout};
use crate::directory::weight;
use crate::error::{Refusal, RefusalKind};
use crate::identity::logout_token::LogoutTokens;
use crate::identity::{Credentials, Identity, NotSent, SessionKey, Validated, Validator};
use crate::metrics::Metrics;
use crate::tokens::Standing;
use crate::trace;

use super::rates::Rates;

/// Who answers for host sessions: the configured source, or a script in tests.
#[derive(Debug)]
pub(super) enum Host {
    Validator(Validator),
    #[cfg(test)]
    Scripted(super::tests::Script),
}

/// What a request presented.
#[derive(Clone, Debug)]
pub(super) enum Presented {
    Credentials(Credentials),
    #[cfg(test)]
    Scripted(SessionKey),
}

impl Presented {
    pub(super) fn key(&self) -> SessionKey {
        match self {
            Self::Credentials(credentials) => credentials.key,
            #[cfg(test)]
            Self::Scripted(key) => *key,
        }
    }

    /// What the host app can be asked with again.
    pub(super) fn repeatable(&self) -> Option<Credentials> {
        match self {
            Self::Credentials(credentials) => credentials.can_be_asked_again().then(|| credentials.clone()),
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// What a chat session stands on, to be asked about again; `None` where that cannot be done.
    pub(super) fn again(standing: &Standing, host: &Host) -> Option<Self> {
        match host {
            Host::Validator(_) => standing.credentials.clone().map(Self::Credentials),
            #[cfg(test)]
            Host::Scripted(_) => Some(Self::Scripted(standing.session)),
        }
    }

    /// Who is held to `limits.unknown_sessions_per_client`.
    fn client(&self) -> Option<IpAddr> {
        match self {
            Self::Credentials(credentials) => credentials.client,
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }
}

impl Host {
    pub(super) fn source(&self) -> &'static str {
        match self {
            Self::Validator(validator) => validator.source(),
            #[cfg(test)]
            Self::Scripted(_) => "scripted",
        }
    }

    /// Whether it can be asked about a session with no request of its browser's.
    pub(super) fn asks_again(&self) -> bool {
        match self {
            Self::Validator(validator) => validator.asks_again(),
            #[cfg(test)]
            Self::Scripted(_) => true,
        }
    }

    /// Whether a session is known by its credentials alone.
    pub(super) fn judges_alone(&self) -> bool {
        match self {
            Self::Validator(validator) => validator.judges_alone(),
            #[cfg(test)]
            Self::Scripted(_) => false,
        }
    }

    /// What checks logout tokens, where that is set up.
    pub(super) fn logout_tokens(&self) -> Option<Arc<LogoutTokens>> {
        match self {
            Self::Validator(validator) => validator.logout_tokens().cloned(),
            #[cfg(test)]
            Self::Scripted(_) => None,
        }
    }

    /// Calls the host app's own logout.
    pub(super) async fn log_out(&self, logout: &HostLogout, credentials: &Credentials) -> Result<(), NotSent> {
        match self {
            Self::Validator(validator) => validator.log_out(logout, credentials).await,
            #[cfg(test)]
            Self::Scripted(_) => unreachable!("scripts have no address"),
        }
    }

    async fn identify(&self, presented: &Presented) -> Result<Validated, Refusal> {
        match (self, presented) {
            (Self::Validator(validator), Presented::Credentials(credentials)) => validator.identify(credentials).await,
            #[cfg(test)]
            (Self::Scripted(script), presented) => script.identify(presented.key()).await,
            #[cfg(test)]
            (Self::Validator(_), Presented::Scripted(_)) => unreachable!("a script is asked by scripts only"),
        }
    }
}

/// The session cache in front of the host app.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) host: Arc<Host>,
    pub(super) rates: Arc<Rates>,
    cache: Cache<SessionKey, Arc<Validated>>,
    metrics: Arc<Metrics>,
}

/// No entry outlives the credential itself.
struct UntilExpiry {
    ttl: Duration,
}

impl Expiry<SessionKey, Arc<Validated>> for UntilExpiry {
    fn expire_after_create(&self, _: &SessionKey, validated: &Arc<Validated>, _: Instant) -> Option<Duration> {
        let left = validated.expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        Some(left.map_or(self.ttl, |left| left.min(self.ttl)))
    }
}

/// Bytes of an identity's texts, which are the host app's.
fn length(identity: &Identity) -> usize {
    let roles: usize = identity.roles.iter().map(|role| size_of::<String>() + role.len()).sum();
    let texts = [Some(&identity.id), Some(&identity.username), identity.email.as_ref(), identity.name.as_ref(), identity.avatar.as_ref()];
    roles + texts.into_iter().flatten().map(String::len).sum::<usize>()
}

impl Sessions {
    pub(super) fn new(host: Arc<Host>, size: CacheSize, rates: Arc<Rates>, metrics: Arc<Metrics>) -> Self {
        let cache = Cache::builder()
            .max_capacity(size.capacity)
            .weigher(|_, validated: &Arc<Validated>| weight(length(&validated.identity)))
            .expire_after(UntilExpiry { ttl: size.ttl })
            .support_invalidation_closures()
            .build();
        Self { host, rates, cache, metrics }
    }

    /// The same memory, with another one to ask.
    pub(super) fn with_host(&self, host: Arc<Host>, rates: Arc<Rates>) -> Self {
        Self { host, rates, cache: self.cache.clone(), metrics: Arc::clone(&self.metrics) }
    }

    pub(super) async fn ready(&self, session: &SessionKey) -> Option<Arc<Validated>> {
        self.cache.get(session).await
    }

    /// Who the session belongs to: one question to the host app however many ask. No session, or no
    /// answer, is not remembered.
    pub(super) async fn identify(&self, presented: &Presented) -> Result<Arc<Validated>, Refusal> {
        let mut asked = false;
        let validated = self
            .cache
            .try_get_with(presented.key(), async {
                asked = true;
                let chance = self.rates.unknown(presented.client())?;
                let outcome = trace::step("session check", self.host.identify(presented)).await;
                if !matches!(&outcome, Err(refusal) if refusal.kind == RefusalKind::NoSession) {
                    chance.put_back();
                }
                outcome.map(Arc::new)
            })
            .await;
        self.metrics.cache("sessions", !asked);
        if asked {
            // The count lags behind by design.
            self.cache.run_pending_tasks().await;
        }
        self.metrics.cache_entries("sessions", self.cache.entry_count());
        validated.map_err(Arc::unwrap_or_clone)
    }

    /// The same, whatever is remembered; what it comes to is remembered from then on.
    pub(super) async fn again(&self, presented: &Presented) -> Result<Arc<Validated>, Refusal> {
        let outcome = trace::step("session recheck", self.host.identify(presented)).await.map(Arc::new);
        match &outcome {
            Ok(validated) => self.cache.insert(presented.key(), Arc::clone(validated)).await,
            Err(refusal) if matches!(refusal.kind, RefusalKind::NoSession | RefusalKind::UserNotAllowed) => {
                self.cache.invalidate(&presented.key()).await;
            }
            Err(_) => {}
        }
        outcome
    }

    pub(super) async fn forget(&self, session: &SessionKey) {
        self.cache.invalidate(session).await;
    }

    pub(super) fn forget_identity(&self, id: &str) {
        let id = id.to_owned();
        // Cannot fail: the cache was built with support for it. Should that ever change, entries live on
        // for `cache.sessions.ttl`.
        if let Err(error) = self.cache.invalidate_entries_if(move |_, validated| validated.identity.id == id) {
            tracing::error!(%error, "cached host sessions could not be dropped");
        }
    }
}
