//! Outgoing connections: small API calls ([`api`]) and forwarded requests.

pub mod api;
