//! File descriptors: as many as we may have, and whether they are enough.

use crate::config::Limits;

/// What the process needs besides client connections and those that they need upstream: listeners, logs, certificates,
/// calls to the workspace.
const RESERVE: u64 = 100;

/// Raises the limit of open files as far as it may be raised. Returns how many there may be.
pub(super) fn raise() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::debug!(%error, "the limit of open files cannot be raised");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
    })
}

/// Warns when there may be more connections than there are descriptors for them.
pub(super) fn check(limits: &Limits, descriptors: u64) {
    if let Some((connections, fit)) = shortfall(limits, descriptors) {
        let hint = "raise LimitNOFILE of the service or ulimit -Hn, or lower limits.connections to what fits";
        tracing::warn!(connections, descriptors, fit, hint, "limits.connections allows more than there are file descriptors for");
    }
}

/// The connections that there may be, and those that fit: a proxied one takes two descriptors.
fn shortfall(limits: &Limits, descriptors: u64) -> Option<(u64, u64)> {
    let connections = u64::try_from(limits.connections?).unwrap_or(u64::MAX);
    let fit = descriptors.saturating_sub(RESERVE) / 2;
    (connections > fit).then_some((connections, fit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::example;

    #[test]
    fn a_limit_beyond_the_descriptors_is_told_with_its_numbers() {
        for (connections, descriptors, expected) in [
            ("16384", 1024, Some((16_384, 462))),
            ("462", 1024, None),
            ("463", 1024, Some((463, 462))),
            ("10", 48, Some((10, 0))),
            ("16384", 1 << 20, None),
            ("0", 48, None),
        ] {
            assert_eq!(shortfall(&example(&[("limits.connections", connections)]).limits, descriptors), expected, "{connections}");
        }
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let (_, hard) = rlimit::Resource::NOFILE.get().unwrap();
        assert_eq!(raise(), hard);
        assert_eq!(rlimit::Resource::NOFILE.get().unwrap().0, hard);
    }
}
