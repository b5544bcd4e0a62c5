//! Health check specifiers (HDS): the checks that Envoys run for the control plane. They cover the endpoints
//! of every cluster that has standbys or is a member of an aggregate cluster, if it has HTTP or TCP checks
//! only, with the checks of the cluster itself. Clusters without standbys are not checked: load reports cover
//! them.
//!
//! A specifier differs from the config of a cluster in two ways. Secrets are inline, because Envoy's health
//! discovery does not fetch them over SDS. And the checks are split into clusters of their own, one for each
//! transport socket, since an endpoint in a specifier cannot select one of several transport sockets.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{TransportSocket, address};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::service::health::v3::{
    ClusterHealthCheck, HealthCheckSpecifier, LocalityEndpoints,
};
use envoy_types::pb::google::protobuf::{self, Any, Struct};
use prost::{Message as _, Name as _};

use crate::build::snapshot::{Snapshot, Version};
use crate::envoy::ResourceType;

/// Suffix of the name of a check, after the name of the cluster: with the same name, Envoy would count both
/// in the same statistics.
const SUFFIX: &str = "/health";

/// Endpoint metadata that selects a transport socket.
const MATCH: &str = "envoy.transport_socket_match";

const RAW_BUFFER: &str = "envoy.transport_sockets.raw_buffer";

/// Timeout of a check that states none. Envoy requires one, so this is not used in practice.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Checks of one cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct ClusterCheck {
    /// Name of the cluster.
    pub cluster: Arc<str>,
    /// Time after which an endpoint that does not answer is known to be unhealthy: the longest timeout of the
    /// checks.
    pub timeout: Duration,
    /// Number of endpoints.
    pub endpoints: usize,
    /// True if some endpoints have a priority above 0.
    has_standbys: bool,
    /// Encoded fields `cluster_health_checks` of a specifier.
    fields: Bytes,
}

/// Cache of checks, so that unchanged ones are not built again.
#[derive(Debug, Default)]
pub struct CheckCache {
    made: Mutex<HashMap<CheckKey, Weak<ClusterCheck>>>,
}

/// Everything that the checks of a cluster depend on: its name, and the versions of the cluster, its
/// endpoints and all secrets.
type CheckKey = (Arc<str>, [Version; 3]);

/// Returns the name of the cluster of a check, from the name of the check.
pub fn checked_cluster(check: &str) -> &str {
    check.rsplit_once(SUFFIX).map_or(check, |(cluster, _)| cluster)
}

/// Encodes a specifier with these checks, to be reported at this interval.
pub fn encode(checks: &[Arc<ClusterCheck>], interval: Duration) -> Vec<u8> {
    let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    let interval = Some(protobuf::Duration { seconds, nanos: 0 });
    let mut encoded = HealthCheckSpecifier { interval, ..Default::default() }.encode_to_vec();
    checks.iter().for_each(|check| encoded.extend_from_slice(&check.fields));
    encoded
}

impl CheckCache {
    /// Returns the checks for a snapshot, in the order of their clusters.
    pub fn checks(&self, snapshot: &Snapshot) -> Vec<Arc<ClusterCheck>> {
        let [clusters, endpoints, secrets] =
            [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Secret].map(|it| snapshot.set(it));
        let secret = |name: &str| tls::Secret::decode(secrets.get(name)?.message()).ok();
        // The members of an aggregate cluster stand by for each other.
        let members: HashSet<&Arc<str>> = clusters.iter().flat_map(|cluster| &cluster.clusters).collect();
        let is_wanted = |check: &ClusterCheck| check.has_standbys || members.contains(&check.cluster);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut checks = Vec::new();
        for cluster in clusters.iter() {
            let Some(endpoints) = cluster.endpoints.as_ref().and_then(|name| endpoints.get(name)) else {
                continue;
            };
            let key = (cluster.name.clone(), [cluster.version, endpoints.version, secrets.version()]);
            if let Some(check) = made.get(&key).and_then(Weak::upgrade) {
                checks.push(check);
                continue;
            }
            let decoded = Cluster::decode(cluster.message());
            let decoded =
                decoded.and_then(|it| Ok((it, ClusterLoadAssignment::decode(endpoints.message())?)));
            let check = decoded.ok().and_then(|(it, endpoints)| ClusterCheck::new(&it, &endpoints, &secret));
            if let Some(check) = check.map(Arc::new) {
                made.insert(key, Arc::downgrade(&check));
                checks.push(check);
            }
        }
        let all = checks.len();
        checks.retain(|check: &Arc<ClusterCheck>| is_wanted(check));
        if made.len() > 2 * all + 64 {
            made.retain(|_, check| check.strong_count() > 0);
        }
        checks
    }
}

impl ClusterCheck {
    /// Builds the checks of a cluster; none if there is nothing to check, or if Envoy cannot run them over
    /// HDS.
    fn new(
        cluster: &Cluster,
        assignment: &ClusterLoadAssignment,
        secret: &dyn Fn(&str) -> Option<tls::Secret>,
    ) -> Option<Self> {
        let can_be_asked_for = |checker: &Option<HealthChecker>| {
            matches!(checker, Some(HealthChecker::HttpHealthCheck(_) | HealthChecker::TcpHealthCheck(_)))
        };
        let checks = &cluster.health_checks;
        if checks.is_empty() || !checks.iter().all(|check| can_be_asked_for(&check.health_checker)) {
            return None;
        }
        let timeouts = checks.iter().filter_map(|check| check.timeout.as_ref()).map(duration);
        let (mut fields, mut endpoints) = (Vec::new(), 0);
        for (index, (socket, localities)) in by_socket(cluster, assignment).into_iter().enumerate() {
            let Some(transport_socket_matches) = socket.matches(cluster, secret) else { continue };
            let suffix = if index == 0 { String::new() } else { format!("-{index}") };
            endpoints += localities.iter().map(|locality| locality.endpoints.len()).sum::<usize>();
            let check = ClusterHealthCheck {
                cluster_name: format!("{}{SUFFIX}{suffix}", cluster.name),
                health_checks: checks.clone(),
                locality_endpoints: localities,
                transport_socket_matches,
                ..Default::default()
            };
            let specifier = HealthCheckSpecifier { cluster_health_checks: vec![check], ..Default::default() };
            fields.extend(specifier.encode_to_vec());
        }
        (endpoints > 0).then(|| Self {
            cluster: cluster.name.as_str().into(),
            timeout: timeouts.max().unwrap_or(TIMEOUT),
            endpoints,
            has_standbys: assignment.endpoints.iter().any(|locality| locality.priority > 0),
            fields: fields.into(),
        })
    }
}

fn duration(of: &protobuf::Duration) -> Duration {
    Duration::new(of.seconds.try_into().unwrap_or_default(), of.nanos.try_into().unwrap_or_default())
}

/// Transport socket over which endpoints are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct EndpointSocket {
    /// Index in the `transport_socket_matches` of the cluster; none for its default socket.
    index: Option<usize>,
    /// SNI, if it is the hostname of the endpoint.
    host: Option<String>,
}

/// Groups the endpoints to check, each once, by the transport socket over which they are reached.
fn by_socket(
    cluster: &Cluster,
    assignment: &ClusterLoadAssignment,
) -> BTreeMap<EndpointSocket, Vec<LocalityEndpoints>> {
    let mut by_socket: BTreeMap<EndpointSocket, Vec<LocalityEndpoints>> = BTreeMap::new();
    let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
    for LocalityLbEndpoints { locality, lb_endpoints, .. } in &assignment.endpoints {
        for own in lb_endpoints {
            let Some(HostIdentifier::Endpoint(endpoint)) = &own.host_identifier else { continue };
            let is_off =
                endpoint.health_check_config.as_ref().is_some_and(|own| own.disable_active_health_check);
            if is_off || !socket_address(endpoint).is_some_and(|socket| seen.insert(socket)) {
                continue;
            }
            let localities = by_socket.entry(EndpointSocket::of(cluster, own, endpoint)).or_default();
            match localities.last_mut().filter(|last| last.locality == *locality) {
                Some(last) => last.endpoints.push(endpoint.clone()),
                None => localities.push(LocalityEndpoints {
                    locality: locality.clone(),
                    endpoints: vec![endpoint.clone()],
                }),
            }
        }
    }
    by_socket
}

fn socket_address(endpoint: &Endpoint) -> Option<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = endpoint.address.as_ref()?.address.as_ref() else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some(SocketAddr::new(socket.address.parse::<IpAddr>().ok()?, u16::try_from(port).ok()?))
}

impl EndpointSocket {
    fn of(cluster: &Cluster, own: &LbEndpoint, endpoint: &Endpoint) -> Self {
        let metadata = own.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(MATCH));
        let is_met = |wanted: &TransportSocketMatch| {
            wanted.r#match.as_ref().is_none_or(|wanted| is_part_of(wanted, metadata))
        };
        let index = cluster.transport_socket_matches.iter().position(is_met);
        let context = Self { index, host: None }.declared(cluster).and_then(tls_context);
        let host = context.filter(|context| context.auto_host_sni && !endpoint.hostname.is_empty());
        Self { index, host: host.map(|_| endpoint.hostname.clone()) }
    }

    fn declared<'c>(&self, cluster: &'c Cluster) -> Option<&'c TransportSocket> {
        match self.index {
            Some(index) => cluster.transport_socket_matches.get(index)?.transport_socket.as_ref(),
            None => cluster.transport_socket.as_ref(),
        }
    }

    /// Returns the matches that make Envoy use this socket for all endpoints of a check; none if that cannot
    /// be expressed.
    fn matches(
        &self,
        cluster: &Cluster,
        secret: &dyn Fn(&str) -> Option<tls::Secret>,
    ) -> Option<Vec<TransportSocketMatch>> {
        let Some(declared) = self.declared(cluster).filter(|socket| socket.name != RAW_BUFFER) else {
            return Some(Vec::new());
        };
        let mut context = tls_context(declared)?;
        if let Some(host) = &self.host {
            (context.sni, context.auto_host_sni) = (host.clone(), false);
        }
        let common = inline(context.common_tls_context.unwrap_or_default(), secret)?;
        context.common_tls_context = Some(common);
        let config = Any { type_url: tls::UpstreamTlsContext::type_url(), value: context.encode_to_vec() };
        let socket = TransportSocket {
            name: declared.name.clone(),
            config_type: Some(ConfigType::TypedConfig(config)),
        };
        Some(vec![TransportSocketMatch {
            name: "all".to_owned(),
            r#match: Some(Struct::default()),
            transport_socket: Some(socket),
        }])
    }
}

fn is_part_of(wanted: &Struct, metadata: Option<&Struct>) -> bool {
    let has = |key: &String, value| metadata.is_some_and(|metadata| metadata.fields.get(key) == Some(value));
    wanted.fields.iter().all(|(key, value)| has(key, value))
}

fn tls_context(socket: &TransportSocket) -> Option<tls::UpstreamTlsContext> {
    let Some(ConfigType::TypedConfig(config)) = &socket.config_type else { return None };
    let is_tls = config.type_url == tls::UpstreamTlsContext::type_url();
    is_tls.then(|| tls::UpstreamTlsContext::decode(&*config.value).ok()).flatten()
}

/// Replaces the name of every secret by the secret itself; none if a secret is missing.
fn inline(
    mut context: tls::CommonTlsContext,
    secret: &dyn Fn(&str) -> Option<tls::Secret>,
) -> Option<tls::CommonTlsContext> {
    for named in std::mem::take(&mut context.tls_certificate_sds_secret_configs) {
        match secret(&named.name)?.r#type? {
            tls::secret::Type::TlsCertificate(certificate) => context.tls_certificates.push(certificate),
            _ => return None,
        }
    }
    let authority = |named: &tls::SdsSecretConfig| match secret(&named.name)?.r#type? {
        tls::secret::Type::ValidationContext(validation) => Some(validation),
        _ => None,
    };
    let validation = match context.validation_context_type.take() {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(named)) => Some(authority(&named)?),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let mut validation = combined.default_validation_context.unwrap_or_default();
            if let Some(named) = &combined.validation_context_sds_secret_config {
                // Fields in both are merged, as Envoy does.
                validation.merge(&*authority(named)?.encode_to_vec()).ok()?;
            }
            Some(validation)
        }
        Some(ValidationContextType::ValidationContext(validation)) => Some(validation),
        None => None,
        Some(_) => return None,
    };
    context.validation_context_type = validation.map(ValidationContextType::ValidationContext);
    Some(context)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::cluster;
    use envoy_types::pb::envoy::config::core::v3::{
        Address, DataSource, HealthCheck, HealthStatus, Locality, Metadata, SocketAddress, data_source,
        health_check,
    };
    use envoy_types::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
    use envoy_types::pb::google::protobuf::{Value, value};
    use tls::common_tls_context::CombinedCertificateValidationContext;

    use super::*;
    use crate::build::snapshot::Resource;

    fn cluster(checker: HealthChecker) -> Cluster {
        Cluster {
            name: "shop".into(),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
                cluster::DiscoveryType::Eds.into(),
            )),
            health_checks: vec![HealthCheck {
                timeout: Some(protobuf::Duration { seconds: 0, nanos: 500_000_000 }),
                health_checker: Some(checker),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn tcp() -> HealthChecker {
        HealthChecker::TcpHealthCheck(health_check::TcpHealthCheck::default())
    }

    fn endpoint(ip: &str) -> Endpoint {
        let socket = SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(80)),
            ..Default::default()
        };
        let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
        Endpoint { address, ..Default::default() }
    }

    fn own(endpoint: Endpoint) -> LbEndpoint {
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
    }

    /// Builds an endpoint whose metadata selects this transport socket.
    fn by(socket: &str, endpoint: Endpoint) -> LbEndpoint {
        let metadata =
            Metadata { filter_metadata: [(MATCH.to_owned(), key(socket))].into(), ..Default::default() };
        LbEndpoint { metadata: Some(metadata), ..own(endpoint) }
    }

    fn key(text: &str) -> Struct {
        let value = Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
        Struct { fields: [("tls".to_owned(), value)].into() }
    }

    fn assignment(zones: &[(&str, Vec<LbEndpoint>)]) -> ClusterLoadAssignment {
        let locality = |(zone, lb_endpoints): &(&str, Vec<LbEndpoint>)| LocalityLbEndpoints {
            locality: Some(Locality { zone: (*zone).to_owned(), ..Default::default() }),
            lb_endpoints: lb_endpoints.clone(),
            ..Default::default()
        };
        let endpoints = zones.iter().map(locality).collect();
        ClusterLoadAssignment { cluster_name: "shop".into(), endpoints, ..Default::default() }
    }

    fn socket(context: &tls::UpstreamTlsContext) -> TransportSocket {
        let config = Any { type_url: tls::UpstreamTlsContext::type_url(), value: context.encode_to_vec() };
        TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(config)),
        }
    }

    fn text(text: &str) -> Option<DataSource> {
        let specifier = Some(data_source::Specifier::InlineString(text.to_owned()));
        Some(DataSource { specifier, ..Default::default() })
    }

    fn secrets(name: &str) -> Option<tls::Secret> {
        let r#type = match name {
            "authority" => tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: text("the authority"),
                ..Default::default()
            }),
            "edge" => tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                private_key: text("the key"),
                ..Default::default()
            }),
            _ => return None,
        };
        Some(tls::Secret { name: name.to_owned(), r#type: Some(r#type) })
    }

    fn named(name: &str) -> tls::SdsSecretConfig {
        tls::SdsSecretConfig { name: name.to_owned(), ..Default::default() }
    }

    /// Builds a context that trusts this authority, presents this certificate, and requires a subject
    /// alternative name.
    fn context(authority: &str, certificate: &str) -> tls::UpstreamTlsContext {
        let names = tls::CertificateValidationContext {
            match_typed_subject_alt_names: vec![tls::SubjectAltNameMatcher::default()],
            ..Default::default()
        };
        let validation = CombinedCertificateValidationContext {
            default_validation_context: Some(names),
            validation_context_sds_secret_config: Some(named(authority)),
            ..Default::default()
        };
        tls::UpstreamTlsContext {
            common_tls_context: Some(tls::CommonTlsContext {
                tls_certificate_sds_secret_configs: vec![named(certificate)],
                validation_context_type: Some(ValidationContextType::CombinedValidationContext(validation)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Returns the checks that an Envoy decodes.
    fn asked(cluster: &Cluster, assignment: &ClusterLoadAssignment) -> Vec<ClusterHealthCheck> {
        let check = ClusterCheck::new(cluster, assignment, &secrets).map(Arc::new);
        let encoded = encode(check.as_slice(), Duration::from_secs(1));
        HealthCheckSpecifier::decode(&*encoded).expect("it is one").cluster_health_checks
    }

    /// Formats each check: its name, the zones and addresses of its endpoints, and the SNI of its socket.
    fn words(checks: &[ClusterHealthCheck]) -> Vec<String> {
        let ip = |endpoint: &Endpoint| {
            socket_address(endpoint).map(|it| format!(" {}", it.ip())).unwrap_or_default()
        };
        let zone = |locality: &LocalityEndpoints| {
            let zone = locality.locality.as_ref().map(|locality| locality.zone.clone()).unwrap_or_default();
            format!(" {zone}{}", locality.endpoints.iter().map(ip).collect::<String>())
        };
        let sni = |of: &TransportSocketMatch| {
            let context = of.transport_socket.as_ref().and_then(tls_context).expect("it is TLS");
            format!(" by {:?}", context.sni)
        };
        let one = |check: &ClusterHealthCheck| {
            let zones: String = check.locality_endpoints.iter().map(zone).collect();
            let sockets: String = check.transport_socket_matches.iter().map(sni).collect();
            format!("{}:{zones}{sockets}", check.cluster_name)
        };
        checks.iter().map(one).collect()
    }

    #[test]
    fn every_endpoint_is_checked_once_but_for_those_that_are_not() {
        let off = HealthCheckConfig { disable_active_health_check: true, ..Default::default() };
        let off = Endpoint { health_check_config: Some(off), ..endpoint("10.0.0.3") };
        let assignment = assignment(&[
            ("east", vec![own(endpoint("10.0.0.1")), own(endpoint("10.0.0.2")), own(off)]),
            ("west", vec![own(endpoint("10.0.0.2")), own(endpoint("::1")), own(endpoint("a.name"))]),
            ("none", vec![own(endpoint("10.0.0.1"))]),
        ]);
        assert_eq!(
            words(&asked(&cluster(tcp()), &assignment)),
            ["shop/health: east 10.0.0.1 10.0.0.2 west ::1"]
        );
    }

    #[test]
    fn what_envoy_cannot_check_for_us_is_not_asked_for() {
        let assignment = assignment(&[("", vec![own(endpoint("10.0.0.1"))])]);
        let grpc = HealthChecker::GrpcHealthCheck(health_check::GrpcHealthCheck::default());
        assert!(asked(&cluster(grpc), &assignment).is_empty());
        assert!(asked(&Cluster { health_checks: Vec::new(), ..cluster(tcp()) }, &assignment).is_empty());
        assert!(asked(&cluster(tcp()), &ClusterLoadAssignment::default()).is_empty());
        let by_an_unknown =
            Cluster { transport_socket: Some(socket(&context("nobody", "edge"))), ..cluster(tcp()) };
        assert!(asked(&by_an_unknown, &assignment).is_empty());
    }

    #[test]
    fn secrets_stand_in_line() {
        let cluster =
            Cluster { transport_socket: Some(socket(&context("authority", "edge"))), ..cluster(tcp()) };
        let checks = asked(&cluster, &assignment(&[("", vec![own(endpoint("10.0.0.1"))])]));
        let context = checks[0].transport_socket_matches[0].transport_socket.as_ref().and_then(tls_context);
        let common = context.and_then(|context| context.common_tls_context).expect("it is TLS");
        assert!(common.tls_certificate_sds_secret_configs.is_empty());
        assert_eq!(common.tls_certificates[0].private_key, text("the key"));
        let Some(ValidationContextType::ValidationContext(validation)) = common.validation_context_type
        else {
            panic!("it is not in line: {:?}", common.validation_context_type);
        };
        assert_eq!(validation.trusted_ca, text("the authority"));
        assert_eq!(validation.match_typed_subject_alt_names.len(), 1, "what was wanted beside it stays");
    }

    #[test]
    fn endpoints_of_different_sockets_are_checks_of_their_own() {
        let sni = |sni: &str| tls::UpstreamTlsContext { sni: sni.to_owned(), ..context("authority", "edge") };
        let hosts = tls::UpstreamTlsContext { auto_host_sni: true, ..context("authority", "edge") };
        let of = |name: &str, socket| TransportSocketMatch {
            name: name.to_owned(),
            r#match: Some(key(name)),
            transport_socket: Some(socket),
        };
        let plain = TransportSocket { name: RAW_BUFFER.to_owned(), config_type: None };
        let cluster = Cluster {
            transport_socket: Some(socket(&sni("all"))),
            transport_socket_matches: vec![
                of("one", socket(&sni("one"))),
                of("plain", plain),
                of("hosts", socket(&hosts)),
            ],
            ..cluster(tcp())
        };
        let host = |ip, hostname: &str| Endpoint { hostname: hostname.to_owned(), ..endpoint(ip) };
        let assignment = assignment(&[(
            "",
            vec![
                own(host("10.0.0.1", "one.example")),
                by("one", endpoint("10.0.0.2")),
                by("plain", endpoint("10.0.0.3")),
                by("hosts", host("10.0.0.4", "four.example")),
                by("hosts", host("10.0.0.5", "five.example")),
                own(endpoint("10.0.0.6")),
            ],
        )]);
        assert_eq!(
            words(&asked(&cluster, &assignment)),
            [
                r#"shop/health:  10.0.0.1 10.0.0.6 by "all""#,
                r#"shop/health-1:  10.0.0.2 by "one""#,
                "shop/health-2:  10.0.0.3",
                r#"shop/health-3:  10.0.0.5 by "five.example""#,
                r#"shop/health-4:  10.0.0.4 by "four.example""#,
            ]
        );
        for check in ["shop/health", "shop/health-3"] {
            assert_eq!(checked_cluster(check), "shop");
        }
        assert_eq!(checked_cluster("shop/p0/health"), "shop/p0");
    }

    /// Builds a snapshot of the cluster with two targets, the second with this address, priority and health.
    fn snapshot(ip: &str, priority: u32, health: HealthStatus, others: &[Resource]) -> Snapshot {
        let target = LbEndpoint { health_status: health.into(), ..own(endpoint(ip)) };
        let mut assignment = assignment(&[("", vec![own(endpoint("10.0.0.9"))]), ("", vec![target])]);
        assignment.endpoints[1].priority = priority;
        let cluster = Resource::encoded(ResourceType::Cluster, "shop", &cluster(tcp()).encode_to_vec());
        Snapshot::new(|of| match of {
            ResourceType::Cluster => others.iter().cloned().chain([cluster.clone()]).map(Arc::new).collect(),
            ResourceType::Endpoints => vec![Arc::new(Resource::new("shop", &assignment))],
            _ => Vec::new(),
        })
    }

    #[test]
    fn what_is_as_it_was_is_not_made_again() {
        let snapshot = |ip: &str, health| snapshot(ip, 1, health, &[]);
        let checks = CheckCache::default();
        let first = checks.checks(&snapshot("10.0.0.1", HealthStatus::Unknown));
        assert_eq!((first.len(), first[0].endpoints, first[0].timeout), (1, 2, Duration::from_millis(500)));
        let again = checks.checks(&snapshot("10.0.0.1", HealthStatus::Unknown));
        assert!(Arc::ptr_eq(&first[0], &again[0]));
        assert_eq!(
            first,
            checks.checks(&snapshot("10.0.0.1", HealthStatus::Draining)),
            "that is not asked for"
        );
        assert_ne!(first, checks.checks(&snapshot("10.0.0.2", HealthStatus::Unknown)));
    }

    #[test]
    fn where_nobody_stands_by_nothing_is_checked() {
        let checks = |priority, others: &[Resource]| {
            CheckCache::default().checks(&snapshot("10.0.0.1", priority, HealthStatus::Unknown, others)).len()
        };
        assert_eq!((checks(0, &[]), checks(1, &[])), (0, 1));
        let mut aggregate = Resource::new("all", &Cluster::default());
        aggregate.clusters = vec!["shop".into()];
        assert_eq!(checks(0, &[aggregate]), 1, "one member stands by for another");
    }
}
