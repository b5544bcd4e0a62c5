//! Envoy listeners: for HTTP requests, with routes by RDS, or for TCP and TLS connections.

use std::net::{IpAddr, Ipv6Addr};

use envoy_types::pb::envoy::config::core::v3::{self as core, HttpProtocolOptions};
use envoy_types::pb::envoy::config::listener::v3 as envoy;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use envoy_types::pb::google::protobuf::BoolValue;

use crate::build::compile::endpoint::socket_address;
use crate::build::compile::{STATEFUL_SESSION, access_log, ads, any, connection, duration, tls};
use crate::build::snapshot::resource::Resource;
use crate::model::Model;
use crate::model::listener::{Listener, ProtocolSettings, Termination};
use crate::model::name::Name;
use crate::model::passthrough::Passthrough;

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Everything that a listener depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerInput {
    listener: Listener,
    /// Passthrough routes (by SNI) that the fleet serves on this listener.
    passthroughs: Vec<Passthrough>,
    /// Upstreams that a client can select by SNI on a failover gateway; empty for other protocols.
    upstreams: Vec<Name>,
}

impl ListenerInput {
    /// Collects what `listener` depends on in `fleet`.
    pub fn new(model: &Model, fleet: &Name, listener: &Listener) -> Self {
        let upstreams = match listener.protocol {
            ProtocolSettings::FailoverGateway(_) => model.upstreams.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let passthroughs = model.passthroughs_of(fleet, &listener.name).cloned().collect();
        Self { listener: listener.clone(), passthroughs, upstreams }
    }
}

/// Compiles a listener.
pub fn compile(input: &ListenerInput) -> Resource {
    let ListenerInput { listener, passthroughs, upstreams } = input;
    let name = listener.name.as_str();
    let (filter_chains, by_sni) = match &listener.protocol {
        ProtocolSettings::Http => (vec![requests(listener, None)], false),
        ProtocolSettings::Https(termination) => (vec![requests(listener, Some(termination))], false),
        ProtocolSettings::Tcp(service) => (vec![connection::to_service(listener, service)], false),
        ProtocolSettings::TlsPassthrough => {
            (passthroughs.iter().map(|route| connection::by_sni(listener, route)).collect(), true)
        }
        ProtocolSettings::FailoverGateway(termination) => {
            let chain = |upstream| connection::to_upstream(listener, upstream, termination.as_ref());
            (upstreams.iter().map(chain).collect(), true)
        }
    };
    let envoy = envoy::Listener {
        name: name.to_owned(),
        address: Some(address(listener)),
        listener_filters: by_sni.then(connection::tls_inspector).into_iter().collect(),
        filter_chains,
        ..Default::default()
    };
    Resource::new(name, &envoy)
}

/// Returns the address. On all IPv6 addresses Envoy takes IPv4 connections too only if it is told.
fn address(listener: &Listener) -> core::Address {
    let mut address = socket_address(listener.address);
    let takes_both = listener.takes_ipv4 && listener.address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    if let Some(core::address::Address::SocketAddress(socket)) = address.address.as_mut() {
        socket.ipv4_compat = takes_both;
    }
    address
}

/// Returns the filter chain for HTTP requests, in TLS if there is a termination.
fn requests(listener: &Listener, termination: Option<&Termination>) -> envoy::FilterChain {
    let filter = envoy::Filter {
        name: HTTP_CONNECTION_MANAGER.to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&http_connection_manager(listener)))),
    };
    envoy::FilterChain {
        filters: vec![filter],
        transport_socket: termination.map(|it| tls::downstream(it, &["h2", "http/1.1"])),
        ..Default::default()
    }
}

fn http_connection_manager(listener: &Listener) -> http::HttpConnectionManager {
    use http::http_connection_manager::{RouteSpecifier, UpgradeConfig};

    // Disabled here; the routes to sticky upstreams enable it.
    let stateful_session = http::HttpFilter {
        name: STATEFUL_SESSION.to_owned(),
        config_type: Some(http::http_filter::ConfigType::TypedConfig(any(&StatefulSession::default()))),
        disabled: true,
        ..Default::default()
    };
    let router = http::HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(http::http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    http::HttpConnectionManager {
        stat_prefix: listener.name.to_string(),
        route_specifier: Some(RouteSpecifier::Rds(http::Rds {
            config_source: Some(ads()),
            route_config_name: listener.name.to_string(),
        })),
        http_filters: vec![stateful_session, router],
        access_log: access_log::compile(listener),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(duration(listener.idle_timeout)),
            ..Default::default()
        }),
        // Envoy is the edge: the peer's address is appended to `x-forwarded-for`, and what a client claims
        // there is not trusted.
        use_remote_address: Some(BoolValue { value: true }),
        normalize_path: Some(BoolValue { value: true }),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        ..Default::default()
    }
}
