//! Connections as they come in.
//!
//! HTTP/2 keepalive watches a connection once it speaks HTTP/2; until then nobody would, and a client that
//! connects and says nothing would hold a socket for good.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::warn;

/// The first bytes of a client of HTTP/2: `PRI * HTTP/2.0` and more.
const PREFACE: usize = 24;

/// Accepts for good; a client has `patience` to begin. When the system has no socket left, it tries again later
/// instead of at once.
pub fn connections(listener: TcpListener, patience: Duration) -> impl Stream<Item = io::Result<Connection>> {
    async_stream::stream! {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => yield Ok(Connection::new(socket, peer, patience)),
                Err(error) => {
                    warn!(%error, "cannot accept a connection of an Envoy");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// A socket that fails to be read when the client does not begin to speak HTTP/2.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    peer: SocketAddr,
    greeting: Option<Greeting>,
}

#[derive(Debug)]
struct Greeting {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(socket: TcpStream, peer: SocketAddr, patience: Duration) -> Self {
        // An answer of some bytes must not wait for the acknowledgement of the one before. It can fail only
        // when the client has gone already, which reading tells.
        let _ = socket.set_nodelay(true);
        let deadline = Box::pin(tokio::time::sleep(patience));
        Self { socket, peer, greeting: Some(Greeting { missing: PREFACE, deadline }) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        let Some(greeting) = &mut self.greeting else { return polled };
        if polled.is_pending() {
            ready!(greeting.deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        greeting.missing = greeting.missing.saturating_sub(buffer.filled().len() - before);
        if greeting.missing == 0 {
            self.greeting = None;
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.socket.local_addr().ok(), remote_addr: Some(self.peer) }
    }
}
