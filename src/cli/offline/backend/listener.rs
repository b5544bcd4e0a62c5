//! Listener of a backend, with faults of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::cli::offline::backend::socket::{Ending, FaultySocket};

/// Maximum number of connections waiting to be accepted.
const BACKLOG: i32 = 1024;

/// Time limit of a connect over loopback, after which the connection counts as unanswered.
const UNANSWERED: Duration = Duration::from_millis(100);

/// Treatment of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListenerMode {
    /// Accepted and served.
    Open,
    /// Refused: no socket listens.
    Closed,
    /// Accepted and reset.
    Reset,
    /// Unanswered, as if packets were dropped.
    Mute,
}

impl FromStr for ListenerMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "open" => Self::Open,
            "closed" => Self::Closed,
            "reset" => Self::Reset,
            "mute" => Self::Mute,
            _ => return Err(format!("unknown listener `{text}`; there are open, closed, reset, mute")),
        })
    }
}

/// Requested state of the listener, and the channel that confirms it.
pub(super) type ListenerCommand = (ListenerMode, oneshot::Sender<anyhow::Result<()>>);

/// Listening socket and its state.
pub(super) struct FaultyListener {
    address: SocketAddr,
    commands: mpsc::Receiver<ListenerCommand>,
    mode: ListenerMode,
    /// Listening socket; none while closed.
    listener: Option<TcpListener>,
    /// Connections to ourselves that fill the queue, so that the kernel takes no others.
    queued: Vec<TcpStream>,
}

impl FaultyListener {
    pub(super) async fn open(
        address: SocketAddr,
        commands: mpsc::Receiver<ListenerCommand>,
    ) -> anyhow::Result<Self> {
        let listener = listen(address).await?;
        let address = listener.local_addr().context("cannot read the address of the listener")?;
        let mode = ListenerMode::Open;
        Ok(Self { address, commands, mode, listener: Some(listener), queued: Vec::new() })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts connections as ordered, forever. Connections to be served go to `welcome`.
    pub(super) async fn run(mut self, serve: impl Fn(TcpStream)) -> Infallible {
        loop {
            tokio::select! {
                Some((mode, done)) = self.commands.recv() => {
                    let _ = done.send(self.set_mode(mode).await); // Its sender may be gone.
                }
                stream = accept(self.listener.as_ref()), if self.mode != ListenerMode::Mute => {
                    match self.mode {
                        ListenerMode::Open => serve(stream),
                        _ => FaultySocket::new(stream).ending().set(Ending::Rst),
                    }
                }
            }
        }
    }

    async fn set_mode(&mut self, mode: ListenerMode) -> anyhow::Result<()> {
        self.queued.clear();
        if mode == ListenerMode::Closed {
            self.listener = None;
        } else {
            let listener = match self.listener.take() {
                Some(listener) => listener,
                None => listen(self.address).await?,
            };
            // Linux lets `listen` change the queue length of a socket that listens already.
            let backlog = if mode == ListenerMode::Mute { 0 } else { BACKLOG };
            SockRef::from(&listener).listen(backlog).context("cannot change the queue")?;
            self.listener = Some(listener);
        }
        if mode == ListenerMode::Mute {
            self.fill_queue().await?;
        }
        self.mode = mode;
        Ok(())
    }

    /// Connects to ourselves until a connection does not come up. A queue of length 0 holds one connection.
    async fn fill_queue(&mut self) -> anyhow::Result<()> {
        for _ in 0..2 * BACKLOG {
            match tokio::time::timeout(UNANSWERED, TcpStream::connect(self.address)).await {
                Ok(connected) => self.queued.push(connected.context("cannot fill the queue")?),
                Err(_) => return Ok(()),
            }
        }
        anyhow::bail!("the queue of connections that wait has no end")
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Accepts the next connection; never returns without a listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Mostly too many open files: connections that end give them back.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
