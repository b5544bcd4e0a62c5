//! Lower bound of the cost to write the same bytes to many sockets, with which servers are compared.
//!
//! A process of its own holds one shared buffer and plain sockets, without a protocol. Its processor time is
//! read in the same way as that of a server.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::process::Gauge;

/// Time limit of a broadcast.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the child process: takes connections, and writes `bytes` to all of them for every line on standard
/// input, until that ends.
pub(crate) async fn serve(bytes: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let payload = Bytes::from(vec![b'x'; bytes]);
    let (round, _) = watch::channel(());
    let (triggers, over) = (round.clone(), Arc::new(Notify::new()));
    let end = over.clone();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lines().map_while(Result::ok) {
            triggers.send_replace(());
        }
        end.notify_one();
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = over.notified() => return Ok(()),
        };
        accepted.0.set_nodelay(true)?;
        tokio::spawn(write(accepted.0, payload.clone(), round.subscribe()));
    }
}

async fn write(mut socket: TcpStream, payload: Bytes, mut round: watch::Receiver<()>) {
    while round.changed().await.is_ok() {
        if socket.write_all(&payload).await.is_err() {
            return;
        }
    }
}

/// Broadcasts `bytes` to `clients` sockets `rounds` times, and returns the processor time of each.
pub(crate) async fn measure(bytes: u64, clients: usize, rounds: usize) -> anyhow::Result<Vec<Duration>> {
    let (mut child, address) = start(bytes).await?;
    let mut stdin = child.stdin.take().context("the child has a standard input")?;
    let mut gauge = Gauge::new(child.id().context("the child runs")?);
    let received = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..clients {
        let socket = TcpStream::connect(address).await?;
        socket.set_zero_linger()?;
        readers.spawn(read(socket, received.clone()));
    }
    let mut costs = Vec::new();
    // The first round is not counted: buffers have yet to grow.
    for round in 0..=rounds {
        let cost = broadcast(&mut gauge, &mut stdin, &received, bytes * clients as u64).await?;
        if round > 0 {
            costs.push(cost);
        }
    }
    drop(stdin);
    readers.shutdown().await;
    child.wait().await?;
    Ok(costs)
}

async fn start(bytes: u64) -> anyhow::Result<(Child, SocketAddr)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["broadcast", "--bytes", &bytes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the broadcaster")?;
    let stdout = child.stdout.take().context("the child has a standard output")?;
    let line = BufReader::new(stdout).lines().next_line().await?;
    let address = line.context("the broadcaster did not start")?.parse()?;
    Ok((child, address))
}

async fn broadcast(
    gauge: &mut Gauge,
    stdin: &mut ChildStdin,
    received: &AtomicU64,
    expected: u64,
) -> anyhow::Result<Duration> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    received.store(0, Relaxed);
    let before = gauge.cpu()?;
    stdin.write_all(b"again\n").await?;
    let all = async {
        while received.load(Relaxed) < expected {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.context("the broadcast did not arrive")?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(gauge.cpu()?.saturating_sub(before))
}

async fn read(mut socket: TcpStream, received: Arc<AtomicU64>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        received.fetch_add(read as u64, Relaxed);
    }
}
