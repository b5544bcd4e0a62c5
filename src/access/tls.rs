//! TLS for the two ports of the control plane: certificates from files, which are reloaded when they change.
//!
//! New connections use the reloaded files; existing ones keep the config with which they began. If the files
//! do not fit together (a certificate whose key is not written yet), the old config stays, and a warning is
//! logged.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};
use x509_parser::extensions::{GeneralName, ParsedExtension};

use crate::source::watch as watcher;

/// Time within which a client must complete the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// PEM files of one port.
#[derive(Debug, Clone)]
pub struct Files {
    /// Certificate chain of the server.
    pub certificate: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// Certificate authorities of clients; none if clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Reason for which files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or holds something else.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// Expected content, such as `a certificate`.
        what: &'static str,
        /// Path as the operator gave it.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The files do not fit together, or an authority is not a certificate.
    #[error("cannot serve TLS with {}", path.display())]
    Use {
        /// File of the certificate, or of the client authorities.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca).cloned().collect()
    }

    /// Reads all files, to detect changes; none for a file that cannot be read.
    fn texts(&self) -> Vec<Option<Vec<u8>>> {
        self.paths().iter().map(|path| std::fs::read(path).ok()).collect()
    }

    fn config(&self, protocols: &[&str]) -> Result<ServerConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Use { path, source }
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&self.certificate)(error.into()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider);
                builder
                    .with_client_cert_verifier(verifier.build().map_err(|error| failed(path)(error.into()))?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|source| Error::Read { what: "a key", path: self.key.clone(), source })?;
        let config = builder.with_single_cert(certificates(&self.certificate)?, key);
        let mut config = config.map_err(|error| failed(&self.certificate)(error.into()))?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = || {
        let all: Vec<CertificateDer<'static>> =
            CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
        if all.is_empty() { Err(rustls::pki_types::pem::Error::NoItemsFound) } else { Ok(all) }
    };
    read().map_err(|source| Error::Read { what: "a certificate", path: path.to_owned(), source })
}

/// Reads the certificate authorities in a file.
///
/// # Errors
///
/// Fails if the file cannot be read, or holds something that is not a certificate.
pub fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let failed = |error: rustls::Error| Error::Use { path: path.to_owned(), source: error.into() };
        roots.add(certificate).map_err(failed)?;
    }
    Ok(roots)
}

/// Current TLS config of a port. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files, and again when they change. `port` names the port in the log, and `protocols` are
    /// offered to clients by ALPN.
    ///
    /// # Errors
    ///
    /// Fails if the files cannot be used now.
    pub fn watch(
        files: Files,
        port: &'static str,
        protocols: &'static [&'static str],
    ) -> Result<Self, Error> {
        let mut known = files.texts();
        let config = Arc::new(Mutex::new(Arc::new(files.config(protocols)?)));
        let (current, paths) = (Arc::downgrade(&config), files.clone());
        watcher::watch(
            watcher::POLL,
            move || paths.paths(),
            move || {
                let Some(current) = current.upgrade() else { return false };
                let texts = files.texts();
                if texts == known {
                    return true;
                }
                match files.config(protocols) {
                    Ok(config) => {
                        *current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                        info!(port, "the certificate was read again");
                    }
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        warn!(port, error, "the changed certificate cannot be used; the one before stays");
                    }
                }
                known = texts;
                true
            },
        );
        Ok(Self { config })
    }

    fn acceptor(&self) -> TlsAcceptor {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

/// Subject alternative names of a certificate, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// Reads the names of a certificate; empty if it has none or cannot be parsed.
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
            return Self(Vec::new());
        };
        let names =
            certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            });
        let text = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
                Some((*name).to_owned())
            }
            GeneralName::IPAddress(bytes) => ip(bytes),
            _ => None,
        };
        Self(names.flatten().filter_map(text).collect())
    }

    /// True if `name` is among them.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|own| own == name)
    }
}

impl std::fmt::Display for Names {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_slice() {
            [] => formatter.write_str("nobody (it has no subject alternative name)"),
            names => write!(formatter, "`{}`", names.join("`, `")),
        }
    }
}

fn ip(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(|it| std::net::Ipv4Addr::from(it).to_string());
    let sixteen = || <[u8; 16]>::try_from(bytes).map(|it| std::net::Ipv6Addr::from(it).to_string());
    four.or_else(|_| sixteen()).ok()
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        Self(names.into_iter().collect())
    }
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum Socket {
    /// Not encrypted.
    Plain(TcpStream),
    /// Encrypted, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Returns the names in the client's certificate; none if it presented no certificate.
    pub fn names(&self) -> Option<Names> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().map(Names::of),
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
    tls: Option<Tls>,
    ready: mpsc::Receiver<(Socket, SocketAddr)>,
    done: mpsc::Sender<(Socket, SocketAddr)>,
}

impl Incoming {
    /// Accepts from this listener; without `tls` connections are not encrypted.
    pub fn new(listener: TcpListener, tls: Option<Tls>) -> Self {
        let (done, ready) = mpsc::channel(1024);
        Self { listener, tls, ready, done }
    }

    /// Waits for the next connection. If accepting fails, for instance because the system is out of sockets,
    /// it tries again after 100 ms.
    pub async fn next(&mut self) -> (Socket, SocketAddr) {
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
                        None => return (Socket::Plain(socket), peer),
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
    done: mpsc::Sender<(Socket, SocketAddr)>,
) {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        // The receiver is gone when the server shuts down.
        Ok(Ok(stream)) => drop(done.send((Socket::Tls(Box::new(stream)), peer)).await),
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
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_address()
    }
}

impl AsyncRead for Socket {
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

impl AsyncWrite for Socket {
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
