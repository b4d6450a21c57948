//! The bodies and statuses of REST answers, by version.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::options::Version;
use crate::demo::serve::Answer;

/// What a REST call fails with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ApiError {
    /// A Meteor error was thrown: code, reason, details.
    Thrown(&'static str, String, Value),
    /// An explicit failure: a text and no code.
    Failure(String),
    /// A failure without any text.
    Silent,
    /// No valid `X-User-Id` and `X-Auth-Token`.
    NotLoggedIn,
    /// The route needs a permission that the caller lacks.
    Forbidden,
    /// Body or query fails the schema; the code differs between legacy and typed routes.
    Params(&'static str, String),
    /// The window is used up: seconds to wait.
    TooMany(u64),
    /// `POST login` failed: code, message, details.
    Login(Value, String, Value),
    /// No such endpoint.
    Unknown(String),
}

impl ApiError {
    /// A thrown Meteor error without details.
    pub(super) fn thrown(code: &'static str, reason: impl Into<String>) -> Self {
        Self::Thrown(code, reason.into(), Value::Null)
    }

    /// A legacy route's schema error.
    pub(super) fn params(text: impl Into<String>) -> Self {
        Self::Params("invalid-params", text.into())
    }

    /// Status and body.
    pub(super) fn render(self, version: Version) -> (StatusCode, Value) {
        let nine = version.new_errors();
        match self {
            Self::Thrown(code, reason, details) => thrown(code, &reason, details, nine),
            Self::Failure(text) => (StatusCode::BAD_REQUEST, json!({ "success": false, "error": text })),
            Self::Silent => (StatusCode::BAD_REQUEST, json!({ "success": false })),
            Self::NotLoggedIn => {
                let text = "You must be logged in to do this.";
                let mut body = json!({ "success": false, "error": text });
                if !nine {
                    body["status"] = "error".into();
                    body["message"] = text.into();
                }
                (StatusCode::UNAUTHORIZED, body)
            }
            Self::Forbidden => {
                let status = if version.forbidden_is_403() { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
                (status, json!({ "success": false, "error": if nine { "forbidden" } else { "unauthorized" } }))
            }
            Self::Params(code, text) => {
                (StatusCode::BAD_REQUEST, json!({ "success": false, "errorType": code, "error": format!("{text} [{code}]") }))
            }
            Self::TooMany(seconds) => {
                let text = format!(
                    "Error, too many requests. Please slow down. You must wait {seconds} seconds before trying this endpoint again."
                );
                (StatusCode::TOO_MANY_REQUESTS, json!({ "success": false, "error": text }))
            }
            Self::Login(..) if nine => (StatusCode::UNAUTHORIZED, json!({ "success": false, "error": "unauthorized" })),
            Self::Login(code, message, details) => {
                let mut body = json!({ "status": "error", "error": code, "message": message });
                if !details.is_null() {
                    body["details"] = details;
                }
                (StatusCode::UNAUTHORIZED, body)
            }
            Self::Unknown(endpoint) => {
                (StatusCode::NOT_FOUND, json!({ "success": false, "error": format!("API endpoint '{endpoint}' not found") }))
            }
        }
    }
}

fn thrown(code: &str, reason: &str, details: Value, nine: bool) -> (StatusCode, Value) {
    let text = format!("{reason} [{code}]");
    let bare = json!({ "success": false, "error": text });
    match code {
        "unauthorized" | "error-unauthorized" => (if nine { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN }, bare),
        "forbidden" | "error-forbidden" if nine => (StatusCode::FORBIDDEN, bare),
        _ => {
            let mut body = json!({ "success": false, "error": text, "errorType": code });
            if !details.is_null() {
                body["details"] = details;
            }
            (StatusCode::BAD_REQUEST, body)
        }
    }
}

/// A JSON answer.
pub(super) fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_by_version() {
        let (eight, nine) = (Version::new(8, 8, 0), Version::new(9, 0, 0));
        for (error, version, status, body) in [
            (
                ApiError::thrown("error-forbidden", "No"),
                eight,
                400,
                json!({ "success": false, "error": "No [error-forbidden]", "errorType": "error-forbidden" }),
            ),
            (ApiError::thrown("error-forbidden", "No"), nine, 403, json!({ "success": false, "error": "No [error-forbidden]" })),
            (ApiError::thrown("error-unauthorized", "No"), eight, 403, json!({ "success": false, "error": "No [error-unauthorized]" })),
            (ApiError::thrown("error-unauthorized", "No"), nine, 401, json!({ "success": false, "error": "No [error-unauthorized]" })),
            (ApiError::Forbidden, Version::new(6, 13, 0), 401, json!({ "success": false, "error": "unauthorized" })),
            (ApiError::Forbidden, eight, 403, json!({ "success": false, "error": "unauthorized" })),
            (ApiError::Forbidden, nine, 403, json!({ "success": false, "error": "forbidden" })),
            (
                ApiError::Login("Unauthorized".into(), "Unauthorized".into(), Value::Null),
                nine,
                401,
                json!({ "success": false, "error": "unauthorized" }),
            ),
            (ApiError::NotLoggedIn, nine, 401, json!({ "success": false, "error": "You must be logged in to do this." })),
            (ApiError::Silent, eight, 400, json!({ "success": false })),
        ] {
            let what = format!("{error:?} {version}");
            assert_eq!(error.render(version), (StatusCode::from_u16(status).unwrap(), body), "{what}");
        }
    }
}
