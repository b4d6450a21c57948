//! Answers that the dev proxy changes on their way: settings and the runtime config get our address. They are small
//! and are read whole, up to a bound; what is longer passes. Pages, which get the bar, are not read whole: see
//! [`crate::html`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Dev;
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
        if held.len() > MOST {
            return Step::Rest(held.split().freeze());
        }
        if !last {
            return Step::Some(Bytes::new());
        }
        Step::Rest(match std::str::from_utf8(held) {
            Ok(text) => self.dev.rewritten(self.edit, text).into(),
            Err(_) => held.split().freeze(),
        })
    }
}
