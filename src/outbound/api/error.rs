//! Why a small call came to nothing.

use std::time::Duration;

use super::turns::NoTurn;
use crate::metrics::CallFault;
use crate::outbound::connect::Target;

/// Why there is no answer. The texts name the peer's host and port and never a header or a body.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// No connection: nothing can have been acted on.
    #[error("{host} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        host: String,
        /// The reason in words.
        why: String,
    },
    /// No whole answer in time; the call may have been acted on.
    #[error("{host} did not answer within {}", humantime::format_duration(*after))]
    Timeout {
        /// Host and port.
        host: String,
        /// The deadline.
        after: Duration,
    },
    /// The answer's body is larger than allowed.
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge {
        /// Host and port.
        host: String,
        /// The cap.
        limit: usize,
    },
    /// The answer's head, or what came before it, is larger than allowed; the call may have been acted on.
    #[error("the head of the answer of {host}, with what came before it, is larger than {limit} bytes (limits.call_head)")]
    HeadTooLarge {
        /// Host and port.
        host: String,
        /// The cap.
        limit: usize,
    },
    /// There are too many calls already: nothing was sent.
    #[error("too many calls to {host} at a time: {why}")]
    Busy {
        /// Host and port.
        host: String,
        /// Which limit it is.
        why: String,
        /// Whether it waited in the queue.
        waited: bool,
    },
    /// The connection ended before the whole answer; the call may have been acted on.
    #[error("the connection to {host} broke: {why}")]
    Broken {
        /// Host and port.
        host: String,
        /// The reason in words.
        why: String,
    },
}

impl CallError {
    /// The metric label, and a word for spans.
    pub(super) fn fault(&self) -> CallFault {
        match self {
            Self::Unreachable { .. } => CallFault::Unreachable,
            Self::Timeout { .. } => CallFault::Timeout,
            Self::TooLarge { .. } => CallFault::BodyTooLarge,
            Self::HeadTooLarge { .. } => CallFault::HeadTooLarge,
            Self::Busy { waited: false, .. } => CallFault::QueueFull,
            Self::Busy { waited: true, .. } => CallFault::QueueTimeout,
            Self::Broken { .. } => CallFault::Broken,
        }
    }

    /// Whether nothing was sent, so that nothing can have been acted on.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }

    pub(super) fn no_turn(target: &Target, none: NoTurn) -> Self {
        let (why, waited) = match none {
            NoTurn::Full(queue) => (format!("{queue} wait for their turn already (limits.queue)"), false),
            NoTurn::Late(after) => (format!("there was no turn within {} (limits.queue_timeout)", humantime::format_duration(after)), true),
        };
        Self::Busy { host: target.to_string(), why, waited }
    }
}
