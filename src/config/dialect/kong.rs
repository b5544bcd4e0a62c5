//! Kong: decK's files and those of a Kong without a database.
//!
//! A document is read to entities ([`read`]), which keep the spelling and the place of every value. All entities
//! together, with the defaults around them ([`world`]), become native units ([`translate`]): one for a service with its
//! routes, an upstream with its targets, an address that services send to, a certificate. A unit is made again only when
//! one of its entities changed.

pub mod build;
pub mod certificates;
pub mod detect;
pub mod entity;
pub mod hashing;
pub mod health;
pub mod kind;
pub mod order;
pub mod paths;
pub mod plugins;
pub mod read;
pub mod routes;
pub mod services;
pub mod speech;
pub mod table;
pub mod targets;
pub mod teller;
pub mod template;
pub mod translate;
pub mod upstreams;
pub mod vault;
pub mod world;
