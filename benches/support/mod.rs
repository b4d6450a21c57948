//! What the benchmark of the callback and the soak share: the spawned program, what the kernel says of it, and a
//! raw client.

pub mod apps;
pub mod client;
pub mod kernel;
pub mod program;
pub mod stats;
