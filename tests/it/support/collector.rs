//! A stand-in for an OpenTelemetry collector: takes spans by OTLP over HTTP, and answers what a test wants.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as ProtoSpan;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One span, in words.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    /// As in OTLP: 1 internal, 2 server, 3 client.
    pub kind: i32,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub links: Vec<String>,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
}

/// What came.
#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    heads: Vec<http::request::Parts>,
    /// What the next posts are answered with; 200 after that.
    answers: Vec<u16>,
    raw: Vec<u8>,
}

/// A running collector; it ends with this value.
pub struct Collector {
    pub addr: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    task: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Taken::default()));
        let shared = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| take(Arc::clone(&shared), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        Self { addr, taken, task }
    }

    /// The environment that leads to it, with spans sent at once.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{}", self.addr)),
            ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "20".to_owned()),
        ]
    }

    /// The next posts are answered with these.
    pub fn answers(&self, statuses: &[u16]) {
        self.look().answers = statuses.to_vec();
    }

    pub fn spans(&self) -> Vec<Span> {
        self.look().spans.clone()
    }

    pub fn resource(&self) -> BTreeMap<String, String> {
        self.look().resource.clone()
    }

    /// Posts so far.
    pub fn posts(&self) -> usize {
        self.look().heads.len()
    }

    /// A header of the last post.
    pub fn header(&self, name: &str) -> String {
        let taken = self.look();
        let value = taken.heads.last().and_then(|head| head.headers.get(name));
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// The path of the last post.
    pub fn path(&self) -> String {
        self.look().heads.last().map(|head| head.uri.path().to_owned()).unwrap_or_default()
    }

    /// Whether these bytes stand anywhere in what came.
    pub fn has_seen(&self, word: &str) -> bool {
        self.look().raw.windows(word.len()).any(|window| window == word.as_bytes())
    }

    fn look(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn take(taken: Arc<Mutex<Taken>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    taken.heads.push(head);
    let status = if taken.answers.is_empty() { 200 } else { taken.answers.remove(0) };
    if status == 200 {
        taken.raw.extend_from_slice(&body);
        let message = ExportTraceServiceRequest::decode(body).expect("OTLP");
        for group in message.resource_spans {
            taken.resource = words(&group.resource.unwrap_or_default().attributes);
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            taken.spans.extend(spans.map(read));
        }
    }
    Ok(Response::builder().status(status).body(Full::default()).unwrap())
}

fn read(span: ProtoSpan) -> Span {
    Span {
        attributes: words(&span.attributes),
        failed: span.status.is_some_and(|status| status.code == 2),
        links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
        name: span.name,
        kind: span.kind,
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
    }
}

fn words(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes
        .iter()
        .map(|pair| {
            let value = match pair.value.clone().and_then(|value| value.value) {
                Some(Value::StringValue(text)) => text,
                Some(Value::IntValue(number)) => number.to_string(),
                other => format!("{other:?}"),
            };
            (pair.key.clone(), value)
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
