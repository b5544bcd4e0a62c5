//! Access control of both ports: TLS, tokens with roles, and the identity that a client certificate grants.

pub mod identity;
pub mod tls;
pub mod tokens;
