//! What is said of changes: a line under `gantry::audit` for each, with people in it as `log.audit` allows, and
//! one in the log for what could not be done.

use std::sync::Arc;

use super::plan::{What, Write};
use crate::config;
use crate::identity::Identity;
use crate::metrics::Metrics;

/// What stands for a value that nobody shall see.
const HIDDEN: &str = "***";

/// Tells of changes.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    shows: config::Audit,
    metrics: Arc<Metrics>,
}

/// Whose account it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whose<'a> {
    pub(super) identity: &'a Identity,
    pub(super) user_id: &'a str,
    pub(super) username: &'a str,
}

impl Audit {
    pub(super) fn new(shows: config::Audit, metrics: Arc<Metrics>) -> Self {
        Self { shows, metrics }
    }

    /// A change was made.
    pub(super) fn changed(&self, whose: Whose<'_>, write: &Write) {
        if self.shows == config::Audit::Off {
            return;
        }
        let change = match write {
            Write::Profile(_) | Write::Avatar(_) => "set",
            Write::Give(_) | Write::Join(_) => "given",
            Write::Take(_) | Write::Leave(_) => "taken",
        };
        let identity = self.shown(&whose.identity.id);
        // A hash stands for the whole person.
        let named = self.shows == config::Audit::Names;
        let (username, user_id) = named.then_some((whose.username, whose.user_id)).unzip();
        for what in write.about() {
            let (field, value) = (what.field(), self.value(&what));
            tracing::info!(
                target: "gantry::audit",
                event = "sync", identity, username, user_id, field, change, value, "an account was brought up to date"
            );
        }
    }

    /// The workspace refuses a value.
    pub(super) fn refused(&self, whose: Whose<'_>, what: &What, why: &str) {
        let (field, value) = (what.field(), self.value(what));
        let user = self.user(whose);
        // What the workspace says may hold the value.
        let why = if self.shows == config::Audit::Names || !what.is_personal() { why } else { "the reason may hold the value" };
        tracing::warn!(
            user,
            field,
            value,
            why,
            "the workspace refuses a value for an account; it is not tried again for a day, unless the host app says another one"
        );
    }

    /// How an account is called in the log.
    pub(super) fn user(&self, whose: Whose<'_>) -> String {
        match self.shows {
            config::Audit::Names => whose.user_id.to_owned(),
            config::Audit::Hashed => self.metrics.journal().hash(&whose.identity.id),
            config::Audit::Off => HIDDEN.to_owned(),
        }
    }

    fn value<'a>(&self, what: &'a What) -> &'a str {
        if what.is_personal() && self.shows != config::Audit::Names { HIDDEN } else { what.value() }
    }

    fn shown(&self, text: &str) -> String {
        if self.shows == config::Audit::Hashed { self.metrics.journal().hash(text) } else { text.to_owned() }
    }
}
