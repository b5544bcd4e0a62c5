//! Routes for TLS connections: they choose a service by SNI and do not terminate TLS.

use std::sync::Arc;

use crate::model::host_match::HostMatch;
use crate::model::name::{Name, Scope};
use crate::model::service::Service;

/// Fields of a route that apply to connections; the others apply to requests, which are encrypted.
pub(crate) const FIELDS: [&str; 6] = ["name", "listeners", "fleets", "hosts", "service", "tags"];

/// Route that forwards TLS connections to a service unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct Passthrough {
    /// Unique among routes.
    pub name: Name,
    /// Names of its listeners, at least one; each of protocol `tls_passthrough`.
    pub listeners: Vec<Name>,
    /// Fleets that serve it.
    pub fleets: Scope,
    /// SNI names, any of which must match; at least one.
    pub hosts: Vec<HostMatch>,
    /// Service that gets the connections.
    pub service: Arc<Service>,
}
