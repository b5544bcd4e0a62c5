//! Tests of spans, as an OpenTelemetry collector gets them.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::harness::{PATIENCE, Understudy};

/// Fields of `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest` that the tests read.
#[derive(Message)]
struct ExportedTraces {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<TraceResource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Message)]
struct TraceResource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<ExportedSpan>,
}

#[derive(Clone, Message)]
struct ExportedSpan {
    #[prost(string, tag = "5")]
    name: String,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(attributes: &[Attribute], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|found| found.value.clone()).map(|value| value.text).unwrap_or_default()
}

/// Starts a collector: gRPC over HTTP/2 without TLS, whose response is the empty message.
async fn collector() -> (String, mpsc::UnboundedReceiver<ExportedTraces>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, exports) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!(
                        request.uri().path(),
                        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
                    );
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let _ = sender.send(ExportedTraces::decode(&body[5..]).unwrap());
                    let trailers = async {
                        Some(Ok::<_, Infallible>(HeaderMap::from_iter([(
                            "grpc-status".parse().unwrap(),
                            "0".parse().unwrap(),
                        )])))
                    };
                    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(trailers);
                    let response = Response::builder().header("content-type", "application/grpc");
                    Ok::<_, Infallible>(response.body(body).unwrap())
                }
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, exports)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_a_trace_of_what_it_took() {
    let (address, mut exports) = collector().await;
    let understudy = Understudy::serve(&["--otlp", &address]).await;
    assert_eq!(understudy.put("/upstreams/shop", json!({})).await.0, 201);
    let mut spans: Vec<ExportedSpan> = Vec::new();
    let wanted = |spans: &[ExportedSpan]| {
        ["request", "build", "commit"].iter().all(|name| spans.iter().any(|it| it.name == *name))
    };
    let all = async {
        while !wanted(&spans) {
            for of in exports.recv().await.unwrap().resources {
                let resource = of.resource.unwrap_or_default();
                assert_eq!(text(&resource.attributes, "service.name"), "understudy");
                assert_eq!(text(&resource.attributes, "service.version"), env!("CARGO_PKG_VERSION"));
                spans.extend(of.scopes.into_iter().flat_map(|scope| scope.spans));
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the spans of a write come within the patience");
    let request = spans.iter().find(|span| span.name == "request").unwrap();
    assert_eq!(text(&request.attributes, "method"), "PUT");
    assert_eq!(text(&request.attributes, "route"), "/upstreams/{name}");
    // Writes that come together are built and stored together: those spans belong to none of them.
    let of =
        |name: &str| spans.iter().find(|span| span.name == name).map(|span| text(&span.attributes, "target"));
    assert_eq!(
        (of("build"), of("commit")),
        (Some("understudy::control".to_owned()), Some("understudy::control".to_owned()))
    );
}
