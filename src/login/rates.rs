//! How often one client, and one host session, may ask on our own paths, and how many sessions of one client may turn
//! out to be none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::table::{Table, Verdict};
use crate::config::Limits;
use crate::error::{Refusal, RefusalKind};
use crate::identity::SessionKey;
use crate::metrics::{Limit, Metrics};

/// Who asks: an IPv4 address, or the /64 of an IPv6 address, which is what one subscriber has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl Network {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// The rates of everybody. They outlive a reload.
#[derive(Debug)]
pub(super) struct Rates {
    limits: Limits,
    clients: Arc<Table>,
    sessions: Arc<Table>,
    unknown: Arc<Table>,
    metrics: Arc<Metrics>,
}

/// Leave to find out whose a session is.
#[derive(Debug)]
pub(super) struct Chance<'a>(Option<(&'a Rates, Network)>);

impl Chance<'_> {
    /// It was somebody's, or that could not be told: it does not count.
    pub(super) fn put_back(self) {
        if let Some((rates, network)) = self.0 {
            rates.unknown.put_back(&network, rates.limits.unknown_sessions_per_client);
        }
    }
}

impl Rates {
    pub(super) fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        let table = || Arc::new(Table::new(limits.tracked));
        Self { limits, clients: table(), sessions: table(), unknown: table(), metrics }
    }

    /// The same rates under other limits.
    pub(super) fn renewed(&self, limits: Limits) -> Self {
        let metrics = Arc::clone(&self.metrics);
        if !self.clients.is_for(limits.tracked) {
            return Self::new(limits, metrics);
        }
        let Self { clients, sessions, unknown, .. } = self;
        Self { limits, clients: Arc::clone(clients), sessions: Arc::clone(sessions), unknown: Arc::clone(unknown), metrics }
    }

    /// One request of a client.
    pub(super) fn client(&self, client: IpAddr) -> Result<(), Refusal> {
        let rate = self.limits.logins_per_client;
        self.check(Limit::LoginsPerClient, rate, || self.clients.take(&Network::of(client), rate))
    }

    /// One request with a host session.
    pub(super) fn session(&self, session: &SessionKey) -> Result<(), Refusal> {
        let rate = self.limits.logins_per_session;
        self.check(Limit::LoginsPerSession, rate, || self.sessions.take(session, rate))
    }

    /// A session of a client that may turn out to be none. Without a client nobody is held to anything.
    pub(super) fn unknown(&self, client: Option<IpAddr>) -> Result<Chance<'_>, Refusal> {
        let rate = self.limits.unknown_sessions_per_client;
        let Some(network) = client.filter(|_| rate > 0).map(Network::of) else { return Ok(Chance(None)) };
        self.check(Limit::UnknownSessionsPerClient, rate, || self.unknown.take(&network, rate))?;
        Ok(Chance(Some((self, network))))
    }

    fn check(&self, limit: Limit, rate: u32, take: impl FnOnce() -> Verdict) -> Result<(), Refusal> {
        if rate == 0 {
            return Ok(());
        }
        match take() {
            Verdict::Allowed { forgot: false } => Ok(()),
            Verdict::Allowed { forgot: true } => {
                self.metrics.limit_hit(Limit::Tracked);
                Ok(())
            }
            Verdict::Refused(wait) => {
                self.metrics.limit_hit(limit);
                Err(refusal(limit, rate, wait))
            }
        }
    }
}

fn refusal(limit: Limit, rate: u32, wait: Duration) -> Refusal {
    let words = match limit {
        Limit::LoginsPerSession => "This browser asks too often. This page tries again by itself.",
        _ => "Too many requests come from your network at the moment. This page tries again by itself.",
    };
    let detail = format!("over limits.{}, {rate} a minute", limit.as_str());
    // Those that were refused at one moment should not all be back at the next one.
    let wait = Duration::from_secs(wait.as_secs() + 1);
    Refusal::new(RefusalKind::RateLimited, words, detail).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(keys: &[(&str, &str)]) -> Rates {
        Rates::new(crate::config::example(keys).limits, Metrics::new(1))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_counts_by_itself_and_ipv6_by_its_64() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ] {
            let rates = rates(&[("limits.logins_per_client", "1")]);
            rates.client(ip(one)).unwrap();
            assert_eq!(rates.client(ip(other)).is_err(), same, "{one} {other}");
        }
    }

    #[test]
    fn each_limit_is_its_own_and_zero_is_none() {
        let limited =
            rates(&[("limits.logins_per_client", "2"), ("limits.logins_per_session", "3"), ("limits.unknown_sessions_per_client", "4")]);
        let (client, session) = (ip("192.0.2.1"), SessionKey([7; 32]));
        let count = |take: &dyn Fn() -> bool| (0..9).filter(|_| take()).count();
        assert_eq!(count(&|| limited.client(client).is_ok()), 2);
        assert_eq!(count(&|| limited.session(&session).is_ok()), 3);
        assert_eq!(count(&|| limited.unknown(Some(client)).is_ok()), 4);
        assert_eq!(count(&|| limited.unknown(None).is_ok()), 9, "nobody in particular");
        let refusal = limited.unknown(Some(client)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::RateLimited);
        assert_eq!(refusal.detail, "over limits.unknown_sessions_per_client, 4 a minute");
        assert!(refusal.retry_after.is_some_and(|wait| (1..=16).contains(&wait.as_secs())));
        let text = limited.metrics.exposition();
        for (limit, hits) in [("logins_per_client", 7), ("logins_per_session", 6), ("unknown_sessions_per_client", 6), ("tracked", 0)] {
            assert!(text.contains(&format!("gantry_limit_hits_total{{limit=\"{limit}\"}} {hits}\n")), "{text}");
        }
        let free = limited.renewed(
            rates(&[("limits.logins_per_client", "0"), ("limits.logins_per_session", "0"), ("limits.unknown_sessions_per_client", "0")])
                .limits,
        );
        assert_eq!(count(&|| free.client(client).is_ok() && free.session(&session).is_ok() && free.unknown(Some(client)).is_ok()), 9);
        let again = free.renewed(limited.limits);
        assert!(again.client(client).is_err(), "a reload forgives nothing");
    }

    #[test]
    fn what_turns_out_to_be_somebodys_does_not_count() {
        let rates = rates(&[("limits.unknown_sessions_per_client", "2")]);
        let client = Some(ip("192.0.2.1"));
        for _ in 0..50 {
            rates.unknown(client).unwrap().put_back();
        }
        let (_one, _two) = (rates.unknown(client).unwrap(), rates.unknown(client).unwrap());
        assert!(rates.unknown(client).is_err());
    }

    #[test]
    fn an_office_behind_one_address_gets_in_by_default_and_a_script_does_not() {
        let rates = rates(&[]);
        let office = ip("192.0.2.1");
        // 5,000 people, each with four requests, all within one moment.
        for person in 0..5_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&person.to_be_bytes());
            for _ in 0..4 {
                rates.client(office).unwrap();
                rates.session(&SessionKey(key)).unwrap();
            }
            rates.unknown(Some(office)).unwrap().put_back();
        }
        let script = ip("198.51.100.1");
        let through = (0..100_000).filter(|_| rates.client(script).is_ok()).count();
        assert!(through < 40_000, "{through}");
        let tried = (0..100_000).filter(|_| rates.unknown(Some(script)).is_ok()).count();
        assert!(tried < 10_000, "{tried}");
        assert!(rates.unknown(Some(office)).is_ok(), "nobody else is meant");
    }
}
