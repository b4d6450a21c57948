//! Cookies, beside a second reader (RFC 6265 §5.4), and what of them goes to the host app.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::headers::cookies;

/// Name, value, and both as they stand.
type Pair = (Vec<u8>, Option<Vec<u8>>, Vec<u8>);

/// Names and values of all fields; a pair without `=` has no value.
fn pairs(fields: &[Vec<u8>]) -> Vec<Pair> {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let trim = |bytes: &[u8]| -> Vec<u8> {
        let start = bytes.iter().position(|b| !blank(b)).unwrap_or(bytes.len());
        let end = bytes.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
        bytes[start..end].to_vec()
    };
    let mut all = Vec::new();
    for field in fields {
        for pair in field.split(|b| *b == b';') {
            let pair = trim(pair);
            if pair.is_empty() {
                continue;
            }
            let mut halves = pair.splitn(2, |b| *b == b'=');
            let name = trim(halves.next().unwrap_or_default());
            all.push((name, halves.next().map(trim), pair));
        }
    }
    all
}

/// One `Cookie` field a line.
///
/// # Panics
/// The two readers differ, or a cookie of Rocket.Chat's or ours would reach the host app.
pub fn cookies(data: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut fields = Vec::new();
    for line in data.split(|b| *b == b'\n').take(32) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            fields.push(line.to_vec());
            headers.append(COOKIE, value);
        }
    }
    let all = pairs(&fields);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    for (name, _, _) in &all {
        let Some(name) = text(name) else { continue };
        let first = all.iter().find(|(other, _, _)| other == name.as_bytes()).and_then(|(_, value, _)| value.clone());
        let bare = first.map(|value| match value.as_slice() {
            [b'"', inner @ .., b'"'] => inner.to_vec(),
            whole => whole.to_vec(),
        });
        assert_eq!(cookies::get(&headers, &name), bare.and_then(|value| text(&value)).as_deref(), "{name}");
    }
    let named: Vec<String> = all.iter().filter(|(_, value, _)| value.is_some()).filter_map(|(name, _, _)| text(name)).collect();
    assert_eq!(cookies::names(&headers), named);

    let keep = |name: &str| !cookies::is_foreign_to_host_app(name);
    let foreign = |name: &str| {
        ["rc_uid", "rc_token", "rc_rid", "rc_room_type", "rc_is_widget"].contains(&name)
            || name.starts_with("__Host-gantry")
            || name.starts_with("gantry_")
    };
    let expected: Vec<Vec<u8>> =
        all.iter().filter(|(name, _, _)| text(name).is_some_and(|name| !foreign(&name))).map(|(_, _, pair)| pair.clone()).collect();
    let passed = cookies::filtered(&headers, keep);
    let passed = passed.map(|value| pairs(&[value.as_bytes().to_vec()])).unwrap_or_default();
    assert_eq!(passed.into_iter().map(|(_, _, pair)| pair).collect::<Vec<_>>(), expected);
}
