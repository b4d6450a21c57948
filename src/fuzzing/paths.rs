//! Paths, queries and `Accept`: what may stand in a log, what is kept from the public, what is HTML.

use std::fmt::Write as _;

use http::HeaderValue;

use super::pieces::Pieces;
use crate::config;
use crate::edge::pages::accept::Form;
use crate::edge::route::{Paths, Route};
use crate::headers::redact;

const MARK: &str = "S3cr3tMark";
const HIDDEN: &[&str] = &["/api/v1/users.createToken", "/api/v1/method.call/createToken", "/api/v1/method.callAnon/createToken"];
const SECRET_PATHS: &[&str] =
    &["/login-token/", "/reset-password/", "/verify-email/", "/enroll-account/", "/invite/", "/visitor/", "/hooks/id/"];
const SECRET_NAMES: &[&str] = &[
    "resumeToken",
    "rc_token",
    "access_token",
    "code",
    "password",
    "X-Auth-Token",
    "user[password]",
    "state",
    "sessionid",
    "client_secret",
];

thread_local! {
    static PATHS: Paths = {
        let config = config::load(Some(("proxy.toml", super::world::CONFIG)), [], &[]).expect("a good configuration").config;
        Paths::new(&config.login)
    };
}

/// A path that some server could take for `path`, spelled as the choices say.
fn spelled(path: &str, choices: &mut Pieces<'_>) -> String {
    let mut out = String::new();
    for c in path.chars() {
        match (c, choices.below(12)) {
            ('/', 1) => out.push_str("//"),
            ('/', 2) => out.push_str("/./"),
            ('/', 3) => out.push_str("/x/../"),
            ('/', 4) => out.push_str("%2f"),
            ('/', 5) => out.push('\\'),
            ('/', 6) => out.push_str(";a=b/"),
            (_, 7) => drop(write!(out, "%{:02X}", u32::from(c))),
            (_, 8) => drop(write!(out, "%25{:02x}", u32::from(c))),
            (c, 9) => out.extend(c.to_uppercase()),
            (c, 10) => out.extend(c.to_lowercase()),
            (c, _) => out.push(c),
        }
    }
    out + choices.pick(&["", "", "/", ";x", "%00", "?a", "%3fa", "/.", "%20"])
}

/// Line one: a path and query; line two: an `Accept`. Behind them: choices.
///
/// # Panics
/// A secret would be logged, a hidden endpoint reached, or a program sent a page.
pub fn paths(data: &[u8]) {
    let mut parts = data.splitn(3, |b| *b == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let text = String::from_utf8_lossy(part()).into_owned();
    let accept = part();
    let mut choices = Pieces::new(part());

    let shown = redact::path_and_query(&text);
    assert!(shown.bytes().all(|b| b.is_ascii_graphic()), "{shown:?} could be two lines");
    let before = choices.pick(&["/", "/a/b", "/x;y", ""]);
    let path = if choices.once_in(2) { format!("{before}{}{MARK}", choices.pick(SECRET_PATHS)) } else { before.to_owned() };
    let name = spelled_name(choices.pick(SECRET_NAMES), &mut choices);
    let glue = choices.pick(&["?", "?a=b&", "?a=b;", "?x&&", "?return=%2Fhome%3F", "?r=https%3A%2F%2Fx%2F%3F"]);
    let equals = if glue.ends_with("%3F") { "%3D" } else { "=" };
    let behind = choices.pick(&["", "&c=d", ";c=d", "%26e"]);
    let secret = format!("{path}{glue}{name}{equals}{MARK}{behind}");
    let shown = redact::path_and_query(&secret);
    assert!(!shown.contains(MARK), "{secret} is shown as {shown}");

    PATHS.with(|paths| {
        let hidden = spelled(choices.pick(HIDDEN), &mut choices);
        let (path, _) = hidden.split_once('?').unwrap_or((&hidden, ""));
        assert_eq!(paths.route(path), Route::Hidden, "{hidden}");
        let route = paths.route(&text);
        assert_eq!(route == Route::Token, text == "/_gantry/token", "{text}");
        let ours = matches!(route, Route::Token | Route::Login | Route::Session | Route::Logout | Route::Nowhere);
        assert_eq!(ours, text.starts_with("/_gantry/"), "{text}");
    });

    let Ok(value) = HeaderValue::from_bytes(accept) else { return };
    let lower = String::from_utf8_lossy(accept).to_ascii_lowercase();
    if Form::wanted(Some(&value)) == Form::Html {
        assert!(lower.contains("text/html") || lower.contains("text/*"), "a page that was not asked for: {lower:?}");
    }
    assert_eq!(Form::wanted(None), Form::Json);
}

/// Letters of a name, some of them percent-encoded.
fn spelled_name(name: &str, choices: &mut Pieces<'_>) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match choices.below(8) {
            7 => drop(write!(out, "%{:02x}", u32::from(c))),
            6 => out.extend(c.to_uppercase()),
            _ => out.push(c),
        }
    }
    out
}
