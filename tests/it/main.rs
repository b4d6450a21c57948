//! Everything that runs in one process: real listeners on port 0, real sockets, the stand-ins of `gantry demo`.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod browser;
mod hostile;
mod ladder;
mod proxying;
mod support;
mod websocket;
