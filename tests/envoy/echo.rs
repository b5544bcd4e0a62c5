//! Targets that report the requests that reached them, where the backends' fixed answers do not suffice.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Request as a target received it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReceivedRequest {
    /// Name of the target.
    pub(crate) by: String,
    /// Path and query.
    pub(crate) path: String,
    /// Headers; several of one name are joined by `, `.
    pub(crate) headers: BTreeMap<String, String>,
}

/// Server inside the test, ended when it is dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl TestServer {
    /// Starts a server that answers each request with this status and the request as it received it.
    pub(crate) async fn echo(name: &'static str, status: StatusCode) -> Self {
        let (listener, address) = listen().await;
        let app = Router::new().fallback(seen).with_state((name, status));
        let task = tokio::spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Self { address, task }
    }

    /// Starts a server that takes upgrades to WebSocket, sends its name in `x-backend`, and returns each byte
    /// that follows.
    pub(crate) async fn websocket(name: &'static str) -> Self {
        let (listener, address) = listen().await;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new(); // Connections end with the server.
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(upgrade(stream, name));
            }
        });
        Self { address, task: task.abort_handle() }
    }

    /// Starts `serve` on a listener of its own.
    pub(crate) async fn of<F: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(TcpListener) -> F,
    ) -> Self {
        let (listener, address) = listen().await;
        let task = tokio::spawn(serve(listener)).abort_handle();
        Self { address, task }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

async fn seen(State((name, status)): State<(&'static str, StatusCode)>, request: Request) -> Response {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        let known = headers.entry(name.to_string()).and_modify(|known| *known = format!("{known}, {value}"));
        known.or_insert_with(|| value.into_owned());
    }
    let seen = ReceivedRequest { by: name.to_owned(), path: request.uri().to_string(), headers };
    (status, [("x-backend", name), ("x-powered-by", "a test")], Json(seen)).into_response()
}

async fn upgrade(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    head(&mut stream).await?;
    let accepted = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-backend: {name}\r\n\r\n"
    );
    stream.write_all(accepted.as_bytes()).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.map(|_| ())
}

/// Reads up to the end of the head of a message. Fails if the stream ends before.
pub(crate) async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
