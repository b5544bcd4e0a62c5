//! Server of the admin port.
//!
//! It bounds the effect that a client can have on others: the time for the headers of a request (silent connections
//! included), for its body and for reading the answer, and the memory that all bodies take. The number of connections
//! is bounded where they are accepted. Answers take the time they take: an event stream goes on while its client
//! reads.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming as IncomingBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tracing::{debug, warn};

use crate::access::incoming::{AcceptedConnection, Incoming, close};
use crate::access::meter::BufferMeter;
use crate::admin::http::body::{self, ReceivedBody};
use crate::admin::http::gate::AdminGate;
use crate::admin::http::guard::PeerAddress;
use crate::admin::http::refusals::RefusalLog;

/// Response to a client for which there is no connection left.
pub const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 123\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
    \"detail\":\"there are too many connections\",\"violations\":[]}";

/// Time within which a client must send the headers of a request, from the connection or the answer before on.
const HEADERS: Duration = Duration::from_secs(10);

/// Time after which a connection ends whose client does not read what is sent.
const STALL: Duration = Duration::from_secs(30);

/// Limit on the headers of a request, in bytes.
const MAX_HEADERS: usize = 64 << 10;

/// Limits that all connections share.
#[derive(Debug, Clone)]
struct SharedLimits {
    bodies: BufferMeter,
    refusals: RefusalLog,
}

/// Serves the API behind the gate to the connections in `incoming` until `stop` resolves. Then each connection ends
/// with the answer that it waits for.
pub async fn serve(mut incoming: Incoming, gate: AdminGate, stop: impl Future<Output = ()>) {
    let limits = SharedLimits { bodies: body::meter(), refusals: RefusalLog::default() };
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            accepted = incoming.next() => {
                drop(connections.spawn(serve_connection(accepted, gate.clone(), limits.clone(), stopped.clone())));
            }
            Some(_) = connections.join_next() => {}
            () = &mut stop => break,
        }
    }
    drop(incoming);
    stopping.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(
    accepted: AcceptedConnection,
    gate: AdminGate,
    limits: SharedLimits,
    mut stopped: watch::Receiver<bool>,
) {
    let AcceptedConnection { stream, peer, permit: _permit } = accepted;
    let service = service_fn(move |request| {
        let (gate, limits) = (gate.clone(), limits.clone());
        Box::pin(async move { Ok::<_, Infallible>(answer(request, peer, gate, limits).await) })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(StallLimit { stream, stalled: None }), service);
    let mut is_stopping = false;
    let ended = loop {
        tokio::select! {
            ended = std::future::poll_fn(|context| connection.poll_without_shutdown(context)) => break ended,
            _ = stopped.wait_for(|stopped| *stopped), if !is_stopping => {
                is_stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error = &error as &dyn std::error::Error, "a connection to the admin API failed");
    }
    close(connection.into_parts().io.into_inner().stream).await;
}

/// Answers a request whose body is received within the limits.
async fn answer(
    request: Request<IncomingBody>,
    peer: SocketAddr,
    gate: AdminGate,
    limits: SharedLimits,
) -> Response {
    let received = ReceivedBody::new(&limits.bodies);
    let mut request = request.map(|body| received.limited(body));
    request.extensions_mut().insert(ConnectInfo(PeerAddress(peer)));
    let response = gate.answer(request).await;
    match received.fault() {
        None => response,
        Some(fault) => {
            limits
                .refusals
                .add(fault.reason(), || warn!(%peer, reason = %fault, "refused a request to the admin API"));
            fault.into_response()
        }
    }
}

/// Stream that fails once its client has read nothing for a while.
#[derive(Debug)]
struct StallLimit<S> {
    stream: S,
    /// Time at which it fails; none while data can be sent.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> StallLimit<S> {
    /// Passes on the outcome of a write, unless it has been pending for too long.
    fn limited<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallLimit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallLimit<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limited(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.limited(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_to_too_many_connections_is_whole() {
        let text = std::str::from_utf8(TOO_MANY_CONNECTIONS).expect("it is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a body");
        assert!(head.contains(format!("content-length: {}\r\n", body.len()).trim_end()), "{}", body.len());
        let problem: serde_json::Value = serde_json::from_str(body).expect("it is JSON");
        assert_eq!(problem["status"], 503);
    }
}
