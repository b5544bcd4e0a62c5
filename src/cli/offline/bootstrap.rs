//! `understudy bootstrap`: prints a bootstrap for an Envoy.

use std::net::SocketAddr;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::cli::print;
use crate::envoy::node::Locality;

/// Options of `understudy bootstrap`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Address of understudy's xDS port, as this Envoy reaches it: host:port
    #[arg(long, env = "UNDERSTUDY_XDS", default_value = "127.0.0.1:18000", value_name = "HOST:PORT")]
    pub(crate) xds: String,
    /// Node id, unique for each Envoy
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: String,
    /// Node cluster, by which fleets select Envoys
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) node_cluster: String,
    /// Locality of this Envoy, as REGION/ZONE/SUB_ZONE, for tiers by distance
    #[arg(long, value_name = "LOCALITY")]
    pub(crate) node_locality: Option<Locality>,
    /// Listen address of Envoy's own admin interface; none without
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) envoy_admin: Option<SocketAddr>,
    /// Ask for changes only (delta xDS), in place of the state of the world
    #[arg(long)]
    pub(crate) delta: bool,
    #[command(flatten)]
    pub(crate) tls: XdsTlsOptions,
}

/// TLS of the Envoy's connection to the xDS port. Envoy reads the files, so the paths are those on its
/// machine.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct XdsTlsOptions {
    /// CA file for understudy's certificate; without it nothing is encrypted
    #[arg(long, value_name = "FILE")]
    xds_ca: Option<String>,
    /// Client certificate by which understudy identifies this Envoy
    #[arg(long, value_name = "FILE", requires_all = ["xds_ca", "xds_client_key"])]
    xds_client_cert: Option<String>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE", requires = "xds_client_cert")]
    xds_client_key: Option<String>,
    /// Name or address that understudy's certificate must have [default: the host of --xds]
    #[arg(long, value_name = "NAME", requires = "xds_ca")]
    xds_server_name: Option<String>,
}

impl XdsTlsOptions {
    /// Returns Envoy's transport socket; none without a CA file.
    fn socket(&self, host: &str) -> Option<Value> {
        let name = self.xds_server_name.as_deref().unwrap_or(host);
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let kind = if is_address { "IP_ADDRESS" } else { "DNS" };
        let mut common = json!({ "validation_context": {
            "trusted_ca": { "filename": self.xds_ca.as_ref()? },
            "match_typed_subject_alt_names": [{ "san_type": kind, "matcher": { "exact": name } }],
        } });
        if let Some((certificate, key)) = self.xds_client_cert.as_ref().zip(self.xds_client_key.as_ref()) {
            let files = json!({ "certificate_chain": { "filename": certificate }, "private_key": { "filename": key } });
            common["tls_certificates"] = json!([files]);
        }
        let mut context = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": common,
        });
        // An address is no server name (RFC 6066, section 3).
        if !is_address {
            context["sni"] = name.into();
        }
        Some(json!({ "name": "envoy.transport_sockets.tls", "typed_config": context }))
    }
}

/// Prints the bootstrap as YAML.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    print::line(render(options)?.trim_end())
}

/// Renders the bootstrap as YAML.
///
/// # Errors
///
/// Fails if `--xds` is no `host:port`.
pub fn render(options: &Options) -> anyhow::Result<String> {
    let (host, port) = options.xds.rsplit_once(':').unwrap_or((&options.xds, ""));
    let port: u16 = port.parse().unwrap_or(0);
    ensure!(port > 0 && !host.is_empty(), "--xds {} is not host:port", options.xds);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ads = json!({ "resource_api_version": "V3", "ads": {} });
    let by_understudy = json!({
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "understudy" } }],
    });
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
        // Load reports show which targets serve.
        "cluster_manager": { "load_stats_config": by_understudy },
        // A few Envoys of each cluster are asked for the health of targets without traffic.
        "hds_config": by_understudy,
        "static_resources": { "clusters": [xds_cluster(host, port)] },
    });
    if let Some(socket) = options.tls.socket(host) {
        bootstrap["static_resources"]["clusters"][0]["transport_socket"] = socket;
    }
    if let Some(Locality { region, zone, sub_zone }) = &options.node_locality {
        let fields = [("region", region), ("zone", zone), ("sub_zone", sub_zone)].into_iter();
        let fields = fields.filter(|(_, value)| !value.is_empty());
        let locality = fields.map(|(name, value)| (name.to_owned(), json!(value))).collect();
        bootstrap["node"]["locality"] = Value::Object(locality);
    }
    if let Some(admin) = options.envoy_admin {
        let address = json!({ "address": admin.ip().to_string(), "port_value": admin.port() });
        bootstrap["admin"] = json!({ "address": { "socket_address": address } });
    }
    Ok(serde_yaml::to_string(&bootstrap)?)
}

/// Returns the cluster by which Envoy reaches understudy: HTTP/2, kept alive so that a frozen control plane
/// is noticed.
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
