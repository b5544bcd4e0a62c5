//! A listener of ours as a listener of Envoy's, with its routes by RDS.

use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3 as envoy;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use envoy_types::pb::google::protobuf::BoolValue;

use crate::compile::endpoint::socket_address;
use crate::compile::{STATEFUL_SESSION, ads, any, duration};
use crate::model::listener::Listener;
use crate::snapshot::Resource;

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// The Envoy listener of a listener.
pub fn compile(listener: &Listener) -> Resource {
    let name = listener.name.as_str();
    let filter = envoy::Filter {
        name: HTTP_CONNECTION_MANAGER.to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&http_connection_manager(listener)))),
    };
    let listener = envoy::Listener {
        name: name.to_owned(),
        address: Some(socket_address(listener.address)),
        filter_chains: vec![envoy::FilterChain { filters: vec![filter], ..Default::default() }],
        ..Default::default()
    };
    Resource::new(name, &listener)
}

fn http_connection_manager(listener: &Listener) -> http::HttpConnectionManager {
    use http::http_connection_manager::{RouteSpecifier, UpgradeConfig};

    // Routes to sticky upstreams switch it on.
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
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(duration(listener.idle_timeout)),
            ..Default::default()
        }),
        // We are the edge: what a client claims to be its address is appended to, not believed.
        use_remote_address: Some(BoolValue { value: true }),
        normalize_path: Some(BoolValue { value: true }),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        ..Default::default()
    }
}
