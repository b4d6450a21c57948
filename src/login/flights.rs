//! Logins under way, and whether their session was ended meanwhile. Only what is under way has a place here, so that
//! made-up sessions that somebody ends push nothing out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::identity::SessionKey;

/// The logins under way. Its lock is held for a few instructions, beside calls to others.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<SessionKey, Flight>>>);

#[derive(Debug, Default)]
struct Flight {
    logins: usize,
    ended: Option<Instant>,
}

/// One login under way, until dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    flights: &'a Flights,
    session: SessionKey,
}

impl Flights {
    /// A login begins.
    pub(super) fn begin(&self, session: SessionKey) -> UnderWay<'_> {
        self.all().entry(session).or_default().logins += 1;
        UnderWay { flights: self, session }
    }

    /// A session was ended: whatever is under way for it must not come to a login.
    pub(super) fn end(&self, session: &SessionKey) {
        if let Some(flight) = self.all().get_mut(session) {
            flight.ended = Some(Instant::now());
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SessionKey, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    /// Whether the session was ended at this moment or later.
    pub(super) fn ended_since(&self, began: Instant) -> bool {
        self.flights.all().get(&self.session).and_then(|flight| flight.ended).is_some_and(|at| at >= began)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut all = self.flights.all();
        if let Some(flight) = all.get_mut(&self.session) {
            flight.logins -= 1;
            if flight.logins == 0 {
                all.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_under_way_is_known() {
        let (flights, session, began) = (Flights::default(), SessionKey([1; 32]), Instant::now());
        let first = flights.begin(session);
        let second = flights.begin(session);
        assert!(!first.ended_since(began));
        for other in 0..=255 {
            flights.end(&SessionKey([other; 32]));
        }
        assert!(first.ended_since(began) && second.ended_since(began));
        assert_eq!(flights.all().len(), 1);
        drop(first);
        assert!(second.ended_since(began));
        drop(second);
        assert!(flights.all().is_empty());
        assert!(!flights.begin(session).ended_since(began), "a later login is another matter");
    }
}
