//! What comes from outside besides REST: files, and the addresses of host names.

pub mod files;
pub mod resolve;
pub mod watch;
