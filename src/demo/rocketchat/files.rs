//! `/file-upload/<id>/<name>`: protected by the login token in cookies, query or headers; with `Range`.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, COOKIE, HeaderValue, RANGE};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;

use super::meteor::hash_token;
use super::pages::plain;
use super::state::State;
use crate::demo::serve::Answer;

pub(super) fn answer(state: &State, parts: &Parts, name: &str) -> Answer {
    const TEXT: &str = "text/plain; charset=utf-8";
    let name = percent_decode_str(name).decode_utf8_lossy();
    let Some((kind, bytes)) = state.files.get(&*name) else {
        return plain(StatusCode::NOT_FOUND, TEXT, "File not found");
    };
    if state.setting_on("FileUpload_ProtectFiles") && !allowed(state, parts) {
        return plain(StatusCode::FORBIDDEN, TEXT, "");
    }
    let mut answer = match range(parts, bytes.len()) {
        None => plain(StatusCode::OK, "", bytes.clone()),
        Some(Err(())) => {
            let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE, "", Bytes::new());
            answer.headers_mut().insert(CONTENT_RANGE, content_range("*", bytes.len()));
            answer
        }
        Some(Ok((first, last))) => {
            let mut answer = plain(StatusCode::PARTIAL_CONTENT, "", bytes.slice(first..=last));
            answer.headers_mut().insert(CONTENT_RANGE, content_range(&format!("{first}-{last}"), bytes.len()));
            answer
        }
    };
    let headers = answer.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap_or(HeaderValue::from_static("application/octet-stream")));
    answer
}

fn content_range(range: &str, total: usize) -> HeaderValue {
    HeaderValue::from_str(&format!("bytes {range}/{total}")).expect("digits are a header value")
}

/// One byte range: `None` when not asked for, an error when it cannot be met.
fn range(parts: &Parts, total: usize) -> Option<Result<(usize, usize), ()>> {
    let asked = parts.headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    let (first, last) = asked.split_once('-')?;
    let (first, last) = if first.is_empty() {
        (total.saturating_sub(last.parse().ok()?), total.wrapping_sub(1))
    } else {
        (first.parse().ok()?, if last.is_empty() { usize::MAX } else { last.parse().ok()? })
    };
    let last = last.min(total.saturating_sub(1));
    Some(if first < total && first <= last { Ok((first, last)) } else { Err(()) })
}

fn allowed(state: &State, parts: &Parts) -> bool {
    let query = super::query(&parts.uri);
    let in_query = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let in_header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
    [
        (in_query("rc_uid"), in_query("rc_token")),
        (cookie(parts, "rc_uid"), cookie(parts, "rc_token")),
        (in_header("x-user-id"), in_header("x-auth-token")),
    ]
    .into_iter()
    .any(|(id, token)| match (id, token) {
        (Some(id), Some(token)) => state.user_by_id(&id).is_some_and(|user| user.token(&hash_token(&token)).is_some()),
        _ => false,
    })
}

fn cookie(parts: &Parts, name: &str) -> Option<String> {
    let all = parts.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut pairs = all.filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(n, _)| *n == name).map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
}
