//! Everything that runs in one process: real listeners on port 0, real sockets, the stand-ins of `gantry demo`.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod acme;
mod browser;
mod browser_in_step;
mod budgets;
mod callback;
mod certificates;
mod coming_back;
mod dev;
mod doctor;
mod doctor_surroundings;
mod downgrade;
mod embed;
mod embed_demo;
mod drain;
mod hostile;
mod http2;
mod http2_abuse;
mod http2_websocket;
mod identity;
mod in_step;
mod in_step_requests;
mod interim;
mod limits;
mod ladder;
mod login_limits;
mod manual;
mod metrics;
mod minting;
mod native;
mod outages;
mod pages;
mod polling;
mod proxying;
mod recheck;
mod status;
mod reload;
mod smuggling;
mod sockets;
mod support;
mod sync;
mod tls;
mod transport;
mod tokens;
mod traces;
mod truth;
mod uploads;
mod usernames;
mod users;
mod websocket;
mod wrong_answers;
