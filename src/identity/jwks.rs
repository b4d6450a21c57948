//! A JWKS endpoint's keys: fetched when first wanted, kept for a while, fetched again when a token names a
//! key that is not among them.
//!
//! One fetch serves all who wait for it, and goes on when they leave. When a fetch fails, the last good set
//! stays in use. A set is replaced as a whole, so a key that was taken out stops working.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{ACCEPT, CACHE_CONTROL, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::Mutex;
use url::Url;

use super::keys::Keys;
use super::{shown_url, unavailable};
use crate::error::Refusal;
use crate::outbound::api::{Api, Call, CallError, Reply};

/// Until the endpoint has answered.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a key set at most.
const MAX_BODY: usize = 256 * 1024;
/// The longest that a set is used before it is looked at again, whatever the endpoint's `Cache-Control` says.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// Between two tries while there is no set at all: the host app may just be starting.
const RETRY_WITHOUT_KEYS: Duration = Duration::from_secs(1);

/// The keys behind one URL.
#[derive(Debug)]
pub(super) struct Jwks {
    fetcher: Fetcher,
    min_refresh: Duration,
    state: ArcSwap<State>,
    /// Held for the time of a fetch, by the fetch itself. Whoever finds fresh keys never touches it.
    flight: Arc<Mutex<()>>,
}

/// What is known at a time; replaced as a whole at the end of each try.
#[derive(Clone, Debug, Default)]
struct State {
    good: Option<Good>,
    /// Tries so far, whatever their end.
    tries: u64,
    /// When the last try began.
    tried: Option<Instant>,
    /// When a token last caused a try.
    asked: Option<Instant>,
    /// Why the last try failed, if it did.
    failure: Option<String>,
}

#[derive(Clone, Debug)]
struct Good {
    keys: Arc<Keys>,
    fetched: Instant,
    max_age: Duration,
    unusable: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// There is no set, or it is old.
    Age,
    /// A token names a key that the set does not have.
    Token,
}

#[derive(Debug)]
enum Fetcher {
    Api(Api, Url),
    #[cfg(test)]
    Fake(Arc<tests::Fake>),
}

impl State {
    /// Whether a fetch is wanted and allowed.
    fn due(&self, why: Why, min_refresh: Duration, now: Instant) -> bool {
        let since = |then: Option<Instant>| then.map_or(Duration::MAX, |then| now.saturating_duration_since(then));
        match (why, &self.good) {
            (_, None) => since(self.tried) >= min_refresh.min(RETRY_WITHOUT_KEYS),
            (Why::Age, Some(good)) => {
                since(Some(good.fetched)) >= good.max_age && (self.failure.is_none() || since(self.tried) >= min_refresh)
            }
            // Counted from the last such fetch only: right after a fetch for age a new key is found at once,
            // and tokens with made-up key ids still cause no more than one fetch per interval.
            (Why::Token, Some(_)) => since(self.asked) >= min_refresh,
        }
    }
}

impl Jwks {
    /// The keys at `url`; nothing is fetched yet. `min_refresh` is the shortest time between two fetches that
    /// tokens with unknown keys, or failures, cause.
    pub(super) fn new(url: Url, min_refresh: Duration, api: Api) -> Arc<Self> {
        Self::with(Fetcher::Api(api, url), min_refresh)
    }

    fn with(fetcher: Fetcher, min_refresh: Duration) -> Arc<Self> {
        Arc::new(Self { fetcher, min_refresh, state: ArcSwap::default(), flight: Arc::default() })
    }

    /// The present keys, fetched first if there are none or they are old.
    ///
    /// # Errors
    /// `session_check_unavailable` when there never was a set, or the set has no usable key.
    pub(super) async fn keys(self: &Arc<Self>, now: Instant) -> Result<Arc<Keys>, Refusal> {
        self.refresh(Why::Age, now).await;
        let state = self.state.load();
        let Some(good) = &state.good else {
            let why = state.failure.as_deref().unwrap_or("was not fetched yet");
            return Err(unavailable(format!("the key set {} {why}; there is no earlier one", self.place())));
        };
        if good.keys.is_empty() {
            return Err(unavailable(format!("the key set {} has no usable key: {}", self.place(), reasons(&good.unusable))));
        }
        Ok(Arc::clone(&good.keys))
    }

    /// Other keys than `known`, after a token was signed with none of those; `None` when there are none.
    ///
    /// # Errors
    /// `session_check_unavailable` when the endpoint failed the last time, so that it cannot be known.
    pub(super) async fn newer(self: &Arc<Self>, known: &Arc<Keys>, now: Instant) -> Result<Option<Arc<Keys>>, Refusal> {
        let changed = |state: &State| state.good.as_ref().map(|good| Arc::clone(&good.keys)).filter(|keys| !Arc::ptr_eq(keys, known));
        if let Some(keys) = changed(&self.state.load()) {
            return Ok(Some(keys));
        }
        self.refresh(Why::Token, now).await;
        let state = self.state.load();
        match (changed(&state), &state.failure) {
            (Some(keys), _) => Ok(Some(keys)),
            (None, None) => Ok(None),
            (None, Some(why)) => {
                Err(unavailable(format!("a token is signed with a key that is not known, and the key set {} {why}", self.place())))
            }
        }
    }

    /// Fetches if that is due. Concurrent callers share one fetch.
    async fn refresh(self: &Arc<Self>, why: Why, now: Instant) {
        let tries = {
            let state = self.state.load();
            if !state.due(why, self.min_refresh, now) {
                return;
            }
            state.tries
        };
        let landed = Arc::clone(&self.flight).lock_owned().await;
        if self.state.load().tries != tries {
            return;
        }
        let this = Arc::clone(self);
        // A task of its own: the caller may leave, and the others still want the keys.
        let fetch = tokio::spawn(async move {
            this.fetch(why, now).await;
            drop(landed);
        });
        let _ = fetch.await;
    }

    async fn fetch(&self, why: Why, now: Instant) {
        let mut state = State::clone(&self.state.load());
        state.tries += 1;
        state.tried = Some(now);
        if why == Why::Token {
            state.asked = Some(now);
        }
        match self.fetcher.fetch().await.and_then(|reply| self.read(&reply, now)) {
            Ok(good) => {
                if !good.unusable.is_empty() {
                    tracing::info!(keys = %self.place(), why = %reasons(&good.unusable), "keys of the set are left out");
                }
                state.good = Some(good);
                state.failure = None;
            }
            Err(failure) => {
                let kept = state.good.is_some();
                tracing::warn!(keys = %self.place(), %failure, last_good_kept = kept, "the key set cannot be refreshed");
                state.failure = Some(failure);
            }
        }
        self.state.store(Arc::new(state));
    }

    fn read(&self, reply: &Reply, now: Instant) -> Result<Good, String> {
        if reply.status != StatusCode::OK {
            return Err(format!("answered {}: check identity.jwt.jwks_url", reply.status.as_u16()));
        }
        let (keys, unusable) = Keys::jwks(&reply.body)?;
        let max_age = max_age(&reply.headers).unwrap_or(MAX_AGE).clamp(self.min_refresh.min(MAX_AGE), MAX_AGE);
        Ok(Good { keys: Arc::new(keys), fetched: now, max_age, unusable })
    }

    fn place(&self) -> String {
        match &self.fetcher {
            Fetcher::Api(_, url) => shown_url(url),
            #[cfg(test)]
            Fetcher::Fake(_) => "fake".to_owned(),
        }
    }
}

impl Fetcher {
    async fn fetch(&self) -> Result<Reply, String> {
        let reply: Result<Reply, CallError> = match self {
            Self::Api(api, url) => {
                let mut headers = HeaderMap::new();
                headers.insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
                headers.insert(USER_AGENT, super::AGENT);
                api.call(Call { method: Method::GET, url, headers, body: None, timeout: TIMEOUT, max_body: MAX_BODY }).await
            }
            #[cfg(test)]
            Self::Fake(fake) => fake.fetch().await,
        };
        reply.map_err(|error| format!("was not had: {error}"))
    }
}

/// `max-age` of RFC 9111 §5.2.2.1; zero for `no-store` and `no-cache`.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut found = None;
    for directive in values.flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(Duration::ZERO),
            "max-age" => found = value.trim().trim_matches('"').parse().ok().map(Duration::from_secs),
            _ => {}
        }
    }
    found
}

fn reasons(unusable: &[&'static str]) -> String {
    let mut reasons = unusable.to_vec();
    reasons.sort_unstable();
    reasons.dedup();
    if reasons.is_empty() { "it is empty".to_owned() } else { reasons.join("; ") }
}
