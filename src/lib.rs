//! understudy.

pub mod config;
