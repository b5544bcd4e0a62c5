//! Destinations of a service's requests: the cluster of its upstream, or aggregates of several upstreams by
//! weight.
//!
//! A split whose members stand in for each other is compiled to one aggregate for each order of the members,
//! chosen by weight for each request: the first member by the weights of all, the second by the weights of
//! the remaining ones, the rest by descending weight. The share of a dead member thus goes to the others in
//! proportion to their weights. Envoy chooses the aggregate once and retries within it: no request is lost
//! when a member dies.
//!
//! An aggregate has neither connections nor health state; both stay with the clusters of the members. A
//! member that is an aggregate itself is replaced by the clusters that it consists of.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::build::compile::{cluster, target_cluster};
use crate::build::snapshot::resource::Resource;
use crate::memo::ArcEq;
use crate::model::name::Name;
use crate::model::overrides::{First, OverridesByUpstream};
use crate::model::service::{Member, Service};
use crate::model::upstream::Upstream;

/// Sum of weights before they are reduced: shares are rounded to millionths.
const WEIGHT_SCALE: f64 = 1_000_000.0;

/// Everything that the aggregates of a service depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateInput {
    service: ArcEq<Service>,
    /// Overrides of the first tier, by upstream, as far as they apply to clusters.
    firsts: BTreeMap<Name, First>,
}

impl AggregateInput {
    /// Collects what the aggregates of `service` depend on.
    pub fn new(service: ArcEq<Service>, overrides: &OverridesByUpstream) -> Self {
        let first = |upstream: &Upstream| {
            Some((upstream.name.clone(), target_cluster::first_override(upstream, overrides)?))
        };
        let firsts = service.0.upstreams().filter_map(|upstream| first(upstream)).collect();
        Self { service, firsts }
    }
}

/// Order in which the upstreams of a service are tried, with its weight.
pub struct WeightedOrder<'a> {
    /// Name of the cluster that tries them in this order.
    pub cluster: String,
    /// Weight relative to the other orders of the service; at least 1.
    pub weight: u32,
    /// Upstreams in the order in which they are tried; at least one.
    pub upstreams: Vec<&'a Upstream>,
}

impl WeightedOrder<'_> {
    /// Returns the number of targets over all upstreams.
    pub fn targets(&self) -> usize {
        self.upstreams.iter().map(|upstream| upstream.most_targets()).sum()
    }

    /// Returns the number of tiers over all upstreams, for the locality from which there are most.
    pub fn most_tiers(&self) -> usize {
        self.upstreams.iter().map(|upstream| upstream.views().iter().map(Vec::len).max().unwrap_or(0)).sum()
    }

    /// Returns true if, from any locality, a tier other than the last has fewer than two targets.
    pub fn has_a_single_before_the_last(&self) -> bool {
        let is_single = |targets: &usize| *targets < 2;
        let mut views = self.upstreams.iter().filter(|it| !it.targets.is_empty()).map(|it| it.views());
        let Some(last) = views.next_back() else { return false };
        last.iter().filter_map(|tiers| tiers.split_last()).any(|(_, before)| before.iter().any(is_single))
            || views.any(|views| views.iter().flatten().any(is_single))
    }

    /// Returns true if the order needs an aggregate. A single upstream has a cluster already.
    fn is_aggregate(&self) -> bool {
        self.upstreams.len() > 1
    }
}

/// Returns the orders in which the upstreams of a service are tried, at least one. Their clusters are the
/// weighted destinations of routes and TCP listeners.
pub fn orders(service: &Service) -> Vec<WeightedOrder<'_>> {
    let members: Vec<&Member> = service.members.iter().filter(|member| member.weight > 0).collect();
    let tiers = members.chunk_by(|one, next| one.tier == next.tier);
    let sequences = tiers.fold(
        vec![MemberSequence { share: 1.0, members: Vec::new(), distinguishing: Vec::new() }],
        |sequences, tier| {
            sequences
                .iter()
                .flat_map(|sequence| sequences_of(tier).into_iter().map(move |next| sequence.then(next)))
                .collect()
        },
    );
    let weights = weights(&sequences.iter().map(|sequence| sequence.share).collect::<Vec<_>>());
    sequences.iter().zip(weights).map(|(sequence, weight)| sequence.order(service, weight)).collect()
}

/// Compiles the aggregates of a service; empty if it has a single upstream.
pub fn compile(input: &AggregateInput) -> Vec<Resource> {
    let service = &*input.service.0;
    let several = orders(service).into_iter().filter(WeightedOrder::is_aggregate);
    several
        .map(|order| {
            let upstreams = order.upstreams.iter();
            let target_clusters = upstreams
                .flat_map(|it| target_cluster::in_serving_order(it, input.firsts.get(&it.name).copied()));
            cluster::aggregate(&order.cluster, &target_clusters.collect::<Vec<_>>(), service.first())
        })
        .collect()
}

/// Returns the names of all clusters that must exist before requests are sent to a service.
pub fn clusters(service: &Service) -> Vec<Arc<str>> {
    let of_upstream = |upstream: &Upstream| {
        let target_clusters =
            target_cluster::all(upstream).into_iter().map(|target_cluster| target_cluster.name);
        target_clusters.chain([upstream.name.to_string()]).collect::<Vec<_>>()
    };
    let upstreams = service.upstreams().flat_map(|upstream| of_upstream(upstream));
    let orders = orders(service).into_iter().map(|order| order.cluster);
    upstreams.chain(orders).map(Arc::from).collect()
}

/// Sequence of members with its share of the requests, from 0 to 1.
struct MemberSequence<'a> {
    share: f64,
    members: Vec<&'a Member>,
    /// Members whose positions distinguish this sequence from the others: the first two of each tier that has
    /// several.
    distinguishing: Vec<&'a Member>,
}

impl<'a> MemberSequence<'a> {
    fn then(&self, next: MemberSequence<'a>) -> Self {
        Self {
            share: self.share * next.share,
            members: [self.members.as_slice(), &next.members].concat(),
            distinguishing: [self.distinguishing.as_slice(), &next.distinguishing].concat(),
        }
    }

    fn order(&self, service: &Service, weight: u32) -> WeightedOrder<'a> {
        let upstreams = self.members.iter().map(|member| &*member.upstream).collect();
        WeightedOrder { cluster: self.cluster(service), weight, upstreams }
    }

    /// Returns the cluster name: that of a single upstream, or `service/` followed by the service and at
    /// least one member. Three segments cannot collide with the name of a tier's cluster, which has two.
    fn cluster(&self, service: &Service) -> String {
        let distinguishing =
            if self.distinguishing.is_empty() { &self.members[..1] } else { &self.distinguishing };
        match self.members.as_slice() {
            [alone] => alone.upstream.name.to_string(),
            _ => distinguishing.iter().fold(format!("service/{}", service.name), |name, member| {
                format!("{name}/{}", member.upstream.name)
            }),
        }
    }
}

/// Returns the orders in which the members of a tier are tried: each pair of first and second member, then
/// the rest by descending weight.
fn sequences_of<'a>(tier: &[&'a Member]) -> Vec<MemberSequence<'a>> {
    if let [alone] = tier {
        return vec![MemberSequence { share: 1.0, members: vec![alone], distinguishing: Vec::new() }];
    }
    let total: f64 = tier.iter().map(|member| f64::from(member.weight)).sum();
    let mut by_weight = tier.to_vec();
    by_weight.sort_by_key(|member| std::cmp::Reverse(member.weight));
    let name = |member: &Member| member.upstream.name.clone();
    let pairs = tier.iter().flat_map(|first| tier.iter().map(move |second| (*first, *second)));
    let pairs = pairs.filter(|(first, second)| name(first) != name(second));
    pairs
        .map(|(first, second)| {
            let (one, two) = (f64::from(first.weight), f64::from(second.weight));
            let rest = by_weight.iter().filter(|it| name(it) != name(first) && name(it) != name(second));
            MemberSequence {
                share: one / total * (two / (total - one)),
                members: [first, second].into_iter().chain(rest.copied()).collect(),
                distinguishing: vec![first, second],
            }
        })
        .collect()
}

/// Converts shares of a whole to small integer weights in the same ratio, each at least 1.
fn weights(shares: &[f64]) -> Vec<u32> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is from 0 to 1")]
    let weights = shares.iter().map(|share| ((share * WEIGHT_SCALE).round() as u32).max(1));
    let weights: Vec<u32> = weights.collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.into_iter().map(|weight| weight / divisor).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use crate::build::{Inputs, build};

    use super::*;

    /// Asserts the orders of a service with these members, each as `weight cluster: upstreams`.
    fn check(members: &str, expected: &[&str]) {
        let upstreams: String = ["a", "b", "c", "d", "dr"]
            .map(|name| format!("  - {{ name: {name}, targets: [{{ target: 10.0.0.1:80 }}] }}\n"))
            .concat();
        let text = format!("upstreams:\n{upstreams}services: [{{ name: s, upstreams: [{members}] }}]\n");
        let files = imbl::OrdMap::unit("a.yaml".to_owned(), text.into());
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let service = build.model.services.values().next().expect("there is one");
        let orders = orders(service).into_iter().map(|order| {
            let upstreams: Vec<&str> =
                order.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
            format!("{} {}: {}", order.weight, order.cluster, upstreams.join(" "))
        });
        assert_eq!(orders.collect::<Vec<_>>(), expected, "{members}");
    }

    #[test]
    fn two_members_stand_in_for_each_other() {
        check(
            "{ name: a, weight: 90 }, { name: b, weight: 10 }",
            &["9 service/s/a/b: a b", "1 service/s/b/a: b a"],
        );
    }

    #[test]
    fn the_share_of_a_dead_one_of_three_goes_to_the_others_by_their_weights() {
        check(
            "{ name: a, weight: 60 }, { name: b, weight: 20 }, { name: c, weight: 20 }",
            &[
                "6 service/s/a/b: a b c",
                "6 service/s/a/c: a c b",
                "3 service/s/b/a: b a c",
                "1 service/s/b/c: b c a",
                "3 service/s/c/a: c a b",
                "1 service/s/c/b: c b a",
            ],
        );
    }

    #[test]
    fn failover_members_come_after_all_others_by_tier() {
        check("{ name: a }, { name: dr, failover: true }", &["1 service/s/a: a dr"]);
        check(
            "{ name: dr, priority: 7 }, { name: a }, { name: b }, { name: c, failover: true }",
            &["1 service/s/a/b: a b c dr", "1 service/s/b/a: b a c dr"],
        );
    }

    #[test]
    fn several_failover_members_share_too() {
        check(
            "{ name: a }, { name: c, failover: true, weight: 30 }, { name: d, failover: true, weight: 10 }",
            &["3 service/s/c/d: a c d", "1 service/s/d/c: a d c"],
        );
    }

    #[test]
    fn a_member_without_weight_gets_nothing_and_one_alone_needs_no_aggregate() {
        check("{ name: a }, { name: b, weight: 0 }", &["1 a: a"]);
        check("{ name: a, weight: 0 }, { name: dr, failover: true }", &["1 dr: dr"]);
        check("{ name: a }", &["1 a: a"]);
    }

    #[test]
    fn shares_are_whole_numbers_that_keep_the_ratio() {
        assert_eq!(weights(&[1.0]), [1]);
        assert_eq!(weights(&[0.5, 0.5]), [1, 1]);
        assert_eq!(weights(&[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]), [1, 1, 1]);
        assert_eq!(weights(&[0.999_999_9, 0.000_000_1]), [1_000_000, 1]);
    }
}
