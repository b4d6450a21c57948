//! HTTP/2 as only somebody with ill intent speaks it.

use h2::Reason;

use crate::support::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PADDED, PING, PRIORITY, RST_STREAM, Raw, SETTINGS,
    WINDOW_UPDATE, block, frame, get,
};
use crate::support::origin::Origin;
use crate::support::tls::TlsProxy;
use crate::support::within;
use crate::support::world::eventually;

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

/// RFC 9113 §4.2, §6.5.2, §6.7, §6.9: the code says what was wrong.
#[tokio::test]
async fn frames_that_cannot_be_are_told_by_their_code() {
    let proxy = TlsProxy::before(Origin::echo().await);
    for (kind, stream, payload, reason) in [
        (PING, 0, &[0; 7][..], Reason::FRAME_SIZE_ERROR),
        (SETTINGS, 0, &[0; 5], Reason::FRAME_SIZE_ERROR),
        (WINDOW_UPDATE, 0, &[0; 5], Reason::FRAME_SIZE_ERROR),
        (PRIORITY, 1, &[0; 4], Reason::FRAME_SIZE_ERROR),
        (SETTINGS, 0, &[0, 4, 0x80, 0, 0, 0], Reason::FLOW_CONTROL_ERROR),
    ] {
        let mut raw = Raw::to(&proxy).await;
        raw.frame(kind, 0, stream, payload).await.unwrap();
        let farewell = raw.find(|frame| frame.kind == GOAWAY).await.expect("it is told why");
        assert_eq!(farewell.code(), u32::from(reason), "{kind} {payload:?}");
        assert!(raw.find(|frame| frame.kind != GOAWAY).await.is_none(), "nothing behind it");
    }
    lives(&proxy).await;
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

/// A connection that was ended for a flood is counted, whosever bound it was.
async fn counted(proxy: &TlsProxy, times: u64) {
    eventually("it is counted", || async {
        let mut all = 0;
        for kind in ["ping", "settings", "priority", "window_update", "reset", "empty", "continuation", "other"] {
            all += proxy.metric(&format!("gantry_http2_floods_total{{kind=\"{kind}\"}}")).await;
        }
        all == times
    })
    .await;
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
    counted(&proxy, 1).await;
    lives(&proxy).await;
}

#[tokio::test]
async fn errors_that_we_are_made_to_reset_for_end_the_connection() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let raw = Raw::to(&proxy).await;
    let head = block(&with(&[("connection", "close")]));
    let code = flood(raw, |turn| frame(HEADERS, END_HEADERS | END_STREAM, 2 * turn + 1, &head)).await;
    assert!([u32::from(Reason::ENHANCE_YOUR_CALM), u32::MAX].contains(&code), "{code}");
    counted(&proxy, 1).await;
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
    counted(&proxy, 2).await;
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

/// The kinds of frames that do no work, each with what a flood of it is counted as.
fn idle_frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("ping", frame(PING, 0, 0, &[0; 8])),
        ("ping", frame(PING, ACK, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        // The table of fields, small and large in turn.
        ("settings", [frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]), frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0])].concat()),
        ("settings", [frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]), frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])].concat()),
        ("priority", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7])),
        ("window_update", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("empty", frame(DATA, 0, 1, &[])),
        ("empty", frame(DATA, PADDED, 1, &[0])),
        ("continuation", frame(CONTINUATION, 0, 3, &[])),
        ("other", frame(0xee, 0, 0, &[0; 100])),
        ("other", frame(0x10, 0, 0, &[0, 0, 0, 1, b'u', b'=', b'0'])),
    ]
}

#[tokio::test]
async fn floods_of_frames_for_nothing_end_the_connection() {
    let mut origin = Origin::start().await;
    let keys = [("server.http2.max_idle_frames", "200")];
    let proxy = TlsProxy::with(origin.addr, &keys);
    for (kind, piece) in idle_frames() {
        let series = format!("gantry_http2_floods_total{{kind=\"{kind}\"}}");
        let before = proxy.metric(&series).await;
        let mut raw = Raw::to(&proxy).await;
        // A request under way, for those that need one.
        raw.head(1, kind == "continuation", &with(&[])).await;
        let (upstream, _) = origin.next().await;
        if kind == "continuation" {
            raw.frame(HEADERS, END_STREAM, 3, &block(&GET)).await.unwrap();
        }
        let many = piece.repeat(25);
        let mut sent = 0;
        while sent < 40 && raw.bytes(&many).await.is_ok() {
            sent += 1;
        }
        // What was answered was answered before: the farewell is the last that is heard.
        let farewell = raw.find(|frame| frame.kind == GOAWAY).await;
        if kind != "continuation" {
            // h2 has a bound of its own for those.
            assert_eq!(farewell.expect("it is told why").code(), u32::from(Reason::ENHANCE_YOUR_CALM), "{kind}");
            eventually("it is counted", || async { proxy.metric(&series).await == before + 1 }).await;
        }
        assert!(raw.find(|frame| frame.kind != GOAWAY).await.is_none(), "{kind}: nothing behind it");
        drop(upstream);
    }
    let client = Http2::to(&proxy).await;
    let (answer, _) = client.begin(get("/"), true).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(within("an answer", answer).await.unwrap().status(), 200, "somebody else is served");
}

/// h2 has bounds of its own, some of them narrower than ours: they are counted like ours.
#[tokio::test]
async fn floods_that_h2_ends_are_counted_too() {
    let mut origin = Origin::start().await;
    let proxy = TlsProxy::with(origin.addr, &[("server.http2.max_idle_frames", "100000")]);
    let mut raw = Raw::to(&proxy).await;
    raw.head(1, false, &with(&[])).await;
    let (upstream, _) = origin.next().await;
    let _ = raw.bytes(&frame(DATA, 0, 1, &[]).repeat(101)).await;
    let farewell = raw.find(|frame| frame.kind == GOAWAY).await.expect("it is told why");
    assert_eq!(farewell.code(), u32::from(Reason::ENHANCE_YOUR_CALM));
    eventually("it is counted", || async { proxy.metric("gantry_http2_floods_total{kind=\"empty\"}").await == 1 }).await;
    drop(upstream);
}

/// Requests that are begun to be cancelled, slowly enough that each is looked at and sent on.
#[tokio::test]
async fn requests_that_are_made_to_be_cancelled_end_the_connection() {
    let proxy = TlsProxy::with(Origin::echo().await, &[("server.http2.max_idle_frames", "200")]);
    let mut raw = Raw::to(&proxy).await;
    let head = block(&with(&[("x-padding", &"x".repeat(100))]));
    let mut cancelled = 0;
    for turn in 0..1000 {
        let stream = 2 * turn + 1;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &head);
        bytes.extend(frame(PING, 0, 0, &turn.to_be_bytes().repeat(2)));
        if raw.bytes(&bytes).await.is_err() {
            break;
        }
        // The answer to the ping: the request was taken.
        if raw
            .find(|frame| frame.kind == GOAWAY || frame.kind == PING && frame.flags & ACK != 0)
            .await
            .is_none_or(|frame| frame.kind == GOAWAY)
        {
            break;
        }
        if raw.frame(RST_STREAM, 0, stream, &u32::from(Reason::CANCEL).to_be_bytes()).await.is_err() {
            break;
        }
        cancelled += 1;
    }
    assert!(cancelled < 200, "{cancelled}");
    eventually("it is counted", || async {
        let text = ["reset", "ping"].map(|kind| format!("gantry_http2_floods_total{{kind=\"{kind}\"}}"));
        proxy.metric(&text[0]).await + proxy.metric(&text[1]).await == 1
    })
    .await;
    lives(&proxy).await;
}

/// Much that is honest: many calls with small messages, windows opened for each piece, pings in between, a large upload
/// and a large download at once.
#[tokio::test]
async fn busy_clients_are_never_taken_for_a_flood() {
    const PIECE: usize = 64 << 10;
    let body = vec![b'x'; 8 << 20];
    let length = body.len();
    let upstream = Origin::answering(move |head| {
        let body = if head.starts_with("GET /big ") { &body[..] } else { b"ok" };
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
    })
    .await;
    let proxy = TlsProxy::with(upstream, &[("server.http2.max_idle_frames", "100")]);
    let client = Http2::to(&proxy).await;
    // The client of h2 opens both windows as it reads.
    let download = async {
        let answer = client.ask(get("/big")).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, length));
    };
    let upload = async {
        let request = http::Request::post("https://chat.test/up").header("content-length", (128 * PIECE).to_string()).body(()).unwrap();
        let (answer, mut stream) = client.begin(request, false).await;
        for piece in 0..128 {
            stream.reserve_capacity(PIECE);
            while stream.capacity() < PIECE {
                within("room", std::future::poll_fn(|cx| stream.poll_capacity(cx))).await.unwrap().unwrap();
            }
            stream.send_data(bytes::Bytes::from(vec![b'u'; PIECE]), piece == 127).unwrap();
        }
        assert_eq!(within("an answer", answer).await.unwrap().status(), 200);
    };
    let calls = async {
        for _ in 0..400 {
            let mut request = get("/call");
            *request.method_mut() = http::Method::POST;
            assert_eq!(client.post(request, "a message").await.unwrap().status, 200);
        }
    };
    tokio::join!(download, upload, calls);
    // The same with frames of our own: each call has both windows, a priority and a ping.
    let mut raw = Raw::to(&proxy).await;
    let head = block(&GET);
    for turn in 0..400 {
        let stream = 2 * turn + 1;
        let bytes = [
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &head),
            frame(WINDOW_UPDATE, 0, 0, &2_u32.to_be_bytes()),
            frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 7]),
            frame(PING, 0, 0, &[7; 8]),
        ];
        raw.bytes(&bytes.concat()).await.unwrap();
        assert_eq!(raw.fate(stream).await, Ok(200), "{turn}");
    }
}

/// Fields that are small on the wire and large in memory (HPACK bombs): one entry of the table, named again and again.
#[tokio::test]
async fn a_small_block_that_becomes_a_large_head_is_refused() {
    let proxy = TlsProxy::before(Origin::echo().await);
    let mut raw = Raw::to(&proxy).await;
    let mut bomb = block(&GET);
    // A literal with incremental indexing: 4,000 bytes in the table, index 62 from then on.
    bomb.extend([0x40, 1, b'x', 127, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    for _ in 0..16 {
        bomb.extend([0xbe; 500]);
    }
    // 8,000 names of it are 32 MB of fields.
    let (first, rest) = bomb.split_at(10_000.min(bomb.len()));
    raw.frame(HEADERS, END_STREAM, 1, first).await.unwrap();
    raw.frame(CONTINUATION, END_HEADERS, 1, rest).await.unwrap();
    let fate = raw.find(|frame| frame.kind == GOAWAY || (frame.stream == 1 && matches!(frame.kind, HEADERS | RST_STREAM))).await;
    if let Some(fate) = fate.filter(|frame| frame.kind == HEADERS) {
        assert_eq!(fate.status(), 431);
    }
    lives(&proxy).await;
}
