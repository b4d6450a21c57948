//! The head of a request as it goes on to the workspace: written in one pass over the fields that came, which are
//! left as they are.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TE};
use http::{HeaderMap, HeaderName, Method, Version};

use super::cookies::Rocketchats;
use super::forwarded::Forwarding;
use super::{cookies, hop, tokens};
use crate::peer::Peer;

/// A request on its way to the workspace. It can be written as often as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Onward<'r> {
    /// Its method.
    pub method: &'r Method,
    /// Path and query, or `*`, as they came.
    pub target: &'r [u8],
    /// The version it came in.
    pub version: Version,
    /// Its fields, as they came.
    pub headers: &'r HeaderMap,
    /// `Host` where none came (HTTP/1.0).
    pub host: &'r [u8],
    /// Whether a body comes.
    pub has_body: bool,
    /// Whether it opens a WebSocket.
    pub upgrade: bool,
    /// What becomes of Rocket.Chat's cookies.
    pub rocketchats: Rocketchats<'r>,
    /// What is told of the client.
    pub rules: &'r Forwarding,
    /// The client.
    pub peer: &'r Peer,
}

/// How the workspace is told where a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    None,
    /// By its length, in bytes.
    Known(u64),
    /// By the chunked coding.
    Chunked,
}

impl Onward<'_> {
    /// Whether it changes nothing, so that it may be sent again if it has no body (RFC 9110 §9.2.2).
    pub fn is_safe(&self) -> bool {
        matches!(*self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// Whether its client waits for `100 Continue` before it sends the body. HTTP/1.0 knows no interim answers, so that
    /// it cannot wait for one (RFC 9110 §10.1.1).
    pub fn waits(&self) -> bool {
        self.version >= Version::HTTP_11 && self.headers.contains_key(EXPECT)
    }

    /// Where its body ends. A length that came was found to be a number before ([`super::request::check`]); without
    /// one the end is where the client's coding or stream ends.
    pub fn body_length(&self) -> BodyLength {
        if !self.has_body {
            return BodyLength::None;
        }
        let length = self.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        length.map_or(BodyLength::Chunked, BodyLength::Known)
    }

    /// The fields that its `Connection` names: they stay here, also as trailers (RFC 9110 §7.6.1).
    pub fn named(&self) -> Vec<HeaderName> {
        hop::named_fields(self.headers)
    }

    /// Writes its head.
    ///
    /// * The fields of the connection stay here, those that `Connection` names among them (RFC 9110 §7.6.1). `TE`
    ///   becomes exactly `trailers` where that was a member, with the connection option that has to go with it
    ///   (§10.1.4).
    /// * Our own cookies stay here, and a login among the cookies may be another one ([`Rocketchats`]).
    /// * Fields that could pass for an identity are left out, and what is said of the client is ours
    ///   ([`Forwarding`]).
    /// * The length of the body is said once.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self.rules.elsewhere() {
            // `gantry dev`: the workspace sees a client at its own address, without a proxy.
            Some(elsewhere) => {
                let mut moved = self.headers.clone();
                elsewhere.towards(&mut moved);
                Onward { headers: &moved, ..*self }.write_head(out, false);
            }
            None => self.write_head(out, true),
        }
    }

    fn write_head(&self, out: &mut Vec<u8>, tells: bool) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        if self.target.first() == Some(&b'?') {
            // The path of `http://host?query` is empty, which is "/" (RFC 9112 §3.2.1).
            out.push(b'/');
        }
        out.extend_from_slice(self.target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let named = self.named();
        let trusted = self.peer.trusted();
        let (mut host, mut te, mut rocketchats) = (None, false, self.rocketchats);
        for (name, value) in self.headers {
            if self.rules.keeps_back(name, trusted) {
                te |= *name == TE;
                continue;
            }
            if *name == HOST {
                host = Some(value);
            } else if (*name == EXPECT && self.version < Version::HTTP_11) || named.contains(name) {
                continue;
            }
            if *name == COOKIE {
                if let Some(cookies) = cookies::onward(value.as_bytes(), rocketchats) {
                    field(out, name.as_str(), &cookies);
                }
                if let Rocketchats::Login { .. } = rocketchats {
                    // Said once is enough where there are several fields.
                    rocketchats = Rocketchats::NoLogin;
                }
                continue;
            }
            field(out, name.as_str(), value.as_bytes());
        }
        if host.is_none() {
            field(out, "host", self.host);
        }
        if tells {
            self.rules.tell(out, self.headers, host, self.peer);
        }
        if self.upgrade {
            // A tunnel has no trailers.
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        } else if te && tokens(self.headers, TE).any(|coding| coding.eq_ignore_ascii_case("trailers")) {
            out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
        }
        if self.body_length() == BodyLength::Chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes one field.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
pub(super) mod tests {
    use http::HeaderValue;
    use http::header::{CONNECTION, UPGRADE};

    use super::*;

    /// The fields of a request from `peer` as the workspace sees them.
    pub(in crate::headers) fn arrives(request: &Onward<'_>) -> HeaderMap {
        let mut out = Vec::new();
        request.write(&mut out);
        let mut room = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut room);
        assert_eq!(parsed.parse(&out), Ok(httparse::Status::Complete(out.len())), "{}", String::from_utf8_lossy(&out));
        let fields = parsed.headers.iter();
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(HeaderName::from_bytes(field.name.as_bytes()).unwrap(), HeaderValue::from_bytes(field.value).unwrap());
        }
        headers
    }

    const HOST_OF_UPSTREAM: &[u8] = b"upstream:3000";

    /// A GET request with these fields.
    pub(in crate::headers) fn get<'r>(headers: &'r HeaderMap, rules: &'r Forwarding, peer: &'r Peer) -> Onward<'r> {
        let (version, host, rocketchats) = (Version::HTTP_11, HOST_OF_UPSTREAM, Rocketchats::AsTheyCame);
        Onward { method: &Method::GET, target: b"/", version, headers, host, has_body: false, upgrade: false, rocketchats, rules, peer }
    }

    fn peer() -> Peer {
        Peer::new("192.0.2.7:1".parse().unwrap(), false, false)
    }

    fn written(request: &Onward<'_>) -> String {
        let mut out = Vec::new();
        request.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_line_is_written_as_it_came_and_the_length_once() {
        let (rules, peer, method) = (Forwarding::with(Vec::new(), &[]), peer(), Method::from_bytes(b"PROPFIND").unwrap());
        let told = "x-real-ip: 192.0.2.7\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\nx-forwarded-host: a\r\n";
        for (fields, has_body, length, end) in [
            (&[][..], false, BodyLength::None, ""),
            (&[("content-length", "0")], false, BodyLength::None, ""),
            (&[("content-length", "5")], true, BodyLength::Known(5), ""),
            (&[("transfer-encoding", "Chunked")], true, BodyLength::Chunked, "transfer-encoding: chunked\r\n"),
            // HTTP/2: the end of the stream is the end of the body.
            (&[], true, BodyLength::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a"))]);
            let mut kept = String::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
                if *name == "content-length" {
                    kept = format!("{name}: {value}\r\n");
                }
            }
            let request = Onward { method: &method, target: b"/a?\"b\"", has_body, ..get(&headers, &rules, &peer) };
            assert_eq!(request.body_length(), length);
            assert_eq!(written(&request), format!("PROPFIND /a?\"b\" HTTP/1.1\r\nhost: a\r\n{kept}{told}{end}\r\n"));
        }
    }

    #[test]
    fn a_login_stands_in_the_first_of_several_fields() {
        let (rules, peer) = (Forwarding::with(Vec::new(), &[]), peer());
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a"))]);
        for cookies in ["gantry_chat=x; a=1", "rc_token=old; b=2", "gantry_x=1"] {
            headers.append(COOKIE, HeaderValue::from_static(cookies));
        }
        for (rocketchats, expected) in [
            (Rocketchats::AsTheyCame, &["a=1", "rc_token=old; b=2"][..]),
            (Rocketchats::Login { user_id: "u", token: "t" }, &["rc_uid=u; rc_token=t; a=1", "b=2"]),
            (Rocketchats::NoLogin, &["a=1", "b=2"]),
        ] {
            let arrived = arrives(&Onward { rocketchats, ..get(&headers, &rules, &peer) });
            assert_eq!(arrived.get_all(COOKIE).iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn an_empty_path_is_a_slash() {
        let (rules, peer, headers) = (Forwarding::with(Vec::new(), &[]), peer(), HeaderMap::new());
        for (target, line) in [("?x=1", "GET /?x=1 HTTP/1.1\r\n"), ("/?x=1", "GET /?x=1 HTTP/1.1\r\n"), ("*", "GET * HTTP/1.1\r\n")] {
            let request = Onward { target: target.as_bytes(), ..get(&headers, &rules, &peer) };
            assert!(written(&request).starts_with(line), "{target}");
        }
    }

    #[test]
    fn http_1_0_has_a_host_and_expects_nothing() {
        let (rules, peer) = (Forwarding::with(Vec::new(), &[]), peer());
        let headers = HeaderMap::from_iter([(EXPECT, HeaderValue::from_static("100-continue"))]);
        for (version, waits) in [(Version::HTTP_10, false), (Version::HTTP_11, true), (Version::HTTP_2, true)] {
            let request = Onward { version, ..get(&headers, &rules, &peer) };
            let arrived = arrives(&request);
            assert_eq!((request.waits(), arrived.contains_key(EXPECT)), (waits, waits), "{version:?}");
            assert_eq!(arrived.get(HOST).unwrap().as_bytes(), HOST_OF_UPSTREAM);
        }
    }

    #[test]
    fn an_upgrade_is_said_anew() {
        let (rules, peer) = (Forwarding::with(Vec::new(), &[]), peer());
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("te", "trailers"), ("accept", "*/*")] {
            headers.append(name, value.parse().unwrap());
        }
        let arrived = arrives(&Onward { upgrade: true, ..get(&headers, &rules, &peer) });
        assert_eq!([CONNECTION, UPGRADE].map(|name| arrived.get(name).unwrap().clone()), ["upgrade", "websocket"]);
        assert!(!arrived.contains_key(TE) && arrived.contains_key("accept"));
    }
}
