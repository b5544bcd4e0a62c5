//! The load reporting service (LRS): asks every Envoy for its load and passes on what comes.
//!
//! Written by hand around tonic's parts, because the generated service would decode every report whole.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf as _;
use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsResponse;
use envoy_types::pb::google::protobuf;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use crate::envoy::loads::Report;
use crate::fleet::Fleet;
use crate::xds::incoming::Peer;
use crate::xds::pace::{Pace, Place};
use crate::xds::request::MAX_REQUEST;
use crate::xds::server::{Discovery, Limits};

const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// The service.
#[derive(Debug, Clone)]
pub struct LoadReports {
    /// Where reports are noted.
    fleet: Fleet,
    /// How long streams may take.
    limits: Limits,
    /// Who knows which node a client may be.
    gate: Discovery,
    pace: Arc<Mutex<Pace>>,
}

type Responses = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

/// The pace of one Envoy, as long as it reports.
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

    /// Takes in a report. How often it should report from now on, when that is another time than so far.
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

/// Asks for everything, that often.
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
    /// A service that passes reports on to `fleet`.
    pub fn new(fleet: Fleet, limits: Limits, gate: Discovery) -> Self {
        Self { fleet, limits, gate, pace: Arc::default() }
    }

    fn responses(&self, request: Request<Streaming<Report>>) -> Responses {
        let Self { fleet, limits, gate, pace } = self.clone();
        let peer = request.extensions().get::<Peer>().cloned();
        let mut requests = request.into_inner();
        Box::pin(async_stream::try_stream! {
            let first = tokio::time::timeout(limits.first_request, requests.message()).await;
            let first = first.map_err(|_| Status::deadline_exceeded("no first request came"))??;
            let Some(first) = first else { return };
            let (id, cluster) = first.node.filter(|(id, _)| !id.is_empty()).ok_or_else(|| {
                Status::invalid_argument("the first request of a stream must have a node with an id")
            })?;
            gate.identify(peer.as_ref(), &id, &cluster)?;
            let (reporter, mut seat) = (fleet.reports(id), Seat::take(pace));
            yield asked(seat.place.interval);
            let aged = Status::unavailable("reconnect: the stream has come of age");
            let end = limits.end();
            loop {
                let request = tokio::time::timeout_at(end, requests.message()).await;
                let Some(report) = request.map_err(|_| aged.clone())?? else { return };
                let interval = seat.reported(report.len());
                reporter.report(report).await;
                if let Some(interval) = interval {
                    yield asked(interval);
                }
                tokio::task::consume_budget().await;
            }
        })
    }
}

impl StreamingService<Report> for LoadReports {
    type Response = LoadStatsResponse;
    type ResponseStream = Responses;
    type Future = std::future::Ready<Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<Report>>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.responses(request))))
    }
}

impl NamedService for LoadReports {
    const NAME: &str = "envoy.service.load_stats.v3.LoadReportingService";
}

impl tower::Service<http::Request<Body>> for LoadReports {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            let mut grpc = Grpc::new(Wire).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

/// How messages are read and written.
#[derive(Debug, Clone, Copy)]
struct Wire;

impl Codec for Wire {
    type Encode = LoadStatsResponse;
    type Decode = Report;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Wire {
    type Item = LoadStatsResponse;
    type Error = Status;

    fn encode(&mut self, response: LoadStatsResponse, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let written = prost::Message::encode(&response, buffer);
        written.map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Wire {
    type Item = Report;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Report>, Status> {
        let encoded = buffer.copy_to_bytes(buffer.remaining());
        Report::read(&encoded).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
