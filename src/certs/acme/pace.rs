//! When to order, and when to try again.

use std::time::{Duration, SystemTime};

use super::super::pair::Pair;

/// How fast the keeper goes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After the first failure; each further one doubles it.
    pub first_retry: Duration,
    /// The longest that it waits by itself.
    pub longest_retry: Duration,
    /// How often it looks whether something is due, or another replica has been at work.
    pub look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first_retry: Duration::from_mins(1), longest_retry: Duration::from_hours(6), look: Duration::from_secs(30) }
    }
}

impl Pace {
    /// How long to wait after this many failures in a row: what the authority says if that is longer, and up to a
    /// quarter more or less by chance, so that not everybody comes back in the same second.
    pub(super) fn wait(&self, failures: u32, come_back: Option<SystemTime>, now: SystemTime, chance: u8) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(20));
        let own = self.first_retry.saturating_mul(doubled).min(self.longest_retry);
        let own = own.mul_f64(0.75 + f64::from(chance) / 510.0);
        let told = come_back.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
        // Nobody means a year; then a person has to look anyway.
        own.max(told.min(Duration::from_hours(24 * 7)))
    }
}

/// When a certificate is to be renewed: when a third of its life is left.
pub(super) fn renewal(pair: &Pair) -> SystemTime {
    let life = pair.not_after.duration_since(pair.not_before).unwrap_or_default();
    pair.not_after - life / 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::testing;

    #[test]
    fn retries_double_up_to_hours_and_heed_the_authority() {
        let (pace, now) = (Pace::default(), SystemTime::now());
        let wait = |failures, come_back, chance| pace.wait(failures, come_back, now, chance).as_secs();
        assert_eq!([1, 2, 3, 9, 10, 1000].map(|failures| wait(failures, None, 0)), [45, 90, 180, 11_520, 16_200, 16_200]);
        assert_eq!([1, 2, 10].map(|failures| wait(failures, None, 255)), [75, 150, 27_000]);
        assert_eq!(wait(1, Some(now + Duration::from_hours(3)), 0), 3 * 3600, "the authority is heeded");
        assert_eq!(wait(1, Some(now - Duration::from_hours(3)), 0), 45, "what is past does not count");
        assert_eq!(wait(1, Some(now + Duration::from_hours(24 * 365)), 0), 7 * 24 * 3600);
    }

    #[test]
    fn renewal_is_due_with_a_third_of_the_life_left() {
        let pair = testing::pair(&["a.example"], |params| {
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        });
        assert_eq!(pair.not_after.duration_since(renewal(&pair)).unwrap(), Duration::from_hours(24 * 30));
    }
}
