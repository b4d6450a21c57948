//! The native login (`[login.native]`): one browser gets Rocket.Chat's own login form, while everybody else is signed in
//! as ever. For the day on which signing in through the host app is broken, and for accounts that only the workspace
//! knows.
//!
//! A page of ours at `<prefix>native`, behind an address list, a secret or both, sets a sealed cookie. For a browser that
//! has it the workspace's setting `Accounts_iframe_enabled` is false wherever its client reads it, and the callback gives
//! it no token. Nothing is changed at the workspace, and nothing is let in that Rocket.Chat would not let in itself.

mod page;
mod rewrite;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{ACCEPT, ACCEPT_ENCODING, COOKIE, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE, SEC_WEBSOCKET_EXTENSIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use ipnet::IpNet;
use serde_json::json;

use super::audit::Audit;
use super::settings::Settings;
use crate::config::{Config, Origin};
use crate::headers::cookies;
use crate::login::Login;
use crate::login::seal::Seal;
use crate::metrics::Metrics;
use crate::secret::SecretSource;

pub(super) use rewrite::Rewriting;

/// The setting that takes Rocket.Chat's own login form away.
const SWITCH: &str = "Accounts_iframe_enabled";
/// What the seal's key is derived for; another format gets another one.
const PURPOSE: &[u8] = b"gantry native login 1";
/// For how long after its end a browser still shows that it was in it. Rocket.Chat's client keeps a copy of the settings
/// for 30 days (`CachedStore.ts`, `MAX_CACHE_TIME`), and has to be told when the one with the stock form is over.
const REMEMBERED: Duration = Duration::from_hours(31 * 24);
/// Longer values are not looked into.
const LONGEST: usize = 256;

/// The native login. Shared by all workers.
#[derive(Debug)]
pub struct Native {
    guard: Option<Guard>,
    /// The cookie's name, and what stands behind its value.
    name: &'static str,
    attributes: &'static str,
    seal: Seal,
    lasts: Duration,
    here: Origin,
    rewriting: Arc<Rewriting>,
    login: Login,
    metrics: Arc<Metrics>,
    audit: Audit,
    max_body: usize,
    body_timeout: Duration,
}

/// What has to be met to get in; one of the two is there.
#[derive(Debug)]
struct Guard {
    addresses: Vec<IpNet>,
    secret: Option<SecretSource>,
}

/// How a browser stands to the native login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has nothing to do with it.
    Ordinary,
    /// It is in it, until then.
    In(SystemTime),
    /// It was in it, or claims so. Its copy of the settings may be the one with the stock form.
    Lapsed,
}

impl Native {
    /// The native login that `config` describes, or its absence.
    pub(super) fn new(config: &Config, login: Login, metrics: Arc<Metrics>) -> Self {
        let native = &config.login.native;
        let https = config.server.public_url.scheme() == "https";
        let guard = || Guard { addresses: native.allowed_addresses.clone(), secret: native.secret.clone() };
        // `Strict`: the chat itself is opened, and no other site's page or link leads into it.
        let (name, attributes) = if https {
            ("__Host-gantry-native", "Path=/; Secure; HttpOnly; SameSite=Strict")
        } else {
            ("gantry_native", "Path=/; HttpOnly; SameSite=Strict")
        };
        Self {
            guard: native.enabled.then(guard),
            name,
            attributes,
            seal: Seal::new(config.rocketchat.auth_token.clone(), PURPOSE),
            lasts: native.lasts,
            here: config.server.public_origin.clone(),
            rewriting: Rewriting::new(Settings::new(vec![(SWITCH, json!(false))]), config.limits.native_message, Arc::clone(&metrics)),
            audit: Audit::new(config, login.source(), Arc::clone(&metrics)),
            login,
            metrics,
            max_body: config.limits.login_body,
            body_timeout: config.limits.login_body_timeout,
        }
    }

    /// Whether the page is there for this client.
    pub(super) fn is_there_for(&self, client: IpAddr) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.allows(client))
    }

    /// Whether there is such a page for anybody.
    pub(super) fn is_on(&self) -> bool {
        self.guard.is_some()
    }

    /// How the browser that sent these headers stands. Costs next to nothing for those without the cookie.
    pub(super) fn standing(&self, headers: &HeaderMap, client: impl FnOnce() -> IpAddr) -> Standing {
        let carries = |value: &HeaderValue| memchr::memmem::find(value.as_bytes(), self.name.as_bytes()).is_some();
        if !headers.get_all(COOKIE).iter().any(carries) {
            return Standing::Ordinary;
        }
        let Some(value) = cookies::get(headers, self.name) else { return Standing::Ordinary };
        match self.guard.as_ref().filter(|guard| guard.allows(client())).and_then(|_| self.opened(value)) {
            Some(until) if SystemTime::now() < until => Standing::In(until),
            _ => Standing::Lapsed,
        }
    }

    /// Has the settings in the answer to this request rewritten, if they may be in it. Called for a browser that is in
    /// the native login.
    pub(super) fn mark(&self, parts: &mut Parts) {
        let headers = &mut parts.headers;
        // What is rewritten has to come as it can be read, and whole.
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        if rewrite::Place::of(parts.uri.path()).is_some() {
            for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE] {
                headers.remove(name);
            }
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        parts.extensions.insert(Arc::clone(&self.rewriting));
    }

    /// The `Set-Cookie` of a browser that has got in.
    fn cookie(&self) -> Option<HeaderValue> {
        let until = SystemTime::now() + self.lasts;
        let seconds = until.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let sealed = self.seal.seal(&self.context(), seconds.to_be_bytes().to_vec())?;
        let kept = (self.lasts + REMEMBERED).as_secs();
        let mut value = HeaderValue::try_from(format!("{}={sealed}; Max-Age={kept}; {}", self.name, self.attributes)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The `Set-Cookie` that takes it away.
    fn removal(&self) -> HeaderValue {
        HeaderValue::try_from(format!("{}=; Max-Age=0; {}", self.name, self.attributes)).expect("it is printable ASCII")
    }

    /// Until when a cookie is good, if it is one of ours and of the present secret.
    fn opened(&self, value: &str) -> Option<SystemTime> {
        if value.len() > LONGEST {
            return None;
        }
        let seconds = self.seal.open(&self.context(), value)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(seconds.try_into().ok()?)))
    }

    /// What a seal holds for: this cookie, and the secret that was asked for, so that another secret ends what began with
    /// this one.
    fn context(&self) -> Vec<u8> {
        let secret = self.guard.as_ref().and_then(|guard| guard.secret.as_ref()).map(SecretSource::get);
        let secret = secret.as_ref().map_or("", |secret| secret.expose());
        [self.name.as_bytes(), b"\0", secret.as_bytes()].concat()
    }
}

impl Guard {
    fn allows(&self, client: IpAddr) -> bool {
        // An address of IPv4 that came over a socket of IPv6.
        let client = client.to_canonical();
        self.addresses.is_empty() || self.addresses.iter().any(|network| network.contains(&client))
    }
}

/// Whether a person opens a page with this request, as far as the browser tells.
pub(super) fn opens_page(parts: &Parts) -> bool {
    let is = |name: &str, words: &[&[u8]]| parts.headers.get(name).map(|value| words.contains(&value.as_bytes()));
    let accepts = || parts.headers.get(ACCEPT).is_some_and(|accept| memchr::memmem::find(accept.as_bytes(), b"text/html").is_some());
    parts.method == Method::GET && is("sec-fetch-dest", &[b"document", b"iframe", b"frame"]).unwrap_or_else(accepts)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config::example;
    use crate::identity::Validator;
    use crate::outbound::api::Api;
    use crate::outbound::connect::Connector;
    use crate::rocketchat::Client;

    const SECRET: (&str, &str) = ("login.native.secret", "a-secret-of-sixteen-letters-and-more");

    fn native(keys: &[(&str, &str)]) -> Native {
        let mut all = vec![("login.native.enabled", "true")];
        all.extend_from_slice(keys);
        let config = example(&all);
        let metrics = Metrics::new(1);
        let control = tokio::runtime::Handle::current();
        let api = Api::new(Connector::of(&config.upstream).unwrap(), control.clone());
        let client = Client::new(&config, api.clone(), Arc::clone(&metrics));
        let login = Login::new(&config, Validator::new(&config.identity, api), client, Arc::clone(&metrics), control);
        Native::new(&config, login, metrics)
    }

    fn sent_back(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(format!("a=b; {pair}")).unwrap())])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn the_cookie_is_good_for_its_time_its_secret_and_its_place() {
        let ours = native(&[SECRET]);
        let cookie = ours.cookie().unwrap();
        let headers = sent_back(&cookie);
        let here = || ip("192.0.2.7");
        let Standing::In(until) = ours.standing(&headers, here) else { panic!("not in") };
        let left = until.duration_since(SystemTime::now()).unwrap();
        assert!(left > Duration::from_mins(59) && left <= Duration::from_hours(1), "{left:?}");
        assert!(cookie.to_str().unwrap().ends_with("; Path=/; Secure; HttpOnly; SameSite=Strict"), "{cookie:?}");
        // Another replica opens it; another secret, another guard and none at all do not.
        assert!(matches!(native(&[SECRET]).standing(&headers, here), Standing::In(_)));
        for other in [
            native(&[("login.native.secret", "another-secret-of-sixteen-letters")]),
            native(&[("login.native.allowed_addresses", "192.0.2.0/24")]),
            native(&[SECRET, ("login.native.allowed_addresses", "198.51.100.0/24")]),
            native(&[SECRET, ("login.native.enabled", "false")]),
            native(&[SECRET, ("rocketchat.auth_token", "another-token")]),
        ] {
            assert_eq!(other.standing(&headers, here), Standing::Lapsed);
        }
        let over = native(&[SECRET, ("login.native.lasts", "1ms")]);
        assert_eq!(over.standing(&sent_back(&over.cookie().unwrap()), here), Standing::Lapsed, "whole seconds, never rounded up");
        assert_eq!(ours.standing(&sent_back(&ours.removal()), here), Standing::Lapsed);
        for forged in ["x", "", "AAAA", &"A".repeat(5_000)] {
            let headers = sent_back(&HeaderValue::try_from(format!("{}={forged}", ours.name)).unwrap());
            assert_eq!(ours.standing(&headers, here), Standing::Lapsed, "{forged}");
        }
        assert_eq!(ours.standing(&HeaderMap::new(), || panic!("nobody asks")), Standing::Ordinary);
    }

    #[tokio::test]
    async fn it_is_there_for_those_who_are_listed() {
        for (keys, client, there) in [
            (&[SECRET][..], "192.0.2.7", true),
            (&[("login.native.allowed_addresses", "192.0.2.0/24,2001:db8::/32")], "192.0.2.7", true),
            (&[("login.native.allowed_addresses", "192.0.2.0/24,2001:db8::/32")], "::ffff:192.0.2.7", true),
            (&[("login.native.allowed_addresses", "192.0.2.0/24,2001:db8::/32")], "2001:db8::1", true),
            (&[("login.native.allowed_addresses", "192.0.2.0/24")], "192.0.3.7", false),
            (&[SECRET, ("login.native.allowed_addresses", "192.0.2.0/24")], "192.0.3.7", false),
            (&[SECRET, ("login.native.enabled", "false")], "192.0.2.7", false),
        ] {
            assert_eq!(native(keys).is_there_for(ip(client)), there, "{keys:?} {client}");
        }
    }

    #[tokio::test]
    async fn the_cookie_over_plain_http_has_another_name() {
        let native = native(&[SECRET, ("server.public_url", "http://localhost:8080"), ("framing.allowed_ancestors", "")]);
        assert_eq!(native.removal(), "gantry_native=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict");
        assert!(cookies::is_foreign_to_host_app(native.name));
    }

    #[test]
    fn pages_are_told_from_what_scripts_fetch() {
        for (method, name, value, expected) in [
            ("GET", "sec-fetch-dest", "document", true),
            ("GET", "sec-fetch-dest", "iframe", true),
            ("GET", "sec-fetch-dest", "empty", false),
            ("GET", "accept", "text/html,application/xhtml+xml", true),
            ("GET", "accept", "*/*", false),
            ("POST", "sec-fetch-dest", "document", false),
        ] {
            let (parts, ()) = Request::builder().method(method).header(name, value).body(()).unwrap().into_parts();
            assert_eq!(opens_page(&parts), expected, "{method} {name} {value}");
        }
    }
}
