//! The admin API as the commands use it.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How long a request may take, a wait for Envoys included.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which control plane.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Server {
    /// The admin API of a running control plane, as host:port or URL [default: 127.0.0.1:8001]
    #[arg(long, env = "UNDERSTUDY_ADMIN", value_name = "ADDRESS")]
    admin: Option<String>,
}

/// How a change is to be made.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Terms {
    /// Why, for those who read the revisions later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only say what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until every Envoy that it affects has acknowledged it, for at most this long
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "5s")]
    wait: Option<String>,
}

impl Terms {
    /// The path with what the terms say in its query.
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

/// Speaks to one control plane.
#[derive(Debug)]
pub(crate) struct Client {
    base: String,
    http: reqwest::Client,
}

impl Server {
    /// True when somebody said which.
    pub(crate) fn is_named(&self) -> bool {
        self.admin.is_some()
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let address = self.admin.as_deref().unwrap_or("127.0.0.1:8001").trim_end_matches('/');
        let base = match address.contains("://") {
            true => address.to_owned(),
            false => format!("http://{address}"),
        };
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Client { base, http })
    }
}

/// Nobody listens there.
#[derive(Debug, thiserror::Error)]
#[error(
    "nobody answers at {0}; is `understudy serve` running? Say --admin or UNDERSTUDY_ADMIN for another address"
)]
pub(crate) struct Unreachable(String);

impl Client {
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        value(self.answer(self.http.get(self.url(path))).await?).await
    }

    /// The body as it is.
    pub(crate) async fn bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let response = self.answer(self.http.get(self.url(path))).await?;
        Ok(response.bytes().await.context("the answer was cut short")?.to_vec())
    }

    /// All items of a list, page by page.
    pub(crate) async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut next) = (Vec::new(), Some(path.to_owned()));
        while let Some(path) = next {
            let page = self.get(&path).await?;
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            next = page["next"].as_str().map(str::to_owned);
        }
        Ok(items)
    }

    /// Sends a change; null is no body.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        terms: &Terms,
    ) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, self.url(&terms.in_query(path)));
        if !body.is_null() {
            request = request.json(body);
        }
        if let Some(reason) = &terms.reason {
            request = request.header("x-reason", reason);
        }
        value(self.answer(request).await?).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The response, or what is wrong in the server's words.
    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let response = request.send().await.map_err(|error| match error.is_connect() {
            true => anyhow::Error::new(Unreachable(self.base.clone())),
            false => anyhow::Error::new(error).context(format!("cannot ask {}", self.base)),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Value = response.json().await.unwrap_or_default();
        anyhow::bail!("{}", told(status, &problem))
    }
}

async fn value(response: reqwest::Response) -> anyhow::Result<Value> {
    let text = response.text().await.context("the answer was cut short")?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).context("the answer is not JSON; is this understudy's admin API?")
}

/// A problem with each of its violations in a line.
fn told(status: StatusCode, problem: &Value) -> String {
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
