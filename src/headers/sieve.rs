//! The names of headers that do not go on: nobody's word is taken for them, or only a trusted peer's, or they are the
//! connection's own. And a quick way to find them.

use http::HeaderName;

/// Headers that proxies and sign-in gateways tell an application the user by; `*` stands for any rest.
/// Nobody's word on this reaches the workspace. Rocket.Chat's own (`X-User-Id`, `X-Auth-Token`, `X-2fa-*`,
/// `x-visitor-token`) are credentials of its clients and never in here.
pub(crate) const IDENTITY: &[&str] = &[
    // oauth2-proxy, Traefik and nginx recipes
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-preferred-username",
    "x-forwarded-groups",
    "x-forwarded-access-token",
    "x-forwarded-id-token",
    "x-forwarded-client-cert",
    "x-auth-request-*",
    "x-auth-user",
    "x-auth-username",
    "x-auth-email",
    "x-auth-groups",
    "x-authenticated-*",
    "x-remote-*",
    "x-proxy-user",
    "x-user",
    "x-username",
    "x-user-name",
    "x-user-email",
    "x-user-groups",
    "x-user-roles",
    "x-userinfo",
    "x-email",
    "x-groups",
    "x-id-token",
    "x-jwt-assertion",
    "x-webauth-*",
    // Authelia, Apache
    "remote-*",
    "x-authelia-*",
    "x-authentik-*",
    "x-vouch-*",
    "x-pomerium-*",
    "x-shib-*",
    "oidc-*",
    "tailscale-*",
    "ssl-client-*",
    "x-ssl-client-*",
    "x-client-cert*",
    // Azure, Google, AWS, Cloudflare
    "x-ms-client-principal*",
    "x-ms-token-*",
    "x-goog-authenticated-user-*",
    "x-goog-iap-*",
    "x-amzn-oidc-*",
    "cf-access-*",
    // Kong, WebSEAL, SiteMinder
    "x-consumer-*",
    "x-credential-*",
    "iv-*",
    "sm-*",
];

/// Other words for the client's address or for another target. Only `X-Forwarded-*` of a trusted peer is
/// believed; a trusted peer that does not know one of these would pass on the client's, so that they go
/// whoever sends them.
pub(crate) const ALIASES: &[&str] = &[
    // Two accounts of one path could differ: the X-Forwarded family is kept, RFC 7239's is not, from any peer.
    "forwarded",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip*",
    "cf-pseudo-ipv4",
    "x-cluster-client-ip",
    "fastly-client-ip",
    "x-envoy-external-address",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-appengine-user-ip",
    "x-original-*",
    "x-originating-ip",
    "x-rewrite-url",
    "x-http-host-override",
    "x-host",
    "front-end-https",
    "x-url-scheme",
    "x-forwarded",
    "forwarded-*",
    "x-http-destinationurl",
];

/// Fields of the connection that a request came on (RFC 9110 §7.6.1), which the next one has its own of. The coding of
/// the body is among them: it is coded anew.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "upgrade",
    "http2-settings",
    "te",
    "transfer-encoding",
];

/// What only a trusted peer may say.
pub(crate) const TRUSTED_ONLY: &[&str] = &["x-forwarded-*", "x-real-ip", "x-scheme"];

/// Headers that are never taken for an identity, although the config may name them as its source: the
/// workspace's clients could not work without them.
const NEVER: &[&str] =
    &["x-user-id", "x-auth-token", "x-2fa-*", "x-visitor-token", "host", "cookie", "authorization", "content-*", "transfer-encoding"];

/// From whom a header is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Anybody,
    Untrusted,
}

/// A header name, or the beginning of one.
#[derive(Clone, Debug)]
struct Pattern {
    text: Box<[u8]>,
    prefix: bool,
    whose: Whose,
}

impl Pattern {
    fn new(text: &str, whose: Whose) -> Self {
        let (text, prefix) = text.strip_suffix('*').map_or((text, false), |text| (text, true));
        Self { text: text.bytes().map(fold).collect(), prefix, whose }
    }

    fn matches(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let fits = if self.prefix { name.len() >= self.text.len() } else { name.len() == self.text.len() };
        fits && self.text.iter().zip(name).all(|(&a, &b)| a == fold(b))
    }
}

/// `-`, `_` and `.` are one: CGI and its heirs read `X_Forwarded_For` as `X-Forwarded-For`.
pub(super) fn fold(byte: u8) -> u8 {
    if matches!(byte, b'_' | b'.') { b'-' } else { byte }
}

/// Patterns in buckets by their telling letter, each with the lengths that may match, so that most names pass
/// at one look.
#[derive(Clone, Debug)]
pub(super) struct Sieve([Bucket; 64]);

#[derive(Clone, Debug, Default)]
struct Bucket {
    lengths: u64,
    patterns: Vec<Pattern>,
}

impl Sieve {
    /// The standing lists, and the headers that the config names as its source of identity.
    pub(super) fn new(configured: &[&HeaderName]) -> Self {
        let mut sieve = Self(std::array::from_fn(|_| Bucket::default()));
        for name in configured {
            if !NEVER.iter().any(|never| Pattern::new(never, Whose::Anybody).matches(name.as_str())) {
                sieve.add(Pattern::new(name.as_str(), Whose::Anybody));
            }
        }
        for text in IDENTITY.iter().chain(ALIASES).chain(HOP_BY_HOP) {
            sieve.add(Pattern::new(text, Whose::Anybody));
        }
        for text in TRUSTED_ONLY {
            sieve.add(Pattern::new(text, Whose::Untrusted));
        }
        sieve
    }

    fn add(&mut self, pattern: Pattern) {
        let bit = 1_u64 << pattern.text.len().min(63);
        let bucket = &mut self.0[bucket(&pattern.text)];
        // For a beginning: its own length and all above.
        bucket.lengths |= if pattern.prefix { !(bit - 1) } else { bit };
        bucket.patterns.push(pattern);
    }

    /// Whether a header of this (lower-case) name is removed from a request of such a peer.
    pub(super) fn removes(&self, name: &str, trusted: bool) -> bool {
        let bucket = &self.0[bucket(name.as_bytes())];
        if bucket.lengths & (1 << name.len().min(63)) == 0 {
            return false;
        }
        // Another spelling of a header that counts is nobody's honest doing.
        let odd = || name.bytes().any(|b| fold(b) != b);
        bucket.patterns.iter().any(|p| p.matches(name) && (p.whose == Whose::Anybody || !trusted || odd()))
    }
}

/// The first letter, or the one behind `x-`: no pattern is shorter than that.
fn bucket(name: &[u8]) -> usize {
    match name {
        [b'x', _, letter, ..] => 32 + usize::from(fold(*letter) % 32),
        [letter, ..] => usize::from(fold(*letter) % 32),
        [] => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The table in front of the patterns never lets a match through.
        #[test]
        fn the_sieve_agrees_with_its_patterns(name in "(x[-_.]|)(auth|user|real|forwarded|remote|oidc|sm|[a-z_.-]{1,8})([-_.][a-z]{1,60})?") {
            let sieve = Sieve::new(&[]);
            prop_assert_eq!(sieve.removes(&name, false), sieve.0.iter().flat_map(|b| &b.patterns).any(|p| p.matches(&name)));
        }
    }
}
