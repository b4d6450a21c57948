//! Pure rules over header maps.

pub mod cookies;
