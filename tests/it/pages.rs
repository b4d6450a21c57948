//! Our script in Rocket.Chat's pages, and what is found about a browser while a page is made.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::{GzEncoder, ZlibEncoder};
use gantry::demo::client::Reply;
use gantry::demo::host_app::Me;
use http::Request;

use crate::support::http2::Http2;
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::tls::TlsProxy;
use crate::support::wire::{Client, ask, get};
use crate::support::world::{TOKEN, World, eventually, refused, token_of};

/// What a browser sends when a person opens a page.
const OPENS: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n";
const PAGE: &str = "<!doctype html>\n<html lang=en><head data-x=\"a>b\"><title>caf\u{e9}</title></head><body>x</body></html>\n";

fn answer_with(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn origin(fields: &str, body: &[u8]) -> std::net::SocketAddr {
    let answer = answer_with(fields, body);
    Origin::answering(move |_| answer.clone()).await
}

/// The element that was put in, and what the page was without it.
fn taken_out(page: &str) -> (String, String) {
    let at = page.find("<script src=\"/_gantry/guard.js").unwrap_or_else(|| panic!("no script in {page}"));
    let end = at + page[at..].find("</script>").expect("its end") + "</script>".len();
    (page[at..end].to_owned(), format!("{}{}", &page[..at], &page[end..]))
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(coded: &[u8]) -> String {
    let mut plain = String::new();
    MultiGzDecoder::new(coded).read_to_string(&mut plain).unwrap();
    plain
}

#[tokio::test]
async fn a_page_gets_the_script_first_in_its_head_and_is_the_same_otherwise() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(
        origin.addr,
        &[
            ("framing.allowed_ancestors", "https://app.test,https://*.example.org:8443"),
            ("cache.sessions.ttl", "45s"),
            ("session.recheck", "2m"),
        ],
    );
    let mut client = Client::to(proxy.addr).await;
    let conditions = "If-None-Match: \"1\"\r\nIf-Modified-Since: Sun, 22 Nov 2026 00:00:00 GMT\r\nRange: bytes=0-1\r\nIf-Range: \"1\"\r\n";
    let accept = "Accept-Encoding: gzip, deflate, br;q=0.5, zstd, *\r\nX-Kept: 1\r\n";
    client.send(format!("GET /channel/general?a=%20 HTTP/1.1\r\nHost: chat.test\r\n{OPENS}{conditions}{accept}\r\n")).await;
    let (mut upstream, head) = origin.next().await;
    let head = head.to_ascii_lowercase();
    for gone in ["if-none-match", "if-modified-since", "range", "if-range", "zstd", "*\r\n"] {
        assert!(!head.contains(&format!("\n{gone}:")) && !head.contains(&format!(" {gone}")), "{gone} is in {head}");
    }
    assert!(head.contains("accept-encoding: gzip, deflate\r\n") && head.contains("x-kept: 1"), "{head}");
    let fields = "Content-Type: text/html; charset=UTF-8\r\nETag: \"2\"\r\nLast-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n\
                  Digest: x\r\nContent-MD5: y\r\nCache-Control: no-cache\r\nSet-Cookie: a=b\r\nX-Kept: 2\r\n";
    upstream.send(&String::from_utf8(answer_with(fields, PAGE.as_bytes())).unwrap()).await;
    let answer = client.answer().await;
    let (element, page) = taken_out(&answer.text());
    assert_eq!(page, PAGE);
    assert!(answer.text().contains(&format!("<head data-x=\"a>b\">{element}<title>")), "{}", answer.text());
    for gone in ["etag", "last-modified", "accept-ranges", "digest", "content-md5", "content-length", "content-encoding"] {
        assert_eq!(answer.header(gone), "", "{gone}");
    }
    for (kept, value) in
        [("cache-control", "no-cache"), ("set-cookie", "a=b"), ("x-kept", "2"), ("content-type", "text/html; charset=UTF-8")]
    {
        assert_eq!(answer.header(kept), value);
    }
    for said in [
        "data-prefix=\"/_gantry/\"",
        "data-token=\"/_gantry/token\"",
        "data-base=\"\"",
        "data-ttl=\"45000\"",
        "data-recheck=\"120000\"",
        "data-ancestors=\"https://app.test https://*.example.org:8443\"",
    ] {
        assert!(element.contains(said), "{element}");
    }
    assert!(!element.contains("data-forget"), "{element}");
    assert_eq!(proxy.metric("gantry_pages_total{fate=\"guarded\"}").await, 1);

    // The script is where the page says, and may be kept for ever there.
    let src = element.split('"').nth(1).unwrap();
    let script = get(proxy.addr, src, "").await;
    assert_eq!((script.status, script.header("content-type")), (200, "text/javascript; charset=utf-8"));
    assert_eq!(script.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(get(proxy.addr, "/_gantry/guard.js?v=other", "").await.header("cache-control"), "no-store");
    let head = ask(proxy.addr, format!("HEAD {src} HTTP/1.1\r\nHost: chat.test\r\n\r\n")).await;
    assert_eq!(head.header("content-length"), script.body.len().to_string());
    let post = ask(proxy.addr, format!("POST {src} HTTP/1.1\r\nHost: chat.test\r\nContent-Length: 0\r\n\r\n")).await;
    assert_eq!((post.status, post.header("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn whatever_is_no_page_of_the_chats_passes_byte_for_byte() {
    let html = "Content-Type: text/html; charset=utf-8\r\n";
    let cases: &[(&str, &str, &str)] = &[
        // What is asked for.
        ("/", "Accept: */*\r\n", html),
        ("/", "", html),
        ("/", "Accept: text/html\r\nSec-Fetch-Dest: empty\r\n", html),
        ("/", "Accept: text/html\r\nSec-Fetch-Dest: script\r\n", html),
        ("/", "Accept: text/html\r\nCache-Control: no-transform\r\n", html),
        ("/livechat", OPENS, html),
        ("/livechat/", OPENS, html),
        ("/livechat/x.html", OPENS, html),
        ("/api/v1/x", OPENS, html),
        ("/api", OPENS, html),
        ("/file-upload/x/page.html", OPENS, html),
        ("/avatar/ada", OPENS, html),
        ("/_oauth/github", OPENS, html),
        // What is answered.
        ("/", OPENS, "Content-Type: text/plain\r\n"),
        ("/", OPENS, "Content-Type: application/xhtml+xml\r\n"),
        ("/", OPENS, "Content-Type: text/html; charset=utf-16le\r\n"),
        ("/", OPENS, "Content-Type: text/html; charset=\"Shift_JIS\"\r\n"),
        ("/", OPENS, "Content-Type: text/html\r\nContent-Disposition: attachment; filename=x.html\r\n"),
        ("/", OPENS, "Content-Type: text/html\r\nCache-Control: max-age=1, No-Transform\r\n"),
        ("/", OPENS, "Content-Type: text/html\r\nContent-Encoding: zstd\r\n"),
        ("/", OPENS, "Content-Type: text/html\r\nContent-Encoding: gzip, br\r\n"),
        ("/", OPENS, "X-No-Type: 1\r\n"),
    ];
    for (path, asked, fields) in cases {
        let fields = format!("{fields}ETag: \"kept\"\r\n");
        let proxy = Proxy::before(origin(&fields, PAGE.as_bytes()).await);
        let answer = get(proxy.addr, path, asked).await;
        assert_eq!(answer.text(), PAGE, "{path} {asked} {fields}");
        assert_eq!(
            (answer.header("etag"), answer.header("content-length")),
            ("\"kept\"", &*PAGE.len().to_string()),
            "{path} {asked} {fields}"
        );
    }
    // A path that only begins like one of those.
    let proxy = Proxy::before(origin(html, PAGE.as_bytes()).await);
    for path in ["/livechats", "/apis", "/home", "/avatars/x"] {
        assert_eq!(taken_out(&get(proxy.addr, path, OPENS).await.text()).1, PAGE, "{path}");
    }
    for dest in ["iframe", "frame"] {
        let answer = get(proxy.addr, "/", &format!("Accept: text/html\r\nSec-Fetch-Dest: {dest}\r\n")).await;
        assert_eq!(taken_out(&answer.text()).1, PAGE, "{dest}");
    }
    let post = format!("POST / HTTP/1.1\r\nHost: chat.test\r\n{OPENS}Content-Length: 0\r\n\r\n");
    assert_eq!(ask(proxy.addr, post).await.text(), PAGE);

    // Other statuses.
    for status in ["404 Not Found", "206 Partial Content\r\nContent-Range: bytes 0-1/9", "500 No"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{PAGE}", PAGE.len());
        let proxy = Proxy::before(Origin::answering(move |_| answer.clone().into_bytes()).await);
        assert_eq!(get(proxy.addr, "/", OPENS).await.text(), PAGE, "{status}");
    }

    // Switched off, nothing is done, and nothing taken out of requests.
    let proxy = Proxy::with(Origin::echo().await, &[("session.guard_script", "false")]);
    let seen = get(proxy.addr, "/", &format!("{OPENS}If-None-Match: \"1\"\r\nAccept-Encoding: zstd\r\n")).await.text().to_ascii_lowercase();
    assert!(seen.contains("if-none-match: \"1\"") && seen.contains("accept-encoding: zstd"), "{seen}");
    assert_eq!(get(proxy.addr, "/_gantry/guard.js", "").await.status, 404);
}

#[tokio::test]
async fn a_compressed_page_is_read_and_compressed_again_where_that_is_taken() {
    let zlib = |plain: &[u8]| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    };
    let brotli: &[u8] = include_bytes!("../../src/html/testdata/page.html.br");
    let long = PAGE.replace("<body>", &format!("<body>{}", "<p>words and more words</p>".repeat(40_000)));
    assert!(long.len() > 1 << 20);
    for (coding, body, plain) in [
        ("gzip", gzip(PAGE.as_bytes()), PAGE),
        ("GZip", gzip(long.as_bytes()), long.as_str()),
        ("deflate", zlib(long.as_bytes()), &long),
        ("br", brotli.to_vec(), "<!doctype html><html><head><title>x</title></head><body>brotli</body></html>\n"),
    ] {
        let fields = format!("Content-Type: text/html; charset=utf-8\r\nContent-Encoding: {coding}\r\nVary: Accept-Encoding\r\n");
        let proxy = Proxy::before(origin(&fields, &body).await);
        for (accepts, again) in
            [("gzip, br", true), ("*", true), ("x-gzip;q=0.1", true), ("br, gzip;q=0", false), ("identity", false), ("*;q=0", false)]
        {
            let asked = format!("{OPENS}Accept-Encoding: {accepts}\r\n");
            let answer = get(proxy.addr, "/", &asked).await;
            assert_eq!(answer.header("content-encoding"), if again { "gzip" } else { "" }, "{coding} {accepts}");
            let page = if again { gunzip(&answer.body) } else { answer.text() };
            assert!(answer.whole && taken_out(&page).1 == plain, "{coding} {accepts}");
            let head = ask(proxy.addr, format!("HEAD / HTTP/1.1\r\nHost: chat.test\r\n{asked}\r\n")).await;
            for name in ["content-encoding", "content-length", "vary", "content-type", "etag"] {
                assert_eq!(head.header(name), answer.header(name), "{coding} {accepts} {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_that_comes_slowly_is_passed_on_as_it_comes() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::before(origin.addr);
    let mut client = Client::to(proxy.addr).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: chat.test\r\n{OPENS}\r\n")).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.try_head().await.unwrap();
    let mut seen = Vec::new();
    for (piece, mark) in
        [("<!doctype html><html>", "<html>"), ("<head>", "</script>"), ("<title>x</title>", "</title>"), ("<p>one", "<p>one")]
    {
        upstream.send(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        // The rest is not sent before this has arrived.
        while !String::from_utf8_lossy(&seen).contains(mark) {
            seen.extend(client.read(1).await);
        }
    }
    // What breaks off is seen to break off.
    drop(upstream);
    let (rest, _) = client.rest().await;
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn what_breaks_off_never_looks_whole() {
    let coded = gzip(PAGE.repeat(50).as_bytes());
    // Whole as a message, and broken as gzip; and the other way round.
    let broken = answer_with("Content-Type: text/html\r\nContent-Encoding: gzip\r\n", &coded[..coded.len() - 9]);
    let mut short = answer_with("Content-Type: text/html\r\n", PAGE.as_bytes());
    short.truncate(short.len() - 1);
    for (name, answer) in [("gzip", broken), ("length", short)] {
        let mut origin = Origin::start().await;
        let proxy = Proxy::before(origin.addr);
        let mut client = Client::to(proxy.addr).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: chat.test\r\n{OPENS}\r\n")).await;
        let (mut upstream, _) = origin.next().await;
        tokio::io::AsyncWriteExt::write_all(&mut upstream.tcp, &answer).await.unwrap();
        drop(upstream);
        // Not even a head, where that had not gone out yet.
        assert!(client.answer_to("GET").await.is_none_or(|answer| !answer.whole), "{name}");
    }
}

#[tokio::test]
async fn a_page_that_would_have_to_be_kept_passes_as_it_is_and_is_counted() {
    let mut origin = Origin::start().await;
    let proxy = Proxy::with(origin.addr, &[("limits.page_memory", "8192")]);
    let mut client = Client::to(proxy.addr).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: chat.test\r\n{OPENS}\r\n")).await;
    let (mut upstream, _) = origin.next().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut page = String::from("<html><head data-x='");
    upstream.send(&format!("{:x}\r\n{page}\r\n", page.len())).await;
    let piece = "y".repeat(1000);
    for _ in 0..20 {
        upstream.send(&format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        page += &piece;
    }
    upstream.send("a\r\n'><title>x\r\n0\r\n\r\n").await;
    page += "'><title>x";
    let answer = client.answer().await;
    assert!(answer.whole && answer.text() == page, "{}", answer.text());
    assert_eq!(proxy.metric("gantry_limit_hits_total{limit=\"page_memory\"}").await, 1);
}

/// A browser's request for a page, as the stand-in workspace makes it.
async fn open(world: &World, cookies: &str) -> Reply {
    world.get("/home", &[("accept", "text/html"), ("sec-fetch-dest", "document"), ("cookie", cookies)]).await
}

fn set_cookies(reply: &Reply) -> Vec<String> {
    reply.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap().to_owned()).collect()
}

/// Signs in: the token, and our cookie.
async fn bound(world: &World, host: &str) -> (String, String) {
    let reply = world.token(host).await;
    let ours = set_cookies(&reply).concat().split(';').next().unwrap().to_owned();
    assert!(ours.starts_with("gantry_chat="), "{ours}");
    (token_of(&reply), ours)
}

/// As the script computes it.
fn fingerprint(token: &str) -> String {
    let hash = token.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

#[tokio::test]
async fn a_page_for_another_person_is_told_to_forget_the_last_one() {
    for script in ["true", "false"] {
        let world = World::keys(&[("session.guard_script", script)]).await;
        let (ada, grace) = (world.settled("ada"), world.settled("grace"));
        let (token, ours) = bound(&world, &ada).await;

        let page = open(&world, &format!("{ada}; {ours}")).await;
        assert!(!page.text().contains("data-forget") && set_cookies(&page).is_empty(), "{}", page.text());
        assert!(world.chat.is_live(&token));

        // Somebody else; then nobody.
        for other in [grace.as_str(), ""] {
            let (token, ours) = if other.is_empty() { bound(&world, &ada).await } else { (token.clone(), ours.clone()) };
            let page = open(&world, &format!("{other}; {ours}")).await;
            assert_eq!((page.status, page.header("cache-control")), (200, "no-store"));
            assert_eq!(set_cookies(&page), ["gantry_chat=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"]);
            let told = format!("data-forget=\"{}\"", fingerprint(&token));
            assert_eq!(page.text().contains(&told), script == "true", "{}", page.text());
            eventually("the end of the first one's token", async || !world.chat.is_live(&token)).await;
        }
        assert_eq!(world.metric("gantry_pages_total{fate=\"forgetful\"}").await, if script == "true" { 2 } else { 0 });
    }
}

#[tokio::test]
async fn a_page_does_not_wait_for_a_host_app_that_does_not_answer() {
    let world = World::keys(&[("session.page_wait", "50ms"), ("cache.sessions.ttl", "0s")]).await;
    let ada = world.settled("ada");
    let (token, ours) = bound(&world, &ada).await;
    world.app.set_me(Me::Hang);
    let page = open(&world, &format!("{ada}; {ours}")).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("guard.js") && !page.text().contains("data-forget") && set_cookies(&page).is_empty());
    assert_eq!(world.metric("gantry_limit_hits_total{limit=\"page_wait\"}").await, 1);
    assert!(world.chat.is_live(&token));
}

#[tokio::test]
async fn the_mobile_apps_web_view_is_signed_in_by_our_page_alone() {
    let world = World::start().await;
    let ada = world.settled("ada");
    let (token, ours) = bound(&world, &ada).await;
    let cookies = format!("{ada}; {ours}; gantry_view=app");
    let reply = world.post(TOKEN, &[("cookie", cookies.as_str())], "").await;
    refused(&reply, 401, "no_session");
    assert!(set_cookies(&reply).is_empty() && world.chat.is_live(&token));
    let reply = world.post(TOKEN, &[("cookie", cookies.as_str()), ("x-gantry-page", "1")], "").await;
    assert_eq!(token_of(&reply), token);
    for other in ["gantry_view=web", "gantry_view=", "xgantry_view=app"] {
        token_of(&world.post(TOKEN, &[("cookie", format!("{ada}; {other}").as_str())], "").await);
    }
}

#[tokio::test]
async fn pages_over_http_2_are_the_same() {
    let body = gzip(PAGE.as_bytes());
    let proxy = TlsProxy::before(origin("Content-Type: text/html\r\nContent-Encoding: gzip\r\nETag: \"1\"\r\n", &body).await);
    let client = Http2::to(&proxy).await;
    for (method, accepts) in [("GET", "br"), ("GET", "gzip"), ("HEAD", "gzip")] {
        let request = Request::builder().method(method).uri("https://chat.test/home").header("accept", "text/html");
        let answer = client.ask(request.header("accept-encoding", accepts).body(()).unwrap()).await.unwrap();
        assert_eq!((answer.header("etag"), answer.header("content-length")), ("", ""), "{method} {accepts}");
        assert_eq!(answer.header("content-encoding"), if accepts == "gzip" { "gzip" } else { "" });
        let page = match (method, accepts) {
            ("HEAD", _) => continue,
            (_, "gzip") => gunzip(&answer.body),
            _ => answer.text(),
        };
        assert_eq!(taken_out(&page).1, PAGE);
    }
}
