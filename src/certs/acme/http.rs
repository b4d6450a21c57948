//! The authority's HTTP, over our own calls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use url::Url;

use crate::outbound::api::{Api, Call};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer at most; chains have a few thousand.
const MAX_BODY: usize = 1024 * 1024;

/// Makes the calls, and remembers when the authority said to come back.
#[derive(Clone, Debug)]
pub(super) struct Http {
    api: Api,
    /// Seconds since 1970; 0 for never.
    come_back: Arc<AtomicU64>,
}

impl Http {
    pub(super) fn new(api: Api) -> Self {
        Self { api, come_back: Arc::default() }
    }

    /// The `Retry-After` of a refusal since the last time that this was asked.
    pub(super) fn come_back(&self) -> Option<SystemTime> {
        let seconds = self.come_back.swap(0, Ordering::Relaxed);
        (seconds > 0).then(|| UNIX_EPOCH + Duration::from_secs(seconds))
    }
}

impl HttpClient for Http {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            let url = Url::parse(&parts.uri.to_string()).map_err(|error| Error::Other(Box::new(error)))?;
            let call = Call {
                method: parts.method,
                url: &url,
                headers: parts.headers,
                body: (!body.is_empty()).then_some(body),
                timeout: TIMEOUT,
                max_body: MAX_BODY,
            };
            let reply = this.api.call(call).await.map_err(|error| Error::Other(Box::new(error)))?;
            if reply.status.as_u16() >= 400 {
                if let Some(seconds) = retry_after(&reply.headers, SystemTime::now()) {
                    this.come_back.store(seconds, Ordering::Relaxed);
                }
                // Whoever answers without a problem document (RFC 8555 §6.7) is a proxy, or no authority.
                let json =
                    reply.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("json"));
                if !json {
                    return Err(Error::Other(format!("{url} answers {}", reply.status).into()));
                }
            }
            let mut response = Response::new(Full::new(reply.body));
            *response.status_mut() = reply.status;
            *response.headers_mut() = reply.headers;
            Ok(BytesResponse::from(response))
        })
    }
}

/// When to come back, in seconds since 1970 (RFC 9110 §10.2.3: a number of seconds, or a date).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    value.parse().map(|seconds: u64| now.saturating_add(seconds)).ok().or_else(|| {
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        for (value, expected) in [("120", Some(1_120)), ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)), ("soon", None), ("", None)] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))]);
            assert_eq!(retry_after(&headers, now), expected, "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
