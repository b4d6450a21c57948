//! What `gantry dev` puts around the request path: only this machine may ask, the workspace is shown at our
//! origin, every page carries a bar that says what it is, and a page of our own lists users to become.
//!
//! None of it is built in any other proxy: [`Policies`](super::Policies) then hold `None`.

mod edit;
mod pages;
mod socket;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, REFRESH};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

use self::edit::Edit;
use super::Edge;
use super::settings::Settings;
use super::settings::edit::{decoder, edited, unfasten};
use super::watch::Watch;
use crate::body::Body;
use crate::config::dev::Chosen;
use crate::config::{Config, Origin};
use crate::headers::local::{Elsewhere, is_local};
use crate::html::{Insertion, Page};
use crate::login::Login;
use crate::outbound::http1::body::PooledBody;
use crate::peer::{Peer, RequestId};
use crate::rocketchat::Client;

/// On every answer of a dev proxy.
const MARK: HeaderName = HeaderName::from_static("x-gantry-dev");

/// The dev proxy's part of the request path. Shared by all workers.
#[derive(Debug)]
pub struct Dev {
    elsewhere: Elsewhere,
    /// What the workspace calls itself, once it was seen to say so.
    site: ArcSwapOption<String>,
    settings: Settings,
    chosen: Chosen,
    deny_roles: Vec<String>,
    /// Of the workspace's own paths: empty, or like `/chat`.
    base: String,
    prefix: String,
    scheme: &'static str,
    page_memory: usize,
    login: Login,
    client: Client,
}

/// What has to be known of a request to dress its answer.
struct Wanted {
    head: bool,
    edit: Option<Edit>,
    /// The page is opened by a person, as far as the browser tells.
    page: bool,
    sources: String,
}

impl Dev {
    /// The dev proxy's part, if `config` was made by `gantry dev`.
    pub fn new(config: &Config, login: Login, client: Client) -> Option<Arc<Self>> {
        let dev = config.dev.as_ref()?;
        let here = &config.server.public_origin;
        Some(Arc::new(Self {
            elsewhere: Elsewhere::new(here, &dev.upstream),
            site: ArcSwapOption::from_pointee(dev.site.clone()),
            settings: settings(here.as_str(), &config.login.prefix, &dev.apps),
            chosen: dev.chosen.clone(),
            deny_roles: config.users.deny_roles.clone(),
            base: config.rocketchat.url.path().trim_end_matches('/').to_owned(),
            prefix: format!("{}dev", config.login.prefix),
            page_memory: config.limits.page_memory,
            scheme: if here.as_str().starts_with("https:") { "https" } else { "http" },
            login,
            client,
        }))
    }

    /// Answers a request: refuses what does not come from this machine, serves our page, and dresses what
    /// `edge` answers.
    pub(super) async fn around(self: &Arc<Self>, edge: &Edge, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body<PooledBody>> {
        let id = RequestId::random();
        let host = match host(&request) {
            Some(host) if peer.ip().is_loopback() => host,
            host => {
                peer.note_unread();
                return marked(pages::not_local(host.as_deref(), &id)).map(Body::full);
            }
        };
        let path = request.uri().path();
        let own = path.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        // What could be read in two ways is refused by the edge.
        let path = path.to_owned();
        let (parts, body) = request.into_parts();
        let sound = super::check(&parts, edge.policies.bounds).is_ok();
        let request = Request::from_parts(parts, body);
        if own && sound {
            let mut response = marked(self.page(request, &host, &peer, &id).await);
            edge.policies.framing.apply(&path, response.headers_mut());
            return response.map(Body::full);
        }
        let wanted = self.wanted(&request, &host);
        let response = edge.pass(request, peer).await;
        self.dress(response, &wanted, &id)
    }

    fn wanted(&self, request: &Request<Incoming>, host: &str) -> Wanted {
        let path = request.uri().path();
        let edit = if path.ends_with("/meteor_runtime_config.js") {
            Some(Edit::Config)
        } else if path.ends_with("/api/v1/settings.public") || path.contains("/api/v1/method.call") {
            Some(Edit::Settings)
        } else {
            None
        };
        let dest = request.headers().get("sec-fetch-dest").map(HeaderValue::as_bytes);
        Wanted {
            head: *request.method() == Method::HEAD,
            edit,
            page: !matches!(dest, Some(dest) if !matches!(dest, b"document" | b"iframe" | b"frame" | b"embed" | b"object")),
            sources: format!("{}://{host}{}/", self.scheme, self.prefix),
        }
    }

    fn dress(self: &Arc<Self>, response: Response<Body<PooledBody>>, wanted: &Wanted, id: &RequestId) -> Response<Body<PooledBody>> {
        let mut response = marked(response);
        let site = self.site.load();
        self.elsewhere.back(response.headers_mut(), site.as_deref().map(String::as_str), &wanted.sources);
        let Some(edit) = edit_of(&response, wanted) else { return response };
        if edit == Edit::Mark && is_away(&response) {
            response.headers_mut().insert(REFRESH, HeaderValue::from_static("3"));
        }
        if wanted.head {
            response.headers_mut().remove(CONTENT_LENGTH);
            return response;
        }
        let decoder = match decoder(response.headers()) {
            Ok(decoder) => decoder,
            Err(name) => {
                tracing::warn!(%id, coding = name, "the workspace compressed a page in a way that was not asked for, so that it cannot be marked");
                return marked(pages::unreadable(&name, id)).map(Body::full);
            }
        };
        if edit != Edit::Mark {
            unfasten(response.headers_mut());
            return response.map(|body| edited(body, decoder, edit::Making { dev: Arc::clone(self), edit }));
        }
        if let Body::Page(page) = response.body_mut() {
            // Our script goes into it already, and it is in gzip if it was.
            page.also(&self.bar());
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return response;
        }
        unfasten(response.headers_mut());
        let mut page = Page::new(decoder, Insertion::new(&self.bar(), self.page_memory).or_at_end());
        response.map(|body| match body {
            Body::Passed(body) => Body::page(body, page),
            Body::Ours(bytes) => page.whole(bytes.unwrap_or_default()).map_or_else(|_| Body::empty(), Body::full),
            other => other,
        })
    }

    /// The elements that show the bar. What they load is served here, so that `'self'` lets it in.
    fn bar(&self) -> String {
        let prefix = &self.prefix;
        format!(r#"<link rel="stylesheet" href="{prefix}/bar.css"/><script src="{prefix}/bar.js" async=""></script>"#)
    }

    /// A small answer after its edit.
    fn rewritten(&self, edit: Edit, text: &str) -> String {
        match edit {
            Edit::Mark => text.to_owned(),
            Edit::Settings => self.settings_in(text).into_owned(),
            Edit::Config => self.config_in(text),
        }
    }

    /// A text of the workspace's with our values for its public settings.
    fn settings_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let seen = self.settings.replaced(text);
        if let Some(site) = seen.site.filter(|site| site.trim_end_matches('/') != self.elsewhere.here()) {
            self.site.store(Some(Arc::new(site)));
        }
        seen.text
    }

    /// The runtime config with our address as `ROOT_URL`. Its hash is in the address that the page loads it
    /// from, and the workspace alone compares it: that stays.
    fn config_in(&self, text: &str) -> String {
        let here = self.elsewhere.here();
        let mut text = text.to_owned();
        let site = self.site.load();
        let site = site.as_deref().map(|site| site.trim_end_matches('/'));
        for there in std::iter::once(self.elsewhere.there()).chain(site) {
            for form in [plain, encoded, escaped] {
                text = replaced(&text, &form(there), &form(here));
            }
        }
        text
    }

    /// Joins the client's socket with the workspace's; `watch` tells when the chat session is over.
    ///
    /// # Errors
    /// A connection broke, or what came over it is no WebSocket.
    pub(super) async fn join<C, U>(
        &self,
        client: C,
        early_client: Bytes,
        upstream: U,
        early_upstream: Bytes,
        watch: Box<Watch>,
    ) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        socket::join(self, client, early_client, upstream, early_upstream, watch).await
    }
}

/// The iframe login at our own pages, under `here` and `prefix`; messages exchanged with `apps`, if there are any. Those
/// that name the workspace's own address have to name ours.
fn settings(here: &str, prefix: &str, apps: &[Origin]) -> Settings {
    let mut values = vec![
        ("Accounts_iframe_enabled", json!(true)),
        ("Accounts_iframe_url", json!(format!("{here}{prefix}login"))),
        ("Accounts_Iframe_api_url", json!(format!("{here}{prefix}token"))),
        ("Accounts_Iframe_api_method", json!("POST")),
        ("Site_Url", json!(here)),
    ];
    if let Some(first) = apps.first() {
        let all: Vec<&str> = apps.iter().map(Origin::as_str).collect();
        values.extend([
            ("Iframe_Integration_send_enable", json!(true)),
            ("Iframe_Integration_send_target_origin", json!(first.as_str())),
            ("Iframe_Integration_receive_enable", json!(true)),
            ("Iframe_Integration_receive_origin", json!(all.join(","))),
        ]);
    }
    Settings::new(values)
}

fn marked<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().insert(MARK, HeaderValue::from_static("1"));
    response
}

fn plain(url: &str) -> String {
    url.to_owned()
}

/// As `encodeURIComponent` writes it: Meteor's config is percent-encoded JSON.
fn encoded(url: &str) -> String {
    const COMPONENT: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'!')
        .remove(b'~')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')');
    utf8_percent_encode(url, COMPONENT).to_string()
}

/// As JSON with escaped slashes.
fn escaped(url: &str) -> String {
    url.replace('/', "\\/")
}

/// Replaces an origin where it is one: not where it only begins another (`chat.example.com` in
/// `chat.example.community`).
fn replaced(text: &str, from: &str, to: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(from) {
        let after = &rest[at + from.len()..];
        let goes_on =
            after.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '@')) || after.starts_with("%3A");
        out.push_str(&rest[..at]);
        out.push_str(if goes_on { from } else { to });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Whom the request is for, if that can only be this machine: both `Host` and `:authority`, where there
/// are both. A page of another site whose name was made to lead here (DNS rebinding) cannot say so.
fn host(request: &Request<Incoming>) -> Option<String> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().ok().filter(|host| is_local(host))?),
        (Some(_), Some(_)) => return None,
    };
    let authority = match request.uri().authority() {
        None => None,
        Some(authority) => Some(Some(authority.as_str()).filter(|authority| is_local(authority))?),
    };
    host.or(authority).map(str::to_owned)
}

/// What is to be done to an answer; nothing to a part of one, a download or what a script fetched.
fn edit_of<B>(response: &Response<B>, wanted: &Wanted) -> Option<Edit> {
    let headers = response.headers();
    let none = response.status().is_informational()
        || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
        || is_download(headers);
    if none {
        return None;
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match (kind.as_str(), wanted.edit) {
        ("text/html" | "application/xhtml+xml", _) if wanted.page => Some(Edit::Mark),
        ("application/json", Some(Edit::Settings)) => Some(Edit::Settings),
        ("application/javascript" | "text/javascript" | "application/x-javascript", Some(Edit::Config)) => Some(Edit::Config),
        _ => None,
    }
}

/// Whether the workspace is not there now, as when it is being restarted: the page comes back by itself. What
/// stands in front of a remote workspace says so in its own words, and without `Retry-After`.
fn is_away<B>(response: &Response<B>) -> bool {
    matches!(response.status(), StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn is_download(headers: &HeaderMap) -> bool {
    let disposition = headers.get(CONTENT_DISPOSITION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    disposition.trim_start().get(.."attachment".len()).is_some_and(|kind| kind.eq_ignore_ascii_case("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_replaced_where_it_is_one() {
        let from = "https://chat.example.com";
        for (text, expected) in [
            ("\"https://chat.example.com/\"", "\"here/\""),
            ("\"https://chat.example.com\"", "\"here\""),
            (
                "https://chat.example.com:3000/ https://chat.example.community/",
                "https://chat.example.com:3000/ https://chat.example.community/",
            ),
            ("https://chat.example.com@evil/", "https://chat.example.com@evil/"),
            ("", ""),
        ] {
            assert_eq!(replaced(text, from, "here"), expected);
        }
        assert_eq!(encoded("https://chat.localhost:8443"), "https%3A%2F%2Fchat.localhost%3A8443");
    }

    #[test]
    fn only_whole_pages_and_known_answers_are_changed() {
        let page = Wanted { head: false, edit: None, page: true, sources: String::new() };
        let fetched = Wanted { page: false, ..Wanted { edit: None, sources: String::new(), head: false, page: false } };
        let settings = Wanted { edit: Some(Edit::Settings), ..Wanted { head: false, edit: None, page: false, sources: String::new() } };
        let config = Wanted { edit: Some(Edit::Config), ..Wanted { head: false, edit: None, page: false, sources: String::new() } };
        for (status, kind, disposition, wanted, expected) in [
            (200, "text/html; charset=utf-8", "", &page, Some(Edit::Mark)),
            (404, "TEXT/HTML", "", &page, Some(Edit::Mark)),
            (200, "application/xhtml+xml", "inline", &page, Some(Edit::Mark)),
            (200, "text/html", "attachment; filename=x.html", &page, None),
            (206, "text/html", "", &page, None),
            (304, "text/html", "", &page, None),
            (200, "text/html", "", &fetched, None),
            (200, "application/json", "", &page, None),
            (200, "text/javascript", "", &page, None),
            (200, "application/json", "", &settings, Some(Edit::Settings)),
            (200, "application/javascript; charset=UTF-8", "", &config, Some(Edit::Config)),
            (200, "", "", &page, None),
        ] {
            let mut response = Response::builder().status(status).header(CONTENT_TYPE, kind);
            if !disposition.is_empty() {
                response = response.header(CONTENT_DISPOSITION, disposition);
            }
            assert_eq!(edit_of(&response.body(()).unwrap(), wanted), expected, "{status} {kind} {disposition}");
        }
    }

    #[test]
    fn host_apps_are_named_without_blanks() {
        let apps = ["http://localhost:3000".parse().unwrap(), "http://app.localhost:4000".parse().unwrap()];
        let settings = settings("https://chat.localhost:8443", "/_gantry/", &apps);
        let text = r#"[{"_id":"Iframe_Integration_receive_origin","value":"*"},{"_id":"Site_Url","value":"x"}]"#;
        let value: serde_json::Value = serde_json::from_str(&settings.replaced(text).text).unwrap();
        assert_eq!(value[0]["value"], "http://localhost:3000,http://app.localhost:4000");
        assert_eq!(value[1]["value"], "https://chat.localhost:8443");
    }
}
