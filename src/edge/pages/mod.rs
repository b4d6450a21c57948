//! Our own pages: the loading page, errors, and the callback's refusals. Prepared at start; an answer only
//! fills in its nonce, its id and its words.
//!
//! Every page has a policy of its own with a fresh nonce, is never stored, loads nothing from anywhere, and
//! leaves `frame-ancestors` to the edge's framing policy, which is added afterwards.
//!
//! # A page of the operator's
//!
//! `login.page_file` is served instead of our loading page, with these filled in:
//!
//! | placeholder | becomes |
//! | --- | --- |
//! | `{{nonce}}` | the nonce that `<style nonce="…">` and `<script nonce="…">` need |
//! | `{{config}}` | a `<script type="application/json" id="gantry-config">` with paths, names and the correlation id |
//! | `{{script}}` | our script in its element; needs `{{config}}` before it |
//! | `{{style}}` | our style sheet in its element |
//! | `{{logo}}` | the logo as an `<img>`, or the tower |
//! | `{{app_name}}`, `{{request_id}}` | the host app's name and the correlation id, as text |
//!
//! Our script shows what it has to say in the elements that carry `data-gantry`: `title`, `message`, `hint`,
//! `countdown` and `reference` get text; `sign-in` and `open` (links), `retry` and `again` (buttons; without
//! `again`, `retry` is both), `actions` and `footer` are shown and hidden; `stuck` is removed once the script
//! runs. Each may be missing. The root element's `data-state` is `working`, `stopped` or `done`. Images have to
//! be `data:` URLs.

pub(crate) mod accept;
mod brand;
mod native;
mod template;

use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};

pub(super) use self::template::html;

use self::accept::Form;
use self::brand::Color;
use self::native::NativePages;
use self::template::{Piece, Slot, Template, json};
use crate::config::Config;
use crate::error::Refusal;
use crate::peer::RequestId;

const LOADING: &str = include_str!("../assets/loading.html");
const ERROR: &str = include_str!("../assets/error.html");
const SCRIPT: &str = include_str!("../assets/loading.js");
const STYLE: &str = include_str!("../assets/style.css");
const TOWER: &str = include_str!("../assets/tower.svg");

/// Beside that style, for pages with something to type in.
const STYLE_FIELD: &str = ".field { display: block; margin-top: 1.125rem; font-weight: 600; }
.field input { display: block; width: 100%; margin-top: .375rem; min-height: 2.75rem; padding: .5rem .75rem; \
border: 1px solid var(--line); border-radius: 9px; background: var(--ground); color: var(--ink); font: inherit; }
[role=\"alert\"] { color: var(--ink); font-weight: 600; }
";

/// Bytes of an operator's page at most.
const MAX_PAGE: u64 = 1024 * 1024;
/// The page waits this much longer than a login may take, so that it hears the reason.
const SCRIPT_MARGIN: Duration = Duration::from_secs(5);

/// Why the pages cannot be prepared: something in `[login]` that has to be put right.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// A file cannot be read.
    #[error("{key}: {} cannot be read: {source}", path.display())]
    Read {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than its key allows.
    #[error("{key}: {} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cap, in bytes.
        limit: u64,
    },
    /// The logo is no image that browsers show.
    #[error("login.logo_file: {} is not an SVG, PNG, JPEG, WebP or GIF image", .0.display())]
    UnknownImage(PathBuf),
    /// The operator's page is not text.
    #[error("login.page_file: {} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// The operator's page has our script without what it needs.
    #[error("login.page_file: {} has {{{{script}}}} but no {{{{config}}}} before it", .0.display())]
    ScriptWithoutConfig(PathBuf),
    /// The colour is not one.
    #[error("login.accent_color: {0:?} is neither #rgb nor #rrggbb")]
    Color(String),
    /// The sign-in address would lead nowhere, or into a script.
    #[error("login.sign_in_url: {0:?} is not an http:// or https:// URL")]
    SignInUrl(String),
}

/// What the loading page has to know of its request.
#[derive(Clone, Copy, Debug)]
pub struct LoadingRequest {
    /// The correlation id.
    pub id: RequestId,
    /// Whether Rocket.Chat's desktop app asks: it appends `client=electron` to the iframe URL.
    pub electron: bool,
}

impl LoadingRequest {
    /// Of the request's query.
    pub fn new(id: RequestId, query: Option<&str>) -> Self {
        let electron = query.unwrap_or_default().split('&').any(|pair| pair == "client=electron");
        Self { id, electron }
    }
}

/// Our pages, prepared.
#[derive(Clone, Debug)]
pub struct Pages {
    loading: Template,
    error: Template,
    native: NativePages,
}

impl Pages {
    /// Reads the logo and the operator's page, and cuts the templates.
    ///
    /// # Errors
    /// See [`PagesError`]; each names its key.
    pub fn new(config: &Config) -> Result<Self, PagesError> {
        let login = &config.login;
        if let Some(url) = &login.sign_in_url {
            let filled = url.replace("{return}", "x");
            if !url::Url::parse(&filled).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
                return Err(PagesError::SignInUrl(url.clone()));
            }
        }
        let style = style(&login.accent_color)?;
        let logo = match &login.logo_file {
            Some(path) => logo(path, &login.app_name)?,
            None => TOWER.trim_end().to_owned(),
        };
        let common = |name: &str| {
            Some(match name {
                "nonce" => vec![Piece::Slot(Slot::Nonce)],
                "style" => element("<style", &style, "</style>"),
                "logo" => vec![Piece::text(&logo)],
                "app_name" => vec![Piece::text(html(&login.app_name))],
                "request_id" => vec![Piece::Slot(Slot::RequestId)],
                _ => return None,
            })
        };
        let loading = |name: &str| match name {
            "config" => Some(config_block(config)),
            "script" => Some(element("<script", SCRIPT, "</script>")),
            _ => common(name),
        };
        let error = |name: &str| match name {
            "title" => Some(vec![Piece::Slot(Slot::Title)]),
            "message" => Some(vec![Piece::Slot(Slot::Message)]),
            "status" => Some(vec![Piece::Slot(Slot::Status)]),
            "again" => Some(vec![Piece::Slot(Slot::Again)]),
            _ => common(name),
        };
        let own = login.page_file.as_deref().map(operators_page).transpose()?;
        Ok(Self {
            loading: Template::cut(own.as_deref().unwrap_or(LOADING), loading),
            error: Template::cut(ERROR, error),
            native: NativePages::new(config, &style),
        })
    }

    /// The loading page.
    pub fn loading(&self, request: &LoadingRequest) -> Response<Bytes> {
        page(StatusCode::OK, &self.loading, |slot, out| match slot {
            Slot::RequestId => out.push_str(request.id.as_str()),
            Slot::Electron => out.push_str(if request.electron { "true" } else { "false" }),
            // The nonce is filled in by `page`, the rest is not part of this template.
            Slot::Nonce | Slot::Title | Slot::Message | Slot::Status | Slot::Again => {}
        })
    }

    /// An answer of the proxy itself that is no success: a small page, or JSON, as `Accept` asks for.
    /// `message` is read by whoever asked: no addresses, no inner errors.
    pub fn error(&self, accept: Option<&HeaderValue>, status: StatusCode, message: &str, id: &RequestId) -> Response<Bytes> {
        let mut response = match Form::wanted(accept) {
            Form::Json => json_error(status, &code(status), message, id),
            Form::Html => page(status, &self.error, |slot, out| match slot {
                Slot::Title => out.push_str(title(status)),
                Slot::Message => out.push_str(&html(message)),
                Slot::Status => out.push_str(status.as_str()),
                Slot::RequestId => out.push_str(id.as_str()),
                Slot::Again if again_helps(status) => {
                    out.push_str(r#"<div class="actions"><a class="button main" href="">Try again</a></div>"#);
                }
                Slot::Again | Slot::Nonce | Slot::Electron => {}
            }),
        };
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        response
    }
}

/// The callback's and the session path's answer to somebody who is not signed in. The log's `detail` stays
/// here.
///
/// A 401 has no `WWW-Authenticate`, against RFC 9110 §15.5.2: with one, browsers may put up a login box of
/// their own in front of the chat, and no scheme of HTTP's would get anybody in.
pub fn json_refusal(refusal: &Refusal, id: &RequestId) -> Response<Bytes> {
    json_refusal_with(refusal, id, None)
}

/// The same, with one more field.
pub fn json_refusal_with(refusal: &Refusal, id: &RequestId, more: Option<(&str, &str)>) -> Response<Bytes> {
    let mut body = serde_json::json!({ "error": refusal.kind.code(), "message": &refusal.message, "id": id.as_str() });
    if let Some((name, value)) = more {
        body[name] = value.into();
    }
    let mut response = json_answer(refusal.kind.status(), &body);
    if let Some(after) = refusal.retry_after {
        // Whole seconds (RFC 9110 §10.2.3), never earlier than meant and never "at once".
        let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The body of every answer of ours that is no success: a code for programs, words for people, and the id
/// that is in the log.
pub fn json_error(status: StatusCode, code: &str, message: &str, id: &RequestId) -> Response<Bytes> {
    json_answer(status, &serde_json::json!({ "error": code, "message": message, "id": id.as_str() }))
}

/// An answer in JSON.
pub fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    answer(status, HeaderValue::from_static("application/json"), body.to_string())
}

fn answer(status: StatusCode, media_type: HeaderValue, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let length = response.body().len();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    // Said here, since the body is left out of answers to HEAD.
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Renders a page with a nonce of its own and the policy that names it.
fn page(status: StatusCode, template: &Template, fill: impl Fn(Slot, &mut String)) -> Response<Bytes> {
    const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
    let nonce = nonce();
    let body = template.render(|slot, out| if slot == Slot::Nonce { out.push_str(&nonce) } else { fill(slot, out) });
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         form-action 'none'; base-uri 'none'"
    );
    let mut response = answer(status, HeaderValue::from_static("text/html; charset=utf-8"), body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).expect("base64 is visible ASCII"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(PERMISSIONS_POLICY, HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()"));
    response
}

/// 128 random bits (CSP 3 §7.1 asks for no less).
fn nonce() -> String {
    let mut raw = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut raw).expect("the system's random source does not fail once the process has started");
    STANDARD.encode(raw)
}

/// The script's view of the configuration, as a data block that nothing in it can leave.
fn config_block(config: &Config) -> Vec<Piece> {
    let login = &config.login;
    let optional = |text: Option<&String>| text.map_or_else(|| "null".to_owned(), |text| json(text));
    let token_path = login.token_paths.first().cloned().unwrap_or_else(|| format!("{}token", login.prefix));
    let timeout = login.timeout.saturating_add(SCRIPT_MARGIN).as_millis();
    let known = format!(
        "\">{{\"app_name\":{},\"prefix\":{},\"session_path\":{},\"token_path\":{},\"public_origin\":{},\"public_url\":{},\
         \"sign_in_url\":{},\"timeout\":{timeout},\"request_id\":\"",
        json(&login.app_name),
        json(&login.prefix),
        json(&format!("{}session", login.prefix)),
        json(&token_path),
        json(config.server.public_origin.as_str()),
        json(config.server.public_url.as_str()),
        optional(login.sign_in_url.as_ref()),
    );
    vec![
        Piece::text("<script type=\"application/json\" id=\"gantry-config\" nonce=\""),
        Piece::Slot(Slot::Nonce),
        Piece::text(known),
        Piece::Slot(Slot::RequestId),
        Piece::text("\",\"electron\":"),
        Piece::Slot(Slot::Electron),
        Piece::text("}</script>"),
    ]
}

/// An element that needs the nonce, around text of ours.
fn element(start: &str, content: &str, end: &str) -> Vec<Piece> {
    vec![Piece::text(format!("{start} nonce=\"")), Piece::Slot(Slot::Nonce), Piece::text(format!("\">\n{content}{end}"))]
}

/// Our style sheet with the accent, which is changed where it would not be legible.
fn style(accent: &str) -> Result<String, PagesError> {
    let color = Color::parse(accent).ok_or_else(|| PagesError::Color(accent.to_owned()))?;
    let fill = |name: &str| {
        let color = match name {
            "accent" => color,
            "on_accent" => color.text(),
            "accent_on_light" => color.legible_on(Color::WHITE, Color::INK),
            "accent_on_dark" => color.legible_on(Color::NIGHT, Color::WHITE),
            _ => return None,
        };
        Some(vec![Piece::text(color.to_string())])
    };
    Ok(Template::cut(STYLE, fill).render(|_, _| {}))
}

/// The operator's logo as an image. SVG in an image runs no script.
fn logo(path: &Path, app_name: &str) -> Result<String, PagesError> {
    let bytes = read("login.logo_file", path, brand::MAX_LOGO)?;
    let media_type = brand::media_type(&bytes).ok_or_else(|| PagesError::UnknownImage(path.to_owned()))?;
    Ok(format!("<img src=\"{}\" alt=\"{}\">", brand::data_url(media_type, &bytes), html(app_name)))
}

fn operators_page(path: &Path) -> Result<String, PagesError> {
    let bytes = read("login.page_file", path, MAX_PAGE)?;
    let text = String::from_utf8(bytes).map_err(|_| PagesError::NotText(path.to_owned()))?;
    let config = text.find("{{config}}").unwrap_or(usize::MAX);
    if text.find("{{script}}").is_some_and(|script| script < config) {
        return Err(PagesError::ScriptWithoutConfig(path.to_owned()));
    }
    Ok(text)
}

/// Reads a file up to its cap, so that a wrong path (`/dev/zero`) does no harm.
fn read(key: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, PagesError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(|source| PagesError::Read {
        key,
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > limit {
        return Err(PagesError::TooLarge { key, path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// The `error` field for a status: its reason phrase in snake case.
fn code(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("error").to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "There is nothing here",
        StatusCode::METHOD_NOT_ALLOWED => "That does not work here",
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => "You may not do this",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests",
        StatusCode::BAD_GATEWAY => "The chat gave no usable answer",
        StatusCode::SERVICE_UNAVAILABLE => "The chat is not reachable",
        StatusCode::GATEWAY_TIMEOUT => "The chat takes too long",
        status if status.is_client_error() => "The request could not be understood",
        _ => "Something went wrong",
    }
}

/// Whether the same request may well succeed a little later.
fn again_helps(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

#[cfg(test)]
mod tests;
