//! Tests of what certificates vouch for: keys of fleets, and the status of clients.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use envoy_types::pb::envoy::service::health::v3 as hds;
use envoy_types::pb::envoy::service::health::v3::HealthCheckRequestOrEndpointHealthResponse;
use envoy_types::pb::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
use envoy_types::pb::envoy::service::health::v3::health_discovery_service_client::HealthDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::ClientStatusRequest;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::control_tls::{bootstrap_of, write};
use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{DELTA, STATE_OF_THE_WORLD, Variant, create};
use crate::tls::{CertificateAuthority, CertifiedKey, Connections, TlsClient};

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SECRETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Rules that bind the id alone, and the cluster as well.
const ID: &[&str] = &[];
const ID_AND_CLUSTER: &[&str] =
    &["--xds-node-identity", "san-equals-node-id", "--xds-node-identity", "san-equals-node-cluster"];

/// Control plane in mutual TLS with the fleets `west` and `east`, selected by cluster, each with a listener in TLS.
struct Site {
    understudy: Understudy,
    directory: TempDir,
    authority: CertificateAuthority,
    /// Ports of `west` and `east`, and their certificates.
    ports: [u16; 2],
    pairs: [CertifiedKey; 2],
    _backend: Backend,
}

impl Site {
    async fn start(rules: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let authority = CertificateAuthority::new("us");
        fs::write(directory.path().join("ca.pem"), &authority.pem).expect("the directory is ours");
        write(directory.path(), "server", &authority.issue(&["127.0.0.1"]));
        write(directory.path(), "edge-1", &authority.issue(&["edge-1", "west"]));
        write(directory.path(), "edge-2", &authority.issue(&["edge-2", "west"]));
        let arguments = arguments(&directory, rules);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let understudy = Understudy::serve(&arguments).await;
        let (backend, ports) = (Backend::start("A").await, [free_port(), free_port()]);
        let pairs = ["west", "east"].map(|fleet| authority.issue(&[&format!("{fleet}.example.com")]));
        // With a client certificate towards the targets, whose key checks (HDS) need inline.
        let service = json!({"name": "checkout", "upstream": "checkout"});
        let ca = json!({"inline": authority.pem});
        let upstream = json!({"name": "checkout", "targets": [{"target": backend.address().to_string()}]});
        let tls = json!({"name": "tls", "health_check": {"tcp": {}}, "targets": [{"target": "127.0.0.1:9"},
            {"target": "127.0.0.1:8", "failover": true}], "tls": {"ca": ca, "client_certificate": "east"}});
        for (fleet, pair) in ["west", "east"].iter().zip(&pairs) {
            create(&understudy, "/fleets", json!({"name": fleet, "select": {"cluster": fleet}})).await;
            let material =
                json!({"name": fleet, "certificate": {"inline": pair.chain}, "key": {"inline": pair.key}});
            create(&understudy, "/certificates", material).await;
        }
        for (fleet, port) in ["west", "east"].iter().zip(ports) {
            let listener = json!({"name": fleet, "address": format!("127.0.0.1:{port}"), "protocol": "https",
                "certificates": [fleet], "fleets": [fleet]});
            create(&understudy, "/listeners", listener).await;
        }
        for (path, body) in [
            ("/upstreams", upstream),
            ("/upstreams", tls),
            ("/services", service),
            ("/services", json!({"name": "tls", "upstream": "tls"})),
            ("/routes", json!({"name": "checkout", "paths": ["/"], "service": "checkout"})),
            ("/routes", json!({"name": "tls", "paths": ["/tls"], "service": "tls"})),
        ] {
            create(&understudy, path, body).await;
        }
        Self { understudy, directory, authority, ports, pairs, _backend: backend }
    }

    /// Starts the control plane again with these rules.
    async fn restart(&mut self, rules: &[&str]) {
        let arguments = arguments(&self.directory, rules);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.understudy.restart_with(&arguments).await;
    }

    /// Starts an Envoy of this id and cluster, with the certificate of its id.
    async fn envoy(&self, variant: Variant, id: &str, cluster: &str) -> Envoy {
        let bootstrap = bootstrap_of(&self.understudy, self.directory.path(), (id, cluster), id, variant);
        Envoy::launch(id, &bootstrap).await
    }

    /// Opens a connection to the xDS port with a certificate for these names.
    async fn channel(&self, names: &[&str]) -> Channel {
        let client = TlsClient::new(&self.authority, Some(&self.authority.issue(names)), &["h2"]);
        let (connector, address): (_, SocketAddr) = (client.connector(), self.understudy.xds);
        let connect = move |_: http::Uri| {
            let connector = connector.clone();
            async move {
                let name = ServerName::try_from("127.0.0.1").expect("an address");
                let stream = TcpStream::connect(address).await?;
                connector.connect(name, stream).await.map(TokioIo::new)
            }
        };
        let endpoint = Endpoint::from_static("http://127.0.0.1");
        endpoint.connect_with_connector(tower::service_fn(connect)).await.expect("it connects")
    }

    async fn logs(&self, words: &str) {
        eventually(PATIENCE, words, async || match self.understudy.log() {
            log if log.contains(words) => Ok(()),
            log => Err(log),
        })
        .await;
    }

    /// Waits until a node is connected, and its secrets are withheld or not.
    async fn withholds(&self, id: &str, expected: bool) {
        eventually(PATIENCE, &format!("secrets of {id} withheld: {expected}"), async || {
            let (_, view) = self.understudy.get(&format!("/fleet/{id}")).await;
            let is_so = view["state"] == "connected" && view["secrets_withheld"] == expected;
            if is_so { Ok(()) } else { Err(view.to_string()) }
        })
        .await;
    }
}

fn arguments(directory: &TempDir, rules: &[&str]) -> Vec<String> {
    let path = |name: &str| directory.path().join(name).display().to_string();
    let files =
        [("--xds-tls-cert", "server.pem"), ("--xds-tls-key", "server.key"), ("--xds-client-ca", "ca.pem")];
    let files = files.iter().flat_map(|(option, file)| [(*option).to_owned(), path(file)]);
    files.chain(rules.iter().map(ToString::to_string)).collect()
}

fn node(id: &str, cluster: &str) -> Option<Node> {
    Some(Node { id: id.to_owned(), cluster: cluster.to_owned(), ..Node::default() })
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

async fn next<T>(responses: &mut Streaming<T>) -> Result<T, Status> {
    let message = timeout(PATIENCE, responses.message()).await.expect("an answer in time")?;
    Ok(message.expect("a stream ends with an error only"))
}

/// Delta stream that asked for clusters, listeners and these secrets, and acknowledged what it got.
struct Stream {
    _requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    bytes: Vec<u8>,
    /// Names of secrets that it was sent.
    secrets: BTreeSet<String>,
}

async fn delta(channel: &Channel, node: Option<Node>, secrets: &[&str]) -> Result<Stream, Status> {
    let mut ads = AggregatedDiscoveryServiceClient::new(channel.clone());
    let (requests, outgoing) = mpsc::channel(16);
    for (type_url, subscribe) in [(SECRETS, secrets), (CLUSTERS, &[]), (LISTENERS, &[])] {
        let (type_url, resource_names_subscribe) = (type_url.to_owned(), names(subscribe));
        let node = node.clone();
        let request =
            DeltaDiscoveryRequest { node, type_url, resource_names_subscribe, ..Default::default() };
        requests.send(request).await.expect("there is room");
    }
    let mut responses = ads.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
    let (mut bytes, mut seen, mut sent) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    while seen.len() < 3 {
        let response = next(&mut responses).await?;
        bytes.extend(response.encode_to_vec());
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        if type_url == SECRETS {
            sent.extend(response.resources.iter().map(|resource| resource.name.clone()));
        }
        seen.insert(type_url.clone());
        let answer = DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() };
        requests.send(answer).await.expect("it takes answers");
    }
    Ok(Stream { _requests: requests, responses, bytes, secrets: sent })
}

/// Asks for these secrets, then for clusters, in state of the world. Returns the bytes of the responses up to the
/// clusters.
async fn state_of_the_world(channel: &Channel, node: Option<Node>, secrets: &[&str]) -> Vec<u8> {
    let mut ads = AggregatedDiscoveryServiceClient::new(channel.clone());
    let (requests, outgoing) = mpsc::channel(16);
    for (type_url, resource_names) in [(SECRETS, names(secrets)), (CLUSTERS, Vec::new())] {
        let (node, type_url) = (node.clone(), type_url.to_owned());
        let request = DiscoveryRequest { node, type_url, resource_names, ..Default::default() };
        requests.send(request).await.expect("there is room");
    }
    let call = ads.stream_aggregated_resources(ReceiverStream::new(outgoing)).await;
    let (mut responses, mut bytes) = (call.expect("it is let in").into_inner(), Vec::new());
    loop {
        let response = next(&mut responses).await.expect("it is answered");
        bytes.extend(response.encode_to_vec());
        if response.type_url == CLUSTERS {
            return bytes;
        }
    }
}

/// Offers to check targets, and returns the bytes of the first checks that are asked for.
async fn checks(channel: &Channel, node: Option<Node>) -> Vec<u8> {
    let (requests, outgoing) = mpsc::channel(4);
    let request = hds::HealthCheckRequest { node, ..Default::default() };
    let request_type = Some(RequestType::HealthCheckRequest(request));
    let first = HealthCheckRequestOrEndpointHealthResponse { request_type };
    requests.send(first).await.expect("there is room");
    let mut client = HealthDiscoveryServiceClient::new(channel.clone());
    let call = client.stream_health_check(ReceiverStream::new(outgoing)).await;
    let mut responses = call.expect("it is let in").into_inner();
    loop {
        let specifier = next(&mut responses).await.expect("it is answered");
        if specifier.interval.is_some_and(|interval| interval.seconds == 1) {
            return specifier.encode_to_vec();
        }
    }
}

/// Returns the nodes of which a client is told.
async fn told_of(channel: &Channel) -> Vec<String> {
    let mut client = ClientStatusDiscoveryServiceClient::new(channel.clone());
    let told = client.fetch_client_status(ClientStatusRequest::default()).await.expect("it is answered");
    told.into_inner().config.into_iter().filter_map(|config| config.node).map(|node| node.id).collect()
}

fn has_key(bytes: &[u8]) -> bool {
    bytes.windows(11).any(|window| window == b"PRIVATE KEY")
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_to_those_whose_certificate_vouches_for_their_fleet() {
    // The id is bound, the cluster is not: neither fleet has keys for anybody.
    let mut site = Site::start(ID).await;
    let ca = site.understudy.get("/snapshots/east").await.1["secrets"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|secret| secret["validation_context"].is_object())
        .and_then(|secret| secret["name"].as_str().map(str::to_owned))
        .expect("there is an authority");
    let wanted = ["west", "east", &ca];
    let channel = site.channel(&["edge-1", "west"]).await;
    let mut streams = Vec::new();
    for cluster in ["east", "west"] {
        let stream = delta(&channel, node("edge-1", cluster), &wanted).await.expect("it is let in");
        assert!(!has_key(&stream.bytes), "{cluster}");
        assert_eq!(stream.secrets, [ca.clone()].into(), "an authority is no secret");
        let bytes = state_of_the_world(&channel, node("edge-1", cluster), &wanted).await;
        assert!(!has_key(&bytes), "{cluster}");
        assert!(!has_key(&checks(&channel, node("edge-1", cluster)).await), "{cluster}");
        streams.push(stream);
    }
    site.withholds("edge-1", true).await;
    let other = site.channel(&["edge-2", "west"]).await;
    let _second = delta(&other, node("edge-2", "west"), &wanted).await.expect("it is let in");
    assert_eq!(told_of(&other).await, ["edge-2"], "of itself only");
    assert_eq!(told_of(&site.channel(&["nobody"]).await).await, [""; 0]);
    for fleet in ["west", "east"] {
        let words = format!("fleet `{fleet}` is selected by cluster, which no certificate binds");
        assert_eq!(site.understudy.log().matches(&words).count(), 1, "{}", site.understudy.log());
    }
    let told = site.understudy.log().matches("gets no keys of its fleet").count();
    assert_eq!(told, 2, "once for each node: {}", site.understudy.log());

    // A key within another resource cannot be left out, so these fleets get nothing any more.
    let pair = &site.pairs[0];
    let context = json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [
            {"certificate_chain": {"inline_string": pair.chain}, "private_key": {"inline_string": pair.key}}]}});
    let echo = json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"});
    let own = json!({"name": "own", "address": {"socket_address": {"address": "127.0.0.1", "port_value": free_port()}},
        "filter_chains": [{"filters": [{"name": "echo", "typed_config": echo}],
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}]});
    let (status, answer) = site.understudy.put("/raw/listeners/own", own).await;
    assert!(status < 300, "{answer}");
    let mut stream = streams.remove(0);
    let status = loop {
        match next(&mut stream.responses).await {
            Ok(response) => assert!(!has_key(&response.encode_to_vec())),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let refused = delta(&channel, node("edge-1", "east"), &wanted).await.map(|stream| stream.secrets);
    assert_eq!(refused.expect_err("it gets nothing").code(), Code::PermissionDenied);
    site.logs("gets nothing, since resources of its fleet have secrets within").await;
    // The default fleet is selected by nothing.
    let plain = delta(&channel, node("edge-1", "other"), &["absent"]).await.expect("it is let in");
    assert!(has_key(&plain.bytes));

    // With the cluster bound too, each has its own fleet, keys included, and no other.
    site.restart(ID_AND_CLUSTER).await;
    let channel = site.channel(&["edge-1", "west"]).await;
    let stream = delta(&channel, node("edge-1", "west"), &["west"]).await.expect("it is let in");
    assert!(has_key(&stream.bytes) && stream.secrets == ["west".to_owned()].into());
    assert!(has_key(&checks(&channel, node("edge-1", "west")).await));
    site.withholds("edge-1", false).await;
    let refused = delta(&channel, node("edge-1", "east"), &wanted).await.map(|stream| stream.secrets);
    let refused = refused.expect_err("it is another cluster");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("must show a certificate for `east`"), "{refused}");
    assert!(!site.understudy.log().contains("which no certificate binds"), "{}", site.understudy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_that_serve_go_on_where_their_keys_are_withheld_and_others_get_none() {
    for variant in [STATE_OF_THE_WORLD, DELTA] {
        let mut site = Site::start(ID_AND_CLUSTER).await;
        let honest = site.envoy(variant, "edge-1", "west").await;
        honest.live().await;
        let client = TlsClient::new(&site.authority, None, &[]);
        let (west, [port, foreign]) = (site.pairs[0].certificate(), site.ports);
        let get = {
            let (client, west) = (client.clone(), west.clone());
            move || {
                let (client, west) = (client.clone(), west.clone());
                async move {
                    let answer = client.get(port, "west.example.com").await?;
                    let is_own = answer.certificate.as_ref() == Some(&west);
                    if is_own { Ok(answer.served_by) } else { Err("another certificate".to_owned()) }
                }
            }
        };
        eventually(PATIENCE, "the honest one serves", async || get().await).await;
        let load = Connections::start(20, get);
        let liar = site.envoy(variant, "edge-2", "east").await;
        site.logs("must show a certificate for `east`").await;

        // Where nothing binds the cluster, the liar is let in, and gets no key. The other one keeps its own.
        site.restart(ID).await;
        site.withholds("edge-1", true).await;
        site.withholds("edge-2", true).await;
        site.logs("gets no keys of its fleet").await;
        load.served_by("A").await;
        let dump = liar.config_dump().await;
        let chain = site.pairs[1].chain.lines().nth(1).expect("a line of its text").to_owned();
        assert!(!dump.to_string().contains(&chain), "no certificate of the fleet: {dump}");
        assert!(client.get(foreign, "east.example.com").await.is_err());
        // A change of the config reaches the honest one as before.
        create(&site.understudy, "/upstreams", json!({"name": "later"})).await;
        eventually(PATIENCE, "it goes on", async || {
            let dump: Value = honest.config_dump().await;
            if dump.to_string().contains("later") { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        load.served_by("A").await;
        let (connections, errors) = load.stop().await;
        assert!(connections > 40 && errors.is_empty(), "{connections} connections: {errors:?}");
    }
}
