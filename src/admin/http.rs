//! HTTP of the admin API, whatever the resource: the gate before it, its guard, requests and problem details.

pub(crate) mod blocking;
mod body;
pub(crate) mod conditions;
pub mod gate;
pub mod guard;
pub(crate) mod page;
pub mod problem;
pub(crate) mod refusals;
pub(crate) mod request;
pub mod serve;
