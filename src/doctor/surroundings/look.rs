//! Looking: small calls with a short patience, made once and judged by several checks. None carries the
//! service account's token, and none follows a redirect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, LOCATION, ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use url::Url;

use super::{forwarded, origins};
use crate::config::{Config, ForwardAuth, IdentitySource, JwtKeys};
use crate::doctor::Context;
use crate::identity::inspect;
use crate::outbound::api::{Api, Call, CallError, Reply};
use crate::outbound::connect::{ConnectError, Connector, Stream, Target};

/// How long one look may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read at most.
const MOST: usize = 256 * 1024;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("gantry/", env!("CARGO_PKG_VERSION"), " (doctor)"));
/// What browsers ask a page with.
const PAGE: HeaderValue = HeaderValue::from_static("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const KEYS: HeaderValue = HeaderValue::from_static("application/jwk-set+json, application/json");

/// One call and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Look {
    /// What was asked.
    pub(super) url: Url,
    /// The answer.
    pub(super) outcome: Result<Reply, CallError>,
    /// From the call to the whole answer.
    pub(super) took: Duration,
    /// Our clock when the answer was here.
    pub(super) at: SystemTime,
}

impl Look {
    /// The answer, if there is one.
    pub(super) fn reply(&self) -> Option<&Reply> {
        self.outcome.as_ref().ok()
    }

    /// The first value of a header of the answer, as text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.reply().and_then(|reply| header(reply, name))
    }
}

/// The first value of a header, as text.
pub(super) fn header<'r>(reply: &'r Reply, name: &HeaderName) -> Option<&'r str> {
    reply.headers.get(name).and_then(|value| value.to_str().ok())
}

/// The media type of an answer in words.
pub(super) fn kind(reply: &Reply) -> String {
    let kind = header(reply, &CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let sound = !kind.is_empty() && kind.len() < 80 && kind.bytes().all(|byte| byte.is_ascii_graphic());
    if sound { kind.to_owned() } else { "no content type".to_owned() }
}

/// Where a redirect leads, without what may be secret.
pub(super) fn location(reply: &Reply) -> Option<String> {
    reply.status.is_redirection().then(|| header(reply, &LOCATION).map_or_else(|| "nowhere".to_owned(), inspect::place))
}

/// What looks at the surroundings.
#[derive(Clone, Debug)]
pub(super) struct Eyes {
    /// Verifies certificates, as Gantry itself does.
    verified: Api,
    /// To the workspace, as Gantry itself calls it, but without the service account's token.
    workspace: Api,
    /// Tells the workspace how browsers come: with `Force_SSL` it redirects what does not say https.
    scheme: HeaderValue,
    /// Verifies none: what the public address shows is looked at even when its certificate is the fault. Nothing
    /// that must stay secret ever goes this way.
    lenient: Api,
    connector: Connector,
}

impl Eyes {
    /// Must be made within a runtime.
    pub(super) fn new(context: &Context) -> Self {
        let connector = Connector::unverified(PATIENCE);
        let scheme = HeaderValue::from_str(context.config.server.public_url.scheme()).unwrap_or(HeaderValue::from_static("http"));
        Self {
            verified: context.api.clone(),
            workspace: context.workspace.clone(),
            scheme,
            lenient: Api::new(connector.clone(), Handle::current()),
            connector,
        }
    }

    /// A call to where Gantry itself calls.
    pub(super) async fn call(&self, url: &Url, headers: HeaderMap, timeout: Duration, max_body: usize) -> Look {
        look(&self.verified, Method::GET, url, headers, timeout, max_body).await
    }

    /// A read at the workspace.
    pub(super) async fn ask_workspace(&self, url: &Url, mut headers: HeaderMap) -> Look {
        headers.insert(HeaderName::from_static("x-forwarded-proto"), self.scheme.clone());
        look(&self.workspace, Method::GET, url, headers, PATIENCE, MOST).await
    }

    /// A call to where browsers call: whatever its certificate is.
    pub(super) async fn peep(&self, method: Method, url: &Url, headers: HeaderMap) -> Look {
        look(&self.lenient, method, url, headers, PATIENCE, MOST).await
    }

    /// A page, as a browser asks for it.
    pub(super) async fn page(&self, url: &Url) -> Look {
        self.peep(Method::GET, url, headers(&[(ACCEPT, PAGE)])).await
    }

    /// A connection to where browsers connect: whatever its certificate is.
    pub(super) async fn connect(&self, url: &Url) -> Result<Stream, String> {
        let target = Target::of(url)?;
        self.connector.connect(&target).await.map_err(|error| match error {
            ConnectError::Unreachable(why) => why,
            ConnectError::Timeout(after) => format!("no connection within {}", humantime::format_duration(after)),
        })
    }

    /// The certificates that are shown there, leaf first; `None` where TLS is not spoken.
    pub(super) async fn certificates(&self, url: &Url) -> Option<Result<Vec<CertificateDer<'static>>, String>> {
        if url.scheme() != "https" {
            return None;
        }
        Some(self.connect(url).await.map(|stream| stream.peer_certificates()))
    }
}

async fn look(api: &Api, method: Method, url: &Url, mut headers: HeaderMap, timeout: Duration, max_body: usize) -> Look {
    headers.entry(ACCEPT).or_insert(JSON);
    headers.entry(USER_AGENT).or_insert(AGENT);
    let began = Instant::now();
    let outcome = api.call(Call { method, url, headers, body: None, timeout, max_body }).await;
    Look { url: url.clone(), outcome, took: began.elapsed(), at: SystemTime::now() }
}

/// A header map of these.
pub(super) fn headers(pairs: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    pairs.iter().cloned().collect()
}

/// `url` with another path and query.
pub(super) fn at(url: &Url, path: &str) -> Url {
    let mut url = url.clone();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    url.set_path(path);
    url.set_query(query);
    url.set_fragment(None);
    url
}

/// A path of the workspace's REST API, which may run under a path of its own.
pub(super) fn rest(config: &Config, path: &str) -> Url {
    let base = config.rocketchat.url.path().trim_end_matches('/');
    at(&config.rocketchat.url, &format!("{base}{path}"))
}

/// Everything that several checks want to know, asked once and all at the same time.
#[derive(Debug)]
pub(super) struct Seen {
    /// The who-am-I endpoint, asked without a session.
    pub(super) me: Option<Look>,
    /// The same, asked with the sample session.
    pub(super) me_signed_in: Option<Look>,
    /// The endpoint with the host app's keys.
    pub(super) jwks: Option<Look>,
    /// The workspace's `/api/info`.
    pub(super) info: Look,
    /// The chat's first page by its public address.
    pub(super) page: Look,
    /// Gantry's own `session` path by its public address.
    pub(super) session: Look,
    /// The same, straight from the listener of this configuration.
    pub(super) local: Option<Look>,
    /// The first page over plain HTTP, where the public address is https.
    pub(super) plain: Option<Look>,
    /// The certificates that the public address shows.
    pub(super) certificates: Option<Result<Vec<CertificateDer<'static>>, String>>,
    /// Public settings of the workspace that name origins, by their id.
    pub(super) settings: Vec<(String, String)>,
    /// Pages of the host app, as browsers see them.
    pub(super) pages: Vec<Look>,
}

/// Public settings that name the host app's or the callback's origin.
const SETTINGS: [&str; 3] = ["Accounts_Iframe_api_url", "Iframe_Integration_send_target_origin", "Iframe_Integration_receive_origin"];

impl Seen {
    /// Looks at everything.
    pub(super) async fn gather(context: &Context, eyes: &Eyes) -> Self {
        let config = &context.config;
        let public = &config.server.public_url;
        let session = format!("{}session", config.login.prefix);
        let root = at(public, "/");
        let own = at(public, &session);
        let info = rest(config, "/api/info");
        let settings = rest(config, &format!("/api/v1/settings.public?_id={}", SETTINGS.join(",")));
        let (me, me_signed_in, jwks, info, page, session, local, plain, certificates, settings, pages) = tokio::join!(
            me(config, eyes),
            me_signed_in(context, eyes),
            jwks(config, eyes),
            eyes.ask_workspace(&info, HeaderMap::new()),
            eyes.page(&root),
            eyes.peep(Method::GET, &own, HeaderMap::new()),
            local(config, eyes, &session),
            plain(public, eyes),
            eyes.certificates(public),
            eyes.ask_workspace(&settings, forwarded::as_nobody()),
            pages(config, eyes),
        );
        Self { me, me_signed_in, jwks, info, page, session, local, plain, certificates, settings: read_settings(&settings), pages }
    }

    /// A public setting; `None` when it is empty or could not be read.
    pub(super) fn setting(&self, id: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == id).map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }
}

async fn me(config: &Config, eyes: &Eyes) -> Option<Look> {
    let IdentitySource::ForwardAuth(source) = &config.identity.source else { return None };
    Some(eyes.call(&source.url, HeaderMap::new(), patience(source), source.max_body).await)
}

/// Longer than a login waits, to tell slow from dead, and not for ever.
fn patience(source: &ForwardAuth) -> Duration {
    source.timeout.clamp(PATIENCE, PATIENCE * 2)
}

async fn me_signed_in(context: &Context, eyes: &Eyes) -> Option<Look> {
    let IdentitySource::ForwardAuth(source) = &context.config.identity.source else { return None };
    let headers = inspect::handed_on(source, context.sample.as_ref()?);
    if headers.is_empty() {
        return None;
    }
    Some(eyes.call(&source.url, headers, patience(source), source.max_body).await)
}

async fn jwks(config: &Config, eyes: &Eyes) -> Option<Look> {
    let IdentitySource::Jwt(jwt) = &config.identity.source else { return None };
    let JwtKeys::Jwks { url, .. } = &jwt.keys else { return None };
    Some(eyes.call(url, headers(&[(ACCEPT, KEYS)]), PATIENCE, MOST).await)
}

/// The listener of this configuration, a listener on all addresses on loopback.
async fn local(config: &Config, eyes: &Eyes, path: &str) -> Option<Look> {
    let url = local_url(config, path)?;
    Some(eyes.peep(Method::GET, &url, HeaderMap::new()).await)
}

/// The listener of this configuration as a URL.
pub(super) fn local_url(config: &Config, path: &str) -> Option<Url> {
    let plain = config.server.listen.filter(|_| !config.server.redirect_to_https).map(|addr| ("http", addr));
    let tls = config.server.tls.as_ref().map(|tls| ("https", tls.listen));
    let (scheme, addr) = plain.or(tls)?;
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    if addr.port() == 0 {
        return None;
    }
    Url::parse(&format!("{scheme}://{}{path}", SocketAddr::new(ip, addr.port()))).ok()
}

async fn plain(public: &Url, eyes: &Eyes) -> Option<Look> {
    // Elsewhere nobody knows where the plain listener would be.
    if public.scheme() != "https" || public.port().is_some() {
        return None;
    }
    let mut url = at(public, "/");
    url.set_scheme("http").ok()?;
    Some(eyes.page(&url).await)
}

async fn pages(config: &Config, eyes: &Eyes) -> Vec<Look> {
    const MOST_PAGES: usize = 8;
    let calls = origins::pages(config).into_iter().take(MOST_PAGES).map(|url| async move { eyes.page(&url).await });
    futures_util::future::join_all(calls).await
}

fn read_settings(look: &Look) -> Vec<(String, String)> {
    let Some(reply) = look.reply().filter(|reply| reply.status.is_success()) else { return Vec::new() };
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(&reply.body) else { return Vec::new() };
    let listed = body.get("settings").and_then(serde_json::Value::as_array).into_iter().flatten();
    let setting = |one: &serde_json::Value| Some((one.get("_id")?.as_str()?.to_owned(), one.get("value")?.as_str()?.to_owned()));
    listed.filter_map(setting).filter(|(id, _)| SETTINGS.contains(&id.as_str())).collect()
}

/// `Origin` of a page.
pub(super) fn from_origin(origin: &str) -> HeaderMap {
    HeaderValue::from_str(origin).map(|value| headers(&[(ORIGIN, value)])).unwrap_or_default()
}
