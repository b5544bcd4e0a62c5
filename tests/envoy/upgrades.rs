//! Tests of WebSockets and gRPC over a failover.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::echo::{TestServer, head};
use crate::harness::{PATIENCE, eventually};
use crate::stage::{Edge, create};

/// Starts an Envoy in front of a primary and a standby that speak `protocol`. `/` goes to `service`.
async fn edge(
    protocol: &str,
    service: serde_json::Value,
    primary: &TestServer,
    standby: &TestServer,
) -> Edge {
    Edge::by_rest(async |understudy| {
        let targets = json!([
            {"target": primary.address.to_string()},
            {"target": standby.address.to_string(), "failover": true},
        ]);
        let upstream = json!({"name": "shop", "protocol": protocol, "targets": targets});
        create(understudy, "/upstreams", upstream).await;
        let mut body = json!({"name": "shop", "upstream": "shop"});
        for (key, value) in service.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        create(understudy, "/services", body).await;
        create(understudy, "/routes", json!({"name": "shop", "service": "shop"})).await;
    })
    .await
}

/// WebSocket after the upgrade, and the target that took it.
struct WebSocket {
    stream: TcpStream,
    by: String,
}

impl WebSocket {
    /// Opens a WebSocket. The head of any other response is the error.
    async fn open(edge: &Edge) -> Result<Self, String> {
        let told = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", edge.port)).await.map_err(told)?;
        let request = "GET /chat HTTP/1.1\r\nhost: shop.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).await.map_err(told)?;
        let head = tokio::time::timeout(PATIENCE, head(&mut stream)).await;
        let head = head.map_err(|_| "no answer".to_owned())?.map_err(told)?;
        let by =
            head.lines().find_map(|line| line.strip_prefix("x-backend: ")).unwrap_or_default().to_owned();
        if head.starts_with("HTTP/1.1 101 ") { Ok(Self { stream, by }) } else { Err(head) }
    }

    async fn echoes(&mut self, text: &[u8]) -> bool {
        let mut echo = vec![0; text.len()];
        let round = async {
            self.stream.write_all(text).await?;
            self.stream.read_exact(&mut echo).await
        };
        let came = tokio::time::timeout(PATIENCE, round).await.expect("the end, or an echo");
        came.is_ok() && echo == text
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_ends_with_its_target_and_the_next_one_goes_to_the_standby() {
    let (primary, standby) = (TestServer::websocket("A").await, TestServer::websocket("FAILOVER").await);
    let edge = edge("http1", json!({"timeout": "500ms"}), &primary, &standby).await;
    let mut first = eventually(PATIENCE, "A takes upgrades", async || WebSocket::open(&edge).await).await;
    assert_eq!(first.by, "A");
    // The timeout is for requests, and ends with the upgrade.
    let opened = Instant::now();
    eventually(PATIENCE, "a second passes", async || match opened.elapsed() {
        passed if passed > Duration::from_secs(1) => Ok(()),
        passed => Err(format!("{passed:?}")),
    })
    .await;
    assert!(first.echoes(b"hello").await, "it lives longer than a request may");

    drop(primary);
    eventually(PATIENCE, "its end is heard", async || match first.echoes(b"hello").await {
        true => Err("it is open".to_owned()),
        false => Ok(()),
    })
    .await;
    for number in 0..100 {
        let mut next = WebSocket::open(&edge).await.unwrap_or_else(|head| panic!("upgrade {number}: {head}"));
        assert_eq!(next.by, "FAILOVER");
        assert!(next.echoes(b"hello").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_refuse_websockets() {
    let (primary, standby) = (TestServer::websocket("A").await, TestServer::websocket("FAILOVER").await);
    let edge = edge("http1", json!({"websocket": false}), &primary, &standby).await;
    eventually(PATIENCE, "upgrades are refused", async || match WebSocket::open(&edge).await {
        Err(head) if head.starts_with("HTTP/1.1 403 ") => Ok(()),
        Err(head) => Err(head),
        Ok(_) => Err("it was opened".to_owned()),
    })
    .await;
}

/// Health service that answers calls with a status, or well if there is none, and counts them.
struct CountingHealth {
    count: Arc<AtomicU32>,
    status: Option<Code>,
}

#[tonic::async_trait]
impl Health for CountingHealth {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.count.fetch_add(1, Ordering::Relaxed);
        match self.status {
            Some(code) => Err(Status::new(code, "not here")),
            None => Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() })),
        }
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// Starts a gRPC server, and returns it with the number of calls that reached it.
async fn grpc(status: Option<Code>) -> (TestServer, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let calls = CountingHealth { count: count.clone(), status };
    let server = TestServer::of(|listener: TcpListener| async {
        let service = tonic::transport::Server::builder().add_service(HealthServer::new(calls));
        let _ = service.serve_with_incoming(TcpListenerStream::new(listener)).await; // Ended by the test.
    });
    (server.await, count)
}

async fn client(edge: &Edge) -> HealthClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", edge.port)).expect("a URL");
    eventually(PATIENCE, "Envoy listens", async || match endpoint.connect().await {
        Ok(channel) => Ok(HealthClient::new(channel)),
        Err(error) => Err(error.to_string()),
    })
    .await
}

async fn call(client: &mut HealthClient<Channel>) -> Result<(), Code> {
    let answer = client.check(HealthCheckRequest::default()).await;
    answer.map(|_| ()).map_err(|status| status.code())
}

/// Tests a named gRPC status. The answer has no message, only a status, and every call is a POST.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_that_is_named_is_retried_on_the_standby() {
    let ((primary, tried), (standby, served)) = (grpc(Some(Code::Unavailable)).await, grpc(None).await);
    let service = json!({"retries": {"retry_on": ["connect_failure", "unavailable"]}});
    let edge = edge("http2", service, &primary, &standby).await;
    let mut client = client(&edge).await;
    let mut results = Vec::new();
    for _ in 0..200 {
        results.push(call(&mut client).await);
    }
    let errors: Vec<_> = results.iter().filter(|result| result.is_err()).collect();
    assert_eq!(errors.len(), 0, "{errors:?}");
    assert_eq!(served.load(Ordering::Relaxed), 200);
    // The primary is ejected by this status, as by a 503.
    let tried = tried.load(Ordering::Relaxed);
    assert!((5..200).contains(&tried), "{tried} tries of the primary");
}

/// Tests a gRPC status that is not named. The call may have had its effect: another try needs explicit
/// permission.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_that_is_not_named_is_the_client_s() {
    let ((primary, tried), (standby, served)) = (grpc(Some(Code::Internal)).await, grpc(None).await);
    let service = json!({"retries": {"retry_on": ["connect_failure", "unavailable"]}});
    let edge = edge("http2", service, &primary, &standby).await;
    assert_eq!(call(&mut client(&edge).await).await, Err(Code::Internal));
    assert_eq!((tried.load(Ordering::Relaxed), served.load(Ordering::Relaxed)), (1, 0));
}
