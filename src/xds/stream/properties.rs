//! Properties that hold for every order of events: changes, deliveries, acknowledgements, refusals,
//! reconnections.
//!
//! The client behaves like Envoy: it takes responses in order, asks for the endpoints of the clusters it has
//! and for the routes of its listeners, and acknowledges clusters only when they are warm. If one resource in
//! a response is bad, it drops either the whole response or that resource alone: Envoy does the former if a
//! resource does not decode, the latter if a resource is invalid.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use proptest::prelude::*;

use crate::build::snapshot::{Snapshot, Variant};
use crate::envoy::ResourceType;
use crate::xds::stream::delta;
use crate::xds::stream::protocol::StreamContext;
use crate::xds::stream::sotw;
use crate::xds::stream::testkit::{
    DeliveredResource, Delivery, TestVariant, decode_resource, error_detail, snapshot,
};
use crate::xds::wire::frame::Response;

/// Content of a cluster that the client refuses.
const BAD: &str = "bad";

const TYPES: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener, ResourceType::Route];

#[derive(Debug, Clone)]
enum ClientEvent {
    Change(TestConfig),
    Deliver,
    Warm,
    Reconnect,
}

/// A config: each cluster with its content and that of its endpoints, and the index of the cluster that the
/// route leads to.
#[derive(Debug, Clone, Default)]
struct TestConfig {
    clusters: BTreeMap<char, (u8, u8)>,
    route: usize,
}

impl TestConfig {
    /// Formats the config for `snapshot`. The route leads to a cluster that exists.
    fn text(&self) -> String {
        let content = |content: u8| if content == 3 { BAD.to_owned() } else { content.to_string() };
        let mut words: Vec<String> = Vec::new();
        for (name, (cluster, endpoints)) in &self.clusters {
            words.push(format!("cds:{name}@{}", content(*cluster)));
            words.push(format!("eds:{name}@e{endpoints}"));
        }
        if let Some(name) = self.clusters.keys().nth(self.route % self.clusters.len().max(1)) {
            words.push("lds:web".to_owned());
            words.push(format!("rds:web@{name}"));
        }
        words.join(" ")
    }
}

fn config(bad: bool) -> impl Strategy<Value = TestConfig> {
    let content = if bad { prop_oneof![9 => 0..3_u8, 1 => Just(3_u8)].boxed() } else { (0..3_u8).boxed() };
    let clusters =
        prop::collection::btree_map(prop::sample::select(vec!['a', 'b', 'c', 'd']), (content, 0..2_u8), 0..5);
    (clusters, 0..4_usize).prop_map(|(clusters, route)| TestConfig { clusters, route })
}

fn events(bad: bool, reconnect: bool) -> impl Strategy<Value = Vec<ClientEvent>> {
    let event = prop_oneof![
        3 => config(bad).prop_map(ClientEvent::Change),
        8 => Just(ClientEvent::Deliver),
        4 => Just(ClientEvent::Warm),
        u32::from(reconnect) => Just(ClientEvent::Reconnect),
    ];
    prop::collection::vec(event, 0..60)
}

/// Resources by name, with their content and version.
type HeldResources = BTreeMap<String, (String, String)>;

/// Messages and client state of one variant of the protocol.
trait VariantMessages: TestVariant {
    /// Builds a request for a type: new names, dropped names, all names; and an answer, or the resources
    /// already held.
    fn request(ask: &RequestSpec<'_>) -> Self::Head;
    /// Applies a response to the resources that the client holds.
    fn apply(held: &mut HeldResources, delivery: &Delivery);
}

struct RequestSpec<'a> {
    resource_type: ResourceType,
    wanted: &'a BTreeSet<String>,
    subscribe: Vec<String>,
    unsubscribe: Vec<String>,
    nonce: String,
    version: String,
    refused: bool,
    /// Resources already held; only on the first request of a stream.
    held: Option<&'a HeldResources>,
}

/// Returns the resources of a response.
fn resources_of(delivery: &Delivery) -> HeldResources {
    let resources = delivery.resources.iter();
    resources.map(|it| (it.name.clone(), (it.content.clone(), it.version.clone()))).collect()
}

impl VariantMessages for delta::DeltaStream {
    fn request(ask: &RequestSpec<'_>) -> DeltaDiscoveryRequest {
        let versions = |held: &HeldResources| {
            held.iter().map(|(name, (_, version))| (name.clone(), version.clone())).collect()
        };
        DeltaDiscoveryRequest {
            type_url: ask.resource_type.type_url().to_owned(),
            resource_names_subscribe: ask.subscribe.clone(),
            resource_names_unsubscribe: ask.unsubscribe.clone(),
            initial_resource_versions: ask.held.map(versions).unwrap_or_default(),
            response_nonce: ask.nonce.clone(),
            error_detail: ask.refused.then(|| error_detail("no")).flatten(),
            ..Default::default()
        }
    }

    fn apply(held: &mut HeldResources, delivery: &Delivery) {
        held.retain(|name, _| !delivery.removed.contains(name));
        held.extend(resources_of(delivery));
    }
}

impl VariantMessages for sotw::SotwStream {
    fn request(ask: &RequestSpec<'_>) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: ask.resource_type.type_url().to_owned(),
            resource_names: ask.wanted.iter().cloned().collect(),
            version_info: ask.version.clone(),
            response_nonce: ask.nonce.clone(),
            error_detail: ask.refused.then(|| error_detail("no")).flatten(),
            ..Default::default()
        }
    }

    fn apply(held: &mut HeldResources, delivery: &Delivery) {
        if matches!(delivery.resource_type, ResourceType::Cluster | ResourceType::Listener) {
            held.clear();
        }
        held.extend(resources_of(delivery));
    }
}

/// Nonce and version of the last response of a type, and the names that the client wants.
#[derive(Debug, Default)]
struct TypeRequest {
    names: BTreeSet<String>,
    nonce: String,
    version: String,
}

struct SimulatedClient<P> {
    stream: P,
    common: StreamContext,
    /// True if the client applies the good resources of a response that has a bad one.
    takes_the_good: bool,
    target: Arc<Snapshot>,
    queue: VecDeque<Response>,
    held: [HeldResources; TYPES.len()],
    /// Resources at the last acknowledgement, which is all that the stream knows of.
    acknowledged: [HeldResources; TYPES.len()],
    asked: [TypeRequest; TYPES.len()],
    /// Nonce of the response whose clusters are not warm, and which is not acknowledged yet.
    warming: Option<String>,
    /// Clusters that were refused on their own, with their content: they must not come again on this stream.
    refused: BTreeSet<(String, String)>,
    /// Types of which a resource was refused, or asked for again, so that resources already held may come
    /// again.
    doubted: BTreeSet<ResourceType>,
    /// Names that were ever asked for on this stream.
    ever_asked: BTreeSet<(ResourceType, String)>,
}

impl<P: VariantMessages> SimulatedClient<P> {
    fn new(takes_the_good: bool) -> Self {
        let (target, common) = (snapshot(""), StreamContext::default());
        let mut client = Self {
            stream: P::new(target.clone(), &common),
            common,
            takes_the_good,
            target,
            queue: VecDeque::new(),
            held: Default::default(),
            acknowledged: Default::default(),
            asked: Default::default(),
            warming: None,
            refused: BTreeSet::new(),
            doubted: BTreeSet::new(),
            ever_asked: BTreeSet::new(),
        };
        client.connect();
        client
    }

    fn connect(&mut self) {
        self.stream = P::new(self.target.clone(), &self.common);
        self.queue.clear();
        self.warming = None;
        self.refused.clear();
        self.doubted.clear();
        if P::VARIANT == Variant::StateOfTheWorld {
            // A SotW client cannot tell which of these it already has.
            self.doubted.extend([ResourceType::Endpoints, ResourceType::Route]);
        }
        self.ever_asked.clear();
        for resource_type in TYPES {
            let asked = &mut self.asked[resource_type as usize];
            asked.nonce.clear();
            let held = self.held[resource_type as usize].clone();
            let names: Vec<String> = asked.names.iter().cloned().collect();
            if names.is_empty() && matches!(resource_type, ResourceType::Endpoints | ResourceType::Route) {
                continue;
            }
            self.send(resource_type, names, Vec::new(), false, Some(&held));
        }
    }

    fn send(
        &mut self,
        resource_type: ResourceType,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        refused: bool,
        held: Option<&HeldResources>,
    ) {
        let asked = &self.asked[resource_type as usize];
        let (nonce, version) = (asked.nonce.clone(), asked.version.clone());
        let wanted = &asked.names;
        let ask =
            RequestSpec { resource_type, wanted, subscribe, unsubscribe, nonce, version, refused, held };
        let request = P::request(&ask);
        self.queue.extend(self.stream.on_request(request.into()).expect("in order"));
    }

    fn happen(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Change(config) => {
                self.target = snapshot(&config.text());
                // A bad cluster that changed and changed back counts as changed.
                let refused = std::mem::take(&mut self.refused);
                self.refused = refused.into_iter().filter(|(name, _)| self.is_bad(name)).collect();
                let responses = self.stream.on_snapshot(self.target.clone());
                self.queue.extend(responses);
            }
            ClientEvent::Deliver => self.deliver(),
            ClientEvent::Warm => self.warm(),
            ClientEvent::Reconnect => self.connect(),
        }
    }

    fn deliver(&mut self) {
        let Some(response) = self.queue.pop_front() else { return };
        let delivery = P::decode(response);
        let resource_type = delivery.resource_type;
        let is_bad = delivery.resources.iter().any(|resource| resource.content == BAD);
        self.no_repetition(&delivery);
        self.asked[resource_type as usize].nonce.clone_from(&delivery.nonce);
        if is_bad {
            self.doubted.insert(resource_type);
            if let Some((name, content)) = self.culprit(&delivery) {
                // A bad cluster that is gone by now counts as changed if it returns.
                if self.is_bad(&name) {
                    self.refused.insert((name, content));
                }
            }
            if self.takes_the_good {
                self.take_the_good(&delivery);
            }
            return self.send(resource_type, Vec::new(), Vec::new(), true, None);
        }
        self.asked[resource_type as usize].version.clone_from(&delivery.version);
        let held = &mut self.held[resource_type as usize];
        P::apply(held, &delivery);
        if !is_whole(resource_type) {
            // The client ignores resources that it dropped while the response was on its way.
            held.retain(|name, _| self.asked[resource_type as usize].names.contains(name));
        }
        self.acknowledged[resource_type as usize].clone_from(held);
        match resource_type {
            ResourceType::Cluster => {
                self.warming = Some(delivery.nonce);
                self.follow(ResourceType::Cluster, ResourceType::Endpoints);
            }
            ResourceType::Listener => {
                self.send(resource_type, Vec::new(), Vec::new(), false, None);
                self.follow(ResourceType::Listener, ResourceType::Route);
            }
            _ => self.send(resource_type, Vec::new(), Vec::new(), false, None),
        }
    }

    /// Returns the resource that the client refuses on its own, if there is one: nothing else in the response
    /// is new, and nothing is removed.
    fn culprit(&self, delivery: &Delivery) -> Option<(String, String)> {
        let held = &self.acknowledged[delivery.resource_type as usize];
        let repeats = P::VARIANT == Variant::StateOfTheWorld && is_whole(delivery.resource_type);
        let resources = resources_of(delivery);
        let is_gone = repeats && held.keys().any(|name| !resources.contains_key(name));
        let is_new = |(name, (content, _)): &(&String, &(String, String))| {
            !repeats || held.get(*name).is_none_or(|(held, _)| held != content)
        };
        let mut news = resources.iter().filter(is_new);
        let (name, (content, _)) = news.next()?;
        let is_alone = news.next().is_none() && delivery.removed.is_empty() && !is_gone;
        is_alone.then(|| (name.clone(), content.clone()))
    }

    fn take_the_good(&mut self, delivery: &Delivery) {
        let held = &mut self.held[delivery.resource_type as usize];
        let before = held.clone();
        P::apply(held, delivery);
        held.retain(|_, (content, _)| content != BAD);
        for DeliveredResource { name, .. } in &delivery.resources {
            if let (None, Some(known)) = (held.get(name), before.get(name)) {
                held.insert(name.clone(), known.clone());
            }
        }
        if delivery.resource_type == ResourceType::Cluster {
            self.follow(ResourceType::Cluster, ResourceType::Endpoints);
        }
    }

    /// Subscribes to the names that the resources of one type refer to, and unsubscribes from all others.
    fn follow(&mut self, from: ResourceType, to: ResourceType) {
        let wanted: BTreeSet<String> = self.held[from as usize].keys().cloned().collect();
        let asked = &mut self.asked[to as usize];
        let subscribe: Vec<String> = wanted.difference(&asked.names).cloned().collect();
        let unsubscribe: Vec<String> = asked.names.difference(&wanted).cloned().collect();
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return;
        }
        for name in &subscribe {
            if !self.ever_asked.insert((to, name.clone())) {
                self.doubted.insert(to);
            }
        }
        self.held[to as usize].retain(|name, _| wanted.contains(name));
        asked.names = wanted;
        // A spontaneous request may repeat the last nonce or have none, in both variants of the protocol.
        self.send(to, subscribe, unsubscribe, false, None);
    }

    fn warm(&mut self) {
        if self.warming.take().is_some() {
            self.send(ResourceType::Cluster, Vec::new(), Vec::new(), false, None);
        }
    }

    /// Delivers and acknowledges responses until none are left.
    fn run_until_idle(&mut self) {
        for _ in 0..1_000 {
            if self.queue.is_empty() && self.warming.is_none() {
                if !self.stream.is_waiting() {
                    return;
                }
                self.queue.extend(self.stream.on_timeout());
            }
            self.deliver();
            self.warm();
        }
        panic!("it never ends");
    }

    /// Asserts that resources that the client holds are not sent again, and refused ones are not offered
    /// again.
    fn no_repetition(&self, delivery: &Delivery) {
        let resource_type = delivery.resource_type;
        for DeliveredResource { name, content, .. } in &delivery.resources {
            assert!(
                !self.refused.contains(&(name.clone(), content.clone())),
                "{name} was refused and did not change"
            );
        }
        let is_whole = P::VARIANT == Variant::StateOfTheWorld
            && matches!(resource_type, ResourceType::Cluster | ResourceType::Listener);
        // Endpoints are sent again whenever their cluster changes.
        if is_whole || resource_type == ResourceType::Endpoints || self.doubted.contains(&resource_type) {
            return;
        }
        let held = &self.held[resource_type as usize];
        for DeliveredResource { name, content, .. } in &delivery.resources {
            assert_ne!(
                held.get(name).map(|(held, _)| held),
                Some(content),
                "{resource_type} {name} is held already"
            );
        }
    }

    /// Asserts that no route leads to a missing cluster.
    fn nothing_is_broken(&self) {
        for (route, (cluster, _)) in &self.held[ResourceType::Route as usize] {
            let clusters = &self.held[ResourceType::Cluster as usize];
            assert!(
                clusters.contains_key(cluster),
                "route {route} goes to {cluster}, and there is {clusters:?}"
            );
        }
    }

    /// Asserts that the client holds exactly the newest version of everything it asked for, except for
    /// refused resources.
    fn holds_the_target(&self) {
        for resource_type in TYPES {
            let expected = self
                .target
                .set(resource_type)
                .iter()
                .map(|own| decode_resource(resource_type, own.message()));
            let held = &self.held[resource_type as usize];
            for (name, content) in expected.filter(|(_, content)| content != BAD) {
                let wanted = self.asked[resource_type as usize].names.contains(&name);
                let goes_to_refused = resource_type == ResourceType::Route && self.is_bad(&content);
                if (is_whole(resource_type) || wanted) && !goes_to_refused {
                    assert_eq!(
                        held.get(&name).map(|(held, _)| held),
                        Some(&content),
                        "{resource_type} {name}"
                    );
                }
            }
        }
        let any_bad = self.target.set(ResourceType::Cluster).iter().any(|own| self.is_bad(&own.name));
        for resource_type in [ResourceType::Cluster, ResourceType::Listener].into_iter().filter(|_| !any_bad)
        {
            let names: Vec<&str> = self.target.set(resource_type).iter().map(|own| &*own.name).collect();
            assert_eq!(
                self.held[resource_type as usize].keys().collect::<Vec<_>>(),
                names,
                "{resource_type}"
            );
        }
    }

    fn is_bad(&self, cluster: &str) -> bool {
        let own = self.target.set(ResourceType::Cluster).get(cluster);
        own.is_some_and(|own| decode_resource(ResourceType::Cluster, own.message()).1 == BAD)
    }
}

fn is_whole(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener)
}

fn check<P: VariantMessages>(events: Vec<ClientEvent>, takes_the_good: bool) {
    let mut client = SimulatedClient::<P>::new(takes_the_good);
    for event in events {
        client.happen(event);
        client.nothing_is_broken();
    }
    client.run_until_idle();
    client.nothing_is_broken();
    client.holds_the_target();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_delta_client_ends_with_the_newest_and_never_has_a_broken_route(events in events(false, true)) {
        check::<delta::DeltaStream>(events, false);
    }

    #[test]
    fn a_delta_client_that_refuses_ends_with_all_the_good_ones(events in events(true, false), good: bool) {
        check::<delta::DeltaStream>(events, good);
    }

    #[test]
    fn a_sotw_client_ends_with_the_newest_and_never_has_a_broken_route(events in events(false, true)) {
        check::<sotw::SotwStream>(events, false);
    }

    #[test]
    fn a_sotw_client_that_refuses_ends_with_all_the_good_ones(events in events(true, false), good: bool) {
        check::<sotw::SotwStream>(events, good);
    }
}
