//! Processes of the integration tests: the real program, a real Envoy, real backends.
//!
//! Each is a process of its own on ports of its own, ended when its value is dropped. Its output is printed
//! if the test fails. Nothing is skipped: a missing tool fails the test with a message that says how to
//! repair it.

#![allow(dead_code, unreachable_pub, reason = "every test binary compiles all of this and uses a part")]

pub mod dns;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

/// Time limit for anything that should take milliseconds. Long, since machines that run tests are busy; only
/// failing tests pay for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until `probe` returns a value. Its error describes what was there instead; the last one is printed
/// when the deadline passes.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        let seen = match probe().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(Instant::now() < end, "not within {deadline:?}: {what}; last seen: {seen}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns a port that was free a moment ago, for a process that must get its port beforehand, or returns to
/// it after a restart.
///
/// Ports are below those that systems give to clients: load makes thousands of connections, and one of them
/// would sooner or later have taken the port in the meantime. Each port is returned once; test binaries that
/// run side by side begin at different ones.
pub fn free_port() -> u16 {
    const RANGE: std::ops::Range<u32> = 11_000..32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(331);
    let ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    ports
        .take(RANGE.len())
        .map(|number| RANGE.start + first.wrapping_add(number) % (RANGE.end - RANGE.start))
        .map(|port| u16::try_from(port).expect("the range is one of ports"))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("loopback always has a free port")
}

/// Returns an address with a free port of loopback.
fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Returns the command `understudy` with these arguments.
pub fn understudy(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.args(arguments);
    command
}

/// Child process whose output is kept.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    log: Arc<Mutex<String>>,
    /// Lines of stdout so far; closed with the process's stdout.
    stdout: watch::Receiver<Vec<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Process {
    /// Starts a process. `name` appears in messages of failures.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}: {command:?}"));
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, stdout) = watch::channel(Vec::new());
        let out = spawn_reader(child.stdout.take().expect("it is piped"), log.clone(), move |line| {
            lines.send_modify(|lines| lines.push(line));
        });
        let err = spawn_reader(child.stderr.take().expect("it is piped"), log.clone(), |_| {});
        let stdin = child.stdin.take();
        Self { name: name.to_owned(), child, stdin, log, stdout, readers: vec![out, err] }
    }

    /// Returns everything it printed, stdout and stderr in the order of arrival.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of lines on stdout so far: the start of the next search.
    pub fn printed_lines(&self) -> usize {
        self.stdout.borrow().len()
    }

    /// Waits for the first line of stdout, from line `from` on, that begins with `prefix`, and returns it
    /// without the prefix.
    pub async fn line(&self, from: usize, prefix: &str) -> String {
        let find = |lines: &Vec<String>| {
            lines.iter().skip(from).find_map(|line| line.strip_prefix(prefix)).map(str::to_owned)
        };
        let mut stdout = self.stdout.clone();
        let found = timeout(PATIENCE, stdout.wait_for(|lines| find(lines).is_some())).await;
        match found {
            Ok(Ok(lines)) => find(&lines).expect("that was waited for"),
            Ok(Err(_)) => panic!("{} ended before it printed {prefix:?}", self.name),
            Err(_) => panic!("{} did not print {prefix:?} within {PATIENCE:?}", self.name),
        }
    }

    /// Writes a line to its stdin.
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap_or_else(|| panic!("the stdin of {} is closed", self.name));
        writeln!(stdin, "{line}")
            .unwrap_or_else(|error| panic!("{} does not read its stdin: {error}", self.name));
    }

    /// Ends its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal by its name without SIG, such as `STOP`. The shell has `kill` built in, so no program
    /// can be missing.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", self.child.id())).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send SIG{signal} to {}", self.name);
    }

    /// Sends SIGKILL and waits. The process and its sockets are gone when this returns; its log is complete.
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // Fails only when it ended by itself.
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// Returns its resident memory now and at most so far, in MiB.
    pub fn memory(&self) -> (u64, u64) {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("{path} has no {name}")) / 1024
        };
        (value("VmRSS:"), value("VmHWM:"))
    }

    /// Waits for its end, and returns the exit status.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(PATIENCE, &what, async || {
            let status = self.child.try_wait().map_err(|error| error.to_string())?;
            status.ok_or_else(|| "it runs".to_owned())
        })
        .await
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "so it is shown with the failure of the test")]
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {} printed:\n{}---", self.name, self.log());
        }
    }
}

/// Reads to the end even if the lines are not used, since a full pipe would stop the process.
fn spawn_reader(
    output: impl Read + Send + 'static,
    log: Arc<Mutex<String>>,
    mut each: impl FnMut(String) + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
            drop(log);
            each(line);
        }
    })
}

/// Builds a client without a proxy. It is not shared between tests: its connections belong to the runtime of
/// the test that made them.
fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .expect("without TLS there is nothing to load that could be missing")
}

/// Running `understudy serve` with a data directory of its own.
pub struct Understudy {
    process: Process,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    /// Hard limit of its descriptors, if it is not that of the tests.
    descriptors: Option<u32>,
    /// Address of the xDS server.
    pub xds: SocketAddr,
    /// Address of the admin API.
    pub admin: SocketAddr,
    data: TempDir,
    client: reqwest::Client,
}

impl Understudy {
    /// Starts `serve` with `arguments` (paths of configs, options) after the ones for ports and data, and
    /// waits until it says that it is ready.
    pub async fn serve(arguments: &[&str]) -> Self {
        Self::serve_with(&[], arguments).await
    }

    /// Does the same as [`Self::serve`], with these environment variables, which name files.
    pub async fn serve_with(environment: &[(&str, &Path)], arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("the temporary directory can be written");
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let environment: Vec<(String, PathBuf)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.to_path_buf())).collect();
        Self::start(data, environment, arguments, None).await
    }

    /// Does the same as [`Self::serve`], with this hard limit of open descriptors, and half of it as the soft one.
    pub async fn serve_with_descriptors(descriptors: u32, arguments: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("the temporary directory can be written");
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Self::start(data, Vec::new(), arguments, Some(descriptors)).await
    }

    async fn start(
        data: TempDir,
        environment: Vec<(String, PathBuf)>,
        arguments: Vec<String>,
        descriptors: Option<u32>,
    ) -> Self {
        let addresses = (loopback(), loopback());
        let process = Self::spawn(addresses, data.path(), &environment, &arguments, descriptors);
        let (xds, admin) = Self::read_addresses(&process).await;
        Self { process, arguments, environment, descriptors, xds, admin, data, client: client() }
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.process.child.id()
    }

    fn spawn(
        (xds, admin): (SocketAddr, SocketAddr),
        data: &Path,
        environment: &[(String, PathBuf)],
        arguments: &[String],
        descriptors: Option<u32>,
    ) -> Process {
        let mut command = match descriptors {
            None => understudy(&[]),
            Some(limit) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -Sn {}; ulimit -Hn {limit}; exec \"$0\" \"$@\"", limit / 2);
                shell.args(["-c", &script, env!("CARGO_BIN_EXE_understudy")]);
                shell
            }
        };
        command.args(["serve", "--xds", &xds.to_string(), "--admin", &admin.to_string()]);
        let command = command.envs(environment.iter().map(|(name, value)| (name, value)));
        Process::spawn("understudy", command.arg("--data").arg(data).args(arguments))
    }

    async fn read_addresses(process: &Process) -> (SocketAddr, SocketAddr) {
        let address = async |name: &str| {
            let text = process.line(0, name).await;
            text.parse().unwrap_or_else(|error| panic!("serve printed `{name}{text}`: {error}"))
        };
        let bound = (address("xds ").await, address("admin ").await);
        process.line(0, "ready").await;
        bound
    }

    /// Sends SIGKILL: everything acknowledged must be on disk already.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn spawn_again(&mut self) {
        self.process.kill();
        let Self { data, environment, arguments, descriptors, .. } = &*self;
        self.process = Self::spawn((self.xds, self.admin), data.path(), environment, arguments, *descriptors);
    }

    /// Kills the process if it still runs, and starts it again with the same data, arguments and ports.
    pub async fn restart(&mut self) {
        self.spawn_again();
        Self::read_addresses(&self.process).await;
    }

    /// Kills the process if it still runs, and starts it again. Returns everything it printed if it ends with
    /// the exit code 1 instead.
    pub async fn try_restart(&mut self) -> Result<(), String> {
        self.spawn_again();
        let outcome = eventually(PATIENCE, "it is ready or ends", async || {
            if self.process.stdout.borrow().iter().any(|line| line == "ready") {
                return Ok(None);
            }
            let status = self.process.child.try_wait().map_err(|error| error.to_string())?;
            status.map(Some).ok_or_else(|| "it runs and is not ready".to_owned())
        });
        let Some(status) = outcome.await else { return Ok(()) };
        // Its output is complete once its readers have ended.
        self.process.kill();
        assert_eq!(status.code(), Some(1), "{}", self.process.log());
        Err(self.process.log())
    }

    /// Does the same as [`Self::try_restart`]. It must fail.
    pub async fn fails_to_start(&mut self) -> String {
        self.try_restart().await.expect_err("it is not ready")
    }

    /// Kills the process if it still runs, and starts it with these arguments in place of the former ones,
    /// which it returns.
    pub async fn restart_with(&mut self, arguments: &[&str]) -> Vec<String> {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let former = std::mem::replace(&mut self.arguments, arguments);
        self.restart().await;
        former
    }

    /// Returns the process, to signal it or to wait for its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Returns everything it printed since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns the directory that `--data` names.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::PUT, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.request(method.clone(), path);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let status = response.status().as_u16();
        (status, parse_body(response, path).await)
    }

    /// Starts a request with headers of its own, or whose response headers are needed.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.admin))
    }
}

/// Reads a body: null if it is empty, a string if it is not JSON.
async fn parse_body(response: reqwest::Response, path: &str) -> Value {
    let text = response.text().await.unwrap_or_else(|error| panic!("the body of {path}: {error:?}"));
    match serde_json::from_str(&text) {
        Ok(value) => value,
        Err(_) if text.is_empty() => Value::Null,
        Err(_) => Value::String(text),
    }
}

/// Finds or fetches Envoy, once for all tests of a binary.
fn envoy_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // Bypasses the capture of the test harness: a fetch takes seconds and should be visible.
        let progress = |line: &str| drop(writeln!(std::io::stderr(), "{line}"));
        understudy::cli::offline::envoy::locate(&progress)
            .unwrap_or_else(|error| panic!("there is no Envoy: {:#}", anyhow::Error::from(error)))
    })
}

/// Running Envoy.
pub struct Envoy {
    process: Process,
    /// Address of its own admin interface.
    pub admin: SocketAddr,
    directory: TempDir,
    client: reqwest::Client,
}

impl Envoy {
    /// Starts an Envoy with the bootstrap that `understudy bootstrap` prints, and waits until it is LIVE:
    /// then it has its first listeners and clusters. `more` is added to the arguments of `bootstrap`, such as
    /// `--delta`.
    pub async fn start(understudy: &Understudy, node_id: &str, node_cluster: &str, more: &[&str]) -> Self {
        let xds = understudy.xds.to_string();
        let arguments = ["bootstrap", "--xds", &xds, "--node-id", node_id, "--node-cluster", node_cluster];
        let output = self::understudy(&arguments)
            .args(["--envoy-admin", "127.0.0.1:0"])
            .args(more)
            .output()
            .expect("cargo has built understudy");
        assert!(output.status.success(), "bootstrap: {}", String::from_utf8_lossy(&output.stderr));
        let envoy = Self::launch(node_id, &String::from_utf8_lossy(&output.stdout)).await;
        envoy.live().await;
        envoy
    }

    /// Starts an Envoy with any bootstrap (its admin address with port 0), and waits only for its admin
    /// interface.
    pub async fn launch(name: &str, bootstrap: &str) -> Self {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let (config, address) = (directory.path().join("bootstrap.yaml"), directory.path().join("admin"));
        fs::write(&config, bootstrap).expect("the directory is ours");
        let mut command = Command::new(envoy_path());
        command.arg("-c").arg(&config).arg("--admin-address-path").arg(&address);
        // Hot restart is off, so that Envoy needs no shared memory, which it would leave behind at every end.
        command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning"]);
        // Relative paths that one Envoy can open must not work for another.
        command.current_dir(directory.path());
        let mut process = Process::spawn(&format!("envoy {name}"), &mut command);
        let admin = eventually(PATIENCE, "Envoy says where its admin interface is", async || {
            if let Ok(Some(status)) = process.child.try_wait() {
                panic!("envoy {name} ended at its start: {status}");
            }
            let text = fs::read_to_string(&address).map_err(|error| error.to_string())?;
            text.trim().parse().map_err(|_| format!("{text:?}"))
        })
        .await;
        Self { process, admin, directory, client: client() }
    }

    /// Returns its working directory, to which relative paths in its config refer.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Waits until it is LIVE.
    pub async fn live(&self) {
        eventually(PATIENCE, "Envoy is LIVE", async || match self.admin("/ready").await {
            Value::String(state) if state.trim() == "LIVE" => Ok(()),
            state => Err(state.to_string()),
        })
        .await;
    }

    /// Returns the response of its admin interface to GET, whatever the status.
    pub async fn admin(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.admin);
        let response = self.client.get(url).send().await;
        parse_body(response.unwrap_or_else(|error| panic!("Envoy's {path}: {error:?}")), path).await
    }

    /// Returns counters and gauges whose name begins with `prefix`, including those at 0 that were never
    /// changed.
    pub async fn stats(&self, prefix: &str) -> BTreeMap<String, u64> {
        let Value::String(text) = self.admin("/stats").await else { panic!("Envoy's stats are text") };
        text.lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Returns everything it was sent, endpoints included.
    pub async fn config_dump(&self) -> Value {
        self.admin("/config_dump?include_eds").await
    }

    /// Returns every host with its priority and health.
    pub async fn clusters(&self) -> Value {
        self.admin("/clusters?format=json").await
    }

    /// Returns everything it printed.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Returns the process, to signal it or to wait for its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// Running `understudy backend`: a target that fails on command.
pub struct Backend {
    process: Process,
    name: String,
    address: SocketAddr,
    more: &'static [&'static str],
}

impl Backend {
    /// Starts a backend on a free port of loopback, and waits until it accepts connections.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, &[]).await
    }

    /// Does the same as [`Self::start`], with further options, such as `--log-requests`.
    pub async fn start_with(name: &str, more: &'static [&'static str]) -> Self {
        Self::start_at(name, loopback(), more).await
    }

    /// Does the same as [`Self::start_with`], at a given address.
    pub async fn start_at(name: &str, address: SocketAddr, more: &'static [&'static str]) -> Self {
        let process = Self::spawn(name, address, more).await;
        Self { process, name: name.to_owned(), address, more }
    }

    async fn spawn(name: &str, address: SocketAddr, more: &[&str]) -> Process {
        let listen = address.to_string();
        let mut command = understudy(&["backend", "--name", name, "--listen", &listen, "--exit-with-stdin"]);
        let process = Process::spawn(&format!("backend {name}"), command.args(more));
        process.line(0, "listening ").await;
        process
    }

    /// Returns its address in the form of a target: `127.0.0.1:41234`. It stays the same over a restart.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the mode for all requests after this, for example `status 503`. `src/cli/offline/backend.rs` lists
    /// all modes.
    pub async fn mode(&mut self, mode: &str) {
        self.set(&format!("mode {mode}")).await;
    }

    /// Sets the answers to checks of `/healthz`. `ok`: they succeed whatever the mode. `same`: they are
    /// answered like other requests.
    pub async fn health(&mut self, health: &str) {
        self.set(&format!("health {health}")).await;
    }

    /// Returns the number of requests so far by method, those for `/healthz` under `/healthz`. A restart
    /// resets it.
    pub async fn count(&mut self) -> BTreeMap<String, u64> {
        serde_json::from_str(&self.run_command("count").await).expect("counts are a map of numbers")
    }

    /// Returns the number of GETs so far.
    pub async fn gets(&mut self) -> u64 {
        self.count().await.get("GET").copied().unwrap_or_default()
    }

    /// Returns the numbers of connections so far and now: `accepted` and `open`.
    pub async fn connections(&mut self) -> BTreeMap<String, u64> {
        serde_json::from_str(&self.run_command("connections").await).expect("counts are a map of numbers")
    }

    async fn set(&mut self, command: &str) {
        let answer = self.run_command(command).await;
        assert_eq!(answer, "ok", "backend {}: {command}", self.name);
    }

    /// Sends any command, and returns its answer.
    pub async fn run_command(&mut self, command: &str) -> String {
        let before = self.process.printed_lines();
        self.process.write_line(command);
        self.process.line(before, "").await
    }

    /// Returns everything it printed since its last start.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Sends SIGKILL: connections are reset or closed, new ones refused.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills the backend if it still runs, and starts it again on the same port, in mode `ok`.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = Self::spawn(&self.name, self.address, self.more).await;
    }

    /// Sends SIGSTOP: connections stay, the kernel accepts new ones, and nothing is answered.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// Sends SIGCONT.
    pub fn thaw(&self) {
        self.process.signal("CONT");
    }

    /// Returns the process, for everything that the methods above do not do.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
