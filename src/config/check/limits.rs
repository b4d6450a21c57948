//! `[limits]`.

use super::reader::Reader;
use crate::config::Limits;

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
    Some(Limits {
        connections: or_any(connections?),
        connections_per_client: or_any(connections_per_client?),
        request_head: request_head?,
        request_fields: request_fields?,
        request_target: request_target?,
        send_timeout: send_timeout?,
    })
}
