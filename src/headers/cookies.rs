//! Reading the `Cookie` request header (RFC 6265 §5.4).

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};

/// The value of the first cookie of that name.
pub fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    pairs(headers)
        .filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='))
        .find(|(found, _)| found.trim() == name)
        .map(|(_, value)| value.trim())
}

/// One `Cookie` value with those cookies only whose name `keep` accepts; `None` when none is left.
pub fn filtered(headers: &HeaderMap, keep: impl Fn(&str) -> bool) -> Option<HeaderValue> {
    let mut kept = Vec::new();
    for pair in pairs(headers) {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        if std::str::from_utf8(name).is_ok_and(|name| !name.is_empty() && keep(name.trim())) {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
    }
    if kept.is_empty() { None } else { HeaderValue::from_bytes(&kept).ok() }
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii)
}
