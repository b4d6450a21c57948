//! What a scrape is told of the shards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntCounter, IntGauge, IntGaugeVec, Opts};

use super::shard::{AnswerLimit, BUCKETS, CODES, Crowd, Flood, Handshake, PageFate, RouteLabel, Shard, SocketEnd, Stalled, Unread};
use super::{Process, counters, outcome};
use crate::error::Failure;

/// Sums the shards up at a scrape.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "it is what they are called everywhere else")]
pub(super) struct Shards {
    shards: Arc<[Arc<Shard>]>,
    process: Arc<OnceLock<Process>>,
    descs: Vec<Desc>,
}

impl Shards {
    pub(super) fn new(shards: Arc<[Arc<Shard>]>, process: Arc<OnceLock<Process>>) -> Self {
        let name = "gantry_http_requests_total".to_owned();
        let desc = Desc::new(name, "Requests answered.".to_owned(), vec!["route".to_owned(), "code".to_owned()], HashMap::new());
        Self { shards, process, descs: vec![desc.expect("constant names")] }
    }

    fn sum(&self, read: impl Fn(&Shard) -> u64) -> u64 {
        self.shards.iter().map(|shard| read(shard)).sum()
    }

    fn gauge(&self, name: &str, help: &str, read: fn(&Shard) -> &AtomicI64) -> Vec<MetricFamily> {
        let gauge = IntGauge::new(name, help).expect("constant name");
        gauge.set(self.shards.iter().map(|shard| read(shard).load(Ordering::Relaxed)).sum());
        gauge.collect()
    }
}

impl Collector for Shards {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let requests = counters("gantry_http_requests_total", "Requests answered, by what they asked for and status.", &["route", "code"]);
        let mut families = Vec::new();
        for route in RouteLabel::ALL {
            for code in 0..CODES {
                let count = self.sum(|shard| shard.routes[route as usize].codes[code].load(Ordering::Relaxed));
                if count > 0 {
                    requests.with_label_values(&[route.as_str(), &(code + 100).to_string()]).inc_by(count);
                }
            }
        }
        families.extend(requests.collect());
        families.extend(self.durations());
        let handshakes = counters("gantry_tls_handshakes_total", "TLS handshakes, by how they ended.", &["outcome"]);
        for outcome in Handshake::ALL {
            let count = self.sum(|shard| shard.handshakes[outcome as usize].load(Ordering::Relaxed));
            handshakes.with_label_values(&[outcome.as_str()]).inc_by(count);
        }
        families.extend(handshakes.collect());
        let pages = counters("gantry_pages_total", "Pages of the chat's, by what became of them.", &["fate"]);
        for fate in PageFate::ALL {
            let count = self.sum(|shard| shard.pages[fate as usize].load(Ordering::Relaxed));
            pages.with_label_values(&[fate.as_str()]).inc_by(count);
        }
        families.extend(pages.collect());
        families.extend(self.limits());
        families.extend(self.chats());
        families.extend(self.gauge("gantry_connections", "Client connections open.", |s| &s.connections));
        families.extend(self.gauge("gantry_idle_connections", "Client connections of HTTP/1 that wait for a request.", |s| &s.idle));
        families.extend(self.gauge("gantry_http_requests_in_flight", "Requests whose answers are not done.", |s| &s.requests));
        families.extend(self.gauge("gantry_websocket_connections", "WebSockets open.", |s| &s.websockets));
        families.extend(self.gauge("gantry_upstream_connections", "Connections to the workspace open.", |s| &s.upstream_connections));
        families.extend(self.protocols());
        families.extend(self.failures());
        families.extend(self.connects());
        for (name, help, read) in [
            ("gantry_websockets_total", "WebSockets opened.", (|s| &s.websockets_total) as fn(&Shard) -> &AtomicU64),
            ("gantry_connections_total", "Client connections accepted.", |s| &s.connections_total),
            ("gantry_upstream_retries_total", "Requests sent again because a pooled connection had gone stale.", |s| &s.upstream_retries),
            ("gantry_media_bridged_total", "Files and avatars fetched with the login of the browser's chat session.", |s| &s.bridged),
            ("gantry_ended_tokens_refused_total", "Calls with a login token of ours that is over, answered here.", |s| {
                &s.ended_tokens_refused
            }),
            ("gantry_proxy_headers_refused_total", "Connections closed for a missing or malformed PROXY protocol header.", |s| {
                &s.proxy_headers_refused
            }),
        ] {
            let counter = IntCounter::new(name, help).expect("constant name");
            counter.inc_by(self.sum(|shard| read(shard).load(Ordering::Relaxed)));
            families.extend(counter.collect());
        }
        let process = self.process.get().cloned().unwrap_or_default();
        for (name, help, count) in [
            ("gantry_panics_total", "Bugs that ended a request, a connection or a task.", process.panics),
            ("gantry_log_lines_dropped_total", "Log lines that nobody took in time.", process.dropped_lines),
        ] {
            let counter = IntCounter::new(name, help).expect("constant name");
            counter.inc_by(count.load(Ordering::Relaxed));
            families.extend(counter.collect());
        }
        families
    }
}

impl Shards {
    fn protocols(&self) -> Vec<MetricFamily> {
        let opts = Opts::new("gantry_protocol_connections", "Client connections open, by what they speak.");
        let gauge = IntGaugeVec::new(opts, &["protocol"]).expect("constant names");
        for (index, protocol) in ["http1", "http2"].into_iter().enumerate() {
            let open = self.shards.iter().map(|shard| shard.speaking[index].load(Ordering::Relaxed)).sum();
            gauge.with_label_values(&[protocol]).set(open);
        }
        gauge.collect()
    }

    /// What was done for the sake of chat sessions.
    fn chats(&self) -> Vec<MetricFamily> {
        let ended = counters("gantry_chat_sockets_closed_total", "WebSockets closed because their chat session is over.", &["reason"]);
        for end in SocketEnd::ALL {
            let count = self.sum(|shard| shard.sockets_ended[end as usize].load(Ordering::Relaxed));
            ended.with_label_values(&[end.as_str()]).inc_by(count);
        }
        let unread = counters(
            "gantry_websocket_messages_unread_total",
            "Messages of clients that were not looked into for logins and logouts, by why.",
            &["reason"],
        );
        for why in Unread::ALL {
            let count = self.sum(|shard| shard.unread[why as usize].load(Ordering::Relaxed));
            unread.with_label_values(&[why.as_str()]).inc_by(count);
        }
        [ended, unread].iter().flat_map(Collector::collect).collect()
    }

    /// What was bounded on both sides.
    fn limits(&self) -> Vec<MetricFamily> {
        let refused = counters(
            "gantry_connections_refused_total",
            "Client connections closed because too many are open, by which limit.",
            &["limit"],
        );
        for crowd in Crowd::ALL {
            let count = self.sum(|shard| shard.turned_away[crowd as usize].load(Ordering::Relaxed));
            refused.with_label_values(&[crowd.as_str()]).inc_by(count);
        }
        let stalled =
            counters("gantry_client_timeouts_total", "Clients cut off because nothing came of them for too long.", &["waited_for"]);
        for what in Stalled::ALL {
            let count = self.sum(|shard| shard.stalled[what as usize].load(Ordering::Relaxed));
            stalled.with_label_values(&[what.as_str()]).inc_by(count);
        }
        let floods =
            counters("gantry_http2_floods_total", "HTTP/2 connections ended for frames that do no work, by the last one.", &["kind"]);
        for kind in Flood::ALL {
            let count = self.sum(|shard| shard.floods[kind as usize].load(Ordering::Relaxed));
            floods.with_label_values(&[kind.as_str()]).inc_by(count);
        }
        let answers = counters("gantry_answers_refused_total", "Answers of the workspace's that went past a limit, by which.", &["limit"]);
        for limit in AnswerLimit::ALL {
            let count = self.sum(|shard| shard.answers_refused[limit as usize].load(Ordering::Relaxed));
            answers.with_label_values(&[limit.as_str()]).inc_by(count);
        }
        [refused, stalled, floods, answers].iter().flat_map(Collector::collect).collect()
    }

    fn failures(&self) -> Vec<MetricFamily> {
        let failures = counters("gantry_http_failures_total", "Requests that could not be forwarded, by reason.", &["reason"]);
        for (index, reason) in Failure::LABELS.into_iter().enumerate() {
            failures.with_label_values(&[reason]).inc_by(self.sum(|shard| shard.failures[index].load(Ordering::Relaxed)));
        }
        failures.collect()
    }

    fn connects(&self) -> Vec<MetricFamily> {
        let tries = counters("gantry_upstream_connects_total", "Connections to the workspace that were tried, by outcome.", &["outcome"]);
        for ok in [false, true] {
            let count = self.sum(|shard| shard.upstream_connects[usize::from(ok)].load(Ordering::Relaxed));
            tries.with_label_values(&[outcome(ok)]).inc_by(count);
        }
        let name = "gantry_upstream_connect_seconds_total";
        let spent = Counter::new(name, "Time spent on connecting to the workspace, failures included.").expect("constant name");
        let micros = self.sum(|shard| shard.upstream_connect_micros.load(Ordering::Relaxed));
        spent.inc_by(Duration::from_micros(micros).as_secs_f64());
        let mut families = tries.collect();
        families.extend(spent.collect());
        families
    }

    /// The histogram family, made by hand: the client's own histograms cannot be filled from sums.
    fn durations(&self) -> Vec<MetricFamily> {
        use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricType};
        let mut family = MetricFamily::default();
        family.set_name("gantry_http_request_duration_seconds".to_owned());
        family.set_help("Time until the head of the answer was ready.".to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        let mut metrics = Vec::new();
        for route in RouteLabel::ALL {
            let mut histogram = Histogram::default();
            let mut cumulative = 0;
            let mut buckets = Vec::with_capacity(BUCKETS.len());
            for (index, bound) in BUCKETS.iter().enumerate() {
                cumulative += self.sum(|shard| shard.routes[route as usize].buckets[index].load(Ordering::Relaxed));
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(Duration::from_micros(*bound).as_secs_f64());
                bucket.set_cumulative_count(cumulative);
                buckets.push(bucket);
            }
            cumulative += self.sum(|shard| shard.routes[route as usize].buckets[BUCKETS.len()].load(Ordering::Relaxed));
            if cumulative == 0 {
                continue;
            }
            histogram.set_bucket(buckets);
            histogram.set_sample_count(cumulative);
            let micros = self.sum(|shard| shard.routes[route as usize].micros.load(Ordering::Relaxed));
            histogram.set_sample_sum(Duration::from_micros(micros).as_secs_f64());
            let mut label = LabelPair::default();
            label.set_name("route".to_owned());
            label.set_value(route.as_str().to_owned());
            let mut metric = Metric::default();
            metric.set_label(vec![label]);
            metric.set_histogram(histogram);
            metrics.push(metric);
        }
        if metrics.is_empty() {
            return Vec::new();
        }
        family.set_metric(metrics);
        vec![family]
    }
}
