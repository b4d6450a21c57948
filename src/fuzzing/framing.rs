//! Framing, as a browser reads it.

use std::collections::BTreeMap;

use http::header::{CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, X_FRAME_OPTIONS};
use http::{HeaderMap, HeaderValue};

use crate::config::{Ancestor, Framing};
use crate::headers::framing::FramingPolicy;

const ANCESTORS: &str = "frame-ancestors";

/// A policy: the first directive of each name counts (CSP 3 §2.2.1).
type Policy = BTreeMap<String, Vec<u8>>;

/// All policies that a browser enforces.
fn policies(headers: &HeaderMap) -> Vec<Policy> {
    let mut all = Vec::new();
    for field in headers.get_all(CONTENT_SECURITY_POLICY) {
        for serialized in field.as_bytes().split(|b| *b == b',') {
            let mut policy = Policy::new();
            for token in serialized.split(|b| *b == b';') {
                let token = token.trim_ascii();
                let end = token.iter().position(u8::is_ascii_whitespace).unwrap_or(token.len());
                let name = String::from_utf8_lossy(&token[..end]).to_ascii_lowercase();
                if !name.is_empty() {
                    policy.entry(name).or_insert_with(|| token[end..].trim_ascii().to_vec());
                }
            }
            if !policy.is_empty() {
                all.push(policy);
            }
        }
    }
    all
}

/// First line: the path. Then one header a line, by its first byte: `X` is `X-Frame-Options`, `R` a policy
/// that reports only, anything else an enforced one.
///
/// # Panics
/// A browser would read something else than ours and what was there.
pub fn framing(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let (name, value) = match line.first() {
            Some(b'X') => (X_FRAME_OPTIONS, &line[1..]),
            Some(b'R') => (CONTENT_SECURITY_POLICY_REPORT_ONLY, &line[1..]),
            _ => (CONTENT_SECURITY_POLICY, line),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let before = headers.clone();
    let anyone = Framing { allowed_ancestors: vec![Ancestor::Anyone] };
    let one = Framing { allowed_ancestors: vec!["https://app.example.com".parse().expect("an origin")] };
    for (config, sources) in [(one, "'self' https://app.example.com"), (anyone, "*")] {
        let policy = FramingPolicy::new(&config);
        let mut after = before.clone();
        policy.apply(&path, &mut after);
        if ["/livechat", "/livechat/"].contains(&path.as_str()) {
            assert_eq!(after, before);
            continue;
        }
        assert!(!after.contains_key(X_FRAME_OPTIONS));
        let reported = |headers: &HeaderMap| headers.get_all(CONTENT_SECURITY_POLICY_REPORT_ONLY).iter().cloned().collect::<Vec<_>>();
        assert_eq!(reported(&after), reported(&before), "a policy that only reports has changed");
        let mut expected = policies(&before);
        for policy in &mut expected {
            policy.remove(ANCESTORS);
        }
        expected.retain(|policy| !policy.is_empty());
        expected.push(Policy::from([(ANCESTORS.to_owned(), sources.as_bytes().to_vec())]));
        assert_eq!(policies(&after), expected, "a browser reads something else");
        let mut twice = after.clone();
        policy.apply(&path, &mut twice);
        assert_eq!(policies(&twice), expected, "not the same a second time");
    }
}
