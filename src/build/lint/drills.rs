//! Rules about scheduled drills: whether they run at all.

use jiff::Timestamp;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::config::code;
use crate::model::selector::TargetSelector;

pub(super) const RULES: &[LintRule] = &[
    LintRule {
        explanation: Explanation {
            code: code::of("US055"),
            why: "A drill of something that no target of the upstream with traffic has is left out each time that it is due, the rest of it too: only the log and an event say so.",
            fix: "name what the upstream has: a target, region=R, zone=Z, sub_zone=S or priority=N",
            bad: "upstreams: [{ name: shop, drill: { schedule: \"0 3 * * 1\", down: [zone=b] }, targets: [{ target: 10.0.0.1:80, zone: a }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, drill: { schedule: \"0 3 * * 1\", down: [zone=a] }, targets: [{ target: 10.0.0.1:80, zone: a }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            // Other rules report an upstream without targets.
            let Some(drill) = upstream.drill.as_ref().filter(|_| !upstream.targets.is_empty()) else {
                return;
            };
            for (index, text) in drill.down.iter().enumerate() {
                if let Err((message, help)) = TargetSelector::parse(text, upstream) {
                    let place = subject.place().key("drill").key("down").index(index);
                    findings.report(&place, format!("{message}: {help}"));
                }
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US056"),
            why: "A drill that takes out all targets with traffic would lose every request, so it is left out each time that it is due: nothing is ever rehearsed.",
            fix: "add a standby, or take out less",
            bad: "upstreams: [{ name: shop, drill: { schedule: \"0 3 * * 1\" }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, drill: { schedule: \"0 3 * * 1\" }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            let Some(drill) = upstream.drill.as_ref().filter(|_| !upstream.targets.is_empty()) else {
                return;
            };
            let parts: Vec<TargetSelector> =
                drill.down.iter().filter_map(|text| TargetSelector::read(text).ok()).collect();
            if upstream.targets.iter().all(|target| parts.iter().any(|part| part.includes(target))) {
                let message = format!("`{}` is all that serves", drill.down.join("`, `"));
                findings.report(&subject.place().key("drill").key("down"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US057"),
            why: "No month has the day that the schedule names, such as February the 31st, so that nothing is ever rehearsed.",
            fix: "name a day that comes, such as \"0 3 28 2 *\"",
            bad: "upstreams: [{ name: shop, drill: { schedule: \"0 3 31 2 *\" }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, drill: { schedule: \"0 3 29 2 *\" }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(drill) = &subject.upstream().drill else { return };
            // A day that exists at all has occurred since the epoch.
            if drill.next(Timestamp::UNIX_EPOCH).is_none() {
                let message = format!("`{}` names no day that comes", drill.schedule);
                findings.report(&subject.place().key("drill").key("schedule"), message);
            }
        }),
    },
];
