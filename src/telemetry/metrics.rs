//! Counters and timers of `GET /metrics`.
//!
//! Metrics that can be derived from the state at the time of a request (connected nodes, served resources)
//! are not kept here; `admin::resource::metrics` derives them. Labels are fixed words and path templates, never values
//! of a client, so the number of series is bounded.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// One label: its name and its value.
pub type Label = [(&'static str, &'static str); 1];

/// Labels of a request to the admin API: method, route and status.
type RequestLabels = [(&'static str, String); 3];
type RouteLabels = [(&'static str, String); 2];

/// All counters and timers. Cheap to clone: clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    builds: Family<Label, Counter>,
    build_seconds: Histogram,
    commit_seconds: Histogram,
    revisions: Family<Label, Counter>,
    rejected: Counter,
    nacks: Family<Label, Counter>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram>,
    refusals: Family<Label, Counter>,
}

/// Returns a histogram with buckets from 0.5 ms to 8 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 15))
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            builds: Family::default(),
            build_seconds: seconds(),
            commit_seconds: seconds(),
            revisions: Family::default(),
            rejected: Counter::default(),
            nacks: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            refusals: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts a build of the config and its duration. `accepted` is false if its input was refused.
    pub fn built(&self, took: Duration, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "refused" };
        self.0.builds.get_or_create(&[("outcome", outcome)]).inc();
        self.0.build_seconds.observe(took.as_secs_f64());
    }

    /// Records the duration of a commit to the store.
    pub fn committed(&self, took: Duration) {
        self.0.commit_seconds.observe(took.as_secs_f64());
    }

    /// Counts an accepted change.
    pub fn accepted(&self, source: &'static str) {
        self.0.revisions.get_or_create(&[("source", source)]).inc();
    }

    /// Counts a change that was rolled back because a canary refused it.
    pub fn rejected(&self) {
        self.0.rejected.inc();
    }

    /// Counts a NACK for this resource type.
    pub fn nacked(&self, resource_type: &'static str) {
        self.0.nacks.get_or_create(&[("type", resource_type)]).inc();
    }

    /// Counts a response of the admin API and its duration. `route` is the template of the path.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let (method, route) = (("method", method.to_owned()), ("route", route.to_owned()));
        let status = ("status", status.to_string());
        self.0.requests.get_or_create(&[method.clone(), route.clone(), status]).inc();
        self.0.request_seconds.get_or_create(&[method, route]).observe(took.as_secs_f64());
    }

    /// Counts a client that was refused, because of its identity or its permissions.
    pub fn refused(&self, why: &'static str) {
        self.0.refusals.get_or_create(&[("reason", why)]).inc();
    }

    /// Registers all metrics in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let Instruments {
            builds,
            build_seconds,
            commit_seconds,
            revisions,
            rejected,
            nacks,
            requests,
            request_seconds,
            refusals,
        } = &*self.0;
        registry.register("builds", "Builds of the config, by outcome", builds.clone());
        registry.register_with_unit(
            "build_duration",
            "How long a build of the config took",
            Unit::Seconds,
            build_seconds.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "How long it took to make changes durable, those of a group together",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        registry.register("revisions", "Changes that were accepted, by source", revisions.clone());
        registry.register("rejected_revisions", "Changes that a canary refused", rejected.clone());
        registry.register("nacks", "Refusals of Envoys, by type of resource", nacks.clone());
        registry.register(
            "http_requests",
            "Requests to the admin API, by method, template of the path, and status",
            requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "How long the admin API took to begin its answer, by method and template of the path",
            Unit::Seconds,
            request_seconds.clone(),
        );
        registry.register(
            "refused",
            "Callers that were refused, on either port, by reason",
            refusals.clone(),
        );
    }
}
