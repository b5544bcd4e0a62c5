//! Traffic of all Envoys, from their load reports: serving tier, requests and health of each target.
//!
//! A tier is counted as the reporting Envoy has it: the declared tier or, with locality failover, one tier
//! for each distance within a declared tier ([`Ranks`](crate::model::locality::Ranks)). With locality
//! failover, a shift to another zone is therefore a failover.
//!
//! A load report holds, for each endpoint that got requests, the number of requests and their outcome. It
//! says nothing about the health of endpoints without requests, so health is derived from traffic (see
//! `inference`). The health of all other targets is known from Envoys that run health checks for the control
//! plane (HDS); health that neither source confirms becomes stale.
//!
//! Reports are ingested as they arrive. Changes are returned as [`TierShift`]s, so that callers need no scan
//! to find them.
//!
//! A thousand Envoys with a thousand upstreams each make a million pairs, so the state of a pair is small: 32
//! bytes, and 12 bytes for each target. Names and addresses are interned as numbers, and most times are whole
//! seconds.

mod checks;
mod counters;
mod health;
mod inference;
mod ingest;
mod interner;
mod load;
mod node;
mod observations;
mod retention;
pub mod shift;
pub mod summary;
mod upstream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use self::observations::Observations;
use self::shift::TierShift;
use self::summary::{Summary, SummaryBuilder};
use self::upstream::ResolvedUpstream;
use crate::build::Build;
use crate::envoy::checks::CheckResults;
use crate::envoy::load_totals::LoadTotals;
use crate::envoy::loads::LoadReport;
use crate::envoy::node::Locality;
use crate::model::name::Name;
use crate::model::upstream::Upstream;

/// Traffic of all Envoys, from load reports and health checks.
///
/// The mutex is held while one report is ingested or one upstream is summarized.
#[derive(Debug, Default)]
pub struct Traffic {
    observations: Mutex<Observations>,
}

impl Traffic {
    /// Ingests a load report. Clusters that are not in `build` are ignored.
    pub fn ingest(&self, node: &str, at: Timestamp, report: &LoadReport, build: &Build) -> Vec<TierShift> {
        self.lock().ingest_loads(node, at, report, build)
    }

    /// Ingests the health check results of a node, which it sends every `interval`. Clusters that are not in
    /// `build` are ignored.
    pub fn ingest_checks(
        &self,
        node: &str,
        at: Timestamp,
        interval: Duration,
        findings: CheckResults,
        build: &Build,
    ) {
        self.lock().ingest_checks(node, at, interval, findings, build);
    }

    /// Records that a node in this locality has begun to report.
    pub fn join(&self, node: &str, locality: Locality) {
        self.lock().join(node, locality);
    }

    /// Records that the stream of a node ended. The node may return: see [`Self::take_absent`].
    pub fn leave(&self, node: &str, at: Timestamp) {
        self.lock().leave(node, at);
    }

    /// Takes the nodes that left and did not return in time, with the time of departure. Each departure is
    /// returned once.
    pub fn take_absent(&self, now: Timestamp) -> Vec<(Arc<str>, Timestamp)> {
        self.lock().take_absent(now)
    }

    /// Records that a node is gone: returns a shift to no tier for each upstream it served.
    pub fn clear_serving(&self, node: &str, at: Timestamp) -> Vec<TierShift> {
        self.lock().clear_serving(node, at)
    }

    /// Drops old observations: nodes without a stream and without a report for an hour, old check results,
    /// and endpoints that belong to no target of `build`.
    pub fn drop_expired(&self, now: Timestamp, build: &Build) {
        self.lock().drop_expired(now, build);
    }

    /// Returns the counters of an upstream since the start of the process.
    pub fn totals(&self, upstream: &Name) -> LoadTotals {
        self.lock().counters(upstream).totals
    }

    /// Returns the counters of the last minute or two.
    pub fn recent(&self, upstream: &Name, now: Timestamp) -> LoadTotals {
        self.lock().counters(upstream).recent(now)
    }

    /// Returns the summary of an upstream of `build`.
    pub fn summary(&self, upstream: &Upstream, build: &Build, now: Timestamp) -> Summary {
        self.summarize(SummaryBuilder::new(upstream, now, true), build)
    }

    /// Returns the summary without node names, which takes a fraction of the time.
    pub fn summary_without_nodes(&self, upstream: &Upstream, build: &Build, now: Timestamp) -> Summary {
        self.summarize(SummaryBuilder::new(upstream, now, false), build)
    }

    fn summarize(&self, mut builder: SummaryBuilder<'_>, build: &Build) -> Summary {
        let name = &builder.upstream.name;
        let mut observations = self.lock();
        let resolved = ResolvedUpstream::find(name.as_str(), build);
        if let (Some(number), Some(resolved)) = (observations.names.find(name), resolved) {
            observations.upstreams[number as usize].refresh(resolved);
            let targets = &observations.upstreams[number as usize].targets;
            let mut checks = observations.checks.of_upstream(number);
            for (node, traffic) in &observations.nodes {
                if let Some(observation) = traffic.find(number) {
                    builder.add((node, traffic.interval), observation, checks.remove(node), targets);
                }
            }
            for (node, results) in checks {
                builder.add_checks(node, results, targets);
            }
        }
        drop(observations);
        builder.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Observations> {
        self.observations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
