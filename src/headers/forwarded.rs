//! Who the client is, as the workspace is told: the forwarded headers, and those that could pass for an
//! identity.
//!
//! Rocket.Chat counts its rate limits by `X-Real-IP`, which it believes from anybody
//! (`remoteAddressMiddleware.ts`), so it has to be ours.

use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::{host, trim};
use crate::config::{Config, IdentitySource};
use crate::peer::Peer;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers that proxies and sign-in gateways tell an application the user by; `*` stands for any rest.
/// Nobody's word on this reaches the workspace. Rocket.Chat's own (`X-User-Id`, `X-Auth-Token`, `X-2fa-*`,
/// `x-visitor-token`) are credentials of its clients and never in here.
const IDENTITY: &[&str] = &[
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
const ALIASES: &[&str] = &[
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

/// What only a trusted peer may say.
const TRUSTED_ONLY: &[&str] = &["x-forwarded-*", "x-real-ip", "x-scheme"];

/// Headers that are never taken for an identity, although the config may name them as its source: the
/// workspace's clients could not work without them.
const NEVER: &[&str] =
    &["x-user-id", "x-auth-token", "x-2fa-*", "x-visitor-token", "host", "cookie", "authorization", "content-*", "transfer-encoding"];

/// The rules for forwarded and identity headers, prepared once.
#[derive(Clone, Debug)]
pub struct Forwarding {
    trusted: Vec<IpNet>,
    sieve: Sieve,
}

impl Forwarding {
    /// Takes the trusted networks and the headers of a configured header source.
    pub fn new(config: &Config) -> Self {
        let configured = match &config.identity.source {
            IdentitySource::Header(h) => {
                [Some(&h.id), h.username.as_ref(), h.email.as_ref(), h.name.as_ref(), h.roles.as_ref()].into_iter().flatten().collect()
            }
            IdentitySource::ForwardAuth(_) | IdentitySource::Jwt(_) => Vec::new(),
        };
        Self::with(config.server.trusted_proxies.clone(), &configured)
    }

    fn with(trusted: Vec<IpNet>, configured: &[&HeaderName]) -> Self {
        let mut sieve = Sieve::default();
        for name in configured {
            let pattern = Pattern::new(name.as_str(), Whose::Anybody);
            if !NEVER.iter().any(|never| Pattern::new(never, Whose::Anybody).matches(name.as_str())) {
                sieve.add(pattern);
            }
        }
        for text in IDENTITY.iter().chain(ALIASES) {
            sieve.add(Pattern::new(text, Whose::Anybody));
        }
        for text in TRUSTED_ONLY {
            sieve.add(Pattern::new(text, Whose::Untrusted));
        }
        Self { trusted, sieve }
    }

    /// Rewrites the headers of a request on its way to the workspace. `Host` must be in place before.
    ///
    /// From a peer that is not trusted `X-Real-IP` and `X-Forwarded-For`, `-Proto`, `-Host` are overwritten
    /// with what we see, and the rest of the family is removed. From a trusted one the peer is appended to
    /// `X-Forwarded-For`, `X-Real-IP` becomes [`Self::client_ip`], and proto and host stay where they are
    /// single and well-formed. Identity headers are removed from every peer, spelled with `-`, `_` or `.`.
    pub fn apply(&self, headers: &mut HeaderMap, peer: &Peer) {
        let (forwarded_for, real_ip) = if peer.trusted {
            let client = self.client_ip(headers, peer);
            let real_ip = if client == peer.ip() { peer.ip_value.clone() } else { ip_value(client) };
            (appended(headers, &peer.ip_value), real_ip)
        } else {
            (peer.ip_value.clone(), peer.ip_value.clone())
        };
        let proto = Some(peer)
            .filter(|peer| peer.trusted)
            .and_then(|_| single(headers, &X_FORWARDED_PROTO))
            .filter(|v| [&b"http"[..], b"https"].iter().any(|p| v.as_bytes().eq_ignore_ascii_case(p)))
            .cloned();
        let host = Some(peer)
            .filter(|peer| peer.trusted)
            .and_then(|_| single(headers, &X_FORWARDED_HOST))
            .filter(|v| host::is_valid(v.as_bytes()))
            .or_else(|| headers.get(HOST))
            .cloned();

        self.sift(headers, peer.trusted);

        headers.insert(X_REAL_IP, real_ip);
        headers.insert(X_FORWARDED_FOR, forwarded_for);
        headers.insert(X_FORWARDED_PROTO, proto.unwrap_or_else(|| HeaderValue::from_static(if peer.tls { "https" } else { "http" })));
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }

    /// The client's address, for the login and its audit line: the peer's own, or, behind trusted proxies,
    /// the right-most address of `X-Forwarded-For` that is not one of theirs. An entry that cannot be read
    /// ends the walk, since whatever stands left of it was vouched for by nobody; then the address before
    /// it counts.
    pub fn client_ip(&self, headers: &HeaderMap, peer: &Peer) -> IpAddr {
        let mut client = peer.ip();
        if !peer.trusted {
            return client;
        }
        let fields = headers.get_all(X_FORWARDED_FOR).iter();
        for entry in fields.rev().flat_map(|field| field.as_bytes().rsplit(|&b| b == b',')) {
            let Some(ip) = parse_entry(entry) else { break };
            client = ip;
            if !self.trusted.iter().any(|net| net.contains(&ip)) {
                break;
            }
        }
        client
    }

    fn sift(&self, headers: &mut HeaderMap, trusted: bool) {
        // Nearly always empty, and then not allocated.
        let found: Vec<HeaderName> = headers.keys().filter(|name| self.sieve.removes(name.as_str(), trusted)).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
}

/// The value of a field that is there once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut fields = headers.get_all(name).iter();
    fields.next().filter(|_| fields.next().is_none())
}

fn ip_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::try_from(ip.to_string()).expect("an address is made of digits, letters, dots and colons")
}

/// All `X-Forwarded-For` fields as one, and the peer behind them.
fn appended(headers: &HeaderMap, peer: &HeaderValue) -> HeaderValue {
    let mut joined = Vec::new();
    for field in headers.get_all(X_FORWARDED_FOR) {
        let field = trim(field.as_bytes());
        if !field.is_empty() {
            joined.extend_from_slice(field);
            joined.extend_from_slice(b", ");
        }
    }
    joined.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&joined).expect("made of header values")
}

/// An address, as proxies write it: bare, in brackets, with a port.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(trim(entry)).ok()?;
    let ip = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok())?;
    Some(ip.to_canonical())
}

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
fn fold(byte: u8) -> u8 {
    if matches!(byte, b'_' | b'.') { b'-' } else { byte }
}

/// Patterns in buckets by their telling letter, each with the lengths that may match, so that most names pass
/// at one look.
#[derive(Clone, Debug)]
struct Sieve([Bucket; 64]);

#[derive(Clone, Debug, Default)]
struct Bucket {
    lengths: u64,
    patterns: Vec<Pattern>,
}

impl Sieve {
    fn add(&mut self, pattern: Pattern) {
        let bit = 1_u64 << pattern.text.len().min(63);
        let bucket = &mut self.0[bucket(&pattern.text)];
        // For a beginning: its own length and all above.
        bucket.lengths |= if pattern.prefix { !(bit - 1) } else { bit };
        bucket.patterns.push(pattern);
    }

    fn removes(&self, name: &str, trusted: bool) -> bool {
        let bucket = &self.0[bucket(name.as_bytes())];
        if bucket.lengths & (1 << name.len().min(63)) == 0 {
            return false;
        }
        // Another spelling of a header that counts is nobody's honest doing.
        let odd = name.bytes().any(|b| fold(b) != b);
        bucket.patterns.iter().any(|p| (p.whose == Whose::Anybody || !trusted || odd) && p.matches(name))
    }
}

impl Default for Sieve {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Bucket::default()))
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

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn forwarding() -> Forwarding {
        let configured = [HeaderName::from_static("x_company_login"), HeaderName::from_static("x-user-id")];
        Forwarding::with(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], &configured.iter().collect::<Vec<_>>())
    }

    fn peer(ip: &str, tls: bool) -> Peer {
        let addr = SocketAddr::new(ip.parse().unwrap(), 1234);
        let trusted = forwarding().trusted.iter().any(|net| net.contains(&addr.ip()));
        Peer::new(addr, trusted, tls)
    }

    #[test]
    fn an_untrusted_peer_is_told_by_what_we_see() {
        let mut headers = map(&[
            ("host", "chat.example.com"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-anything", "1"),
            ("x-scheme", "https"),
            ("accept", "*/*"),
        ]);
        forwarding().apply(&mut headers, &peer("192.0.2.7", false));
        let expected = map(&[
            ("host", "chat.example.com"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "chat.example.com"),
            ("x-real-ip", "192.0.2.7"),
            ("accept", "*/*"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_trusted_peer_is_believed_and_appended() {
        let mut headers = map(&[
            ("host", "internal:8080"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "chat.example.com"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("true-client-ip", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x_forwarded_port", "1"),
            ("x-forwarded-user", "root"),
        ]);
        forwarding().apply(&mut headers, &peer("10.0.0.1", false));
        let expected = map(&[
            ("host", "internal:8080"),
            ("x-forwarded-for", "203.0.113.9, 10.0.0.9, 10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "chat.example.com"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "203.0.113.9"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn odd_proto_and_host_of_a_trusted_peer_are_ours() {
        for (fields, proto, host) in [
            (&[][..], "https", Some("a")),
            (&[("x-forwarded-proto", "gopher"), ("x-forwarded-host", "b/c")], "https", Some("a")),
            (&[("x-forwarded-proto", "http,https"), ("x-forwarded-host", "b,c")], "https", Some("a")),
            (
                &[("x-forwarded-proto", "http"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "b"), ("x-forwarded-host", "b")],
                "https",
                Some("a"),
            ),
            (&[("x-forwarded-proto", "HTTP"), ("x-forwarded-host", "b:444")], "HTTP", Some("b:444")),
        ] {
            let mut headers = map(fields);
            headers.insert(HOST, HeaderValue::from_static("a"));
            forwarding().apply(&mut headers, &peer("10.0.0.1", true));
            assert_eq!(headers.get(X_FORWARDED_PROTO).unwrap(), proto, "{fields:?}");
            assert_eq!(headers.get(X_FORWARDED_HOST).map(|h| h.to_str().unwrap()), host, "{fields:?}");
        }
        // HTTP/1.0 may come without Host.
        let mut headers = map(&[("x-forwarded-host", "evil.example")]);
        forwarding().apply(&mut headers, &peer("192.0.2.7", false));
        assert!(!headers.contains_key(X_FORWARDED_HOST));
    }

    #[test]
    fn the_client_is_the_right_most_address_that_nobody_trusted_owns() {
        for (from, fields, expected) in [
            ("192.0.2.7", &["203.0.113.9"][..], "192.0.2.7"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.2.3.4"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9", "10.2.3.4"], "203.0.113.9"),
            ("10.0.0.1", &["10.9.9.9,10.2.3.4"], "10.9.9.9"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.2.3.4"], "10.2.3.4"),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9,"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9:55555"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::9]:55555, fd00::1"], "2001:db8::9"),
            ("10.0.0.1", &["[2001:db8::9]"], "2001:db8::9"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
        ] {
            let addr = SocketAddr::new(from.parse().unwrap(), 1);
            let peer = Peer::new(addr, from.contains("10.0.0.1"), false);
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(X_FORWARDED_FOR, field.parse().unwrap());
            }
            assert_eq!(forwarding().client_ip(&headers, &peer), expected.parse::<IpAddr>().unwrap(), "{from} {fields:?}");
        }
    }

    #[test]
    fn what_could_pass_for_identity_never_arrives() {
        for name in [
            "X-Forwarded-User",
            "x_forwarded_user",
            "X-Forwarded-Email",
            "X-Forwarded-Preferred-Username",
            "X-Forwarded-Groups",
            "X-Forwarded-Access-Token",
            "X-Auth-Request-User",
            "X-Auth-Request-Access-Token",
            "X-Remote-User",
            "Remote-User",
            "Remote_User",
            "REMOTE-EMAIL",
            "Remote-Groups",
            "Remote-Name",
            "X-WEBAUTH-USER",
            "X-authentik-username",
            "X-Authelia-User",
            "Tailscale-User-Login",
            "X-MS-CLIENT-PRINCIPAL",
            "X-MS-CLIENT-PRINCIPAL-NAME",
            "X-Goog-Authenticated-User-Email",
            "X-Amzn-Oidc-Data",
            "Cf-Access-Jwt-Assertion",
            "Cf-Access-Authenticated-User-Email",
            "X.Forwarded.User",
            "OIDC_CLAIM_sub",
            "SM_USER",
            "X-Company-Login",
            "x_company_login",
        ] {
            for from in ["10.0.0.1", "192.0.2.7"] {
                let mut headers = map(&[("host", "a"), (name, "root")]);
                forwarding().apply(&mut headers, &peer(from, false));
                assert!(!headers.values().any(|v| v == "root"), "{name} from {from}");
            }
        }
    }

    #[test]
    fn aliases_of_the_address_and_the_target_never_arrive() {
        for name in [
            "X-Original-URL",
            "X-Original-Host",
            "X-Rewrite-URL",
            "X-Client-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "CF-Connecting-IPv6",
            "X-Cluster-Client-IP",
            "Fastly-Client-IP",
            "Client-IP",
            "Front-End-Https",
            "X_Real_IP",
            "X_Forwarded_Proto",
            "Forwarded",
        ] {
            for from in ["10.0.0.1", "192.0.2.7"] {
                let mut headers = map(&[("host", "a"), (name, "6.6.6.6")]);
                forwarding().apply(&mut headers, &peer(from, false));
                assert!(!headers.values().any(|v| v == "6.6.6.6"), "{name} from {from}");
            }
        }
    }

    #[test]
    fn what_rocketchats_clients_need_arrives() {
        let names = [
            "X-User-Id",
            "X-Auth-Token",
            "X-2fa-Code",
            "X-2fa-Method",
            "x-visitor-token",
            "Cookie",
            "Authorization",
            "X-Requested-With",
            "Content-Type",
            "Content-Length",
            "Referer",
            "Range",
            "Origin",
            "Sec-Fetch-Site",
            "X-Hub-Signature-256",
            "X-Gitlab-Token",
            "X-GitHub-Event",
            "If-None-Match",
            "x-request-id",
            "traceparent",
            "mcp-protocol-version",
            "User-Agent",
            "x-xsrf-token",
        ];
        let fields: Vec<_> = names.iter().map(|name| (*name, "kept")).collect();
        let mut headers = map(&fields);
        forwarding().apply(&mut headers, &peer("192.0.2.7", false));
        for name in names {
            assert_eq!(headers.get(name).unwrap(), "kept", "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever an untrusted client writes, the four say what we see, once.
        #[test]
        fn a_stranger_cannot_choose_his_address(
            fields in proptest::collection::vec(("(x[-_]real[-_]ip|x[-_]forwarded[-_](for|proto|host|user))", "[ -~]{0,20}"), 0..6),
        ) {
            let mut headers = map(&[("host", "a")]);
            for (name, value) in &fields {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            forwarding().apply(&mut headers, &peer("192.0.2.7", true));
            let ours = [("host", "a"), ("x-real-ip", "192.0.2.7"), ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "a")];
            prop_assert_eq!(headers, map(&ours));
        }

        /// The table in front of the patterns never lets a match through.
        #[test]
        fn the_sieve_agrees_with_its_patterns(name in "(x[-_.]|)(auth|user|real|forwarded|remote|oidc|sm|[a-z_.-]{1,8})([-_.][a-z]{1,60})?") {
            let sieve = &forwarding().sieve;
            prop_assert_eq!(sieve.removes(&name, false), sieve.0.iter().flat_map(|b| &b.patterns).any(|p| p.matches(&name)));
        }
    }
}
