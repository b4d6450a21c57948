//! The built program, spawned.
