//! Incoming connections.
//!
//! HTTP/2 keepalive watches a connection once it speaks HTTP/2. Until then a deadline is needed: a client
//! that connects and sends nothing would hold a socket forever.
//!
//! Large responses leave in few TCP segments: HTTP/2 writes them to the socket in frames of 16 KB, one at a
//! time, and each would be sent separately. The kernel collects them instead (`MSG_MORE`), which takes no
//! memory of this process.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(target_os = "linux")]
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::access::certificate::CertificateNames;
use crate::access::incoming::{AcceptedConnection, Incoming, MaybeTlsStream};

/// Length in bytes of the HTTP/2 client preface (`PRI * HTTP/2.0` and more).
const PREFACE: usize = 24;

/// Yields connections forever; a client must send the HTTP/2 preface within `patience`.
pub fn connections(
    mut incoming: Incoming,
    patience: Duration,
) -> impl Stream<Item = io::Result<ClientConnection>> {
    async_stream::stream! {
        loop {
            yield Ok(ClientConnection::new(incoming.next().await, patience));
        }
    }
}

/// Remote end of a connection.
#[derive(Debug, Clone)]
pub struct ClientPeer {
    /// Socket address of the client.
    pub address: SocketAddr,
    /// Subject alternative names of its certificate; none if it presented no certificate.
    pub names: Option<Arc<CertificateNames>>,
    /// Means to end the connection.
    pub end: ConnectionEnd,
}

impl ClientPeer {
    /// Creates the peer of a new connection.
    pub fn new(address: SocketAddr, names: Option<Arc<CertificateNames>>) -> Self {
        Self { address, names, end: ConnectionEnd::new(address) }
    }
}

/// Means to end a connection with all its streams. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct ConnectionEnd(Arc<EndState>);

#[derive(Debug)]
struct EndState {
    number: u64,
    peer: SocketAddr,
    is_ended: AtomicBool,
    /// Waker of the task that reads from the connection.
    reader: AtomicWaker,
}

impl ConnectionEnd {
    /// Creates the end of a connection, with a number of its own.
    pub fn new(peer: SocketAddr) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let (is_ended, reader) = (AtomicBool::new(false), AtomicWaker::new());
        Self(Arc::new(EndState { number, peer, is_ended, reader }))
    }

    /// Creates the end of a connection that is not known, and so does not end.
    pub fn unknown() -> Self {
        Self::new(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Returns the number of the connection, unique in this process.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Returns the remote address.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// Ends the connection: its next read fails.
    pub fn end(&self) {
        self.0.is_ended.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    /// True if the connection was ended.
    pub fn is_ended(&self) -> bool {
        self.0.is_ended.load(Ordering::Acquire)
    }
}

/// Default limit of the frame size in HTTP/2, in bytes. A frame of this size is usually followed by another.
const FRAME: usize = 16 << 10;

/// A socket whose reads fail if the client does not begin to speak HTTP/2 in time.
#[derive(Debug)]
pub struct ClientConnection {
    socket: MaybeTlsStream,
    peer: ClientPeer,
    preface: Option<PrefaceDeadline>,
    /// True if the kernel was asked to expect more data, and none was written since.
    held_back: bool,
    /// Place among the connections of the port, kept while this one exists.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct PrefaceDeadline {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl ClientConnection {
    fn new(accepted: AcceptedConnection, patience: Duration) -> Self {
        let AcceptedConnection { stream: socket, peer: address, permit } = accepted;
        let peer = ClientPeer::new(address, socket.names().map(Arc::new));
        let preface = PrefaceDeadline { missing: PREFACE, deadline: Box::pin(tokio::time::sleep(patience)) };
        Self { socket, peer, preface: Some(preface), held_back: false, _permit: permit }
    }

    /// Flushes data that the kernel holds back for a further write.
    fn release(&mut self) {
        if std::mem::take(&mut self.held_back)
            && let MaybeTlsStream::Plain(stream) = &self.socket
        {
            // Setting the option again flushes the socket. It can fail only when the client has disconnected,
            // which the next read reports.
            let _ = stream.set_nodelay(true);
        }
    }
}

/// Writes bytes that the kernel may hold back until the next write or until they fill a segment.
#[cfg(target_os = "linux")]
fn send_with_more(
    stream: &TcpStream,
    context: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(context))?;
        let send = || socket2::SockRef::from(stream).send_vectored_with_flags(slices, libc::MSG_MORE);
        match stream.try_io(tokio::io::Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent),
        }
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A connection is polled for reading before it is polled for writing, whenever it is woken.
        self.release();
        self.peer.end.0.reader.register(context.waker());
        if self.peer.end.is_ended() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        let Some(preface) = &mut self.preface else { return polled };
        if polled.is_pending() {
            ready!(preface.deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        preface.missing = preface.missing.saturating_sub(buffer.filled().len() - before);
        if preface.missing == 0 {
            self.preface = None;
        }
        polled
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.socket).poll_write(context, bytes))?;
        self.held_back = false;
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let is_large = slices.iter().map(|slice| slice.len()).sum::<usize>() >= FRAME;
        #[cfg(target_os = "linux")]
        if is_large && let MaybeTlsStream::Plain(stream) = &self.socket {
            let sent = ready!(send_with_more(stream, context, slices))?;
            if !std::mem::replace(&mut self.held_back, true) {
                context.waker().wake_by_ref();
            }
            return Poll::Ready(Ok(sent));
        }
        let sent = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, slices))?;
        self.held_back &= is_large;
        Poll::Ready(Ok(sent))
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

impl Connected for ClientConnection {
    type ConnectInfo = ClientPeer;

    fn connect_info(&self) -> ClientPeer {
        self.peer.clone()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::IoSlice;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn large_frames_wait_for_the_next_but_not_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let (mut client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (socket, peer) = accepted.expect("it connects");
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("nobody else has it");
        let accepted = AcceptedConnection { stream: MaybeTlsStream::Plain(socket), peer, permit };
        let mut connection = ClientConnection::new(accepted, Duration::from_secs(30));
        let (head, large, small) = (vec![1; 9], vec![2; FRAME], vec![3; 100]);

        // A large frame followed by a small one, as at the end of a response.
        let frame = [IoSlice::new(&head), IoSlice::new(&large)];
        assert_eq!(connection.write_vectored(&frame).await.expect("there is room"), 9 + FRAME);
        assert!(connection.held_back);
        let sent = connection.write_vectored(&[IoSlice::new(&small)]).await.expect("there is room");
        assert_eq!((sent, connection.held_back), (100, false));

        // A large frame followed by nothing.
        assert_eq!(connection.write_vectored(&frame).await.expect("there is room"), 9 + FRAME);
        assert!(connection.held_back);
        assert!(connection.read_u8().now_or_never().is_none(), "the client says nothing");
        assert!(!connection.held_back);

        let mut received = vec![0; 2 * (9 + FRAME) + 100];
        client.as_mut().expect("it connects").read_exact(&mut received).await.expect("all of it comes");
        assert_eq!(received, [&head[..], &large, &small, &head, &large].concat());
    }
}
