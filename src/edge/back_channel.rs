//! `POST logout` by an identity provider, with a logout token (OpenID Connect Back-Channel Logout 1.0 §2.5).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use super::audit::{Audit, Of};
use super::pages::json_answer;
use crate::error::{Refusal, RefusalKind};
use crate::login::{BackChannelRefusal, Login};

/// Whether a body like this may hold a logout token.
pub(super) fn may_be(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The logout token of a body; an empty one where there is more than one.
pub(super) fn token_in(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    if !may_be(headers) {
        return None;
    }
    let mut tokens = form_urlencoded::parse(body).filter(|(name, _)| name == "logout_token").map(|(_, token)| token.into_owned());
    let first = tokens.next()?;
    Some(if tokens.next().is_some() { String::new() } else { first })
}

/// Ends what the token is about, and answers as §2.8 wants it.
pub(super) async fn answer<'a>(login: &Login, audit: &Audit, of: impl Fn() -> Of<'a>, token: &str) -> Response<Bytes> {
    let client = of().client;
    let outcome = login.back_channel(client, token).await;
    let (status, error, description) = match &outcome {
        Ok(_) => (StatusCode::OK, "", String::new()),
        Err(BackChannelRefusal::NotConfigured) => {
            let words = "Gantry is not set up for logout tokens: see session.back_channel in its proxy.toml.";
            (StatusCode::NOT_IMPLEMENTED, "not_configured", words.to_owned())
        }
        Err(BackChannelRefusal::Invalid(why)) => (StatusCode::BAD_REQUEST, "invalid_request", why.clone()),
        Err(BackChannelRefusal::Later(refusal)) => (refusal.kind.status(), "temporarily_unavailable", refusal.kind.code().to_owned()),
    };
    let wait = match &outcome {
        Err(BackChannelRefusal::Later(refusal)) => refusal.retry_after,
        _ => None,
    };
    // Whoever is over a limit is counted; a line for each would be a flood of its own.
    if !matches!(&outcome, Err(BackChannelRefusal::Later(refusal)) if refusal.kind == RefusalKind::RateLimited) {
        audit.back_channel(of(), &outcome.map_err(as_refusal));
    }
    if status == StatusCode::OK {
        let mut response = json_answer(status, &json!(null));
        *response.body_mut() = Bytes::new();
        response.headers_mut().remove(CONTENT_TYPE);
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(0));
        return response;
    }
    let mut response = json_answer(status, &json!({ "error": error, "error_description": description }));
    if let Some(wait) = wait {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}

fn as_refusal(refusal: BackChannelRefusal) -> Refusal {
    match refusal {
        BackChannelRefusal::NotConfigured => Refusal::new(RefusalKind::Misconfigured, "", "session.back_channel is not set up"),
        BackChannelRefusal::Invalid(why) => Refusal::new(RefusalKind::NoSession, "", format!("logout token: {why}")),
        BackChannelRefusal::Later(refusal) => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logout_token_is_found_in_a_form_and_nowhere_else() {
        let form = "application/x-www-form-urlencoded";
        for (kind, body, expected) in [
            (form, "logout_token=a.b.c", Some("a.b.c")),
            ("Application/X-WWW-Form-Urlencoded; charset=utf-8", "x=1&logout_token=a%2Eb.c", Some("a.b.c")),
            (form, "logout_token=", Some("")),
            (form, "logout_token=a&logout_token=b", Some("")),
            (form, "token=a", None),
            (form, "", None),
            ("application/json", "logout_token=a.b.c", None),
            ("", "logout_token=a.b.c", None),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(token_in(&headers, body.as_bytes()).as_deref(), expected, "{kind} {body}");
        }
    }
}
