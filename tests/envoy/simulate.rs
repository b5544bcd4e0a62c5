//! Tests of the simulator against a real Envoy: random topologies with random failures, forced by the health
//! of the endpoints that are sent, and the answers counted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use understudy::build::{self, Build, Inputs};
use understudy::inspect::simulate::{self, Simulation};
use understudy::model::addresses::Addresses;
use understudy::model::name::Name;
use understudy::model::selector::TargetSelector;

use crate::harness::{PATIENCE, Understudy, free_port};
use crate::stage::{Edge, all_acked};

/// Number of random topologies, each with its failures.
const CASES: usize = 240;

/// Maximum number of targets of a tier, and of tiers.
const WIDEST: usize = 8;
const TIERS: usize = 3;

/// Number of requests of a topology: if one tier has them all, and if they are divided between several by
/// chance. The handmade topologies get more.
const REQUESTS: (u32, u32) = (100, 600);

/// Number of connections, each with one request at a time.
const CONNECTIONS: u32 = 20;

/// Upstream, and its targets that are down.
#[derive(Debug, Clone)]
struct Topology {
    /// Targets of each tier: weight, zone, and true if it is down.
    tiers: Vec<Vec<(u32, u8, bool)>>,
    /// Overprovisioning factor; none for standby.
    factor: Option<u32>,
    try_all: bool,
    /// Percentage of usable targets below which requests are refused; 0 for none.
    minimum: u32,
    load_balancer: &'static str,
}

fn topologies() -> Vec<Topology> {
    let down = prop_oneof![1 => Just(0.0), 4 => Just(0.5), 1 => Just(1.0)];
    let tier = down.prop_flat_map(|down| {
        let weight = prop_oneof![Just(100_u32), 1..400_u32];
        prop::collection::vec((weight, 0..3_u8, prop::bool::weighted(down)), 1..=WIDEST)
    });
    let tiers = prop::collection::vec(tier, 1..=TIERS);
    let factor = prop_oneof![2 => Just(None), 2 => Just(Some(140)), 2 => (100..400_u32).prop_map(Some)];
    let load_balancer =
        prop_oneof![2 => Just("round_robin"), 1 => Just("random"), 2 => Just("weighted_random")];
    let topology =
        (tiers, factor, any::<bool>(), load_balancer).prop_map(|(tiers, factor, try_all, load_balancer)| {
            Topology { tiers, factor, try_all, minimum: 0, load_balancer }
        });
    // Deterministic: only Envoy is random here.
    let mut runner = TestRunner::deterministic();
    let any = (0..CASES).map(|_| topology.new_tree(&mut runner).expect("nothing is filtered").current());
    let minimal = [
        (3, 55, "round_robin"),
        (2, 55, "round_robin"),
        (3, 60, "least_request"),
        (2, 41, "least_request"),
        (3, 61, "random"),
        (3, 60, "random"),
        (0, 1, "round_robin"),
    ];
    let minimal = minimal.map(|(up, minimum, load_balancer)| of_five(up, minimum, load_balancer));
    any.chain([crowd(), stairs(), ladder()]).chain(minimal).collect()
}

/// Returns a tier of five targets, of which so many are up, with a minimum of usable ones.
fn of_five(up: usize, minimum: u32, load_balancer: &'static str) -> Topology {
    let tier = (0..5).map(|index| (100, 0, index >= up)).collect();
    Topology { tiers: vec![tier], factor: None, try_all: false, minimum, load_balancer }
}

/// Returns fifty-one tiers of one dead target. One percent for each leaves 49: the tier that gets them has
/// half of all.
fn ladder() -> Topology {
    let tiers = vec![vec![(100, 0, true)]; 51];
    Topology { tiers, factor: None, try_all: true, minimum: 0, load_balancer: "round_robin" }
}

/// Returns eight tiers that take 12 % each, with one of eight targets usable: 4 % are left over.
fn stairs() -> Topology {
    let tier: Vec<_> = (0..8).map(|index| (100, 0, index > 0)).collect();
    Topology {
        tiers: vec![tier; 8],
        factor: Some(100),
        try_all: true,
        minimum: 0,
        load_balancer: "round_robin",
    }
}

/// Returns a tier with so many targets that one usable target is below the panic threshold of 1 %.
fn crowd() -> Topology {
    let tier = (0..201).map(|index| (100, 0, index != 7)).collect();
    Topology { tiers: vec![tier], factor: Some(400), try_all: true, minimum: 0, load_balancer: "round_robin" }
}

impl Topology {
    fn targets<'a>(
        &'a self,
        servers: &'a [SocketAddr],
    ) -> impl Iterator<Item = (usize, (u32, u8, bool), SocketAddr)> {
        let targets = self
            .tiers
            .iter()
            .enumerate()
            .flat_map(|(tier, targets)| targets.iter().map(move |it| (tier, *it)));
        targets.zip(servers).map(|((tier, target), server)| (tier, target, *server))
    }

    fn down(&self, servers: &[SocketAddr]) -> BTreeSet<SocketAddr> {
        self.targets(servers).filter(|(_, (.., down), _)| *down).map(|(_, _, server)| server).collect()
    }

    fn upstream(&self, name: &str, servers: &[SocketAddr]) -> Value {
        let target = |(tier, (weight, zone, _), server): (usize, (u32, u8, bool), SocketAddr)| json!({"target": server.to_string(), "priority": tier, "weight": weight, "zone": format!("z{zone}")});
        let mode = if self.factor.is_some() { "spill" } else { "standby" };
        let when_all_down = if self.try_all { "try_all" } else { "fail" };
        let mut failover = json!({"mode": mode, "when_all_down": when_all_down});
        if let Some(factor) = self.factor {
            failover["factor"] = factor.into();
        }
        if self.minimum > 0 {
            failover["minimum_healthy"] = self.minimum.into();
        }
        json!({
            "name": name, "load_balancer": self.load_balancer, "failover": failover,
            "health_check": "off", "outlier_detection": "off", "idle_timeout": "5s",
            "targets": self.targets(servers).map(target).collect::<Vec<_>>(),
        })
    }
}

fn name(case: usize) -> Name {
    Name::parse(&format!("case-{case}")).expect("it is a name")
}

/// Returns a config with a route for each topology, chosen by a header.
fn config(topologies: &[Topology], servers: &[SocketAddr], port: u16) -> Value {
    let names: Vec<String> = (0..topologies.len()).map(|case| name(case).to_string()).collect();
    let upstream = |(topology, name): (&Topology, &String)| topology.upstream(name, servers);
    let service = |name: &String| json!({"name": name, "upstream": name, "retries": "off"});
    let route = |name: &String| json!({"name": name, "service": name, "headers": {"x-case": name}});
    json!({
        "listeners": [{"name": "web", "address": format!("127.0.0.1:{port}")}],
        "upstreams": topologies.iter().zip(&names).map(upstream).collect::<Vec<_>>(),
        "services": names.iter().map(service).collect::<Vec<_>>(),
        "routes": names.iter().map(route).collect::<Vec<_>>(),
    })
}

fn build(config: &Value) -> Build {
    let files = imbl::OrdMap::unit("cases.json".to_owned(), Arc::from(config.to_string()));
    let build = build::build(&Inputs { files, ..Inputs::default() }, None);
    build.unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// Returns patches that mark each endpoint that is down as unhealthy, and change nothing else.
fn failures(build: &Build, topologies: &[Topology], servers: &[SocketAddr]) -> Vec<Value> {
    let snapshot = build.snapshot(&Name::default_fleet()).to_json();
    let patch = |assignment: &Value| {
        // Some topologies have a cluster for each tier, `case-7/p0`.
        let cluster = assignment["cluster_name"].as_str()?;
        let case: usize = cluster.split('/').next()?.strip_prefix("case-")?.parse().ok()?;
        let down = topologies[case].down(servers);
        let mut localities = assignment["endpoints"].clone();
        for locality in localities.as_array_mut()? {
            for endpoint in locality["lb_endpoints"].as_array_mut()? {
                let socket = &endpoint["endpoint"]["address"]["socket_address"];
                let port = u16::try_from(socket["port_value"].as_u64()?).ok()?;
                if down.iter().any(|server| server.port() == port) {
                    endpoint["health_status"] = "UNHEALTHY".into();
                }
            }
        }
        Some(json!({"kind": "endpoints", "name": cluster, "merge": {"endpoints": localities}}))
    };
    snapshot["endpoints"]
        .as_array()
        .expect("it is a list")
        .iter()
        .map(|it| patch(it).expect("it is ours"))
        .collect()
}

/// Starts servers that answer with their index. Every topology uses them from the first on.
async fn servers(count: usize) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for index in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        addresses.push(listener.local_addr().expect("it is bound"));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(answer(connection, index));
            }
        });
    }
    addresses
}

/// Returns the position after the first complete head of a message.
fn head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|start| start + 4)
}

/// Answers every request, none of which has a body, with the index of the server.
async fn answer(mut connection: TcpStream, index: usize) {
    let response = format!("HTTP/1.1 200 OK\r\nx-server: {index}\r\ncontent-length: 0\r\n\r\n");
    let mut received = Vec::new();
    while let Ok(1..) = connection.read_buf(&mut received).await {
        while let Some(end) = head(&received) {
            received.drain(..end);
            if connection.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Number of requests that each server answered; under none those that Envoy answered itself.
type ResponseCounts = BTreeMap<Option<usize>, u32>;

/// Sends so many requests of a case, one after the other, and counts the answers.
async fn ask(port: u16, case: usize, requests: u32) -> ResponseCounts {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.expect("Envoy listens");
    let request = format!("GET / HTTP/1.1\r\nhost: cases\r\nx-case: {}\r\n\r\n", name(case));
    let (mut counts, mut received) = (ResponseCounts::new(), Vec::new());
    for _ in 0..requests {
        connection.write_all(request.as_bytes()).await.expect("Envoy reads");
        *counts.entry(response(&mut connection, &mut received).await).or_default() += 1;
    }
    counts
}

/// Returns the server of the next response; none if Envoy answered itself.
async fn response(connection: &mut TcpStream, received: &mut Vec<u8>) -> Option<usize> {
    loop {
        if let Some(end) = head(received) {
            let text = String::from_utf8_lossy(&received[..end]).into_owned();
            let header =
                |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let body: usize =
                header("content-length").expect("all answers have it").parse().expect("a number");
            if received.len() >= end + body {
                received.drain(..end + body);
                let server = header("x-server").map(|index| index.parse().expect("it is an index"));
                assert!(server.is_some() || text.starts_with("HTTP/1.1 503"), "{text}");
                return server;
            }
        }
        let read = timeout(PATIENCE, connection.read_buf(received)).await.expect("Envoy answers in time");
        assert!(read.expect("the connection holds") > 0, "Envoy hung up");
    }
}

async fn count(port: u16, case: usize, requests: u32) -> ResponseCounts {
    let asking: Vec<_> =
        (0..CONNECTIONS).map(|_| tokio::spawn(ask(port, case, requests / CONNECTIONS))).collect();
    let mut counts = ResponseCounts::new();
    for asked in asking {
        for (server, answered) in asked.await.expect("it does not panic") {
            *counts.entry(server).or_default() += answered;
        }
    }
    counts
}

/// Returns the simulator's result, and its shares by server, with the unserved share under none.
fn expected(
    build: &Build,
    case: usize,
    topology: &Topology,
    servers: &[SocketAddr],
) -> (Simulation, BTreeMap<Option<usize>, f64>) {
    let upstream = &build.model.upstreams[&name(case)];
    let down: Vec<TargetSelector> = topology
        .down(servers)
        .iter()
        .map(|server| TargetSelector::parse(&server.to_string(), upstream).expect("it is there"))
        .collect();
    let simulation = simulate::simulate(upstream, &Addresses::default(), None, &down);
    let index = |address: &str| servers.iter().position(|server| server.to_string() == address);
    let mut shares: BTreeMap<Option<usize>, f64> =
        simulation.targets.iter().map(|target| (index(&target.address.to_string()), target.share)).collect();
    assert!(!shares.contains_key(&None), "every target is a server");
    shares.insert(None, simulation.unserved);
    (simulation, shares)
}

/// Returns the number of tiers that get requests.
fn serving_tiers(simulation: &Simulation) -> usize {
    let serving = simulation.targets.iter().filter(|target| target.share > 0.0);
    serving.map(|target| target.tier).collect::<BTreeSet<_>>().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_spreads_requests_as_the_simulator_says() {
    let (topologies, servers, port) = (topologies(), servers(201).await, free_port());
    let mut config = config(&topologies, &servers, port);
    let build = build(&config);
    config["raw"] = json!({"patches": failures(&build, &topologies, &servers)});
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let file = directory.path().join("cases.json");
    std::fs::write(&file, config.to_string()).expect("the directory is ours");
    let understudy = Understudy::serve(&[file.to_str().expect("it is text")]).await;
    let edge = Edge::new(understudy, port).await;
    all_acked(&edge.understudy, Duration::from_secs(60)).await;

    let mut by_chance = 0;
    // Sums over the first tiers of topologies with chance: the excess over the expected requests, and its
    // variance.
    let (mut excess, mut variance) = (0.0, 0.0);
    for (case, topology) in topologies.iter().enumerate() {
        let (simulation, shares) = expected(&build, case, topology, &servers);
        let chance = serving_tiers(&simulation) > 1;
        let requests = match case {
            CASES.. => 10 * REQUESTS.1,
            _ if chance => REQUESTS.1,
            _ => REQUESTS.0,
        };
        let counts = count(port, case, requests).await;
        let requests = f64::from(requests);
        for (server, share) in &shares {
            let (expected, answered) =
                (requests * share / 100.0, f64::from(counts.get(server).copied().unwrap_or(0)));
            // Six standard deviations, and the remainder of unfinished turns.
            let tolerance = 6.0 * (expected * (1.0 - share / 100.0)).sqrt() + 2.0;
            let within =
                if *share == 0.0 { answered == 0.0 } else { (answered - expected).abs() <= tolerance };
            assert!(
                within,
                "{topology:?}: server {server:?} answered {answered}, expected {expected}: {counts:?} {simulation:?}"
            );
        }
        if chance {
            by_chance += 1;
            let first: BTreeSet<usize> = (0..topology.tiers[0].len()).collect();
            let is_first = |server: &Option<usize>| server.is_some_and(|server| first.contains(&server));
            let share: f64 =
                shares.iter().filter(|(server, _)| is_first(server)).map(|(_, share)| share / 100.0).sum();
            let answered: u32 =
                counts.iter().filter(|(server, _)| is_first(server)).map(|(_, answered)| answered).sum();
            excess += f64::from(answered) - requests * share;
            variance += requests * share * (1.0 - share);
        }
    }
    assert!(by_chance > CASES / 8, "only {by_chance} topologies divide requests between tiers");
    // A percent too many or too few in each would be over ten standard deviations in the sum of all.
    assert!(
        excess.abs() < 5.0 * variance.sqrt(),
        "the first tiers had {excess} too many, variance {variance}"
    );
}
