//! Rules about single values: pure, each with the reason why it fails.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use url::{Host, Url};

/// Paths of Rocket.Chat's own that nothing of ours may stand in front of.
const ROCKETCHAT_PATHS: [&str; 7] = ["/api/v1", "/websocket", "/sockjs", "/livechat", "/file-upload", "/avatar", "/assets"];

/// An absolute URL without credentials and fragment.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let example = "write it like https://app.example.com";
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error}); {example}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("is neither http:// nor https://; {example}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password; take it out".into());
    }
    if url.fragment().is_some() {
        return Err("has a fragment (#…); take it out".into());
    }
    Ok(url)
}

/// The same without a query: the base of other URLs.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let url = url(text)?;
    if url.query().is_some() { Err("has a query (?…); take it out".into()) } else { Ok(url) }
}

/// Where a person signs in: a URL in which `{return}` may stand.
pub(super) fn sign_in_url(text: &str) -> Result<String, String> {
    let filled = text.replace("{return}", "https%3A%2F%2Fx");
    if filled.contains(['{', '}']) {
        return Err("has a placeholder that is not {return}".into());
    }
    if filled.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has white space in it".into());
    }
    // A fragment is fine here: apps that route by it sign people in there.
    let without = filled.split('#').next().unwrap_or_default();
    url(without).map(|_| text.to_owned())
}

/// Whether a URL only leads to this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// An IP address and a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not an IP address and a port; write it like 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080".to_owned())
}

/// Whether two listeners would get in each other's way.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// A CIDR, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let bare = text.parse::<IpAddr>().map(IpNet::from);
    bare.or_else(|_| text.parse::<IpNet>())
        .map(|net| net.trunc())
        .map_err(|_| "is neither an IP address nor a CIDR; write it like 10.0.0.0/8 or 192.0.2.7".to_owned())
}

/// The prefix of our own paths.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    if !text.starts_with('/') || !text.ends_with('/') || text.len() < 3 {
        return Err("has to begin and end with a slash and name something, such as /_gantry/".into());
    }
    path(text)?;
    if let Some(own) = ROCKETCHAT_PATHS.iter().find(|own| format!("{own}/").starts_with(text) || text.starts_with(&format!("{own}/"))) {
        return Err(format!("would hide Rocket.Chat's own {own}; choose another, such as /_gantry/"));
    }
    Ok(text.to_owned())
}

/// A path of the callback.
pub(super) fn token_path(text: &str) -> Result<String, String> {
    path(text)?;
    if text == "/" {
        return Err("is Rocket.Chat's own start page; choose another, such as /_gantry/token".into());
    }
    if let Some(own) = ROCKETCHAT_PATHS.iter().find(|own| text == **own || text.starts_with(&format!("{own}/"))) {
        return Err(format!("would hide Rocket.Chat's own {own}; choose another, such as /_gantry/token"));
    }
    Ok(text.to_owned())
}

fn path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("is not an absolute path; begin it with a slash".into());
    }
    if text.contains(['?', '#']) {
        return Err("has a query or fragment; write the path alone".into());
    }
    if text[1..].split('/').rev().skip(1).any(str::is_empty) || text.split('/').any(|part| part == "." || part == "..") {
        return Err("has an empty, \".\" or \"..\" segment; write the plain path".into());
    }
    // Paths are compared byte for byte, so there must be one way to write each.
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"/-._~!$&'()*+,;=:@".contains(*c)) {
        return Err(format!("has {odd:?} in it; use letters, digits and - . _ ~"));
    }
    Ok(())
}

/// A DNS name, in lower case, wildcards excepted.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) || name.parse::<IpAddr>().is_ok() {
        return Err("is not a host name; write it like chat.example.com".into());
    }
    Ok(name)
}

/// An e-mail address.
pub(super) fn email(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    match address.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && address.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(address.to_owned())
        }
        _ => Err("is not an e-mail address; write it like ops@example.com".into()),
    }
}

/// The value of `Strict-Transport-Security` (RFC 6797 §6.1).
pub(super) fn hsts(text: &str) -> Result<http::HeaderValue, String> {
    let directives: Vec<String> = text.split(';').map(|directive| directive.trim().to_ascii_lowercase()).collect();
    let age = |directive: &String| {
        directive.strip_prefix("max-age=").is_some_and(|age| !age.is_empty() && age.bytes().all(|b| b.is_ascii_digit()))
    };
    let known = directives.iter().all(|directive| age(directive) || matches!(directive.as_str(), "includesubdomains" | "preload"));
    if !known || directives.iter().filter(|directive| age(directive)).count() != 1 {
        return Err("is not a Strict-Transport-Security value; write it like \"max-age=31536000; includeSubDomains\"".into());
    }
    http::HeaderValue::from_str(text).map_err(|_| "cannot stand in a header".into())
}

/// The name of a header.
pub(super) fn header(text: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(text).map_err(|_| "is not the name of a header; write it like x-forwarded-user".to_owned())
}

/// A header of the caller's that the host app may see.
pub(super) fn handed_on(text: &str) -> Result<HeaderName, String> {
    let name = header(text)?;
    match name.as_str() {
        "host"
        | "connection"
        | "content-length"
        | "content-type"
        | "expect"
        | "keep-alive"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "proxy-authorization" => Err("belongs to one request and cannot be handed on; take it out".into()),
        "x-auth-token" | "x-user-id" => Err("is Rocket.Chat's own credential and never goes to the host app; take it out".into()),
        _ => Ok(name),
    }
}

/// The name of a cookie (RFC 6265 §4.1.1: a token).
pub(super) fn cookie(text: &str) -> Result<String, String> {
    if matches!(text, "rc_uid" | "rc_token") {
        return Err("is Rocket.Chat's own cookie and never goes to the host app; name the host app's cookie".into());
    }
    if text.is_empty() || text.contains(|c: char| !c.is_ascii_graphic() || "()<>@,;:\\\"/[]?={}".contains(c)) {
        return Err("is not the name of a cookie".into());
    }
    Ok(text.to_owned())
}

/// A JSON pointer (RFC 6901 §3).
pub(super) fn pointer(text: &str) -> Result<String, String> {
    if !text.is_empty() && !text.starts_with('/') {
        return Err(format!("is not a JSON pointer; write \"/{}\"", text.replace('.', "/")));
    }
    if text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
        return Err("has a ~ that stands for nothing; write ~0 for ~ and ~1 for / inside a name".into());
    }
    Ok(text.to_owned())
}

/// A colour: `#rgb` or `#rrggbb`.
pub(super) fn color(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix('#').unwrap_or_default();
    if matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_owned());
    }
    Err("is not a colour; write it like #15f or #1a5fd0".into())
}

/// A log filter. A bare word that is no level would silence everything else, so it is refused.
///
/// # Errors
/// It is none; the words say what one looks like.
pub fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let hint = "write off, error, warn, info, debug or trace, or a filter such as gantry=debug,info";
    EnvFilter::try_new(text).map_err(|error| format!("is not a log filter ({error}); {hint}"))?;
    for directive in text.split(',').map(str::trim) {
        let word = directive.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '-'));
        if word && !LEVELS.contains(&directive.to_lowercase().as_str()) {
            return Err(format!("names no level in \"{directive}\"; {hint}"));
        }
    }
    Ok(text.to_owned())
}

/// The name of a custom field of Rocket.Chat's: no dots, since it becomes part of a database path.
pub(super) fn custom_field(text: &str) -> Result<String, String> {
    if text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return Ok(text.to_owned());
    }
    Err("is not the name of a custom field; use letters, digits, _ and -".into())
}

/// A value that is sent as a header.
pub(super) fn header_value(text: &str) -> Result<String, String> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("has blanks or other characters that cannot stand in a header; copy it again".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_paths_leave_rocketchat_alone() {
        for good in ["/_gantry/token", "/api/rocketchat/token", "/sso", "/websockets", "/api/v1x/token"] {
            assert_eq!(token_path(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "/",
            "token",
            "/api/v1/users.list",
            "/api/v1",
            "/websocket",
            "/sockjs/info",
            "/a/../b",
            "/a?b",
            "/a#b",
            "//a",
            "/a b",
            "/a%2fb",
            "/ä",
        ] {
            assert!(token_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_begin_and_end_with_a_slash() {
        for good in ["/_gantry/", "/a/b/", "/api/gantry/"] {
            assert_eq!(prefix(good).as_deref(), Ok(good));
        }
        for bad in ["", "/", "//", "_gantry/", "/_gantry", "/api/", "/api/v1/", "/api/v1/x/", "/websocket/", "/sockjs/", "/a//b/", "/../"] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_may_be_single_addresses() {
        for (written, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::1", "::1/128"),
            ("fd00::/8", "fd00::/8"),
        ] {
            assert_eq!(network(written).unwrap().to_string(), expected);
        }
        for bad in ["", "10.0.0.0/33", "localhost", "10.0.0", "*"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pointers_follow_rfc_6901() {
        for good in ["", "/", "/a/b", "/a~0b/c~1d", "/https:~1~1x.example~1name"] {
            assert!(pointer(good).is_ok(), "{good}");
        }
        for bad in ["a", "user.name", "/a~", "/a~2", "~0"] {
            assert!(pointer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for good in ["info", "WARN", "gantry=debug,info", "info,hyper=off", "gantry[{id}]=trace"] {
            assert!(log_level(good).is_ok(), "{good}");
        }
        for bad in ["inof", "verbose", "gantry", "gantry=loud", "info,,debug"] {
            assert!(log_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sign_in_addresses_know_one_placeholder() {
        for good in ["https://app.example.com/login?next={return}", "https://app.example.com/#/login", "http://localhost:3000/"] {
            assert!(sign_in_url(good).is_ok(), "{good}");
        }
        for bad in ["/login", "javascript:alert(1)", "https://a.example/{next}", "https://u:p@a.example/", "https://a.example/ x"] {
            assert!(sign_in_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn colours_and_cookies() {
        for (color_text, ok) in [("#15f", true), ("#1a5fD0", true), ("red", false), ("#12", false), ("#1a5fd0;x", false), ("", false)] {
            assert_eq!(color(color_text).is_ok(), ok, "{color_text}");
        }
        for (name, ok) in [("session", true), ("__Host-sid", true), ("rc_token", false), ("a b", false), ("a=b", false), ("", false)] {
            assert_eq!(cookie(name).is_ok(), ok, "{name}");
        }
    }

    #[test]
    fn listeners_collide_on_one_port() {
        for (a, b, both) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
        ] {
            assert_eq!(collide(a.parse().unwrap(), b.parse().unwrap()), both, "{a} {b}");
        }
    }
}
