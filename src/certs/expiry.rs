//! Warnings before a certificate ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::flaw::date;
use super::pair::{Pair, Source};

/// Days before the end at which there is a warning, once each.
const DAYS: [u64; 4] = [21, 7, 3, 1];

/// How near the end is: 0 for none of the days, up to 5 for "over".
fn level(pair: &Pair, now: SystemTime) -> usize {
    let Ok(left) = pair.not_after.duration_since(now) else { return DAYS.len() + 1 };
    let life = pair.not_after.duration_since(pair.not_before).unwrap_or_default();
    // An authority's is renewed when a third of its life is left: before that nothing is wrong.
    let due = |days: u64| {
        let ahead = Duration::from_hours(24 * days);
        left <= ahead && (pair.source != Source::Acme || ahead < life / 3)
    };
    DAYS.iter().filter(|days| due(**days)).count()
}

/// What is to be said about the end of this pair, if anything.
pub(super) fn warning(pair: &Pair, now: SystemTime) -> Option<String> {
    pair.untimely(now).or_else(|| {
        let left = pair.not_after.duration_since(now).unwrap_or_default();
        (level(pair, now) > 0).then(|| format!("the certificate {} expires {}, on {}", pair.name, ahead(left), date(pair.not_after)))
    })
}

fn ahead(left: Duration) -> String {
    match left.as_secs() / 86_400 {
        0 => format!("in {} hours", left.as_secs() / 3600),
        1 => "in 1 day".into(),
        days => format!("in {days} days"),
    }
}

/// What has been said already.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(HashMap<String, (SystemTime, usize)>);

impl Told {
    /// The warnings that are due and have not been given yet.
    pub(super) fn due(&mut self, pairs: &[Arc<Pair>], now: SystemTime) -> Vec<String> {
        self.0.retain(|name, _| pairs.iter().any(|pair| pair.name == *name));
        let mut due = Vec::new();
        for pair in pairs.iter().filter(|pair| pair.source != Source::Placeholder) {
            let level = if pair.untimely(now).is_some() { DAYS.len() + 1 } else { level(pair, now) };
            let told = self.0.entry(pair.name.clone()).or_insert((pair.not_after, 0));
            if told.0 != pair.not_after {
                *told = (pair.not_after, 0);
            }
            if level > told.1 {
                due.extend(warning(pair, now));
            }
            told.1 = level;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::testing;

    const DAY: Duration = Duration::from_hours(24);

    fn told(pair: Pair, days: &[i64]) -> Vec<String> {
        let end = pair.not_after;
        let pairs = [Arc::new(pair)];
        let mut told = Told::default();
        let at = |days: i64| {
            let span = DAY * u32::try_from(days.unsigned_abs()).unwrap();
            if days < 0 { end + span } else { end - span }
        };
        days.iter().flat_map(|days| told.due(&pairs, at(*days) + Duration::from_secs(1))).collect()
    }

    #[test]
    fn each_of_the_days_is_told_once() {
        let pair = testing::pair(&["a.example"], testing::days(300, 100));
        let said = told(pair.clone(), &[60, 22, 21, 21, 20, 8, 7, 7, 6, 3, 3, 1, 1, -1, -1, -5]);
        assert_eq!(said.len(), 5, "{said:#?}");
        assert!(said[0].contains("in 20 days") && said[3].contains("in 23 hours") && said[4].contains("expired"), "{said:#?}");
        assert_eq!(told(pair, &[5]).len(), 1, "what is loaded late is told once and not three times");
    }

    #[test]
    fn a_short_life_of_an_authoritys_certificate_is_no_reason() {
        let pair = Pair { source: Source::Acme, ..testing::pair(&["a.example"], testing::days(0, 6)) };
        assert_eq!(told(pair.clone(), &[6, 3]), [""; 0]);
        assert_eq!(told(pair, &[6, 3, 1]).len(), 1, "but the end is, when it was not renewed");
        let long = Pair { source: Source::Acme, ..testing::pair(&["a.example"], testing::days(0, 90)) };
        assert_eq!(told(long, &[30, 22, 21, 7]).len(), 2);
    }

    #[test]
    fn a_replacement_begins_anew() {
        let old = Arc::new(testing::pair(&["a.example"], testing::days(300, 5)));
        let new = Arc::new(Pair { name: old.name.clone(), ..testing::pair(&["a.example"], testing::days(0, 6)) });
        let (mut told, now) = (Told::default(), SystemTime::now());
        assert_eq!(told.due(&[Arc::clone(&old)], now).len(), 1);
        assert_eq!(told.due(&[old], now).len(), 0);
        assert_eq!(told.due(&[new], now).len(), 1);
    }
}
