//! The load reporting service (LRS): asks every Envoy for its load and passes on the reports.
//!
//! Written by hand as a tower service, as [`crate::xds::server`] is: a generated one would decode every
//! report whole, and keep a buffer as large as the largest report for the life of its stream.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsResponse;
use envoy_types::pb::google::protobuf;
use futures_util::Stream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

use crate::envoy::loads::{Report, Sender};
use crate::envoy::node::Locality;
use crate::nodes::Nodes;
use crate::xds::frame;
use crate::xds::incoming::Peer;
use crate::xds::pace::{Pace, Place};
use crate::xds::request::Requests;
use crate::xds::server::{Discovery, Limits};

const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// Implementation of the service.
#[derive(Debug, Clone)]
pub struct LoadReports {
    /// Receiver of the reports.
    nodes: Nodes,
    /// Limits on the duration of streams.
    limits: Limits,
    /// Verifier of the node identity of clients.
    gate: Discovery,
    pace: Arc<Mutex<Pace>>,
}

/// Share of one Envoy in the report budget, given back on drop.
#[derive(Debug)]
struct Seat {
    pace: Arc<Mutex<Pace>>,
    place: Place,
}

impl Seat {
    fn take(pace: Arc<Mutex<Pace>>) -> Self {
        let place = pace.lock().unwrap_or_else(PoisonError::into_inner).join();
        Self { pace, place }
    }

    /// Takes in a report on this many clusters. Returns the new report interval if it differs from the
    /// current one.
    fn reported(&mut self, clusters: usize) -> Option<Duration> {
        let before = self.place.interval;
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).reported(&mut self.place, clusters);
        (self.place.interval != before).then_some(self.place.interval)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner).leave(&self.place);
    }
}

/// Builds a response that asks for the load of all clusters at this interval.
fn asked(interval: Duration) -> LoadStatsResponse {
    let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
    LoadStatsResponse {
        send_all_clusters: true,
        load_reporting_interval: Some(protobuf::Duration { seconds, nanos: 0 }),
        report_endpoint_granularity: true,
        ..Default::default()
    }
}

impl LoadReports {
    /// Creates a service that passes reports on to `fleet`.
    pub fn new(nodes: Nodes, limits: Limits, gate: Discovery) -> Self {
        Self { nodes, limits, gate, pace: Arc::default() }
    }

    /// Yields the responses for the Envoy that sends `requests`, until it disconnects.
    fn asks(self, mut requests: Requests, peer: Option<Peer>) -> impl Stream<Item = Result<Bytes, Status>> {
        let Self { nodes, limits, gate, pace } = self;
        async_stream::try_stream! {
            let first = tokio::time::timeout(limits.first_request, next(&mut requests)).await;
            let first = first.map_err(|_| Status::deadline_exceeded("no first request came"))??;
            let Some(first) = first else { return };
            let Sender { id, cluster, place } = first.node.filter(|node| !node.id.is_empty()).ok_or_else(|| {
                Status::invalid_argument("the first request of a stream must have a node with an id")
            })?;
            gate.identify(peer.as_ref(), &id, &cluster)?;
            let [region, zone, sub_zone] = place;
            let reporter = nodes.begin_load_reports(id, Locality { region, zone, sub_zone }).await;
            let mut seat = Seat::take(pace);
            yield frame::whole(&asked(seat.place.interval));
            let end = limits.end();
            loop {
                let report = tokio::time::timeout_at(end, next(&mut requests)).await;
                let aged = |_| Status::unavailable("reconnect: the stream has come of age");
                let Some(report) = report.map_err(aged)?? else { return };
                let interval = seat.reported(report.len());
                reporter.report(report).await;
                if let Some(interval) = interval {
                    yield frame::whole(&asked(interval));
                }
                tokio::task::consume_budget().await;
            }
        }
    }
}

async fn next(requests: &mut Requests) -> Result<Option<Report>, Status> {
    let Some(encoded) = requests.message().await? else { return Ok(None) };
    Report::read(&encoded).map(Some).map_err(|error| Status::internal(error.to_string()))
}

impl NamedService for LoadReports {
    const NAME: &str = "envoy.service.load_stats.v3.LoadReportingService";
}

impl tower::Service<http::Request<Body>> for LoadReports {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let asks = |requests, peer| self.clone().asks(requests, peer);
        ready(Ok(self.gate.bidirectional(METHOD, request, asks)))
    }
}
