//! Connection to a control plane: in plain text, or in TLS by the CA file that the user named.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::access::tls;
use crate::access::tokens::TokenSecret;

/// Time limit of a request, a wait for Envoys included.
const TIMEOUT: Duration = Duration::from_secs(90);

/// Options that authenticate to the admin API.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Credentials {
    /// File with a token for the admin API; UNDERSTUDY_TOKEN holds the token itself
    #[arg(long, env = "UNDERSTUDY_TOKEN_FILE", value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// CA file for the certificate of the admin API, for https://
    #[arg(long, env = "UNDERSTUDY_CA", value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// Client certificate, if the admin API requires one
    #[arg(long, env = "UNDERSTUDY_CLIENT_CERT", value_name = "FILE", requires = "client_key", global = true)]
    client_cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, env = "UNDERSTUDY_CLIENT_KEY", value_name = "FILE", requires = "client_cert", global = true)]
    client_key: Option<PathBuf>,
}

impl Credentials {
    fn token(&self) -> anyhow::Result<Option<TokenSecret>> {
        let text = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                Some(text.with_context(|| format!("cannot read the token in {}", path.display()))?)
            }
            None => std::env::var("UNDERSTUDY_TOKEN").ok().filter(|token| !token.trim().is_empty()),
        };
        Ok(text.map(|text| TokenSecret::from_text(&text)))
    }

    fn connector(&self) -> anyhow::Result<TlsConnector> {
        let ca = self.ca.as_deref();
        let ca = ca.context("https:// needs --ca, the CA file for the certificate of the admin API")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(tls::roots(ca)?);
        let config = match self.client_cert.as_deref().zip(self.client_key.as_deref()) {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let cannot = || "cannot read the client's certificate and key";
                let chain = CertificateDer::pem_file_iter(certificate).with_context(cannot)?;
                let chain = chain.collect::<Result<Vec<_>, _>>().with_context(cannot)?;
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).with_context(cannot)?)?
            }
        };
        Ok(Arc::new(config).into())
    }
}

/// Address of an admin API, and the credentials for it.
pub(crate) struct AdminConnection {
    /// Base URL, as the user would write it.
    pub(crate) base: String,
    authority: Authority,
    tls: Option<TlsConnector>,
    token: Option<TokenSecret>,
}

impl std::fmt::Debug for AdminConnection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Connection({})", self.base)
    }
}

/// Failure to connect: nothing listens at this address.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot connect to {0}; is `understudy serve` running? For another address set --admin or UNDERSTUDY_ADMIN"
)]
pub(crate) struct Unreachable(String);

impl AdminConnection {
    /// Prepares connections to `host:port` or a URL.
    pub(crate) fn new(address: &str, credentials: &Credentials) -> anyhow::Result<Self> {
        let address = address.trim_end_matches('/');
        let base = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let uri: Uri = base.parse().with_context(|| format!("`{address}` is not an address"))?;
        let authority = uri.authority().cloned().with_context(|| format!("`{address}` is not an address"))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Some(credentials.connector()?),
            _ => None,
        };
        Ok(Self { base, authority, tls, token: credentials.token()? })
    }

    /// Sends a request and reads the whole response. The URI of the request is a path.
    pub(crate) async fn exchange(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Bytes>> {
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.authority.as_str().parse()?);
        if let Some(token) = &self.token {
            let mut value: http::HeaderValue = format!("Bearer {}", token.reveal())
                .parse()
                .ok()
                .context("the token contains a character that a header cannot carry")?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let response = tokio::time::timeout(TIMEOUT, self.send(request)).await;
        response.with_context(|| format!("{} did not answer within {} s", self.base, TIMEOUT.as_secs()))?
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Bytes>> {
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = self.authority.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let socket = TcpStream::connect((host, port)).await;
        let socket = socket.map_err(|_| Unreachable(self.base.clone()))?;
        match &self.tls {
            None => exchange_on(socket, request).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned())?;
                let socket = tls.connect(name, socket).await;
                exchange_on(
                    socket.with_context(|| format!("the TLS handshake with {} failed", self.base))?,
                    request,
                )
                .await
            }
        }
        .with_context(|| format!("the request to {} failed", self.base))
    }
}

async fn exchange_on(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Response<Bytes>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await.context("the response ended early")?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(head, body))
}
