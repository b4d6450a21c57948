//! `[limits]`: every bound that belongs to no other section.

use super::reader::Reader;
use crate::config::Limits;

/// The largest answer to a call of Gantry's own that may be asked for, in bytes.
pub(super) const MAX_BODY: i64 = 16 << 20;
/// A client or a session takes 16 bytes.
const MOST_TRACKED: i64 = 16 << 20;
/// The HTTP client cannot read a head into less.
const LEAST_HEAD: i64 = 8_192;

pub(super) fn limits(r: &mut Reader<'_>) -> Option<Limits> {
    let mut rate = |path: &str| r.integer::<u32>(path, 0..=i64::from(u32::MAX));
    let logins_per_client = rate("limits.logins_per_client");
    let logins_per_session = rate("limits.logins_per_session");
    let unknown_sessions_per_client = rate("limits.unknown_sessions_per_client");
    let tracked = r.integer("limits.tracked", 64..=MOST_TRACKED);
    let login_body = r.integer("limits.login_body", 1_024..=MAX_BODY);
    let login_body_timeout = r.duration("limits.login_body_timeout");
    let host_app_calls = r.integer("limits.host_app_calls", 1..=65_536);
    let rocketchat_calls = r.integer("limits.rocketchat_calls", 1..=65_536);
    let queue = r.integer("limits.queue", 0..=1_048_576);
    let queue_timeout = r.duration("limits.queue_timeout");
    let call_head = r.integer("limits.call_head", LEAST_HEAD..=1_048_576);
    if let (Some(session), Some(client)) = (logins_per_session, logins_per_client)
        && session > client
        && client > 0
        && r.is_written("limits.logins_per_session")
    {
        r.warn("limits.logins_per_session", "is more than limits.logins_per_client, so it never has an effect");
    }
    Some(Limits {
        logins_per_client: logins_per_client?,
        logins_per_session: logins_per_session?,
        unknown_sessions_per_client: unknown_sessions_per_client?,
        tracked: tracked?,
        login_body: login_body?,
        login_body_timeout: login_body_timeout?,
        host_app_calls: host_app_calls?,
        rocketchat_calls: rocketchat_calls?,
        queue: queue?,
        queue_timeout: queue_timeout?,
        call_head: call_head?,
    })
}
