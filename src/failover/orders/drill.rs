//! Rehearsed failover: some targets count as down for a while, and the effect is recorded.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::printable::printable;
use crate::failover::orders::time::Timed;
use crate::model::name::Name;
use crate::model::selector::TargetSelector;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Minimum number of requests before their errors can abort a drill.
const MIN_REQUESTS: u64 = 20;

/// Drill, running or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillRun {
    /// Name of the upstream.
    pub upstream: Name,
    /// Targets that count as down.
    pub down: Vec<TargetSelector>,
    /// Name of the client that began it, or `schedule`.
    pub author: String,
    /// Reason for the drill, if one was given.
    #[serde(default)]
    pub purpose: Option<String>,
    /// Time at which it began.
    pub started: Timestamp,
    /// Time at which it ends by itself.
    pub until: Timestamp,
    /// Time at which it ended; none while it runs.
    pub ended: Option<Timestamp>,
    /// State of the drill.
    pub state: DrillState,
    /// Reason of the end, if it ended before its time.
    pub reason: Option<String>,
    /// Percentage of failed requests above which it is aborted.
    pub error_rate: f64,
    /// Seconds until the traffic of an Envoy had moved, by node.
    pub shift_seconds: BTreeMap<String, f64>,
    /// Ids of the Envoys that sent traffic when it began.
    pub nodes: Vec<String>,
    /// Requests to targets since it began.
    pub requests: u64,
    /// Requests that a target failed.
    pub errors: u64,
    /// Percentage of the requests by target, last seen.
    pub share: BTreeMap<String, f64>,
    /// Percentage of the requests by target, before it began.
    pub share_before: BTreeMap<String, f64>,
    /// Mean duration of a try since it began, in milliseconds; none if unknown.
    #[serde(default)]
    pub latency: Option<f64>,
    /// Mean duration of a try in the minute or two before it began, in milliseconds; none if unknown.
    #[serde(default)]
    pub latency_before: Option<f64>,
}

/// State of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillState {
    /// The targets count as down.
    Running,
    /// The drill ran its full time.
    Done,
    /// The drill ended early: because of errors, by request of an operator, or because it could not go on.
    Aborted,
    /// The control plane restarted while the drill ran, so that nothing watched it.
    Reverted,
}

impl DrillState {
    /// Returns the word of the state in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Reverted => "reverted",
        }
    }
}

/// Observations of an upstream since a drill began.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrillObservations {
    /// Requests to targets.
    pub requests: u64,
    /// Requests that a target failed.
    pub errors: u64,
    /// Percentage of recent requests by target; empty if there were none.
    pub share: BTreeMap<String, f64>,
    /// Mean duration of a try, in milliseconds; none if unknown.
    pub latency: Option<f64>,
}

impl DrillRun {
    /// Returns a running drill that began at `started`.
    pub fn begin(
        upstream: Name,
        down: Vec<TargetSelector>,
        started: Timestamp,
        until: Timestamp,
        error_rate: f64,
        author: String,
    ) -> Self {
        Self {
            upstream,
            down,
            author,
            purpose: None,
            started,
            until,
            ended: None,
            state: DrillState::Running,
            reason: None,
            error_rate,
            shift_seconds: BTreeMap::new(),
            nodes: Vec::new(),
            requests: 0,
            errors: 0,
            share: BTreeMap::new(),
            share_before: BTreeMap::new(),
            latency: None,
            latency_before: None,
        }
    }

    /// True until it ends.
    pub fn is_running(&self) -> bool {
        self.state == DrillState::Running
    }

    /// Records that the traffic of an Envoy moved. Only the first time counts.
    pub fn record_shift(&mut self, node: &str, at: Timestamp) {
        let seconds = at.duration_since(self.started).as_secs_f64().max(0.0);
        self.shift_seconds.entry(node.to_owned()).or_insert((seconds * 100.0).round() / 100.0);
    }

    /// True if the traffic of an Envoy has moved.
    pub fn has_shifted(&self, node: &str) -> bool {
        self.shift_seconds.contains_key(node)
    }

    /// True if the drill takes the target down.
    pub fn includes(&self, target: &Target) -> bool {
        self.down.iter().any(|selector| selector.includes(target))
    }

    /// True if the drill takes down all targets of a declared tier. Always false with locality failover,
    /// since Envoys then count other tiers than the declared ones.
    pub fn takes_down(&self, upstream: &Upstream, tier: u32) -> bool {
        let of_tier = || upstream.targets.iter().filter(|target| target.tier == tier);
        !upstream.failover.locality && of_tier().next().is_some() && of_tier().all(|it| self.includes(it))
    }

    /// Takes in observations. Aborts the drill if too many requests failed, and ends it when its time is
    /// over.
    pub fn observe(&mut self, now: Timestamp, observations: DrillObservations) {
        let DrillObservations { requests, errors, share, latency } = observations;
        (self.requests, self.errors, self.latency) = (requests, errors, latency);
        if !share.is_empty() {
            self.share = share;
        }
        let percent = |count: u64, whole: u64| 100.0 * to_f64(count) / to_f64(whole.max(1));
        if requests >= MIN_REQUESTS && percent(errors, requests) > self.error_rate {
            let reason = format!("{errors} of {requests} requests failed");
            self.end(now, DrillState::Aborted, Some(reason));
        } else if now >= self.until {
            self.end(now, DrillState::Done, None);
        }
    }

    /// Aborts the drill.
    pub fn abort(&mut self, now: Timestamp, reason: String) {
        self.end(now, DrillState::Aborted, Some(reason));
    }

    /// Ends the drill as reverted, since nothing watched it.
    pub fn revert(&mut self, now: Timestamp, reason: &str) {
        self.end(now, DrillState::Reverted, Some(reason.to_owned()));
    }

    /// Returns the report of the drill, in Markdown.
    pub fn markdown(&self, id: u64) -> String {
        let down: Vec<String> = self.down.iter().map(ToString::to_string).collect();
        let ended = self.ended.map_or_else(|| "it runs".to_owned(), |at| at.to_string());
        let mut text = format!(
            "# Drill {id} of `{}`\n\n\
             - State: {}\n- Down: {}\n- Started: {} by {}\n- Ended: {ended}\n\
             - Requests: {}, of which failed: {} (limit {} %)\n",
            self.upstream,
            self.state.word(),
            down.join(", "),
            self.started,
            printable(&self.author),
            self.requests,
            self.errors,
            self.error_rate,
        );
        if let Some(purpose) = &self.purpose {
            text += &format!("- Purpose: {}\n", printable(purpose));
        }
        if let Some(reason) = &self.reason {
            text += &format!("- Reason: {}\n", printable(reason));
        }
        let latency = |of: Option<f64>| of.map_or_else(|| "not known".to_owned(), |of| format!("{of:.1} ms"));
        let (before, during) = (latency(self.latency_before), latency(self.latency));
        text += &format!("- A request took: {before} before, {during} during (mean)\n");
        text += "\n| Envoy | traffic had moved, by its report, after |\n|---|---|\n";
        for (node, seconds) in &self.shift_seconds {
            text += &format!("| {node} | {seconds:.2} s |\n");
        }
        for node in self.nodes.iter().filter(|node| !self.shift_seconds.contains_key(*node)) {
            text += &format!("| {node} | not seen |\n");
        }
        text += "\n| Target | share before | share during |\n|---|---|---|\n";
        let targets: BTreeSet<&String> = self.share_before.keys().chain(self.share.keys()).collect();
        for target in targets {
            let share = |shares: &BTreeMap<String, f64>| shares.get(target).copied().unwrap_or_default();
            text +=
                &format!("| {target} | {:.1} % | {:.1} % |\n", share(&self.share_before), share(&self.share));
        }
        text
    }

    fn end(&mut self, now: Timestamp, state: DrillState, reason: Option<String>) {
        (self.state, self.ended, self.reason) = (state, Some(now), reason);
    }
}

impl Timed for DrillRun {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.started.map_times(map);
        self.until.map_times(map);
        self.ended.map_times(map);
    }
}

fn to_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the calendar")
    }

    /// Checks the state of a drill of 60 s, with a limit of 1 % errors, after these observations.
    fn check(second: i64, requests: u64, errors: u64, expected: &str) {
        let name = Name::parse("shop").expect("a name");
        let mut drill =
            DrillRun::begin(name, vec![TargetSelector::Priority(0)], at(0), at(60), 1.0, "ann".into());
        drill.observe(at(second), DrillObservations { requests, errors, ..DrillObservations::default() });
        let end = format!("{} {}", drill.state.word(), drill.reason.unwrap_or_default());
        assert_eq!(end.trim(), expected);
    }

    #[test]
    fn it_ends_when_its_time_is_over() {
        check(59, 1000, 0, "running");
        check(60, 1000, 0, "done");
        check(60, 0, 0, "done");
    }

    #[test]
    fn it_ends_early_when_too_much_fails() {
        check(5, 1000, 10, "running");
        check(5, 1000, 11, "aborted 11 of 1000 requests failed");
        check(60, 1000, 11, "aborted 11 of 1000 requests failed");
    }

    #[test]
    fn a_few_requests_prove_nothing() {
        check(5, 19, 19, "running");
        check(5, 20, 20, "aborted 20 of 20 requests failed");
    }

    #[test]
    fn an_envoy_shifts_once() {
        let name = Name::parse("shop").expect("a name");
        let mut drill = DrillRun::begin(name, Vec::new(), at(0), at(60), 1.0, "ann".into());
        drill.record_shift("edge-1", at(1));
        drill.record_shift("edge-1", at(9));
        assert_eq!(drill.shift_seconds["edge-1"], 1.0);
    }
}
