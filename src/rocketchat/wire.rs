//! One call to the REST API: URL, headers, the gate, the breaker, one retry of a read, and what the
//! answer means.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use super::breaker::Breaker;
use super::error::{ApiError, Rejection, told_wait};
use super::gate::{Gate, Limiter, Limits, Shut};
use crate::metrics::{CallFault, Metrics};
use crate::outbound::api::{Api, Call, CallError, Reply};
use crate::secret::Secret;

/// Everything but RFC 3986's unreserved characters.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What the addresses begin with that tokens are counted by; its global id is from `gantry`.
const LIMITER_PREFIX: [u8; 8] = [0xfd, b'g', b'a', b'n', b't', b'r', b'y', 0];
/// Seconds for which a token keeps such an address: no token is called about ten times in so long.
const MOMENT: u64 = 10;

/// The endpoints that are called, each with a gate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    Info,
    Settings,
    UsersInfo,
    UsersList,
    UsersCreate,
    UsersUpdate,
    CreateToken,
    /// `me` of the service account.
    OwnMe,
    /// `me` of a user: the limiter does not know the service account's permissions there.
    Me,
    Logout,
    /// With a password.
    Login,
    /// Which roles have which permission; needs a login and no permission.
    Permissions,
    Roles,
    /// Who has `admin` and the like; needs no permission, unlike `roles.getUsersInRole`.
    PublicRoles,
    OwnTokens,
    RemoveToken,
    /// One setting, public or not.
    Setting,
    WriteSetting,
    SetAvatar,
    GiveRole,
    TakeRole,
    ChannelInfo,
    ChannelInvite,
    ChannelKick,
    GroupInfo,
    GroupInvite,
    GroupKick,
    TeamInfo,
    TeamAdd,
    TeamRemove,
}

impl Endpoint {
    const COUNT: usize = Self::TeamRemove as usize + 1;

    /// The path, and the label in metrics.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Info => "/api/info",
            Self::Settings => "/api/v1/settings.public",
            Self::UsersInfo => "/api/v1/users.info",
            Self::UsersList => "/api/v1/users.list",
            Self::UsersCreate => "/api/v1/users.create",
            Self::UsersUpdate => "/api/v1/users.update",
            Self::CreateToken => "/api/v1/users.createToken",
            Self::OwnMe | Self::Me => "/api/v1/me",
            Self::Logout => "/api/v1/logout",
            Self::Login => "/api/v1/login",
            Self::Permissions => "/api/v1/permissions.listAll",
            Self::Roles => "/api/v1/roles.list",
            Self::PublicRoles => "/api/v1/roles.getUsersInPublicRoles",
            Self::OwnTokens => "/api/v1/users.getPersonalAccessTokens",
            Self::RemoveToken => "/api/v1/users.removePersonalAccessToken",
            Self::Setting | Self::WriteSetting => "/api/v1/settings",
            Self::SetAvatar => "/api/v1/users.setAvatar",
            Self::GiveRole => "/api/v1/roles.addUserToRole",
            Self::TakeRole => "/api/v1/roles.removeUserFromRole",
            Self::ChannelInfo => "/api/v1/channels.info",
            Self::ChannelInvite => "/api/v1/channels.invite",
            Self::ChannelKick => "/api/v1/channels.kick",
            Self::GroupInfo => "/api/v1/groups.info",
            Self::GroupInvite => "/api/v1/groups.invite",
            Self::GroupKick => "/api/v1/groups.kick",
            Self::TeamInfo => "/api/v1/teams.info",
            Self::TeamAdd => "/api/v1/teams.addMembers",
            Self::TeamRemove => "/api/v1/teams.removeMember",
        }
    }

    pub(super) fn label(self) -> &'static str {
        let path = self.path();
        path.rsplit('/').next().unwrap_or(path)
    }

    fn method(self) -> Method {
        match self {
            Self::Info
            | Self::Settings
            | Self::UsersInfo
            | Self::UsersList
            | Self::OwnMe
            | Self::Me
            | Self::Permissions
            | Self::Roles
            | Self::PublicRoles
            | Self::OwnTokens
            | Self::Setting
            | Self::ChannelInfo
            | Self::GroupInfo
            | Self::TeamInfo => Method::GET,
            Self::UsersCreate
            | Self::UsersUpdate
            | Self::CreateToken
            | Self::Logout
            | Self::Login
            | Self::RemoveToken
            | Self::WriteSetting
            | Self::SetAvatar
            | Self::GiveRole
            | Self::TakeRole
            | Self::ChannelInvite
            | Self::ChannelKick
            | Self::GroupInvite
            | Self::GroupKick
            | Self::TeamAdd
            | Self::TeamRemove => Method::POST,
        }
    }
}

/// One question to the workspace.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) endpoint: Endpoint,
    /// What stands behind the endpoint's path, such as a setting's id.
    pub(super) item: &'a str,
    /// User id and token, sent as `X-User-Id` and `X-Auth-Token`.
    pub(super) as_user: Option<(&'a str, Secret)>,
    /// Method and code, sent as `X-2fa-Method` and `X-2fa-Code`.
    pub(super) second_factor: Option<(&'static str, Secret)>,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<Value>,
    /// Goes out although the breaker is open.
    pub(super) force: bool,
    /// Its failure says nothing about whether the workspace is there: nobody's sign-in is to suffer from it.
    pub(super) aside: bool,
    /// The limiter is to count it by its token; see [`address_of`].
    pub(super) apart: bool,
}

impl<'a> Ask<'a> {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, item: "", as_user: None, second_factor: None, query: &[], body: None, force: false, aside: false, apart: false }
    }

    pub(super) fn by(mut self, id: &'a str, token: Secret) -> Self {
        self.as_user = Some((id, token));
        self
    }

    pub(super) fn passing(mut self, method: &'static str, code: Secret) -> Self {
        self.second_factor = Some((method, code));
        self
    }

    pub(super) fn item(mut self, item: &'a str) -> Self {
        self.item = item;
        self
    }

    pub(super) fn query(mut self, query: &'a [(&'a str, &'a str)]) -> Self {
        self.query = query;
        self
    }

    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(super) fn aside(mut self) -> Self {
        self.aside = true;
        self
    }

    pub(super) fn apart(mut self) -> Self {
        self.apart = true;
        self
    }

    pub(super) fn forced(mut self) -> Self {
        self.force = true;
        self
    }
}

/// What carries a call: the network, or a script in tests.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    Api(Api),
    #[cfg(test)]
    Scripted(Arc<super::fake::Fake>),
}

impl Transport {
    /// A whole answer is of no use.
    fn unusable(&self, fault: CallFault) {
        match self {
            Self::Api(api) => api.unusable(fault),
            #[cfg(test)]
            Self::Scripted(_) => {}
        }
    }

    async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        match self {
            Self::Api(api) => api.call(call).await,
            #[cfg(test)]
            Self::Scripted(fake) => fake.call(call).await,
        }
    }
}

/// What one call may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Until the whole answer is there.
    pub(super) timeout: Duration,
    /// Bytes of its body.
    pub(super) max_body: usize,
}

/// The way to the workspace.
#[derive(Debug)]
pub(super) struct Wire {
    transport: Transport,
    base: Url,
    bounds: Bounds,
    gates: [Gate; Endpoint::COUNT],
    breaker: Breaker,
    /// How browsers reach the chat: `http` or `https`.
    public_scheme: &'static str,
    metrics: Arc<Metrics>,
    born: Instant,
    /// Milliseconds after `born` of the last answer, plus one; 0 after a failure.
    answered: AtomicU64,
}

impl Wire {
    pub(super) fn new(transport: Transport, base: Url, bounds: Bounds, public_scheme: &'static str, metrics: Arc<Metrics>) -> Self {
        Self {
            transport,
            base,
            bounds,
            gates: std::array::from_fn(|_| Gate::new()),
            breaker: Breaker::new(),
            public_scheme,
            metrics,
            born: Instant::now(),
            answered: AtomicU64::new(0),
        }
    }

    /// Whether the last call was answered, and not longer ago than this.
    pub(super) fn answered_within(&self, age: Duration) -> bool {
        let at = self.answered.load(Ordering::Relaxed);
        at > 0 && Duration::from_millis(at) + age > self.born.elapsed()
    }

    /// Whether the limiter keeps calls to this endpoint out at the moment.
    pub(super) fn is_shut(&self, endpoint: Endpoint) -> bool {
        self.gates[endpoint as usize].is_shut()
    }

    /// The limiter at this endpoint, as its last answer showed it.
    pub(super) fn limiter(&self, endpoint: Endpoint) -> Limiter {
        self.gates[endpoint as usize].limiter()
    }

    /// The calls are made by somebody else from now on.
    pub(super) fn forget_limits(&self) {
        for gate in &self.gates {
            gate.reopen();
        }
    }

    /// Asks; the answer is a JSON object that says success.
    pub(super) async fn send(&self, ask: &Ask<'_>, deadline: Instant) -> Result<Value, ApiError> {
        let answer = self.try_send(ask, deadline).await;
        if let Err(error) = &answer {
            let unknown_user = matches!(error, ApiError::Rejected(no) if no.is_unknown_user());
            if !unknown_user {
                self.metrics.api_error(ask.endpoint.label(), error.label());
            }
        }
        answer
    }

    async fn try_send(&self, ask: &Ask<'_>, deadline: Instant) -> Result<Value, ApiError> {
        let url = address(&self.base, ask);
        let headers = headers(ask, self.public_scheme)?;
        let body = ask.body.as_ref().map(|body| Bytes::from(body.to_string()));
        let mut retries = u8::from(ask.endpoint.method() == Method::GET);
        loop {
            if let Some(wait) = self.breaker.shut_for().filter(|_| !ask.force) {
                return Err(shut(wait));
            }
            let pass = self.gates[ask.endpoint as usize].enter(deadline).await.map_err(|shut| kept_out(ask.endpoint, shut))?;
            let permit = self.breaker.admit(ask.force).map_err(shut)?;
            let call = Call {
                method: ask.endpoint.method(),
                url: &url,
                headers: headers.clone(),
                body: body.clone(),
                timeout: self.bounds.timeout,
                max_body: self.bounds.max_body,
            };
            let began = Instant::now();
            let answer = self.transport.call(call).await;
            if answer.is_ok() {
                self.metrics.api_answered(ask.endpoint.label(), began.elapsed());
            }
            let reply = match answer {
                Ok(reply) if !reply.status.is_server_error() => reply,
                // Nothing was sent, which says nothing about the workspace.
                Err(error @ CallError::Busy { .. }) => return Err(lost(ask.endpoint, Err(error))),
                failed => {
                    if ask.aside {
                        drop(permit);
                    } else {
                        permit.failed();
                        self.note(false);
                    }
                    drop(pass);
                    if retries > 0 && matches!(failed, Err(CallError::Unreachable { .. } | CallError::Broken { .. })) {
                        retries -= 1;
                        continue;
                    }
                    return Err(lost(ask.endpoint, failed));
                }
            };
            permit.answered();
            self.note(true);
            let limits = limits(&reply.headers);
            if reply.status == StatusCode::TOO_MANY_REQUESTS {
                let told = told_wait(&String::from_utf8_lossy(&reply.body)).or_else(|| {
                    let seconds = reply.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
                    Some(Duration::from_secs(seconds))
                });
                pass.refused(told, limits);
                continue;
            }
            if ask.apart {
                pass.answered_apart(limits);
            } else {
                pass.answered(limits);
            }
            return self.read(ask.endpoint, &reply);
        }
    }

    fn read(&self, endpoint: Endpoint, reply: &Reply) -> Result<Value, ApiError> {
        if let Some(coding) = reply.coding() {
            self.transport.unusable(CallFault::Encoded);
            let coding: String = coding.chars().take(40).collect();
            let why = format!("{} answered with the content coding {coding:?}, which was not asked for", endpoint.label());
            return Err(ApiError::Unavailable { why, acted: true, retry_after: None });
        }
        let read = understand(endpoint, reply);
        if matches!(read, Err(ApiError::Unavailable { .. })) {
            self.transport.unusable(if reply.status.is_redirection() { CallFault::Redirect } else { CallFault::NotJson });
        }
        read
    }

    fn note(&self, up: bool) {
        let at = if up { u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1 } else { 0 };
        self.answered.store(at, Ordering::Relaxed);
        self.metrics.upstream_up(up);
    }
}

fn shut(wait: Duration) -> ApiError {
    let why = "Rocket.Chat has failed several times in a row and is left alone for a moment".to_owned();
    ApiError::Unavailable { why, acted: false, retry_after: Some(wait.max(Duration::from_secs(1))) }
}

fn kept_out(endpoint: Endpoint, shut: Shut) -> ApiError {
    match shut {
        Shut::Limited(wait) => ApiError::RateLimited { wait },
        Shut::Busy => {
            let why = format!("{}: too many calls are under way, and none ended in time", endpoint.label());
            ApiError::Unavailable { why, acted: false, retry_after: None }
        }
    }
}

fn lost(endpoint: Endpoint, failed: Result<Reply, CallError>) -> ApiError {
    let name = endpoint.label();
    match failed {
        Ok(reply) => ApiError::Unavailable { why: format!("{name} answered {}", reply.status), acted: true, retry_after: None },
        Err(error) => {
            let acted = !error.is_unsent();
            ApiError::Unavailable { why: format!("{name}: {error}"), acted, retry_after: None }
        }
    }
}

/// The base with an endpoint's path and item behind its own, and the query.
fn address(base: &Url, ask: &Ask<'_>) -> Url {
    let mut url = base.clone();
    let mut path = format!("{}{}", base.path().trim_end_matches('/'), ask.endpoint.path());
    if !ask.item.is_empty() {
        path.push('/');
        path.extend(utf8_percent_encode(ask.item, QUERY));
    }
    url.set_path(&path);
    url.set_fragment(None);
    let pairs: Vec<String> = ask.query.iter().map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, QUERY))).collect();
    url.set_query((!pairs.is_empty()).then(|| pairs.join("&")).as_deref());
    url
}

fn headers(ask: &Ask<'_>, public_scheme: &'static str) -> Result<HeaderMap, ApiError> {
    let mut headers = HeaderMap::with_capacity(5);
    // With `Force_SSL` whatever does not come from its own machine is redirected otherwise.
    headers.insert("x-forwarded-proto", HeaderValue::from_static(public_scheme));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if ask.body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some((id, token)) = &ask.as_user {
        if ask.apart {
            let address = HeaderValue::try_from(address_of(token, SystemTime::now()).to_string());
            headers.extend(address.ok().map(|address| (HeaderName::from_static("x-real-ip"), address)));
        }
        let id = HeaderValue::try_from(*id).map_err(|_| ApiError::Unsendable("the user id cannot be sent in a header"))?;
        let mut token = HeaderValue::try_from(token.expose())
            .map_err(|_| ApiError::Unsendable("the token cannot be sent in a header: is there a line break in its file?"))?;
        token.set_sensitive(true);
        headers.insert("x-user-id", id);
        headers.insert("x-auth-token", token);
    }
    if let Some((method, code)) = &ask.second_factor {
        let mut code = HeaderValue::try_from(code.expose()).map_err(|_| ApiError::Unsendable("the code cannot be sent in a header"))?;
        code.set_sensitive(true);
        headers.insert("x-2fa-method", HeaderValue::from_static(method));
        headers.insert("x-2fa-code", code);
    }
    Ok(headers)
}

/// The address that the limiter is to count a token's calls by, at `now`.
///
/// It counts by route and address, whoever calls (`X-Real-IP`, remoteAddressMiddleware.ts), and lets nobody pass who has
/// not the permission: of all chat sessions together ten a minute could be looked at, or ended, by the one address that
/// Gantry has. By the client's own address they would be counted with what the client itself does, and with everybody
/// behind the same router. So each token has an address of its own for a moment, of a unique local prefix (RFC 4193).
fn address_of(token: &Secret, now: SystemTime) -> Ipv6Addr {
    let moment = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / MOMENT;
    let hash = digest(&SHA256, format!("gantry address {moment} {}", token.expose()).as_bytes());
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&LIMITER_PREFIX);
    octets[8..].copy_from_slice(&hash.as_ref()[..8]);
    octets.into()
}

pub(crate) fn limits(headers: &HeaderMap) -> Limits {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let small = |name: &str| number(name).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let resets_in = number("x-ratelimit-reset").and_then(|at| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Duration::from_millis(at).checked_sub(now)
    });
    Limits { limit: small("x-ratelimit-limit"), remaining: small("x-ratelimit-remaining"), resets_in }
}

/// What an answer below 500 says.
pub(crate) fn understand(endpoint: Endpoint, reply: &Reply) -> Result<Value, ApiError> {
    let answer: Option<Value> = serde_json::from_slice(&reply.body).ok().filter(Value::is_object);
    let said_no = |answer: &Value| answer.get("success") == Some(&Value::Bool(false)) || answer.get("status") == Some(&"error".into());
    match answer {
        Some(answer) if reply.status.is_success() && !said_no(&answer) => Ok(answer),
        Some(answer) => Err(ApiError::Rejected(Rejection::read(reply.status, &answer))),
        // Not the REST API: Meteor's page while it starts, a gateway in between, or a wrong URL.
        None => {
            let why = format!("{} answered {} without JSON: does rocketchat.url lead to Rocket.Chat?", endpoint.label(), reply.status);
            Err(ApiError::Unavailable { why, acted: true, retry_after: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_counted_by_an_address_of_its_own() {
        let (one, other) = (Secret::new("one"), Secret::new("other"));
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let address = address_of(&one, now);
        assert!(address.is_unique_local(), "{address}");
        assert_eq!(address, address_of(&one, now + Duration::from_secs(9)));
        assert_ne!(address, address_of(&one, now + Duration::from_secs(10)));
        assert_ne!(address, address_of(&other, now));
        for (ask, expected) in [
            (Ask::new(Endpoint::Logout).by("u", one.clone()).apart(), true),
            (Ask::new(Endpoint::CreateToken).by("service", one.clone()), false),
            (Ask::new(Endpoint::Info).apart(), false),
        ] {
            assert_eq!(headers(&ask, "https").unwrap().contains_key("x-real-ip"), expected, "{ask:?}");
        }
    }

    #[test]
    fn no_value_breaks_out_of_the_query() {
        let base = Url::parse("http://127.0.0.1:3000").unwrap();
        for (value, written) in [
            ("ada", "ada"),
            ("a&userId=x", "a%26userId%3Dx"),
            ("a#b/../c?d", "a%23b%2F..%2Fc%3Fd"),
            ("a b+c", "a%20b%2Bc"),
            ("jürgen", "j%C3%BCrgen"),
            ("100%25", "100%2525"),
        ] {
            let url = address(&base, &Ask::new(Endpoint::UsersInfo).query(&[("username", value)]));
            assert_eq!(url.as_str(), format!("http://127.0.0.1:3000/api/v1/users.info?username={written}"));
            assert_eq!(url.query_pairs().next().unwrap().1, value);
        }
    }

    #[test]
    fn a_base_path_is_kept() {
        for (base, whole) in [
            ("https://host/chat", "https://host/chat/api/info"),
            ("https://host/chat/", "https://host/chat/api/info"),
            ("https://host", "https://host/api/info"),
        ] {
            assert_eq!(address(&Url::parse(base).unwrap(), &Ask::new(Endpoint::Info)).as_str(), whole);
        }
    }

    #[test]
    fn an_item_is_one_segment_of_the_path() {
        let base = Url::parse("https://host/chat").unwrap();
        for (item, path) in [("Site_Url", "/Site_Url"), ("a/b?c", "/a%2Fb%3Fc"), ("", "")] {
            let url = address(&base, &Ask::new(Endpoint::Setting).item(item));
            assert_eq!(url.as_str(), format!("https://host/chat/api/v1/settings{path}"));
        }
    }

    #[test]
    fn an_answer_that_is_not_the_api_is_no_success() {
        let reply = |status: u16, body: &'static str| Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        assert!(understand(Endpoint::Me, &reply(200, r#"{"success":true}"#)).is_ok());
        assert!(understand(Endpoint::Logout, &reply(200, r#"{"status":"success","data":{}}"#)).is_ok());
        for (status, body) in [(200, "<!DOCTYPE html>"), (302, ""), (200, "[]"), (404, "Not found")] {
            assert!(matches!(understand(Endpoint::Me, &reply(status, body)), Err(ApiError::Unavailable { .. })), "{status} {body}");
        }
        for (status, body) in [(200, r#"{"success":false,"error":"x"}"#), (400, "{}"), (404, r#"{"success":false}"#)] {
            assert!(matches!(understand(Endpoint::Me, &reply(status, body)), Err(ApiError::Rejected(_))), "{status} {body}");
        }
    }
}
