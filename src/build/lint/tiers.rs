//! Rules about tiers: whether there is a standby, and whether it can carry the load.

use std::collections::BTreeSet;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::build::lint::subject::UpstreamSubject;
use crate::config::code;
use crate::config::document::Origin;
use crate::config::document::upstream::{FailoverMode, LoadBalancer, Resolve};
use crate::model::target::{Host, Target};

pub(super) const RULES: &[LintRule] = &[
    LintRule {
        explanation: Explanation {
            code: code::of("US018"),
            why: "When the only target is down every request fails, whatever is checked and tried again.",
            fix: "add a second target, or a standby with `failover: true`",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if let [only] = subject.upstream().targets.as_slice()
                && matches!(only.address.host, Host::Ip(_))
            {
                findings.report(
                    &subject.place().key("targets"),
                    format!("there is nothing to fail over to from {}", only.address),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US019"),
            why: "All of them are disabled or have weight 0, which Envoy is not told of: every request gets 503.",
            fix: "enable a target, or give it a weight",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80, enabled: false }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, enabled: false }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let declared = subject.declared().targets.as_ref().is_some_and(|targets| !targets.is_empty());
            if declared && subject.upstream().targets.is_empty() {
                findings
                    .report(&subject.place().key("targets"), "none of these targets gets traffic".to_owned());
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US020"),
            why: "The first tier has no targets, or all of them are disabled or have weight 0, so the next tier is the first that Envoy has. It serves, and nothing stands behind it.",
            fix: "enable a primary, or make the standby one",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80, enabled: false }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if let Some(first) = subject.upstream().targets.first()
                && first.tier > 0
            {
                let message = format!("no primary gets traffic: {} serves all the time", first.address);
                findings.report(&subject.place_of(&first.address), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US021"),
            why: "A standby that has the address of a primary with another port dies with the machine on which both run.",
            fix: "let the standby run on another machine",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.1:81, failover: true }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let (primaries, rest) = tiers(subject);
            let machines: BTreeSet<&Host> = primaries.iter().map(|target| &target.address.host).collect();
            let is_lost = |target: &&Target| {
                machines.contains(&target.address.host) && !is_loopback(&target.address.host)
            };
            if machines.len() == 1 && !rest.is_empty() && rest.iter().all(|target| is_lost(&target)) {
                let message = format!("{} is on the machine of every primary", rest[0].address);
                findings.report(&subject.place_of(&rest[0].address), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US022"),
            why: "The failure of a zone takes all targets at once, the standby with them.",
            fix: "let a standby run in another zone",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80, zone: a }, { target: 10.0.0.2:80, zone: a, failover: true }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80, zone: a }, { target: 10.0.0.2:80, zone: b, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let (primaries, rest) = tiers(subject);
            let zone = |target: &Target| (target.locality.region.clone(), target.locality.zone.clone());
            let zones: BTreeSet<_> = primaries.iter().map(zone).collect();
            let is_known = zones.iter().all(|(_, zone)| !zone.is_empty());
            if zones.len() == 1
                && is_known
                && !rest.is_empty()
                && rest.iter().all(|target| zones.contains(&zone(target)))
            {
                let message = format!("all of it is lost with zone `{}`", primaries[0].locality.zone);
                findings.report(&subject.place_of(&rest[0].address), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US023"),
            why: "When the last primary dies the next tier gets the requests of all of them at once. By its weights it has less than half of their capacity.",
            fix: "add targets to the standby, or `limits` that turn away what it cannot carry",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80 }, { target: 10.0.0.4:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            for (tier, next) in neighbouring_tiers(subject) {
                let (weight, behind) = (weight(tier), weight(next));
                if behind * 2 < weight {
                    let message = format!("a tier of weight {behind} stands in for one of weight {weight}");
                    findings.report(&subject.place_of(&next[0].address), message);
                }
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US024"),
            why: "A tier of one target is usable or not, there is nothing between: `spill` does what `standby` does.",
            fix: "leave out `mode: spill`",
            bad: "upstreams: [{ name: shop, failover: { mode: spill }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, failover: { mode: spill }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let tiers = subject.tiers();
            let is_spill = subject.upstream().failover.mode == FailoverMode::Spill;
            if is_spill && !tiers.is_empty() && tiers[..tiers.len() - 1].iter().all(|targets| *targets == 1) {
                findings.report(
                    &subject.place().key("failover").key("mode"),
                    "there is nothing to spill from".to_owned(),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US025"),
            why: "What a tier is trusted with goes by how many of its targets are usable: the death of a light one moves as much as that of a heavy one. The simulator shows it.",
            fix: "give the targets of a tier that spills equal weights, or list a large machine several times by port",
            bad: "upstreams: [{ name: shop, failover: { mode: spill }, targets: [{ target: 10.0.0.1:80, weight: 900 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, failover: { mode: spill }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let uneven = |tier: &[Target]| {
                let weights = tier.iter().map(|target| target.weight);
                weights.clone().max().unwrap_or(0) > 2 * weights.min().unwrap_or(0)
            };
            let is_spill = subject.upstream().failover.mode == FailoverMode::Spill;
            if is_spill && neighbouring_tiers(subject).any(|(tier, _)| uneven(tier)) {
                let message =
                    "the death of a light target moves as much load as that of a heavy one".to_owned();
                findings.report(&subject.place().key("failover").key("mode"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US026"),
            why: "`random` chooses evenly. Measured with weights 1 and 3: 636 and 564 of 1,200 requests.",
            fix: "choose `round_robin` or `weighted_random`",
            bad: "upstreams: [{ name: shop, load_balancer: random, targets: [{ target: 10.0.0.1:80, weight: 1 }, { target: 10.0.0.2:80, weight: 3 }] }]",
            good: "upstreams: [{ name: shop, load_balancer: weighted_random, targets: [{ target: 10.0.0.1:80, weight: 1 }, { target: 10.0.0.2:80, weight: 3 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if subject.upstream().load_balancer == LoadBalancer::Random && has_uneven_tier(subject) {
                findings
                    .report(&subject.place().key("load_balancer"), "`random` ignores the weights".to_owned());
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US027"),
            why: "`least_request` divides a weight by the requests under way, so that shares are not those of the weights. Measured with weights 1 and 3: 412 and 788 of 1,200 requests.",
            fix: "choose `round_robin` where shares must be those of the weights",
            bad: "upstreams: [{ name: shop, load_balancer: least_request, targets: [{ target: 10.0.0.1:80, weight: 1 }, { target: 10.0.0.2:80, weight: 3 }] }]",
            good: "upstreams: [{ name: shop, load_balancer: least_request, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if subject.upstream().load_balancer == LoadBalancer::LeastRequest && has_uneven_tier(subject) {
                findings.report(
                    &subject.place().key("load_balancer"),
                    "`least_request` mixes the weights with load".to_owned(),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US028"),
            why: "A tier of one target gets every key: the balancer by hash costs a cluster for each tier and chooses nothing.",
            fix: "leave out `load_balancer`, or add a target",
            bad: "upstreams: [{ name: shop, load_balancer: maglev, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, load_balancer: maglev, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let tiers = subject.tiers();
            if subject.upstream().load_balancer.is_by_hash()
                && !tiers.is_empty()
                && tiers.iter().all(|targets| *targets == 1)
            {
                findings.report(
                    &subject.place().key("load_balancer"),
                    "the hash has one target to choose from".to_owned(),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US029"),
            why: "A sticky client is led to the target that served it last. Measured: a client whose cookie names a standby stayed on it after the primaries had recovered.",
            fix: "where clients must return with the primaries use a hash balancer with `hash_by`: it has no memory",
            bad: "upstreams: [{ name: shop, sticky: { cookie: { name: route } }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, sticky: { cookie: { name: route } }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if subject.upstream().sticky.is_some() && subject.tiers().len() > 1 {
                let message =
                    "a client that was led to the standby stays there when the primaries return".to_owned();
                findings.report(&subject.place().key("sticky"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US030"),
            why: "A returning target ramps up against its peers. Measured: when a whole tier returns there is no ramp, its load comes back at once.",
            fix: "leave out `slow_start`, or return in steps",
            bad: "upstreams: [{ name: shop, slow_start: 30s, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, slow_start: 30s, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            if !upstream.slow_start.is_zero() && subject.tiers().first() == Some(&1) {
                findings.report(
                    &subject.place().key("slow_start"),
                    "the only primary has no peers to ramp up against".to_owned(),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US031"),
            why: "Envoy counts retries under way for the whole upstream, and drops those above the limit. Measured with its default of 3: a freeze failed 37 requests, dropped packets 73; with 100,000 none.",
            fix: "leave `retries` at 100000, or say `retry_budget: { percent: 100, at_least: 100 }`",
            bad: "upstreams: [{ name: shop, limits: { retries: 3 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, limits: { retries: 1000 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let limits = &subject.upstream().limits;
            let place = subject.place().key("limits");
            match &limits.retry_budget {
                None if limits.retries < 20 => {
                    findings.report(
                        &place.key("retries"),
                        format!("{} retries at a time are fewer than a failure needs", limits.retries),
                    );
                }
                Some(budget) if budget.percent < 50.0 && budget.at_least < 20 => {
                    let message = format!(
                        "{} % and at least {} are fewer than a failure needs",
                        budget.percent, budget.at_least
                    );
                    findings.report(&place.key("retry_budget"), message);
                }
                _ => {}
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US032"),
            why: "With `resolve: envoy` a name whose answer is empty drops its targets at once, and no good answer is kept: a mistake in DNS empties the tier.",
            fix: "leave out `resolve: envoy` where the control plane can resolve the names: it keeps the last good answer",
            bad: "upstreams: [{ name: shop, resolve: envoy, targets: [{ target: shop.example.com:80 }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: shop.example.com:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            let has_name = upstream.targets.iter().any(|target| matches!(target.address.host, Host::Name(_)));
            if upstream.resolve == Resolve::Envoy && has_name {
                findings.report(
                    &subject.place().key("resolve"),
                    "an empty answer of DNS takes the targets away at once".to_owned(),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US033"),
            why: "No route and no raw resource reaches it. It is compiled for every fleet, so that it is warm when the first route comes, and every Envoy checks its targets.",
            fix: "route to it, or remove it",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: shop, service: shop }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if subject.is_unreached() {
                findings.report(
                    &subject.place().key("name"),
                    format!("nothing sends requests to upstream `{}`", subject.upstream().name),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US060"),
            why: "Below `minimum_healthy` every request gets 503, those that the remaining targets could serve too. It is above what is left when one of the targets dies, restarts or is drained.",
            fix: "lower `minimum_healthy`, or add targets",
            bad: "upstreams: [{ name: shop, failover: { minimum_healthy: 60 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, failover: { minimum_healthy: 60 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let minimum = u64::from(subject.upstream().failover.minimum_healthy);
            let targets = u64::try_from(subject.upstream().targets.len()).unwrap_or(u64::MAX);
            // The only target leaves nothing in any case, and a host name may stand for several.
            let is_several = targets > 1 && !has_names(subject);
            if is_several && 100 * (targets - 1) < minimum * targets {
                let message =
                    format!("one of {targets} targets down is below {minimum} %: all requests get 503");
                findings.report(&subject.place().key("failover").key("minimum_healthy"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US061"),
            why: "The file says that it has none, and none was added over REST: every request gets 503.",
            fix: "list targets, or add them over REST",
            bad: "upstreams: [{ name: shop, targets: [] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let place = subject.place().key("targets");
            let is_file = matches!(place.document.origin, Origin::File(_));
            let is_empty = subject.declared().targets.as_ref().is_some_and(Vec::is_empty);
            if is_file && is_empty && subject.upstream().targets.is_empty() {
                let name = &subject.upstream().name;
                findings.report(&place, format!("upstream `{name}` has no targets: every request gets 503"));
            }
        }),
    },
];

/// Returns the targets of the first tier, and those of all others.
fn tiers(subject: &UpstreamSubject) -> (&[Target], &[Target]) {
    let targets = subject.upstream().targets.as_slice();
    let first = targets.first().map_or(0, |first| first.tier);
    targets.split_at(targets.partition_point(|target| target.tier == first))
}

/// Returns each tier with the next one.
fn neighbouring_tiers(subject: &UpstreamSubject) -> impl Iterator<Item = (&[Target], &[Target])> {
    let tiers = || subject.upstream().targets.chunk_by(|one, next| one.tier == next.tier);
    tiers().zip(tiers().skip(1))
}

fn weight(tier: &[Target]) -> u64 {
    tier.iter().map(|target| u64::from(target.weight)).sum()
}

fn has_uneven_tier(subject: &UpstreamSubject) -> bool {
    let mut tiers = subject.upstream().targets.chunk_by(|one, next| one.tier == next.tier);
    tiers.any(|tier| tier.iter().any(|target| target.weight != tier[0].weight))
}

fn has_names(subject: &UpstreamSubject) -> bool {
    subject.upstream().targets.iter().any(|target| !matches!(target.address.host, Host::Ip(_)))
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(name) => name == "localhost",
        Host::Service(_) => false,
    }
}
