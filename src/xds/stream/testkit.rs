//! Test kit of both variants: a notation for snapshots and responses, and a client that follows the protocol.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Display, Formatter};
use std::num::NonZeroU64;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;
use expect_test::Expect;
use prost::Message as _;

use crate::build::snapshot::Snapshot;
use crate::build::snapshot::resource::{Resource, Variant};
use crate::build::snapshot::store_id::StoreId;
use crate::cache::standing::{ConfigTrust, Standing};
use crate::envoy::ResourceType;
use crate::nodes::status::AckState;
use crate::xds::stream::delta::DeltaStream;
use crate::xds::stream::protocol::{DiscoveryStream, StreamContext};
use crate::xds::stream::sotw::SotwStream;
use crate::xds::wire::frame::{self, Response};
use crate::xds::wire::request::RequestHead as _;

/// Parses a snapshot from words such as `cds:a cds:b@2 eds:a lds:web rds:web@b`: a type, a name, and after
/// `@` the content. For a route the content is the cluster that it sends requests to, for an aggregate
/// cluster `/member/member`, and a cluster with `=e` has the endpoints named `e`.
pub(crate) fn snapshot(text: &str) -> Arc<Snapshot> {
    let of = |wanted| {
        let words = text.split_whitespace().filter_map(|word| {
            let (kind, rest) = word.split_once(':').expect("a type and a name");
            let (name, content) = rest.split_once('@').unwrap_or((rest, ""));
            (kind_of(kind) == wanted).then(|| Arc::new(resource(wanted, name, content)))
        });
        words.collect()
    };
    Arc::new(Snapshot::new(of))
}

pub(crate) fn kind_of(word: &str) -> ResourceType {
    match word {
        "cds" => ResourceType::Cluster,
        "eds" => ResourceType::Endpoints,
        "lds" => ResourceType::Listener,
        "rds" => ResourceType::Route,
        "vhds" => ResourceType::VirtualHost,
        _ => panic!("no type `{word}`"),
    }
}

pub(crate) fn word_of(resource_type: ResourceType) -> &'static str {
    match resource_type {
        ResourceType::Cluster => "cds",
        ResourceType::Endpoints => "eds",
        ResourceType::Listener => "lds",
        ResourceType::Route => "rds",
        ResourceType::Secret => "sds",
        ResourceType::VirtualHost => "vhds",
        further => further.plural(),
    }
}

pub(crate) fn resource(resource_type: ResourceType, name: &str, content: &str) -> Resource {
    let (name, content) = (name.to_owned(), content.to_owned());
    match resource_type {
        ResourceType::Cluster => {
            let members = content.strip_prefix('/').map(|list| list.split('/').map(Arc::from).collect());
            let shared = content.split_once('=').map(|(_, endpoints)| Arc::from(endpoints));
            let cluster = Cluster { name: name.clone(), alt_stat_name: content, ..Default::default() };
            let mut resource = Resource::new(&name, &cluster);
            match members {
                Some(members) => resource.clusters = members,
                None => resource.endpoints = shared.or(Some(resource.name.clone())),
            }
            resource
        }
        ResourceType::Endpoints => {
            let named_endpoints = [(content, Default::default())].into();
            let cluster_name = name.clone();
            let assignment = ClusterLoadAssignment { cluster_name, named_endpoints, ..Default::default() };
            Resource::new(&name, &assignment)
        }
        ResourceType::Listener => {
            let listener = Listener { name: name.clone(), stat_prefix: content, ..Default::default() };
            Resource::new(&name, &listener)
        }
        ResourceType::Route => {
            let vhost_header = content.clone();
            let routes = RouteConfiguration { name: name.clone(), vhost_header, ..Default::default() };
            let mut resource = Resource::new(&name, &routes);
            resource.clusters = vec![content.into()];
            resource
        }
        ResourceType::VirtualHost => {
            let host = VirtualHost { name: name.clone(), domains: vec![content], ..Default::default() };
            Resource::new(&name, &host)
        }
        other => panic!("no {other} here"),
    }
}

/// Returns the name and content of an encoded resource that [`resource`] built.
pub(crate) fn decode_resource(resource_type: ResourceType, bytes: &[u8]) -> (String, String) {
    match resource_type {
        ResourceType::Cluster => {
            let cluster = Cluster::decode(bytes).expect("a cluster");
            (cluster.name, cluster.alt_stat_name)
        }
        ResourceType::Endpoints => {
            let assignment = ClusterLoadAssignment::decode(bytes).expect("endpoints");
            (assignment.cluster_name, assignment.named_endpoints.into_keys().next().expect("one"))
        }
        ResourceType::Listener => {
            let listener = Listener::decode(bytes).expect("a listener");
            (listener.name, listener.stat_prefix)
        }
        ResourceType::Route => {
            let routes = RouteConfiguration::decode(bytes).expect("routes");
            (routes.name, routes.vhost_header)
        }
        ResourceType::VirtualHost => {
            let host = VirtualHost::decode(bytes).expect("a virtual host");
            (host.name, host.domains.concat())
        }
        other => panic!("no {other} here"),
    }
}

/// A decoded response.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) resource_type: ResourceType,
    pub(crate) nonce: String,
    pub(crate) version: String,
    pub(crate) resources: Vec<DeliveredResource>,
    pub(crate) removed: Vec<String>,
}

/// A resource of a response.
#[derive(Debug)]
pub(crate) struct DeliveredResource {
    /// Name, after `no` if the resource does not exist.
    pub(crate) name: String,
    pub(crate) content: String,
    /// Version of the resource; empty in SotW.
    pub(crate) version: String,
}

impl DeliveredResource {
    fn decode(resource_type: ResourceType, bytes: &[u8], version: String) -> Self {
        let (name, content) = decode_resource(resource_type, bytes);
        Self { name, content, version }
    }
}

impl Display for DeliveredResource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, content, .. } = self;
        if content.is_empty() { write!(f, "{name}") } else { write!(f, "{name}@{content}") }
    }
}

/// A variant of the protocol, as its clients see it.
pub(crate) trait TestVariant: DiscoveryStream {
    /// Data of one type for the next answer of a client.
    type Answers: Default;

    /// Decodes a response as a client receives it.
    fn decode(response: Response) -> Delivery;

    /// Keeps the data of a response that its answer repeats.
    fn keep(answers: &mut Self::Answers, delivery: &Delivery);
}

/// Nonce and version of the last response of a type, and the names last asked for.
#[derive(Debug, Default)]
pub(crate) struct SotwAnswers {
    pub(crate) nonce: String,
    pub(crate) version: String,
    pub(crate) names: String,
}

impl TestVariant for SotwStream {
    type Answers = SotwAnswers;

    fn decode(response: Response) -> Delivery {
        let resource_type = response.resource_type;
        let bytes = frame::chunks(response, Variant::StateOfTheWorld, "").concat();
        let decoded = DiscoveryResponse::decode(&bytes[5..]).expect("a response");
        let resources = decoded.resources.iter();
        let resources =
            resources.map(|any| DeliveredResource::decode(resource_type, &any.value, String::new()));
        Delivery {
            resource_type,
            nonce: decoded.nonce,
            version: decoded.version_info,
            resources: resources.collect(),
            removed: Vec::new(),
        }
    }

    fn keep(answers: &mut SotwAnswers, delivery: &Delivery) {
        answers.nonce.clone_from(&delivery.nonce);
        answers.version.clone_from(&delivery.version);
    }
}

impl TestVariant for DeltaStream {
    /// Nonces of the responses that are not answered yet, oldest first.
    type Answers = VecDeque<String>;

    fn decode(response: Response) -> Delivery {
        let resource_type = response.resource_type;
        let bytes = frame::chunks(response, Variant::Delta, "").concat();
        let decoded = DeltaDiscoveryResponse::decode(&bytes[5..]).expect("a response");
        let names: Vec<&String> = decoded.resources.iter().map(|resource| &resource.name).collect();
        let distinct: BTreeSet<&String> = names.iter().copied().chain(&decoded.removed_resources).collect();
        assert_eq!(distinct.len(), names.len() + decoded.removed_resources.len(), "each name once");
        let resources = decoded.resources.into_iter().map(|resource| match &resource.resource {
            Some(body) => DeliveredResource::decode(resource_type, &body.value, resource.version),
            None => DeliveredResource {
                name: format!("no {}", resource.aliases.join(" ")),
                content: String::new(),
                version: resource.version,
            },
        });
        Delivery {
            resource_type,
            nonce: decoded.nonce,
            version: decoded.system_version_info,
            resources: resources.collect(),
            removed: decoded.removed_resources,
        }
    }

    fn keep(nonces: &mut VecDeque<String>, delivery: &Delivery) {
        nonces.push_back(delivery.nonce.clone());
    }
}

/// A client that follows the protocol and logs each response as a line.
pub(crate) struct TestClient<P: TestVariant> {
    pub(crate) stream: P,
    pub(crate) log: Vec<String>,
    /// Data for the next answer, by type.
    pub(crate) answers: [P::Answers; ResourceType::ALL.len()],
}

impl<P: TestVariant> TestClient<P> {
    /// Connects to a control plane with this snapshot.
    pub(crate) fn new(snapshot_text: &str) -> Self {
        let stream = P::new(snapshot(snapshot_text), &StreamContext::default());
        Self { stream, log: Vec::new(), answers: Default::default() }
    }

    /// Sends a request for the type of this word.
    pub(crate) fn request(&mut self, word: &str, mut request: P::Head) -> &mut Self {
        kind_of(word).type_url().clone_into(request.type_url());
        let responses = self.stream.on_request(request.into()).expect("in order");
        self.receive(responses)
    }

    /// Logs responses and keeps the data for their answers.
    pub(crate) fn receive(&mut self, responses: Vec<Response>) -> &mut Self {
        for response in responses {
            let delivery = P::decode(response);
            P::keep(&mut self.answers[delivery.resource_type as usize], &delivery);
            let sent = delivery.resources.iter().map(DeliveredResource::to_string);
            let removed = delivery.removed.iter().map(|name| format!("-{name}"));
            let names = sent.chain(removed).collect::<Vec<_>>().join(" ");
            self.log.push(format!("{}: {names}", word_of(delivery.resource_type)));
        }
        self
    }

    /// Publishes another snapshot.
    pub(crate) fn change(&mut self, snapshot_text: &str) -> &mut Self {
        let responses = self.stream.on_snapshot(snapshot(snapshot_text));
        self.receive(responses)
    }

    /// Sets the standing, and publishes a snapshot with it.
    pub(crate) fn stand(&mut self, trust: ConfigTrust, snapshot_text: &str) -> &mut Self {
        self.stream.set_standing(&standing(trust));
        self.change(snapshot_text)
    }

    /// Asserts that these responses came since the last assertion.
    pub(crate) fn says(&mut self, expected: &Expect) -> &mut Self {
        expected.assert_eq(&std::mem::take(&mut self.log).join("\n"));
        self
    }

    /// Asserts that no response came since the last assertion.
    pub(crate) fn is_silent(&mut self) -> &mut Self {
        assert_eq!(self.log, Vec::<String>::new());
        self
    }

    /// Returns the status of the type of this word.
    pub(crate) fn state(&self, word: &str) -> AckState {
        let status = self.stream.statuses().find(|(resource_type, _)| *resource_type == kind_of(word));
        status.expect("it was asked for").1.state
    }
}

/// Returns a standing of the store 1.
pub(crate) fn standing(trust: ConfigTrust) -> Standing {
    Standing { store: store(1), trust, ..Standing::default() }
}

/// Returns the id of a store.
pub(crate) fn store(number: u64) -> Option<StoreId> {
    NonZeroU64::new(number).map(StoreId::new)
}

/// Returns the names of one type in the text of a snapshot.
pub(crate) fn names_of<'a>(snapshot_text: &'a str, word: &str) -> Vec<&'a str> {
    let words = snapshot_text.split_whitespace().filter_map(|word| word.split_once(':'));
    let names = words.filter(|(kind, _)| *kind == word).map(|(_, rest)| rest.split('@').next());
    names.map(|name| name.expect("a name")).collect()
}

/// Builds the error of a NACK.
pub(crate) fn error_detail(message: &str) -> Option<Status> {
    Some(Status { message: message.to_owned(), ..Default::default() })
}
