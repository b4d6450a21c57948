//! Host apps, key sets and workspaces that answer gigabytes, never end, send one byte now and then, lead in circles: what
//! that costs is bounded in bytes, in time and in connections, and it is told apart from "nobody is signed in".

use std::time::{Duration, Instant};

use super::support::keys::{Pair, claims};
use super::support::world::{World, eventually, refused};
use super::support::wrong::{Peer, Wrong};

/// Far above what the bounds add up to with the buffers of two sockets, far below what would be sent without them.
const MOST_WRITTEN: u64 = 32 << 20;
/// Far above the time-outs that are set here.
const LONGEST: Duration = Duration::from_secs(10);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

/// Every way to go wrong, and the reason that is counted for it. Each begins where a good answer would.
fn wrongs() -> Vec<(&'static str, Wrong, &'static str)> {
    let endless = |first: &str, more: &str| Wrong::Endless(first.to_owned(), more.to_owned());
    let drip = |first: &str, more: &str| Wrong::Drip(first.to_owned(), more.to_owned());
    let whole = |head: &str, body: &str| Wrong::Whole(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
    let chunked = format!("{OK}Transfer-Encoding: chunked\r\n\r\n");
    vec![
        ("gigabytes in chunks", endless(&chunked, &format!("1000\r\n{}\r\n", "[".repeat(0x1000))), "body_too_large"),
        ("gigabytes, announced", endless(&format!("{OK}Content-Length: 10000000000\r\n\r\n"), " "), "body_too_large"),
        ("gigabytes until the end", endless(&format!("{OK}Connection: close\r\n\r\n"), " "), "body_too_large"),
        ("endless header fields", endless(OK, "X-More: and more\r\n"), "head_too_large"),
        ("an endless header field", endless(&format!("{OK}X-More: "), "x"), "head_too_large"),
        ("an endless status line", endless("HTTP/1.1 200 ", "O"), "head_too_large"),
        ("interim answers without end", endless("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), "head_too_large"),
        ("an endless chunk size", endless(&chunked, "0"), "body_too_large"),
        ("endless chunk extensions", endless(&format!("{chunked}1"), ";x=y"), "broken"),
        ("endless trailers", endless(&format!("{chunked}2\r\n{{}}\r\n0\r\n"), "X-More: and more\r\n"), "broken"),
        ("garbage", endless("\u{1}\u{2}\u{3}", "\u{0}garbage"), "broken"),
        ("silence", Wrong::Silent, "timeout"),
        ("a byte now and then of the head", drip("HTTP/1.1 200 OK\r\n", "X-More: and more\r\n"), "timeout"),
        ("a byte now and then of the body", drip(&format!("{OK}Content-Length: 60000\r\n\r\n"), " "), "timeout"),
        ("interim answers now and then", drip("", "HTTP/1.1 100 Continue\r\n\r\n"), "timeout"),
        ("in circles", whole("HTTP/1.1 302 Found\r\nLocation: /api/me\r\n", ""), "redirect"),
        ("for ever elsewhere", whole("HTTP/1.1 308 Permanent Redirect\r\nLocation: http://127.0.0.1:9/\r\n", ""), "redirect"),
        // Ten bytes of it would unpack to a gigabyte: nothing is ever unpacked.
        ("compressed", whole(&format!("{OK}Content-Encoding: gzip\r\n"), "\u{1f}\u{8b}bomb"), "encoded"),
        ("compressed twice", whole(&format!("{OK}Content-Encoding: br, gzip\r\n"), "{}"), "encoded"),
        ("a page", whole("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", "<!DOCTYPE html><title>Sign in</title>"), "not_json"),
        ("an image", whole("HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n", "\u{89}PNG\r\n"), "not_json"),
        ("JSON nested deeply", whole(OK, &"[".repeat(60_000)), "not_json"),
        ("objects nested deeply", whole(OK, &"{\"a\":".repeat(10_000)), "not_json"),
        ("a number that is none", whole(OK, &format!("{{\"sub\":{}}}", "9".repeat(60_000))), "not_json"),
        ("an exponent without measure", whole(OK, "{\"sub\":1e999999999}"), "not_json"),
        ("half of it", whole(OK, "{\"sub\":\"ada\","), "not_json"),
    ]
}

/// Waits until what went wrong costs nothing any more, and looks at what it has cost.
async fn bounded(what: &str, peer: &Peer, began: Instant, keeps: bool) {
    assert!(began.elapsed() < LONGEST, "{what}: {:?}", began.elapsed());
    assert!(peer.written() < MOST_WRITTEN, "{what}: {} bytes were taken", peer.written());
    if !keeps {
        eventually(&format!("{what}: the connection ends"), async || peer.open() == 0).await;
    }
}

/// Whether the connection is of use after such an answer.
fn keeps(wrong: &Wrong) -> bool {
    matches!(wrong, Wrong::Whole(_))
}

#[tokio::test]
async fn a_host_app_that_goes_wrong_costs_little_and_signs_nobody_in_or_out() {
    for (what, wrong, reason) in wrongs() {
        let peer = Peer::start(wrong.clone()).await;
        let url = format!("http://{}/api/me", peer.addr);
        let world = World::keys(&[("identity.forward_auth.url", &url), ("identity.forward_auth.timeout", "1s")]).await;
        let began = Instant::now();
        let reply = world.token("session=1").await;
        assert_eq!((reply.status, reply.json()["error"].as_str()), (503, Some("session_check_unavailable")), "{what}: {}", reply.text());
        refused(&reply, 503, "session_check_unavailable");
        bounded(what, &peer, began, keeps(&wrong)).await;
        assert_eq!(peer.requests(), 1, "{what}");
        let series = format!("gantry_outbound_failures_total{{reason=\"{reason}\",target=\"host_app\"}}");
        assert_eq!(world.metric(&series).await, 1, "{what}");
        assert_eq!(world.metric("gantry_outbound_calls{target=\"host_app\"}").await, 0, "{what}");
    }
}

#[tokio::test]
async fn a_key_set_that_goes_wrong_costs_little_and_believes_nobody() {
    let pair = Pair::p256("a");
    let token = format!("session={}", pair.sign(&claims("ada"), "a"));
    for (what, wrong, reason) in wrongs() {
        let peer = Peer::start(wrong.clone()).await;
        let url = format!("http://{}/jwks", peer.addr);
        let world = World::keys(&[
            ("identity.source", "jwt"),
            ("identity.jwt.cookie", "session"),
            ("identity.jwt.algorithms", "ES256"),
            ("identity.jwt.jwks_url", &url),
            ("identity.jwt.jwks_timeout", "1s"),
            ("identity.jwt.audience", "chat"),
        ])
        .await;
        let began = Instant::now();
        let reply = world.token(&token).await;
        assert_eq!((reply.status, reply.json()["error"].as_str()), (503, Some("session_check_unavailable")), "{what}: {}", reply.text());
        bounded(what, &peer, began, keeps(&wrong)).await;
        let series = format!("gantry_outbound_failures_total{{reason=\"{reason}\",target=\"jwks\"}}");
        let asked = u64::try_from(peer.requests()).unwrap();
        assert_eq!((asked, world.metric(&series).await), (1, 1), "{what}");
    }
}

#[tokio::test]
async fn a_workspace_that_goes_wrong_costs_little_and_signs_nobody_in() {
    for (what, wrong, reason) in wrongs() {
        let peer = Peer::start(wrong.clone()).await;
        let url = format!("http://{}", peer.addr);
        let world = World::keys(&[("rocketchat.url", &url), ("rocketchat.timeout", "1s"), ("login.timeout", "5s")]).await;
        let cookie = world.guest("ada");
        let began = Instant::now();
        let reply = world.token(&cookie).await;
        assert_eq!((reply.status, reply.json()["error"].as_str()), (503, Some("rocketchat_unavailable")), "{what}: {}", reply.text());
        assert!(began.elapsed() < LONGEST, "{what}: {:?}", began.elapsed());
        // Its pings go on, so there is more than one call.
        let each = peer.written() / u64::try_from(peer.requests().max(1)).unwrap();
        assert!(each < MOST_WRITTEN, "{what}: {each} bytes a call");
        let series = format!("gantry_outbound_failures_total{{reason=\"{reason}\",target=\"rocketchat\"}}");
        assert!(world.metric(&series).await >= 1, "{what}");
    }
}

#[tokio::test]
async fn honest_answers_of_any_shape_are_read() {
    let padded = format!("{{\"sub\":\"1\",\"preferred_username\":\"ada\",\"email\":\"ada@app.test\",\"more\":\"{}\"}}", "x".repeat(60_000));
    let length = padded.len();
    let bytewise: String = padded.chars().flat_map(|c| ["1\r\n".to_owned(), c.to_string(), "\r\n".to_owned()]).collect();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n".repeat(50);
    let wide = "X-Filler: some eighty bytes of a header field that means nothing to anybody at all\r\n".repeat(60);
    for (what, answer) in [
        ("with a length", format!("{OK}Content-Length: {length}\r\n\r\n{padded}")),
        ("a byte in each chunk", format!("{OK}Transfer-Encoding: chunked\r\n\r\n{bytewise}0\r\n\r\n")),
        (
            "chunks, extensions and trailers",
            format!("{OK}Transfer-Encoding: chunked\r\n\r\n{length:x};a=b\r\n{padded}\r\n0\r\nX-Sum: 1\r\n\r\n"),
        ),
        ("behind interim answers", format!("{hints}{OK}Content-Length: {length}\r\n\r\n{padded}")),
        ("behind many fields", format!("{OK}{wide}Content-Length: {length}\r\n\r\n{padded}")),
        ("in no coding", format!("{OK}Content-Encoding: identity\r\nContent-Length: {length}\r\n\r\n{padded}")),
    ] {
        let peer = Peer::start(Wrong::Whole(answer)).await;
        let url = format!("http://{}/api/me", peer.addr);
        // The least that can be set.
        let world = World::keys(&[("identity.forward_auth.url", &url), ("limits.call_head", "8192"), ("cache.sessions.ttl", "0s")]).await;
        for _ in 0..5 {
            let reply = world.token("session=1").await;
            assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        }
        // One connection serves them all.
        assert_eq!((peer.requests(), peer.open()), (5, 1), "{what}");
    }
}

#[tokio::test]
async fn a_session_without_measure_is_none() {
    let world = World::keys(&[("identity.forward_auth.request_headers", "cookie,authorization")]).await;
    let cookie = world.settled("ada");
    let long = "x".repeat(17_000);
    for header in [("cookie", format!("{cookie}; more={long}")), ("authorization", format!("Bearer {long}"))] {
        refused(&world.post("/_gantry/token", &[(header.0, &header.1)], "").await, 401, "no_session");
    }
    assert_eq!(world.app.me_calls(), 0);
    let fits = format!("{cookie}; more={}", "x".repeat(12_000));
    assert_eq!(world.token(&fits).await.status, 200);
}

#[tokio::test]
async fn a_claim_without_measure_is_told_and_kept_nowhere() {
    let long = "x".repeat(60_000);
    for body in [
        format!("{{\"sub\":\"{long}\",\"preferred_username\":\"ada\"}}"),
        format!("{{\"sub\":\"1\",\"preferred_username\":\"{long}\"}}"),
        format!("{{\"sub\":\"1\",\"preferred_username\":\"ada\",\"groups\":[\"{long}\"]}}"),
    ] {
        let peer = Peer::start(Wrong::Whole(format!("{OK}Content-Length: {}\r\n\r\n{body}", body.len()))).await;
        let world = World::keys(&[("identity.forward_auth.url", &format!("http://{}/api/me", peer.addr))]).await;
        refused(&world.token("session=1").await, 500, "misconfigured");
        assert_eq!(world.metric("gantry_cache_entries{cache=\"sessions\"}").await, 0);
    }
}

#[tokio::test]
async fn nothing_compressed_is_asked_for() {
    let world = World::keys(&[("identity.forward_auth.request_headers", "cookie,accept-language")]).await;
    let cookie = world.settled("ada");
    world.post("/_gantry/token", &[("cookie", &cookie), ("accept-encoding", "gzip, br"), ("accept-language", "de")], "").await;
    let headers = world.app.me_headers();
    assert!(headers.iter().all(|headers| !headers.contains_key("accept-encoding")) && !headers.is_empty());
    assert!(world.chat.requests().iter().all(|request| !request.headers.contains_key("accept-encoding")));
}
