//! Fault matrix: every way in which all primaries fail at once, against every way in which an upstream is
//! built, with nothing but defaults.
//!
//! Not the full product: each pair of values occurs. Cases share one Envoy and run six at a time.

#![allow(clippy::print_stderr, reason = "the times are for those who ask for them with --nocapture")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use understudy::cli::demo::load::{LoadOptions, OpenLoad};

use crate::harness::dns::DnsServer;
use crate::harness::{Backend, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, FAST, comes_to_rest, create, faultless, window};

/// Fault of a target. The last four are grey: health checks do not see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TargetFault {
    Kill,
    Freeze,
    BlackHole,
    Status503,
    Status500,
    ResetOnAccept,
    ResetOnRequest,
    FinOnRequest,
    ListenerClosed,
    SlowAnswers,
    Grey503,
    Grey500,
    GreyReset,
    GreyHang,
}

const FAULTS: [TargetFault; 14] = [
    TargetFault::Kill,
    TargetFault::Freeze,
    TargetFault::BlackHole,
    TargetFault::Status503,
    TargetFault::Status500,
    TargetFault::ResetOnAccept,
    TargetFault::ResetOnRequest,
    TargetFault::FinOnRequest,
    TargetFault::ListenerClosed,
    TargetFault::SlowAnswers,
    TargetFault::Grey503,
    TargetFault::Grey500,
    TargetFault::GreyReset,
    TargetFault::GreyHang,
];

impl TargetFault {
    fn is_grey(self) -> bool {
        matches!(self, Self::Grey503 | Self::Grey500 | Self::GreyReset | Self::GreyHang)
    }

    async fn strike(self, backend: &mut Backend) {
        let commands: &[&str] = match self {
            Self::Kill => return backend.kill(),
            Self::Freeze => return backend.freeze(),
            Self::BlackHole => &["mode hang", "listener mute"],
            Self::Status503 => &["mode status 503"],
            Self::Status500 => &["mode status 500"],
            Self::ResetOnAccept => &["mode reset", "listener reset"],
            Self::ResetOnRequest => &["mode reset"],
            Self::FinOnRequest => &["mode close"],
            Self::ListenerClosed => &["listener closed"],
            Self::SlowAnswers => &["mode slow 3s"],
            Self::Grey503 => &["health ok", "mode status 503"],
            Self::Grey500 => &["health ok", "mode status 500"],
            Self::GreyReset => &["health ok", "mode reset"],
            Self::GreyHang => &["health ok", "mode hang"],
        };
        for command in commands {
            assert_eq!(backend.run_command(command).await, "ok", "{command}");
        }
    }

    async fn heal(self, backend: &mut Backend) {
        match self {
            Self::Kill => backend.restart().await,
            Self::Freeze => backend.thaw(),
            _ => {
                assert_eq!(backend.run_command("listener open").await, "ok");
                backend.mode("ok").await;
            }
        }
    }
}

/// Cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FaultCase {
    fault: TargetFault,
    primaries: usize,
    by_name: bool,
    load_balancer: &'static str,
    protocol: &'static str,
}

/// Returns two cases for each fault, each the opposite of the other, so that every fault meets every value.
/// The pattern changes from fault to fault, so that every two values meet.
fn cases() -> Vec<FaultCase> {
    let of_fault = |(index, fault): (usize, TargetFault)| {
        [index, !index].map(|bits| FaultCase {
            fault,
            primaries: if bits & 1 == 0 { 1 } else { 3 },
            by_name: bits & 2 != 0,
            load_balancer: if bits & 4 == 0 { "round_robin" } else { "maglev" },
            protocol: if bits & 8 == 0 { "http1" } else { "http2" },
        })
    };
    FAULTS.into_iter().enumerate().flat_map(of_fault).collect()
}

#[test]
fn every_pair_of_values_occurs() {
    let values = |case: &FaultCase| {
        let FaultCase { fault, primaries, by_name, load_balancer, protocol } = case;
        [
            format!("{fault:?}"),
            format!("{primaries} primaries"),
            format!("by name: {by_name}"),
            (*load_balancer).to_owned(),
            (*protocol).to_owned(),
        ]
    };
    let mut pairs = BTreeSet::new();
    for case in cases() {
        let values = values(&case);
        for (index, one) in values.iter().enumerate() {
            pairs.extend(values[index + 1..].iter().map(|other| (one.clone(), other.clone())));
        }
    }
    assert_eq!(pairs.len(), FAULTS.len() * 4 * 2 + 6 * 4, "{pairs:?}");
}

/// Backends of a case. The standby's name is `FAILOVER`.
struct CaseSetup {
    case: FaultCase,
    path: String,
    primaries: Vec<Backend>,
    standby: Backend,
    /// Request id of each POST that reached a backend, of those that were killed.
    executed: Vec<String>,
}

const NAMES: [&str; 3] = ["A", "B", "C"];

impl CaseSetup {
    async fn start((index, case): (usize, FaultCase)) -> Self {
        let start = |name| Backend::start_with(name, &["--log-requests"]);
        Self {
            case,
            path: format!("/case-{index}"),
            primaries: join_all(NAMES[..case.primaries].iter().map(|name| start(name))).await,
            standby: start("FAILOVER").await,
            executed: Vec::new(),
        }
    }

    fn upstream(&self) -> Value {
        let target = |backend: &Backend, failover: bool| {
            let target = match self.case.by_name {
                true => format!("loopback.test:{}", backend.address().port()),
                false => backend.address().to_string(),
            };
            json!({ "target": target, "failover": failover })
        };
        let mut targets: Vec<Value> = self.primaries.iter().map(|it| target(it, false)).collect();
        targets.push(target(&self.standby, true));
        let mut upstream = json!({
            "name": &self.path[1..],
            "load_balancer": self.case.load_balancer,
            "protocol": self.case.protocol,
            "targets": targets,
        });
        if self.case.fault.is_grey() {
            upstream["health_check"] = json!({ "http": {} }); // Backends that lie must be checked.
        }
        upstream
    }

    async fn declare(&self, understudy: &Understudy) {
        let name = &self.path[1..];
        create(understudy, "/upstreams", self.upstream()).await;
        create(understudy, "/services", json!({ "name": name, "upstream": name })).await;
        create(understudy, "/routes", json!({ "name": name, "paths": [self.path], "service": name })).await;
    }

    fn primary_names(&self) -> &'static [&'static str] {
        &NAMES[..self.case.primaries]
    }

    /// Plays the case. Returns the time until the last GET that was late or tried on a primary, and the
    /// number of failed POSTs.
    async fn play(mut self, edge: &Edge) -> (FaultCase, Duration, usize) {
        eventually(PATIENCE, "the Envoy has the route", async || {
            match edge.request(Method::GET, "shop.test", &self.path).send().await {
                Ok(answer) if answer.status() == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let mut url = edge.url();
        url.set_path(&self.path);
        let gets = OpenLoad::start(LoadOptions::get(url.clone(), 60));
        comes_to_rest(&gets, self.primary_names()).await;
        let posts = OpenLoad::start(LoadOptions::post(url, 10, "an order"));
        window(&posts, 5).await;

        let struck = Instant::now();
        for primary in &mut self.primaries {
            self.case.fault.strike(primary).await;
        }
        match self.case.fault {
            // A slow service is not dead: no request is cut off.
            TargetFault::SlowAnswers => {
                let window = window(&gets, 100).await;
                assert_eq!(window.served_by.keys().collect::<Vec<_>>(), self.primary_names(), "{window:?}");
            }
            _ => comes_to_rest(&gets, &["FAILOVER"]).await,
        }
        let healed = Instant::now();
        for primary in &mut self.primaries {
            if self.case.fault == TargetFault::Kill {
                self.executed.extend(posts_of(primary));
            }
            self.case.fault.heal(primary).await;
        }
        comes_to_rest(&gets, self.primary_names()).await;
        let back = window(&gets, 200).await;
        assert!(!back.served_by.contains_key("FAILOVER"), "{:?}: {back:?}", self.case);

        let outcomes = faultless(gets).await;
        let meanwhile = outcomes.iter().filter(|it| (struck..healed).contains(&it.started));
        let touched = meanwhile.filter(|it| {
            it.latency >= FAST
                || it.result.as_ref().is_ok_and(|it| it.served_by.as_deref() != Some("FAILOVER"))
        });
        let stable = touched.map(|it| it.started + it.latency - struck).max().unwrap_or_default();
        let failed = posts.stop().await.iter().filter(|outcome| outcome.result.is_err()).count();
        for backend in self.primaries.iter_mut().chain([&mut self.standby]) {
            backend.kill(); // Killed, so that the list is complete.
            self.executed.extend(posts_of(backend));
        }
        let mut times: BTreeMap<&String, usize> = BTreeMap::new();
        for id in &self.executed {
            *times.entry(id).or_default() += 1;
        }
        times.retain(|_, times| *times > 1);
        assert!(times.is_empty(), "{:?}: POSTs were executed twice: {times:?}", self.case);
        assert!(!self.executed.is_empty(), "there were POSTs");
        (self.case, stable, failed)
    }
}

fn posts_of(backend: &Backend) -> Vec<String> {
    let log = backend.log();
    let posts = log.lines().filter_map(|line| line.strip_prefix("request POST "));
    posts.map(|post| post.split(' ').next_back().unwrap_or_default().to_owned()).collect()
}

/// Starts a control plane that asks a DNS server of the test, which resolves `loopback.test` to this machine,
/// and its Envoy.
async fn edge() -> (DnsServer, TempDir, Edge) {
    let (dns, directory, port) =
        (DnsServer::start().await, tempfile::tempdir().expect("a directory"), free_port());
    dns.set_addresses("loopback.test", &[IpAddr::from([127, 0, 0, 1])]);
    let config = json!({
        "resolver": { "servers": [dns.address.to_string()] },
        "listeners": [{ "name": "web", "address": format!("127.0.0.1:{port}") }],
    });
    let file = directory.path().join("understudy.json");
    std::fs::write(&file, config.to_string()).expect("the directory is ours");
    let understudy = Understudy::serve(&[file.to_str().expect("a path in UTF-8")]).await;
    (dns, directory, Edge::new(understudy, port).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_get_is_lost_and_no_post_executed_twice_whatever_happens_to_all_primaries() {
    let (_dns, _directory, edge) = edge().await;
    let mut told = String::new();
    let all: Vec<(usize, FaultCase)> = cases().into_iter().enumerate().collect();
    for batch in all.chunks(6) {
        let stages = join_all(batch.iter().copied().map(CaseSetup::start)).await;
        for setup in &stages {
            setup.declare(&edge.understudy).await;
        }
        for (case, stable, failed) in join_all(stages.into_iter().map(|setup| setup.play(&edge))).await {
            let FaultCase { fault, primaries, by_name, load_balancer, protocol } = case;
            let kind = if by_name { "names" } else { "IPs" };
            told += &format!(
                "{fault:?}, {primaries} primaries by {kind}, {load_balancer}, {protocol}: \
                 0 GETs lost, stable after {:.2} s, {failed} POSTs failed and none twice\n",
                stable.as_secs_f64()
            );
        }
    }
    eprintln!("{told}");
}
