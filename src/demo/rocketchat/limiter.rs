//! The REST rate limiter: one window per route, method and address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Instant;

use hyper::HeaderMap;

use super::options::RateLimit;
use crate::demo::events::now_ms;

/// The windows that are open.
#[derive(Debug, Default)]
pub(super) struct Limiter(HashMap<(String, IpAddr), (Instant, u32)>);

/// Where a call stands in its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) limit: u32,
    pub(super) remaining: u32,
    /// Epoch milliseconds.
    pub(super) reset: u64,
    /// Seconds to wait, when the window is used up.
    pub(super) wait: Option<u64>,
}

impl Limiter {
    pub(super) fn count(&mut self, rule: RateLimit, route: &str, address: IpAddr, now: Instant) -> Standing {
        let window = self.0.entry((route.to_owned(), address)).or_insert((now, 0));
        if now.duration_since(window.0) >= rule.window {
            *window = (now, 0);
        }
        let left = rule.window.saturating_sub(now.duration_since(window.0));
        let exceeded = window.1 >= rule.calls;
        window.1 += u32::from(!exceeded);
        Standing {
            limit: rule.calls,
            remaining: rule.calls - window.1,
            reset: now_ms() + u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            wait: exceeded.then(|| left.as_secs() + u64::from(left.subsec_nanos() > 0)),
        }
    }
}

/// The address that counts: `X-Real-IP`, or with `HTTP_FORWARDED_COUNT` the n-th of `X-Forwarded-For`
/// from the right, or the socket's.
pub(super) fn remote_address(headers: &HeaderMap, socket: IpAddr, forwarded_count: usize) -> IpAddr {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let forwarded: Vec<_> = text("x-forwarded-for").unwrap_or_default().split(',').map(str::trim).collect();
    let counted = (forwarded_count > 0 && forwarded.len() >= forwarded_count).then(|| forwarded[forwarded.len() - forwarded_count]);
    counted.or(text("x-real-ip")).and_then(|ip| IpAddr::from_str(ip.trim()).ok()).unwrap_or(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ten_a_minute_per_route_and_address() {
        let (mut limiter, rule) = (Limiter::default(), RateLimit::default());
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let now = Instant::now();
        let waits: Vec<_> = (0..11).map(|_| limiter.count(rule, "GET me", one, now).wait).collect();
        assert_eq!((waits[9], waits[10]), (None, Some(60)));
        assert_eq!(limiter.count(rule, "GET me", other, now).remaining, 9);
        assert_eq!(limiter.count(rule, "POST login", one, now).wait, None);
        assert_eq!(limiter.count(rule, "GET me", one, now + Duration::from_mins(1)).wait, None);
    }

    #[test]
    fn the_address_is_taken_from_where_the_contract_says() {
        let socket = IpAddr::from([127, 0, 0, 1]);
        for (real, forwarded, count, expected) in [
            (None, None, 0, "127.0.0.1"),
            (Some("10.0.0.9"), None, 0, "10.0.0.9"),
            (None, Some("10.0.0.1, 10.0.0.2"), 0, "127.0.0.1"),
            (Some("10.0.0.9"), Some("10.0.0.1, 10.0.0.2"), 1, "10.0.0.2"),
            (Some("10.0.0.9"), Some("10.0.0.1, 10.0.0.2"), 2, "10.0.0.1"),
            (Some("10.0.0.9"), Some("10.0.0.1"), 2, "10.0.0.9"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-real-ip", real), ("x-forwarded-for", forwarded)] {
                if let Some(value) = value {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            assert_eq!(remote_address(&headers, socket, count).to_string(), expected, "{real:?} {forwarded:?} {count}");
        }
    }
}
