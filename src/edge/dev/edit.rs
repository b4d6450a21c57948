//! Answers that the dev proxy changes on their way: pages get the bar, settings and the runtime config our
//! address. Pages stream; the others are small and are read whole, up to a bound.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Dev, html};
use crate::edge::settings::edit::{self, Step};

/// Bytes of settings or of a runtime config that are read at most; what is longer passes unchanged.
const MOST: usize = 8 * 1024 * 1024;

/// What is done to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// A page gets the bar.
    Mark,
    /// Public settings get our values.
    Settings,
    /// The runtime config gets our address.
    Config,
}

/// An edit that is being made.
pub(super) struct Making {
    pub(super) dev: Arc<Dev>,
    pub(super) edit: Edit,
}

impl edit::Edit for Making {
    fn step(&mut self, held: &mut BytesMut, last: bool) -> Step {
        let ready = match self.edit {
            Edit::Mark => html::insertion(held, last).map(|at| {
                let rest = held.split_off(at);
                let bar = self.dev.bar();
                [held.as_ref(), bar.as_bytes(), rest.as_ref()].concat()
            }),
            _ if held.len() > MOST => Some(held.to_vec()),
            _ if !last => None,
            edit => Some(match std::str::from_utf8(held) {
                Ok(text) => self.dev.rewritten(edit, text).into_bytes(),
                Err(_) => held.to_vec(),
            }),
        };
        ready.map_or_else(|| Step::Some(bytes::Bytes::new()), |ready| Step::Rest(ready.into()))
    }
}
