//! Traces, as a collector sees them.

use gantry::demo::client;
use gantry::demo::host_app::Me;
use gantry::demo::rocketchat::Options;
use http::Method;

use crate::support::collector::{Collector, Span};
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::within;
use crate::support::world::{TOKEN, World, eventually, token_of};

const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SENT_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn borrowed(env: &[(String, String)]) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The spans, once there is one of this name.
async fn spans_with(collector: &Collector, name: &str) -> Vec<Span> {
    eventually(name, || async { collector.spans().iter().any(|span| span.name == name) }).await;
    collector.spans()
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {spans:#?}"))
}

/// The value of a header in a request head.
fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

#[tokio::test]
async fn a_login_is_one_trace_with_a_span_for_each_step_and_call() {
    let collector = Collector::start().await;
    let mut env = collector.env();
    env.push(("OTEL_SERVICE_NAME".into(), "chat".into()));
    env.push(("OTEL_EXPORTER_OTLP_HEADERS".into(), "x-key=s3cret%20key".into()));
    let world = World::traced(Options::default(), &[], &borrowed(&env)).await;
    let cookie = world.guest("ada");
    let token = token_of(&world.token(&cookie).await);
    let spans = spans_with(&collector, "POST token").await;

    let request = named(&spans, "POST token");
    assert_eq!((request.kind, request.parent.as_str(), request.failed), (2, "", false));
    for (key, value) in [
        ("http.request.method", "POST"),
        ("url.path", TOKEN),
        ("http.route", "token"),
        ("http.response.status_code", "200"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("url.scheme", "http"),
    ] {
        assert_eq!(request.attributes.get(key).map(String::as_str), Some(value), "{key} of {request:?}");
    }
    let ours: Vec<&Span> = spans.iter().filter(|span| span.trace == request.trace).collect();
    for step in ["session check", "account look-up", "account create", "token mint"] {
        let span = named(&spans, step);
        assert!(ours.iter().any(|other| other.id == span.parent), "{step} hangs in the air: {span:?}");
        let calls = ours.iter().filter(|other| other.parent == span.id && other.kind == 3).count();
        assert!(calls > 0 || step == "account look-up", "{step} made no call");
    }
    let asked = ours.iter().find(|span| span.attributes.get("url.path").is_some_and(|path| path == "/api/me")).expect("the host app");
    assert_eq!((asked.kind, asked.parent.as_str()), (3, named(&spans, "session check").id.as_str()));
    let looked = ours.iter().any(|span| span.attributes.get("url.path").is_some_and(|path| path == "/api/v1/users.info"));
    assert!(looked, "the look-up's call");

    assert_eq!((collector.resource()["service.name"].as_str(), collector.path().as_str()), ("chat", "/v1/traces"));
    assert_eq!((collector.header("content-type").as_str(), collector.header("x-key").as_str()), ("application/x-protobuf", "s3cret key"));
    let session = cookie.split('=').nth(1).unwrap();
    for secret in [token.as_str(), session, "ada", "s3cret", Options::default().service.token.as_str()] {
        assert!(!collector.has_seen(secret), "{secret} is in a span");
    }
}

#[tokio::test]
async fn refusals_and_failures_show() {
    let collector = Collector::start().await;
    let world = World::traced(Options::default(), &[], &borrowed(&collector.env())).await;
    let cookie = world.guest("ada");
    world.app.set_me(Me::Close);
    assert_eq!(world.token(&cookie).await.status, 503);
    let spans = spans_with(&collector, "POST token").await;
    let check = named(&spans, "session check");
    assert_eq!((check.failed, check.attributes["error.type"].as_str()), (true, "session_check_unavailable"));
    assert!(named(&spans, "POST token").failed);

    world.get("/home?resumeToken=s3cret&x=1", &[("user-agent", "a \"b\""), ("cookie", "rc_token=s3cret")]).await;
    let spans = spans_with(&collector, "GET upstream").await;
    let request = named(&spans, "GET upstream");
    assert_eq!((request.attributes["url.path"].as_str(), request.attributes["url.query"].as_str()), ("/home", "resumeToken=***&x=1"));
    let call = spans.iter().find(|span| span.parent == request.id).expect("the call to Rocket.Chat");
    assert_eq!((call.name.as_str(), call.kind), ("GET", 3));
    assert!(!collector.has_seen("s3cret"));
}

#[tokio::test]
async fn our_span_becomes_the_parent_and_strangers_choose_nothing() {
    let collector = Collector::start().await;
    let upstream = Origin::echo().await;
    let ask = |proxy: &Proxy, headers: Vec<(&'static str, &'static str)>| {
        let addr = proxy.addr;
        async move { within("an answer", client::send(addr, Method::GET, "/x", &headers, bytes::Bytes::new())).await.unwrap().text() }
    };
    let sent = vec![("traceparent", SENT), ("tracestate", "a=1")];

    let off = Proxy::before(upstream);
    let head = ask(&off, sent.clone()).await;
    assert_eq!((header(&head, "traceparent"), header(&head, "tracestate")), (Some(SENT), Some("a=1")), "untouched while traces are off");

    let mut env = collector.env();
    env.push(("OTEL_TRACES_SAMPLER".into(), "parentbased_always_off".into()));
    let strict = Proxy::traced(upstream, &[], &borrowed(&env));
    let head = ask(&strict, sent.clone()).await;
    let ours = header(&head, "traceparent").expect("ours").to_owned();
    assert!(!ours.contains(SENT_TRACE) && ours.ends_with("-00"), "a stranger neither joins nor is recorded: {ours}");
    assert_eq!(header(&head, "tracestate"), None);

    let trusting = Proxy::traced(upstream, &[("server.trusted_proxies", "127.0.0.1")], &borrowed(&env));
    let head = ask(&trusting, sent.clone()).await;
    let ours = header(&head, "traceparent").expect("ours").to_owned();
    assert!(ours.contains(SENT_TRACE) && ours.ends_with("-01") && !ours.contains("00f067aa0ba902b7"), "{ours}");
    assert_eq!(header(&head, "tracestate"), Some("a=1"));
    let spans = spans_with(&collector, "GET upstream").await;
    assert!(spans.iter().all(|span| span.trace == SENT_TRACE), "the trusted peer's decision alone was heeded: {spans:#?}");
    assert_eq!(named(&spans, "GET upstream").parent, "00f067aa0ba902b7");
    assert!(ours.contains(&named(&spans, "GET").id), "the upstream's parent is the span of the call");

    let open = Proxy::traced(upstream, &[], &borrowed(&collector.env()));
    ask(&open, sent).await;
    eventually("a link", || async { collector.spans().iter().any(|span| span.links == [SENT_TRACE]) }).await;

    let mut env = collector.env();
    env.push(("OTEL_PROPAGATORS".into(), "none".into()));
    let silent = Proxy::traced(upstream, &[], &borrowed(&env));
    let head = ask(&silent, vec![("traceparent", SENT)]).await;
    assert_eq!(header(&head, "traceparent"), Some(SENT), "told to leave it alone");
}

#[tokio::test]
async fn a_collector_that_is_down_costs_spans_and_nothing_else() {
    // A port where nobody listens, and one where nobody ever answers.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (addr, outcomes) in [(closed, &["failed"][..]), (silent.local_addr().unwrap(), &["failed", "dropped"])] {
        let endpoint = format!("http://{addr}");
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "500"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ];
        let world = World::traced(Options::default(), &[], &env).await;
        eventually("lost spans are counted", async || {
            assert_eq!(world.get("/home", &[]).await.status, 200);
            let mut counted = true;
            for outcome in outcomes {
                counted &= world.metric(&format!("gantry_trace_spans_total{{outcome=\"{outcome}\"}}")).await > 0;
            }
            counted
        })
        .await;
        world.proxy.drain();
        world.proxy.ended().await;
    }
}

#[tokio::test]
async fn a_busy_collector_is_asked_again_and_the_last_spans_go_out_at_the_end() {
    let collector = Collector::start().await;
    collector.answers(&[503]);
    let upstream = Origin::echo().await;
    let proxy = Proxy::traced(upstream, &[], &borrowed(&collector.env()));
    within("an answer", client::get(proxy.addr, "/x", &[])).await.unwrap();
    spans_with(&collector, "GET upstream").await;
    assert!(collector.posts() >= 2, "the batch was posted again");
    drop(proxy);

    let late = Collector::start().await;
    let endpoint = format!("http://{}", late.addr);
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "3600000")];
    let proxy = Proxy::traced(upstream, &[], &env);
    within("an answer", client::get(proxy.addr, "/x", &[])).await.unwrap();
    assert_eq!(late.posts(), 0, "it waits for more");
    proxy.drain();
    proxy.ended().await;
    assert!(late.spans().iter().any(|span| span.name == "GET upstream"), "flushed at the end");
}
