//! Rules for a proxy on a developer's machine (`gantry dev`), which shows a workspace at another origin than
//! its own. The workspace must not notice, and nothing that it says may lead the browser away or stay behind
//! in it.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{
    ACCEPT_ENCODING, ALT_SVC, CONTENT_LOCATION, CONTENT_SECURITY_POLICY, COOKIE, HOST, LOCATION, ORIGIN, REFERER, REFRESH,
    SEC_WEBSOCKET_EXTENSIONS, SET_COOKIE, STRICT_TRANSPORT_SECURITY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{csp, prepared};
use crate::config::Origin;

/// What says who the client is: the workspace's own front says it for a client at a desk.
const FORWARDED: [HeaderName; 4] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];
/// What a browser would remember about our origin, or act on behind our back.
const LASTING: [HeaderName; 5] = [
    STRICT_TRANSPORT_SECURITY,
    ALT_SVC,
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("expect-ct"),
];
/// Cookie names that a browser refuses on plain http (RFC 6265bis §4.1.3), and what they are called there.
const PREFIXES: [(&str, &str); 2] = [("__Host-", "gantry-dev-host-"), ("__Secure-", "gantry-dev-secure-")];

/// Whether an authority can only be this machine: `localhost`, a name below it (RFC 6761 §6.3) or a loopback
/// address, with or without a port.
pub fn is_local(authority: &str) -> bool {
    let (host, port) = split_port(authority);
    if port.is_some_and(|port| port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return ip.is_loopback();
    }
    let host = host.to_ascii_lowercase();
    let labels = host.strip_suffix("localhost").is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    labels && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // The colons of an IPv6 literal are no port's.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Two origins of one workspace: where browsers find it, and where it believes to be.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    here: String,
    tls: bool,
    there: String,
    authority: HeaderValue,
    origin: HeaderValue,
}

impl Elsewhere {
    /// Browsers come to `here`; the workspace is at `there`.
    pub fn new(here: &Origin, there: &Origin) -> Self {
        Self {
            here: here.as_str().to_owned(),
            tls: here.as_str().starts_with("https:"),
            there: there.as_str().to_owned(),
            authority: prepared(authority_of(there.as_str())),
            origin: prepared(there.as_str()),
        }
    }

    /// Where browsers find it, as an origin.
    pub fn here(&self) -> &str {
        &self.here
    }

    /// Where it really is, as an origin.
    pub fn there(&self) -> &str {
        &self.there
    }

    /// Rewrites a request on its way to the workspace, which then sees a browser at its own origin: its
    /// checks of `Host`, `Origin` and `Referer` hold.
    pub fn towards(&self, headers: &mut HeaderMap) {
        headers.insert(HOST, self.authority.clone());
        for name in &FORWARDED {
            headers.remove(name);
        }
        if headers.get(ORIGIN).is_some_and(|origin| origin.to_str().is_ok_and(|text| is_local(authority_of(text)))) {
            headers.insert(ORIGIN, self.origin.clone());
        }
        if let Some(referer) = headers.get(REFERER).and_then(|value| value.to_str().ok()) {
            let (authority, path) = split_url(referer);
            // The host app's own address stays: live chat goes by it.
            if authority == authority_of(&self.here)
                && let Ok(moved) = HeaderValue::from_str(&format!("{}{path}", self.there))
            {
                headers.insert(REFERER, moved);
            }
        }
        // What may have to be changed has to be readable: gzip is, and saves most of the way.
        if headers.contains_key(ACCEPT_ENCODING) {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        if !self.tls {
            cookies_towards(headers);
        }
    }

    /// Rewrites an answer on its way to the browser: what leads to the workspace leads to us, cookies are
    /// ours, and nothing that would outlast us remains. `site` is what the workspace calls itself
    /// (`Site_Url`), where that differs from where it is; `sources` is what our bar is loaded from.
    pub fn back(&self, headers: &mut HeaderMap, site: Option<&str>, sources: &str) {
        for name in &LASTING {
            headers.remove(name);
        }
        for name in [LOCATION, CONTENT_LOCATION] {
            let moved = headers.get(&name).and_then(|value| value.to_str().ok()).and_then(|text| self.moved(text, site));
            if let Some(moved) = moved.and_then(|text| HeaderValue::from_str(&text).ok()) {
                headers.insert(name, moved);
            }
        }
        let refreshed = headers.get(REFRESH).and_then(|value| value.to_str().ok()).and_then(|text| self.refresh(text, site));
        if let Some(refreshed) = refreshed.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(REFRESH, refreshed);
        }
        if headers.contains_key(SET_COOKIE) {
            let cookies: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().map(|value| self.cookie(value)).collect();
            headers.remove(SET_COOKIE);
            for cookie in cookies {
                headers.append(SET_COOKIE, cookie);
            }
        }
        if headers.contains_key(CONTENT_SECURITY_POLICY) {
            let fields: Vec<HeaderValue> = headers.get_all(CONTENT_SECURITY_POLICY).iter().cloned().collect();
            headers.remove(CONTENT_SECURITY_POLICY);
            for field in fields {
                let moved = field.to_str().ok().map(|text| csp::moved(text, self.tls, sources, |source| self.moved(source, site)));
                headers.append(CONTENT_SECURITY_POLICY, moved.and_then(|text| HeaderValue::from_str(&text).ok()).unwrap_or(field));
            }
        }
    }

    /// The address of the same thing at our origin; `None` for what is not the workspace's.
    pub fn moved(&self, url: &str, site: Option<&str>) -> Option<String> {
        let (authority, path) = split_url(url);
        let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        // `//host/path` has the scheme of the page. Anything else without a scheme is no address of a host.
        if !matches!(scheme.as_deref(), Some("http" | "https" | "ws" | "wss")) && !url.starts_with("//") {
            return None;
        }
        let is = |origin: &str| same_host(authority, authority_of(origin));
        if !is(&self.there) && !site.is_some_and(is) {
            return None;
        }
        Some(match scheme.as_deref() {
            Some("ws" | "wss") => format!("{}{path}", self.here.replacen("http", "ws", 1)),
            _ => format!("{}{path}", self.here),
        })
    }

    /// `5; url=https://…`
    fn refresh(&self, text: &str, site: Option<&str>) -> Option<String> {
        let at = text.to_ascii_lowercase().find("url=")? + 4;
        let (before, url) = text.split_at(at);
        let quote = url.trim_start().starts_with(['"', '\'']);
        let url = url.trim().trim_matches(['"', '\'']);
        let moved = self.moved(url, site)?;
        Some(if quote { format!("{before}\"{moved}\"") } else { format!("{before}{moved}") })
    }

    /// `Domain` would name the workspace, and `Secure` and what needs it is refused on plain http.
    fn cookie(&self, value: &HeaderValue) -> HeaderValue {
        let Ok(text) = value.to_str() else { return value.clone() };
        let mut parts = text.split(';');
        let pair = parts.next().unwrap_or_default();
        let mut cookie = if self.tls { pair.to_owned() } else { renamed(pair.trim(), |names| names).into_owned() };
        for attribute in parts {
            let (name, setting) = attribute.split_once('=').unwrap_or((attribute, ""));
            let name = name.trim().to_ascii_lowercase();
            match name.as_str() {
                "domain" => {}
                "secure" | "partitioned" if !self.tls => {}
                "samesite" if !self.tls && setting.trim().eq_ignore_ascii_case("none") => cookie.push_str("; SameSite=Lax"),
                _ => {
                    cookie.push(';');
                    cookie.push_str(attribute);
                }
            }
        }
        HeaderValue::from_str(&cookie).unwrap_or_else(|_| value.clone())
    }
}

/// Gives cookies back the names that plain http could not keep.
fn cookies_towards(headers: &mut HeaderMap) {
    let renamed = |text: &str| {
        let pairs: Vec<Cow<'_, str>> = text.split("; ").map(|pair| renamed(pair, |(theirs, ours)| (ours, theirs))).collect();
        HeaderValue::from_str(&pairs.join("; ")).ok()
    };
    for value in headers.get_all(COOKIE).iter().cloned().collect::<Vec<_>>() {
        if let Some(new) = value.to_str().ok().filter(|text| text.contains("gantry-dev-")).and_then(renamed) {
            headers.remove(COOKIE);
            headers.append(COOKIE, new);
        }
    }
}

/// A cookie with the first prefix of a pair in its name exchanged for the second.
fn renamed(pair: &str, order: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) -> Cow<'_, str> {
    for names in PREFIXES {
        let (from, to) = order(names);
        // Prefixes are matched in any case (RFC 6265bis §5.7).
        if pair.get(..from.len()).is_some_and(|start| start.eq_ignore_ascii_case(from)) {
            return Cow::Owned(format!("{to}{}", &pair[from.len()..]));
        }
    }
    Cow::Borrowed(pair)
}

fn authority_of(url: &str) -> &str {
    split_url(url).0
}

/// Authority, and everything behind it.
fn split_url(url: &str) -> (&str, &str) {
    let rest = url.find("//").map_or("", |at| &url[at + 2..]);
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    rest.split_at(end)
}

/// Whether two authorities are one host: the port only counts where it is not a default one, so that a
/// redirect from http to https is recognised.
fn same_host(a: &str, b: &str) -> bool {
    let plain = |authority: &str| {
        let (host, port) = split_port(authority);
        let port = port.filter(|port| !matches!(*port, "80" | "443" | ""));
        (host.to_ascii_lowercase(), port.map(str::to_owned))
    };
    !a.is_empty() && plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &str = "https://chat.localhost:8443/_gantry/dev/";

    fn elsewhere(here: &str) -> Elsewhere {
        Elsewhere::new(&here.parse().unwrap(), &"https://chat.example.com".parse().unwrap())
    }

    fn https() -> Elsewhere {
        elsewhere("https://chat.localhost:8443")
    }

    fn plain() -> Elsewhere {
        elsewhere("http://chat.localhost:8080")
    }

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn only_this_machine_is_local() {
        for host in ["localhost", "LOCALHOST:8443", "chat.localhost", "a.b.localhost:1", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:9"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com",
            "notlocalhost",
            "chat.localhost.",
            "127.0.0.1.nip.io",
            "192.168.0.1",
            "[::2]",
            "::1",
            "localhost:",
            "localhost:x",
            "localhost:123456",
            "user@localhost",
            "evil.com/localhost",
            "localhost:80:80",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn the_workspace_sees_a_browser_at_its_own_origin() {
        let mut headers = map(&[
            ("host", "chat.localhost:8443"),
            ("origin", "https://chat.localhost:8443"),
            ("referer", "https://chat.localhost:8443/channel/general?x=1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "chat.localhost:8443"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "127.0.0.1"),
            ("accept-encoding", "gzip, deflate, br, zstd"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("cookie", "rc_uid=u; __Host-x=1"),
            ("x-auth-token", "t"),
        ]);
        https().towards(&mut headers);
        let expected = map(&[
            ("host", "chat.example.com"),
            ("origin", "https://chat.example.com"),
            ("referer", "https://chat.example.com/channel/general?x=1"),
            ("accept-encoding", "gzip"),
            ("cookie", "rc_uid=u; __Host-x=1"),
            ("x-auth-token", "t"),
        ]);
        assert_eq!(headers, expected);

        // A host app on another port is at the workspace's origin too, but its pages keep their names.
        let mut headers = map(&[("origin", "http://localhost:3000"), ("referer", "http://localhost:3000/page")]);
        https().towards(&mut headers);
        let expected =
            map(&[("host", "chat.example.com"), ("origin", "https://chat.example.com"), ("referer", "http://localhost:3000/page")]);
        assert_eq!(headers, expected);

        // A stranger's stays a stranger's.
        let mut headers = map(&[("origin", "https://evil.example"), ("referer", "https://chat.localhost:8443.evil.example/")]);
        https().towards(&mut headers);
        assert_eq!(
            (all(&headers, "origin")[0].as_str(), all(&headers, "referer")[0].as_str()),
            ("https://evil.example", "https://chat.localhost:8443.evil.example/")
        );
    }

    #[test]
    fn addresses_of_the_workspace_become_ours() {
        let site = Some("https://site.example.org:8080");
        for (url, expected) in [
            ("https://chat.example.com/home?x=1#y", Some("https://chat.localhost:8443/home?x=1#y")),
            ("http://chat.example.com/home", Some("https://chat.localhost:8443/home")),
            ("https://CHAT.example.com:443", Some("https://chat.localhost:8443")),
            ("//chat.example.com/x", Some("https://chat.localhost:8443/x")),
            ("wss://chat.example.com/websocket", Some("wss://chat.localhost:8443/websocket")),
            ("https://site.example.org:8080/a", Some("https://chat.localhost:8443/a")),
            ("https://site.example.org/a", None),
            ("https://chat.example.com.evil.net/", None),
            ("https://user@chat.example.com/", None),
            ("https://chat.example.com:8443/", None),
            ("/home", None),
            ("home?u=https://chat.example.com/", None),
            ("rocketchat://chat.example.com/x", None),
            ("", None),
        ] {
            assert_eq!(https().moved(url, site).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn redirects_lead_to_us() {
        for (name, value, expected) in [
            ("location", "https://chat.example.com/home", "https://chat.localhost:8443/home"),
            ("location", "/home", "/home"),
            ("location", "https://other.example/x", "https://other.example/x"),
            ("content-location", "https://chat.example.com/x", "https://chat.localhost:8443/x"),
            ("refresh", "5; url=https://chat.example.com/x", "5; url=https://chat.localhost:8443/x"),
            ("refresh", "0;URL='https://chat.example.com/x'", "0;URL=\"https://chat.localhost:8443/x\""),
            ("refresh", "5", "5"),
        ] {
            let mut headers = map(&[(name, value)]);
            https().back(&mut headers, None, SOURCES);
            assert_eq!(all(&headers, name), [expected], "{name}: {value}");
        }
    }

    #[test]
    fn nothing_outlasts_us() {
        let mut headers = map(&[
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("alt-svc", "h3=\":443\""),
            ("nel", "{}"),
            ("report-to", "{}"),
            ("etag", "\"x\""),
        ]);
        https().back(&mut headers, None, SOURCES);
        assert_eq!(headers, map(&[("etag", "\"x\"")]));
    }

    #[test]
    fn cookies_become_ours() {
        for (cookie, on_https, on_plain) in [
            ("a=b", "a=b", "a=b"),
            ("a=b; Domain=chat.example.com; Path=/x", "a=b; Path=/x", "a=b; Path=/x"),
            ("a=b; DOMAIN=.example.com;Secure;HttpOnly", "a=b;Secure;HttpOnly", "a=b;HttpOnly"),
            ("a=b; SameSite=None; Secure; Partitioned", "a=b; SameSite=None; Secure; Partitioned", "a=b; SameSite=Lax"),
            ("a=b; SameSite=Strict", "a=b; SameSite=Strict", "a=b; SameSite=Strict"),
            ("__Host-s=1; Secure; Path=/", "__Host-s=1; Secure; Path=/", "gantry-dev-host-s=1; Path=/"),
            ("__secure-s=1; Secure", "__secure-s=1; Secure", "gantry-dev-secure-s=1"),
            ("domain=1; Max-Age=3", "domain=1; Max-Age=3", "domain=1; Max-Age=3"),
        ] {
            for (proxy, expected) in [(https(), on_https), (plain(), on_plain)] {
                let mut headers = map(&[("set-cookie", cookie), ("set-cookie", "z=1")]);
                proxy.back(&mut headers, None, SOURCES);
                assert_eq!(all(&headers, "set-cookie"), [expected, "z=1"], "{cookie}");
            }
        }
    }

    #[test]
    fn renamed_cookies_go_back_under_their_names() {
        let mut headers = map(&[("cookie", "a=1; gantry-dev-host-s=2; gantry-dev-secure-t=3")]);
        plain().towards(&mut headers);
        assert_eq!(all(&headers, "cookie"), ["a=1; __Host-s=2; __Secure-t=3"]);
    }
}
