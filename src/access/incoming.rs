//! Connections to a port, encrypted or not, and the limit of their number.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::access::certificate::CertificateNames;
use crate::access::tls::PortTls;

/// Time within which a client must complete the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Pause after a connection could not be accepted, for instance because the process is out of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Number of clients that are told at once that there are too many connections; others are cut off untold.
const TOLD_AT_ONCE: usize = 32;

/// Time within which a client reads the last bytes and closes its side.
const LINGER: Duration = Duration::from_secs(1);

/// Time until the log says again that there are too many connections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum MaybeTlsStream {
    /// Not encrypted.
    Plain(TcpStream),
    /// Encrypted, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl MaybeTlsStream {
    /// Returns the names in the client's certificate; none if it presented no certificate.
    pub fn names(&self) -> Option<CertificateNames> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().map(CertificateNames::of),
        }
    }

    /// Returns the local address of the connection.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.local_addr().ok(),
            Self::Tls(stream) => stream.get_ref().0.local_addr().ok(),
        }
    }
}

/// Accepted connection, after the TLS handshake. It counts until the permit is dropped.
#[derive(Debug)]
pub struct AcceptedConnection {
    /// Stream of bytes.
    pub stream: MaybeTlsStream,
    /// Remote address.
    pub peer: SocketAddr,
    /// Place among the connections that the port may have at once.
    pub permit: OwnedSemaphorePermit,
}

/// Limit of the connections that a port has at once, those in the TLS handshake included.
#[derive(Debug)]
pub struct ConnectionLimit {
    /// Name of the port in the log.
    pub port: &'static str,
    /// Number of connections.
    pub connections: usize,
    /// Response to a client beyond the limit, sent if the port has no TLS; may be empty.
    pub refusal: &'static [u8],
}

impl ConnectionLimit {
    /// Returns the limit of a port that may have any number of connections.
    fn none() -> Self {
        Self { port: "", connections: Semaphore::MAX_PERMITS, refusal: b"" }
    }
}

/// Accepts connections, and performs the TLS handshake if there is a config. Handshakes run concurrently: a
/// client that does not finish its own delays no other.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    tls: Option<PortTls>,
    limit: ConnectionLimit,
    permits: Arc<Semaphore>,
    /// Places of the clients that are told of the limit.
    told: Arc<Semaphore>,
    /// Time at which the log said last that there are too many connections.
    logged: Option<tokio::time::Instant>,
    /// True while connections cannot be accepted.
    is_failing: bool,
    ready: mpsc::Receiver<AcceptedConnection>,
    done: mpsc::Sender<AcceptedConnection>,
}

impl Incoming {
    /// Accepts from this listener; without `tls` connections are not encrypted.
    pub fn new(listener: TcpListener, tls: Option<PortTls>, limit: ConnectionLimit) -> Self {
        let (done, ready) = mpsc::channel(1024);
        Self {
            listener,
            tls,
            permits: Arc::new(Semaphore::new(limit.connections)),
            limit,
            told: Arc::new(Semaphore::new(TOLD_AT_ONCE)),
            logged: None,
            is_failing: false,
            ready,
            done,
        }
    }

    /// Waits for the next connection within the limit. If accepting fails, for instance because the process is out
    /// of descriptors, it tries again after 100 ms.
    pub async fn next(&mut self) -> AcceptedConnection {
        loop {
            let accepted = tokio::select! {
                Some(ready) = self.ready.recv() => return ready,
                accepted = self.listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.log_failure(&error);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            if std::mem::take(&mut self.is_failing) {
                info!(port = self.limit.port, "connections are accepted again");
            }
            // Nagle's algorithm is off: a small response must not wait for the acknowledgement of the previous
            // one. The call can fail only when the client has disconnected, which the next read reports.
            let _ = socket.set_nodelay(true);
            let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                self.refuse(socket);
                continue;
            };
            match &self.tls {
                None => return AcceptedConnection { stream: MaybeTlsStream::Plain(socket), peer, permit },
                Some(tls) => {
                    drop(tokio::spawn(shake(tls.acceptor(), (socket, peer, permit), self.done.clone())))
                }
            }
        }
    }

    /// Logs that accepting fails, once until it succeeds again.
    fn log_failure(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(port = self.limit.port, %error, "cannot accept connections; it is tried again all the time");
        }
    }

    /// Closes a connection beyond the limit, with a response if there is one.
    fn refuse(&mut self, mut socket: TcpStream) {
        let now = tokio::time::Instant::now();
        if self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_INTERVAL) {
            self.logged = Some(now);
            let ConnectionLimit { port, connections, .. } = self.limit;
            warn!(port, connections, "there are too many connections; further ones are refused");
        }
        let refusal = self.limit.refusal;
        if refusal.is_empty() || self.tls.is_some() {
            return;
        }
        if let Ok(place) = self.told.clone().try_acquire_owned() {
            drop(tokio::spawn(async move {
                let _place = place;
                // The client may be gone.
                let _ = tokio::time::timeout(LINGER, socket.write_all(refusal)).await;
                close(socket).await;
            }));
        }
    }
}

/// Closes a connection so that the client can read what was sent: the system discards that if the client sent
/// something that was not read. Returns once the client has closed its side, or after a second.
pub async fn close(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let closed = async {
        if stream.shutdown().await.is_ok() {
            let mut unread = [0; 4096];
            while stream.read(&mut unread).await.is_ok_and(|length| length > 0) {}
        }
    };
    let _ = tokio::time::timeout(LINGER, closed).await;
}

async fn shake(
    acceptor: TlsAcceptor,
    (socket, peer, permit): (TcpStream, SocketAddr, OwnedSemaphorePermit),
    done: mpsc::Sender<AcceptedConnection>,
) {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => {
            let stream = MaybeTlsStream::Tls(Box::new(stream));
            // The receiver is gone when the server shuts down.
            drop(done.send(AcceptedConnection { stream, peer, permit }).await);
        }
        Ok(Err(error)) => warn!(%peer, %error, "a TLS handshake failed"),
        Err(_) => debug!(%peer, "a TLS handshake was not finished in time"),
    }
}

impl From<TcpListener> for Incoming {
    fn from(listener: TcpListener) -> Self {
        Self::new(listener, None, ConnectionLimit::none())
    }
}

impl AsyncRead for MaybeTlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for MaybeTlsStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
