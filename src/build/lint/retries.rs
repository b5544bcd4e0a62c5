//! Rules about retries: whether a request survives the death of its target, and the cost of that.

use std::time::Duration;

use crate::build::lint::detection::time;
use crate::build::lint::estimate;
use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::build::lint::subject::CallerSubject;
use crate::config::code;
use crate::config::document::service::MethodsOnce;
use crate::model::service::RequestPolicy;
use crate::model::upstream::Upstream;

pub(super) const RULES: &[LintRule] = &[
    LintRule {
        explanation: Explanation {
            code: code::of("US034"),
            why: "Between the death of a target and its detection its requests fail. Measured without retries: 42 to 201 when it is killed, 150 to 272 when it freezes, with checks every second and 300 requests a second.",
            fix: "leave out `retries: off`: only what surely had no effect is repeated by default",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: off }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { methods_once: never } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let declares =
                subject.declares(|service| service.retries.is_some(), |route| route.retries.is_some());
            if declares && subject.caller().policy().retries.is_none() && subject.caller().tries().targets > 1
            {
                findings.report(
                    &subject.place().key("retries"),
                    "no request is tried again when its target dies".to_owned(),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US035"),
            why: "A retry moves to the next tier after one try, or after two where each tier before the last has two targets. With fewer retries than that a request whose primaries are dead and not yet ejected never comes to the last tier.",
            fix: "leave out `attempts`: it is enough for every target then",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]\nservices: [{ name: shop, upstream: shop, retries: { attempts: 1 } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]\nservices: [{ name: shop, upstream: shop, retries: { attempts: 2 } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let tries = subject.caller().tries();
            let needed = tries.update_frequency * tries.tiers.saturating_sub(1);
            if declares_retries(subject) && tries.retries > 0 && tries.retries < needed {
                let message =
                    format!("{} retries do not reach the last tier: that takes {needed}", tries.retries);
                findings.report(&subject.place().key("retries").key("attempts"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US036"),
            why: "When all targets but one die at once a request may meet each of them. Measured with 3 retries: 5 of 6 targets dying failed 5 of 60 requests; with 10 none.",
            fix: "leave out `attempts`: it is enough for every target then, up to 10",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { attempts: 1 } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { attempts: 2 } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let tries = subject.caller().tries();
            if declares_retries(subject)
                && tries.retries > 0
                && tries.retries < (tries.targets.saturating_sub(1)).min(10)
            {
                let message = format!("{} retries for {} targets", tries.retries, tries.targets);
                findings.report(&subject.place().key("retries").key("attempts"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US037"),
            why: "A request to a frozen target waits for its try; if that ends with the request, there is no time left for another.",
            fix: "leave out `try_timeout`, or make it a fraction of `timeout`",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, timeout: 5s, try_timeout: 5s }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, timeout: 5s, try_timeout: 2s }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let policy = subject.caller().policy();
            let Some(try_timeout) = subject.caller().tries().try_timeout else { return };
            if declares_timeouts(subject) && !policy.timeout.is_zero() && try_timeout >= policy.timeout {
                let message = format!(
                    "a try of {} leaves nothing of the timeout of {}",
                    time(try_timeout),
                    time(policy.timeout)
                );
                findings.report(&subject.place().key("try_timeout"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US038"),
            why: "When all primaries froze, a request tries some of them first, one `try_timeout` each. If that takes as long as `timeout`, it never comes to the last tier.",
            fix: "leave out `try_timeout`, or shorten it",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]\nservices: [{ name: shop, upstream: shop, timeout: 4s, try_timeout: 2s }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]\nservices: [{ name: shop, upstream: shop, timeout: 4s, try_timeout: 1s }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let (policy, tries) = (subject.caller().policy(), subject.caller().tries());
            let Some(try_timeout) = tries.try_timeout else { return };
            let before = try_timeout * tries.update_frequency * tries.tiers.saturating_sub(1);
            let in_time = policy.timeout.is_zero() || before < policy.timeout;
            if declares_timeouts(subject) && tries.tiers > 1 && try_timeout < policy.timeout && !in_time {
                let message = format!(
                    "the last tier is tried after {}, and the timeout is {}",
                    time(before),
                    time(policy.timeout)
                );
                findings.report(&subject.place().key("try_timeout"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US039"),
            why: "While a connection is being made no try timeout runs. Measured with dropped packets and a `try_timeout` of 250 ms: at most 280 ms with a `connect_timeout` of 250 ms, 1,044 ms with 1 s.",
            fix: "leave out `connect_timeout`: it is never longer than a try then",
            bad: "upstreams: [{ name: shop, connect_timeout: 1s, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, try_timeout: 250ms }]",
            good: "upstreams: [{ name: shop, connect_timeout: 1s, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, try_timeout: 2s }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let Some(try_timeout) = subject.caller().tries().try_timeout else { return };
            let connect =
                subject.caller().service().upstreams().map(|upstream| upstream.connect_timeout).max();
            if let Some(connect) =
                connect.filter(|connect| *connect > try_timeout && declares_timeouts(subject))
            {
                let message = format!(
                    "a connection may take {}, longer than a try of {}",
                    time(connect),
                    time(try_timeout)
                );
                findings.report(&subject.place().key("try_timeout"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US040"),
            why: "Without a `try_timeout` a request to a frozen target waits for its whole timeout, and for ever without one; and neither a TCP check nor outlier detection sees that the target does not answer. Measured: 1,503 errors in 5 s, against none.",
            fix: "set `try_timeout` to what the slowest good answer takes, or check with `http` or `grpc`",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, timeout: 0s }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, timeout: 0s, try_timeout: 30s }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let tries = subject.caller().tries();
            let sees =
                |upstream: &Upstream| upstream.health_check.as_ref().is_some_and(estimate::sees_a_freeze);
            if subject.caller().service().upstreams().all(|upstream| sees(upstream)) {
                return;
            }
            if declares_timeouts(subject)
                && tries.retries > 0
                && tries.targets > 1
                && tries.try_timeout.is_none()
                && subject.caller().policy().try_idle_timeout.is_zero()
            {
                let message = "a request to a frozen target is never given up to try another".to_owned();
                let key = if subject.declares(|it| it.try_timeout.is_some(), |it| it.try_timeout.is_some()) {
                    "try_timeout"
                } else {
                    "timeout"
                };
                findings.report(&subject.place().key(key), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US041"),
            why: "How fast a service answers is not known, so a try is given up late: a healthy but slow answer must not be cut. Until then requests to a frozen target wait. Measured with a try of 5 s: no errors, all well after 5.05 s, the slowest answer after 10 s; with 250 ms after 0.27 s.",
            fix: "if good answers never take that long, say how long with `try_timeout`, such as 250ms",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, try_timeout: 1s }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let tries = subject.caller().tries();
            let policy = subject.caller().policy();
            let declares_try_timeout = policy.try_timeout.is_some();
            let is_service = !subject.declares(|_| false, |_| true);
            let silence = Some(policy.try_idle_timeout).filter(|silence| !silence.is_zero());
            if let Some(try_timeout) = tries.try_timeout.into_iter().chain(silence).min()
                && is_service
                && !declares_try_timeout
                && tries.targets > 1
                && try_timeout > Duration::from_secs(1)
            {
                let message = format!("requests to a target that freezes wait for {}", time(try_timeout));
                findings.report(&subject.place().key("try_timeout"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US042"),
            why: "A good answer that takes longer than its try is cut, tried again and counted against its target. Measured with a try of 250 ms and answers of 1 s: 504 to the client, and six such requests ejected the standby too.",
            fix: "let `try_timeout` be longer than the slowest good answer in a thousand",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, try_timeout: 20ms }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, try_timeout: 250ms }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let Some(try_timeout) = subject.caller().tries().try_timeout else { return };
            if declares_timeouts(subject) && try_timeout < Duration::from_millis(50) {
                let message = format!(
                    "an answer that takes longer than {} is cut and counts as a failure",
                    time(try_timeout)
                );
                findings.report(&subject.place().key("try_timeout"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US043"),
            why: "When a target is killed its connections are reset and new ones refused. Without `5xx`, `connect_failure` or `reset` among the conditions those requests fail. Measured with `connect_failure` and 503 alone: 158 errors in a freeze.",
            fix: "leave out `retry_on`, or name `5xx`, `reset` and `connect_failure`",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { retry_on: [retriable_4xx] } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { retry_on: [reset, connect_failure] } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            if let Some(retries) = &subject.caller().policy().retries
                && declares_retries(subject)
            {
                let has = |word: &str| retries.retry_on.iter().any(|own| own == word);
                let covered = has("5xx") || (has("connect-failure") && has("reset"));
                if !covered {
                    let message =
                        "requests whose connection is refused or reset are not all tried again".to_owned();
                    findings.report(&subject.place().key("retries").key("retry_on"), message);
                }
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US044"),
            why: "A target that begins to answer 503 is ejected after some of them; these go to clients if no condition covers them.",
            fix: "name `5xx` or `gateway_error` in `retry_on`, or 503 in `statuses`",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { retry_on: [reset, connect_failure] } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { retry_on: [reset, connect_failure], statuses: [503] } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            if let Some(retries) = &subject.caller().policy().retries
                && declares_retries(subject)
            {
                let has = |word: &str| retries.retry_on.iter().any(|own| own == word);
                if !has("5xx")
                    && !has("gateway-error")
                    && !has("unavailable")
                    && !retries.statuses.contains(&503)
                {
                    let message = "a 503 of a failing target goes to the client".to_owned();
                    findings.report(&subject.place().key("retries").key("retry_on"), message);
                }
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US045"),
            why: "With `methods_once: always` a POST whose answer was lost is sent again, to another target: an order may be placed twice.",
            fix: "leave `methods_once` at `safe`, or be sure that the service recognises repetitions",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { methods_once: always } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { methods_once: safe } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let retries = subject.caller().policy().retries.as_ref();
            if declares_retries(subject)
                && retries.is_some_and(|retries| retries.methods_once == MethodsOnce::Always)
            {
                let message = "a POST whose answer was lost is executed again".to_owned();
                findings.report(&subject.place().key("retries").key("methods_once"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US046"),
            why: "A status below 400 is an answer, and the same one comes from every target: each such request costs all its tries.",
            fix: "name statuses that another target may not give, such as 503",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { statuses: [302] } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { statuses: [429] } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let statuses = subject.caller().policy().retries.iter().flat_map(|retries| &retries.statuses);
            if let Some(status) = statuses.copied().find(|status| *status < 400)
                && declares_retries(subject)
            {
                findings.report(
                    &subject.place().key("retries").key("statuses"),
                    format!("{status} is no failure"),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US047"),
            why: "A body that is longer than `body` is not kept, and its request silently not tried again. Measured with a body of 2 MB over the limit: 503 to the client; under it 200.",
            fix: "let `body` be as large as the largest body that must survive",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { body: 4KiB } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { body: 1MiB } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let body = subject.caller().policy().retries.as_ref().map(|retries| retries.body);
            if let Some(body) = body.filter(|body| *body < 64 << 10 && declares_retries(subject)) {
                let message = format!("a request with a body of more than {body} bytes is not tried again");
                findings.report(&subject.place().key("retries").key("body"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US048"),
            why: "The back-off is there for a target that needs a moment; another target does not. With a base of a second every request that meets a dead target takes a second more, while the default of 5 ms adds 12 to 25.",
            fix: "leave out `back_off`",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { back_off: { base: 2s, max: 5s } } }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, retries: { back_off: { base: 20ms, max: 1s } } }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            let base = subject.caller().policy().retries.as_ref().map(|retries| retries.back_off_base);
            if let Some(base) =
                base.filter(|base| *base >= Duration::from_millis(500) && declares_retries(subject))
            {
                findings.report(
                    &subject.place().key("retries").key("back_off"),
                    format!("a retry waits for up to {}", time(base)),
                );
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US049"),
            why: "It is read and never used, as are what it says of times and retries.",
            fix: "route to it, or remove it",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: shop, service: shop }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            if subject.is_unused() {
                let message = format!("no route leads to service `{}`", subject.caller().service().name);
                findings.report(&subject.place().key("name"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US059"),
            why: "Silence of a target ends a try after `try_idle_timeout`. As long as `try_timeout` or `timeout` it ends nothing that they do not; shorter than a good answer takes to begin it cuts that one, tries it again and counts it against its target.",
            fix: "let it be longer than the longest silence of a good answer, and shorter than a try; `timeout: 0s` lets answers take as long as they go on",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, timeout: 10s, try_idle_timeout: 60s }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }] }]\nservices: [{ name: shop, upstream: shop, timeout: 0s, try_idle_timeout: 60s }]",
        },
        check: LintCheck::Caller(|subject, findings| {
            if let Some(message) = silence(subject) {
                findings.report(&subject.place().key("try_idle_timeout"), message);
            }
        }),
    },
];

/// Returns the message on a limit of silence that hurts.
fn silence(subject: &CallerSubject) -> Option<String> {
    let RequestPolicy { timeout, try_idle_timeout: silence, .. } = *subject.caller().policy();
    if silence.is_zero() || !subject.declares(|service| service.try_idle_timeout.is_some(), |_| false) {
        return None;
    }
    let tries = subject.caller().tries();
    let whole = Some(timeout).filter(|timeout| !timeout.is_zero());
    let longest = tries.try_timeout.into_iter().chain(whole).min();
    if let Some(longest) = longest.filter(|longest| silence >= *longest) {
        return Some(format!(
            "a silence of {} is never reached: a try ends after {}",
            time(silence),
            time(longest)
        ));
    }
    let is_short = silence < Duration::from_millis(50);
    is_short.then(|| {
        format!("an answer that takes longer than {} to begin is cut and counts as a failure", time(silence))
    })
}

/// Returns true if findings about retries are reported here: always for a service, for a route only if it
/// declares `retries`. Inherited retries are reported for the service.
fn declares_retries(subject: &CallerSubject) -> bool {
    subject.declares(|_| true, |route| route.retries.is_some())
}

fn declares_timeouts(subject: &CallerSubject) -> bool {
    subject.declares(|_| true, |route| route.timeout.is_some() || route.try_timeout.is_some())
}
