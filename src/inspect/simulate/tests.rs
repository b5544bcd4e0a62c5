//! Tests of the distribution, by example and by properties that hold for any topology.
//! `tests/envoy/simulate.rs` compares the results with a real Envoy.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::build::{Inputs, build};
use crate::model::selector::SelectorError;

const STANDBY: BalancingPolicy = BalancingPolicy {
    overprovisioning_factor: u32::MAX,
    panic_threshold: 1,
    fails_in_panic: false,
    by_weight: true,
};
const SPILL: BalancingPolicy = BalancingPolicy { overprovisioning_factor: 140, ..STANDBY };
const FAIL: BalancingPolicy = BalancingPolicy { panic_threshold: 0, ..STANDBY };

/// Parses endpoints: tiers are separated by `/`; `+` is healthy, `~` degraded, `-` down.
fn endpoints(tiers: &str) -> Vec<Endpoint> {
    let endpoint = |priority, sign| {
        let health = match sign {
            '+' => EndpointHealth::Healthy,
            '~' => EndpointHealth::Degraded,
            '-' => EndpointHealth::Down,
            other => panic!("`{other}` is no health"),
        };
        Endpoint { priority, weight: 1, health }
    };
    let tier = |(priority, tier): (usize, &str)| -> Vec<Endpoint> {
        tier.trim().chars().map(|sign| endpoint(priority, sign)).collect()
    };
    tiers.split('/').enumerate().flat_map(tier).collect()
}

/// Asserts the rounded shares of the tiers, followed by the unserved share.
fn check(tiers: &str, policy: BalancingPolicy, expected: &[u32]) {
    let endpoints = endpoints(tiers);
    let shares = shares(&endpoints, policy);
    let mut by_tier = vec![0.0; tiers.split('/').count()];
    for (endpoint, share) in endpoints.iter().zip(&shares.endpoints) {
        by_tier[endpoint.priority] += share;
    }
    by_tier.push(shares.unserved);
    let rounded: Vec<u32> = by_tier.iter().map(|share| share.round() as u32).collect();
    assert_eq!(rounded, expected, "{tiers} {policy:?}: {by_tier:?}");
}

#[test]
fn a_standby_serves_only_when_no_primary_can() {
    check("++ / +", STANDBY, &[100, 0, 0]);
    check("+- / +", STANDBY, &[100, 0, 0]);
    check("-- / +", STANDBY, &[0, 100, 0]);
    check("---------+ / +", STANDBY, &[100, 0, 0]);
    check("-- / - / +", STANDBY, &[0, 0, 100, 0]);
}

/// Figures as measured on Envoy 1.40 with its default factor.
#[test]
fn spill_shares_by_the_part_of_a_tier_that_is_usable() {
    check("+- / +", SPILL, &[70, 30, 0]);
    check("++- / +", SPILL, &[93, 7, 0]);
    check("+-- / +", SPILL, &[46, 54, 0]);
    check("+++++++++- / +", SPILL, &[100, 0, 0]);
    check("+--------- / +", SPILL, &[14, 86, 0]);
    check("-- / +", SPILL, &[0, 100, 0]);
}

#[test]
fn tiers_that_are_short_together_share_what_there_is_and_the_first_has_the_rest() {
    // First: 46 and 46 of 92, so 50 each. Second: 46 and 28 of 74, so 62 and 37, and 1 left by rounding.
    check("+-- / +--", SPILL, &[50, 50, 0]);
    check("+-- / +----", SPILL, &[63, 37, 0]);
    check("--- / +-- / +----", SPILL, &[0, 63, 37, 0]);
}

#[test]
fn when_nothing_is_usable_every_target_is_tried_or_none() {
    check("-- / -", STANDBY, &[67, 33, 0]);
    check("- / - / -", STANDBY, &[34, 33, 33, 0]);
    check("-- / -", FAIL, &[0, 0, 100]);
    check("-- / -", BalancingPolicy { panic_threshold: 0, ..SPILL }, &[0, 0, 100]);
    check("", STANDBY, &[0, 100]);
}

#[test]
fn below_a_minimum_of_usable_targets_requests_are_refused() {
    let minimum = |panic_threshold| BalancingPolicy {
        overprovisioning_factor: 100,
        panic_threshold,
        fails_in_panic: true,
        by_weight: true,
    };
    check("+++--", minimum(55), &[100, 0]);
    check("+++--", minimum(60), &[100, 0]);
    check("+++--", minimum(61), &[0, 100]);
    check("++---", minimum(55), &[0, 100]);
    check("+~---", minimum(40), &[100, 0]);
    check("-----", minimum(1), &[0, 100]);
    check("+++++", minimum(100), &[100, 0]);
}

#[test]
fn a_degraded_target_serves_where_healthy_ones_are_short() {
    check("~ / +", STANDBY, &[0, 100, 0]);
    check("~ / -", STANDBY, &[100, 0, 0]);
    // Example in Envoy's source: healthy 10, 20 and 10 %, degraded 20, 10 and 0 %, 70 % in all.
    let factor = BalancingPolicy { overprovisioning_factor: 100, ..SPILL };
    check("+~~------- / ++~------- / +---------", factor, &[44, 42, 14, 0]);
}

#[test]
fn a_large_tier_with_one_usable_target_is_in_panic() {
    let tier = format!("+{}", "-".repeat(200));
    let wide = BalancingPolicy { overprovisioning_factor: 400, ..SPILL };
    let endpoints = endpoints(&tier);
    let shares = shares(&endpoints, wide);
    assert!((shares.endpoints[0] - 100.0 / 201.0).abs() < 1e-9, "every target is tried alike");
    check(&format!("{tier} / +"), STANDBY, &[100, 0, 0]);
}

#[test]
fn within_a_tier_weights_count_unless_the_balancer_ignores_them() {
    let endpoint = |weight| Endpoint { priority: 0, weight, health: EndpointHealth::Healthy };
    let tier = [endpoint(1), endpoint(3)];
    assert_eq!(shares(&tier, STANDBY).endpoints, [25.0, 75.0]);
    assert_eq!(shares(&tier, BalancingPolicy { by_weight: false, ..STANDBY }).endpoints, [50.0, 50.0]);
}

const SHOP: &str = "
upstreams:
  - name: shop
    targets:
      - { target: 10.0.0.1:80, zone: a }
      - { target: 10.0.0.2:80, zone: b, weight: 300 }
      - { target: standby.example.com:80, priority: 1, region: far }
";

fn shop(addresses: &[(&str, &[&str])], down: &[&str]) -> Result<Vec<String>, SelectorError> {
    let files = imbl::OrdMap::unit("a.yaml".to_owned(), SHOP.into());
    let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
    let upstream = build.model.upstreams.values().next().expect("there is one");
    let down =
        down.iter().map(|text| TargetSelector::parse(text, upstream)).collect::<Result<Vec<_>, _>>()?;
    let ip = |text: &&str| text.parse().expect("it is one");
    let names =
        addresses.iter().map(|(name, ips)| ((*name).to_owned(), ips.iter().map(ip).collect::<Vec<IpAddr>>()));
    let addresses = Addresses { names: names.collect(), ..Addresses::default() };
    let simulation = simulate(upstream, &addresses, None, &down);
    let share = |target: &TargetShare| format!("{} {:.0}", target.address, target.share);
    Ok(simulation.targets.iter().map(share).chain([format!("unserved {:.0}", simulation.unserved)]).collect())
}

#[test]
fn targets_zones_regions_and_tiers_can_be_down() {
    let first = ["10.0.0.1:80 0", "10.0.0.2:80 100", "standby.example.com:80 0", "unserved 0"];
    assert_eq!(shop(&[], &["10.0.0.1:80"]).expect("it is there"), first);
    assert_eq!(shop(&[], &["zone=a"]).expect("it is there"), first);
    let standby = ["10.0.0.1:80 0", "10.0.0.2:80 0", "standby.example.com:80 100", "unserved 0"];
    assert_eq!(shop(&[], &["priority=0"]).expect("it is there"), standby);
    let panic = ["10.0.0.1:80 17", "10.0.0.2:80 50", "standby.example.com:80 33", "unserved 0"];
    assert_eq!(shop(&[], &["priority=0", "region=far"]).expect("they are there"), panic);
}

#[test]
fn a_name_counts_as_many_endpoints_as_it_has_addresses() {
    let all_down = ["priority=0", "priority=1"];
    let two = [("standby.example.com", &["10.1.0.1", "10.1.0.2"][..])];
    let panic = ["10.0.0.1:80 12", "10.0.0.2:80 38", "standby.example.com:80 50", "unserved 0"];
    assert_eq!(shop(&two, &all_down).expect("they are there"), panic);
    let a_primary = [("standby.example.com", &["10.0.0.1"][..])];
    let alone = ["10.0.0.1:80 25", "10.0.0.2:80 75", "standby.example.com:80 0", "unserved 0"];
    assert_eq!(shop(&a_primary, &all_down).expect("they are there"), alone);
}

#[test]
fn what_is_not_there_cannot_be_down() {
    for (down, message, help) in [
        (
            "10.0.0.3:80",
            "upstream `shop` has no target `10.0.0.3:80` with traffic",
            "did you mean `10.0.0.1:80` or `10.0.0.2:80`?",
        ),
        ("zone=c", "upstream `shop` has no zone `c` with traffic", "there is a, b"),
        ("region=farr", "upstream `shop` has no region `farr` with traffic", "did you mean `far`?"),
        (
            "sub_zone=a",
            "upstream `shop` has no sub_zone `a` with traffic",
            "none of its targets has a sub_zone",
        ),
        ("priority=2", "upstream `shop` has no priority `2` with traffic", "there is 0, 1"),
        ("priority=x", "`x` is no priority", "priorities are numbers from 0, as in priority=0"),
        ("zones=a", "`zones` is nothing that can be down", "did you mean `zone=`?"),
        (
            "10.0.0.1",
            "`10.0.0.1` has no port",
            "write host:port, such as 10.0.0.1:8080, [::1]:8080 or app.example.com:8080",
        ),
    ] {
        assert_eq!(shop(&[], &[down]), Err((message.to_owned(), help.to_owned())), "{down}");
    }
}

fn any_policy() -> impl Strategy<Value = BalancingPolicy> {
    let factor = prop_oneof![Just(u32::MAX), 100..1_000_u32];
    (factor, 0..=1_u32, any::<bool>()).prop_map(|(overprovisioning_factor, panic_threshold, by_weight)| {
        BalancingPolicy { overprovisioning_factor, panic_threshold, fails_in_panic: false, by_weight }
    })
}

fn any_endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let health = prop_oneof![4 => Just(EndpointHealth::Healthy), 1 => Just(EndpointHealth::Degraded), 3 => Just(EndpointHealth::Down)];
    let endpoint = (0..4_usize, 1..1_000_u32, health).prop_map(|(priority, weight, health)| Endpoint {
        priority,
        weight,
        health,
    });
    prop::collection::vec(endpoint, 0..40)
}

proptest! {
    #[test]
    fn every_request_is_somewhere(endpoints in any_endpoints(), policy in any_policy()) {
        let shares = shares(&endpoints, policy);
        let sum: f64 = shares.endpoints.iter().sum::<f64>() + shares.unserved;
        prop_assert!((sum - 100.0).abs() < 1e-6, "{sum}: {shares:?}");
        prop_assert!(shares.endpoints.iter().chain([&shares.unserved]).all(|share| *share >= 0.0));
    }

    #[test]
    fn what_is_down_gets_nothing_while_anything_is_usable(endpoints in any_endpoints(), policy in any_policy()) {
        // One usable endpoint of fewer than 100 in a tier is above the panic threshold of 1 %.
        let usable = |endpoint: &Endpoint| endpoint.health != EndpointHealth::Down;
        let shares = shares(&endpoints, policy);
        if endpoints.iter().any(usable) {
            prop_assert_eq!(shares.unserved, 0.0);
            for (endpoint, share) in endpoints.iter().zip(&shares.endpoints) {
                prop_assert!(usable(endpoint) || *share == 0.0, "{:?}", shares);
            }
        } else {
            prop_assert_eq!(shares.unserved > 0.0, policy.panic_threshold == 0 || endpoints.is_empty());
        }
    }

    /// A further death does not reduce the share of any live target, except by the whole percents that
    /// rounding moves. The property does not hold for targets of different weights when load spills:
    /// availability counts targets, not weight.
    #[test]
    fn who_lives_has_no_less_when_another_dies(
        endpoints in any_endpoints(),
        policy in any_policy(),
        which: prop::sample::Index,
    ) {
        prop_assume!(!endpoints.is_empty());
        let is_standby = policy.overprovisioning_factor == u32::MAX;
        let policy = BalancingPolicy { by_weight: policy.by_weight && is_standby, ..policy };
        let dies = which.index(endpoints.len());
        let mut after = endpoints.clone();
        after[dies].health = EndpointHealth::Down;
        prop_assume!(after.iter().any(|endpoint| endpoint.health == EndpointHealth::Healthy));
        let rounding = if is_standby { 1e-9 } else { 8.0 };
        let before = shares(&endpoints, policy);
        let then = shares(&after, policy);
        for (index, endpoint) in after.iter().enumerate() {
            if endpoint.health == EndpointHealth::Healthy {
                prop_assert!(then.endpoints[index] >= before.endpoints[index] - rounding, "{before:?} {then:?}");
            }
        }
    }

    /// Tiers after the first one with a healthy target get nothing.
    #[test]
    fn standby_tiers_wait(endpoints in any_endpoints()) {
        let shares = shares(&endpoints, STANDBY);
        let healthy = endpoints.iter().filter(|endpoint| endpoint.health == EndpointHealth::Healthy);
        if let Some(first) = healthy.map(|endpoint| endpoint.priority).min() {
            for (endpoint, share) in endpoints.iter().zip(&shares.endpoints) {
                prop_assert!(endpoint.priority == first || *share == 0.0);
            }
        }
    }
}

#[test]
fn by_distance_the_nearest_tier_serves_first_and_each_envoy_has_its_own() {
    let config = SHOP.replace("name: shop", "name: shop\n    failover: { locality: true }");
    let files = imbl::OrdMap::unit("a.yaml".to_owned(), config.as_str().into());
    let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
    let upstream = build.model.upstreams.values().next().expect("there is one");
    let shares = |from: Option<&str>, down: &[&str]| -> Vec<f64> {
        let from = from.map(|text| text.parse().expect("a locality"));
        let down: Vec<_> =
            down.iter().map(|text| TargetSelector::parse(text, upstream).expect("it is there")).collect();
        let simulation = simulate(upstream, &Addresses::default(), from.as_ref(), &down);
        simulation.targets.iter().map(|target| target.share).collect()
    };
    assert_eq!(shares(Some("/a"), &[]), [100.0, 0.0, 0.0]);
    assert_eq!(shares(Some("/b"), &[]), [0.0, 100.0, 0.0]);
    assert_eq!(shares(Some("/b"), &["zone=b"]), [100.0, 0.0, 0.0]);
    assert_eq!(shares(Some("far"), &[]), [25.0, 75.0, 0.0], "what is declared counts first");
    assert_eq!(shares(None, &[]), [25.0, 75.0, 0.0]);
}
