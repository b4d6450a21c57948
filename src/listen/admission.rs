//! How many connections there may be, in all and from one client.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Limits;
use crate::metrics::Crowd;

/// How often the log is told that somebody was turned away.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Locks that client addresses are spread over, so that workers hardly ever meet at one.
const SHARDS: usize = 64;
/// How many at a time are told that there are too many: each takes a descriptor for a moment.
const FAREWELLS: usize = 64;

/// Counts the connections of all workers. A lock is taken twice in the life of a connection, and for no request.
#[derive(Debug)]
pub struct Admission {
    open: AtomicUsize,
    clients: [Mutex<HashMap<u128, usize>>; SHARDS],
    hasher: RandomState,
    farewells: AtomicUsize,
    complained: Mutex<Option<Instant>>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            open: AtomicUsize::new(0),
            clients: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            farewells: AtomicUsize::new(0),
            complained: Mutex::default(),
        }
    }
}

/// One connection; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    client: Option<u128>,
}

/// One who is being told; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct Farewell(Arc<Admission>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.farewells.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Counts one more connection, unless there are enough.
    pub(super) fn enter(self: &Arc<Self>, limits: &Limits) -> Result<Admitted, Crowd> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted { admission: Arc::clone(self), client: None };
        // Where it is too many, dropping it takes it away again.
        if limits.connections.is_some_and(|most| before >= most) { Err(Crowd::All) } else { Ok(admitted) }
    }

    /// Somebody may be told why he is turned away, unless many are being told already.
    pub(super) fn farewell(self: &Arc<Self>) -> Option<Farewell> {
        let before = self.farewells.fetch_add(1, Ordering::Relaxed);
        let farewell = Farewell(Arc::clone(self));
        (before < FAREWELLS).then_some(farewell)
    }

    /// Whether it is time to tell the log of somebody who was turned away.
    pub(super) fn complains(&self) -> bool {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    fn shard(&self, client: u128) -> MutexGuard<'_, HashMap<u128, usize>> {
        let shard = usize::try_from(self.hasher.hash_one(client) % SHARDS as u64).unwrap_or_default();
        self.clients[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// Counts it for its client as well, unless that has enough of them.
    pub(super) fn belongs_to(&mut self, ip: IpAddr, limits: &Limits) -> Result<(), Crowd> {
        let Some(most) = limits.connections_per_client else { return Ok(()) };
        let client = key(ip);
        let mut shard = self.admission.shard(client);
        let count = shard.entry(client).or_default();
        if *count >= most {
            if *count == 0 {
                shard.remove(&client);
            }
            return Err(Crowd::Client);
        }
        *count += 1;
        drop(shard);
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        let mut shard = self.admission.shard(client);
        match shard.get_mut(&client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                shard.remove(&client);
                if shard.capacity() > 64 && shard.len() * 4 < shard.capacity() {
                    // What a flood of addresses has left.
                    shard.shrink_to_fit();
                }
            }
        }
    }
}

/// Whom a connection counts for. A customer over IPv6 has a /64 at least (RFC 6177).
fn key(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;

    fn limits(connections: &str, per_client: &str) -> Limits {
        example(&[("limits.connections", connections), ("limits.connections_per_client", per_client)]).limits
    }

    fn enter(admission: &Arc<Admission>, ip: &str, limits: &Limits) -> Result<Admitted, Crowd> {
        let mut admitted = admission.enter(limits)?;
        admitted.belongs_to(ip.parse().unwrap(), limits)?;
        Ok(admitted)
    }

    #[test]
    fn no_more_than_so_many_in_all_and_of_one_client() {
        let (admission, limits) = (Arc::new(Admission::default()), limits("4", "2"));
        let held: Vec<_> = ["192.0.2.1", "::ffff:192.0.2.1"].map(|ip| enter(&admission, ip, &limits).unwrap()).into();
        assert_eq!(enter(&admission, "192.0.2.1", &limits).err(), Some(Crowd::Client));
        let more: Vec<_> = ["192.0.2.2", "192.0.2.2"].map(|ip| enter(&admission, ip, &limits).unwrap()).into();
        assert_eq!(enter(&admission, "192.0.2.3", &limits).err(), Some(Crowd::All));
        drop(held);
        // Whoever was turned away has left no trace.
        let again: Vec<_> = ["192.0.2.1", "192.0.2.1"].map(|ip| enter(&admission, ip, &limits).unwrap()).into();
        drop((more, again));
        assert_eq!(admission.open.load(Ordering::Relaxed), 0);
        assert!(admission.clients.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let (admission, limits) = (Arc::new(Admission::default()), limits("0", "1"));
        let held = enter(&admission, "2001:db8::1", &limits).unwrap();
        assert_eq!(enter(&admission, "2001:db8::ffff:0:0:1", &limits).err(), Some(Crowd::Client));
        assert!(enter(&admission, "2001:db8:0:1::1", &limits).is_ok());
        drop(held);
        assert!(enter(&admission, "2001:db8::2", &limits).is_ok());
    }

    #[test]
    fn no_limit_is_none() {
        let (admission, limits) = (Arc::new(Admission::default()), limits("0", "0"));
        let held: Vec<_> = (0..10_000).map(|_| enter(&admission, "192.0.2.1", &limits).unwrap()).collect();
        assert!(admission.clients.iter().all(|shard| shard.lock().unwrap().is_empty()));
        drop(held);
    }

    #[test]
    fn many_addresses_leave_no_memory_behind() {
        let (admission, limits) = (Arc::new(Admission::default()), limits("0", "4"));
        let held: Vec<_> =
            (0..100_000_u32).map(|n| enter(&admission, &std::net::Ipv4Addr::from(n).to_string(), &limits).unwrap()).collect();
        drop(held);
        assert!(admission.clients.iter().all(|shard| shard.lock().unwrap().capacity() <= 128));
    }

    #[test]
    fn few_are_told_at_a_time() {
        let admission = Arc::new(Admission::default());
        let told: Vec<_> = (0..100).filter_map(|_| admission.farewell()).collect();
        assert_eq!(told.len(), FAREWELLS);
        drop(told);
        assert!(admission.farewell().is_some());
    }

    #[test]
    fn the_log_is_told_once_in_a_while() {
        let admission = Admission::default();
        assert!(admission.complains());
        assert!(!admission.complains());
    }
}
