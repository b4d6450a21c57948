//! From an answer of the host app's to an identity, beside a second reader of JSON pointers (RFC 6901).

use serde_json::Value;

use crate::config;
use crate::identity::claims;

/// What a pointer leads to.
fn pointed<'v>(value: &'v Value, pointer: &str) -> Option<&'v Value> {
    if pointer.is_empty() {
        return Some(value);
    }
    let mut found = value;
    for token in pointer.strip_prefix('/')?.split('/') {
        let token = token.replace("~1", "/").replace("~0", "~");
        found = match found {
            Value::Object(members) => members.get(&token)?,
            Value::Array(items) => {
                let plain = token == "0" || (token.bytes().all(|b| b.is_ascii_digit()) && !token.starts_with('0'));
                items.get(token.parse::<usize>().ok().filter(|_| plain)?)?
            }
            _ => return None,
        };
    }
    Some(found)
}

/// Six pointers, one a line, and the answer behind them.
///
/// # Panics
/// An identity is made of something that does not stand there.
pub fn claims(data: &[u8]) {
    let mut lines = data.splitn(7, |b| *b == b'\n').map(|line| String::from_utf8_lossy(line).into_owned());
    let mut next = || lines.next().unwrap_or_default();
    let at = config::Claims {
        id: next(),
        username: next(),
        email: next(),
        email_verified: next(),
        name: next(),
        roles: next(),
        sid: String::new(),
        active: String::new(),
        avatar: "/picture".to_owned(),
    };
    let Ok(said) = serde_json::from_str::<Value>(&next()) else { return };
    let outcome = claims::identity(&said, &at);
    let id = Some(&at.id).filter(|at| !at.is_empty()).and_then(|at| pointed(&said, at));
    let identity = match outcome {
        Ok(identity) => identity,
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(error.claim) && text.contains("identity.claims."), "{text}");
            return;
        }
    };
    match id {
        Some(Value::String(id)) => assert_eq!(identity.id, *id),
        Some(Value::Number(id)) => assert_eq!(identity.id, id.to_string()),
        other => panic!("an id of {other:?}"),
    }
    let texts = [Some(&identity.id), Some(&identity.username), identity.email.as_ref(), identity.name.as_ref()];
    for text in texts.into_iter().flatten().chain(&identity.roles) {
        assert!(!text.trim().is_empty() && text.len() <= 3 * 512 && !text.chars().any(char::is_control), "{text:?}");
    }
    let string = |at: &str| Some(at).filter(|at| !at.is_empty()).and_then(|at| pointed(&said, at)).and_then(Value::as_str);
    let trimmed = |at: &str| string(at).map(str::trim).filter(|text| !text.is_empty());
    if !at.username.is_empty() {
        assert_eq!(Some(identity.username.as_str()), trimmed(&at.username));
    }
    assert_eq!(identity.email, trimmed(&at.email).map(str::to_lowercase));
    assert_eq!(identity.name.as_deref(), trimmed(&at.name));
    if !at.email_verified.is_empty() && pointed(&said, &at.email_verified) == Some(&Value::Bool(false)) {
        assert!(!identity.email_trusted, "the host app did not vouch for it");
    }
}
