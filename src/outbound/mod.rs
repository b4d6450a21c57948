//! Outgoing connections: small calls ([`api`]) and forwarded requests ([`pool`]), over one way to
//! connect ([`connect`]).

pub mod api;
pub mod connect;
pub mod patient;
pub mod pool;
pub mod upload;
