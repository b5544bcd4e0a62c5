//! Connections as they come in.
//!
//! HTTP/2 keepalive watches a connection once it speaks HTTP/2; until then nobody would, and a client that
//! connects and says nothing would hold a socket for good.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::tls::{Incoming, Names, Socket};

/// The first bytes of a client of HTTP/2: `PRI * HTTP/2.0` and more.
const PREFACE: usize = 24;

/// Accepts for good; a client has `patience` to begin.
pub fn connections(mut incoming: Incoming, patience: Duration) -> impl Stream<Item = io::Result<Connection>> {
    async_stream::stream! {
        loop {
            let (socket, peer) = incoming.next().await;
            yield Ok(Connection::new(socket, peer, patience));
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whom its certificate is for; none when it showed none.
    pub names: Option<Arc<Names>>,
}

/// A socket that fails to be read when the client does not begin to speak HTTP/2.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    peer: Peer,
    greeting: Option<Greeting>,
}

#[derive(Debug)]
struct Greeting {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(socket: Socket, address: SocketAddr, patience: Duration) -> Self {
        let peer = Peer { address, names: socket.names().map(Arc::new) };
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
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}
