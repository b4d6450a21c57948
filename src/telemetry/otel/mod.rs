//! Traces over OTLP: switched on, and set, by OpenTelemetry's own environment variables alone.
//!
//! Spans go into a queue with a bound and are sent by one task, so that a collector that is slow or gone
//! costs spans and never a request.

mod export;
mod settings;

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use settings::{Sampling, Settings};

use crate::metrics::Metrics;
use crate::outbound::api::Api;
use crate::outbound::connect::Connector;
use crate::trace::Tracer;
use export::{Exporter, Queue};

/// How long a collector may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Traces that are being exported.
#[derive(Debug)]
pub struct Traces {
    tracer: Tracer,
    /// Keeps the spans' processor alive.
    _provider: SdkTracerProvider,
    end: CancellationToken,
    /// Waited on once; the lock is what lets the whole be shared.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Traces {
    /// Starts to export on `control`.
    ///
    /// # Errors
    /// The file of `OTEL_EXPORTER_OTLP_CERTIFICATE` cannot be used.
    pub fn start(settings: Settings, control: &Handle, metrics: Arc<Metrics>) -> Result<Self, String> {
        let connector = Connector::new(CONNECT_TIMEOUT.min(settings.timeout), settings.ca_file.as_deref()).map_err(|error| {
            let path = settings.ca_file.as_deref().unwrap_or(Path::new(""));
            format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {}: {error}", path.display())
        })?;
        let api = Api::new(connector, control.clone());
        let (sender, spans) = tokio::sync::mpsc::channel(settings.max_queue);
        let queue = Queue::new(sender, Arc::clone(&metrics));
        let resource = settings.resource();
        let provider = SdkTracerProvider::builder()
            .with_sampler(settings.sampling.sampler())
            .with_resource(resource.clone())
            .with_span_processor(queue)
            .build();
        let tracer = Tracer::new(provider.tracer("gantry"), settings.propagates);
        let end = CancellationToken::new();
        let (tell, ended) = mpsc::channel();
        tracing::info!(endpoint = %settings.shown_endpoint(), sampling = %settings.sampling, "traces are exported");
        let exporter = Exporter::new(settings, &resource, api, metrics, end.clone());
        control.spawn(async move {
            exporter.run(spans).await;
            // Whoever waited may have given up.
            let _ = tell.send(());
        });
        Ok(Self { tracer, _provider: provider, end, ended: Mutex::new(ended) })
    }

    /// What begins spans.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends what is left, and waits for that no longer than this. Blocks.
    pub fn flush(&self, patience: Duration) {
        self.end.cancel();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(patience).is_err() {
            tracing::warn!(patience = %humantime::format_duration(patience), "the last spans could not be exported in time");
        }
    }
}
