//! Rules about detection: whether a dead target is noticed, and how soon.

use std::time::Duration;

use crate::build::lint::estimate;
use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::build::lint::subject::UpstreamSubject;
use crate::config::code;
use crate::config::document::upstream::WhenAllDown;
use crate::config::values;
use crate::model::health::Probe;

const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"];

pub(super) const RULES: &[LintRule] = &[
    LintRule {
        explanation: Explanation {
            code: code::of("US001"),
            why: "Without health checks and without outlier detection every target counts as healthy for ever: no tier is ever left, and a standby never serves but for a retry. Every request to a frozen target waits for its try.",
            fix: "leave out `health_check: off` or `outlier_detection: off`: the defaults are safe for any service",
            bad: "upstreams: [{ name: shop, health_check: off, outlier_detection: off, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            let alone = upstream.targets.len() == 1;
            if !alone && upstream.health_check.is_none() && upstream.outlier_detection.is_none() {
                let message = format!("nothing finds out that a target of `{}` is dead", upstream.name);
                findings.report(&subject.place().key("health_check"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US002"),
            why: "Without health checks a standby that died long ago is noticed when it is needed, and a target that was ejected is tried again with live requests.",
            fix: "leave out `health_check: off`; a TCP check needs nothing of the service",
            bad: "upstreams: [{ name: shop, health_check: off, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, health_check: { tcp: {} }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            let has_standby = subject.tiers().len() > 1;
            if has_standby && upstream.health_check.is_none() && upstream.outlier_detection.is_some() {
                let message =
                    format!("no check looks at the standby of `{}` before it is needed", upstream.name);
                findings.report(&subject.place().key("health_check"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US003"),
            why: "Measured without outlier detection: a target that answers its checks and 503 to everybody else, resets or hangs failed all of its requests until somebody looked. With it, 2 did before it was ejected.",
            fix: "leave out `outlier_detection: off`",
            bad: "upstreams: [{ name: shop, outlier_detection: off, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, outlier_detection: { consecutive_5xx: 3 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            if upstream.outlier_detection.is_none()
                && upstream.health_check.is_some()
                && upstream.targets.len() > 1
            {
                let message =
                    format!("a target of `{}` that only fails requests keeps its traffic", upstream.name);
                findings.report(&subject.place().key("outlier_detection"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US004"),
            why: "A frozen process accepts connections, so a TCP check passes; and a POST has no try timeout by which its silence would count. Measured: of 427 POSTs to frozen targets 325 timed out after 10 s, and it did not stop.",
            fix: "check with `http` or `grpc`, or with `tcp` and what it sends and receives",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop }]",
            good: "upstreams: [{ name: shop, health_check: { http: { path: /healthz } }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            let blind = upstream.health_check.as_ref().is_some_and(|check| !estimate::sees_a_freeze(check));
            let others = |method: &str| !IDEMPOTENT.contains(&method);
            if blind && subject.callers().iter().any(|caller| caller.accepts_method(others)) {
                let message = format!(
                    "a frozen target of `{}` is not noticed by POSTs, nor by its TCP check",
                    upstream.name
                );
                findings.report(&subject.place().key("health_check"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US005"),
            why: "`max_ejection_percent` counts the targets of all tiers together, and one of few is already more than a small cap allows. Measured with a cap of 10: of 2+2, 2+1 and 3+1 targets none was ever ejected.",
            fix: "leave `max_ejection_percent` at 100: when all are ejected, all are tried",
            bad: "upstreams: [{ name: shop, outlier_detection: { max_ejection_percent: 10 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, outlier_detection: { max_ejection_percent: 100 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if let Some((cap, ejected)) = ejectable(subject)
                && ejected == 0
            {
                let count = subject.upstream().targets.len();
                let message = format!("a cap of {cap} % of {count} targets ejects nobody");
                findings.report(&cap_place(subject), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US006"),
            why: "`max_ejection_percent` counts the targets of all tiers together. Measured with a cap of 50: the last primary of 2+1 and of 3+1 targets stayed in, with its share of the traffic, though it was dead.",
            fix: "leave `max_ejection_percent` at 100: when all are ejected, all are tried",
            bad: "upstreams: [{ name: shop, outlier_detection: { max_ejection_percent: 50 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]",
            good: "upstreams: [{ name: shop, outlier_detection: { max_ejection_percent: 70 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let tiers = subject.tiers();
            let Some((cap, ejected)) = ejectable(subject) else { return };
            if tiers.len() > 1 && (1..tiers[0]).contains(&ejected) {
                let message = format!(
                    "a cap of {cap} % ejects {ejected} of {} primaries: the standby never serves by it",
                    tiers[0]
                );
                findings.report(&cap_place(subject), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US007"),
            why: "Without traffic Envoy checks at `idle_interval`. Measured with 60 s, its own default: no check in 6 s, and the first 40 of 40 requests after the failure failed.",
            fix: "leave out `idle_interval`: it is `interval` then",
            bad: "upstreams: [{ name: shop, health_check: { tcp: {}, idle_interval: 1m }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, health_check: { tcp: {}, idle_interval: 2s }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(check) = &subject.upstream().health_check else { return };
            if check.idle_interval >= Duration::from_secs(10) && check.idle_interval > check.interval {
                let message =
                    format!("without traffic targets are checked every {} only", time(check.idle_interval));
                findings.report(&subject.place().key("health_check").key("idle_interval"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US008"),
            why: "A check finds a target dead after `unhealthy_threshold` times `interval` and `timeout`: that long it gets what is not retried, such as POSTs.",
            fix: "shorten `interval`: a check every second of 1,000 targets was 2 % of a core",
            bad: "upstreams: [{ name: shop, health_check: { tcp: {}, interval: 15s }, targets: [{ target: 10.0.0.1:80 }] }]",
            good: "upstreams: [{ name: shop, health_check: { tcp: {}, interval: 5s }, targets: [{ target: 10.0.0.1:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(check) = &subject.upstream().health_check else { return };
            let longest = check.unhealthy_threshold * (check.interval + check.timeout);
            if longest > Duration::from_secs(20) {
                let message = format!("checks take up to {} to find a dead target", time(longest));
                findings.report(&subject.place().key("health_check").key("interval"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US009"),
            why: "With `split_external_local_origin_errors` a frozen or resetting target is not ejected, since it still accepts connections. Measured with a threshold of 5: stable after 0.9 to 2.8 s by the health check alone, against 0.27 s without the split.",
            fix: "leave `split_external_local_origin_errors` false",
            bad: "upstreams: [{ name: shop, outlier_detection: { split_external_local_origin_errors: true }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, outlier_detection: { split_external_local_origin_errors: false }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(detection) = &subject.upstream().outlier_detection else { return };
            if detection.split_external_local_origin_errors && detection.consecutive_local_origin_failure > 1
            {
                let message =
                    "a frozen target still accepts connections, and each resets this count".to_owned();
                let place =
                    subject.place().key("outlier_detection").key("split_external_local_origin_errors");
                findings.report(&place, message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US010"),
            why: "One request that fails everywhere ejects as many targets as it has tries, of every tier. Measured with a threshold of 1 and `when_all_down: fail`: after one such request 1,204 of 1,600 others failed. With 5 none did, and ejection was hardly later.",
            fix: "leave the threshold at 5; 3 is enough",
            bad: "upstreams: [{ name: shop, outlier_detection: { consecutive_5xx: 1 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, outlier_detection: { consecutive_5xx: 3 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(detection) = &subject.upstream().outlier_detection else { return };
            let counts = [
                ("consecutive_5xx", detection.consecutive_5xx),
                ("consecutive_gateway_failure", detection.consecutive_gateway_failure),
            ];
            for (key, _) in counts.into_iter().filter(|(_, count)| *count == 1) {
                let message =
                    "one request that fails everywhere ejects a target with each of its tries".to_owned();
                findings.report(&subject.place().key("outlier_detection").key(key), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US011"),
            why: "With `health_check_returns_ejected` a target whose checks pass while it answers 503 is tried with live requests after every check. Measured: 26 ejections in 12 s, against 4 without.",
            fix: "leave `health_check_returns_ejected` false",
            bad: "upstreams: [{ name: shop, outlier_detection: { health_check_returns_ejected: true }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, outlier_detection: { health_check_returns_ejected: false }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let upstream = subject.upstream();
            let returns =
                upstream.outlier_detection.as_ref().is_some_and(|it| it.health_check_returns_ejected);
            if returns && upstream.health_check.is_some() {
                let message =
                    "a target that only fails requests is tried with live ones after every check".to_owned();
                findings.report(
                    &subject.place().key("outlier_detection").key("health_check_returns_ejected"),
                    message,
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US012"),
            why: "An ejection ends after `base_ejection_time` times how often it happened, at most `max_ejection_time`, whether the target has recovered or not. Until then the standby carries its load.",
            fix: "leave them at 10s and 30s, or set `max_ejection_time` to what the standby can carry",
            bad: "upstreams: [{ name: shop, outlier_detection: { base_ejection_time: 10m }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, outlier_detection: { base_ejection_time: 1m }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(detection) = &subject.upstream().outlier_detection else { return };
            if detection.max_ejection_time > Duration::from_secs(300) {
                let message = format!(
                    "a target that recovered stays out for up to {}",
                    time(detection.max_ejection_time)
                );
                findings.report(&subject.place().key("outlier_detection").key("base_ejection_time"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US013"),
            why: "A target is back after `healthy_threshold` times `interval`. Measured with a target up and down for 1.5 s each: 10 switches with 1 at 1 s, 2 with 5 at 0.5 s.",
            fix: "let `healthy_threshold` times `interval` be longer than a restart takes",
            bad: "upstreams: [{ name: shop, health_check: { tcp: {}, healthy_threshold: 1 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
            good: "upstreams: [{ name: shop, health_check: { tcp: {}, healthy_threshold: 3 }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(check) = &subject.upstream().health_check else { return };
            let back = check.healthy_threshold * check.interval;
            if back < Duration::from_secs(2) {
                let message = format!("a target is back {} after it came up", time(back));
                findings.report(&subject.place().key("health_check").key("healthy_threshold"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US014"),
            why: "A target that answers its check with 500 or 503 says that it is not well. If that status is expected it gets traffic all the same.",
            fix: "expect what a healthy target answers, such as \"200-299\"",
            bad: "upstreams: [{ name: shop, health_check: { http: { path: /healthz, expected: [\"200-599\"] } }, targets: [{ target: 10.0.0.1:80 }] }]",
            good: "upstreams: [{ name: shop, health_check: { http: { path: /healthz, expected: [\"200-399\"] } }, targets: [{ target: 10.0.0.1:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(check) = &subject.upstream().health_check else { return };
            if let Probe::Http { expected, .. } = &check.probe
                && expected.iter().any(|(_, last)| *last >= 500)
            {
                let message = "a target that answers its check with an error of its own passes it".to_owned();
                findings.report(&subject.place().key("health_check").key("http").key("expected"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US015"),
            why: "What listens on the port of the check may live while what listens on the target's own is dead: a sidecar answers for a service.",
            fix: "leave out `port`, or be sure that both are one process; outlier detection sees the rest",
            bad: "upstreams: [{ name: shop, health_check: { tcp: {}, port: 9000 }, targets: [{ target: 10.0.0.1:80 }] }]",
            good: "upstreams: [{ name: shop, health_check: { tcp: {} }, targets: [{ target: 10.0.0.1:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(port) = subject.upstream().health_check.as_ref().and_then(|check| check.port) else {
                return;
            };
            if subject.upstream().targets.iter().any(|target| target.address.port != port) {
                let message = format!("port {port} is checked, which is not the one that serves");
                findings.report(&subject.place().key("health_check").key("port"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US016"),
            why: "With `when_all_down: fail` requests get 503 until a check passes or an ejection ends. Measured when all were gone for 2 s: first success 8.8 s after one was back and 1,755 errors, against 0.05 s and 11 with `try_all`.",
            fix: "leave `when_all_down` at `try_all` unless a dead target must not be asked",
            bad: "upstreams: [{ name: shop, failover: { when_all_down: fail }, targets: [{ target: 10.0.0.1:80 }] }]",
            good: "upstreams: [{ name: shop, failover: { when_all_down: try_all }, targets: [{ target: 10.0.0.1:80 }] }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            if subject.upstream().failover.when_all_down == WhenAllDown::Fail {
                let message =
                    "when all targets are down requests fail until a check passes or an ejection ends"
                        .to_owned();
                findings.report(&subject.place().key("failover").key("when_all_down"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US017"),
            why: "From the settings follows how long traffic stays with a target that stopped, became unreachable or froze, at worst; `failover.objective` says how long that may be.",
            fix: "shorten `interval`, `timeout` or `unhealthy_threshold` of an `http` or `grpc` check, or the `try_timeout` of the services",
            bad: "upstreams: [{ name: shop, failover: { objective: 2s }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]\nservices: [{ name: shop, upstream: shop }]",
            good: "upstreams: [{ name: shop, failover: { objective: 2s }, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]\nservices: [{ name: shop, upstream: shop, try_timeout: 250ms }]",
        },
        check: LintCheck::Upstream(|subject, findings| {
            let Some(objective) = subject.upstream().failover.objective else { return };
            let estimate = estimate::of(subject);
            if estimate.worst().is_some_and(|worst| worst <= objective) {
                return;
            }
            let delay = |kind: &str, after: Option<Duration>| match after {
                Some(after) if after <= objective => None,
                Some(after) => Some(format!("{kind} target for up to {}", time(after))),
                None => Some(format!("{kind} target for ever")),
            };
            let delays: Vec<String> = [
                delay("a stopped", estimate.stopped),
                delay("an unreachable", estimate.unreachable),
                delay("a frozen", estimate.frozen),
            ]
            .into_iter()
            .flatten()
            .collect();
            let message = format!(
                "traffic stays with {}; the objective is {}",
                delays.join(", with "),
                time(objective)
            );
            findings.report(&subject.place().key("failover").key("objective"), message);
        }),
    },
];

/// Returns the ejection cap in percent, and the number of targets that it allows to be ejected. None without
/// outlier detection or without targets.
fn ejectable(subject: &UpstreamSubject) -> Option<(u32, usize)> {
    let upstream = subject.upstream();
    let cap = upstream.outlier_detection.as_ref()?.max_ejection_percent;
    (!upstream.targets.is_empty()).then(|| (cap, upstream.targets.len() * cap as usize / 100))
}

fn cap_place(subject: &UpstreamSubject) -> crate::model::place::FaultPlace<'_> {
    subject.place().key("outlier_detection").key("max_ejection_percent")
}

/// Formats a duration as the config writes it, except that a duration above one second with a fraction is
/// rounded to a tenth of a second.
pub(super) fn time(duration: Duration) -> String {
    let is_plain = duration.as_secs() == 0 || duration.subsec_millis() == 0;
    if is_plain { values::Duration(duration).to_string() } else { format!("{:.1}s", duration.as_secs_f64()) }
}
