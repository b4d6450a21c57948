//! Gantry stands in front of Rocket.Chat and lets a host app's users in: already signed in, inside an
//! iframe, with no code change in either app.
//!
//! The modules form a ladder: a module may name only those above its own in this list, and
//! `tests/it/ladder.rs` holds the tree to it.
//!
//! * words: [`secret`], [`error`], [`html`], [`body`], [`peer`], [`journal`], [`metrics`], [`trace`],
//!   [`lifecycle`]
//! * [`config`]: `proxy.toml`, the environment and flags, lowered to values that can be trusted
//! * [`headers`]: pure rules over header maps
//! * [`outbound`]: connections to the workspace and the host app
//! * [`rocketchat`]: the workspace in verbs of our domain
//! * [`identity`]: who the host app's session says the caller is
//! * [`directory`], [`tokens`], [`sync`], [`login`]: identity → user → login token, and what an account is kept
//!   up to date with
//! * [`certs`]: the certificates that the TLS listener shows
//! * [`listen`]: accepting connections; knows nothing of what is answered
//! * [`edge`]: the request path
//! * [`telemetry`], [`admin`]: the process around it
//! * [`app`]: the composition root
//! * [`doctor`]: what is wrong with a set-up, and what mends it
//! * [`demo`]: stand-ins for both apps, which are also the tests' doubles
//! * [`dev`]: the local dev proxy
//! * [`cli`]: the command line
//! * `fuzzing`: what the fuzz targets check; built for them and for unit tests alone

pub mod secret;
pub mod error;
pub mod html;
pub mod body;
pub mod peer;
pub mod journal;
pub mod metrics;
pub mod trace;
pub mod lifecycle;
pub mod config;
pub mod headers;
pub mod outbound;
pub mod rocketchat;
pub mod identity;
pub mod directory;
pub mod tokens;
pub mod sync;
pub mod login;
pub mod certs;
pub mod listen;
pub mod edge;
pub mod telemetry;
pub mod admin;
pub mod app;
pub mod doctor;
pub mod demo;
pub mod dev;
pub mod cli;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
