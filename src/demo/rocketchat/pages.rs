//! Everything that is not REST and not a socket: the web client, its static files, health, the runtime
//! config, avatars and live chat, with the security headers of the real one.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_ENCODING, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    LOCATION, REFERER, VARY,
};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::json;
use url::Url;

use super::files;
use super::meteor::sha256_hex;
use super::shared::Shared;
use super::state::State;
use crate::demo::serve::Answer;

const CLIENT_HTML: &str = include_str!("../assets/client.html");
const CLIENT_JS: &str = include_str!("../assets/client.js");
const CLIENT_CSS: &str = include_str!("../assets/client.css");

/// Policy of 4.x to 8.x with empty CDN and extra settings; the gaps where they would stand are the real one's.
const CSP: &str = "default-src 'self' ; connect-src *; font-src 'self'  data:; frame-src *; img-src * data: blob:; media-src * data:; \
     script-src 'self' 'unsafe-eval' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' ; style-src 'self' 'unsafe-inline' ";

/// Answers a page, a static file or a health check.
pub(super) fn answer(shared: &Shared, parts: &Parts, loopback: bool) -> Answer {
    let path = parts.uri.path();
    shared.read(|state| {
        if let Some(answer) = force_ssl(state, parts, loopback) {
            return answer;
        }
        let (avatar, file) = (path.strip_prefix("/avatar/"), path.strip_prefix("/file-upload/"));
        let mut answer = match path {
            "/health" if !state.options.version.health_json() => plain(StatusCode::OK, "text/plain; charset=utf-8", "ok"),
            "/health" | "/livez" | "/readyz" if state.options.version.health_json() => health(),
            "/client.js" => fixed("text/javascript; charset=utf-8", CLIENT_JS),
            "/client.css" => fixed("text/css; charset=utf-8", CLIENT_CSS),
            "/meteor_runtime_config.js" => config(state, parts),
            "/livechat" | "/livechat/" => return livechat(state, parts),
            _ => match (avatar, file) {
                (Some(name), _) => drawn(name),
                (_, Some(name)) => files::answer(state, parts, name),
                _ => page(state, parts),
            },
        };
        security(state, &mut answer);
        answer
    })
}

/// The headers that Rocket.Chat's raw handlers put on every answer.
pub(super) fn security(state: &State, answer: &mut Answer) {
    let headers = answer.headers_mut();
    headers.insert("x-xss-protection", HeaderValue::from_static("1"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if state.setting_on("Iframe_Restrict_Access") {
        // A free text: what is no header value is left out.
        if let Ok(value) = HeaderValue::from_str(state.setting_str("Iframe_X_Frame_Options")) {
            headers.insert("x-frame-options", value);
        }
    }
    if state.setting_on("Enable_CSP") {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    }
}

/// The runtime config; its hash stands in the page.
fn runtime_config(state: &State) -> (String, String) {
    let config = json!({
        "meteorRelease": "METEOR@3", "ROOT_URL": state.setting_str("Site_Url"), "ROOT_URL_PATH_PREFIX": "",
        "standIn": { "generation": state.options.client.letter(), "version": state.options.version.to_string() },
    });
    let script = format!("__meteor_runtime_config__ = {config};\n");
    let hash = sha256_hex(&script)[..40].to_owned();
    (script, hash)
}

fn config(state: &State, parts: &Parts) -> Answer {
    let (script, hash) = runtime_config(state);
    if super::query(&parts.uri).iter().any(|(name, value)| name == "hash" && *value != hash) {
        return plain(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "");
    }
    let mut answer = plain(StatusCode::OK, "application/javascript; charset=UTF-8", script);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    answer
}

/// The web client: the same page at every path, in gzip for whoever takes it, as Meteor sends it.
fn page(state: &State, parts: &Parts) -> Answer {
    let (_, hash) = runtime_config(state);
    let html = CLIENT_HTML.replace("{{hash}}", &hash);
    let takes = |value: &HeaderValue| value.to_str().is_ok_and(|codings| codings.contains("gzip"));
    let mut answer = if parts.headers.get_all(ACCEPT_ENCODING).iter().any(takes) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let coded = encoder.write_all(html.as_bytes()).and_then(|()| encoder.finish()).expect("memory can be written to");
        let mut answer = plain(StatusCode::OK, "text/html; charset=utf-8", coded);
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        answer
    } else {
        plain(StatusCode::OK, "text/html; charset=utf-8", html)
    };
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// Live chat decides its own framing by the `Referer`; `X-Frame-Options` stays.
fn livechat(state: &State, parts: &Parts) -> Answer {
    let listed = state.setting_str("Livechat_AllowedDomainsList");
    let referer = parts.headers.get(REFERER).and_then(|value| value.to_str().ok()).and_then(|text| Url::parse(text).ok());
    let widget = || plain(StatusCode::OK, "text/html; charset=utf-8", "<!doctype html><title>Livechat</title><p>How can we help?</p>\n");
    let (mut answer, policy) = match referer.filter(|_| !listed.is_empty()) {
        None => (widget(), None),
        Some(url) => {
            let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
            if listed.split(',').any(|domain| domain.trim() == host) {
                (widget(), Some(format!("frame-ancestors {}://{host}", url.scheme())))
            } else {
                // Falls through to the web client.
                (page(state, parts), Some("frame-ancestors 'none'".to_owned()))
            }
        }
    };
    security(state, &mut answer);
    let headers = answer.headers_mut();
    headers.remove(CONTENT_SECURITY_POLICY);
    if let Some(policy) = policy {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).expect("a parsed URL has no odd bytes"));
    }
    answer
}

fn health() -> Answer {
    let mut answer = plain(StatusCode::OK, "application/json", json!({ "status": "ok" }).to_string());
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    answer
}

/// An avatar: the initial on a colour that goes with the name.
fn drawn(name: &str) -> Answer {
    const COLOURS: [&str; 6] = ["#0f766e", "#b45309", "#4338ca", "#be123c", "#15803d", "#7e22ce"];
    let name = percent_decode_str(name).decode_utf8_lossy();
    let initial: String =
        name.trim_start_matches('@').chars().filter(|c| c.is_alphanumeric()).take(1).flat_map(char::to_uppercase).collect();
    let sum: usize = name.bytes().map(usize::from).sum();
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 40 40\"><rect width=\"40\" height=\"40\" rx=\"8\" fill=\"{}\"/>\
         <text x=\"20\" y=\"27\" text-anchor=\"middle\" font-family=\"system-ui,sans-serif\" font-size=\"20\" fill=\"#fff\">{initial}</text></svg>",
        COLOURS[sum % COLOURS.len()]
    );
    plain(StatusCode::OK, "image/svg+xml", svg)
}

/// `Force_SSL`: what did not come by https, and not from this machine, is sent there.
pub(super) fn force_ssl(state: &State, parts: &Parts, loopback: bool) -> Option<Answer> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = header("x-forwarded-for");
    let all_local = forwarded.split(',').all(|ip| matches!(ip.trim(), "" | "127.0.0.1" | "::1"));
    if !state.setting_on("Force_SSL") || header("x-forwarded-proto").contains("https") || (loopback && all_local) {
        return None;
    }
    let host = header("host").split(':').next().unwrap_or_default();
    let mut answer = plain(StatusCode::FOUND, "text/plain; charset=utf-8", "");
    let to = format!("https://{host}{}", parts.uri);
    answer.headers_mut().insert(LOCATION, HeaderValue::from_str(&to).unwrap_or(HeaderValue::from_static("/")));
    Some(answer)
}

fn fixed(kind: &'static str, body: &'static str) -> Answer {
    let mut answer = plain(StatusCode::OK, kind, body);
    answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// An answer with a media type.
pub(super) fn plain(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
