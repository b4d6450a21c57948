//! Web origins (RFC 6454) and the sources that `frame-ancestors` may name (CSP 3 §6.4.2).

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// An exact origin: scheme, host and port, serialised as a browser sends it in `Origin`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(String);

impl Origin {
    /// The origin of an `http` or `https` URL.
    pub fn of(url: &Url) -> Option<Self> {
        matches!(url.scheme(), "http" | "https").then(|| Self(url.origin().ascii_serialization()))
    }

    /// As a browser writes it: `https://app.example.com`, the port only where it is not the default.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("is not an origin ({e}); write it like https://app.example.com"))?;
        let bare =
            url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
        if !bare {
            return Err("has more than scheme, host and port; write it like https://app.example.com".into());
        }
        if let Some(Host::Domain(name)) = url.host() {
            if name.contains('*') {
                return Err("has a wildcard; origins are exact here".into());
            }
            // A URL may have `;` and `,` there, which end a source and a whole policy.
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
                return Err("has a host name with characters that no name has; write it like https://app.example.com".into());
            }
        }
        Self::of(&url).ok_or_else(|| "is neither http:// nor https://".into())
    }
}

/// One source of `frame-ancestors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ancestor {
    /// An exact origin.
    Exact(Origin),
    /// Every sub-domain: `https://*.example.com`, with an optional port.
    Subdomains(String),
    /// `*`, spelled out: any page may frame the chat.
    Anyone,
}

impl Ancestor {
    /// As it stands in the policy.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(origin) => origin.as_str(),
            Self::Subdomains(source) => source,
            Self::Anyone => "*",
        }
    }
}

impl FromStr for Ancestor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Anyone);
        }
        for scheme in ["https://", "http://"] {
            if let Some(rest) = text.strip_prefix(scheme).and_then(|t| t.strip_prefix("*.")) {
                // The same rules as for an exact origin, with the wildcard label taken off.
                let parent = Origin::from_str(&format!("{scheme}{rest}"))?;
                let parent = parent.as_str().trim_start_matches(scheme);
                return Ok(Self::Subdomains(format!("{scheme}*.{parent}")));
            }
        }
        Origin::from_str(text).map(Self::Exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_normalised_as_a_browser_writes_them() {
        for (written, expected) in [
            ("https://App.Example.com", "https://app.example.com"),
            ("https://app.example.com/", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(written.parse::<Origin>().unwrap().as_str(), expected, "{written}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for written in [
            "app.example.com",
            "https://app.example.com/chat",
            "https://*.example.com",
            "ftp://x",
            "*",
            "",
            "null",
            "https://u:p@x",
            "https://x;y",
            "https://x,y",
            "https://x'y",
        ] {
            assert!(written.parse::<Origin>().is_err(), "{written}");
        }
    }

    #[test]
    fn ancestors_know_wildcards() {
        assert_eq!("https://*.Example.com:8443".parse::<Ancestor>().unwrap().as_str(), "https://*.example.com:8443");
        assert_eq!("*".parse::<Ancestor>().unwrap(), Ancestor::Anyone);
        for written in [
            "https://*",
            "https://a.*.example.com",
            "*.example.com",
            "'self'",
            "https://x; script-src *",
            "https://x;script-src",
            "https://*.x,y",
        ] {
            assert!(written.parse::<Ancestor>().is_err(), "{written}");
        }
    }
}
