//! Client of the admin API, shared by the commands.

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde_json::Value;

use crate::cli::online::connection::{AdminConnection, Credentials};
use crate::cli::output::{Format, FormatOptions};

/// Options that select a control plane.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServerOptions {
    /// Address of a running control plane's admin API, as host:port or URL [default: 127.0.0.1:8001]
    #[arg(long, env = "UNDERSTUDY_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
}

/// Options that a change sends with its request.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct WriteOptions {
    /// Reason for the change, recorded in its revision
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only print what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until every affected Envoy has acknowledged the change, for at most this long
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "5s")]
    wait: Option<String>,
}

impl WriteOptions {
    /// Returns the path with these options in its query.
    fn in_query(&self, path: &str) -> String {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        if self.dry_run {
            pairs.append_pair("dry_run", "true");
        }
        if let Some(timeout) = &self.wait {
            pairs.append_pair("wait", "acked").append_pair("timeout", timeout);
        }
        match pairs.finish() {
            query if query.is_empty() => path.to_owned(),
            query => format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' }),
        }
    }
}

/// Escapes a name as one segment of a path.
pub(crate) fn segment(name: &str) -> PercentEncode<'_> {
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    utf8_percent_encode(name, ESCAPED)
}

/// Options of every command that talks to a control plane: the output format, and which control plane.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RequestOptions {
    #[command(flatten)]
    pub(crate) output: FormatOptions<Format>,
    #[command(flatten)]
    pub(crate) server: ServerOptions,
}

/// Options of every command that changes the served config.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangeOptions {
    #[command(flatten)]
    pub(crate) write: WriteOptions,
    #[command(flatten)]
    pub(crate) request: RequestOptions,
}

/// Client of one control plane.
#[derive(Debug)]
pub(crate) struct AdminClient(AdminConnection);

impl ServerOptions {
    /// Returns true if the user named a control plane.
    pub(crate) fn is_named(&self) -> bool {
        self.admin.is_some()
    }

    pub(crate) fn client(&self) -> anyhow::Result<AdminClient> {
        let address = self.admin.as_deref().unwrap_or("127.0.0.1:8001");
        Ok(AdminClient(AdminConnection::new(address, &self.credentials)?))
    }
}

impl AdminClient {
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        parse(&self.bytes(path).await?)
    }

    /// Returns the body of a GET, unparsed.
    pub(crate) async fn bytes(&self, path: &str) -> anyhow::Result<Bytes> {
        self.exchange(Request::get(path).body(Full::default())?).await
    }

    /// Returns all items of a list, following its pages.
    pub(crate) async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut next) = (Vec::new(), Some(path.to_owned()));
        while let Some(path) = next {
            let page = self.get(&path).await?;
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            next = page["next"].as_str().map(str::to_owned);
        }
        Ok(items)
    }

    /// Sends a change; a null body is none.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        write: &WriteOptions,
    ) -> anyhow::Result<Value> {
        let mut request = Request::builder().method(method).uri(write.in_query(path));
        if let Some(reason) = &write.reason {
            request = request.header("x-reason", HeaderValue::from_bytes(reason.as_bytes())?);
        }
        let request = match body {
            Value::Null => request.body(Full::default())?,
            body => {
                let json = request.header(header::CONTENT_TYPE, "application/json");
                json.body(Full::from(serde_json::to_vec(body)?))?
            }
        };
        parse(&self.exchange(request).await?)
    }

    /// Returns the body of a successful response. Other responses are the error [`RefusedRequest`].
    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
        let response = self.0.exchange(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let problem = serde_json::from_slice(response.body()).unwrap_or_default();
        Err(RefusedRequest { status: response.status(), problem }.into())
    }
}

/// Error response of the server.
#[derive(Debug, thiserror::Error)]
#[error("{}", problem_text(*status, problem))]
pub(crate) struct RefusedRequest {
    status: StatusCode,
    problem: Value,
}

impl RefusedRequest {
    /// Replaces JSON pointers into the request by places in files, if `place` knows them.
    pub(crate) fn at(mut self, place: impl Fn(&str) -> Option<String>) -> Self {
        for violation in self.problem["violations"].as_array_mut().into_iter().flatten() {
            let place = violation["pointer"].as_str().and_then(&place);
            violation["pointer"] = place.map_or_else(|| violation["pointer"].take(), Value::from);
        }
        self
    }
}

fn parse(body: &[u8]) -> anyhow::Result<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).context("the response is not JSON; is this understudy's admin API?")
}

/// Formats a problem, with each of its violations on a line.
fn problem_text(status: StatusCode, problem: &Value) -> String {
    let mut text = problem["detail"].as_str().map_or_else(|| status.to_string(), str::to_owned);
    let violations = problem["violations"].as_array().map(Vec::as_slice).unwrap_or_default();
    for violation in violations {
        let field = |key: &str| violation[key].as_str().unwrap_or_default();
        let line = violation["line"].as_u64().map(|line| format!("{line}: ")).unwrap_or_default();
        let place = match (field("file"), field("pointer")) {
            ("", "") => format!("{}: ", field("path")),
            ("", pointer) => format!("{pointer}: "),
            (file, _) => format!("{file}:{line}"),
        };
        let help = if field("help").is_empty() { String::new() } else { format!("; {}", field("help")) };
        text += &format!("\n  {place}{} [{}]{help}", field("message"), field("code"));
    }
    text
}
