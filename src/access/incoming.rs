//! Connections to a port, encrypted or not.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use crate::access::certificate::CertificateNames;
use crate::access::tls::PortTls;

/// Time within which a client must complete the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

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

/// Accepts connections, and performs the TLS handshake if there is a config. Handshakes run concurrently: a
/// client that does not finish its own delays no other.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    tls: Option<PortTls>,
    ready: mpsc::Receiver<(MaybeTlsStream, SocketAddr)>,
    done: mpsc::Sender<(MaybeTlsStream, SocketAddr)>,
}

impl Incoming {
    /// Accepts from this listener; without `tls` connections are not encrypted.
    pub fn new(listener: TcpListener, tls: Option<PortTls>) -> Self {
        let (done, ready) = mpsc::channel(1024);
        Self { listener, tls, ready, done }
    }

    /// Waits for the next connection. If accepting fails, for instance because the system is out of sockets,
    /// it tries again after 100 ms.
    pub async fn next(&mut self) -> (MaybeTlsStream, SocketAddr) {
        loop {
            let accepted = tokio::select! {
                Some(ready) = self.ready.recv() => return ready,
                accepted = self.listener.accept() => accepted,
            };
            match (accepted, &self.tls) {
                (Ok((socket, peer)), tls) => {
                    // Nagle's algorithm is off: a small response must not wait for the acknowledgement of the
                    // previous one. The call can fail only when the client has disconnected, which the next
                    // read reports.
                    let _ = socket.set_nodelay(true);
                    match tls {
                        None => return (MaybeTlsStream::Plain(socket), peer),
                        Some(tls) => {
                            drop(tokio::spawn(shake(tls.acceptor(), socket, peer, self.done.clone())))
                        }
                    }
                }
                (Err(error), _) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Returns the address that it listens on.
    ///
    /// # Errors
    ///
    /// Fails if the system does not know it.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    socket: TcpStream,
    peer: SocketAddr,
    done: mpsc::Sender<(MaybeTlsStream, SocketAddr)>,
) {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        // The receiver is gone when the server shuts down.
        Ok(Ok(stream)) => drop(done.send((MaybeTlsStream::Tls(Box::new(stream)), peer)).await),
        Ok(Err(error)) => warn!(%peer, %error, "a TLS handshake failed"),
        Err(_) => debug!(%peer, "a TLS handshake was not finished in time"),
    }
}

impl From<TcpListener> for Incoming {
    fn from(listener: TcpListener) -> Self {
        Self::new(listener, None)
    }
}

impl axum::serve::Listener for Incoming {
    type Io = MaybeTlsStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (MaybeTlsStream, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_address()
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
