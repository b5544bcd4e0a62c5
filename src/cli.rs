//! The commands: each one call and one printer.

pub mod backend;
pub mod envoy;
