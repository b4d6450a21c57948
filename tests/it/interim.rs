//! What comes before the answer (1xx), and the client that waits for it.

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::Client;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 3\r\n\r\n";

#[tokio::test]
async fn interim_answers_reach_the_client_before_the_final_one_exists() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(HINTS).await;
    assert_eq!(client.try_head().await.unwrap(), "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload");
    upstream.send("HTTP/1.1 102 Processing\r\n\r\n").await;
    assert_eq!(client.try_head().await.unwrap(), "HTTP/1.1 102 Processing");
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn interim_answers_keep_their_place_among_pipelined_ones() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET /1 HTTP/1.1\r\nHost: chat.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    // All at once: the hints and what they belong to.
    upstream.send(&format!("{HINTS}{OK}")).await;
    assert!(upstream.head().await.starts_with("GET /2 "));
    upstream.send(&format!("{HINTS}{OK}")).await;
    for _ in 0..2 {
        assert!(client.try_head().await.unwrap().starts_with("HTTP/1.1 103 "));
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
}

#[tokio::test]
async fn http_1_0_hears_the_final_answer_alone_and_does_not_wait() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST / HTTP/1.0\r\nHost: chat.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody").await;
    let (mut upstream, head) = origin.next().await;
    assert!(!head.contains("expect"), "{head}");
    assert_eq!(upstream.read(4).await, b"body");
    upstream.send(&format!("{HINTS}{OK}")).await;
    assert!(client.try_head().await.unwrap().contains(" 200 OK\r\n"));
}

#[tokio::test]
async fn continue_is_said_when_the_upstream_says_it() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: chat.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    let (mut upstream, head) = origin.next().await;
    assert!(head.contains("expect: 100-continue"), "{head}");
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.try_head().await.unwrap(), "HTTP/1.1 100 Continue");
    client.send("body").await;
    assert_eq!(upstream.read(4).await, b"body");
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn a_refused_expectation_costs_no_body() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: chat.test\r\nExpect: 100-continue\r\nContent-Length: 4000000\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
    assert!(client.try_head().await.unwrap().starts_with("HTTP/1.1 417 "), "no 100 comes first");
}

#[tokio::test]
async fn other_interim_answers_do_not_count_as_continue() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: chat.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    for expected in ["HTTP/1.1 102 Processing", "HTTP/1.1 100 Continue"] {
        assert_eq!(client.try_head().await.unwrap(), expected);
    }
    client.send("body").await;
    assert_eq!(upstream.read(4).await, b"body");
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn a_storm_of_interim_answers_is_survived() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    let (mut upstream, _) = origin.next().await;
    upstream.send(&HINTS.repeat(100)).await;
    upstream.send(OK).await;
    assert_eq!(client.answer().await.text(), "ok");
    // One more than `limits.answer_interim`, and what comes behind it is not waited for.
    client.send("GET / HTTP/1.1\r\nHost: chat.test\r\n\r\n").await;
    upstream.head().await;
    upstream.send(&HINTS.repeat(101)).await;
    assert_eq!(client.answer().await.status, 502);
    upstream.closed().await;
}
