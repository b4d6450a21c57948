//! What a call to the workspace can fail with, read from status, `errorType` and text together: versions
//! 5.x to 9.0 put the same failure under different statuses and texts.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// No usable answer. `acted`: the call may have been acted on all the same.
    #[error("{why}")]
    Unavailable { why: String, acted: bool, retry_after: Option<Duration> },
    /// The limiter's next turn comes too late.
    #[error("rate limited for another {}", humantime::format_duration(Duration::from_secs(wait.as_secs())))]
    RateLimited { wait: Duration },
    /// The workspace said no.
    #[error("{0}")]
    Rejected(Rejection),
    /// Nothing was sent: a value of ours does not fit into the call.
    #[error("{0}")]
    Unsendable(&'static str),
}

/// How the workspace said no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}{}{kind}: {text}", if kind.is_empty() { "" } else { " " })]
pub(crate) struct Rejection {
    /// The status.
    pub(super) status: StatusCode,
    /// `errorType`, or the code in brackets at the end of the text; empty when there is neither.
    pub(super) kind: String,
    /// `error` or `message`.
    pub(super) text: String,
    /// `details.field`.
    pub(super) field: Option<String>,
    /// `details.method`: which second factor is wanted.
    pub(super) method: Option<String>,
}

impl Rejection {
    /// Reads an error answer.
    pub(super) fn read(status: StatusCode, answer: &Value) -> Self {
        let text_of = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        let (error, message) = (text_of("error"), text_of("message"));
        // Before 9.0 a login failure has its code in `error` and its words in `message`.
        let text = if error.is_empty() { message } else { error };
        let bracketed = text.trim_end().strip_suffix(']').and_then(|rest| rest.rsplit_once('[')).map_or("", |(_, code)| code);
        let kind = match text_of("errorType") {
            "" if bracketed.contains([' ', '"']) => "",
            "" if bracketed.is_empty() && !text.contains(' ') => text,
            "" => bracketed,
            kind => kind,
        };
        // Both stand in the log.
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(300).collect();
        Self {
            status,
            kind: plain(kind),
            text: plain(text),
            field: answer.pointer("/details/field").and_then(Value::as_str).map(str::to_owned),
            method: answer.pointer("/details/method").and_then(Value::as_str).map(plain),
        }
    }

    fn says(&self, words: &str) -> bool {
        self.text.to_ascii_lowercase().contains(words)
    }

    /// No such user.
    pub(super) fn is_unknown_user(&self) -> bool {
        matches!(self.kind.as_str(), "error-invalid-user" | "error-user-not-found" | "invalid-user") || self.says("user not found")
    }

    /// The caller's id and token do not belong together: the same words in every version.
    pub(super) fn is_not_logged_in(&self) -> bool {
        self.says("must be logged in") || (self.status == StatusCode::UNAUTHORIZED && self.says("invalid token"))
    }

    /// 401 without those words: the token may be wrong, or a permission missing (5.x, 6.x, thrown errors of 9.0).
    pub(super) fn is_doubtful_401(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED && !self.is_not_logged_in()
    }

    /// The caller lacks a permission.
    pub(super) fn is_permission(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
            || matches!(
                self.kind.as_str(),
                "unauthorized"
                    | "forbidden"
                    | "error-unauthorized"
                    | "error-forbidden"
                    | "error-not-authorized"
                    | "error-not-allowed"
                    | "error-action-not-allowed"
                    | "not-authorized"
            )
    }

    /// A second factor is wanted.
    pub(super) fn is_two_factor(&self) -> bool {
        matches!(self.kind.as_str(), "totp-required" | "totp-invalid" | "totp-max-attempts") || self.says("totp required")
    }

    /// Body or query do not fit the schema: nothing was done.
    pub(super) fn is_schema(&self) -> bool {
        matches!(self.kind.as_str(), "invalid-params" | "error-invalid-params")
            || self.says("must have required property")
            || self.says("must not have additional properties")
            || self.says("must match exactly one schema")
            || self.says("invalid-params")
            || matches!(self.kind.as_str(), "error-user-param-not-provided")
            || self.says("match error")
    }
}

impl ApiError {
    /// The call may have been acted on although it failed.
    pub(super) fn is_uncertain(&self) -> bool {
        matches!(self, Self::Unavailable { acted: true, .. })
    }

    /// A metric label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unsendable(_) => "unsendable",
            Self::Rejected(no) if no.is_two_factor() => "two_factor",
            Self::Rejected(no) if no.is_not_logged_in() => "not_logged_in",
            Self::Rejected(no) if no.is_schema() => "schema",
            Self::Rejected(no) if no.is_permission() => "forbidden",
            Self::Rejected(_) => "rejected",
        }
    }
}

/// The wait that a 429 tells in words: "You must wait N seconds before trying this endpoint again."
pub(crate) fn told_wait(text: &str) -> Option<Duration> {
    let after = text.split_once("must wait ")?.1;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(status: u16, answer: &Value) -> Rejection {
        Rejection::read(StatusCode::from_u16(status).unwrap(), answer)
    }

    #[test]
    fn what_is_logged_is_plain_and_short() {
        let no = read(400, &json!({"success": false, "error": "a\nb", "errorType": format!("x\u{7f}\n{}", "y".repeat(1000))}));
        assert_eq!((no.text.as_str(), no.kind.len()), ("ab", 300));
        assert!(!no.to_string().contains(char::is_control));
    }

    #[test]
    fn every_versions_way_to_say_no_is_understood() {
        let unknown = read(400, &json!({"success": false, "error": "User not found."}));
        assert!(unknown.is_unknown_user() && !unknown.is_permission() && unknown.kind.is_empty());
        assert!(
            read(400, &json!({"success": false, "error": "The required \"userId\" or \"username\" param provided does not match any users [error-invalid-user]", "errorType": "error-invalid-user"}))
                .is_unknown_user()
        );
        let strange = read(
            401,
            &json!({"success": false, "error": "You must be logged in to do this.", "status": "error", "message": "You must be logged in to do this."}),
        );
        assert!(strange.is_not_logged_in() && !strange.is_doubtful_401());
        for (status, answer) in [
            (403, json!({"success": false, "error": "unauthorized"})),
            (403, json!({"success": false, "error": "forbidden"})),
            (403, json!({"success": false, "error": "User does not have the permissions required for this action [error-unauthorized]"})),
            (400, json!({"success": false, "error": "Not authorized [error-not-authorized]", "errorType": "error-not-authorized"})),
            (400, json!({"success": false, "error": "Adding user is not allowed [error-action-not-allowed]"})),
            (401, json!({"success": false, "error": "unauthorized"})),
        ] {
            let no = read(status, &answer);
            assert!(no.is_permission() && !no.is_not_logged_in() && !no.is_unknown_user(), "{no:?}");
        }
        assert!(read(401, &json!({"success": false, "error": "unauthorized"})).is_doubtful_401());
        assert!(
            read(400, &json!({"success": false, "error": "TOTP Required [totp-required]", "errorType": "totp-required"})).is_two_factor()
        );
        for text in ["must have required property 'secret' [invalid-params]", "must NOT have additional properties [invalid-params]"] {
            let no = read(400, &json!({"success": false, "error": text}));
            assert!(no.is_schema() && no.kind == "invalid-params", "{no:?}");
        }
        let gateway = read(404, &json!(null));
        assert!(!gateway.is_unknown_user() && !gateway.is_permission());
    }

    #[test]
    fn the_wait_is_read_from_the_words() {
        let words = "Error, too many requests. Please slow down. You must wait 42 seconds before trying this endpoint again. [error-too-many-requests]";
        assert_eq!(told_wait(words), Some(Duration::from_secs(42)));
        assert_eq!(told_wait("too many requests"), None);
        assert_eq!(told_wait("You must wait a while"), None);
    }
}
