//! Reads single values out of a scrape, by name: whatever part of Gantry publishes a metric, the status page
//! shows it without knowing that part.

use prometheus::proto::{Metric, MetricFamily, MetricType};

/// A scrape.
#[derive(Debug)]
pub(super) struct Reading(Vec<MetricFamily>);

impl Reading {
    pub(super) fn new(families: Vec<MetricFamily>) -> Self {
        Self(families)
    }

    fn series(&self, name: &str) -> impl Iterator<Item = (&Metric, f64)> {
        self.0.iter().filter(move |family| family.name() == name).flat_map(|family| {
            let kind = family.get_field_type();
            family.get_metric().iter().map(move |metric| {
                let value = match kind {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    MetricType::HISTOGRAM => metric.get_histogram().get_sample_sum(),
                    _ => metric.get_gauge().get_value(),
                };
                (metric, value)
            })
        })
    }

    /// The sum over all series of this name that have these labels; `None` where there is no such series.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = None;
        for (metric, value) in self.series(name) {
            if labels.iter().all(|(label, wanted)| label_of(metric, label) == Some(*wanted)) {
                found = Some(found.unwrap_or_default() + value);
            }
        }
        found
    }

    /// The same as a whole number, for what is counted.
    pub(super) fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.sum(name, labels).map(whole)
    }

    /// The value of `label` and the series' own, for each series of this name.
    pub(super) fn by(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        self.series(name).filter_map(|(metric, value)| Some((label_of(metric, label)?.to_owned(), value))).collect()
    }

    /// The mean of a histogram, over all of its series.
    pub(super) fn mean(&self, name: &str) -> Option<f64> {
        let count: u64 = self
            .0
            .iter()
            .filter(|family| family.name() == name)
            .flat_map(MetricFamily::get_metric)
            .map(|metric| metric.get_histogram().get_sample_count())
            .sum();
        let count = u32::try_from(count.min(u64::from(u32::MAX))).unwrap_or(u32::MAX);
        (count > 0).then(|| self.sum(name, &[]).unwrap_or_default() / f64::from(count))
    }
}

fn label_of<'m>(metric: &'m Metric, label: &str) -> Option<&'m str> {
    metric.get_label().iter().find(|pair| pair.name() == label).map(prometheus::proto::LabelPair::value)
}

/// A counter's value; what is no whole number becomes the next smaller one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
pub(super) fn whole(value: f64) -> u64 {
    value.clamp(0.0, 9e15) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::RefusalKind;
    use crate::metrics::Metrics;

    #[test]
    fn values_are_found_by_name_and_label() {
        let metrics = Metrics::new(1);
        metrics.login("jwt", None, Duration::from_secs(1));
        metrics.login("jwt", Some(RefusalKind::SeatLimit), Duration::from_secs(3));
        metrics.cache_entries("users", 7);
        let reading = Reading::new(metrics.gather());
        assert_eq!(reading.count("gantry_auth_requests_total", &[]), Some(2));
        assert_eq!(reading.count("gantry_auth_requests_total", &[("outcome", "seat_limit")]), Some(1));
        assert_eq!(reading.sum("gantry_auth_requests_total", &[("outcome", "nothing")]), None);
        assert_eq!(reading.by("gantry_cache_entries", "cache"), [("users".to_owned(), 7.0)]);
        assert_eq!(reading.mean("gantry_auth_duration_seconds"), Some(2.0));
        assert_eq!(reading.mean("gantry_http_request_duration_seconds"), None);
        assert_eq!([whole(-1.0), whole(2.9), whole(f64::NAN)], [0, 2, 0]);
    }
}
