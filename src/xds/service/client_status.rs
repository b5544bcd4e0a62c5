//! The client status discovery service (CSDS): the resources that each Envoy holds.
//!
//! The answer is computed on request, from the status of each type and the snapshot of the node: no stream
//! keeps a map of names for it. Hence every resource has the status of its type.
//!
//! A client is told of the nodes that its certificate permits it to be, and of no other.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::status::v3 as status;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use envoy_types::pb::google::protobuf;
use futures_util::Stream;
use jiff::Timestamp;
use status::client_config::GenericXdsConfig;
use status::client_status_discovery_service_server::ClientStatusDiscoveryService;
use status::{ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus};
use tonic::{Request, Response, Status, Streaming};

use crate::access::certificate::CertificateNames;
use crate::access::identity::IdentityRules;
use crate::build::snapshot::Snapshot;
use crate::build::snapshot::set::ResourceSet;
use crate::cache::Cache;
use crate::envoy::ResourceType;
use crate::envoy::node::Node;
use crate::nodes::Nodes;
use crate::nodes::status::{AckState, Presence, RecordedStatus};
use crate::xds::port::connection::ClientPeer;
use crate::xds::port::guard::PortGuard;

/// Upper bound on the resources in one answer, over all nodes: they all go into one message. A larger answer
/// is refused.
const MAX_CONFIGS: usize = 200_000;

/// Implementation of the service.
#[derive(Debug, Clone)]
pub struct ClientStatuses {
    /// Source of the snapshot of each node.
    pub cache: Arc<Cache>,
    /// Source of the status of each node.
    pub nodes: Nodes,
    /// Source of the rules for the nodes of certificates.
    pub guard: Arc<PortGuard>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatuses {
    type StreamClientStatusStream = Responses;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let service = self.clone();
        let peer = peer(&request);
        let mut requests = request.into_inner();
        let responses = async_stream::try_stream! {
            while let Some(request) = requests.message().await? {
                yield service.answer(&request, peer.as_ref())?;
                tokio::task::consume_budget().await;
            }
        };
        Ok(Response::new(Box::pin(responses)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.answer(request.get_ref(), peer(&request).as_ref()).map(Response::new)
    }
}

impl ClientStatuses {
    fn answer(
        &self,
        request: &ClientStatusRequest,
        peer: Option<&ClientPeer>,
    ) -> Result<ClientStatusResponse, Status> {
        let wanted: Vec<&str> = request.node_matchers.iter().map(exact_id).collect::<Result<_, _>>()?;
        let view = StatusView::new(self.guard.identity(), peer, request)?;
        let mut nodes = self.nodes.nodes();
        nodes.retain(|presence| {
            presence.disconnected_at.is_none()
                && (wanted.is_empty() || wanted.contains(&presence.node.id.as_str()))
                && view.includes(&presence.node)
        });
        let snapshots: Vec<Arc<Snapshot>> =
            nodes.iter().map(|presence| self.cache.snapshot_for(&presence.node).snapshot).collect();
        let count = |(presence, snapshot): (&Presence, &Arc<Snapshot>)| {
            presence.types.keys().map(|kind| snapshot.set(*kind).len()).sum::<usize>()
        };
        let count: usize = nodes.iter().zip(&snapshots).map(count).sum();
        if count > MAX_CONFIGS {
            let advice = format!("that would be the status of {count} resources; ask with node_matchers");
            return Err(Status::resource_exhausted(advice));
        }
        let config = nodes.iter().zip(&snapshots).map(|(presence, snapshot)| config(presence, snapshot));
        Ok(ClientStatusResponse { config: config.collect() })
    }
}

/// Nodes whose status a client may see.
#[derive(Debug)]
enum StatusView<'a> {
    /// All nodes: the client is on this machine, and clients show no certificates.
    All,
    /// Nodes that the client's certificate permits.
    Permitted(&'a IdentityRules, Option<&'a CertificateNames>),
    /// Node that the client says to be, since any certificate may be that of any node.
    Named(&'a str),
}

impl<'a> StatusView<'a> {
    /// Returns the view of a client.
    ///
    /// # Errors
    ///
    /// Fails if it may see nothing.
    fn new(
        rules: Option<&'a IdentityRules>,
        peer: Option<&'a ClientPeer>,
        request: &'a ClientStatusRequest,
    ) -> Result<Self, Status> {
        let is_here = peer.is_some_and(|peer| peer.address.ip().is_loopback());
        match rules {
            Some(rules) if !rules.are_open() => {
                Ok(Self::Permitted(rules, peer.and_then(|peer| peer.names.as_deref())))
            }
            Some(_) => match request.node.as_ref().map(|node| node.id.as_str()).filter(|id| !id.is_empty()) {
                Some(id) => Ok(Self::Named(id)),
                None => {
                    Err(Status::permission_denied("a client is told of itself only: say who by `node.id`"))
                }
            },
            None if is_here => Ok(Self::All),
            None => Err(Status::permission_denied(
                "without client certificates, client status is for clients on the same machine",
            )),
        }
    }

    fn includes(&self, node: &Node) -> bool {
        match self {
            Self::All => true,
            Self::Permitted(rules, names) => rules.check(*names, node).is_ok(),
            Self::Named(id) => node.id == *id,
        }
    }
}

fn peer<T>(request: &Request<T>) -> Option<ClientPeer> {
    request.extensions().get::<ClientPeer>().cloned()
}

/// Returns the node id that a matcher asks for.
fn exact_id(matcher: &NodeMatcher) -> Result<&str, Status> {
    match matcher {
        NodeMatcher {
            node_id: Some(StringMatcher { match_pattern: Some(MatchPattern::Exact(id)), ignore_case: false }),
            node_metadatas,
        } if node_metadatas.is_empty() => Ok(id),
        _ => Err(Status::unimplemented("nodes are matched by the exact node_id only")),
    }
}

fn config(presence: &Presence, snapshot: &Snapshot) -> ClientConfig {
    let configs =
        presence.types.iter().flat_map(|(kind, noted)| resources(*kind, noted, snapshot.set(*kind)));
    ClientConfig { node: Some(node(presence)), generic_xds_configs: configs.collect(), ..Default::default() }
}

fn node(presence: &Presence) -> core::Node {
    let node = &presence.node;
    let locality = core::Locality {
        region: node.locality.region.clone(),
        zone: node.locality.zone.clone(),
        sub_zone: node.locality.sub_zone.clone(),
    };
    core::Node {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        locality: Some(locality),
        ..Default::default()
    }
}

fn resources(
    resource_type: ResourceType,
    noted: &RecordedStatus,
    set: &ResourceSet,
) -> impl Iterator<Item = GenericXdsConfig> {
    let (config, client) = match noted.state {
        AckState::Acked if noted.current => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        // The client acknowledged its last response; newer content waits for other types.
        AckState::Acked => (ConfigStatus::NotSent, ClientResourceStatus::Acked),
        AckState::Pending => (ConfigStatus::Stale, ClientResourceStatus::Requested),
        AckState::Nacked => (ConfigStatus::Error, ClientResourceStatus::Nacked),
    };
    let error_state = noted.error.as_ref().map(|error| UpdateFailureState {
        details: error.clone(),
        last_update_attempt: Some(timestamp(noted.since)),
        ..Default::default()
    });
    set.iter().map(move |resource| GenericXdsConfig {
        type_url: resource_type.type_url().to_owned(),
        name: resource.name.to_string(),
        version_info: resource.version.to_string(),
        last_updated: Some(timestamp(noted.since)),
        config_status: config.into(),
        client_status: client.into(),
        error_state: error_state.clone(),
        ..Default::default()
    })
}

fn timestamp(at: Timestamp) -> protobuf::Timestamp {
    protobuf::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}
