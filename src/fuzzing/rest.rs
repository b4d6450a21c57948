//! Answers of the workspace's REST API: what is no clear yes is an error, in words that fit into a log.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::wire;
use crate::outbound::api::Reply;
use crate::rocketchat::error::told_wait;
use crate::rocketchat::user::User;
use crate::rocketchat::version::Version;
use crate::rocketchat::wire::{Endpoint, limits, understand};

const ENDPOINTS: &[Endpoint] = &[Endpoint::Info, Endpoint::UsersInfo, Endpoint::UsersCreate, Endpoint::CreateToken, Endpoint::Settings];

/// The number in "must wait N seconds".
fn wait(text: &str) -> Option<u64> {
    let at = text.find("must wait ")? + "must wait ".len();
    let mut digits = String::new();
    for c in text[at..].chars() {
        if !c.is_ascii_digit() {
            break;
        }
        digits.push(c);
    }
    digits.parse().ok()
}

/// A status, header lines up to an empty one, and a body.
///
/// # Panics
/// A no is taken for a yes, or an error could not stand in a log.
pub fn rest(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let Some(status) = first.get(..3).and_then(|text| StatusCode::from_bytes(text.as_bytes()).ok()) else { return };
    let endpoint = ENDPOINTS[first.len() % ENDPOINTS.len()];
    let mut headers = HeaderMap::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()).take(16) {
        let mut halves = line.splitn(2, |b| *b == b':');
        let name = halves.next().and_then(|name| HeaderName::from_bytes(name).ok());
        if let (Some(name), Some(value)) = (name, halves.next().and_then(|v| HeaderValue::from_bytes(wire::trim(v)).ok())) {
            headers.append(name, value);
        }
    }
    let body = lines.collect::<Vec<_>>().join(&b'\n');
    let text = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(told_wait(&text), wait(&text).map(Duration::from_secs));
    let _ = limits(&headers);
    let answer: Option<Value> = serde_json::from_slice(&body).ok();
    let yes = answer.as_ref().filter(|answer| {
        answer.is_object() && status.is_success() && answer["success"] != Value::Bool(false) && answer["status"] != "error"
    });
    match understand(endpoint, &Reply { status, headers, body: Bytes::from(body) }) {
        Ok(said) => assert_eq!(Some(&said), yes, "a no is taken for a yes"),
        Err(error) => {
            assert!(yes.is_none(), "a yes is taken for a no: {error}");
            let words = error.to_string();
            assert!(!words.chars().any(char::is_control) && words.len() < 4000, "{words:?}");
        }
    }
    for text in [text.as_str(), answer.as_ref().and_then(|a| a.get("version")).and_then(Value::as_str).unwrap_or_default()] {
        if let Some(version) = Version::parse(text) {
            assert_eq!(Version::parse(&version.to_string()), Some(version));
            assert!(text.trim().trim_start_matches('v').starts_with(['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '+']), "{text:?}");
        }
    }
    let Some(answer) = answer else { return };
    let _ = Version::of_info(&answer);
    if let Some(user) = User::read(&answer) {
        assert_eq!(answer["_id"], user.id);
        assert!(!user.id.is_empty() && (user.active != Some(true) || answer["active"] == true));
        assert!(user.roles.is_none() || answer["roles"].is_array());
    }
}
