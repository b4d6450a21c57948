//! Everything that runs in one process: real listeners on port 0, real sockets, the stand-ins of `gantry demo`.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod acme;
mod browser;
mod budgets;
mod callback;
mod certificates;
mod hostile;
mod identity;
mod interim;
mod ladder;
mod manual;
mod minting;
mod outages;
mod proxying;
mod support;
mod tls;
mod tokens;
mod uploads;
mod usernames;
mod users;
mod websocket;
