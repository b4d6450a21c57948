//! The built program, spawned.

#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod certificates;
mod commands;
mod compose;
mod dev;
mod doctor;
mod killed;
mod lean;
mod life;
mod logs;
mod reload;
mod rescue;
mod robust;
mod secrets;
mod service;
mod support;
