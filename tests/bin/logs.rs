//! What the program writes about requests and logins, as whoever collects its lines reads them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use gantry::demo::rocketchat::{Options, User};
use serde_json::{Value, json};

use super::support::{Apps, PATIENCE, Program, token};

/// Sends these bytes and reads the answer to its end.
fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

const EVIL: &[u8] = b"GET /home?resumeToken=s3cret HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\nUser-Agent: a\",\"status\":200,\"x\":\"\xff\x1b[2J id=forged\r\nReferer: https://u:s3cret@app.test/a?token=s3cret\r\nCookie: rc_token=s3cret\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_lines_have_the_chosen_fields_in_order_and_nothing_forged() {
    let mut apps = Apps::start(Options::default()).await;
    apps.chat.add_user(User::new("ada"));
    apps.set("GANTRY_LOG__FORMAT", "json");
    apps.set("GANTRY_LOG__ACCESS_FIELDS", "status,path,user_agent,referer,protocol,trace_id");
    apps.set("GANTRY_LOG__AUDIT", "hashed");
    apps.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    apps.set("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let program = Program::start(&[], &apps.env());
    let (public, _) = program.addresses();
    // An escape character is no header value, and the request that has one no request.
    assert!(raw(public, EVIL).starts_with("HTTP/1.1 400"));
    let plain: Vec<u8> = EVIL.iter().copied().filter(|byte| *byte != 0x1b).collect();
    assert!(raw(public, &plain).starts_with("HTTP/1.1 200"));
    assert_eq!(token(public, &apps.app.sign_in("ada")).await.status, 200);
    program.signal("TERM");
    let (code, text) = program.ended();
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let of = |target: &str| lines.iter().filter(|line| line["target"] == target).cloned().collect::<Vec<_>>();
    let access = of("gantry::access");
    let line = access.iter().find(|line| line["path"] == "/home?resumeToken=***").unwrap_or_else(|| panic!("{text}"));
    assert_eq!((&line["status"], &line["protocol"], &line["trace_id"]), (&json!(200), &json!("HTTP/1.1"), &Value::Null));
    assert_eq!((&line["referer"], &line["id"]), (&json!("https://app.test/a"), &Value::Null));
    assert!(line["user_agent"].as_str().unwrap().starts_with("a\",\"status\":200"), "{line}");
    let written = text.lines().find(|line| line.contains("/home")).unwrap();
    let places: Vec<usize> =
        ["\"status\":", "\"path\":", "\"user_agent\":", "\"referer\":", "\"protocol\":"].map(|key| written.find(key).unwrap()).to_vec();
    assert!(places.is_sorted(), "{written}");
    let audit = of("gantry::audit");
    assert_eq!((audit.len(), &audit[0]["outcome"]), (1, &json!("signed_in")));
    assert!(audit[0]["username"].is_null() && audit[0]["identity"].as_str().is_some_and(|hash| hash.len() == 12), "{}", audit[0]);
    assert!(!text.contains("s3cret") && !audit[0].to_string().contains("ada") && !audit[0].to_string().contains("127.0.0.1"), "{text}");
    assert!(lines.iter().any(|line| line["message"].as_str().is_some_and(|said| said.contains("4318, not 4317"))), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_lines_stay_one_line_each() {
    let mut apps = Apps::start(Options::default()).await;
    apps.set("GANTRY_LOG__ACCESS_FIELDS", "user_agent,took_us,status,method");
    let program = Program::start(&[], &apps.env());
    let (public, _) = program.addresses();
    let plain: Vec<u8> = EVIL.iter().copied().filter(|byte| *byte != 0x1b).collect();
    assert!(raw(public, &plain).starts_with("HTTP/1.1 200"));
    program.signal("TERM");
    let (_, text) = program.ended();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("gantry::access")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    let (before, after) = lines[0].split_once(" took_us=").unwrap_or_else(|| panic!("{text}"));
    assert!(before.contains("request user_agent=\"a\\\",\\\"status") && after.ends_with(" status=200 method=GET"), "{}", lines[0]);
}
