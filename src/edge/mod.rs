//! Lands next.

pub mod pages;
