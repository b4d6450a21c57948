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
use super::{shown, shown_url, unavailable};
use crate::error::Refusal;
use crate::metrics::CallFault;
use crate::outbound::api::{Api, Call, CallError, Reply};

/// The longest that a set is used before it is looked at again, whatever the endpoint's `Cache-Control` says.
const MAX_AGE: Duration = Duration::from_mins(10);
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
    Api(Endpoint),
    #[cfg(test)]
    Fake(Arc<tests::Fake>),
}

/// Where a set is fetched from, and what that may cost.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    pub(super) timeout: Duration,
    pub(super) max_body: usize,
    pub(super) api: Api,
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
    /// The keys at an endpoint; nothing is fetched yet. `min_refresh` is the shortest time between two fetches that
    /// tokens with unknown keys, or failures, cause.
    pub(super) fn new(endpoint: Endpoint, min_refresh: Duration) -> Arc<Self> {
        Self::with(Fetcher::Api(endpoint), min_refresh)
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
            if reply.status.is_redirection() {
                self.fetcher.unusable(CallFault::Redirect);
            }
            return Err(format!("answered {}: check identity.jwt.jwks_url", reply.status.as_u16()));
        }
        if let Some(coding) = reply.coding() {
            self.fetcher.unusable(CallFault::Encoded);
            return Err(format!("answered with the content coding {}, which was not asked for", shown(&coding)));
        }
        let (keys, unusable) = Keys::jwks(&reply.body).inspect_err(|_| self.fetcher.unusable(CallFault::NotJson))?;
        let max_age = max_age(&reply.headers).unwrap_or(MAX_AGE).clamp(self.min_refresh.min(MAX_AGE), MAX_AGE);
        Ok(Good { keys: Arc::new(keys), fetched: now, max_age, unusable })
    }

    fn place(&self) -> String {
        match &self.fetcher {
            Fetcher::Api(endpoint) => shown_url(&endpoint.url),
            #[cfg(test)]
            Fetcher::Fake(_) => "fake".to_owned(),
        }
    }
}

impl Fetcher {
    /// A whole answer is of no use.
    fn unusable(&self, fault: CallFault) {
        match self {
            Self::Api(endpoint) => endpoint.api.unusable(fault),
            #[cfg(test)]
            Self::Fake(_) => {}
        }
    }

    async fn fetch(&self) -> Result<Reply, String> {
        let reply: Result<Reply, CallError> = match self {
            Self::Api(Endpoint { url, timeout, max_body, api }) => {
                let mut headers = HeaderMap::new();
                headers.insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
                headers.insert(USER_AGENT, super::AGENT);
                api.call(Call { method: Method::GET, url, headers, body: None, timeout: *timeout, max_body: *max_body }).await
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

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use jsonwebtoken::Algorithm;
    use serde_json::{Value, json};
    use tokio::sync::Semaphore;

    use super::super::testing::{OTHER_RSA, RSA};
    use super::*;
    use crate::error::RefusalKind;

    const SECOND: Duration = Duration::from_secs(1);
    const PERMITS: u32 = 1000;
    const MIN: Duration = Duration::from_secs(30);
    const ALMOST_MIN: Duration = Duration::from_secs(29);

    /// An endpoint that answers what it was last told to, and only while it has permits.
    #[derive(Debug)]
    pub(crate) struct Fake {
        answer: Mutex<Result<Reply, CallError>>,
        hits: AtomicUsize,
        gate: Semaphore,
    }

    impl Fake {
        pub(crate) fn new(answer: Result<Reply, CallError>) -> Arc<Self> {
            let gate = Semaphore::new(PERMITS as usize);
            Arc::new(Self { answer: Mutex::new(answer), hits: AtomicUsize::new(0), gate })
        }

        pub(crate) async fn fetch(&self) -> Result<Reply, CallError> {
            self.hits.fetch_add(1, Ordering::SeqCst);
            let _permit = self.gate.acquire().await;
            self.answer.lock().unwrap().clone()
        }

        pub(crate) fn say(&self, answer: Result<Reply, CallError>) {
            *self.answer.lock().unwrap() = answer;
        }

        pub(crate) fn hits(&self) -> usize {
            self.hits.load(Ordering::SeqCst)
        }
    }

    fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
        Reply { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body: body.into() }
    }

    pub(crate) fn set(kids: &[&str]) -> Reply {
        let keys: Vec<Value> = kids
            .iter()
            .map(|kid| if *kid == "b" { OTHER_RSA.jwk_with(&json!({"kid": kid})) } else { RSA.jwk_with(&json!({"kid": kid})) })
            .collect();
        reply(200, json!({"keys": keys}).to_string())
    }

    pub(crate) fn down() -> Result<Reply, CallError> {
        Err(CallError::Unreachable { host: "app:443".to_owned(), why: "connection refused".to_owned() })
    }

    fn has(keys: &Keys, kid: &str) -> bool {
        keys.candidates(Algorithm::RS256, Some(kid)).next().is_some()
    }

    pub(crate) fn endpoint(answer: Result<Reply, CallError>) -> (Arc<Fake>, Arc<Jwks>) {
        let fake = Fake::new(answer);
        (Arc::clone(&fake), Jwks::with(Fetcher::Fake(fake), MIN))
    }

    #[tokio::test]
    async fn a_set_is_fetched_once_and_again_when_old() {
        let (fake, jwks) = endpoint(Ok(set(&["a"])));
        let start = Instant::now();
        assert_eq!(fake.hits(), 0);
        for age in [Duration::ZERO, SECOND, Duration::from_secs(599)] {
            assert!(has(&jwks.keys(start + age).await.unwrap(), "a"));
            assert_eq!(fake.hits(), 1);
        }
        fake.say(Ok(set(&["b"])));
        let keys = jwks.keys(start + MAX_AGE).await.unwrap();
        assert!(has(&keys, "b") && !has(&keys, "a"), "a key that was taken out is gone");
        assert_eq!(fake.hits(), 2);
    }

    #[tokio::test]
    async fn an_unknown_key_is_looked_for_at_once_and_then_under_the_interval() {
        let (fake, jwks) = endpoint(Ok(set(&["a"])));
        let start = Instant::now();
        let old = jwks.keys(start).await.unwrap();
        fake.say(Ok(set(&["a", "b"])));
        let new = jwks.newer(&old, start).await.unwrap().expect("a newer set");
        assert!(has(&new, "b") && has(&new, "a"));
        for age in [Duration::ZERO, SECOND, ALMOST_MIN] {
            assert!(jwks.newer(&new, start + age).await.unwrap().is_none());
        }
        assert_eq!(fake.hits(), 2);
        // Who still holds the old set gets the new one without a fetch.
        assert!(jwks.newer(&old, start).await.unwrap().is_some());
        assert_eq!(fake.hits(), 2);
        let _ = jwks.newer(&new, start + MIN).await;
        assert_eq!(fake.hits(), 3);
    }

    #[tokio::test]
    async fn the_last_good_set_stays_when_a_refresh_fails() {
        let (fake, jwks) = endpoint(Ok(set(&["a"])));
        let start = Instant::now();
        let keys = jwks.keys(start).await.unwrap();
        let mut now = start + MAX_AGE;
        for (hits, answer) in
            [down(), Ok(reply(500, "")), Ok(reply(200, "<html>")), Ok(reply(200, "{}")), Ok(reply(302, ""))].into_iter().enumerate()
        {
            fake.say(answer);
            assert!(Arc::ptr_eq(&keys, &jwks.keys(now).await.unwrap()));
            assert!(Arc::ptr_eq(&keys, &jwks.keys(now + ALMOST_MIN).await.unwrap()));
            assert_eq!(fake.hits(), hits + 2, "a failing endpoint is left alone for the interval");
            now += MIN;
        }
        let refusal = jwks.newer(&keys, now).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::SessionCheckUnavailable, "an unknown key may be a new one");
        fake.say(Ok(set(&["b"])));
        assert!(has(&jwks.keys(now + MIN).await.unwrap(), "b"));
    }

    #[tokio::test]
    async fn without_any_set_the_reason_is_told_and_it_is_tried_again_soon() {
        let (fake, jwks) = endpoint(down());
        let start = Instant::now();
        let refusal = jwks.keys(start).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::SessionCheckUnavailable);
        assert!(refusal.detail.contains("app:443 cannot be reached: connection refused"), "{}", refusal.detail);
        assert!(jwks.keys(start).await.is_err());
        assert_eq!(fake.hits(), 1);
        fake.say(Ok(set(&["a"])));
        assert!(jwks.keys(start + RETRY_WITHOUT_KEYS).await.is_ok());
    }

    #[tokio::test]
    async fn an_empty_set_takes_all_keys_back() {
        let (fake, jwks) = endpoint(Ok(set(&["a"])));
        let start = Instant::now();
        jwks.keys(start).await.unwrap();
        fake.say(Ok(set(&[])));
        let refusal = jwks.keys(start + MAX_AGE).await.unwrap_err();
        assert!(refusal.detail.contains("no usable key: it is empty"), "{}", refusal.detail);
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_fetch_and_leaving_does_not_end_it() {
        let (fake, jwks) = endpoint(Ok(set(&["a"])));
        let closed = fake.gate.acquire_many(PERMITS).await.unwrap();
        let now = Instant::now();
        let leader = tokio::spawn({
            let jwks = Arc::clone(&jwks);
            async move { jwks.keys(now).await.is_ok() }
        });
        while fake.hits() == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..50)
            .map(|_| {
                let jwks = Arc::clone(&jwks);
                tokio::spawn(async move { jwks.keys(now).await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        drop(closed);
        for other in others {
            assert!(other.await.unwrap());
        }
        assert_eq!(fake.hits(), 1);
    }

    #[test]
    fn cache_control_says_how_long_a_set_is_good() {
        for (value, expected) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age = \"90\" , must-revalidate", Some(90)),
            ("no-store", Some(0)),
            ("max-age=600, no-cache", Some(0)),
            ("max-age=x", None),
            ("s-maxage=5", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            assert_eq!(max_age(&headers), expected.map(Duration::from_secs), "{value}");
        }
        let (_, jwks) = endpoint(down());
        for (value, expected) in [("max-age=0", MIN), ("max-age=60", Duration::from_mins(1)), ("max-age=999999", MAX_AGE), ("x", MAX_AGE)] {
            let mut answer = set(&["a"]);
            answer.headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
            assert_eq!(jwks.read(&answer, Instant::now()).unwrap().max_age, expected, "{value}");
        }
    }
}
