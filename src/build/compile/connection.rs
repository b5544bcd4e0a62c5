//! TCP proxying: connections are forwarded to the targets of an upstream, whatever they carry.

use envoy_types::pb::envoy::config::core::v3::BackoffStrategy;
use envoy_types::pb::envoy::config::listener::v3 as envoy;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::listener_filter;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};
use envoy_types::pb::envoy::r#type::v3::HashPolicy;
use envoy_types::pb::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};

use crate::build::compile::service::orders;
use crate::build::compile::{access_log, any, duration, tls, uint32};
use crate::model::host_match::HostMatch;
use crate::model::listener::{Listener, Termination};
use crate::model::name::Name;
use crate::model::passthrough::Passthrough;
use crate::model::service::hash::HashBy;
use crate::model::service::{Retries, Service};

/// Default number of attempts to connect. An attempt at a target that refuses costs next to nothing, and five
/// failures in a row get the target ejected: 11 attempts get past two dead primaries that are not ejected
/// yet.
const ATTEMPTS: u32 = 11;

/// Returns the filter chain for all connections of a TCP listener.
pub(crate) fn to_service(listener: &Listener, service: &Service) -> envoy::FilterChain {
    envoy::FilterChain {
        filters: vec![tcp_proxy(listener, to(service), &service.hash_by, service.policy.retries.as_ref())],
        ..Default::default()
    }
}

/// Returns the filter chain for connections whose SNI matches a host of a passthrough route.
pub(crate) fn by_sni(listener: &Listener, route: &Passthrough) -> envoy::FilterChain {
    let any_name = route.hosts.contains(&HostMatch::Any);
    let names = route.hosts.iter().map(ToString::to_string).filter(|_| !any_name).collect();
    envoy::FilterChain { name: route.name.to_string(), ..of_tls(names, to_service(listener, &route.service)) }
}

/// Returns the filter chain of a failover gateway for connections whose SNI is the name of an upstream.
///
/// There is one chain for each upstream instead of one chain that uses the SNI as the name of a cluster: with
/// that a client could reach any cluster, including that of the control plane. Envoy adds and removes a chain
/// without touching the others.
pub(crate) fn to_upstream(
    listener: &Listener,
    upstream: &Name,
    termination: Option<&Termination>,
) -> envoy::FilterChain {
    let chain = envoy::FilterChain {
        filters: vec![tcp_proxy(
            listener,
            ClusterSpecifier::Cluster(upstream.to_string()),
            &[],
            Some(&Retries::default()),
        )],
        transport_socket: termination.map(|termination| tls::downstream(termination, &[])),
        ..Default::default()
    };
    envoy::FilterChain {
        name: upstream.to_string(),
        ..of_tls(vec![upstream.as_str().to_ascii_lowercase()], chain)
    }
}

fn of_tls(server_names: Vec<String>, chain: envoy::FilterChain) -> envoy::FilterChain {
    let filter_chain_match =
        envoy::FilterChainMatch { server_names, transport_protocol: "tls".to_owned(), ..Default::default() };
    envoy::FilterChain { filter_chain_match: Some(filter_chain_match), ..chain }
}

/// Returns the listener filter that reads the SNI of a connection.
pub(crate) fn tls_inspector() -> envoy::ListenerFilter {
    envoy::ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any(&TlsInspector::default()))),
        ..Default::default()
    }
}

/// Returns the cluster of a service, or its clusters with weights if there are several.
fn to(service: &Service) -> ClusterSpecifier {
    let mut orders = orders(service);
    if orders.len() == 1 {
        return ClusterSpecifier::Cluster(orders.remove(0).cluster);
    }
    let clusters = orders.into_iter().map(|order| ClusterWeight {
        name: order.cluster,
        weight: order.weight,
        ..Default::default()
    });
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.collect() })
}

fn tcp_proxy(
    listener: &Listener,
    to: ClusterSpecifier,
    hash_by: &[HashBy],
    retries: Option<&Retries>,
) -> envoy::Filter {
    let attempts = match retries {
        None => 1,
        Some(retries) => retries.attempts.map_or(ATTEMPTS, |attempts| attempts.saturating_add(1)),
    };
    // The source address is the only thing known of a TCP connection that can be hashed.
    let by_source_ip =
        || HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp::default())) };
    let proxy = tcp::TcpProxy {
        stat_prefix: listener.name.to_string(),
        idle_timeout: Some(duration(listener.idle_timeout)),
        access_log: access_log::compile(listener),
        max_connect_attempts: Some(uint32(attempts)),
        backoff_options: retries.filter(|_| attempts > 1).map(|retries| BackoffStrategy {
            base_interval: Some(duration(retries.back_off_base)),
            max_interval: Some(duration(retries.back_off_max)),
        }),
        hash_policy: hash_by.first().map(|_| by_source_ip()).into_iter().collect(),
        cluster_specifier: Some(to),
        ..Default::default()
    };
    envoy::Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&proxy))),
    }
}
