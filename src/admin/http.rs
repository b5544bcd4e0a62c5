//! HTTP of the admin API, whatever the resource: the gate before it, the guard, and problem details.

pub mod gate;
pub mod guard;
