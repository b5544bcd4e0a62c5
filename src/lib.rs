//! understudy.

pub mod cache;
pub mod compile;
pub mod config;
pub mod envoy;
pub mod fleet;
pub mod model;
pub mod node;
pub mod pipeline;
pub mod snapshot;
pub mod xds;
pub mod source;
pub mod store;
pub mod cli;
pub mod load;
