//! Which TLS connections go to which service, by the name that the client asks for.

use std::sync::Arc;

use crate::model::name::{Name, Scope};
use crate::model::route::HostMatch;
use crate::model::service::Service;

/// What a route may say for connections; the rest is about requests, which cannot be seen.
pub(crate) const FIELDS: [&str; 6] = ["name", "listeners", "fleets", "hosts", "service", "tags"];

/// TLS connections, and the service that they go to as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Passthrough {
    /// Unique among routes.
    pub name: Name,
    /// At least one, each of TLS that is not ended there.
    pub listeners: Vec<Name>,
    /// In which fleets.
    pub fleets: Scope,
    /// The SNI: any of these; at least one.
    pub hosts: Vec<HostMatch>,
    /// Where they go.
    pub service: Arc<Service>,
}
