//! gRPC streams over plain HTTP bodies.
//!
//! Written by hand as tower services: generated ones would encode every response for every client, decode
//! every report whole, and keep a buffer as large as the largest message for the life of its stream.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::xds::port::connection::ClientPeer;
use crate::xds::port::guard::PortGuard;
use crate::xds::port::reader::RequestReader;

/// Frame with messages, or with the status at the end of a stream.
pub type BodyFrame = Result<Frame<Bytes>, Infallible>;

/// Service with a single, bidirectional method.
pub trait BidirectionalService: Clone + Send + Sync + 'static {
    /// Name of the service.
    const NAME: &str;
    /// Path of the method.
    const METHOD: &str;

    /// Returns the guard of the port.
    fn guard(&self) -> &PortGuard;

    /// Yields the framed messages for the client that sends `requests`, until it disconnects.
    fn responses(
        self,
        requests: RequestReader,
        peer: Option<ClientPeer>,
    ) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static;
}

/// Tower service of a [`BidirectionalService`].
#[derive(Debug, Clone)]
pub struct GrpcService<S>(pub S);

impl<S: BidirectionalService> NamedService for GrpcService<S> {
    const NAME: &str = S::NAME;
}

impl<S: BidirectionalService> tower::Service<Request<Body>> for GrpcService<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != S::METHOD {
            return ready(Ok(no_such_method()));
        }
        let peer = request.extensions().get::<ClientPeer>().cloned();
        let requests = self.0.guard().reader(request.into_body());
        ready(Ok(response(with_status(self.0.clone().responses(requests, peer)))))
    }
}

/// Yields the messages, then the status with which they end.
fn with_status(messages: impl Stream<Item = Result<Bytes, Status>>) -> impl Stream<Item = BodyFrame> {
    async_stream::stream! {
        let mut messages = pin!(messages);
        let status = loop {
            match messages.next().await {
                Some(Ok(message)) => yield Ok(Frame::data(message)),
                Some(Err(status)) => break status,
                None => break Status::ok(""),
            }
        };
        yield Ok(trailers(&status));
    }
}

/// Builds a gRPC response with this body.
pub fn response(body: impl Stream<Item = BodyFrame> + Send + 'static) -> Response<Body> {
    let mut response = Response::new(Body::new(StreamBody::new(body)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

/// Builds the response to a call of an unknown method.
pub fn no_such_method() -> Response<Body> {
    Status::unimplemented("there is no such method").into_http()
}

/// Builds the last frame of a stream, with its status.
pub fn trailers(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::Internal as i32));
    }
    Frame::trailers(trailers)
}
