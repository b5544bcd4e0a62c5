//! Limits of request bodies: the time that each takes, and the memory that all take together.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::access::meter::{BufferMeter, BufferShare};
use crate::admin::http::problem::Problem;

/// Time within which a client must send a whole body.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that each body may have regardless of the others.
const FREE: usize = 64 << 10;

/// Bytes that the bodies of all requests under way may have together, beyond which only [`FREE`] is left to each.
const LIMIT: usize = 64 << 20;

/// Reason for which a body was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyFault {
    /// It took too long.
    #[error("the body did not arrive within 30 s")]
    Slow,
    /// There is no memory for it.
    #[error("the bodies of all requests under way have more than 64 MiB: send it again")]
    Memory,
}

/// Meter of the bodies that a port receives.
pub(super) fn meter() -> BufferMeter {
    BufferMeter::new(FREE, LIMIT)
}

/// Body that is being received. Its bytes count until the last clone is dropped: a handler holds them, or what it
/// made of them, until it has answered.
#[derive(Debug, Clone)]
pub(super) struct ReceivedBody(Arc<Mutex<Received>>);

#[derive(Debug)]
struct Received {
    share: BufferShare,
    fault: Option<BodyFault>,
}

impl ReceivedBody {
    /// Begins with no bytes.
    pub(super) fn new(meter: &BufferMeter) -> Self {
        Self(Arc::new(Mutex::new(Received { share: meter.share(), fault: None })))
    }

    /// Returns the reason for which the body was not received, if there was one.
    pub(super) fn fault(&self) -> Option<BodyFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fault
    }

    /// Returns the body with the limits applied; its time begins now.
    pub(super) fn limited<B>(&self, body: B) -> Body
    where
        B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + Unpin + 'static,
    {
        if body.is_end_stream() {
            return Body::empty();
        }
        let deadline = Box::pin(tokio::time::sleep(PATIENCE));
        Body::new(LimitedBody { body, received: self.clone(), deadline })
    }

    fn fail(&self, fault: BodyFault) -> axum::BoxError {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fault = Some(fault);
        fault.into()
    }

    fn reserve(&self, bytes: usize) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).share.reserve(bytes)
    }
}

impl BodyFault {
    /// Returns the reason in the log.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Slow => "body_time",
            Self::Memory => "body_memory",
        }
    }
}

impl IntoResponse for BodyFault {
    fn into_response(self) -> Response {
        let problem = match self {
            Self::Slow => Problem::new(StatusCode::REQUEST_TIMEOUT, self.to_string()),
            Self::Memory => Problem::unavailable(self.to_string()),
        };
        let mut response = problem.into_response();
        // The rest of the body is not read, so no other request can follow it.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// Body that fails beyond its limits.
#[derive(Debug)]
struct LimitedBody<B> {
    body: B,
    received: ReceivedBody,
    deadline: Pin<Box<Sleep>>,
}

impl<B> http_body::Body for LimitedBody<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        let Self { body, received, deadline } = self.get_mut();
        if deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(received.fail(BodyFault::Slow))));
        }
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => frame,
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if !received.reserve(bytes) {
            return Poll::Ready(Some(Err(received.fail(BodyFault::Memory))));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
