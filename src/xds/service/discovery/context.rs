//! Context of the discovery streams: the config, the nodes and the guard that they share.

use std::sync::Arc;

use crate::cache::Cache;
use crate::nodes::Nodes;
use crate::xds::port::guard::PortGuard;
use crate::xds::port::names::NameMeter;
use crate::xds::service::holdings::Holdings;
use crate::xds::stream::protocol::StreamContext;

/// State that all discovery streams share.
#[derive(Debug)]
pub(super) struct DiscoveryContext {
    pub(super) cache: Arc<Cache>,
    pub(super) nodes: Nodes,
    pub(super) streams: StreamContext,
    /// Name of this control plane for clients.
    pub(super) identifier: Arc<str>,
    pub(super) guard: Arc<PortGuard>,
    /// Names that nodes and connections ask for.
    pub(super) names: NameMeter,
    /// Clusters that nodes hold, for which their reports count.
    pub(super) holdings: Holdings,
}
