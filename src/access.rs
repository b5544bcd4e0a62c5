//! Access control of both ports: TLS, tokens with roles and rates, and the identity that a client certificate
//! grants.

pub mod certificate;
pub mod descriptors;
mod guesses;
pub mod identity;
pub mod incoming;
pub mod meter;
pub mod policy;
pub mod random;
pub mod rate;
pub mod tls;
pub mod tokens;
