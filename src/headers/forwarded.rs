//! Who the client is, as the workspace is told: the forwarded headers, and those that could pass for an
//! identity.
//!
//! Rocket.Chat counts its rate limits by `X-Real-IP`, which it believes from anybody
//! (`remoteAddressMiddleware.ts`), so it has to be ours.

use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::local::Elsewhere;
use super::sieve::Sieve;
use super::{host, single, trim};
use crate::config::{Config, IdentitySource};
use crate::peer::Peer;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

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

    fn with(trusted: Vec<IpNet>, configured: &[&HeaderName]) -> Self {
        Self { trusted, sieve: Sieve::new(configured), elsewhere: None }
    }

    /// Rewrites the headers of a request on its way to the workspace. `Host` must be in place before.
    ///
    /// From a peer that is not trusted `X-Real-IP` and `X-Forwarded-For`, `-Proto`, `-Host` are overwritten
    /// with what we see, and the rest of the family is removed. From a trusted one the peer is appended to
    /// `X-Forwarded-For`, `X-Real-IP` becomes [`Self::client_ip`], and proto and host stay where they are
    /// single and well-formed. Identity headers are removed from every peer, spelled with `-`, `_` or `.`.
    pub fn apply(&self, headers: &mut HeaderMap, peer: &Peer) {
        let (forwarded_for, real_ip) = if peer.trusted() {
            let client = self.client_ip(headers, peer);
            let real_ip = if client == peer.ip() { peer.ip_value.clone() } else { ip_value(client) };
            (appended(headers, &peer.ip_value), real_ip)
        } else {
            (peer.ip_value.clone(), peer.ip_value.clone())
        };
        let believed = |name: &HeaderName| single(headers, name).filter(|_| peer.trusted());
        let proto = believed(&X_FORWARDED_PROTO)
            .filter(|v| ["http", "https"].iter().any(|scheme| v.as_bytes().eq_ignore_ascii_case(scheme.as_bytes())))
            .cloned();
        let host = believed(&X_FORWARDED_HOST).filter(|v| host::is_valid(v.as_bytes())).or_else(|| headers.get(HOST)).cloned();

        self.sift(headers, peer.trusted());

        headers.insert(X_REAL_IP, real_ip);
        headers.insert(X_FORWARDED_FOR, forwarded_for);
        headers.insert(X_FORWARDED_PROTO, proto.unwrap_or_else(|| HeaderValue::from_static(if peer.tls { "https" } else { "http" })));
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(X_FORWARDED_HOST),
        };
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.towards(headers);
        }
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

    fn sift(&self, headers: &mut HeaderMap, trusted: bool) {
        // Nearly always empty, and then not allocated.
        let found: Vec<HeaderName> = headers.keys().filter(|name| self.sieve.removes(name.as_str(), trusted)).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
}

/// Whether a trusted peer says that its own client came by https.
pub fn says_https(headers: &HeaderMap, peer: &Peer) -> bool {
    peer.trusted() && single(headers, &X_FORWARDED_PROTO).is_some_and(|proto| trim(proto.as_bytes()).eq_ignore_ascii_case(b"https"))
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
    }
}
