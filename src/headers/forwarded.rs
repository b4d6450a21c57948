//! Who the client is, as the workspace is told: the forwarded headers, and those that could pass for an
//! identity.
//!
//! Rocket.Chat counts its rate limits by `X-Real-IP`, which it believes from anybody
//! (`remoteAddressMiddleware.ts`), so it has to be ours.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::local::Elsewhere;
use super::onward::field;
use super::sieve::Sieve;
use super::{host, single, trim};
use crate::config::{Config, IdentitySource};
use crate::peer::Peer;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// What [`Forwarding::tell`] writes.
const TOLD: [HeaderName; 4] = [X_REAL_IP, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST];

/// The rules for forwarded and identity headers, prepared once.
#[derive(Clone, Debug)]
pub struct Forwarding {
    trusted: Vec<IpNet>,
    sieve: Sieve,
    /// Where the workspace believes to be, when that is not where browsers find it: `gantry dev` alone.
    elsewhere: Option<Elsewhere>,
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
        let elsewhere = config.dev.as_ref().map(|dev| Elsewhere::new(&config.server.public_origin, &dev.upstream));
        Self { elsewhere, ..Self::with(config.server.trusted_proxies.clone(), &configured) }
    }

    pub(super) fn with(trusted: Vec<IpNet>, configured: &[&HeaderName]) -> Self {
        Self { trusted, sieve: Sieve::new(configured), elsewhere: None }
    }

    /// Writes what the workspace is told of the client, whose request came with `headers` and this `Host`.
    ///
    /// From a peer that is not trusted `X-Real-IP` and `X-Forwarded-For`, `-Proto`, `-Host` are what we see, and
    /// whatever came of the family is [kept back](Self::keeps_back). From a trusted one the peer is appended to
    /// `X-Forwarded-For`, `X-Real-IP` becomes [`Self::client_ip`], and proto and host stay what they were where they
    /// are single and well-formed.
    pub(super) fn tell(&self, out: &mut Vec<u8>, headers: &HeaderMap, host: Option<&HeaderValue>, peer: &Peer) {
        let seen_proto = if peer.tls { "https" } else { "http" };
        if !peer.trusted() {
            field(out, X_REAL_IP.as_str(), peer.ip_value.as_bytes());
            field(out, X_FORWARDED_FOR.as_str(), peer.ip_value.as_bytes());
            field(out, X_FORWARDED_PROTO.as_str(), seen_proto.as_bytes());
            if let Some(host) = host {
                field(out, X_FORWARDED_HOST.as_str(), host.as_bytes());
            }
            return;
        }
        field(out, X_REAL_IP.as_str(), self.client_ip(headers, peer).to_string().as_bytes());
        field(out, X_FORWARDED_FOR.as_str(), &appended(headers, &peer.ip_value));
        let proto = single(headers, &X_FORWARDED_PROTO)
            .map(HeaderValue::as_bytes)
            .filter(|proto| ["http", "https"].iter().any(|scheme| proto.eq_ignore_ascii_case(scheme.as_bytes())));
        field(out, X_FORWARDED_PROTO.as_str(), proto.unwrap_or(seen_proto.as_bytes()));
        if let Some(host) = single(headers, &X_FORWARDED_HOST).filter(|host| host::is_valid(host.as_bytes())).or(host) {
            field(out, X_FORWARDED_HOST.as_str(), host.as_bytes());
        }
    }

    /// Whether a field of a request stays here: one that could pass for an identity, spelled with `-`, `_` or `.`, from
    /// every peer; one that only we or a trusted peer may send; and those of the connection.
    pub(super) fn keeps_back(&self, name: &HeaderName, trusted: bool) -> bool {
        self.sieve.removes(name.as_str(), trusted) || (trusted && TOLD.contains(name))
    }

    /// Where the workspace believes to be: `gantry dev` alone.
    pub(super) fn elsewhere(&self) -> Option<&Elsewhere> {
        self.elsewhere.as_ref()
    }

    /// The client's address, for the login and its audit line: the peer's own, or, behind trusted proxies,
    /// the right-most address of `X-Forwarded-For` that is not one of theirs. An entry that cannot be read
    /// ends the walk, since whatever stands left of it was vouched for by nobody; then the address before
    /// it counts.
    pub fn client_ip(&self, headers: &HeaderMap, peer: &Peer) -> IpAddr {
        let mut client = peer.ip();
        if !peer.trusted() {
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

    /// Whether a field of this name tells the workspace who the client is, so that only we may send it.
    pub(super) fn hides(&self, name: &HeaderName) -> bool {
        self.sieve.removes(name.as_str(), false)
    }
}

/// Whether a trusted peer says that its own client came by https.
pub fn says_https(headers: &HeaderMap, peer: &Peer) -> bool {
    peer.trusted() && single(headers, &X_FORWARDED_PROTO).is_some_and(|proto| trim(proto.as_bytes()).eq_ignore_ascii_case(b"https"))
}

/// All `X-Forwarded-For` fields as one, and the peer behind them.
fn appended(headers: &HeaderMap, peer: &HeaderValue) -> Vec<u8> {
    let mut joined = Vec::new();
    for field in headers.get_all(X_FORWARDED_FOR) {
        let field = trim(field.as_bytes());
        if !field.is_empty() {
            joined.extend_from_slice(field);
            joined.extend_from_slice(b", ");
        }
    }
    joined.extend_from_slice(peer.as_bytes());
    joined
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

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use proptest::prelude::*;

    use super::super::onward::tests::{arrives, get};
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

    /// What arrives at the workspace of a request with these fields.
    fn arrived(headers: &HeaderMap, peer: &Peer) -> HeaderMap {
        let rules = forwarding();
        let mut arrived = arrives(&get(headers, &rules, peer));
        if !headers.contains_key(HOST) {
            arrived.remove(HOST);
        }
        arrived
    }

    #[test]
    fn an_untrusted_peer_is_told_by_what_we_see() {
        let headers = map(&[
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
        let headers = arrived(&headers, &peer("192.0.2.7", false));
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
        let headers = map(&[
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
        let headers = arrived(&headers, &peer("10.0.0.1", false));
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
            let headers = arrived(&headers, &peer("10.0.0.1", true));
            assert_eq!(headers.get(X_FORWARDED_PROTO).unwrap(), proto, "{fields:?}");
            assert_eq!(headers.get(X_FORWARDED_HOST).map(|h| h.to_str().unwrap()), host, "{fields:?}");
        }
        // HTTP/1.0 may come without Host.
        let headers = map(&[("x-forwarded-host", "evil.example")]);
        let headers = arrived(&headers, &peer("192.0.2.7", false));
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
                let headers = map(&[("host", "a"), (name, "root")]);
                let headers = arrived(&headers, &peer(from, false));
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
                let headers = map(&[("host", "a"), (name, "6.6.6.6")]);
                let headers = arrived(&headers, &peer(from, false));
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
        let headers = map(&fields);
        let headers = arrived(&headers, &peer("192.0.2.7", false));
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
            let headers = arrived(&headers, &peer("192.0.2.7", true));
            let ours = [("host", "a"), ("x-real-ip", "192.0.2.7"), ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "a")];
            prop_assert_eq!(headers, map(&ours));
        }
    }
}
