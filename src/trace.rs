//! Traces: the spans of one request, and the W3C context that joins them with those of others.
//!
//! Where traces are off, a [`Span`] is nothing and every method returns at once. What is exported, and
//! where to, is for [`telemetry`](crate::telemetry). No span ever holds a credential, a name or a query
//! that was not redacted.

use std::borrow::Cow;
use std::future::Future;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{Link, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

use crate::error::Refusal;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

tokio::task_local! {
    /// The span that the steps of a login belong to. A login crosses caches and tasks that know nothing of
    /// requests, so it travels with the task.
    static CURRENT: Span;
}

/// Begins spans. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    tracer: SdkTracer,
    /// Whether `traceparent` is read and written (`OTEL_PROPAGATORS`).
    propagates: bool,
}

/// One span; nothing where traces are off. Clones are the same span. It ends with [`Span::end`], or when
/// the last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Span(Option<Open>);

#[derive(Clone, Debug)]
struct Open {
    tracer: Tracer,
    context: Context,
}

impl Tracer {
    /// Spans go to `tracer`; with `propagates` their context is read from and written to headers.
    pub fn new(tracer: SdkTracer, propagates: bool) -> Self {
        Self { tracer, propagates }
    }

    /// The span of a request that came in.
    ///
    /// The context that a `trusted` peer sent becomes its parent, and its sampling decision counts where
    /// the sampler heeds parents. A stranger's becomes a link of a new trace: whoever chooses the trace id
    /// or the flag would choose what is recorded, and for whose money.
    pub fn request(&self, name: String, headers: &HeaderMap, trusted: bool) -> Span {
        let sent = self.propagates.then(|| incoming(headers)).flatten();
        let mut builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        let parent = match sent {
            Some(sent) if trusted => Context::new().with_remote_span_context(sent),
            Some(sent) => {
                builder = builder.with_links(vec![Link::with_context(sent)]);
                Context::new()
            }
            None => Context::new(),
        };
        self.open(builder, &parent)
    }

    fn open(&self, builder: SpanBuilder, parent: &Context) -> Span {
        let span = self.tracer.build_with_context(builder, parent);
        Span(Some(Open { tracer: self.clone(), context: parent.with_span(span) }))
    }
}

impl Span {
    /// No span.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether anything that is said to it is kept.
    pub fn is_recording(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.context.span().is_recording())
    }

    /// The trace's id, 32 hex digits.
    pub fn trace_id(&self) -> Option<String> {
        self.0.as_ref().map(|open| open.context.span().span_context().trace_id().to_string())
    }

    /// A span below this one.
    #[must_use]
    pub fn child(&self, name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        let Some(open) = &self.0 else { return Self(None) };
        open.tracer.open(SpanBuilder::from_name(name).with_kind(kind), &open.context)
    }

    /// Whether there is a trace at all, recorded or not: then its context goes on.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a call below this one: an HTTP request that we send. `path` is without credentials.
    #[must_use]
    pub fn call(&self, method: &Method, host: &str, port: u16, path: impl FnOnce() -> String) -> Self {
        let call = self.child(method_name(method), SpanKind::Client);
        if call.is_recording() {
            call.set("http.request.method", method_name(method));
            call.set("server.address", host.to_owned());
            call.set("server.port", i64::from(port));
            call.set("url.path", path());
        }
        call
    }

    /// Notes an attribute.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(open) = &self.0 {
            open.context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Notes the status of the answer. What is an error is for the side that asks to know: 4xx is one for
    /// a client span, and not for a server's.
    pub fn answered(&self, status: StatusCode, from: u16) {
        if !self.is_recording() {
            return;
        }
        self.set("http.response.status_code", i64::from(status.as_u16()));
        if status.as_u16() >= from {
            self.failed(status.as_str().to_owned());
        }
    }

    /// Notes that it failed: `kind` is a word of a closed set.
    pub fn failed(&self, kind: impl Into<Cow<'static, str>>) {
        if let Some(open) = &self.0 {
            let kind = kind.into();
            open.context.span().set_attribute(KeyValue::new("error.type", kind.clone()));
            open.context.span().set_status(Status::error(kind));
        }
    }

    /// Writes the context into the headers of a request that is sent on.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let Some(open) = self.0.as_ref().filter(|open| open.tracer.propagates) else { return };
        // Whatever came under these names belongs to another span.
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
        TraceContextPropagator::new().inject_context(&open.context, &mut Writes(headers));
    }

    /// Ends it now.
    pub fn end(&self) {
        if let Some(open) = &self.0 {
            open.context.span().end();
        }
    }

    /// Runs `future` with this span as the one that `child`, [`step`] and [`current`] see.
    pub async fn around<F: Future>(&self, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).await
    }
}

/// The span that this task runs in; none outside of a traced request.
pub fn current() -> Span {
    CURRENT.try_with(Span::clone).unwrap_or_default()
}

/// `future` for another task, which shall run in the span of this one.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let span = current();
    async move { span.around(future).await }
}

/// One step of a login, in a span of its own.
pub async fn step<T>(name: &'static str, future: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    step_or(name, future, |refusal| refusal.kind.code()).await
}

/// The same for other errors, of which `word` makes one of a closed set.
pub async fn step_or<T, E>(
    name: &'static str,
    future: impl Future<Output = Result<T, E>>,
    word: impl FnOnce(&E) -> &'static str,
) -> Result<T, E> {
    let span = current().child(name, SpanKind::Internal);
    // Boxed, for steps stand within steps, and each would hold its inner ones twice.
    let outcome = span.around(Box::pin(future)).await;
    if let Err(error) = &outcome {
        span.failed(word(error));
    }
    span.end();
    outcome
}

/// The method as the semantic conventions want it: unknown ones are one, since anybody may make them up.
pub fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

/// The context in the headers (W3C Trace Context, level 1); none where there are two, or it is malformed.
fn incoming(headers: &HeaderMap) -> Option<SpanContext> {
    let mut fields = headers.get_all(&TRACEPARENT).iter();
    let parent = fields.next().filter(|_| fields.next().is_none())?.to_str().ok().filter(|text| is_traceparent(text))?;
    let state: Vec<&str> = headers.get_all(&TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let read = Reads { parent, state: state.join(",") };
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &read);
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Whether the fields of version 00 have their lengths and are lower-case hex (§3.2.2); a later version may
/// have more behind them. The reader below would take shorter numbers too.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let fits = |part: Option<&str>, len| {
        part.is_some_and(|part| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    fits(parts.next(), 2) && fits(parts.next(), 32) && fits(parts.next(), 16) && fits(parts.next(), 2)
}

struct Reads<'h> {
    parent: &'h str,
    state: String,
}

impl Extractor for Reads<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.parent),
            "tracestate" => Some(self.state.as_str()).filter(|state| !state.is_empty()),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

struct Writes<'h>(&'h mut HeaderMap);

impl Injector for Writes<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn tracer(sampler: Sampler) -> (SdkTracerProvider, Tracer) {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let tracer = Tracer::new(provider.tracer("test"), true);
        (provider, tracer)
    }

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn sent(span: &Span) -> Vec<String> {
        let mut headers = map(&[("traceparent", "old"), ("tracestate", "old=1")]);
        span.inject(&mut headers);
        let parent = headers.get(&TRACEPARENT).unwrap().to_str().unwrap();
        parent.split('-').map(str::to_owned).collect()
    }

    #[test]
    fn a_trusted_peer_is_the_parent_and_a_stranger_a_link() {
        let (_provider, tracer) = tracer(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
        let headers = map(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        let ours = sent(&tracer.request("GET".into(), &headers, true));
        assert_eq!((ours[1].as_str(), ours[3].as_str()), ("4bf92f3577b34da6a3ce929d0e0e4736", "01"));
        assert_ne!(ours[2], "00f067aa0ba902b7", "our own span is the parent of what follows");
        let strangers = sent(&tracer.request("GET".into(), &headers, false));
        assert_ne!(strangers[1], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(strangers[3], "00", "a stranger's flag makes nothing recorded");
    }

    #[test]
    fn what_is_no_context_is_none() {
        for fields in [
            &[][..],
            &[("traceparent", "")],
            &[("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")],
            &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01")],
            &[("traceparent", "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01")],
            &[("traceparent", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")],
            &[("traceparent", "00-4bf92f35-00f067aa0ba902b7-01")],
            &[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more")],
            &[("traceparent", "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")],
            &[("traceparent", PARENT), ("traceparent", PARENT)],
        ] {
            assert!(incoming(&map(fields)).is_none(), "{fields:?}");
        }
        assert!(incoming(&map(&[("traceparent", PARENT)])).is_some());
    }

    #[test]
    fn nothing_is_touched_where_traces_are_off() {
        let mut headers = map(&[("traceparent", PARENT), ("tracestate", "a=1")]);
        let before = headers.clone();
        Span::none().child("x", SpanKind::Client).inject(&mut headers);
        assert_eq!(headers, before);
    }

    #[tokio::test]
    async fn a_step_on_another_task_is_in_the_same_trace() {
        let (_provider, tracer) = tracer(Sampler::AlwaysOn);
        let span = tracer.request("POST".into(), &HeaderMap::new(), false);
        let id = span.trace_id();
        assert_eq!(id.as_ref().unwrap().len(), 32);
        let seen = span.around(async { tokio::spawn(carried(async { current().trace_id() })).await.unwrap() }).await;
        assert_eq!(seen, id);
        assert_eq!(current().trace_id(), None);
    }
}
