//! Small calls with a deadline and a size cap: to the workspace's REST API, the host app, a JWKS endpoint.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

/// Makes small calls. Cheap to clone; every clone shares the pool.
#[derive(Clone, Debug)]
pub struct Api {}

/// One call.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// Absolute `http` or `https` URL.
    pub url: &'a Url,
    /// Headers beyond `Host` and `Content-Length`.
    pub headers: HeaderMap,
    /// The body, if any.
    pub body: Option<Bytes>,
    /// Until the whole answer is here.
    pub timeout: Duration,
    /// Bytes of the answer's body at most.
    pub max_body: usize,
}

/// The whole answer to a call. Redirects are answers like any other: they are never followed.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

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
    /// The connection ended before the whole answer; the call may have been acted on.
    #[error("the connection to {host} broke: {why}")]
    Broken {
        /// Host and port.
        host: String,
        /// The reason in words.
        why: String,
    },
}

impl Api {
    /// Makes the call. Runs to its end on the runtime that the `Api` was made on, whatever becomes
    /// of the caller.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, call: Call<'_>) -> Result<Reply, CallError> {
        let _ = call;
        unimplemented!("lands with the outbound module")
    }
}
