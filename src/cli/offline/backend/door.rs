//! Where a backend accepts connections, and the ways in which it does not.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::cli::offline::backend::socket::{Ending, Socket};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A connection over loopback that took longer than this did not come up.
const UNANSWERED: Duration = Duration::from_millis(100);

/// What becomes of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listening {
    /// They are served.
    Open,
    /// Nobody listens.
    Closed,
    /// They are accepted and reset.
    Reset,
    /// They come to no answer, as if packets were dropped.
    Mute,
}

impl FromStr for Listening {
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

/// What is wanted from now on, and where to say that it is so.
pub(super) type Order = (Listening, oneshot::Sender<anyhow::Result<()>>);

/// The listening socket and how it is kept.
pub(super) struct Door {
    address: SocketAddr,
    orders: mpsc::Receiver<Order>,
    listening: Listening,
    /// None while nobody listens.
    listener: Option<TcpListener>,
    /// Connections to ourselves that wait to be accepted, so that the kernel lets no others wait.
    waiting: Vec<TcpStream>,
}

impl Door {
    pub(super) async fn open(address: SocketAddr, orders: mpsc::Receiver<Order>) -> anyhow::Result<Self> {
        let listener = listen(address).await?;
        let address = listener.local_addr().context("cannot tell the address")?;
        let listening = Listening::Open;
        Ok(Self { address, orders, listening, listener: Some(listener), waiting: Vec::new() })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts as ordered, for ever. Connections to be served go to `welcome`.
    pub(super) async fn keep(mut self, welcome: impl Fn(TcpStream)) -> Infallible {
        loop {
            tokio::select! {
                Some((listening, done)) = self.orders.recv() => {
                    let _ = done.send(self.become_so(listening).await); // Whoever ordered it may be gone.
                }
                stream = accept(self.listener.as_ref()), if self.listening != Listening::Mute => {
                    match self.listening {
                        Listening::Open => welcome(stream),
                        _ => Socket::new(stream).ending().set(Ending::Rst),
                    }
                }
            }
        }
    }

    async fn become_so(&mut self, listening: Listening) -> anyhow::Result<()> {
        self.waiting.clear();
        if listening == Listening::Closed {
            self.listener = None;
        } else {
            let listener = match self.listener.take() {
                Some(listener) => listener,
                None => listen(self.address).await?,
            };
            // Linux takes another length of the queue from a socket that listens already.
            let backlog = if listening == Listening::Mute { 0 } else { BACKLOG };
            SockRef::from(&listener).listen(backlog).context("cannot change the queue")?;
            self.listener = Some(listener);
        }
        if listening == Listening::Mute {
            self.fill_up().await?;
        }
        self.listening = listening;
        Ok(())
    }

    /// Connects to ourselves until no connection comes up any more. A queue of no length holds one.
    async fn fill_up(&mut self) -> anyhow::Result<()> {
        for _ in 0..2 * BACKLOG {
            match tokio::time::timeout(UNANSWERED, TcpStream::connect(self.address)).await {
                Ok(connected) => self.waiting.push(connected.context("cannot fill the queue")?),
                Err(_) => return Ok(()),
            }
        }
        anyhow::bail!("the queue of connections that wait has no end")
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Never, without a listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Too many open files, mostly: they come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
