//! What an authority's refusals mean, in words with the key to change.

use instant_acme::{Error, Problem};

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) why: String,
    /// A nonce was used up by somebody else (RFC 8555 §6.5): worth another try at once.
    pub(super) bad_nonce: bool,
    /// The authority does not know our account any more.
    pub(super) unknown_account: bool,
}

/// What stands in front of the kinds of problems that RFC 8555 §6.7 lists.
const ACME: &str = "urn:ietf:params:acme:error:";

impl Failure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), bad_nonce: false, unknown_account: false }
    }

    /// The words for a problem document; `domain` is the name that it is about, where that is known.
    pub(super) fn of(problem: &Problem, domain: Option<&str>) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix(ACME).unwrap_or(kind);
        let mut said = problem.detail.clone().unwrap_or_else(|| "it gives no detail".into());
        for sub in problem.subproblems.iter().filter_map(|sub| sub.detail.as_ref()) {
            said = format!("{said}; {sub}");
        }
        let domain = domain.unwrap_or("the domain");
        let hint = match kind {
            "rateLimited" => "; it limits how often it issues: keep server.acme.cache_dir over restarts, and try with server.acme.staging",
            "externalAccountRequired" => "; set server.acme.eab_key_id and server.acme.eab_hmac_key_file to what it gave you",
            "connection" => "; it has to reach us under this name on port 443 (tls-alpn-01) or 80 (http-01) from outside",
            "dns" => "; does the name lead here, everywhere?",
            "unauthorized" | "incorrectResponse" | "tls" => {
                "; does the name lead here, and to nothing in front of us that ends TLS or answers by itself?"
            }
            "caa" => "; a CAA record of the name forbids this authority",
            "rejectedIdentifier" => "; take the name out of server.acme.domains",
            "invalidContact" | "unsupportedContact" => "; correct server.acme.contact",
            "userActionRequired" => "; its terms may have changed: follow the link",
            _ => "",
        };
        let kind = if kind.is_empty() { "no type" } else { kind };
        Self {
            why: format!("the authority refuses {domain} ({kind}): {said}{hint}"),
            bad_nonce: kind == "badNonce",
            unknown_account: kind == "accountDoesNotExist",
        }
    }

    /// This one, told behind another.
    pub(super) fn after(self, other: &Self) -> Self {
        Self { why: format!("{}; {}", other.why, self.why), ..self }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::of(&problem, None),
            Error::Json(error) => Self::new(format!(
                "what answers does not speak as RFC 8555 says ({error}); is server.acme.directory_url the address of a directory?"
            )),
            Error::Timeout(_) => Self::new("the authority did not finish in time"),
            other => Self::new(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str) -> Problem {
        serde_json::from_value(serde_json::json!({ "type": format!("{ACME}{kind}"), "detail": "because" })).unwrap()
    }

    #[test]
    fn a_problem_becomes_words_with_what_to_do() {
        for (kind, part) in [
            ("rateLimited", "server.acme.cache_dir"),
            ("externalAccountRequired", "server.acme.eab_key_id"),
            ("connection", "port 443"),
            ("invalidContact", "server.acme.contact"),
            ("rejectedIdentifier", "server.acme.domains"),
        ] {
            let failure = Failure::of(&problem(kind), Some("a.example"));
            assert!(failure.why.contains(part) && failure.why.contains("because") && failure.why.contains("a.example"), "{failure:?}");
        }
        assert!(Failure::of(&problem("badNonce"), None).bad_nonce);
        assert!(Failure::of(&problem("accountDoesNotExist"), None).unknown_account);
        let bare: Problem = serde_json::from_str("{}").unwrap();
        assert_eq!(Failure::of(&bare, None).why, "the authority refuses the domain (no type): it gives no detail");
    }
}
