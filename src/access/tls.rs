//! TLS of our own two ports: certificates from files, read again when those change.
//!
//! What is read is used by connections from then on; those that stand keep what they began with. Files that do
//! not fit together (a certificate whose key has not been written yet) leave what was there, with a warning.

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

/// How long a client may take for its part of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The files of one port, PEM each.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of clients; none when clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One cannot be read, or holds something else.
    #[error("cannot read {what} from {}", path.display())]
    Read {
        /// Such as `a certificate`.
        what: &'static str,
        /// As the operator named it.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// They do not fit together, or an authority is no certificate.
    #[error("cannot serve TLS with {}", path.display())]
    Use {
        /// The certificate, or the authorities of clients.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca).cloned().collect()
    }

    /// The texts of all of them, to see whether they changed.
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

/// The authorities in a file.
///
/// # Errors
///
/// When it cannot be read, or holds something that is no certificate.
pub fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let failed = |error: rustls::Error| Error::Use { path: path.to_owned(), source: error.into() };
        roots.add(certificate).map_err(failed)?;
    }
    Ok(roots)
}

/// What a port shows its clients now. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files, and again when they change. `port` is for the log, and `protocols` are those that clients
    /// may choose from.
    ///
    /// # Errors
    ///
    /// When the files cannot be used now.
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

/// Whom a certificate is for: its alternative names, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// Of a certificate; none when it has no alternative names.
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

    /// True when one of them is this one.
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
    /// After its handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Whom the client's certificate is for; none when it showed none.
    pub fn names(&self) -> Option<Names> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().map(Names::of),
        }
    }

    /// Our end of it.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.local_addr().ok(),
            Self::Tls(stream) => stream.get_ref().0.local_addr().ok(),
        }
    }
}

/// Accepts connections, after their handshake where there is one. Handshakes go on beside each other: a client
/// that does not finish its own keeps nobody waiting.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    tls: Option<Tls>,
    ready: mpsc::Receiver<(Socket, SocketAddr)>,
    done: mpsc::Sender<(Socket, SocketAddr)>,
}

impl Incoming {
    /// Of this listener; without `tls` as they come.
    pub fn new(listener: TcpListener, tls: Option<Tls>) -> Self {
        let (done, ready) = mpsc::channel(1024);
        Self { listener, tls, ready, done }
    }

    /// The next one. When the system has no socket left, it tries again later instead of at once.
    pub async fn next(&mut self) -> (Socket, SocketAddr) {
        loop {
            let accepted = tokio::select! {
                Some(ready) = self.ready.recv() => return ready,
                accepted = self.listener.accept() => accepted,
            };
            match (accepted, &self.tls) {
                (Ok((socket, peer)), tls) => {
                    // An answer of some bytes must not wait for the acknowledgement of the one before. It can
                    // fail only when the client has gone already, which reading tells.
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

    /// The address that it listens on.
    ///
    /// # Errors
    ///
    /// When the system does not know it.
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
        // The receiver is gone when we are shutting down.
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
