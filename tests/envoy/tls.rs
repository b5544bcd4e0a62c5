//! Certificates and both ends of TLS, for the tests: an authority, a server in front of a backend, a client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::harness::PATIENCE;

/// Authority that signs certificates.
pub(crate) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// Certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct CertifiedKey {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl CertificateAuthority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("it signs itself").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate for these names and addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> CertifiedKey {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.signed(CertificateParams::new(names).expect("they are names"))
    }

    /// Issues a certificate for one name that expires this many seconds after 1970.
    #[allow(dead_code, reason = "the tests of the admin API use it")]
    pub(crate) fn issue_until(&self, name: &str, second: u64) -> CertifiedKey {
        let mut params = CertificateParams::new([name.to_owned()]).expect("it is a name");
        // Start of validity by default.
        const FIRST_OF_1975: u64 = 157_766_400;
        params.not_after = params.not_before + Duration::from_secs(second - FIRST_OF_1975);
        self.signed(params)
    }

    fn signed(&self, params: CertificateParams) -> CertifiedKey {
        let key = KeyPair::generate().expect("a key");
        let chain = params.signed_by(&key, &self.issuer).expect("it is signed").pem();
        CertifiedKey { chain, key: key.serialize_pem() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM");
        roots.add(own).expect("it is a certificate");
        Arc::new(roots)
    }
}

impl CertifiedKey {
    fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        (vec![self.certificate()], key)
    }

    /// Returns the certificate itself, to compare.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("PEM")
    }
}

/// Requests and certificates of the clients of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SeenConnections {
    /// Number of connections by the requested name; empty for none.
    pub(crate) names: BTreeMap<String, u64>,
    /// Number of connections without a client certificate.
    pub(crate) strangers: u64,
    /// Number of connections by the negotiated protocol; empty for none.
    pub(crate) protocols: BTreeMap<String, u64>,
}

/// Server that ends TLS in front of a backend, and passes the bytes on. Dropping it ends its connections too.
pub(crate) struct TlsFront {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<SeenConnections>>,
    accepting: JoinHandle<()>,
}

impl TlsFront {
    /// Starts a front. With `clients`, clients must show a certificate of theirs.
    pub(crate) async fn start(
        backend: SocketAddr,
        pair: &CertifiedKey,
        clients: Option<&CertificateAuthority>,
    ) -> Self {
        Self::speaking(&[], backend, pair, clients).await
    }

    /// Does the same as [`Self::start`], for a backend that speaks these protocols, the preferred one first.
    pub(crate) async fn speaking(
        alpn: &[&str],
        backend: SocketAddr,
        pair: &CertifiedKey,
        clients: Option<&CertificateAuthority>,
    ) -> Self {
        let (chain, key) = pair.der();
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the defaults are fine");
        let config = match clients {
            Some(clients) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(clients.roots(), provider).build();
                config.with_client_cert_verifier(verifier.expect("there is an authority"))
            }
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).expect("they belong together");
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::new(SeenConnections::default()));
        let accepting =
            tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), backend, seen.clone()));
        Self { address, seen, accepting }
    }

    pub(crate) fn seen(&self) -> SeenConnections {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    backend: SocketAddr,
    seen: Arc<Mutex<SeenConnections>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        connections.spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let (_, session) = stream.get_ref();
            {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                *seen.names.entry(session.server_name().unwrap_or_default().to_owned()).or_default() += 1;
                seen.strangers += u64::from(session.peer_certificates().is_none());
                let protocol =
                    String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()).into_owned();
                *seen.protocols.entry(protocol).or_default() += 1;
            }
            if let Ok(mut backend) = TcpStream::connect(backend).await {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut backend).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Outcome of one request on a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsResponse {
    /// Value of the header `x-backend`.
    pub(crate) served_by: String,
    /// Certificate of the server; none without TLS.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    /// Negotiated protocol.
    pub(crate) alpn: Option<Vec<u8>>,
}

/// Client in TLS.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Creates a client that trusts `authority`, and shows `pair` if it is asked.
    pub(crate) fn new(authority: &CertificateAuthority, pair: Option<&CertifiedKey>, alpn: &[&str]) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the defaults are fine")
            .with_root_certificates(authority.roots());
        let mut config = match pair.map(CertifiedKey::der) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).expect("they belong together"),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // A resumed session would show the certificate of an earlier time.
        config.resumption = rustls::client::Resumption::disabled();
        Self(Arc::new(config))
    }

    /// Returns what makes connections of this client.
    #[allow(dead_code, reason = "the tests with Envoys use it")]
    pub(crate) fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.0.clone())
    }

    /// Sends a GET of `/` to the server with this name, on a connection of its own. An IP address is not
    /// requested as a name.
    pub(crate) async fn get(&self, port: u16, name: &str) -> Result<TlsResponse, String> {
        let attempt = async {
            let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
            let stream = connect(port).await?;
            let mut stream = TlsConnector::from(self.0.clone())
                .connect(server, stream)
                .await
                .map_err(|error| format!("handshake: {error}"))?;
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(|chain| chain.first()).cloned();
            let certificate = certificate.map(CertificateDer::into_owned);
            let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
            let served_by = match alpn.as_deref() {
                Some(b"h2") => String::new(),
                _ => ask(&mut stream, name).await?,
            };
            Ok(TlsResponse { served_by, certificate, alpn })
        };
        within(attempt).await
    }
}

/// Sends a GET of `/` on a connection of its own, and returns the backend that answered.
pub(crate) async fn get(port: u16) -> Result<String, String> {
    within(async { ask(&mut connect(port).await?, "127.0.0.1").await }).await
}

async fn within<T>(attempt: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(Duration::from_secs(10), attempt)
        .await
        .unwrap_or_else(|_| Err("no answer within 10 s".to_owned()))
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| format!("connect: {error}"))
}

async fn ask(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), host: &str) -> Result<String, String> {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {error}"))?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let backend = answer.lines().find_map(|line| line.strip_prefix("x-backend: ")).map(str::to_owned);
    match backend.filter(|_| answer.starts_with("HTTP/1.1 200 ")) {
        Some(backend) => Ok(backend),
        None => Err(format!("{:?} {}", read.err(), answer.lines().next().unwrap_or("nothing"))),
    }
}

/// Connections one after another, whether or not the earlier ones were answered.
pub(crate) struct Connections {
    outcomes: Arc<Mutex<Vec<Result<String, String>>>>,
    going: JoinHandle<JoinSet<()>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Connections {
    pub(crate) fn start<F>(per_second: u32, one: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<String, String>> + Send + 'static,
    {
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let kept = outcomes.clone();
        let going = tokio::spawn(async move {
            let mut all = JoinSet::new();
            let mut due = tokio::time::interval(Duration::from_secs(1) / per_second);
            while !*stopped.borrow() {
                due.tick().await;
                let (attempt, kept) = (one(), kept.clone());
                all.spawn(async move {
                    let outcome = attempt.await;
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                });
            }
            all
        });
        Self { outcomes, going, stop }
    }

    /// Returns the outcomes so far.
    pub(crate) fn answered(&self) -> Vec<Result<String, String>> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this backend alone gave the last 50 answers.
    pub(crate) async fn served_by(&self, backend: &str) {
        let from = self.answered().len();
        crate::harness::eventually(PATIENCE, &format!("{backend} serves connections"), async || {
            let answered = self.answered();
            let last = &answered[from.max(answered.len().saturating_sub(50))..];
            match last.len() == 50 && last.iter().all(|it| it.as_deref() == Ok(backend)) {
                true => Ok(()),
                false => Err(format!("{last:?}")),
            }
        })
        .await;
    }

    /// Ends the connections, and returns their number and the errors.
    pub(crate) async fn stop(self) -> (usize, Vec<String>) {
        self.stop.send_replace(true);
        let all = self.going.await.expect("it goes on until it is stopped");
        all.join_all().await;
        let outcomes = std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner));
        (outcomes.len(), outcomes.into_iter().filter_map(Result::err).collect())
    }
}
