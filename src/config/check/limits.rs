//! `[limits]`: every bound that belongs to no other section.

use super::reader::Reader;
use crate::config::{AnswerLimits, Limits};

/// The largest answer to a call of Gantry's own that may be asked for, in bytes.
pub(super) const MAX_BODY: i64 = 16 << 20;
/// A client or a session takes 16 bytes.
const MOST_TRACKED: i64 = 16 << 20;
/// The HTTP client cannot read a head into less.
const LEAST_HEAD: i64 = 8_192;
/// A start tag of Rocket.Chat's, and what the parser itself takes.
const LEAST_PAGE_MEMORY: i64 = 8_192;

pub(super) fn limits(r: &mut Reader<'_>) -> Option<Limits> {
    let connections = r.integer("limits.connections", 0..=10_000_000);
    let connections_per_client = r.integer("limits.connections_per_client", 0..=10_000_000);
    let request_head: Option<usize> = r.integer("limits.request_head", 4_096..=1_048_576);
    let request_fields = r.integer("limits.request_fields", 10..=10_000);
    // Longer ones no parser here takes.
    let request_target: Option<usize> = r.integer("limits.request_target", 256..=65_000);
    let send_timeout = r.duration("limits.send_timeout");
    if let (Some(head), Some(target)) = (request_head, request_target)
        && target > head
    {
        r.problem("limits.request_target", "is longer than limits.request_head, in which it stands; lower it or raise that");
    }
    let or_any = |limit: usize| (limit > 0).then_some(limit);
    let mut rate = |path: &str| r.integer::<u32>(path, 0..=i64::from(u32::MAX));
    let logins_per_client = rate("limits.logins_per_client");
    let logins_per_session = rate("limits.logins_per_session");
    let unknown_sessions_per_client = rate("limits.unknown_sessions_per_client");
    let tracked = r.integer("limits.tracked", 64..=MOST_TRACKED);
    let login_body = r.integer("limits.login_body", 1_024..=MAX_BODY);
    let login_body_timeout = r.duration("limits.login_body_timeout");
    let host_app_calls = r.integer("limits.host_app_calls", 1..=65_536);
    let rocketchat_calls = r.integer("limits.rocketchat_calls", 1..=65_536);
    let sync_queue = r.integer("limits.sync_queue", 1..=MOST_TRACKED);
    let sync_records = r.integer("limits.sync_records", 16..=MOST_TRACKED);
    let queue = r.integer("limits.queue", 0..=1_048_576);
    let queue_timeout = r.duration("limits.queue_timeout");
    let websocket_message = r.integer("limits.websocket_message", 1_024..=1_048_576);
    let websocket_memory = r.integer("limits.websocket_memory", 0..=1_099_511_627_776);
    let polled_sessions = r.integer("limits.polled_sessions", 16..=MOST_TRACKED);
    let call_head = r.integer("limits.call_head", LEAST_HEAD..=1_048_576);
    let page_memory = r.integer("limits.page_memory", LEAST_PAGE_MEMORY..=16_777_216);
    if let (Some(session), Some(client)) = (logins_per_session, logins_per_client)
        && session > client
        && client > 0
        && r.is_written("limits.logins_per_session")
    {
        r.warn("limits.logins_per_session", "is more than limits.logins_per_client, so it never has an effect");
    }
    let answers = answers(r);
    let native_message = r.integer("limits.native_message", 65_536..=1_073_741_824);
    Some(Limits {
        connections: or_any(connections?),
        connections_per_client: or_any(connections_per_client?),
        request_head: request_head?,
        request_fields: request_fields?,
        request_target: request_target?,
        send_timeout: send_timeout?,
        logins_per_client: logins_per_client?,
        logins_per_session: logins_per_session?,
        unknown_sessions_per_client: unknown_sessions_per_client?,
        tracked: tracked?,
        login_body: login_body?,
        login_body_timeout: login_body_timeout?,
        host_app_calls: host_app_calls?,
        rocketchat_calls: rocketchat_calls?,
        sync_queue: sync_queue?,
        sync_records: sync_records?,
        queue: queue?,
        queue_timeout: queue_timeout?,
        call_head: call_head?,
        page_memory: page_memory?,
        websocket_message: websocket_message?,
        websocket_memory: websocket_memory?,
        polled_sessions: polled_sessions?,
        answers: answers?,
        native_message: native_message?,
    })
}

fn answers(r: &mut Reader<'_>) -> Option<AnswerLimits> {
    let head = r.integer("limits.answer_head", 1_024..=1_048_576);
    let fields = r.integer("limits.answer_fields", 16..=10_000);
    let interim = r.integer("limits.answer_interim", 1..=10_000);
    let chunk_extensions = r.integer("limits.chunk_extensions", 0..=1_048_576);
    Some(AnswerLimits { head: head?, fields: fields?, interim: interim?, chunk_extensions: chunk_extensions? })
}
