//! Tests of the traffic: reports and check results in, shifts and summaries out.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{SocketAddress, address};
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::endpoint::v3::{UpstreamEndpointStats, UpstreamLocalityStats};
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
use prost::Message as _;

use std::net::SocketAddr;

use super::health::ObservedHealth;
use super::node::{EndpointObservation, UpstreamObservation};
use super::retention::RETENTION;
use super::summary::NodeTarget;
use super::*;
use crate::build::{Inputs, build};
use crate::model::target::Address;

const SHOP: &str = "
upstreams:
  - name: shop
    targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.9:80, failover: true }]
";

fn made(text: &str) -> Build {
    let inputs = Inputs { files: imbl::OrdMap::unit("shop.yaml".into(), text.into()), ..Inputs::default() };
    build(&inputs, None).expect("it builds")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("within the calendar")
}

/// Load report of an Envoy for one second of `shop`: for each host (last byte of its address), the number of
/// answered and of failed requests.
fn report(loads: &[(u8, u64, u64)]) -> LoadReport {
    read(stats(loads))
}

fn read(cluster_stats: Vec<endpoint::ClusterStats>) -> LoadReport {
    let request = LoadStatsRequest { cluster_stats, ..Default::default() };
    LoadReport::read(&request.encode_to_vec(), |_| true).expect("it is one")
}

fn stats(loads: &[(u8, u64, u64)]) -> Vec<endpoint::ClusterStats> {
    let endpoint = |(host, success, errors): &(u8, u64, u64)| UpstreamEndpointStats {
        address: Some(core::Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: format!("10.0.0.{host}"),
                port_specifier: Some(PortSpecifier::PortValue(80)),
                ..Default::default()
            })),
        }),
        total_successful_requests: *success,
        total_error_requests: *errors,
        ..Default::default()
    };
    let locality = UpstreamLocalityStats {
        upstream_endpoint_stats: loads.iter().map(endpoint).collect(),
        ..Default::default()
    };
    vec![endpoint::ClusterStats {
        cluster_name: "shop".into(),
        upstream_locality_stats: vec![locality],
        ..Default::default()
    }]
}

/// Shifts of one Envoy that sends one report per second, as `second: from → to`.
fn shifts(text: &str, seconds: &[&[(u8, u64, u64)]]) -> Vec<String> {
    shifts_at("", text, seconds)
}

/// Shifts of one Envoy in this locality that sends one report per second.
fn shifts_at(place: &str, text: &str, seconds: &[&[(u8, u64, u64)]]) -> Vec<String> {
    let (traffic, build) = (Traffic::default(), made(text));
    traffic.join("a", place.parse().expect("a place"));
    let mut shifts = Vec::new();
    for (second, loads) in (1..).zip(seconds) {
        let found = traffic.ingest("a", at(second), &report(loads), &build);
        let tier = |tier: Option<u32>| tier.map_or_else(|| "?".to_owned(), |tier| tier.to_string());
        shifts.extend(found.iter().map(|it| format!("{second}: {} → {}", tier(it.from), tier(it.to))));
    }
    shifts
}

fn summary(traffic: &Traffic, build: &Build, second: i64) -> Summary {
    traffic.summary(&build.model.upstreams["shop"], build, at(second))
}

/// Health of the three targets: `+` healthy, `-` unhealthy, `?` unknown; `~` precedes a stale one.
fn health(seen: &Summary) -> String {
    let one = |host: u8| {
        let address = Address::parse(&format!("10.0.0.{host}:80")).expect("an address");
        let Some(target) = seen.targets.get(&address) else { return "?" };
        match (target.is_healthy, target.is_stale) {
            (None, _) => "?",
            (Some(true), false) => "+",
            (Some(true), true) => "~+",
            (Some(false), false) => "-",
            (Some(false), true) => "~-",
        }
    };
    [1, 2, 9].map(one).concat()
}

#[test]
fn the_tier_that_answers_serves() {
    let seconds: [&[_]; 4] = [
        &[(1, 50, 0), (2, 50, 0)],
        &[(1, 40, 3), (2, 40, 2), (9, 20, 0)],
        &[(9, 100, 0)],
        &[(1, 50, 0), (2, 50, 0)],
    ];
    assert_eq!(shifts(SHOP, &seconds), ["1: ? → 0", "3: 0 → 1", "4: 1 → 0"]);
}

#[test]
fn retries_on_the_standby_are_no_failover() {
    let seconds: [&[_]; 2] = [&[(1, 100, 0)], &[(1, 80, 20), (9, 20, 0)]];
    assert_eq!(shifts(SHOP, &seconds), ["1: ? → 0"]);
}

#[test]
fn a_standby_that_answers_a_third_within_a_second_serves_already() {
    let seconds: [&[_]; 2] = [&[(1, 100, 0)], &[(1, 65, 5), (9, 35, 0)]];
    assert_eq!(shifts(SHOP, &seconds), ["1: ? → 0", "2: 0 → 1"]);
}

#[test]
fn in_spill_the_tier_with_the_most_serves() {
    let spill = SHOP.replace("targets:", "failover: { mode: spill }\n    targets:");
    let seconds: [&[_]; 3] = [&[(1, 100, 0)], &[(1, 60, 0), (9, 40, 0)], &[(1, 40, 0), (9, 60, 0)]];
    assert_eq!(shifts(&spill, &seconds), ["1: ? → 0", "3: 0 → 1"]);
}

#[test]
fn without_answers_nothing_is_known_to_have_moved() {
    assert_eq!(shifts(SHOP, &[&[(1, 100, 0)], &[(1, 0, 100)], &[]]), ["1: ? → 0"]);
}

#[test]
fn a_target_that_gets_nothing_where_it_should_is_unhealthy() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 1)), "++?");
    traffic.ingest("a", at(2), &report(&[(2, 100, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 2)), "-+?", "its tier serves without it");
    traffic.ingest("a", at(3), &report(&[(9, 100, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 3)), "--+", "a later tier serves in its place");
}

#[test]
fn so_is_one_that_never_got_anything() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(2, 50, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 1)), "-+?", "it failed its checks from the start");
    traffic.ingest("b", at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
    traffic.ingest("c", at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
    let seen = summary(&traffic, &build, 1);
    let first = &seen.targets[&Address::parse("10.0.0.1:80").expect("an address")];
    assert_eq!((first.is_healthy, first.disagree.join(" ")), (Some(true), "a".into()));
    traffic.ingest("d", at(1), &report(&[(9, 50, 0)]), &build);
    let seen = summary(&traffic, &build, 1);
    let first = &seen.targets[&Address::parse("10.0.0.1:80").expect("an address")];
    assert_eq!(first.disagree.join(" "), "a d");
}

#[test]
fn where_not_every_target_gets_a_share_one_without_requests_may_be_healthy() {
    let check = |setting: &str, loads: &[(u8, u64, u64)], expected: &str| {
        let text = SHOP.replace("    targets:", &format!("    {setting}\n    targets:"));
        let (traffic, build) = (Traffic::default(), made(&text));
        traffic.ingest("a", at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
        traffic.ingest("a", at(60), &report(loads), &build);
        let seen = summary(&traffic, &build, 60);
        assert_eq!(health(&seen), expected, "{setting}");
    };
    check("load_balancer: least_request", &[(2, 100, 0)], "-+?");
    check("load_balancer: random", &[(2, 39, 0)], "~++?");
    check("failover: { locality: true }", &[(2, 100, 0)], "-+?");
    for setting in ["load_balancer: maglev", "sticky: { header: x-route }"] {
        check(setting, &[(2, 100, 0)], "~++?");
        check(setting, &[(9, 100, 0)], "--+");
    }
    let light = SHOP.replace("{ target: 10.0.0.1:80 }", "{ target: 10.0.0.1:80, weight: 1 }");
    let (traffic, build) = (Traffic::default(), made(&light));
    traffic.ingest("a", at(1), &report(&[(2, 1000, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 1)), "?+?", "ten of these should have been its own");
}

#[test]
fn a_few_requests_show_nothing_of_those_that_got_none() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(1, 5, 0), (2, 5, 0)]), &build);
    traffic.ingest("a", at(2), &report(&[(1, 3, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 2)), "++?");
}

#[test]
fn without_traffic_the_last_state_is_old() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
    traffic.ingest("a", at(2), &LoadReport::default(), &build);
    let old = summary(&traffic, &build, 7);
    assert_eq!((health(&old).as_str(), old.is_stale, old.serving), ("~+~+?", true, Some(0)));
}

#[test]
fn who_sees_something_else_disagrees() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    for node in ["a", "b", "c"] {
        traffic.ingest(node, at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
    }
    traffic.ingest("b", at(2), &report(&[(2, 100, 0)]), &build);
    let seen = summary(&traffic, &build, 2);
    let target = &seen.targets[&Address::parse("10.0.0.1:80").expect("an address")];
    assert_eq!(target.is_healthy, Some(true));
    assert_eq!((target.reported_by.join(" "), target.disagree.join(" ")), ("a c".into(), "b".into()));
}

#[test]
fn shares_are_those_of_all_envoys_together() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(1, 30, 0), (2, 30, 0)]), &build);
    traffic.ingest("b", at(1), &report(&[(9, 40, 0)]), &build);
    let seen = summary(&traffic, &build, 1);
    let shares: Vec<f64> = seen.targets.values().map(|target| target.share.round()).collect();
    assert_eq!((shares, seen.requests_per_second.round()), (vec![30.0, 30.0, 40.0], 100.0));
}

#[test]
fn an_envoy_that_goes_serves_nothing() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(9, 100, 0)]), &build);
    traffic.leave("a", at(4));
    let gone = traffic.clear_serving("a", at(5));
    assert_eq!((gone[0].from, gone[0].to), (Some(1), None));
    assert_eq!(traffic.clear_serving("a", at(6)), []);
    traffic.drop_expired(at(5000), &build);
    assert!(summary(&traffic, &build, 5000).nodes.is_empty());
}

#[test]
fn endpoints_that_are_of_no_target_any_more_leave_nothing_behind() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
    let moved = made(&SHOP.replace("10.0.0.2", "10.0.0.3"));
    traffic.drop_expired(at(2), &moved);
    traffic.ingest("a", at(3), &report(&[(3, 100, 0)]), &moved);
    assert_eq!(health(&summary(&traffic, &moved, 3)), "-??", "what was said of the one is not of the other");
    let observations = traffic.lock();
    assert_eq!(
        (observations.upstreams[0].sockets.values().len(), observations.nodes["a"].endpoints.len()),
        (3, 2)
    );
    drop(observations);
    traffic.drop_expired(at(4), &made("upstreams: [{ name: other, targets: [{ target: 10.0.0.1:80 }] }]"));
    assert_eq!(health(&summary(&traffic, &build, 4)), "???");
}

#[test]
fn a_pair_of_an_envoy_and_an_upstream_takes_little() {
    // Each byte counts: there are millions of pairs.
    assert_eq!((size_of::<UpstreamObservation>(), size_of::<EndpointObservation>()), (32, 12));
}

#[test]
fn health_that_is_not_known_again_gets_old() {
    for is_healthy in [true, false] {
        let health = ObservedHealth::confirmed(is_healthy);
        assert_eq!((health.is_healthy(), health.age()), (Some(is_healthy), 0));
        let later = health.aged(5).aged(0).aged(70);
        assert_eq!((later.is_healthy(), later.age()), (Some(is_healthy), 75));
        let much_later = later.aged(u32::MAX);
        assert_eq!((much_later.is_healthy(), much_later.age()), (Some(is_healthy), 16_383));
    }
    assert_eq!(ObservedHealth::default().aged(7).is_healthy(), None);
}

#[test]
fn clusters_of_one_tier_each_are_one_upstream() {
    let hashed = SHOP.replace("targets:", "load_balancer: maglev\n    targets:");
    let (traffic, build) = (Traffic::default(), made(&hashed));
    let mut stats = self::stats(&[(1, 10, 5)]);
    stats.extend(self::stats(&[(9, 90, 0)]));
    stats[0].cluster_name = "shop/p0".into();
    stats[1].cluster_name = "shop/p1".into();
    let shifts = traffic.ingest("a", at(1), &read(stats), &build);
    assert_eq!((shifts.len(), shifts[0].to), (1, Some(1)));
    assert_eq!(
        traffic.totals(&shifts[0].upstream),
        LoadTotals { requests: 105, errors: 5, ..LoadTotals::default() }
    );
}

#[test]
fn how_long_a_request_takes_shows_in_how_many_are_under_way() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    let name = &build.model.upstreams["shop"].name;
    let second = |in_progress: u64| {
        let mut stats = stats(&[(1, 100, 0)]);
        stats[0].upstream_locality_stats[0].total_requests_in_progress = in_progress;
        read(stats)
    };
    for at_second in 60..90 {
        traffic.ingest("a", at(at_second), &second(2), &build);
    }
    assert_eq!(traffic.recent(name, at(90)).latency(), Some(20.0), "two under way at 100 a second");
    let before = traffic.totals(name);
    for at_second in 90..100 {
        traffic.ingest("a", at(at_second), &second(5), &build);
    }
    assert_eq!(traffic.totals(name).since(before).latency(), Some(50.0));
    traffic.ingest("a", at(125), &second(0), &build);
    assert_eq!(traffic.recent(name, at(130)).requests, 4100, "that of the minute before is recent");
    traffic.ingest("a", at(190), &second(1), &build);
    let recent = traffic.recent(name, at(190));
    assert_eq!((recent.requests, recent.latency()), (200, None), "too few to tell");
    assert_eq!(traffic.recent(name, at(600)), LoadTotals::default());
}

/// Check results of an Envoy: the health of each host (last byte of its address).
fn findings(endpoints: &[(u8, bool)]) -> CheckResults {
    let socket = |host: u8| SocketAddr::from(([10, 0, 0, host], 80));
    let endpoints = endpoints.iter().map(|(host, is_healthy)| (socket(*host), *is_healthy)).collect();
    CheckResults { clusters: vec![crate::envoy::checks::ClusterHealth { name: "shop".into(), endpoints }] }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn checks_tell_of_targets_without_traffic() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest_checks("a", at(1), SECOND, findings(&[(1, true), (2, true), (9, false)]), &build);
    let seen = summary(&traffic, &build, 1);
    assert_eq!(health(&seen), "++-");
    assert_eq!(
        (seen.serving, seen.is_stale, seen.nodes.len()),
        (None, true, 0),
        "that nobody serves is as true"
    );
    assert_eq!(seen.checked_by, ["a".into()]);
    traffic.ingest("a", at(2), &report(&[(1, 50, 0), (2, 0, 50)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 2)), "+--", "traffic shows more than checks do");
    traffic.ingest("a", at(3), &report(&[(1, 50, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 3)), "+--", "it is due, and gets nothing");
    traffic.ingest_checks("a", at(4), SECOND, findings(&[(1, true), (2, true), (9, true)]), &build);
    traffic.ingest("a", at(4), &report(&[(1, 1, 0)]), &build);
    assert_eq!(health(&summary(&traffic, &build, 4)), "+++", "as long as there is some");
    let seen = summary(&traffic, &build, 60);
    assert_eq!(health(&seen), "~+~-~+", "what traffic showed last is shown on");
    assert!(seen.checked_by.is_empty());
}

#[test]
fn what_was_found_counts_since_it_was_found_first() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    let since = |second| {
        let seen = summary(&traffic, &build, second);
        let address = Address::parse("10.0.0.9:80").expect("an address");
        seen.targets[&address].since.expect("it is known").as_second()
    };
    for (second, is_healthy, expected) in
        [(1, true, 1), (2, true, 1), (3, false, 3), (4, false, 3), (5, true, 5)]
    {
        traffic.ingest_checks("a", at(second), SECOND, findings(&[(9, is_healthy)]), &build);
        assert_eq!(since(second), expected, "at {second}");
    }
}

#[test]
fn each_who_checks_has_a_vote() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    for (node, is_healthy) in [("a", false), ("b", false), ("c", true)] {
        traffic.ingest_checks(node, at(1), SECOND, findings(&[(9, is_healthy)]), &build);
    }
    let seen = summary(&traffic, &build, 1);
    let target = &seen.targets[&Address::parse("10.0.0.9:80").expect("an address")];
    assert_eq!(
        (target.is_healthy, &*target.reported_by, &*target.disagree),
        (Some(false), &["a".into(), "b".into()][..], &["c".into()][..],)
    );
}

#[test]
fn what_was_found_of_strangers_and_of_those_who_went_is_forgotten() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest_checks("a", at(1), SECOND, findings(&[(1, false), (2, true), (7, true)]), &build);
    let without = made(&SHOP.replace("{ target: 10.0.0.1:80 }, ", ""));
    traffic.drop_expired(at(2), &without);
    let with = made(&SHOP.replace("10.0.0.1:80", "10.0.0.3:80"));
    assert_eq!(health(&summary(&traffic, &with, 2)), "?+?", "nobody has its number");
    let three = Address::parse("10.0.0.3:80").expect("an address");
    assert_eq!(summary(&traffic, &with, 2).targets.get(&three), None);
    traffic.drop_expired(at(2) + RETENTION, &with);
    assert_eq!(health(&summary(&traffic, &with, 2)), "???");
}

#[test]
fn who_leaves_counts_as_gone_after_twenty_seconds_unless_it_returns() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    let absent = |second| {
        let absent = traffic.take_absent(at(second)).into_iter();
        absent.map(|(node, left)| format!("{node} {}", left.as_second())).collect::<Vec<_>>()
    };
    traffic.ingest("a", at(1), &report(&[(1, 50, 0)]), &build);
    traffic.leave("a", at(2));
    traffic.leave("never seen", at(3));
    assert_eq!(absent(21), [""; 0]);
    traffic.join("a", Locality::default());
    assert_eq!(absent(22), [""; 0], "it returned");
    assert_eq!(absent(23), ["never seen 3"]);
    traffic.leave("a", at(40));
    traffic.join("a", Locality::default());
    traffic.leave("a", at(50));
    assert_eq!(absent(65), [""; 0], "it left again, and that is not so long ago");
    assert_eq!(absent(70), ["a 50"]);
    assert_eq!(absent(800), [""; 0], "each is told of once");
}

#[test]
fn shares_are_of_those_who_send() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(1, 50, 0), (2, 50, 0)]), &build);
    traffic.ingest("b", at(60), &report(&[(9, 100, 0)]), &build);
    let shares = |second| {
        let seen = summary(&traffic, &build, second);
        seen.targets.values().map(|target| target.share).collect::<Vec<_>>()
    };
    assert_eq!(shares(60), [0.0, 0.0, 100.0]);
    assert_eq!(shares(600), [25.0, 25.0, 50.0], "that is how it was last");
}

#[test]
fn each_envoy_has_shares_of_its_own() {
    let (traffic, build) = (Traffic::default(), made(SHOP));
    traffic.ingest("a", at(1), &report(&[(1, 75, 0), (2, 25, 0)]), &build);
    traffic.ingest("b", at(1), &report(&[(1, 0, 10), (9, 40, 0)]), &build);
    let seen = summary(&traffic, &build, 1);
    let words = |node: &str| {
        let of = |target: &NodeTarget| {
            let health = target.is_healthy.map_or('?', |is_healthy| if is_healthy { '+' } else { '-' });
            format!("{health} {} % {}", target.share, target.requests_per_second)
        };
        seen.nodes[node].targets.values().map(of).collect::<Vec<_>>()
    };
    assert_eq!(words("a"), ["+ 75 % 75", "+ 25 % 25"]);
    assert_eq!(words("b"), ["- 20 % 10", "- 0 % 0", "+ 80 % 40"]);
}

/// Config with a zone for each target, and the standby in another region.
const ZONES: &str = "
upstreams:
  - name: shop
    failover: { locality: true }
    targets:
      - { target: 10.0.0.1:80, region: eu, zone: a }
      - { target: 10.0.0.2:80, region: eu, zone: b }
      - { target: 10.0.0.9:80, region: us, zone: c, failover: true }
";

#[test]
fn where_distance_counts_each_envoy_has_tiers_of_its_own() {
    let seconds: [&[_]; 3] = [&[(1, 100, 0)], &[(2, 100, 0)], &[(9, 100, 0)]];
    for (place, expected) in [
        ("eu/a", ["1: ? → 0", "2: 0 → 1", "3: 1 → 2"].as_slice()),
        ("eu/b", &["1: ? → 1", "2: 1 → 0", "3: 0 → 2"]),
        ("us/c", &["1: ? → 0", "3: 0 → 1"]),
        ("", &["1: ? → 0", "3: 0 → 1"]),
    ] {
        assert_eq!(shifts_at(place, ZONES, &seconds), expected, "from {place:?}");
        assert_eq!(
            shifts_at(place, &ZONES.replace("locality: true", "locality: false"), &seconds),
            ["1: ? → 0", "3: 0 → 1"]
        );
    }
    let gone = ZONES.replace("zone: a", "zone: a, weight: 0").replace("zone: b", "zone: b, weight: 0");
    assert_eq!(shifts_at("eu/a", &gone, &seconds), ["3: ? → 1"], "a tier without traffic is one still");
}

#[test]
fn a_zone_in_whose_place_another_serves_is_unhealthy() {
    let check = |place: &str, loads: &[(u8, u64, u64)], expected: (&str, Option<u32>, Option<u32>)| {
        let (traffic, build) = (Traffic::default(), made(ZONES));
        traffic.join("a", place.parse().expect("a place"));
        traffic.ingest("a", at(1), &report(loads), &build);
        let seen = summary(&traffic, &build, 1);
        let tier = seen.busiest_tier(&build.model.upstreams["shop"]);
        assert_eq!((health(&seen).as_str(), seen.serving, tier), expected, "from {place:?}: {loads:?}");
    };
    check("eu/a", &[(1, 100, 0)], ("+??", Some(0), Some(0)));
    check("eu/a", &[(2, 100, 0)], ("-+?", Some(1), Some(0)));
    check("eu/a", &[(1, 0, 5), (9, 100, 0)], ("--+", Some(2), Some(1)));
    check("eu/b", &[(2, 100, 0)], ("?+?", Some(0), Some(0)));
    check("us/c", &[(2, 100, 0)], ("-+?", Some(0), Some(0)));
    check("us/c", &[(9, 100, 0)], ("--+", Some(1), Some(1)));
    check("eu/a", &[], ("???", None, None));
}

#[test]
fn errors_are_those_of_the_nearest() {
    let (traffic, build) = (Traffic::default(), made(ZONES));
    traffic.join("a", "eu/b".parse().expect("a place"));
    traffic.ingest("a", at(1), &report(&[(2, 100, 0)]), &build);
    let shifts = traffic.ingest("a", at(2), &report(&[(1, 90, 3), (2, 0, 7)]), &build);
    assert_eq!((shifts.len(), shifts[0].to, shifts[0].errors), (1, Some(1), 7));
}

#[test]
fn where_an_envoy_is_counts_in_clusters_of_one_tier_too() {
    let hashed = ZONES.replace("targets:", "load_balancer: maglev\n    targets:");
    let (traffic, build) = (Traffic::default(), made(&hashed));
    traffic.join("a", "eu/a".parse().expect("a place"));
    let mut stats = self::stats(&[(2, 90, 0), (7, 10, 0)]);
    stats[0].cluster_name = "shop/p2".into();
    let shifts = traffic.ingest("a", at(1), &read(stats), &build);
    assert_eq!((shifts.len(), shifts[0].to), (1, Some(1)));
    assert_eq!(traffic.totals(&shifts[0].upstream).requests, 90, "what a stranger got is of no tier");
}
