//! Whether two addresses are one site, which is what browsers decide about cookies and storage by: the same
//! scheme and the same registrable domain, as the Public Suffix List draws it (HTML, "schemefully same site").

use url::{Host, Url};

/// How two addresses stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// Scheme and registrable domain are the same.
    Same,
    /// The registrable domain is the same, the scheme is not.
    OtherScheme,
    /// Two sites.
    Cross,
}

/// The registrable domain of a host name: `example.co.uk` of `chat.example.co.uk`. `None` for addresses, for a
/// name of one label, and for a public suffix itself.
pub(crate) fn registrable(host: &str) -> Option<&str> {
    let host = host.trim_end_matches('.');
    // The list has no rule for them, and its default would make a domain of the last label.
    if host.parse::<std::net::Ipv4Addr>().is_ok() || host.starts_with('[') {
        return None;
    }
    psl::domain_str(host)
}

/// The host of a site: the registrable domain, or the whole host where there is none.
pub(crate) fn site(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    registrable(host).unwrap_or(host.trim_end_matches('.')).to_ascii_lowercase()
}

/// How `one` and `other` stand to each other.
pub(crate) fn relation(one: &Url, other: &Url) -> Relation {
    match (site(one) == site(other), one.scheme() == other.scheme()) {
        (false, _) => Relation::Cross,
        (true, false) => Relation::OtherScheme,
        (true, true) => Relation::Same,
    }
}

/// Whether a public suffix is all that the two have in common, as with `a.github.io` and `b.github.io`.
pub(crate) fn share_a_suffix(one: &Url, other: &Url) -> Option<String> {
    let suffix = |url: &Url| psl::suffix_str(url.host_str()?).map(str::to_owned);
    let (first, second) = (suffix(one)?, suffix(other)?);
    // "com" surprises nobody.
    (first == second && first.contains('.')).then_some(first)
}

/// A name for the chat on the site of `host_app`: `chat.example.com` for `https://app.example.com`.
pub(crate) fn chat_on(host_app: &Url) -> Option<String> {
    let domain = registrable(host_app.host_str()?)?;
    Some(format!("chat.{domain}"))
}

/// Whether the host is loopback by name or address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn sites_are_told_apart_as_browsers_do() {
        for (one, other, expected) in [
            ("https://app.example.com", "https://chat.example.com", Relation::Same),
            ("https://app.example.com:8443", "https://chat.example.com", Relation::Same),
            ("https://example.com", "https://chat.example.com", Relation::Same),
            ("https://app.example.com.", "https://chat.example.com", Relation::Same),
            ("http://app.example.com", "https://chat.example.com", Relation::OtherScheme),
            ("https://app.example.com", "https://chat.example.net", Relation::Cross),
            ("https://app.co.uk", "https://chat.co.uk", Relation::Cross),
            ("https://a.github.io", "https://b.github.io", Relation::Cross),
            ("https://a.b.github.io", "https://c.b.github.io", Relation::Same),
            ("http://localhost:8000", "http://localhost:8080", Relation::Same),
            ("http://localhost:8000", "http://127.0.0.1:8080", Relation::Cross),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8080", Relation::Same),
            ("http://10.0.0.1", "http://10.0.1.1", Relation::Cross),
            ("http://[::1]:1", "http://[::1]:2", Relation::Same),
            ("https://app.localhost", "https://chat.localhost", Relation::Cross),
            ("https://app.corp.internal", "https://chat.corp.internal", Relation::Same),
            ("https://app.xn--fiqs8s", "https://chat.xn--fiqs8s", Relation::Cross),
        ] {
            assert_eq!(relation(&url(one), &url(other)), expected, "{one} {other}");
            assert_eq!(relation(&url(other), &url(one)), expected, "{other} {one}");
        }
    }

    #[test]
    fn what_is_shared_and_what_could_be() {
        assert_eq!(share_a_suffix(&url("https://a.github.io"), &url("https://b.github.io")).as_deref(), Some("github.io"));
        assert_eq!(share_a_suffix(&url("https://a.com"), &url("https://b.com")), None);
        assert_eq!(chat_on(&url("https://www.app.example.co.uk")).as_deref(), Some("chat.example.co.uk"));
        assert_eq!(chat_on(&url("http://10.0.0.1")), None);
        assert_eq!(chat_on(&url("http://localhost")), None);
    }
}
