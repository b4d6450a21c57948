//! What the workspace says wrong, half or too much never reaches a client as something else.

use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::wire::{Client, get};

const GET: &str = "GET /g HTTP/1.1\r\nHost: chat.test\r\n\r\n";
/// An answer that nobody asked for.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";

#[tokio::test]
async fn nonsense_is_502_and_asked_for_once() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    for answer in [
        "garbage\r\n\r\n",
        "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 \r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX A: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nabc\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: abc\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nX: y",
    ] {
        let mut client = Client::to(proxy.addr).await;
        client.send("POST /p HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 0\r\n\r\n").await;
        let (mut upstream, head) = origin.next().await;
        assert!(head.starts_with("POST /p "), "{answer:?} was asked for again: {head}");
        upstream.send(answer).await;
        drop(upstream);
        assert_eq!(client.answer().await.status, 502, "{answer:?}");
        client.send(GET).await;
        let (mut upstream, head) = origin.next().await;
        assert!(head.starts_with("GET /g "), "{answer:?} was asked for again: {head}");
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
        assert_eq!(client.answer().await.text(), "ok", "behind {answer:?}");
    }
}

#[tokio::test]
async fn what_broke_off_does_not_look_whole() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (head, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "abc"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", ""),
        (chunked, "9\r\nabc"),
        (chunked, "3\r\nabc\r\n"),
        (chunked, "3\r\nabc\r\n1"),
        (chunked, "3\r\nabc\r\n0\r\n"),
        (chunked, "3\r\nabc\r\n0\r\nX: y\r\n"),
        (chunked, ""),
        (chunked, "zz\r\nabc\r\n0\r\n\r\n"),
        (chunked, "-3\r\nabc\r\n0\r\n\r\n"),
        (chunked, "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        (chunked, "3\r\nabcX\r\n0\r\n\r\n"),
        (chunked, "3\nabc\n0\n\n"),
        (chunked, "0x3\r\nabc\r\n0\r\n\r\n"),
        (chunked, "3\r\nabc\r\n0\r\nX: y\n\r\n"),
    ] {
        for version in ["1.1", "1.0"] {
            let mut client = Client::to(proxy.addr).await;
            client.send(format!("GET /g HTTP/{version}\r\nHost: chat.test\r\n\r\n")).await;
            let (mut upstream, _) = origin.next().await;
            upstream.send(&format!("{head}{body}")).await;
            drop(upstream);
            // To HTTP/1.0 the end of a body without a length is told by a reset alone.
            let Some(answer) = client.answer_to("GET").await else { continue };
            let whole = answer.status == 200 && answer.whole;
            assert!(!whole && client.rest().await.0.is_empty(), "{body:?} to {version}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn what_comes_behind_an_answer_is_no_answer() {
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 45\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n"),
        ("GET", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
    ] {
        for behind in [EVIL, "X", "\r\n\r\ngarbage"] {
            let mut origin = Origin::start().await;
            let proxy = Proxy::before(origin.addr);
            let mut client = Client::to(proxy.addr).await;
            client.send(format!("{method} /g HTTP/1.1\r\nHost: chat.test\r\n\r\n")).await;
            let (mut poisoned, _) = origin.next().await;
            poisoned.send(&format!("{answer}{behind}")).await;
            assert!(client.answer_to(method).await.is_some(), "{answer:?}");
            let mut client = Client::to(proxy.addr).await;
            client.send(GET).await;
            let (mut upstream, _) = origin.next().await;
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nclean").await;
            assert_eq!(client.answer().await.text(), "clean", "{answer:?} and {behind:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_in_its_head_is_not_asked_for_again() {
    for piece in ["H", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nX: y\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let mut origin = Origin::start().await;
        let proxy = Proxy::before(origin.addr);
        let mut client = Client::to(proxy.addr).await;
        client.send(GET).await;
        let (mut upstream, _) = origin.next().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer().await.text(), "ok");
        client.send(GET).await;
        upstream.head().await;
        upstream.send(piece).await;
        drop(upstream);
        assert_eq!(client.answer().await.status, 502, "{piece:?}");
    }
}

#[tokio::test]
async fn many_fields_pass() {
    let fields = (0..150).fold(String::new(), |fields, n| format!("{fields}X-{n}: {n}\r\n"));
    let origin = Origin::answering(move |_| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok").into_bytes()).await;
    let proxy = Proxy::before(origin);
    let answer = get(proxy.addr, "/", "").await;
    assert_eq!((answer.status, answer.header("x-149"), answer.text().as_str()), (200, "149", "ok"));
}

#[tokio::test]
async fn interim_answers_have_no_body_whatever_they_say() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send(GET).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nLink: x\r\n\r\n").await;
    assert_eq!(client.try_head().await.unwrap(), "HTTP/1.1 103 Early Hints\r\nlink: x");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await.text(), "ok");
}
