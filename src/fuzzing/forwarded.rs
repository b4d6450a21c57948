//! Forwarded and identity headers, hop-by-hop headers and trailers.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use ipnet::IpNet;

use super::wire::{self, Reading};
use crate::config;
use crate::headers::forwarded::{Forwarding, says_https};
use crate::headers::onward::Onward;
use crate::headers::sieve::{ALIASES, IDENTITY, TRUSTED_ONLY};
use crate::headers::trailers;
use crate::peer::Peer;

/// Whether a name is on one of these lists, however it is spelled.
pub(super) fn on(lists: &[&[&str]], name: &str) -> bool {
    let folded = |text: &str| text.to_ascii_lowercase().replace(['_', '.'], "-");
    let name = folded(name);
    lists.iter().flat_map(|list| list.iter()).any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(&folded(start)),
        None => name == folded(pattern),
    })
}

/// Whether a field of this name is nobody's to send but ours.
pub(super) fn hides(name: &str) -> bool {
    on(&[IDENTITY, ALIASES, TRUSTED_ONLY], name)
}

const CONFIG: &str = r#"
[server]
public_url = "https://chat.example.com"
trusted_proxies = ["10.0.0.0/8", "fd00::/8"]
[rocketchat]
url = "http://127.0.0.1:3000"
user_id = "service"
auth_token = "service-token"
[identity]
source = "header"
[identity.header]
id = "x-sso-id"
"#;

const CONFIGURED: &[&str] = &["x-sso-id"];

thread_local! {
    static RULES: (Vec<IpNet>, Forwarding) = {
        let config = config::load(Some(("proxy.toml", CONFIG)), [], &[]).expect("the configuration above is good").config;
        (config.server.trusted_proxies.clone(), Forwarding::new(&config))
    };
}

/// First byte: who the peer is. Then one header a line, as on the wire.
///
/// # Panics
/// The workspace would be told something that is not ours to say, or something that the client did say would
/// be lost.
pub fn forwarded(data: &[u8]) {
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let addresses = ["192.0.2.7:1", "10.1.2.3:1", "[fd00::1]:1", "[2001:db8::1]:1", "[::ffff:10.0.0.9]:1", "[::ffff:192.0.2.9]:1"];
    let addr: SocketAddr = addresses[usize::from(first & 15) % addresses.len()].parse().expect("an address");
    let mut headers = HeaderMap::new();
    for line in rest.split(|b| *b == b'\n').take(64) {
        let mut halves = line.splitn(2, |b| *b == b':');
        let name = halves.next().and_then(|name| HeaderName::from_bytes(name).ok());
        if let (Some(name), Some(value)) = (name, halves.next().and_then(|v| HeaderValue::from_bytes(wire::trim(v)).ok())) {
            headers.append(name, value);
        }
    }
    RULES.with(|(networks, rules)| {
        let peer = Peer::new(addr, false, first & 16 != 0);
        peer.judge(1, networks);
        towards(&headers, &peer, networks, rules);
        let named = onward(&headers, &peer, rules).named();
        let mut trailers = headers.clone();
        trailers::strip_request(rules, &named, &mut trailers);
        for name in trailers.keys() {
            assert!(!hides(name.as_str()) && !on(&[CONFIGURED, CONTROLS], name.as_str()), "trailer {name}");
            assert!(!of_connection(&options(&headers), name.as_str()), "trailer {name} is the connection's");
            assert!(trailers.get_all(name).iter().eq(headers.get_all(name)));
        }
        let mut trailers = headers.clone();
        trailers::strip_response(&named, &mut trailers);
        for name in trailers.keys().map(HeaderName::as_str) {
            assert!(!on(&[CONTROLS], name) && !of_connection(&options(&headers), name), "trailer {name}");
        }
    });
}

/// What nobody may say behind a body, however the proxy came to its own list.
pub(super) const CONTROLS: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-*",
    "content-length",
    "transfer-encoding",
    "host",
    "trailer",
    "te",
    "upgrade",
    "authorization",
    "cookie",
    "set-cookie",
    "x-auth-token",
    "x-user-id",
    "content-encoding",
    "content-type",
    "location",
    "x-frame-options",
    "content-security-policy",
];

/// Fields of one connection, whatever `Connection` names beside them. `TE` is said anew.
pub(super) const HOP_BY_HOP: &[&str] = &[
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

/// Fields that cannot be taken away by naming them in `Connection`.
const END_TO_END: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "content-type",
    "content-encoding",
    "cache-control",
    "authorization",
    "cookie",
    "set-cookie",
    "origin",
    "x-auth-token",
    "x-user-id",
    "x-real-ip",
    "forwarded",
    "content-security-policy",
    "x-frame-options",
];

/// Whether a field, or a trailer, is the connection's since `Connection` has these options (RFC 9110 §7.6.1).
pub(super) fn of_connection(options: &[String], name: &str) -> bool {
    let stays = END_TO_END.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("sec-fetch-");
    !stays && options.iter().any(|option| option == name)
}

fn options(headers: &HeaderMap) -> Vec<String> {
    let members = values(headers, "connection").into_iter().flat_map(|value| value.split(|b| *b == b','));
    members.map(|option| String::from_utf8_lossy(wire::trim(option)).to_ascii_lowercase()).collect()
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// A request with these fields, and without a body, which is a matter of other targets.
fn onward<'r>(headers: &'r HeaderMap, peer: &'r Peer, rules: &'r Forwarding) -> Onward<'r> {
    let (method, version) = (&Method::GET, Version::HTTP_11);
    let rocketchats = crate::headers::cookies::Rocketchats::AsTheyCame;
    Onward { method, target: b"/", version, headers, host: b"upstream", has_body: false, upgrade: false, rocketchats, rules, peer }
}

/// The fields as they arrive, read by the slow reader.
fn arrived(headers: &HeaderMap, peer: &Peer, rules: &Forwarding) -> Option<HeaderMap> {
    let mut written = Vec::new();
    onward(headers, peer, rules).write(&mut written);
    let read = match wire::request(&written) {
        Reading::One(read) => read,
        // What is said of a body is judged before, and not here.
        _ if ["content-length", "host"].iter().any(|name| headers.contains_key(*name)) => return None,
        other => panic!("what was written has no reading ({other:?}): {}", written.escape_ascii()),
    };
    assert_eq!(read.head.len, written.len(), "{}", written.escape_ascii());
    let mut arrived = HeaderMap::new();
    for field in &read.head.fields {
        let value = HeaderValue::from_bytes(&field.value).expect("it came from one");
        arrived.append(HeaderName::from_bytes(field.name.as_bytes()).expect("it came from one"), value);
    }
    Some(arrived)
}

fn towards(before: &HeaderMap, peer: &Peer, networks: &[IpNet], rules: &Forwarding) {
    let Some(after) = arrived(before, peer, rules) else { return };
    let ip = peer.ip().to_string();
    let trusted = networks.iter().any(|net| net.contains(&peer.ip()));
    assert_eq!(trusted, peer.trusted());

    let client = client(before, peer.ip(), trusted, networks);
    assert_eq!(rules.client_ip(before, peer), client);
    assert_eq!(values(&after, "x-real-ip"), [client.to_string().as_bytes()]);
    let said = if trusted { values(before, "x-forwarded-for") } else { Vec::new() };
    let mut path: Vec<&[u8]> = said.into_iter().map(wire::trim).filter(|said| !said.is_empty()).collect();
    path.push(ip.as_bytes());
    assert_eq!(values(&after, "x-forwarded-for"), [path.join(&b", "[..])]);

    let single = |name: &str| Some(values(before, name)).filter(|all| trusted && all.len() == 1).map(|all| all[0].to_vec());
    let ours = if peer.tls { "https" } else { "http" };
    let proto = single("x-forwarded-proto").filter(|p| p.eq_ignore_ascii_case(b"http") || p.eq_ignore_ascii_case(b"https"));
    assert_eq!(values(&after, "x-forwarded-proto"), [proto.clone().unwrap_or_else(|| ours.into())]);
    assert_eq!(says_https(before, peer), proto.is_some_and(|p| p.eq_ignore_ascii_case(b"https")));
    let hosts = values(&after, "x-forwarded-host");
    assert!(hosts.len() <= 1);
    if let Some(host) = hosts.first() {
        let own = values(before, "host").first().copied();
        assert!(Some(*host) == own || single("x-forwarded-host").is_some_and(|said| said == *host), "{}", host.escape_ascii());
        // A list, a user or a path in it would be read in two ways.
        assert!(Some(*host) == own || !host.iter().any(|b| b",@/\\?# \t".contains(b)), "{}", host.escape_ascii());
    } else {
        assert!(!before.contains_key("host"));
    }
    assert_eq!(values(&after, "host"), [values(before, "host").first().copied().unwrap_or(b"upstream")]);

    let named = options(before);
    let set = ["x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    let trailers = values(before, "te").iter().any(|te| te.split(|b| *b == b',').any(|c| wire::trim(c).eq_ignore_ascii_case(b"trailers")));
    let (te, connection) = if trailers { (vec![&b"trailers"[..]], vec![&b"te"[..]]) } else { (vec![], vec![]) };
    assert_eq!((values(&after, "te"), values(&after, "connection")), (te, connection));
    let theirs: &[&[&str]] = if trusted { &[IDENTITY, ALIASES, CONFIGURED] } else { &[IDENTITY, ALIASES, CONFIGURED, TRUSTED_ONLY] };
    for name in before.keys().chain(after.keys()).map(HeaderName::as_str) {
        if set.contains(&name) || ["te", "connection", "host"].contains(&name) {
            continue;
        }
        let odd = name.contains(['_', '.']);
        if on(&[HOP_BY_HOP], name) || on(theirs, name) || (odd && hides(name)) {
            assert!(!after.contains_key(name), "{name} went on");
        } else if of_connection(&named, name) {
            assert!(!after.contains_key(name), "{name} is the connection's");
        } else {
            assert_eq!(values(&after, name), values(before, name), "{name}");
        }
    }
}

/// The client, walked to from the right as long as what is read there is one of our own proxies.
fn client(headers: &HeaderMap, peer: IpAddr, trusted: bool, networks: &[IpNet]) -> IpAddr {
    let mut client = peer;
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for field in values(headers, "x-forwarded-for") {
        entries.extend(field.split(|b| *b == b',').map(<[u8]>::to_vec));
    }
    while trusted && networks.iter().any(|net| net.contains(&client)) {
        let Some(entry) = entries.pop() else { break };
        let Ok(text) = std::str::from_utf8(wire::trim(&entry)) else { break };
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let Some(ip) = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip())) else { break };
        client = ip.to_canonical();
    }
    client
}
