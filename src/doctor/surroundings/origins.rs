//! Which origins the host app has for browsers, as far as the configuration and the workspace tell.

use std::net::IpAddr;

use url::{Host, Url};

use super::look::Seen;
use crate::config::{Ancestor, Config, IdentitySource, Origin};
use crate::headers::site;

/// An origin of the host app, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The origin.
    pub(super) origin: Origin,
    /// The key or setting that names it.
    pub(super) by: &'static str,
}

/// Origins that the host app has according to everything but `framing.allowed_ancestors`.
pub(super) fn known(config: &Config, seen: &Seen) -> Vec<Known> {
    let mut known: Vec<Known> = Vec::new();
    let mut add = |origin: Option<Origin>, by| {
        let new = origin.filter(|origin| !known.iter().any(|one| one.origin == *origin) && *origin != config.server.public_origin);
        known.extend(new.map(|origin| Known { origin, by }));
    };
    add(who_am_i(config).filter(|url| for_browsers(url, config)).and_then(|url| Origin::of(&url)), "identity.forward_auth.url");
    add(sign_in(config).and_then(|url| Origin::of(&url)), "login.sign_in_url");
    for id in ["Iframe_Integration_send_target_origin", "Iframe_Integration_receive_origin"] {
        for origin in seen.setting(id).unwrap_or_default().split(',') {
            add(origin.trim().parse().ok(), id);
        }
    }
    for origin in &config.cors.allowed_origins {
        add(Some(origin.clone()), "cors.allowed_origins");
    }
    known
}

/// The host app's pages: where it is framed from, where one signs in, and the who-am-I endpoint.
pub(super) fn pages(config: &Config) -> Vec<Url> {
    let mut pages: Vec<Url> = Vec::new();
    let who = who_am_i(config).filter(|url| for_browsers(url, config));
    for url in who.into_iter().chain(sign_in(config)).chain(exact_ancestors(config)) {
        if !pages.contains(&url) {
            pages.push(url);
        }
    }
    pages
}

/// The exact origins of `framing.allowed_ancestors`.
pub(super) fn exact_ancestors(config: &Config) -> impl Iterator<Item = Url> {
    config.framing.allowed_ancestors.iter().filter_map(|ancestor| match ancestor {
        Ancestor::Exact(origin) => Url::parse(origin.as_str()).ok(),
        Ancestor::Subdomains(_) | Ancestor::Anyone => None,
    })
}

fn who_am_i(config: &Config) -> Option<Url> {
    match &config.identity.source {
        IdentitySource::ForwardAuth(source) => Some(source.url.clone()),
        IdentitySource::Jwt(_) | IdentitySource::Header(_) => None,
    }
}

fn sign_in(config: &Config) -> Option<Url> {
    let text = config.login.sign_in_url.as_deref()?;
    Url::parse(&text.replace("{return}", "")).ok()
}

/// Whether browsers would use this address too. Servers often know each other by inner names.
pub(super) fn for_browsers(url: &Url, config: &Config) -> bool {
    if site::is_loopback(url) {
        return site::is_loopback(&config.server.public_url);
    }
    match url.host() {
        Some(Host::Ipv4(ip)) => !is_private(ip.into()) || matches!(config.server.public_url.host(), Some(Host::Ipv4(_))),
        Some(Host::Ipv6(ip)) => !is_private(ip.into()) || matches!(config.server.public_url.host(), Some(Host::Ipv6(_))),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            let inner = [".svc", ".cluster.local", ".local", ".internal", ".lan"];
            name.contains('.') && (!inner.iter().any(|end| name.ends_with(end)) || site::site(url) == site::site(&config.server.public_url))
        }
        None => false,
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether two origins are the same but for the name of loopback.
pub(super) fn same(one: &Url, other: &Url) -> bool {
    let loopback = site::is_loopback(one) && site::is_loopback(other);
    let host = loopback || one.host_str().map(str::to_ascii_lowercase) == other.host_str().map(str::to_ascii_lowercase);
    host && one.scheme() == other.scheme() && one.port_or_known_default() == other.port_or_known_default()
}

/// Whether a frame-ancestors source lets this origin frame (CSP 3 §6.7.2.8).
pub(super) fn matches(source: &str, origin: &Url) -> bool {
    if source == "*" {
        return true;
    }
    let Some((scheme, parent)) = source.split_once("://*.") else {
        return Url::parse(source).is_ok_and(|source| same(&source, origin));
    };
    let Ok(parent) = Url::parse(&format!("{scheme}://{parent}")) else { return false };
    let below = |host: &str| parent.host_str().is_some_and(|parent| host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')));
    origin.scheme() == scheme && origin.port_or_known_default() == parent.port_or_known_default() && origin.host_str().is_some_and(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn sources_match_as_in_a_policy() {
        for (source, origin, expected) in [
            ("https://app.example.com", "https://app.example.com/", true),
            ("https://app.example.com", "https://app.example.com:8443/", false),
            ("https://app.example.com", "http://app.example.com/", false),
            ("https://*.example.com", "https://app.example.com/", true),
            ("https://*.example.com", "https://a.b.example.com/", true),
            ("https://*.example.com", "https://example.com/", false),
            ("https://*.example.com", "https://badexample.com/", false),
            ("*", "https://anybody.example/", true),
            ("http://localhost:8000", "http://127.0.0.1:8000/", true),
            ("http://localhost:8000", "http://127.0.0.1:8001/", false),
            ("'self'", "https://app.example.com/", false),
        ] {
            assert_eq!(matches(source, &url(origin)), expected, "{source} {origin}");
        }
    }

    #[test]
    fn inner_addresses_are_not_for_browsers() {
        let public = config::example(&[]);
        let local = config::example(&[("server.public_url", "http://localhost:8080")]);
        for (address, outside, on_loopback) in [
            ("https://app.example.com/api/me", true, true),
            ("http://app:3000/me", false, false),
            ("http://app.default.svc.cluster.local/me", false, false),
            ("http://10.1.2.3/me", false, false),
            ("http://127.0.0.1:9000/me", false, true),
            ("http://localhost:9000/me", false, true),
            ("http://[fd00::1]/me", false, false),
        ] {
            assert_eq!((for_browsers(&url(address), &public), for_browsers(&url(address), &local)), (outside, on_loopback), "{address}");
        }
    }
}
