//! Sources of input besides REST: config files, and DNS.

mod absence;
pub mod files;
pub mod material;
mod regular;
pub mod resolve;
pub mod watch;
