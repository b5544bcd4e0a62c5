//! Rules about shared targets: whether upstreams that have a target in common treat it alike.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::config::code;
use crate::memo::{MapChange, changes};
use crate::model::health::{HealthCheck, Probe};
use crate::model::name::Name;
use crate::model::target::Address;
use crate::model::upstream::Upstream;

pub(super) const RULES: &[LintRule] = &[
    LintRule {
        explanation: Explanation {
            code: code::of("US052"),
            why: "Each upstream has its own opinion of a target's health: one leaves a dead target, and the other goes on sending to it.",
            fix: "check the target alike in both, or use one upstream for both services",
            bad: "upstreams:\n  - { name: shop, targets: [{ target: 10.0.0.1:80 }] }\n  - { name: old, health_check: off, targets: [{ target: 10.0.0.1:80 }] }",
            good: "upstreams:\n  - { name: shop, targets: [{ target: 10.0.0.1:80 }] }\n  - { name: old, targets: [{ target: 10.0.0.1:80 }] }",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            if upstream.health_check.is_some() {
                return;
            }
            if let Some((other, address)) = subject
                .neighbours()
                .filter(|other| other.health_check.is_some())
                .find_map(|other| Some((other, common(upstream, other)?)))
            {
                let message = format!("{address} is checked in upstream `{}` and not here", other.name);
                findings.report(&subject.place().key("health_check"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US053"),
            why: "Two upstreams check the same host and port by different paths or protocols: they may come to different opinions, and a path that belongs to another service answers for that one.",
            fix: "check by the same path where one process serves both",
            bad: "upstreams:\n  - { name: shop, health_check: { http: { path: /shop } }, targets: [{ target: 10.0.0.1:80 }] }\n  - { name: cart, health_check: { http: { path: /cart } }, targets: [{ target: 10.0.0.1:80 }] }",
            good: "upstreams:\n  - { name: shop, health_check: { http: { path: /healthz } }, targets: [{ target: 10.0.0.1:80 }] }\n  - { name: cart, health_check: { http: { path: /healthz } }, targets: [{ target: 10.0.0.1:80 }] }",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            let Some(probe) = upstream.health_check.as_ref().map(probe_key) else { return };
            let differs = |other: &&Upstream| {
                other.health_check.as_ref().map(probe_key).is_some_and(|other| other != probe)
            };
            if let Some((other, address)) =
                subject.neighbours().filter(differs).find_map(|other| Some((other, common(upstream, other)?)))
            {
                let message = format!("{address} is checked in another way by upstream `{}`", other.name);
                findings.report(&subject.place().key("health_check"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US054"),
            why: "A standby that is a primary elsewhere carries both loads when it is needed.",
            fix: "leave room for both, or give the standby `limits`",
            bad: "upstreams:\n  - { name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }\n  - { name: cart, targets: [{ target: 10.0.0.2:80 }] }",
            good: "upstreams:\n  - { name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }\n  - { name: cart, targets: [{ target: 10.0.0.3:80 }] }",
        },
        check: LintCheck::Upstream(|subject, findings| {
            for target in subject.upstream().targets.iter().filter(|target| target.tier > 0) {
                let is_primary = |other: &&Upstream| {
                    other.targets.iter().any(|own| own.tier == 0 && own.address == target.address)
                };
                if let Some(other) = subject.neighbours().find(is_primary) {
                    let message = format!("{} is a primary of upstream `{}` too", target.address, other.name);
                    findings.report(&subject.place_of(&target.address), message);
                }
            }
        }),
    },
];

/// Returns a target address that both upstreams have.
fn common<'u>(upstream: &'u Upstream, other: &Upstream) -> Option<&'u Address> {
    let own = upstream.targets.iter().map(|target| &target.address);
    own.into_iter().find(|address| other.targets.iter().any(|target| target.address == **address))
}

/// Returns the protocol of a health check, its path or service, and its port; the interval does not matter.
fn probe_key(check: &HealthCheck) -> (&'static str, String, Option<u16>) {
    match &check.probe {
        Probe::Tcp { .. } => ("tcp", String::new(), check.port),
        Probe::Http { path, .. } => ("http", path.clone(), check.port),
        Probe::Grpc { service, .. } => ("grpc", service.clone(), check.port),
    }
}

/// Upstreams that have a target in common. It is updated incrementally, at the cost of what changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    /// Names of the upstreams that have a target, by its address.
    having: imbl::HashMap<Address, Arc<[Name]>>,
    /// Names of the neighbours of an upstream; one without neighbours has no entry.
    neighbours: imbl::HashMap<Name, BTreeSet<Name>>,
}

impl Neighbours {
    /// Updates the neighbours from `last` to `now`. Returns the upstreams that changed or have, or had, a
    /// neighbour that did.
    pub(super) fn update(
        &mut self,
        last: &OrdMap<Name, Arc<Upstream>>,
        now: &OrdMap<Name, Arc<Upstream>>,
    ) -> BTreeSet<Name> {
        let Self { having, neighbours } = self;
        let mut touched: BTreeSet<Name> = BTreeSet::new();
        for MapChange { key: name, old, new } in changes(last, now) {
            touched.insert(name.clone());
            for target in old.iter().flat_map(|upstream| &upstream.targets) {
                let Some(names) = having.remove(&target.address) else { continue };
                let others: Arc<[Name]> = names.iter().filter(|other| *other != name).cloned().collect();
                touched.extend(others.iter().cloned());
                if !others.is_empty() {
                    having.insert(target.address.clone(), others);
                }
            }
            for target in new.iter().flat_map(|upstream| &upstream.targets) {
                let others = having.get(&target.address).map_or(&[][..], |names| names);
                touched.extend(others.iter().cloned());
                if !others.contains(name) {
                    let names = others.iter().chain([name]).cloned().collect();
                    having.insert(target.address.clone(), names);
                }
            }
        }
        for name in &touched {
            let targets = now.get(name).into_iter().flat_map(|upstream| &upstream.targets);
            let others =
                targets.flat_map(|target| having[&target.address].iter()).filter(|other| *other != name);
            let others: BTreeSet<Name> = others.cloned().collect();
            if others.is_empty() {
                neighbours.remove(name);
            } else {
                neighbours.insert(name.clone(), others);
            }
        }
        touched
    }

    /// Returns the upstreams that have a target in common with this one, ascending by name.
    pub(super) fn of(&self, upstream: &Name) -> impl Iterator<Item = &Name> {
        self.neighbours.get(upstream).into_iter().flatten()
    }
}
