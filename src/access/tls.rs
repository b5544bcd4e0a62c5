//! TLS for the two ports of the control plane: certificates from files, which are reloaded when they change.
//!
//! New connections use the reloaded files; existing ones keep the config with which they began. If the files
//! do not fit together (a certificate whose key is not written yet), the old config stays, and a warning is
//! logged.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::source::watch as watcher;

/// PEM files of one port.
#[derive(Debug, Clone)]
pub struct TlsFiles {
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

impl TlsFiles {
    fn paths(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca).cloned().collect()
    }

    /// Reads all files, to detect changes; a file that cannot be read has no content.
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
pub struct PortTls {
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl PortTls {
    /// Reads the files, and again when they change. `port` names the port in the log, and `protocols` are
    /// offered to clients by ALPN.
    ///
    /// # Errors
    ///
    /// Fails if the files cannot be used now.
    pub fn watch(
        files: TlsFiles,
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

    /// Returns an acceptor for one connection, with the current config.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}
