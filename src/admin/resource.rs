//! Resources of the admin API, one file each: handlers and their routes.

pub(crate) mod events;
pub(crate) mod fleet;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod orders;
pub(crate) mod simulate;
pub(crate) mod topology;
