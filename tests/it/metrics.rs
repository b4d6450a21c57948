//! Metrics, the dashboard and the alert rules, as Prometheus' own tool sees them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::world::World;

/// Published by the parts of Gantry that listen in TLS, keep certificates, reload, and write the log.
const OF_OTHER_PARTS: [&str; 9] = [
    "gantry_acme_orders_total",
    "gantry_config_last_reload_success",
    "gantry_config_last_reload_success_timestamp_seconds",
    "gantry_log_lines_dropped_total",
    "gantry_panics_total",
    "gantry_proxy_headers_refused_total",
    "gantry_tls_certificate_expiry_seconds",
    "gantry_tls_handshakes_total",
    "gantry_tls_last_reload_success",
];

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// Runs `promtool`, which `tests/run` installs; returns what it said.
fn promtool(args: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool of Debian's package prometheus; tests/run installs it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

/// A scrape after logins, refusals, failures and pages.
async fn scrape() -> String {
    let world = World::start().await;
    let cookie = world.guest("ada");
    world.sign_in(&cookie).await;
    world.sign_in(&cookie).await;
    assert_eq!(world.token("").await.status, 401);
    assert_eq!(world.get("/home", &[]).await.status, 200);
    assert_eq!(world.get("/_gantry/login", &[]).await.status, 200);
    world.chat.down().await;
    assert_eq!(world.get("/home", &[]).await.status, 503);
    assert_eq!(world.token(&world.guest("grace")).await.status, 503);
    world.admin("/metrics").await.text()
}

fn names(scrape: &str) -> BTreeSet<String> {
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned).collect()
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_a_scrape() {
    let scrape = scrape().await;
    assert_eq!(promtool(&["check", "metrics"], &scrape), "", "{scrape}");
    // What others are told to rely on.
    for series in [
        "gantry_http_requests_total{code=\"200\",route=\"upstream\"} 1",
        "gantry_auth_requests_total{outcome=\"signed_in\",source=\"forward_auth\"} 2",
        "gantry_auth_requests_total{outcome=\"no_session\",source=\"forward_auth\"} 1",
        "gantry_auth_requests_total{outcome=\"seat_limit\",source=\"forward_auth\"} 0",
        "gantry_tokens_minted_total{outcome=\"ok\"} 1",
        "gantry_tokens_reused_total 1",
        "gantry_users_created_total{outcome=\"ok\"} 1",
        "gantry_cache_hits_total{cache=\"sessions\"} 1",
        "gantry_http_failures_total{reason=\"unreachable\"} 1",
        "gantry_upstream_connects_total{outcome=\"failed\"} 1",
        "gantry_http_requests_in_flight 0",
        "gantry_rocketchat_api_duration_seconds_count{endpoint=\"users.createToken\"} 1",
        "gantry_build_info{",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(scrape.lines().any(|line| line.starts_with(series)), "{series} is missing: {scrape}");
    }
}

/// Every `expr` in a JSON document.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The metrics that a text names, without what a histogram appends.
fn named(text: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| (word.starts_with("gantry_") || word.starts_with("process_")) && word.len() > 8)
        .map(|word| {
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).filter(|bare| known.contains(*bare));
            bare.unwrap_or(word).to_owned()
        })
        .collect()
}

#[tokio::test]
async fn the_dashboard_asks_for_what_there_is_in_words_that_prometheus_understands() {
    let text = std::fs::read_to_string(deploy("grafana/gantry.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut all = Vec::new();
    expressions(&dashboard, &mut all);
    assert!(all.len() > 30, "{}", all.len());
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, expression) in all.iter().enumerate() {
        assert!(expression.contains("$job") && expression.contains("$instance"), "{expression} shows all that anybody runs");
        let plain = expression.replace("$__rate_interval", "5m").replace("$job", "gantry").replace("$instance", ".*");
        assert!(!plain.contains('$'), "{plain}");
        rules.extend(["  - record: r", &number.to_string(), "\n    expr: ", &Value::from(plain).to_string(), "\n"]);
    }
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(rules.as_bytes()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");

    let mut known = names(&scrape().await);
    known.extend(OF_OTHER_PARTS.map(str::to_owned));
    // Spans are counted only where traces are on.
    known.insert("gantry_trace_spans_total".to_owned());
    let unknown: Vec<String> = all.iter().flat_map(|expression| named(expression, &known)).filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "the dashboard asks for what nobody publishes: {unknown:?}");

    // Panels do not lie on each other.
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && taken.insert((x, y)), "{} lies on another panel", panel["title"]);
        }
    }
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
}

#[tokio::test]
async fn the_alert_rules_hold_what_their_tests_say() {
    let path = deploy("prometheus/gantry.rules.yaml");
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", path.to_str().unwrap()], "");
    promtool(&["test", "rules", deploy("prometheus/gantry.rules.test.yaml").to_str().unwrap()], "");
    let text = std::fs::read_to_string(path).unwrap();
    let mut known = names(&scrape().await);
    known.extend(OF_OTHER_PARTS.map(str::to_owned));
    known.insert("gantry_trace_spans_total".to_owned());
    let unknown: Vec<String> = named(&text, &known).into_iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "the rules ask for what nobody publishes: {unknown:?}");
    let alerts = text.matches("- alert: ").count();
    for field in ["severity:", "summary:", "description:", "runbook:"] {
        // The head of the file speaks of severities too.
        let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains(field)).count();
        assert_eq!(lines, alerts, "each alert has a {field}");
    }
}
