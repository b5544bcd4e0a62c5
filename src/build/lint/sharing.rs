//! Rules about shared targets: whether upstreams that have a target in common treat it alike.

use crate::build::lint::explanation::Explanation;
use crate::build::lint::neighbours::Neighbour;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::config::code;

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
            if subject.upstream().health_check.is_some() {
                return;
            }
            if let Some(Neighbour { upstream, address }) = &subject.neighbours().checked_otherwise {
                let message = format!("{address} is checked in upstream `{upstream}` and not here");
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
            if subject.upstream().health_check.is_none() {
                return;
            }
            if let Some(Neighbour { upstream, address }) = &subject.neighbours().checked_otherwise {
                let message = format!("{address} is checked in another way by upstream `{upstream}`");
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
            let neighbours = &subject.neighbours().primary_elsewhere;
            let places = subject.places_of(neighbours.iter().map(|neighbour| &neighbour.address));
            for (Neighbour { upstream, address }, place) in neighbours.iter().zip(places) {
                findings.report(&place, format!("{address} is a primary of upstream `{upstream}` too"));
            }
        }),
    },
];
