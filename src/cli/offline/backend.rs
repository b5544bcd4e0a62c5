//! Small backend whose faults can be chosen while it runs.
//!
//! Failover is proven by counting what clients see when targets die, and they die in many ways: the demo,
//! docker-compose and the tests need a target that is killed as a process, or fails in one certain way on
//! command. It speaks HTTP/1.1, and HTTP/2 to clients that begin with it. Commands come as lines on stdin.
//! Each is answered by one line on stdout once it holds for every later request:
//!
//! | command | answer | effect |
//! | --- | --- | --- |
//! | `mode ok` | `ok` | 200, the name as body |
//! | `mode status 503` | `ok` | that status, the name as body |
//! | `mode slow 2s` | `ok` | 200, that much later |
//! | `mode hang` | `ok` | the request is read and never answered |
//! | `mode reset`, `mode close` | `ok` | the request is read, then the connection ends by RST, or by FIN |
//! | `mode cut`, `mode cut fin` | `ok` | 200 with `content-length`, half of the body, then RST, or FIN |
//! | `mode cut chunked` | `ok` | 200 without `content-length`, half of the body, then RST |
//! | `mode stall` | `ok` | 200 with `content-length`, half of the body, then nothing |
//! | `health ok`, `health same` | `ok` | `/healthz` is always answered 200 (a grey failure), or like the rest |
//! | `listener open` | `ok` | connections are accepted |
//! | `listener closed` | `ok` | the port is closed; open connections stay, and are served |
//! | `listener reset` | `ok` | a new connection is accepted and ends by RST; open ones stay |
//! | `listener mute` | `ok` | a new connection gets no answer, as if packets were dropped; open ones stay |
//! | `count` | `{"GET": 3}` | none: the requests so far by method, those for `/healthz` under `/healthz` |
//! | `connections` | `{"accepted": 2, "open": 1}` | none |
//!
//! Any other line is answered by a line that begins with `error`.

mod listener;
mod socket;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::cli::offline::backend::listener::{FaultyListener, ListenerMode};
use crate::cli::offline::backend::socket::{Ending, FaultySocket};

/// Options of `understudy backend`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Name of the backend, sent in the body and in the header `x-backend`
    #[arg(long, default_value = "backend")]
    pub name: String,
    /// Exit when stdin ends, so that the backend does not outlive the program that started it
    #[arg(long)]
    pub exit_with_stdin: bool,
    /// Write a line on stderr for each request, before it is answered
    #[arg(long)]
    pub log_requests: bool,
}

/// Prints `listening ADDRESS` once it accepts connections, then serves requests and runs commands until
/// SIGTERM, SIGINT or, if asked for, the end of its input. The signals are handled, since as process 1 of a
/// container it would not be ended by them otherwise.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let backend = Arc::new(FaultyBackend::new(&options.name, options.log_requests)?);
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let (commands, command_queue) = mpsc::channel(1);
    let listener = FaultyListener::open(options.listen, command_queue).await?;
    print_line(&format!("listening {}", listener.address()))?;
    let end_of_input = run_commands(backend.clone(), commands);
    let serve = move |stream| drop(tokio::spawn(serve_connection(stream, backend.clone())));
    tokio::select! {
        never = listener.run(serve) => match never {},
        _ = end_of_input, if options.exit_with_stdin => Ok(()),
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for SIGINT"),
    }
}

/// Prints a line and flushes it, since the reader waits for it.
fn print_line(line: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Runs the commands on stdin; the returned receiver ends with the input. Runs in a thread, because a
/// blocked read of stdin would hold up the end of a tokio runtime. The thread is simply left behind.
fn run_commands(
    backend: Arc<FaultyBackend>,
    commands: mpsc::Sender<listener::ListenerCommand>,
) -> oneshot::Receiver<Infallible> {
    let (alive, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _alive = alive;
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            let answer = match line.trim().strip_prefix("listener ") {
                Some(listening) => listening.parse().and_then(|listening| set_listener(&commands, listening)),
                None => backend.command(&line),
            };
            if print_line(&answer.unwrap_or_else(|fault| format!("error {fault}"))).is_err() {
                return; // The reader is gone.
            }
        }
    });
    end
}

/// Changes the state of the listener, and returns once it is in force.
fn set_listener(
    commands: &mpsc::Sender<listener::ListenerCommand>,
    listening: ListenerMode,
) -> Result<String, String> {
    let (done, outcome) = oneshot::channel();
    commands.blocking_send((listening, done)).map_err(|_| "the backend is about to end".to_owned())?;
    let outcome = outcome.blocking_recv().map_err(|_| "the backend is about to end".to_owned())?;
    outcome.map(|()| "ok".to_owned()).map_err(|error| format!("{error:#}"))
}

/// Serves one connection. A response that asks for an end of the connection says so through a channel. The
/// connection is polled first, so that everything written before is on its way.
async fn serve_connection(stream: TcpStream, backend: Arc<FaultyBackend>) {
    let _open = OpenConnection::new(&backend);
    let (ender, mut endings) = mpsc::channel(1);
    let service = service_fn(|request| {
        let (backend, ender) = (backend.clone(), ender.clone());
        async move { Ok::<_, Infallible>(backend.respond(request, ender).await) }
    });
    let socket = FaultySocket::new(stream);
    let ended = socket.ending();
    let server = auto::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        biased;
        _ = &mut connection => {} // The client hung up, or broke the protocol: ordinary.
        Some(ending) = endings.recv() => ended.set(ending),
    }
}

/// Guard that counts a connection while it is open.
struct OpenConnection<'a>(&'a FaultyBackend);

impl<'a> OpenConnection<'a> {
    fn new(backend: &'a FaultyBackend) -> Self {
        backend.accepted.fetch_add(1, Ordering::Relaxed);
        backend.open.fetch_add(1, Ordering::Relaxed);
        Self(backend)
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Mode in which requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Ok,
    Status(StatusCode),
    Slow(Duration),
    Hang,
    Reset,
    Close,
    Cut(Cut),
    Stall,
}

/// Break in the middle of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    ending: Ending,
    /// True if the length of the body is not announced.
    chunked: bool,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, argument) = text.split_once(' ').unwrap_or((text, ""));
        Ok(match (word, argument) {
            ("ok", "") => Self::Ok,
            ("status", code) => Self::Status(status(code)?),
            ("slow", length) => Self::Slow(duration(length)?),
            ("hang", "") => Self::Hang,
            ("reset", "") => Self::Reset,
            ("close", "") => Self::Close,
            ("cut", "") => Self::Cut(Cut { ending: Ending::Rst, chunked: false }),
            ("cut", "fin") => Self::Cut(Cut { ending: Ending::Fin, chunked: false }),
            ("cut", "chunked") => Self::Cut(Cut { ending: Ending::Rst, chunked: true }),
            ("stall", "") => Self::Stall,
            _ => {
                return Err(format!(
                    "unknown mode `{text}`; there are ok, status CODE, slow DURATION, hang, reset, close, cut [fin|chunked], stall"
                ));
            }
        })
    }
}

/// Parses a status code. A 1xx is refused: it is no final response, and the client would wait for another.
fn status(code: &str) -> Result<StatusCode, String> {
    code.parse()
        .ok()
        .filter(|status: &StatusCode| !status.is_informational())
        .ok_or_else(|| format!("`{code}` is no status between 200 and 999"))
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| format!("`{text}` is no duration such as `2s` or `150ms`"))
}

#[derive(Debug, Clone, Copy)]
struct Behaviour {
    mode: Mode,
    /// True if health checks succeed whatever the mode (a grey failure).
    healthy_for_checks: bool,
}

struct FaultyBackend {
    name: HeaderValue,
    body: Bytes,
    behaviour: Mutex<Behaviour>,
    counts: Mutex<BTreeMap<String, u64>>,
    requests: AtomicU64,
    accepted: AtomicU64,
    open: AtomicU64,
    log_requests: bool,
}

impl FaultyBackend {
    fn new(name: &str, log_requests: bool) -> anyhow::Result<Self> {
        Ok(Self {
            name: HeaderValue::try_from(name)
                .with_context(|| format!("the name {name:?} cannot stand in a header"))?,
            body: Bytes::from(format!("{name}\n")),
            behaviour: Mutex::new(Behaviour { mode: Mode::Ok, healthy_for_checks: false }),
            counts: Mutex::default(),
            requests: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            log_requests,
        })
    }

    fn command(&self, line: &str) -> Result<String, String> {
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("mode", mode) => {
                let mode = mode.parse()?;
                self.change(|behaviour| behaviour.mode = mode)
            }
            ("health", "ok") => self.change(|behaviour| behaviour.healthy_for_checks = true),
            ("health", "same") => self.change(|behaviour| behaviour.healthy_for_checks = false),
            ("count", "") => {
                Ok(serde_json::json!(*self.counts.lock().unwrap_or_else(PoisonError::into_inner)).to_string())
            }
            ("connections", "") => Ok(serde_json::json!({
                "accepted": self.accepted.load(Ordering::Relaxed),
                "open": self.open.load(Ordering::Relaxed),
            })
            .to_string()),
            _ => Err(format!(
                "unknown command `{line}`; there are mode MODE, health ok|same, listener open|closed|reset|mute, count, connections"
            )),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Behaviour)) -> Result<String, String> {
        change(&mut self.behaviour.lock().unwrap_or_else(PoisonError::into_inner));
        Ok("ok".to_owned())
    }

    /// Answers a request in the mode that holds when it has been read. The body of a request is always read
    /// to its end, else closing the socket would send RST in place of FIN.
    async fn respond(
        &self,
        request: Request<Incoming>,
        ender: mpsc::Sender<Ending>,
    ) -> Response<PartialBody> {
        let (head, body) = request.into_parts();
        let _ = body.collect().await; // hyper notices a client that left half-way.
        if self.log_requests {
            log(&head);
        }
        let check = head.uri.path() == "/healthz";
        let number = self.count(if check { "/healthz" } else { head.method.as_str() });
        let behaviour = *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
        let mode = if check && behaviour.healthy_for_checks { Mode::Ok } else { behaviour.mode };
        match mode {
            Mode::Ok => self.response(StatusCode::OK, number, BodyEnd::Complete),
            Mode::Status(status) => self.response(status, number, BodyEnd::Complete),
            Mode::Slow(duration) => {
                tokio::time::sleep(duration).await;
                self.response(StatusCode::OK, number, BodyEnd::Complete)
            }
            Mode::Hang => std::future::pending().await,
            Mode::Reset => end(&ender, Ending::Rst).await,
            Mode::Close => end(&ender, Ending::Fin).await,
            Mode::Cut(cut) => self.response(StatusCode::OK, number, BodyEnd::Half(Some((ender, cut)))),
            Mode::Stall => self.response(StatusCode::OK, number, BodyEnd::Half(None)),
        }
    }

    fn count(&self, kind: &str) -> u64 {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind.to_owned()).or_default() += 1;
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn response(&self, status: StatusCode, number: u64, after: BodyEnd) -> Response<PartialBody> {
        let length = self.body.len();
        let sent = match after {
            BodyEnd::Complete => length,
            BodyEnd::Half(_) => length / 2,
        };
        let body = PartialBody { unsent: Some(self.body.slice(..sent)), length: length as u64, after };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert("x-backend", self.name.clone());
        response.headers_mut().insert("x-request-count", HeaderValue::from(number));
        response
    }
}

/// Logs a line `request POST /orders 5f0c…`. The last word is `x-request-id`, which stays the same when a
/// proxy tries again. A single write, so that the line is complete even if the process is killed right after.
fn log(request: &http::request::Parts) {
    let id = request.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("-");
    let line = format!("request {} {} {id}\n", request.method, request.uri.path());
    let _ = io::stderr().write_all(line.as_bytes()); // A failed write must not fail the request.
}

async fn end(ender: &mpsc::Sender<Ending>, ending: Ending) -> ! {
    let _ = ender.try_send(ending); // Full only if the end was asked for already.
    std::future::pending().await
}

/// Body that announces its whole length and may send only half of it.
struct PartialBody {
    unsent: Option<Bytes>,
    length: u64,
    after: BodyEnd,
}

/// Continuation after the bytes of a [`PartialBody`].
enum BodyEnd {
    Complete,
    /// End of the connection with a channel, silence without.
    Half(Option<(mpsc::Sender<Ending>, Cut)>),
}

impl Body for PartialBody {
    type Data = Bytes;
    type Error = Infallible;

    /// Returns the bytes, then the end or nothing. Silence needs no waker: only the end of the connection can
    /// follow it.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(bytes) = self.unsent.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match &self.after {
            BodyEnd::Complete => Poll::Ready(None),
            BodyEnd::Half(ender) => {
                if let Some((ender, cut)) = ender {
                    let _ = ender.try_send(cut.ending);
                }
                Poll::Pending
            }
        }
    }

    /// Returns the announced length, sent or not: hyper sends it as `content-length`.
    fn size_hint(&self) -> SizeHint {
        match &self.after {
            BodyEnd::Half(Some((_, cut))) if cut.chunked => SizeHint::default(),
            _ => SizeHint::with_exact(self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, expected: &str) {
        let backend = FaultyBackend::new("A", false).unwrap();
        let answer = backend.command(command).unwrap_or_else(|fault| format!("error {fault}"));
        assert_eq!(answer, expected);
    }

    #[test]
    fn commands_are_understood_or_refused_with_the_known_ones() {
        check("mode ok", "ok");
        check("mode status 503 ", "ok");
        check("mode slow 150ms", "ok");
        check("health same", "ok");
        check("count", "{}");
        check("connections", r#"{"accepted":0,"open":0}"#);
        check("mode status 100", "error `100` is no status between 200 and 999");
        check("mode slow -2s", "error `-2s` is no duration such as `2s` or `150ms`");
        check(
            "mode sleepy",
            "error unknown mode `sleepy`; there are ok, status CODE, slow DURATION, hang, reset, close, cut [fin|chunked], stall",
        );
        check(
            "stop",
            "error unknown command `stop`; there are mode MODE, health ok|same, listener open|closed|reset|mute, count, connections",
        );
    }

    #[test]
    fn a_name_that_cannot_be_sent_is_refused() {
        assert!(FaultyBackend::new("two\nlines", false).is_err());
    }
}
