//! The host app's who-am-I endpoint: whether it can be asked, what it says to somebody without a session, and
//! whether the claims are where the configuration looks for them.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::look::{self, Look, Seen};
use super::{bad, good, pointers, skipped, transport, warning};
use crate::config::{Config, ForwardAuth, IdentitySource};
use crate::doctor::{Context, Finding};
use crate::headers::cookies;
use crate::identity::inspect;
use crate::outbound::api::{CallError, Reply};

const ASKED: &str = "host_app.who_am_i";
const ANONYMOUS: &str = "host_app.anonymous";
const CLAIMS: &str = "host_app.claims";

/// What every fix of the endpoint comes down to.
const WANTED: &str = "an endpoint that answers 200 and JSON for a session, and 401 without one";

/// All about the endpoint; nothing for other identity sources.
pub(super) fn checks(context: &Context, seen: &Seen) -> Vec<Finding> {
    let IdentitySource::ForwardAuth(source) = &context.config.identity.source else { return Vec::new() };
    let Some(me) = &seen.me else { return Vec::new() };
    let mut findings = reachable(source, me);
    if me.outcome.is_ok() {
        findings.extend(anonymous(&context.config, source, me));
    }
    findings.push(signed_in(context, source, seen));
    findings
}

fn reachable(source: &ForwardAuth, me: &Look) -> Vec<Finding> {
    let place = inspect::shown_url(&me.url);
    match &me.outcome {
        Err(error) => vec![unreachable(source, &place, error)],
        Ok(_) if me.took > source.timeout => vec![slow(source, &place, me.took)],
        Ok(reply) => vec![good(ASKED, format!("{place} answers: {} in {}", reply.status.as_u16(), millis(me.took)))],
    }
}

fn unreachable(source: &ForwardAuth, place: &str, error: &CallError) -> Finding {
    match error {
        CallError::TooLarge { limit, .. } => too_large(source, place, *limit),
        CallError::Timeout { after, .. } => {
            let mut fix = format!("look at why it hangs: curl -m 10 -i {place} from this machine");
            if *after > source.timeout {
                let longer = humantime::format_duration(longer(*after));
                fix = format!("{fix}; a slow one needs [identity.forward_auth] timeout = \"{longer}\"");
            }
            bad(ASKED, format!("{place} did not answer within {}", humantime::format_duration(*after)), fix)
        }
        error => bad(ASKED, format!("{place} cannot be asked: {error}"), transport::advice(error, "identity.forward_auth.url", place)),
    }
}

fn slow(source: &ForwardAuth, place: &str, took: Duration) -> Finding {
    let allowed = humantime::format_duration(source.timeout);
    bad(
        ASKED,
        format!("{place} took {}, and identity.forward_auth.timeout allows {allowed}: logins fail", millis(took)),
        format!("make the endpoint faster, or set [identity.forward_auth] timeout = \"{}\"", humantime::format_duration(longer(took))),
    )
}

fn too_large(source: &ForwardAuth, place: &str, limit: usize) -> Finding {
    bad(
        ASKED,
        format!("the answer of {place} is larger than identity.forward_auth.max_body ({limit} bytes)"),
        format!("answer with the profile only, or set [identity.forward_auth] max_body = {}", source.max_body.saturating_mul(4)),
    )
}

/// Twice as long, in whole seconds.
fn longer(took: Duration) -> Duration {
    Duration::from_secs((took.as_secs() + 1) * 2)
}

fn millis(took: Duration) -> String {
    format!("{} ms", took.as_millis())
}

/// What the endpoint says to a call that carries nothing.
fn anonymous(config: &Config, source: &ForwardAuth, me: &Look) -> Vec<Finding> {
    let Ok(reply) = &me.outcome else { return Vec::new() };
    let place = inspect::shown_url(&me.url);
    match reply.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            vec![good(ANONYMOUS, format!("{place} answers {} without a session", reply.status.as_u16()))]
        }
        StatusCode::OK => vec![anonymous_ok(config, reply, &place)],
        _ => vec![unexpected(source, ANONYMOUS, reply, &place, "without a session")],
    }
}

fn anonymous_ok(config: &Config, reply: &Reply, place: &str) -> Finding {
    let Ok(said) = serde_json::from_slice::<Value>(&reply.body) else { return not_json(ANONYMOUS, reply, place) };
    let nobody = "which means nobody";
    match &said {
        Value::Null => good(ANONYMOUS, format!("{place} answers 200 and null without a session, {nobody}")),
        Value::Object(members) if members.is_empty() => {
            good(ANONYMOUS, format!("{place} answers 200 and {{}} without a session, {nobody}"))
        }
        Value::Object(_) => match inspect::claim_fault(&said, &config.identity.claims) {
            None => bad(
                ANONYMOUS,
                format!(
                    "{place} answers 200 and an id to a call that carries no session: EVERYBODY would be signed in, all as the same person"
                ),
                format!(
                    "let it look at the caller's session and answer 401 without one. If it takes the caller's network address for a \
                     session, exempt Gantry's. Until then nobody must reach the chat. Try: curl -i {place}"
                ),
            ),
            Some(fault) if fault.claim == "id" && fault.null => {
                good(ANONYMOUS, format!("{place} answers 200 and a null id without a session, {nobody}"))
            }
            Some(fault) => warning(
                ANONYMOUS,
                format!("{place} answers 200 without a session, and {}: people who are signed out get an error, not a sign-in", fault.why),
                "answer 401 without a session (or 200 with null for the id)".to_owned(),
            ),
        },
        _ => not_an_object(ANONYMOUS, place),
    }
}

/// What the endpoint says to a call with the operator's own session.
fn signed_in(context: &Context, source: &ForwardAuth, seen: &Seen) -> Finding {
    let place = inspect::shown_url(&source.url);
    let Some(sample) = &context.sample else {
        return skipped(
            CLAIMS,
            "no session was given, so the claims could not be looked at: copy your session cookie from the browser and run gantry doctor \
             --header 'Cookie: name=value'",
        );
    };
    let Some(look) = &seen.me_signed_in else { return filtered(source, sample) };
    let reply = match &look.outcome {
        Ok(reply) => reply,
        Err(CallError::TooLarge { limit, .. }) => return Finding { check: CLAIMS, ..too_large(source, &place, *limit) },
        Err(error) => return bad(CLAIMS, error.to_string(), transport::advice(error, "identity.forward_auth.url", &place)),
    };
    match reply.status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return refused(source, reply, &place),
        _ => return unexpected(source, CLAIMS, reply, &place, "with the session given"),
    }
    let Ok(said) = serde_json::from_slice::<Value>(&reply.body) else { return not_json(CLAIMS, reply, &place) };
    if !said.is_object() {
        return not_an_object(CLAIMS, &place);
    }
    claims(&context.config, &said, &place)
}

/// Whether the claims of an answer can be used, and where they stand if not where they are looked for.
pub(super) fn claims(config: &Config, said: &Value, place: &str) -> Finding {
    let wanted = &config.identity.claims;
    if let Some(fault) = inspect::claim_fault(said, wanted) {
        let mut seen = format!("{place} answers, and {}", fault.why);
        let lines = pointers::suggestions(said, wanted);
        if lines.is_empty() {
            seen.push_str("; no field of a likely name is there");
        }
        let fix = if lines.is_empty() {
            format!(
                "add the field to the answer, or set [identity.claims] {} = \"/where/it/stands\"; fields that are there: {}",
                fault.claim,
                pointers::fields(said).join(", ")
            )
        } else {
            format!("[identity.claims] {}", lines.join(", "))
        };
        return bad(CLAIMS, seen, fix);
    }
    if config.users.create && !wanted.email.is_empty() && said.pointer(&wanted.email).is_none_or(Value::is_null) {
        let line = pointers::suggestion(said, "email");
        return warning(
            CLAIMS,
            format!("{place} says no email at {}: Rocket.Chat wants one for every account that is created", wanted.email),
            line.map_or_else(
                || "add the address to the answer, or set users.create = false".to_owned(),
                |line| format!("[identity.claims] {line}"),
            ),
        );
    }
    good(CLAIMS, format!("{place} says id and username where identity.claims looks for them"))
}

/// Nothing of the sample is handed on.
fn filtered(source: &ForwardAuth, sample: &http::HeaderMap) -> Finding {
    let lists_cookie = source.request_headers.contains(&http::header::COOKIE);
    let has_cookie = sample.contains_key(http::header::COOKIE);
    let names = cookies::names(sample).join("\", \"");
    let (seen, fix) = if has_cookie && lists_cookie {
        (
            format!("none of the cookies given is one of identity.forward_auth.cookies ({})", source.cookies.join(", ")),
            format!("[identity.forward_auth] cookies = [\"{names}\"], whichever of them is the session"),
        )
    } else {
        let given: Vec<&str> = sample.keys().map(http::HeaderName::as_str).collect();
        (
            "none of the headers given is one of identity.forward_auth.request_headers".to_owned(),
            format!("[identity.forward_auth] request_headers = [\"{}\"]", given.join("\", \"")),
        )
    };
    bad(CLAIMS, seen, fix)
}

fn refused(source: &ForwardAuth, reply: &Reply, place: &str) -> Finding {
    let mut fix = "give a session that is still good: sign in to the host app, copy the cookie anew".to_owned();
    if !source.cookies.is_empty() {
        fix.push_str("; only the cookies in identity.forward_auth.cookies are handed on, so name there all that make up the session");
    }
    fix.push_str("; an app that ties sessions to the browser's address or User-Agent has to list them: request_headers = [\"cookie\", \"user-agent\"]");
    bad(CLAIMS, format!("{place} answers {} to the session given", reply.status.as_u16()), fix)
}

/// Neither yes nor no.
fn unexpected(source: &ForwardAuth, check: &'static str, reply: &Reply, place: &str, when: &str) -> Finding {
    let code = reply.status.as_u16();
    if let Some(to) = look::location(reply) {
        return bad(
            check,
            format!("{place} answers {code} to {to} {when}: redirects are not followed, and a sign-in page is no answer"),
            format!("set identity.forward_auth.url to {WANTED}; have it answer 401 instead of redirecting when Accept is application/json"),
        );
    }
    let fix = match code {
        404 | 405 | 410 => format!("the path is wrong: set identity.forward_auth.url to {WANTED}; try: curl -i {place}"),
        429 => "exempt Gantry's address from the host app's rate limit, or raise [cache] sessions ttl".to_owned(),
        500..=599 => format!("the host app fails: look at its log for GET {}", source.url.path()),
        _ => format!("set identity.forward_auth.url to {WANTED}"),
    };
    bad(check, format!("{place} answers {code} {when}: that says neither yes nor no, so nobody is signed in"), fix)
}

fn not_json(check: &'static str, reply: &Reply, place: &str) -> Finding {
    let kind = look::kind(reply);
    let what = if kind == "text/html" { "an HTML page (text/html), likely the app itself or its sign-in page".to_owned() } else { kind };
    bad(
        check,
        format!("{place} answers 200 and {what}, not JSON"),
        format!("set identity.forward_auth.url to {WANTED}, such as https://app.example.com/api/me"),
    )
}

fn not_an_object(check: &'static str, place: &str) -> Finding {
    bad(
        check,
        format!("{place} answers 200 and JSON that is not an object"),
        "answer with an object, such as {\"sub\": \"42\", \"preferred_username\": \"ada\", \"email\": \"…\"}".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::HeaderMap;
    use url::Url;

    use super::*;
    use crate::config;
    use crate::doctor::Verdict;

    #[test]
    fn an_answer_that_comes_too_late_is_told_with_the_time_it_takes() {
        let config = config::example(&[
            ("identity.source", "forward_auth"),
            ("identity.header.id", ""),
            ("identity.forward_auth.url", "https://app.example.com/api/me"),
        ]);
        let IdentitySource::ForwardAuth(source) = &config.identity.source else { panic!("another source") };
        let look = |took| Look {
            url: Url::parse("https://app.example.com/api/me?key=s3cret").unwrap(),
            outcome: Ok(Reply { status: StatusCode::UNAUTHORIZED, headers: HeaderMap::new(), body: Bytes::new() }),
            took: Duration::from_millis(took),
            at: SystemTime::now(),
        };
        let late = &reachable(source, &look(3100))[0];
        assert_eq!(late.verdict, Verdict::Bad);
        assert!(late.seen.contains("took 3100 ms") && late.seen.contains("allows 2s") && late.fix.contains("timeout = \"8s\""), "{late:?}");
        let timely = &reachable(source, &look(100))[0];
        assert_eq!((timely.verdict, timely.seen.contains("s3cret")), (Verdict::Good, false));
    }
}
