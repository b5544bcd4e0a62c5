//! Stream on a connection of its own, as Envoy has it: asks, acknowledges, and records when news came.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use anyhow::Context as _;
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture};
use h2::{RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::fleet::{FleetState, Phase};
use crate::wire::{self, Decoder, Head, Response, Type, Variant};

/// Manner in which a stream reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadBehaviour {
    /// Reads everything, at once.
    Reads,
    /// Reads not a byte from [`Phase::Freeze`] on, as a process that was stopped.
    Frozen,
    /// Answers pings from then on and takes nothing: its window stays shut.
    Windowless,
}

/// Flow-control windows of Envoy.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;

struct Stream {
    shared: Arc<FleetState>,
    index: usize,
    requests: SendStream<Bytes>,
    answer: ResponseState,
    decoder: Decoder,
    /// Node id for the first request.
    node: Option<String>,
    is_requested: [bool; 2],
    /// Permit that is held until all requested resources came.
    permit: Option<OwnedSemaphorePermit>,
}

enum ResponseState {
    Awaited(ResponseFuture),
    Begun(RecvStream),
}

/// Connects, waits for the phase to ask, and runs until the other side ends the stream or the task is
/// aborted.
pub(crate) async fn run(
    shared: Arc<FleetState>,
    index: usize,
    behaviour: ReadBehaviour,
    mut phase: watch::Receiver<Phase>,
    permit: Option<OwnedSemaphorePermit>,
) -> anyhow::Result<()> {
    let (mut stream, mut connection) = connect(shared, index, behaviour, permit).await?;
    stream.shared.slots[index].connected.store(true, Relaxed);
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => return ended.context("the connection broke"),
            changed = phase.changed() => {
                changed.context("the fleet is gone")?;
                let now = *phase.borrow();
                match (now, behaviour) {
                    (Phase::Ask, _) => stream.ask_first()?,
                    (Phase::Freeze, ReadBehaviour::Frozen) => return pending().await,
                    (Phase::Freeze, ReadBehaviour::Windowless) => return connection.await.context("the connection broke"),
                    _ => {}
                }
            }
            chunk = poll_fn(|cx| stream.poll_chunk(cx)) => match chunk? {
                Some(chunk) => stream.take(&chunk)?,
                None => anyhow::bail!("the stream was ended"),
            },
        }
    }
}

async fn connect(
    shared: Arc<FleetState>,
    index: usize,
    behaviour: ReadBehaviour,
    permit: Option<OwnedSemaphorePermit>,
) -> anyhow::Result<(Stream, Connection<TcpStream>)> {
    let script = &shared.script;
    let socket = TcpStream::connect(script.address).await.context("cannot connect")?;
    socket.set_nodelay(true)?;
    // Thousands of streams that end at once would otherwise keep their ports for a minute.
    socket.set_zero_linger()?;
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false);
    if behaviour != ReadBehaviour::Windowless {
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    }
    let (sender, mut connection) = builder.handshake(socket).await?;
    let method = match script.variant {
        Variant::Sotw => "StreamAggregatedResources",
        Variant::Delta => "DeltaAggregatedResources",
    };
    let uri =
        format!("http://{}/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}", script.address);
    let request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut sender = tokio::select! {
        sender = sender.ready() => sender?,
        ended = &mut connection => {
            ended?;
            anyhow::bail!("the connection was closed");
        }
    };
    let (answer, requests) = sender.send_request(request, false)?;
    let stream = Stream {
        index,
        requests,
        answer: ResponseState::Awaited(answer),
        decoder: Decoder::new(script.variant, script.scout),
        node: Some(format!("load-{index}")),
        is_requested: [false; 2],
        permit,
        shared,
    };
    Ok((stream, connection))
}

impl Stream {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<Option<Bytes>>> {
        if let ResponseState::Awaited(answer) = &mut self.answer {
            let response = ready!(Pin::new(answer).poll(cx))?;
            refused(&response)?;
            self.answer = ResponseState::Begun(response.into_body());
        }
        let ResponseState::Begun(body) = &mut self.answer else { unreachable!("it has begun") };
        match ready!(body.poll_data(cx)).transpose()? {
            Some(chunk) => {
                body.flow_control().release_capacity(chunk.len())?;
                Poll::Ready(Ok(Some(chunk)))
            }
            None => Poll::Ready(Ok(None)),
        }
    }

    /// Sends the first requests. Envoy asks for clusters first and for endpoints when it knows them; when it
    /// comes back it asks for all.
    fn ask_first(&mut self) -> anyhow::Result<()> {
        let script = self.shared.script.clone();
        for of in script.types {
            self.ask(*of)?;
            if !script.at_once {
                break;
            }
        }
        Ok(())
    }

    fn ask(&mut self, of: Type) -> anyhow::Result<()> {
        self.is_requested[of as usize] = true;
        let node = self.node.take();
        let head = Head { node: node.as_deref(), ..Head::default() };
        let script = self.shared.script.clone();
        self.send(wire::request(script.variant, of, head, &script.first[of as usize]))
    }

    fn send(&mut self, parts: [Bytes; 2]) -> anyhow::Result<()> {
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            self.requests.send_data(part, false)?;
        }
        Ok(())
    }

    fn take(&mut self, chunk: &[u8]) -> anyhow::Result<()> {
        self.shared.slots[self.index].bytes.fetch_add(chunk.len() as u64, Relaxed);
        let responses = self.decoder.feed(chunk).map_err(|_| anyhow::anyhow!("this is no response"))?;
        for response in responses {
            let Some(of) = response.of else { continue };
            self.acknowledge(of, &response)?;
            self.shared.record(self.index, of, response);
            let next = self.shared.script.types.iter().find(|of| !self.is_requested[**of as usize]);
            if let Some(next) = next {
                self.ask(*next)?;
            }
            if self.shared.has_all(self.index) {
                self.permit = None;
            }
        }
        Ok(())
    }

    /// Acknowledges a response. SotW repeats all names in every request, delta none.
    fn acknowledge(&mut self, of: Type, response: &Response) -> anyhow::Result<()> {
        let script = self.shared.script.clone();
        let head = Head { node: None, version: &response.version, nonce: &response.nonce };
        let none = Bytes::new();
        let tail = if script.variant == Variant::Sotw { &script.first[of as usize] } else { &none };
        self.send(wire::request(script.variant, of, head, tail))
    }
}

/// Fails if the stream was refused: a stream that is refused at once has its status in place of trailers.
fn refused(response: &http::Response<RecvStream>) -> anyhow::Result<()> {
    anyhow::ensure!(response.status() == http::StatusCode::OK, "the answer is {}", response.status());
    if let Some(status) = response.headers().get("grpc-status") {
        anyhow::bail!("refused: {status:?}, {:?}", response.headers().get("grpc-message"));
    }
    Ok(())
}
