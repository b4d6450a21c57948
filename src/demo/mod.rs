//! x
pub mod client;
pub mod events;
pub mod gate;
pub mod rocketchat;
pub mod serve;
