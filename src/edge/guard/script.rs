//! The script itself, as it is answered.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode};

use super::Guard;
use crate::edge::pages::json_error;
use crate::peer::RequestId;

const SCRIPT: &str = include_str!("../assets/guard.js");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What tells this script from that of another version.
pub(super) fn version() -> String {
    URL_SAFE_NO_PAD.encode(&digest(&SHA256, SCRIPT.as_bytes()).as_ref()[..9])
}

impl Guard {
    /// Answers a request for the script. Under the address that stands in pages it never changes, so that it costs a
    /// browser one request for each version.
    pub(in crate::edge) fn script(&self, method: &Method, query: Option<&str>, id: &RequestId) -> Response<Bytes> {
        if !self.is_on() {
            return json_error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.", id);
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let words = "This method is not allowed here.";
            let mut response = json_error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", words, id);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let pinned = query.and_then(|query| query.strip_prefix("v=")).is_some_and(|given| given == version());
        let mut response = Response::new(Bytes::from_static(SCRIPT.as_bytes()));
        let headers = response.headers_mut();
        let keep = if pinned { "public, max-age=31536000, immutable" } else { "no-store" };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        // Said here, since the body is left out of answers to HEAD.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(SCRIPT.len()));
        response
    }
}
