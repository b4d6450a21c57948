//! `[session]`.

use http::Method;

use super::reader::Reader;
use super::rules;
use crate::config::{HostLogout, Session};

/// Calls a second that re-validation may make at most.
const MOST_RECHECKS: i64 = 100_000;
/// Logout tokens that may be remembered, some 100 bytes each.
const MOST_LOGOUT_TOKENS: i64 = 1 << 20;

pub(super) fn session(r: &mut Reader<'_>) -> Option<Session> {
    let recheck = r.duration_or_zero("session.recheck");
    let recheck_rate = r.integer("session.recheck_rate", 1..=MOST_RECHECKS);
    let grace = r.duration_or_zero("session.grace");
    let guard_script = r.bool("session.guard_script");
    let page_wait = r.duration("session.page_wait");
    let cookie_bridge = r.bool("session.cookie_bridge");
    let logout_secret = r.secret("session.logout_secret", 16);
    let host_logout = host_logout(r);
    let logout_tokens = r.integer("session.back_channel.max_tokens", 1..=MOST_LOGOUT_TOKENS);
    if recheck.is_some_and(|recheck| recheck.is_zero()) {
        r.warn("session.recheck", "is off: a chat that stays open goes on after its host session has ended");
    }
    if recheck.is_some_and(|recheck| !recheck.is_zero())
        && r.is_written("session.recheck")
        && r.optional("identity.source") == Some("header")
    {
        r.warn(
            "session.recheck",
            "has no effect with identity.source = \"header\": nobody can be asked without a request of the browser's",
        );
    }
    Some(Session {
        recheck: recheck.map(|recheck| (!recheck.is_zero()).then_some(recheck))?,
        recheck_rate: recheck_rate?,
        grace: grace?,
        guard_script: guard_script?,
        page_wait: page_wait?,
        cookie_bridge: cookie_bridge?,
        logout_secret,
        host_logout,
        logout_tokens: logout_tokens?,
    })
}

fn host_logout(r: &mut Reader<'_>) -> Option<HostLogout> {
    let url = r.parse_optional("session.host_logout_url", rules::url);
    let method = r.one_of("session.host_logout_method");
    let timeout = r.duration("session.host_logout_timeout");
    if url.is_some() && r.optional("identity.source") == Some("header") {
        r.warn("session.host_logout_url", "has no effect with identity.source = \"header\": Gantry has nothing to call it with");
    }
    let method = match method? {
        "GET" => Method::GET,
        "DELETE" => Method::DELETE,
        _ => Method::POST,
    };
    Some(HostLogout { url: url?, method, timeout: timeout? })
}
