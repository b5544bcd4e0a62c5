//! Webhooks: one POST per event and receiver.
//!
//! The body is the event as in `GET /events`, with its kind as `event`. With a secret it is signed: the
//! header `x-understudy-signature` is `sha256=` and the HMAC-SHA256 of the body, in hex. After a response
//! other than 2xx the POST is repeated after 1 s, 5 s and 30 s; then it is given up and logged. Deliveries
//! run concurrently, so that neither Envoys nor other receivers wait for a slow receiver; at most 64 run at
//! once, including those that wait to repeat a POST.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::cache::Cache;
use crate::config::document::notify::NotifyEvent;
use crate::model::notify::Receiver;
use crate::telemetry::events::{Events, Next, Told};

/// Timeout of a POST.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits before each repetition of a failed POST.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// Maximum number of concurrent deliveries.
const AT_ONCE: usize = 64;

/// Sender of webhooks. Cheap to clone: clones share their state.
#[derive(Debug, Clone)]
pub struct Notifier {
    /// HTTP client; none if the system has no trusted certificates.
    client: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
    slots: Arc<Semaphore>,
}

/// Result of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// Scheme and host of the receiver.
    pub url: String,
    /// Reason of the failure; none if the test succeeded.
    pub error: Option<String>,
}

impl Default for Notifier {
    fn default() -> Self {
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
        let client = connector.ok().map(|connector| {
            let connector = connector.https_or_http().enable_http1().build();
            Client::builder(TokioExecutor::new()).build(connector)
        });
        Self { client, slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Notifier {
    /// Sends events from now on to the receivers of the newest config.
    ///
    /// # Errors
    ///
    /// Returns no error: it runs until it is dropped.
    pub async fn run(&self, events: &Events, cache: &Cache) -> anyhow::Result<()> {
        let mut follower = events.follow(None);
        loop {
            let told = match follower.next().await {
                Next::Event(told) => told,
                Next::Missed => continue,
                Next::TooSlow => {
                    warn!("events came faster than they could be told to receivers; some were left out");
                    follower = events.follow(None);
                    continue;
                }
            };
            let Some(kind) = kind(told.word) else { continue };
            let build = cache.build();
            let wanting = build.model.notify.iter().filter(|receiver| receiver.events.contains(&kind));
            for receiver in wanting {
                let (notifier, receiver, body) = (self.clone(), receiver.clone(), body(&told));
                tokio::spawn(async move { notifier.deliver(&receiver, &body).await });
            }
        }
    }

    /// Sends a test event once to each of these receivers.
    pub async fn test(&self, receivers: &[Receiver]) -> Vec<Tested> {
        let body = json!({ "event": "test", "time": jiff::Timestamp::now().to_string() }).to_string();
        let told = receivers.iter().map(async |receiver| Tested {
            url: shown(&receiver.url),
            error: self.post(receiver, &body).await.err(),
        });
        futures_util::future::join_all(told).await
    }

    async fn deliver(&self, receiver: &Receiver, body: &str) {
        let Ok(_slot) = self.slots.acquire().await else { return };
        let mut waits = AGAIN.into_iter();
        loop {
            let error = match self.post(receiver, body).await {
                Ok(()) => return info!(url = shown(&receiver.url), "told"),
                Err(error) => error,
            };
            let Some(wait) = waits.next() else {
                return warn!(url = shown(&receiver.url), error, "a receiver could not be told");
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn post(&self, receiver: &Receiver, body: &str) -> Result<(), String> {
        let client = self.client.as_ref().ok_or("this machine has no certificates to trust")?;
        let mut request = http::Request::post(&receiver.url).header("content-type", "application/json");
        if let Some(secret) = &receiver.secret {
            request = request.header("x-understudy-signature", signature(secret, body));
        }
        let request = request.body(Full::from(body.to_owned())).map_err(|error| error.to_string())?;
        let response = timeout(PATIENCE, client.request(request)).await;
        let response = response.map_err(|_| format!("it did not answer within {PATIENCE:?}"))?;
        let response = response.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answered {status}")),
        }
    }
}

/// Returns the kind of an event word, if receivers can select it.
fn kind(word: &str) -> Option<NotifyEvent> {
    match word {
        "failover" => Some(NotifyEvent::Failover),
        "failback" => Some(NotifyEvent::Failback),
        "nack" => Some(NotifyEvent::Nack),
        "files_refused" | "files_recovered" => Some(NotifyEvent::StaleFiles),
        "drill" => Some(NotifyEvent::Drill),
        _ => None,
    }
}

fn body(told: &Told) -> String {
    let mut body: Value = serde_json::from_str(&told.json).unwrap_or_default();
    body["event"] = json!(told.word);
    body.to_string()
}

/// Returns the signature of a body: `sha256=` and its HMAC-SHA256, in hex.
pub fn signature(secret: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, body.as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// Returns the scheme and host of a URL, without the rest, which may be secret.
fn shown(url: &str) -> String {
    let parsed = url.parse::<http::Uri>().ok();
    let host = parsed.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?.host())));
    host.map_or_else(|| "a receiver".to_owned(), |(scheme, host)| format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_everybody_else() {
        // `printf '{"event":"test"}' | openssl dgst -sha256 -hmac s3cret`
        let body = r#"{"event":"test"}"#;
        let made = signature("s3cret", body);
        assert_eq!(made, "sha256=b4986cc3ab143f0e2e18cac20b164f7e843afdfb9651b1697f70e55a38617a30");
        assert_ne!(made, signature("other", body));
    }

    #[test]
    fn what_is_told_is_the_event_with_its_kind() {
        let told = Told { number: 1, word: "failover", json: r#"{"time":"now","upstream":"shop"}"#.into() };
        let body: Value = serde_json::from_str(&body(&told)).expect("JSON");
        assert_eq!(body, json!({ "event": "failover", "time": "now", "upstream": "shop" }));
    }

    #[test]
    fn of_an_address_only_the_host_is_shown() {
        assert_eq!(
            shown("https://user:pw@hooks.example.com:8443/T0/B0?token=x"),
            "https://hooks.example.com"
        );
    }
}
