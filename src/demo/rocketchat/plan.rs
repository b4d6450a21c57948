//! What a test has planned for coming calls: faults and gates, by endpoint.

use std::sync::Arc;

use crate::demo::gate::{Gate, Turnstile};

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This answer, without acting.
    Answer {
        /// The status.
        status: u16,
        /// The body; `application/json` when it begins with `{`.
        body: String,
    },
    /// Acts, then gives this answer instead of its own: a create that fails half-way.
    AnswerAfter {
        /// The status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The connection ends without acting.
    CloseBefore,
    /// Acts, then the connection ends.
    CloseAfter,
    /// Never answers, without acting; ends with the client's connection.
    Hang,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Before,
    After,
}

#[derive(Debug)]
enum Step {
    Once(Fault),
    Always(Fault),
    Hold(When, Arc<Turnstile>),
}

/// The plan of one workspace. The endpoint `*` stands for every REST endpoint.
#[derive(Debug, Default)]
pub(super) struct Plan(Vec<(String, Step)>);

impl Plan {
    pub(super) fn fail_next(&mut self, endpoint: &str, fault: Fault) {
        self.0.push((endpoint.to_owned(), Step::Once(fault)));
    }

    pub(super) fn fail_always(&mut self, endpoint: &str, fault: Fault) {
        self.0.push((endpoint.to_owned(), Step::Always(fault)));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn hold(&mut self, endpoint: &str, when: When) -> Gate {
        let (gate, turnstile) = Gate::closed();
        self.0.push((endpoint.to_owned(), Step::Hold(when, turnstile)));
        gate
    }

    /// The gates that a call has to pass at this moment.
    pub(super) fn gates(&mut self, endpoint: &str, when: When) -> Vec<Arc<Turnstile>> {
        self.0.retain(|(_, step)| !matches!(step, Step::Hold(_, turnstile) if turnstile.is_open()));
        let held = self.0.iter().filter_map(|(name, step)| match step {
            Step::Hold(at, turnstile) if *at == when && covers(name, endpoint) => Some(Arc::clone(turnstile)),
            _ => None,
        });
        held.collect()
    }

    /// The fault of this call, taken out when it was planned once.
    pub(super) fn fault(&mut self, endpoint: &str) -> Option<Fault> {
        let at = self.0.iter().position(|(name, step)| covers(name, endpoint) && !matches!(step, Step::Hold(..)))?;
        match &self.0[at].1 {
            Step::Always(fault) => Some(fault.clone()),
            Step::Once(fault) => {
                let fault = fault.clone();
                self.0.remove(at);
                Some(fault)
            }
            Step::Hold(..) => None,
        }
    }
}

fn covers(planned: &str, endpoint: &str) -> bool {
    planned == "*" || planned == endpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_is_once_and_always_is_always() {
        let mut plan = Plan::default();
        plan.fail_next("me", Fault::CloseBefore);
        plan.fail_always("*", Fault::Hang);
        assert_eq!(plan.fault("users.info"), Some(Fault::Hang));
        assert_eq!(plan.fault("me"), Some(Fault::CloseBefore));
        assert_eq!(plan.fault("me"), Some(Fault::Hang));
        plan.clear();
        assert_eq!(plan.fault("me"), None);
    }

    #[test]
    fn an_opened_gate_is_forgotten() {
        let mut plan = Plan::default();
        let gate = plan.hold("me", When::Before);
        assert_eq!((plan.gates("me", When::Before).len(), plan.gates("me", When::After).len()), (1, 0));
        gate.open();
        assert!(plan.gates("me", When::Before).is_empty());
    }
}
