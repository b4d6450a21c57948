//! The admin listener: `/livez`, `/readyz`, `/metrics`, the status page, and the verbs below `/-/`. Never public.

pub mod limits;
mod page;
mod reading;
pub mod status;
pub mod verbs;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::lifecycle::{Health, Stop};
use crate::metrics::Metrics;

/// What the admin listener answers from.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// What readiness depends on.
    pub health: Arc<Health>,
    /// Whether we are stopping.
    pub stop: Stop,
}

impl Admin {
    /// Answers one request.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" | "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.exposition());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
                response
            }
            "/" | "/status.json" => status::answer(self, request),
            _ => text(StatusCode::NOT_FOUND, "there is /, /status.json, /livez, /readyz, /metrics, /-/reload and /-/log-level\n"),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let stopping = self.stop.stopping();
        let ready = !stopping && self.health.ready();
        let checks: serde_json::Map<_, _> = self
            .health
            .checks()
            .into_iter()
            .map(|check| {
                let value = match check.state {
                    Ok(()) => json!({ "ok": true }),
                    Err(why) => json!({ "ok": false, "why": why, "keeps_traffic_away": check.fatal }),
                };
                (check.name.to_owned(), value)
            })
            .collect();
        let body = json!({ "ready": ready, "stopping": stopping, "checks": checks });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut response = text(status, format!("{body}\n"));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether this is a name that nobody else can have lead here: an address, `localhost`, or one below it.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}
