//! HTTP/1.1 towards the workspace (RFC 9112): a client made for forwarding.
//!
//! A request is written from the header map that came, without a copy of it; an answer's fields are slices of
//! the block that was read. A connection has no task of its own: whoever forwards a request drives it, and in the pool
//! it holds no buffer.
//!
//! [`Onward`](crate::headers::onward::Onward) writes heads and [`upload`] bodies; [`head`] and [`chunked`] read answers; [`exchange`] does one
//! after the other on a [`mod@line`], until the head of the answer is there, and [`body`] does the rest.

pub mod body;
pub mod chunked;
pub mod exchange;
pub mod head;
pub mod line;
pub mod upload;

/// Bounds on what an upstream may make us hold.
pub type Limits = crate::config::AnswerLimits;
