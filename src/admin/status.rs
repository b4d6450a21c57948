//! What the status page shows, also as JSON, and who gets to see it.
//!
//! The page may name people, and it stands on a loopback port without a password. A page of another site
//! must not read it through a name that it has pointed there (DNS rebinding), so it is shown only to
//! requests for an IP address or `localhost`. No CORS header is ever sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use serde::Serialize;

use super::limits::Bite;
use super::reading::{Reading, whole};
use super::{Admin, is_local_name, limits, page, text};
use crate::error::RefusalKind;
use crate::journal::{Minute, Snapshot};

/// People on the page; `status.json` has as many.
const PEOPLE: usize = 50;

/// Everything that the page shows.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Gantry's version.
    pub version: &'static str,
    /// When this was put together (RFC 3339).
    pub now: String,
    /// Seconds since the process started.
    pub uptime_seconds: u64,
    /// Whether traffic is wanted.
    pub ready: bool,
    /// Whether Gantry is stopping.
    pub stopping: bool,
    /// The parts that it depends on.
    pub checks: Vec<Part>,
    /// The workspace.
    pub rocketchat: RocketChat,
    /// Who is connected.
    pub connections: Connections,
    /// Logins of the last hour.
    pub logins: Logins,
    /// The last people who signed in, as `log.audit` shows them.
    pub people: Vec<Person>,
    /// The last refusals.
    pub refusals: Vec<Refusal>,
    /// The caches.
    pub caches: Vec<Cache>,
    /// Limits that have bitten, and calls that came to nothing.
    pub limits: Vec<Bite>,
    /// Certificates that are shown to browsers.
    pub certificates: Vec<Certificate>,
    /// How the last reload went; absent before there was one to tell of.
    pub config_reload: Option<Reload>,
    /// Whether all files of certificates were good the last time.
    pub certificates_good: Option<bool>,
    /// The process.
    pub process: Process,
}

/// A part that Gantry depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// As in `/readyz`.
    pub name: &'static str,
    /// Whether it is well.
    pub ok: bool,
    /// Why not.
    pub why: Option<String>,
    /// Whether traffic is kept away while it is not well.
    pub keeps_traffic_away: bool,
    /// For how many seconds it has been so.
    pub for_seconds: u64,
}

/// The workspace.
#[derive(Clone, Debug, Serialize)]
pub struct RocketChat {
    /// Its version, once it is known.
    pub version: Option<String>,
    /// Mean time of REST calls that were answered, since the start.
    pub api_mean_seconds: Option<f64>,
    /// REST calls that failed, since the start.
    pub api_errors: u64,
    /// Connections open.
    pub connections: u64,
    /// Tries to connect that failed, since the start.
    pub connects_failed: u64,
    /// Requests that could not be forwarded through a fault of its own or of the way, since the start.
    pub requests_failed: u64,
}

/// Who is connected.
#[derive(Clone, Debug, Serialize)]
pub struct Connections {
    /// Client connections that speak HTTP/1.1.
    pub http1: u64,
    /// And HTTP/2.
    pub http2: u64,
    /// All of them, those in a TLS handshake included.
    pub all: u64,
    /// WebSockets.
    pub websockets: u64,
    /// Requests whose answer has not begun.
    pub requests_in_flight: u64,
    /// Requests since the start.
    pub requests: u64,
    /// Of them by kind.
    pub by_route: Vec<(String, u64)>,
}

/// Logins.
#[derive(Clone, Debug, Serialize)]
pub struct Logins {
    /// By minute, the last one still going on.
    pub minutes: Vec<MinuteOf>,
    /// People who signed in within the last hour; a thousand at most are told apart.
    pub people_in_the_last_hour: usize,
    /// Outcomes since the start.
    pub by_outcome: Vec<(String, u64)>,
    /// Mean time of a login.
    pub mean_seconds: Option<f64>,
}

/// The outcomes of one minute.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MinuteOf {
    /// Logins.
    pub signed_in: u32,
    /// Refused because there was no session at the host app.
    pub no_session: u32,
    /// Refused for any other reason.
    pub refused: u32,
}

impl From<Minute> for MinuteOf {
    fn from(minute: Minute) -> Self {
        Self { signed_in: minute.signed_in, no_session: minute.no_session, refused: minute.refused }
    }
}

/// Somebody who signed in.
#[derive(Clone, Debug, Serialize)]
pub struct Person {
    /// A name or a hash.
    pub who: String,
    /// Seconds ago.
    pub seconds_ago: u64,
    /// Logins since the start.
    pub logins: u64,
    /// Whether the account was made for them.
    pub created: bool,
}

/// A refused login.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    /// When (RFC 3339).
    pub at: String,
    /// Seconds ago.
    pub seconds_ago: u64,
    /// The reason.
    pub reason: &'static str,
    /// The status that was answered.
    pub status: u16,
    /// The correlation id.
    pub id: String,
    /// The person, where that is known and may be shown.
    pub who: Option<String>,
    /// The client, where that may be shown.
    pub client: Option<String>,
    /// The words for the operator.
    pub detail: String,
    /// Whether it is everyday life rather than a fault.
    pub everyday: bool,
}

/// A cache.
#[derive(Clone, Debug, Serialize)]
pub struct Cache {
    /// Which.
    pub name: &'static str,
    /// Entries.
    pub entries: u64,
    /// Look-ups since the start.
    pub requests: u64,
    /// Of which needed no call.
    pub hits: u64,
}

/// A certificate.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// Its name.
    pub name: String,
    /// When it ends (RFC 3339).
    pub ends: String,
    /// Days left; below zero when it has ended.
    pub days_left: i64,
}

/// A reload of the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    /// Whether what was read last is in use.
    pub ok: bool,
    /// For how many seconds the configuration has been in use.
    pub for_seconds: Option<u64>,
}

/// The process.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// Bytes in RAM.
    pub memory_bytes: Option<u64>,
    /// Seconds on a processor.
    pub cpu_seconds: Option<f64>,
    /// File descriptors open.
    pub open_fds: Option<u64>,
    /// And allowed.
    pub max_fds: Option<u64>,
    /// Log lines that nobody took.
    pub log_lines_dropped: Option<u64>,
    /// Panics, each of them a bug.
    pub panics: Option<u64>,
}

/// Answers `/` and `/status.json`.
pub(super) fn answer<B>(admin: &Admin, request: &Request<B>) -> Response<Full<Bytes>> {
    if let Err(name) = addressed_plainly(request.uri(), request.headers()) {
        let words = format!(
            "The status page may name people, so it is shown only under an IP address or localhost, and not under {name:?}: a page of \
             another site could have pointed that name here. Open http://127.0.0.1 or http://localhost and this port, over a tunnel if need be.\n"
        );
        return text(StatusCode::FORBIDDEN, words);
    }
    let wants_page = request.headers().get(ACCEPT).is_some_and(|accept| accept.as_bytes().windows(9).any(|word| word == b"text/html"));
    let mut response = match request.uri().path() {
        "/status.json" => {
            let status = Status::of(admin, SystemTime::now());
            let mut response = text(StatusCode::OK, serde_json::to_vec(&status).unwrap_or_default());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        _ if wants_page => {
            let status = Status::of(admin, SystemTime::now());
            let mut response = text(StatusCode::OK, page::render(&status));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, page::policy());
            response
        }
        _ => text(
            StatusCode::OK,
            "Gantry admin: /livez /readyz /metrics, and /status.json. Open this address in a browser for the status page.\n",
        ),
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    response
}

/// Whether a request is for an IP address or `localhost`; else for what. One without a host is no browser's.
fn addressed_plainly(uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("two hosts".to_owned());
    }
    let named = match (host, uri.authority()) {
        (Some(host), _) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        (None, Some(authority)) => authority.as_str().to_owned(),
        (None, None) => return Ok(()),
    };
    if is_local_name(&named) { Ok(()) } else { Err(named.chars().take(100).collect()) }
}

impl Status {
    fn of(admin: &Admin, now: SystemTime) -> Self {
        let reading = Reading::new(admin.metrics.gather());
        let Snapshot { minutes, people, refusals } = admin.metrics.journal().snapshot();
        let stopping = admin.stop.stopping();
        let count = |name: &str| reading.count(name, &[]).unwrap_or_default();
        let hour_ago = now.checked_sub(Duration::from_hours(1)).unwrap_or(UNIX_EPOCH);
        let started = reading.sum("process_start_time_seconds", &[]).map_or(now, at);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            now: rfc3339(now),
            uptime_seconds: since(now, started),
            ready: !stopping && admin.health.ready(),
            stopping,
            checks: admin
                .health
                .checks()
                .into_iter()
                .map(|check| Part {
                    name: check.name,
                    ok: check.state.is_ok(),
                    why: check.state.err(),
                    keeps_traffic_away: check.fatal,
                    for_seconds: since(now, check.since),
                })
                .collect(),
            rocketchat: RocketChat {
                version: reading.by("gantry_rocketchat_info", "version").pop().map(|(version, _)| version),
                api_mean_seconds: reading.mean("gantry_rocketchat_api_duration_seconds"),
                api_errors: count("gantry_rocketchat_api_errors_total"),
                connections: count("gantry_upstream_connections"),
                connects_failed: reading.count("gantry_upstream_connects_total", &[("outcome", "failed")]).unwrap_or_default(),
                requests_failed: ["unreachable", "connect_timeout", "first_byte_timeout", "bad_answer"]
                    .iter()
                    .filter_map(|reason| reading.count("gantry_http_failures_total", &[("reason", reason)]))
                    .sum(),
            },
            connections: Connections {
                http1: reading.count("gantry_protocol_connections", &[("protocol", "http1")]).unwrap_or_default(),
                http2: reading.count("gantry_protocol_connections", &[("protocol", "http2")]).unwrap_or_default(),
                all: count("gantry_connections"),
                websockets: count("gantry_websocket_connections"),
                requests_in_flight: count("gantry_http_requests_in_flight"),
                requests: count("gantry_http_requests_total"),
                by_route: summed(reading.by("gantry_http_requests_total", "route")),
            },
            logins: Logins {
                minutes: minutes.into_iter().map(MinuteOf::from).collect(),
                people_in_the_last_hour: people.iter().filter(|person| person.last >= hour_ago).count(),
                by_outcome: summed(reading.by("gantry_auth_requests_total", "outcome")),
                mean_seconds: reading.mean("gantry_auth_duration_seconds"),
            },
            people: people
                .into_iter()
                .filter_map(|person| {
                    let (seconds_ago, logins, created) = (since(now, person.last), person.logins, person.created);
                    Some(Person { who: person.label?, seconds_ago, logins, created })
                })
                .take(PEOPLE)
                .collect(),
            refusals: refusals
                .into_iter()
                .map(|refused| Refusal {
                    at: rfc3339(refused.at),
                    seconds_ago: since(now, refused.at),
                    reason: refused.kind.code(),
                    status: refused.kind.status().as_u16(),
                    id: refused.id.to_string(),
                    who: refused.who,
                    client: refused.client,
                    detail: refused.detail,
                    everyday: refused.kind == RefusalKind::NoSession,
                })
                .collect(),
            caches: ["sessions", "users", "tokens"]
                .into_iter()
                .map(|name| Cache {
                    name,
                    entries: reading.count("gantry_cache_entries", &[("cache", name)]).unwrap_or_default(),
                    requests: reading.count("gantry_cache_requests_total", &[("cache", name)]).unwrap_or_default(),
                    hits: reading.count("gantry_cache_requests_total", &[("cache", name), ("result", "hit")]).unwrap_or_default(),
                })
                .collect(),
            limits: limits::read(&reading),
            certificates: certificates(&reading, now),
            config_reload: reading.sum("gantry_config_last_reload_success", &[]).map(|ok| Reload {
                ok: ok > 0.0,
                for_seconds: reading
                    .sum("gantry_config_last_reload_success_timestamp_seconds", &[])
                    .filter(|at| *at > 0.0)
                    .map(|then| since(now, at(then))),
            }),
            certificates_good: reading.sum("gantry_tls_last_reload_success", &[]).map(|ok| ok > 0.0),
            process: Process {
                memory_bytes: reading.count("process_resident_memory_bytes", &[]),
                cpu_seconds: reading.sum("process_cpu_seconds_total", &[]),
                open_fds: reading.count("process_open_fds", &[]),
                max_fds: reading.count("process_max_fds", &[]),
                log_lines_dropped: reading.count("gantry_log_lines_dropped_total", &[]),
                panics: reading.count("gantry_panics_total", &[]),
            },
        }
    }
}

fn certificates(reading: &Reading, now: SystemTime) -> Vec<Certificate> {
    let mut found: Vec<Certificate> = reading
        .by("gantry_tls_certificate_expiry_seconds", "name")
        .into_iter()
        .map(|(name, ends)| {
            let ends = at(ends);
            let days = |span: Duration| i64::try_from(span.as_secs() / 86_400).unwrap_or(i64::MAX);
            let days_left = ends.duration_since(now).map_or_else(|past| -1 - days(past.duration()), days);
            Certificate { name, ends: rfc3339(ends), days_left }
        })
        .collect();
    found.sort_by_key(|certificate| certificate.days_left);
    found
}

/// Seconds since 1970 as a time.
fn at(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(whole(seconds).min(253_402_300_799))
}

fn since(now: SystemTime, then: SystemTime) -> u64 {
    now.duration_since(then).unwrap_or_default().as_secs()
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Series with the same word added up, the largest first.
fn summed(series: Vec<(String, f64)>) -> Vec<(String, u64)> {
    let mut sums: Vec<(String, u64)> = Vec::new();
    for (word, value) in series {
        match sums.iter_mut().find(|(known, _)| *known == word) {
            Some((_, sum)) => *sum += whole(value),
            None => sums.push((word, whole(value))),
        }
    }
    sums.retain(|(_, sum)| *sum > 0);
    sums.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    sums
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::journal::Refused;
    use crate::lifecycle::{Health, Stop};
    use crate::metrics::Metrics;
    use crate::peer::RequestId;

    pub(in super::super) fn admin() -> Admin {
        let health = Health::new(&[("rocketchat", true), ("service_account", false)]);
        Admin { metrics: Metrics::new(1), health, stop: Stop::default() }
    }

    fn get(path: &str, headers: &[(&'static str, &'static str)]) -> Response<Full<Bytes>> {
        let mut request = Request::get(path).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        answer(&admin(), &request)
    }

    #[test]
    fn only_requests_for_an_address_or_localhost_see_it() {
        for (host, seen) in [
            ("127.0.0.1:9090", true),
            ("127.0.0.1", true),
            ("[::1]:9090", true),
            ("[::1]", true),
            ("10.1.2.3:9090", true),
            ("localhost:9090", true),
            ("LOCALHOST", true),
            ("gantry.localhost:9090", true),
            ("evil.example:9090", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("notlocalhost", false),
            ("", false),
            ("user@127.0.0.1", false),
        ] {
            for path in ["/", "/status.json"] {
                let response = get(path, &[("host", host), ("accept", "text/html")]);
                assert_eq!(response.status() == StatusCode::OK, seen, "{path} for {host}");
                assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
            }
        }
        assert_eq!(get("/", &[]).status(), StatusCode::OK, "a script without Host");
        assert_eq!(get("/", &[("host", "127.0.0.1"), ("host", "evil.example")]).status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_browser_gets_a_page_and_curl_a_hint() {
        let kind = |accept| get("/", &[("host", "localhost"), ("accept", accept)]).headers()[CONTENT_TYPE].clone();
        assert_eq!(kind("text/html,application/xhtml+xml"), "text/html; charset=utf-8");
        assert_eq!(kind("*/*"), "text/plain; charset=utf-8");
        assert_eq!(get("/status.json", &[]).headers()[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn everything_that_happened_is_in_it() {
        let admin = admin();
        admin.metrics.login("jwt", None, Duration::from_millis(1));
        admin.metrics.journal().signed_in("42", Some("ada".into()), true);
        admin.metrics.journal().signed_in("43", None, false);
        let id = RequestId::random();
        admin.metrics.journal().refused(Refused {
            at: SystemTime::now(),
            kind: RefusalKind::SeatLimit,
            id,
            client: None,
            who: None,
            detail: "no seat".into(),
        });
        admin.metrics.cache("users", true);
        admin.metrics.rocketchat_version("8.5");
        admin.health.set("rocketchat", Ok(()));
        let status = Status::of(&admin, SystemTime::now());
        assert!(status.ready && status.checks[0].ok && !status.checks[1].ok);
        assert_eq!(status.rocketchat.version.as_deref(), Some("8.5"));
        assert_eq!(status.logins.minutes.len(), 60);
        assert_eq!((status.logins.minutes[59].signed_in, status.logins.minutes[59].refused), (2, 1));
        assert_eq!(status.logins.people_in_the_last_hour, 2);
        assert_eq!(status.people.iter().map(|person| person.who.as_str()).collect::<Vec<_>>(), ["ada"]);
        assert_eq!((status.refusals[0].reason, status.refusals[0].id.as_str()), ("seat_limit", id.as_str()));
        assert_eq!((status.caches[1].hits, status.caches[1].requests), (1, 1));
        admin.stop.announce();
        let status = Status::of(&admin, SystemTime::now());
        assert!(status.stopping && !status.ready, "as /readyz says from then on");
    }

    #[test]
    fn certificates_count_down_past_their_end() {
        let days = |left: i64| {
            let registry = prometheus::Registry::new();
            let opts = prometheus::Opts::new("gantry_tls_certificate_expiry_seconds", "x");
            let gauge = prometheus::IntGaugeVec::new(opts, &["name"]).unwrap();
            gauge.with_label_values(&["chat.example.com"]).set(1_000_000_000 + left);
            registry.register(Box::new(gauge)).unwrap();
            certificates(&Reading::new(registry.gather()), at(1_000_000_000.0))[0].days_left
        };
        for (left, expected) in [(86_400 * 3 + 5, 3), (5, 0), (-5, -1), (-86_400 * 2, -3)] {
            assert_eq!(days(left), expected, "{left}");
        }
    }
}
