//! Outgoing connections: small calls ([`api`]) and forwarded requests ([`pool`]), over one way to
//! connect ([`connect`], with TLS as [`tls`] says).

pub mod api;
pub mod connect;
pub mod http1;
#[cfg(any(test, fuzzing))]
pub mod memory;
pub mod pool;
pub mod tls;

/// hyper's words and those of the cause, which are the useful ones.
fn words(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
