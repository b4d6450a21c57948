//! The queue of ended spans, and the task that posts them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::metrics::Metrics;
use crate::outbound::api::{Api, Call, CallError, Reply};

/// How often a failure is told of.
const TOLD_EVERY: Duration = Duration::from_mins(1);
/// Between two tries of one batch, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of an answer at most.
const MAX_ANSWER: usize = 64 * 1024;

/// Takes ended spans from the request path. Never waits: a span that finds the queue full is lost and counted.
#[derive(Debug)]
pub(super) struct Queue {
    sender: Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl Queue {
    pub(super) fn new(sender: Sender<SpanData>, metrics: Arc<Metrics>) -> Self {
        Self { sender, metrics }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.metrics.spans("dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        // `Traces::flush` ends the task, which empties the queue first.
        Ok(())
    }
}

/// Posts spans in batches.
pub(super) struct Exporter {
    settings: Settings,
    resource: ResourceAttributesWithSchema,
    headers: HeaderMap,
    api: Api,
    metrics: Arc<Metrics>,
    end: CancellationToken,
}

/// Why a batch was not taken.
#[derive(Debug)]
struct NotTaken {
    why: String,
    again: Again,
}

/// Whether a batch that was not taken may be taken later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Never,
    /// When we think.
    Soon,
    /// As the collector said.
    After(Duration),
}

impl Exporter {
    pub(super) fn new(settings: Settings, resource: &Resource, api: Api, metrics: Arc<Metrics>, end: CancellationToken) -> Self {
        let mut headers = settings.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("gantry/", env!("CARGO_PKG_VERSION"))));
        Self { resource: ResourceAttributesWithSchema::from(resource), settings, headers, api, metrics, end }
    }

    /// Until told to end; then what is queued goes out, each batch with one try.
    pub(super) async fn run(self, mut spans: Receiver<SpanData>) {
        let mut teller = Teller::default();
        let mut batch = Vec::with_capacity(self.settings.max_batch);
        while self.fill(&mut spans, &mut batch).await {
            let count = batch.len() as u64;
            let body = self.encode(std::mem::take(&mut batch));
            match self.send(body).await {
                Ok(rejected) => {
                    self.metrics.spans("exported", count.saturating_sub(rejected));
                    self.metrics.spans("failed", rejected);
                    teller.well();
                }
                Err(why) => {
                    self.metrics.spans("failed", count);
                    teller.failed(&why, count, &self.settings.shown_endpoint());
                }
            }
        }
    }

    /// Fills a batch: up to its size, or for as long as the first one may wait. False at the end.
    async fn fill(&self, spans: &mut Receiver<SpanData>, batch: &mut Vec<SpanData>) -> bool {
        if self.end.is_cancelled() {
            while batch.len() < self.settings.max_batch {
                let Ok(span) = spans.try_recv() else { break };
                batch.push(span);
            }
            return !batch.is_empty();
        }
        let due = tokio::time::sleep(self.settings.delay);
        tokio::pin!(due);
        loop {
            let room = self.settings.max_batch - batch.len();
            tokio::select! {
                biased;
                () = self.end.cancelled() => return Box::pin(self.fill(spans, batch)).await,
                taken = spans.recv_many(batch, room) => {
                    if taken == 0 {
                        return !batch.is_empty();
                    }
                    if batch.len() >= self.settings.max_batch {
                        return true;
                    }
                }
                () = &mut due => {
                    if !batch.is_empty() {
                        return true;
                    }
                    due.as_mut().reset(Instant::now() + self.settings.delay);
                }
            }
        }
    }

    fn encode(&self, spans: Vec<SpanData>) -> Bytes {
        let request = ExportTraceServiceRequest { resource_spans: group_spans_by_resource_and_scope(spans, &self.resource) };
        request.encode_to_vec().into()
    }

    /// Posts one batch, again while that may help. Answers how many spans of it the collector refused.
    async fn send(&self, body: Bytes) -> Result<u64, String> {
        let deadline = Instant::now() + self.settings.export_timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let call = Call {
                method: Method::POST,
                url: &self.settings.endpoint,
                headers: self.headers.clone(),
                body: Some(body.clone()),
                timeout: self.settings.timeout,
                max_body: MAX_ANSWER,
            };
            let not_taken = match read(self.api.call(call).await) {
                Ok(rejected) => return Ok(rejected),
                Err(not_taken) => not_taken,
            };
            let wait = match not_taken.again {
                Again::Never => return Err(not_taken.why),
                Again::Soon => pause,
                Again::After(told) => told,
            };
            if self.end.is_cancelled() || Instant::now() + wait >= deadline {
                return Err(not_taken.why);
            }
            tokio::select! {
                () = self.end.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// What the collector said (OTLP 1.3, "OTLP/HTTP Response").
fn read(outcome: Result<Reply, CallError>) -> Result<u64, NotTaken> {
    let reply = outcome.map_err(|error| NotTaken { why: error.to_string(), again: Again::Soon })?;
    if reply.status.is_success() {
        // An answer that is no message has no complaint in it either.
        let partial = ExportTraceServiceResponse::decode(reply.body).ok().and_then(|answer| answer.partial_success);
        return Ok(partial.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0)));
    }
    let seconds = || reply.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok();
    let again = match reply.status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            seconds().map_or(Again::Soon, |seconds| Again::After(Duration::from_secs(seconds)))
        }
        _ => Again::Never,
    };
    Err(NotTaken { why: format!("it answered {}", reply.status), again })
}

/// Tells the log of failures, once in a while, and of their end.
#[derive(Debug, Default)]
struct Teller {
    told: Option<Instant>,
    lost: u64,
}

impl Teller {
    fn failed(&mut self, why: &str, spans: u64, endpoint: &str) {
        self.lost += spans;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(
                endpoint,
                why,
                lost = self.lost,
                "traces cannot be exported: is OTEL_EXPORTER_OTLP_ENDPOINT right, and the collector up?"
            );
        }
    }

    fn well(&mut self) {
        if self.told.take().is_some() {
            tracing::info!(lost = self.lost, "traces are exported again");
            self.lost = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, headers: &[(&'static str, &'static str)], body: Vec<u8>) -> Reply {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        Reply { status: StatusCode::from_u16(status).unwrap(), headers, body: body.into() }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, headers, again) in [
            (400, &[][..], Again::Never),
            (401, &[], Again::Never),
            (404, &[], Again::Never),
            (500, &[], Again::Never),
            (429, &[], Again::Soon),
            (502, &[], Again::Soon),
            (503, &[("retry-after", "7")], Again::After(Duration::from_secs(7))),
            (503, &[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], Again::Soon),
            (504, &[], Again::Soon),
        ] {
            let not_taken = read(Ok(reply(status, headers, Vec::new()))).unwrap_err();
            assert_eq!(not_taken.again, again, "{status}");
            assert!(not_taken.why.contains(&status.to_string()));
        }
        let gone = CallError::Unreachable { host: "collector:4318".into(), why: "refused".into() };
        assert_eq!(read(Err(gone)).unwrap_err().again, Again::Soon);
    }

    #[test]
    fn spans_that_the_collector_refused_are_counted() {
        let mut answer = ExportTraceServiceResponse::default();
        assert_eq!(read(Ok(reply(200, &[], answer.encode_to_vec()))).ok(), Some(0));
        answer.partial_success.get_or_insert_default().rejected_spans = 3;
        assert_eq!(read(Ok(reply(200, &[], answer.encode_to_vec()))).ok(), Some(3));
        assert_eq!(read(Ok(reply(200, &[], b"{}".to_vec()))).ok(), Some(0));
    }
}
