//! What is counted. Everything on the request path is counted in a [`Shard`] of the worker's own, so
//! that no cache line is shared; a scrape sums them up. Logins are rare and counted in one place.
//!
//! Labels are closed sets: no user, address, path or session ever becomes one.

mod collect;
mod limits;
mod process;
mod recheck;
mod shard;
mod sync;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::error::RefusalKind;
use crate::journal::Journal;
use collect::Shards;
pub use limits::{CallFault, CallTarget, Limit};
pub use recheck::{LogoutTokenOutcome, Recheck};
pub use shard::{AnswerLimit, Crowd, Flood, Handshake, Held, PageFate, RouteLabel, Shard, SocketEnd, Spoken, Stalled, Unread};
pub use sync::{SYNC_FIELDS, SyncOutcome};

/// What is counted of the process itself, from before there is anything else to count.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Panics, each of them a bug.
    pub panics: Arc<AtomicU64>,
    /// Log lines that nobody took.
    pub dropped_lines: Arc<AtomicU64>,
}

/// What is under way at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Requests whose answers are not done.
    pub requests: i64,
    /// WebSockets that are open.
    pub websockets: i64,
}

/// Everything that is counted, and the journal beside it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    journal: Journal,
    shards: Arc<[Arc<Shard>]>,
    logins: IntCounterVec,
    login_seconds: HistogramVec,
    minted: IntCounterVec,
    reused: IntCounter,
    chats_ended: IntCounterVec,
    users_created: IntCounterVec,
    cache_requests: IntCounterVec,
    cache_hits: IntCounterVec,
    cache_entries: IntGaugeVec,
    api_errors: IntCounterVec,
    api_seconds: HistogramVec,
    upstream_up: IntGauge,
    reload_success: IntGauge,
    reload_time: IntGauge,
    process: Arc<OnceLock<Process>>,
    certificate_expiry: IntGaugeVec,
    certificates_reloaded: IntGauge,
    acme_orders: IntCounterVec,
    rocketchat: IntGaugeVec,
    service_account_up: IntGauge,
    spans: IntCounterVec,
    limits: limits::Counters,
    rechecks: recheck::Counters,
    sync: sync::Counters,
    native: IntCounterVec,
}

/// What became of a visit to the page of the native login: the `outcome` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeLogin {
    /// The browser has Rocket.Chat's own login form now.
    Entered,
    /// The secret was wrong.
    WrongSecret,
    /// Too many secrets were wrong.
    RateLimited,
    /// The client's address is not one of those that it is there for.
    NotFromHere,
    /// The browser is signed in through the host app again.
    Left,
}

impl NativeLogin {
    const ALL: [Self; 5] = [Self::Entered, Self::WrongSecret, Self::RateLimited, Self::NotFromHere, Self::Left];

    /// The label's value, also used in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Entered => "entered",
            Self::WrongSecret => "wrong_secret",
            Self::RateLimited => "rate_limited",
            Self::NotFromHere => "not_from_here",
            Self::Left => "left",
        }
    }
}

impl Metrics {
    /// Metrics with one shard for each of `workers` workers.
    ///
    /// # Panics
    /// Never: names and labels are constants that the tests cover.
    pub fn new(workers: usize) -> Arc<Self> {
        let shards: Arc<[_]> = (0..workers.max(1)).map(|_| Arc::new(Shard::new())).collect();
        let registry = Registry::new();
        let process = Arc::new(OnceLock::new());
        let metrics = Self {
            logins: counters(
                "gantry_auth_requests_total",
                "Requests for a login token by identity source and outcome.",
                &["source", "outcome"],
            ),
            login_seconds: HistogramVec::new(
                HistogramOpts::new("gantry_auth_duration_seconds", "Time to answer a request for a login token.")
                    .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
                &["source"],
            )
            .expect("constant names"),
            chats_ended: counters("gantry_chat_sessions_ended_total", "Chat sessions that Gantry has ended, by reason.", &["reason"]),
            minted: counters("gantry_tokens_minted_total", "Calls that mint a login token, by outcome.", &["outcome"]),
            reused: IntCounter::new("gantry_tokens_reused_total", "Login tokens handed out again instead of minted.")
                .expect("constant name"),
            users_created: counters("gantry_users_created_total", "Calls that create a Rocket.Chat user, by outcome.", &["outcome"]),
            cache_requests: counters("gantry_cache_requests_total", "Look-ups in a cache, by result.", &["cache", "result"]),
            cache_hits: counters("gantry_cache_hits_total", "Look-ups in a cache that needed no call.", &["cache"]),
            cache_entries: IntGaugeVec::new(Opts::new("gantry_cache_entries", "Entries in a cache."), &["cache"]).expect("constant names"),
            api_errors: counters("gantry_rocketchat_api_errors_total", "Failed calls to Rocket.Chat's REST API.", &["endpoint", "type"]),
            api_seconds: HistogramVec::new(
                HistogramOpts::new("gantry_rocketchat_api_duration_seconds", "Time of calls to Rocket.Chat's REST API that were answered.")
                    .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
                &["endpoint"],
            )
            .expect("constant names"),
            rocketchat: IntGaugeVec::new(
                Opts::new("gantry_rocketchat_info", "The workspace's version, as far as it is known."),
                &["version"],
            )
            .expect("constant names"),
            service_account_up: IntGauge::new(
                "gantry_service_account_up",
                "Whether the service account worked the last time it was looked at.",
            )
            .expect("constant name"),
            spans: counters("gantry_trace_spans_total", "Spans that ended, by what became of them.", &["outcome"]),
            journal: Journal::default(),
            upstream_up: IntGauge::new("gantry_upstream_up", "Whether the workspace answered the last time it was asked.")
                .expect("constant name"),
            reload_success: IntGauge::new(
                "gantry_config_last_reload_success",
                "Whether the configuration that was read last is the one in use.",
            )
            .expect("constant name"),
            reload_time: IntGauge::new(
                "gantry_config_last_reload_success_timestamp_seconds",
                "When the configuration in use was read, in Unix time.",
            )
            .expect("constant name"),
            process: Arc::clone(&process),
            certificate_expiry: IntGaugeVec::new(
                Opts::new("gantry_tls_certificate_expiry_seconds", "When a certificate that is shown ends, in seconds since 1970."),
                &["name"],
            )
            .expect("constant names"),
            certificates_reloaded: IntGauge::new(
                "gantry_tls_last_reload_success",
                "Whether all files of certificates were good the last time they were looked at.",
            )
            .expect("constant name"),
            acme_orders: counters("gantry_acme_orders_total", "Certificates asked for by ACME, by outcome.", &["outcome"]),
            limits: limits::Counters::new(),
            rechecks: recheck::Counters::new(),
            sync: sync::Counters::new(),
            native: counters("gantry_native_logins_total", "Visits to the page of the native login, by what became of them.", &["outcome"]),
            registry,
            shards: Arc::clone(&shards),
        };
        // Where there are none, nothing is wrong.
        metrics.certificates_reloaded.set(1);
        let build = IntGaugeVec::new(Opts::new("gantry_build_info", "The version that runs."), &["version"]).expect("constant names");
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let all: Vec<Box<dyn Collector>> = vec![
            Box::new(metrics.logins.clone()),
            Box::new(metrics.login_seconds.clone()),
            Box::new(metrics.minted.clone()),
            Box::new(metrics.chats_ended.clone()),
            Box::new(metrics.reused.clone()),
            Box::new(metrics.users_created.clone()),
            Box::new(metrics.cache_requests.clone()),
            Box::new(metrics.cache_hits.clone()),
            Box::new(metrics.cache_entries.clone()),
            Box::new(metrics.api_errors.clone()),
            Box::new(metrics.api_seconds.clone()),
            Box::new(metrics.upstream_up.clone()),
            Box::new(metrics.certificate_expiry.clone()),
            Box::new(metrics.certificates_reloaded.clone()),
            Box::new(metrics.acme_orders.clone()),
            Box::new(metrics.rocketchat.clone()),
            Box::new(metrics.service_account_up.clone()),
            Box::new(metrics.spans.clone()),
            Box::new(metrics.native.clone()),
            Box::new(process::Process::new()),
            Box::new(build),
            Box::new(metrics.reload_success.clone()),
            Box::new(metrics.reload_time.clone()),
            Box::new(Shards::new(shards, process)),
        ];
        for collector in
            all.into_iter().chain(metrics.limits.collectors()).chain(metrics.rechecks.collectors()).chain(metrics.sync.collectors())
        {
            metrics.registry.register(collector).expect("no name is used twice");
        }
        for outcome in NativeLogin::ALL {
            metrics.native.with_label_values(&[outcome.as_str()]);
        }
        metrics.reloaded(true);
        Arc::new(metrics)
    }

    /// Counts for this process as well; the first one stays.
    pub fn of_process(&self, process: Process) {
        let _ = self.process.set(process);
    }

    /// The configuration was read, and taken or refused.
    pub fn reloaded(&self, taken: bool) {
        self.reload_success.set(i64::from(taken));
        if taken {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.reload_time.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// What is under way at this moment.
    pub fn under_way(&self) -> UnderWay {
        let sum = |read: fn(&Shard) -> &AtomicI64| self.shards.iter().map(|shard| read(shard).load(Ordering::Relaxed)).sum();
        UnderWay { requests: sum(|shard| &shard.requests), websockets: sum(|shard| &shard.websockets) }
    }

    /// The shard of one worker.
    pub fn shard(&self, worker: usize) -> Arc<Shard> {
        Arc::clone(&self.shards[worker % self.shards.len()])
    }

    /// A shard that no scrape sees, for the admin listener's own connections.
    pub fn detached_shard(&self) -> Arc<Shard> {
        Arc::new(Shard::new())
    }

    /// A request for a login token was answered. `source` is the identity source's name; `refusal` is
    /// `None` for a login.
    pub fn login(&self, source: &str, refusal: Option<RefusalKind>, took: Duration) {
        self.logins.with_label_values(&[source, refusal.map_or("signed_in", RefusalKind::code)]).inc();
        self.login_seconds.with_label_values(&[source]).observe(took.as_secs_f64());
    }

    /// A call to mint a token came back.
    pub fn minted(&self, ok: bool) {
        self.minted.with_label_values(&[outcome(ok)]).inc();
    }

    /// A chat session was ended, for this reason.
    pub fn chat_ended(&self, reason: &str) {
        self.chats_ended.with_label_values(&[reason]).inc();
    }

    /// Endings for these reasons start at zero, so that the first of a kind shows as a rise.
    pub fn expect_endings(&self, reasons: impl IntoIterator<Item = &'static str>) {
        for reason in reasons {
            self.chats_ended.with_label_values(&[reason]);
        }
    }

    /// A token was handed out again.
    pub fn token_reused(&self) {
        self.reused.inc();
    }

    /// A call to create a user came back.
    pub fn user_created(&self, ok: bool) {
        self.users_created.with_label_values(&[outcome(ok)]).inc();
    }

    /// A cache (`sessions`, `users`, `tokens`) was asked.
    pub fn cache(&self, cache: &'static str, hit: bool) {
        self.cache_requests.with_label_values(&[cache, if hit { "hit" } else { "miss" }]).inc();
        self.cache_hits.with_label_values(&[cache]).inc_by(u64::from(hit));
    }

    /// How full a cache is.
    pub fn cache_entries(&self, cache: &'static str, entries: u64) {
        self.cache_entries.with_label_values(&[cache]).set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// A call to the workspace's API failed. `kind` is `unreachable`, `timeout`, `status` or a word of that kind.
    pub fn api_error(&self, endpoint: &'static str, kind: &'static str) {
        self.api_errors.with_label_values(&[endpoint, kind]).inc();
    }

    /// A call to the workspace's API was answered.
    pub fn api_answered(&self, endpoint: &'static str, took: Duration) {
        self.api_seconds.with_label_values(&[endpoint]).observe(took.as_secs_f64());
    }

    /// The workspace says that it is of this version.
    pub fn rocketchat_version(&self, version: &str) {
        self.rocketchat.reset();
        self.rocketchat.with_label_values(&[version]).set(1);
    }

    /// Whether the service account works.
    pub fn service_account_up(&self, up: bool) {
        self.service_account_up.set(i64::from(up));
    }

    /// Spans were `exported`, or have `failed`, or were `dropped` because the queue was full.
    pub fn spans(&self, outcome: &'static str, count: u64) {
        self.spans.with_label_values(&[outcome]).inc_by(count);
    }

    /// Somebody used the native login, or tried to.
    pub fn native_login(&self, outcome: NativeLogin) {
        self.native.with_label_values(&[outcome.as_str()]).inc();
    }

    /// The outcomes of logins by this source start at zero, so that the first of a kind shows as a rise.
    pub fn expect_logins(&self, source: &str) {
        for outcome in RefusalKind::ALL.iter().map(|kind| kind.code()).chain(["signed_in"]) {
            self.logins.with_label_values(&[source, outcome]);
        }
    }

    /// What the status page remembers beyond counters.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Everything as it is now, for the status page.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Whether the workspace answers.
    pub fn upstream_up(&self, up: bool) {
        self.upstream_up.set(i64::from(up));
    }

    /// The certificates that are shown now, by name, and when each ends. Of two with one name the earlier end counts.
    pub fn certificates<'a>(&self, shown: impl Iterator<Item = (&'a str, SystemTime)>) {
        let mut ends: HashMap<&str, SystemTime> = HashMap::new();
        for (name, end) in shown {
            ends.entry(name).and_modify(|known| *known = end.min(*known)).or_insert(end);
        }
        self.certificate_expiry.reset();
        for (name, end) in ends {
            let seconds = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.certificate_expiry.with_label_values(&[name]).set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
    }

    /// Whether all files of certificates are good.
    pub fn certificates_reloaded(&self, ok: bool) {
        self.certificates_reloaded.set(i64::from(ok));
    }

    /// An order at a certificate authority ended.
    pub fn acme_order(&self, ok: bool) {
        self.acme_orders.with_label_values(&[outcome(ok)]).inc();
    }

    /// Everything in the text format of Prometheus, version 0.0.4.
    pub fn exposition(&self) -> String {
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing into memory cannot fail, and the families come from the registry itself.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

fn outcome(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect("constant names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_sums_the_shards_up() {
        let metrics = Metrics::new(2);
        metrics.shard(0).answered(RouteLabel::Upstream, 200, Duration::from_millis(2));
        metrics.shard(1).answered(RouteLabel::Upstream, 200, Duration::from_mins(1));
        let held = metrics.shard(1).websocket();
        let text = metrics.exposition();
        assert!(text.contains("gantry_http_requests_total{code=\"200\",route=\"upstream\"} 2"), "{text}");
        assert!(text.contains("gantry_http_request_duration_seconds_bucket{route=\"upstream\",le=\"0.0025\"} 1"), "{text}");
        assert!(text.contains("gantry_http_request_duration_seconds_count{route=\"upstream\"} 2"), "{text}");
        assert!(text.contains("gantry_websocket_connections 1"), "{text}");
        metrics.shard(0).handshake(Handshake::Done);
        metrics.shard(1).handshake(Handshake::Timeout);
        let text = metrics.exposition();
        for (outcome, count) in [("ok", 1), ("timeout", 1), ("alert", 0)] {
            assert!(text.contains(&format!("gantry_tls_handshakes_total{{outcome=\"{outcome}\"}} {count}\n")), "{text}");
        }
        drop(held);
        assert!(metrics.exposition().contains("gantry_websocket_connections 0"));
    }

    #[test]
    fn logins_are_counted_by_outcome() {
        let metrics = Metrics::new(1);
        metrics.login("jwt", None, Duration::from_millis(1));
        metrics.login("jwt", Some(RefusalKind::NoSession), Duration::from_millis(1));
        let text = metrics.exposition();
        assert!(text.contains("gantry_auth_requests_total{outcome=\"signed_in\",source=\"jwt\"} 1"), "{text}");
        assert!(text.contains("gantry_auth_requests_total{outcome=\"no_session\",source=\"jwt\"} 1"), "{text}");
    }
}
