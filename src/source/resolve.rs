//! Host names to addresses.
//!
//! Names are looked up again when their answer expires. The last good answer stays in use while look-ups
//! fail: a DNS outage must not empty an upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::model::target::Addresses;

/// How long an answer is used at least and at most, whatever its TTL says.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How soon a look-up that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a server may be mute before the look-up counts as failed.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Looks names up and remembers the answers.
#[derive(Debug)]
pub struct Resolver {
    dns: Option<TokioResolver>,
    names: BTreeMap<String, Answer>,
}

#[derive(Debug, Clone)]
struct Answer {
    /// The last good one; empty when there never was one.
    addresses: Vec<IpAddr>,
    due: Instant,
    failing: bool,
}

impl Resolver {
    /// A resolver as the system is configured.
    pub fn new() -> Self {
        let built = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            // Expiry is watched here.
            options.cache_size = 0;
            builder.build()
        });
        let dns = built.map_err(|error| warn!(%error, "the system's DNS settings cannot be used")).ok();
        Self { dns, names: BTreeMap::new() }
    }

    /// Looks up what of `names` was never looked up, and forgets all others.
    pub async fn retain(&mut self, names: &BTreeSet<String>) {
        self.names.retain(|name, _| names.contains(name));
        let new: Vec<String> = names.iter().filter(|name| !self.names.contains_key(*name)).cloned().collect();
        self.look_up(new).await;
    }

    /// Waits until an answer has expired and looks it up again; for ever when there is none.
    pub async fn refresh(&mut self) {
        match self.names.values().map(|answer| answer.due).min() {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
        let now = Instant::now();
        let due = self.names.iter().filter(|(_, answer)| answer.due <= now).map(|(name, _)| name.clone());
        self.look_up(due.collect()).await;
    }

    /// The addresses of every name that ever resolved.
    pub fn addresses(&self) -> Addresses {
        let resolved = self.names.iter().filter(|(_, answer)| !answer.addresses.is_empty());
        resolved.map(|(name, answer)| (name.clone(), answer.addresses.clone())).collect()
    }

    async fn look_up(&mut self, names: Vec<String>) {
        let dns = &self.dns;
        let lookups = names.iter().map(async |name| {
            let dns = dns.as_ref().ok_or_else(|| "the system has no DNS settings".to_owned())?;
            // The dot at the end keeps search domains out of it.
            match timeout(TIMEOUT, dns.lookup_ip(format!("{name}."))).await {
                Ok(Ok(answer)) => {
                    let mut addresses: Vec<IpAddr> = answer.iter().collect();
                    addresses.sort();
                    addresses.dedup();
                    Ok((addresses, answer.valid_until().into()))
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
            }
        });
        let answers: Vec<Result<(Vec<IpAddr>, Instant), String>> = join_all(lookups).await;
        for (name, answer) in names.into_iter().zip(answers) {
            self.note(name, answer);
        }
    }

    fn note(&mut self, name: String, answer: Result<(Vec<IpAddr>, Instant), String>) {
        let now = Instant::now();
        let last = self.names.get(&name);
        let was_failing = last.is_some_and(|last| last.failing);
        let answer = match answer {
            Ok((addresses, valid_until)) => {
                if was_failing {
                    info!(name, "resolves again");
                }
                Answer { addresses, due: valid_until.clamp(now + TTL.0, now + TTL.1), failing: false }
            }
            Err(error) => {
                let addresses = last.map(|last| last.addresses.clone()).unwrap_or_default();
                if !was_failing {
                    warn!(name, error, in_use = ?addresses, "does not resolve; the last good answer stays in use");
                }
                Answer { addresses, due: now + RETRY, failing: true }
            }
        };
        self.names.insert(name, answer);
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}
