//! HTTP/2 as only somebody with ill intent speaks it.

use h2::Reason;

use crate::support::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PING, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, block, frame,
    get,
};
use crate::support::origin::Origin;
use crate::support::tls::TlsProxy;
use crate::support::within;

type Fields<'a> = Vec<(&'a str, &'a str)>;

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":authority", "chat.test"), (":path", "/")];

fn with<'a>(more: &[(&'a str, &'a str)]) -> Fields<'a> {
    [&GET[..], more].concat()
}

fn without<'a>(name: &str, more: &[(&'a str, &'a str)]) -> Fields<'a> {
    GET.into_iter().filter(|(known, _)| *known != name).chain(more.iter().copied()).collect()
}

#[tokio::test]
async fn malformed_heads_are_refused_and_nothing_else() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let mut raw = Raw::to(&proxy).await;
    let broken = Err(u32::from(Reason::PROTOCOL_ERROR));
    let cases: Vec<(Fields, Result<u16, u32>)> = vec![
        (with(&[]), Ok(200)),
        // Fields of one connection (RFC 9113 §8.2.2).
        (with(&[("connection", "close")]), broken),
        (with(&[("connection", "x-foo"), ("x-foo", "1")]), broken),
        (with(&[("keep-alive", "timeout=5")]), broken),
        (with(&[("proxy-connection", "keep-alive")]), broken),
        (with(&[("transfer-encoding", "chunked")]), broken),
        (with(&[("upgrade", "websocket")]), broken),
        (with(&[("te", "gzip")]), broken),
        (with(&[("te", "trailers, gzip")]), broken),
        (with(&[("te", "trailers")]), Ok(200)),
        // Names and values (§8.2.1). What cannot be a field at all ends the connection, see below.
        // Pseudo fields (§8.3).
        (without(":method", &[]), broken),
        (without(":scheme", &[]), broken),
        (without(":path", &[]), broken),
        (without(":path", &[(":path", "")]), broken),
        (without(":path", &[(":path", "x")]), broken),
        (without(":path", &[(":path", "chat.test/x")]), broken),
        (without(":path", &[(":path", "*")]), Ok(400)),
        (with(&[(":path", "/twice")]), broken),
        (with(&[(":authority", "chat.test")]), broken),
        (with(&[(":status", "200")]), broken),
        (with(&[(":protocol", "websocket")]), broken),
        ([&[("x-first", "1")], &GET[..]].concat(), broken),
        (without(":scheme", &[(":scheme", "ftp")]), Ok(400)),
        (without(":scheme", &[(":scheme", "ht tp")]), broken),
        // Whom it is for (§8.3.1).
        (without(":authority", &[]), Ok(400)),
        (without(":authority", &[("host", "chat.test")]), Ok(200)),
        (with(&[("host", "chat.test")]), Ok(200)),
        (with(&[("host", "CHAT.test:443")]), Ok(200)),
        (with(&[("host", "evil.test")]), Ok(400)),
        (with(&[("host", "chat.test"), ("host", "evil.test")]), Ok(400)),
        (without(":authority", &[("host", "chat.test"), ("host", "chat.test")]), Ok(400)),
        (without(":authority", &[(":authority", "user@chat.test")]), Ok(400)),
        (without(":authority", &[(":authority", "a b")]), broken),
        // Lengths.
        (with(&[("content-length", "0")]), Ok(200)),
        (with(&[("content-length", "5")]), broken),
        (with(&[("content-length", "+0")]), broken),
        (with(&[("content-length", "0"), ("content-length", "0")]), Ok(400)),
        (with(&[("content-length", "0"), ("content-length", "1")]), broken),
        // Methods that a proxy does not forward (RFC 9110 §9.3).
        (vec![(":method", "CONNECT"), (":authority", "evil.test:22")], Ok(405)),
        (vec![(":method", "CONNECT"), (":authority", "evil.test:22"), (":path", "/")], broken),
        (without(":method", &[(":method", "TRACE")]), Ok(405)),
        (with(&[("expect", "200-ok")]), Ok(417)),
        (with(&[]), Ok(200)),
    ];
    for (at, (fields, fate)) in cases.iter().enumerate() {
        let stream = u32::try_from(2 * at + 1).unwrap();
        // Pseudo fields stand in front, where the case is not about that.
        let mut fields = fields.clone();
        if fields[0].0.starts_with(':') {
            fields.sort_by_key(|(name, _)| !name.starts_with(':'));
        }
        raw.head(stream, true, &fields).await;
        assert_eq!(raw.fate(stream).await, *fate, "{fields:?}");
    }
}

#[tokio::test]
async fn what_is_no_field_is_not_taken_for_one() {
    let proxy = TlsProxy::before(Origin::echo().await);
    for field in [("X-Upper", "1"), ("x y", "1"), ("", "1"), ("x", "a\r\nb: c"), ("x", "a\0"), ("x:y", "1"), (":unknown", "1")] {
        let mut raw = Raw::to(&proxy).await;
        let mut fields = with(&[field]);
        fields.sort_by_key(|(name, _)| !name.starts_with(':'));
        raw.head(1, true, &fields).await;
        let ended = raw.find(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY)).await.expect("it is told why");
        assert!(ended.kind != HEADERS && ended.code() != 0, "{field:?}: {ended:?}");
    }
}

#[tokio::test]
async fn a_body_has_the_length_that_was_said() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::before(origin.addr);
    let mut raw = Raw::to(&proxy).await;
    let fields: Fields = without(":method", &[("content-length", "4")]).into_iter().collect();
    let fields = [&[(":method", "POST")][..], &fields].concat();
    for (stream, body) in [(1, "abc"), (3, "abcde"), (5, "")] {
        raw.head(stream, false, &fields).await;
        let (mut upstream, _) = origin.next().await;
        raw.frame(DATA, END_STREAM, stream, body.as_bytes()).await.unwrap();
        assert_eq!(raw.fate(stream).await, Err(Reason::PROTOCOL_ERROR.into()), "{body:?}");
        upstream.closed().await;
        assert!(upstream.seen().len() < 4, "{:?}", upstream.seen());
    }
    // Fields that say something else of the request are no trailers (RFC 9113 §8.1): nobody gets to see them.
    raw.head(7, false, &fields).await;
    let (mut upstream, _) = origin.next().await;
    raw.frame(DATA, 0, 7, b"abcd").await.unwrap();
    raw.frame(HEADERS, END_HEADERS | END_STREAM, 7, &block(&[(":path", "/other"), ("x-auth-token", "1")])).await.unwrap();
    assert_eq!(upstream.read(4).await, b"abcd");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(raw.fate(7).await, Ok(200));
    assert_eq!(upstream.seen(), b"");
}

#[tokio::test]
async fn a_header_list_over_the_limit_is_told_so() {
    let proxy = TlsProxy::with(Origin::echo().await, &[("server.http2.max_header_list", "8192")]);
    let mut raw = Raw::to(&proxy).await;
    let long = "x".repeat(9000);
    raw.head(1, true, &with(&[("x-long", &long)])).await;
    assert_eq!(raw.fate(1).await, Ok(431));
    raw.head(3, true, &with(&[("x-long", &long[..4000])])).await;
    assert_eq!(raw.fate(3).await, Ok(200));
}

/// The proxy goes on answering somebody else.
async fn lives(proxy: &TlsProxy) {
    assert_eq!(Http2::to(proxy).await.ask(get("/")).await.unwrap().status, 200);
}

/// Sends `piece` until the proxy ends the connection; the code of its farewell.
async fn flood(mut raw: Raw, mut piece: impl FnMut(u32) -> Vec<u8>) -> u32 {
    within("the proxy ends the connection", async {
        let mut turn = 0;
        while raw.bytes(&piece(turn)).await.is_ok() {
            turn += 1;
        }
    })
    .await;
    // The farewell may be lost, since the connection is reset under a sender that goes on.
    raw.find(|frame| frame.kind == GOAWAY).await.map_or(u32::MAX, |frame| frame.code())
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let proxy = TlsProxy::with(Origin::echo().await, &[("server.http2.max_resets", "20")]);
    let raw = Raw::to(&proxy).await;
    let head = block(&GET);
    flood(raw, |turn| {
        let stream = 2 * turn + 1;
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        bytes.extend(frame(RST_STREAM, 0, stream, &u32::from(Reason::CANCEL).to_be_bytes()));
        // Many at once, so that resets arrive before the requests are looked at.
        bytes
    })
    .await;
    lives(&proxy).await;
}

#[tokio::test]
async fn errors_that_we_are_made_to_reset_for_end_the_connection() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let raw = Raw::to(&proxy).await;
    let head = block(&with(&[("connection", "close")]));
    let code = flood(raw, |turn| frame(HEADERS, END_HEADERS | END_STREAM, 2 * turn + 1, &head)).await;
    assert!([u32::from(Reason::ENHANCE_YOUR_CALM), u32::MAX].contains(&code), "{code}");
    lives(&proxy).await;
}

#[tokio::test]
async fn endless_continuations_end_the_connection() {
    let proxy = TlsProxy::with(Origin::echo().await, &[("server.http2.max_header_list", "8192")]);
    // Both kinds: with fields, and with none at all.
    for piece in [block(&[("x-long", &"x".repeat(8000))]), Vec::new()] {
        let mut raw = Raw::to(&proxy).await;
        raw.frame(HEADERS, END_STREAM, 1, &block(&GET)).await.unwrap();
        flood(raw, |_| frame(CONTINUATION, 0, 1, &piece)).await;
    }
    lives(&proxy).await;
}

#[tokio::test]
async fn floods_of_pings_and_settings_are_survived() {
    let proxy = TlsProxy::before(Origin::echo().await);
    for piece in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        frame(0xee, 0, 0, &[0; 100]),
    ] {
        let mut raw = Raw::to(&proxy).await;
        let many = piece.repeat(50);
        for _ in 0..100 {
            // We read what comes back, so that this is a matter of work and not of a full buffer.
            if raw.bytes(&many).await.is_err() {
                break;
            }
        }
        lives(&proxy).await;
        let _ = raw.frame(PING, 0, 0, b"last one").await;
        // Either all were answered or the connection was ended; it does not hang.
        raw.find(|frame| frame.kind == GOAWAY || (frame.kind == PING && frame.flags & ACK != 0)).await;
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_not_buffered_for() {
    let body = "x".repeat(1 << 20);
    let upstream =
        Origin::answering(move |_| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()).await;
    let proxy = TlsProxy::before(upstream);
    let mut raw = Raw::to(&proxy).await;
    for stream in (1..=51).step_by(2) {
        raw.head(stream, true, &GET).await;
    }
    let first = raw.until(|frame| frame.kind == HEADERS).await;
    assert_eq!(first.status(), 200);
    // The windows are those of the protocol's beginning, and nothing opens them.
    let mut data = 0;
    while data < 65_535 {
        let frame = raw.until(|frame| frame.kind == DATA).await;
        data += frame.payload.len();
    }
    assert_eq!(data, 65_535, "not a byte beyond the window");
    lives_small(&proxy).await;
}

async fn lives_small(proxy: &TlsProxy) {
    assert_eq!(Http2::to(proxy).await.ask(get("/_gantry/nowhere")).await.unwrap().status, 404);
}
