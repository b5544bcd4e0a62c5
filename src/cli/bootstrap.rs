//! `understudy bootstrap`

use std::net::SocketAddr;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::cli::print;
use crate::node::Locality;

/// Whose bootstrap.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where understudy serves xDS, as this Envoy reaches it: host:port
    #[arg(long, env = "UNDERSTUDY_XDS", default_value = "127.0.0.1:18000", value_name = "HOST:PORT")]
    pub(crate) xds: String,
    /// Unique for each Envoy
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: String,
    /// What fleets select by
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) node_cluster: String,
    /// Where it runs, as REGION/ZONE/SUB_ZONE, for tiers by distance
    #[arg(long, value_name = "LOCALITY")]
    pub(crate) node_locality: Option<Locality>,
    /// Where Envoy's own admin interface answers; none without
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) envoy_admin: Option<SocketAddr>,
    /// Ask for what changed only, in place of the state of the world
    #[arg(long)]
    pub(crate) delta: bool,
}

/// Prints the bootstrap as YAML.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    print::line(render(options)?.trim_end())
}

/// The bootstrap as YAML.
///
/// # Errors
///
/// When `--xds` is no `host:port`.
pub fn render(options: &Options) -> anyhow::Result<String> {
    let (host, port) = options.xds.rsplit_once(':').unwrap_or((&options.xds, ""));
    let port: u16 = port.parse().unwrap_or(0);
    ensure!(port > 0 && !host.is_empty(), "--xds {} is not host:port", options.xds);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ads = json!({ "resource_api_version": "V3", "ads": {} });
    let mut bootstrap = json!({
        "node": { "id": options.node_id, "cluster": options.node_cluster },
        "dynamic_resources": {
            "ads_config": {
                "api_type": if options.delta { "DELTA_GRPC" } else { "GRPC" },
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": {
                    "cluster_name": "understudy",
                    // Envoy's default waits up to 30 s before it connects again.
                    "retry_policy": { "retry_back_off": { "base_interval": "0.1s", "max_interval": "1s" } },
                } }],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        // Who serves is seen in what Envoys report of their load.
        "cluster_manager": { "load_stats_config": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "understudy" } }],
        } },
        "static_resources": { "clusters": [xds_cluster(host, port)] },
    });
    if let Some(Locality { region, zone, sub_zone }) = &options.node_locality {
        let said = [("region", region), ("zone", zone), ("sub_zone", sub_zone)].into_iter();
        let said = said.filter(|(_, part)| !part.is_empty());
        let locality = said.map(|(name, part)| (name.to_owned(), json!(part))).collect();
        bootstrap["node"]["locality"] = Value::Object(locality);
    }
    if let Some(admin) = options.envoy_admin {
        let address = json!({ "address": admin.ip().to_string(), "port_value": admin.port() });
        bootstrap["admin"] = json!({ "address": { "socket_address": address } });
    }
    Ok(serde_yaml::to_string(&bootstrap)?)
}

/// How Envoy reaches understudy: HTTP/2, kept alive so that a frozen control plane is noticed.
fn xds_cluster(host: &str, port: u16) -> Value {
    let is_name = host.parse::<std::net::IpAddr>().is_err();
    json!({
        "name": "understudy",
        "type": if is_name { "STRICT_DNS" } else { "STATIC" },
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {
                    "connection_keepalive": { "interval": "5s", "timeout": "2s" },
                } },
            },
        },
        "load_assignment": {
            "cluster_name": "understudy",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "socket_address": {
                "address": host, "port_value": port,
            } } } }] }],
        },
    })
}
