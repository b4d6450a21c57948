//! What the tests share: a running Gantry, raw origins and raw clients.

pub mod audit;
pub mod authority;
pub mod browser;
pub mod handshake;
pub mod fork;
pub mod http2;
pub mod collector;
pub mod doctor;
pub mod keys;
pub mod origin;
pub mod pebble;
pub mod proxy;
pub mod stage;
pub mod strict;
pub mod tls;
pub mod wire;
pub mod world;
pub mod wrong;

use std::time::Duration;

/// How long a condition may take before a test gives up. Never how long one waits for nothing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, and fails the test with `what` when it takes for ever.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}
