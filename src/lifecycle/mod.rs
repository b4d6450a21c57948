//! Stopping, reloading, what readiness depends on, and what the service manager is told.

pub mod reload;
pub mod service;
mod stop;
pub mod sweep;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

pub use stop::{Stop, TurnToLeave, WindDown};

/// One part that readiness is told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name in `/readyz`.
    pub name: &'static str,
    /// Whether traffic must be kept away while it fails.
    pub fatal: bool,
    /// `Err` says why, in words for the operator.
    pub state: Result<(), String>,
    /// Since when it is well, or is not.
    pub since: SystemTime,
}

/// What is known about the parts that we depend on.
#[derive(Debug)]
pub struct Health {
    // Written every few seconds by one task and read by probes: no request waits for it.
    checks: Mutex<Vec<Check>>,
    doubt: Notify,
}

impl Health {
    /// Nothing is known yet: every part in `names` (with its `fatal` flag) fails with "not asked yet".
    pub fn new(names: &[(&'static str, bool)]) -> Arc<Self> {
        let checks = names
            .iter()
            .map(|&(name, fatal)| Check { name, fatal, state: Err("not asked yet".into()), since: SystemTime::now() })
            .collect();
        Arc::new(Self { checks: Mutex::new(checks), doubt: Notify::new() })
    }

    /// Notes the state of a part. True when it differs from what was known.
    pub fn set(&self, name: &'static str, state: Result<(), String>) -> bool {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(check) = checks.iter_mut().find(|check| check.name == name) else { return false };
        let differs = check.state != state;
        if check.state.is_ok() != state.is_ok() {
            check.since = SystemTime::now();
        }
        check.state = state;
        differs
    }

    /// A request could not reach the workspace: whoever watches it had better look now.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// Resolves when there is doubt, at once if there was some since the last time.
    pub async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// All parts.
    pub fn checks(&self) -> Vec<Check> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether every fatal part is well.
    pub fn ready(&self) -> bool {
        self.checks().iter().all(|check| check.state.is_ok() || !check.fatal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fatal_parts_decide_readiness() {
        let health = Health::new(&[("upstream", true), ("service_account", false)]);
        assert!(!health.ready());
        assert!(health.set("upstream", Ok(())));
        assert!(health.ready(), "the service account is not fatal");
        assert!(!health.set("upstream", Ok(())), "nothing new");
        assert!(health.set("upstream", Err("refused".into())));
        assert!(!health.ready());
    }
}
