//! Sources of input besides REST: config files, and DNS.

pub mod files;
pub mod material;
pub mod resolve;
pub mod watch;
