//! `[session]`.

use crate::config::Session;

use super::reader::Reader;

/// Calls a second that re-validation may make at most.
const MOST_RECHECKS: i64 = 100_000;

pub(super) fn session(r: &mut Reader<'_>) -> Option<Session> {
    let recheck = r.duration_or_zero("session.recheck");
    let recheck_rate = r.integer("session.recheck_rate", 1..=MOST_RECHECKS);
    let grace = r.duration_or_zero("session.grace");
    let guard_script = r.bool("session.guard_script");
    let page_wait = r.duration("session.page_wait");
    let cookie_bridge = r.bool("session.cookie_bridge");
    if recheck.is_some_and(|recheck| recheck.is_zero()) {
        r.warn("session.recheck", "is off: a chat that stays open goes on after its host session has ended");
    }
    Some(Session {
        recheck: recheck.map(|recheck| (!recheck.is_zero()).then_some(recheck))?,
        recheck_rate: recheck_rate?,
        grace: grace?,
        guard_script: guard_script?,
        page_wait: page_wait?,
        cookie_bridge: cookie_bridge?,
        logout_secret: r.secret("session.logout_secret", 16),
    })
}
