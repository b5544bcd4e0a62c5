//! understudy.

pub mod admin;
pub mod app;
pub mod cache;
pub mod cli;
pub mod compile;
pub mod config;
pub mod control;
pub mod envoy;
pub mod fleet;
pub mod load;
pub mod model;
pub mod node;
pub mod pipeline;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod xds;
