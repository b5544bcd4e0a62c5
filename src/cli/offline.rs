//! Commands that need no control plane: they read files, or run beside one.

pub mod backend;
pub mod bootstrap;
pub mod check;
pub mod compile;
pub mod convert;
pub mod envoy;
pub mod explain;
pub mod schema;
pub mod show;
pub mod simulate;
