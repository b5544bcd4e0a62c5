//! Host names to addresses.
//!
//! Look-ups run beside everything else: who changes the config waits for names that were never looked up, a second
//! at most, and never for others. Names are looked up again when their answer expires. The last good answer stays
//! in use while look-ups fail: a DNS outage must not empty an upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{join, join_all};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::{info, warn};

use crate::model::addresses::{Addresses, Place};
use crate::model::resolver::Resolver as Settings;
use crate::model::target::Host;

/// How long a server may be mute before the look-up counts as failed, and a change of the config waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many look-ups are under way at once.
const AT_ONCE: usize = 256;

/// Looks names up and remembers the answers.
#[derive(Debug)]
pub struct Resolver {
    settings: Settings,
    dns: Option<TokioResolver>,
    names: Names,
    /// When the next look-up of a name is due; nothing while one is under way.
    due: BTreeSet<(Instant, Host)>,
    lookups: JoinSet<(Host, Result<Answer, String>)>,
    permits: Arc<Semaphore>,
}

/// What is known of each name, for others to look at. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<Mutex<BTreeMap<Host, Known>>>);

#[derive(Debug, Clone, Default)]
struct Known {
    /// The last good answer; none when there never was one.
    found: Option<Found>,
    /// When that came.
    answered_at: Option<Instant>,
    /// Why the newest look-up failed, if it did.
    error: Option<String>,
    /// No look-up has ended yet.
    is_new: bool,
    /// When it is looked up again; none while a look-up is under way.
    due: Option<Instant>,
}

/// A good answer: not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Ips(Vec<IpAddr>),
    Places(Vec<Place>),
}

#[derive(Debug)]
struct Answer {
    found: Found,
    valid_until: Instant,
}

/// What can be said of a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// How old the answer in use is; none when there never was one.
    pub age: Option<Duration>,
    /// Why the newest look-up failed, if it did.
    pub error: Option<String>,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Host, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be said of a name; none of one that is not resolved here.
    pub fn resolved(&self, host: &Host) -> Option<Resolved> {
        self.lock().get(host).map(|known| Resolved {
            age: known.answered_at.map(|at| at.elapsed()),
            error: known.error.clone(),
        })
    }
}

impl Resolver {
    /// A resolver as the system is configured, until it is told otherwise.
    pub fn new() -> Self {
        let settings = Settings::default();
        Self {
            dns: dns(&settings.servers),
            settings,
            names: Names::default(),
            due: BTreeSet::new(),
            lookups: JoinSet::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// What is known of each name.
    pub fn names(&self) -> Names {
        self.names.clone()
    }

    /// From now on asks as `settings` say. Other servers are asked for everything at once; until they have
    /// answered, the last good answers stay.
    pub fn configure(&mut self, settings: &Settings) {
        if self.settings.servers != settings.servers {
            self.dns = dns(&settings.servers);
            self.lookups = JoinSet::new();
            let now = Instant::now();
            let mut names = self.names.lock();
            names.values_mut().for_each(|known| known.due = Some(now));
            self.due = names.keys().map(|host| (now, host.clone())).collect();
        }
        self.settings = settings.clone();
    }

    /// Looks up what of `hosts` was never looked up, and waits for that, but no longer than a second.
    pub async fn learn(&mut self, hosts: &BTreeSet<Host>) {
        let deadline = Instant::now() + PATIENCE;
        let new: Vec<Host> = {
            let mut names = self.names.lock();
            let new: Vec<Host> = hosts.iter().filter(|host| !names.contains_key(host)).cloned().collect();
            names.extend(new.iter().map(|host| (host.clone(), Known { is_new: true, ..Known::default() })));
            new
        };
        for host in &new {
            self.look_up(host.clone());
        }
        let is_unknown = |names: &Names| {
            let names = names.lock();
            new.iter().any(|host| names.get(host).is_some_and(|known| known.is_new))
        };
        while is_unknown(&self.names) {
            match timeout_at(deadline, self.lookups.join_next()).await {
                Ok(Some(ended)) => drop(ended.map(|(host, answer)| self.note(&host, answer))),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Forgets all but `hosts`.
    pub fn retain(&mut self, hosts: &BTreeSet<Host>) {
        self.names.lock().retain(|host, _| hosts.contains(host));
        self.due.retain(|(_, host)| hosts.contains(host));
    }

    /// Looks names up again as their answers expire, until there is another answer for one of them. May be dropped
    /// at any time without loss.
    pub async fn changed(&mut self) {
        loop {
            let next = self.due.first().map(|(due, _)| *due);
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let mut changed = false;
            tokio::select! {
                () = due => {
                    let now = Instant::now();
                    while let Some((_, host)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
                        self.due.pop_first();
                        self.look_up(host);
                    }
                }
                Some(ended) = self.lookups.join_next() => {
                    changed |= ended.is_ok_and(|(host, answer)| self.note(&host, answer));
                }
            }
            // What came at the same time makes one change.
            while let Some(ended) = self.lookups.try_join_next() {
                changed |= ended.is_ok_and(|(host, answer)| self.note(&host, answer));
            }
            if changed {
                return;
            }
        }
    }

    /// The addresses of every name that ever resolved.
    pub fn addresses(&self) -> Addresses {
        let mut addresses = Addresses::default();
        for (host, known) in self.names.lock().iter() {
            match (host, &known.found) {
                (Host::Name(name), Some(Found::Ips(ips))) => {
                    addresses.names.insert(name.clone(), ips.clone());
                }
                (Host::Service(name), Some(Found::Places(places))) => {
                    addresses.services.insert(name.clone(), places.clone());
                }
                _ => {}
            }
        }
        addresses
    }

    fn look_up(&mut self, host: Host) {
        let (dns, permits) = (self.dns.clone(), self.permits.clone());
        let last = self.names.lock().get_mut(&host).and_then(|known| {
            known.due = None;
            known.found.clone()
        });
        self.lookups.spawn(async move {
            let _permit = permits.acquire().await;
            let answer = match dns {
                Some(dns) => look_up(&dns, &host, last).await,
                None => Err("the system has no DNS settings".to_owned()),
            };
            (host, answer)
        });
    }

    /// Remembers an answer and when to ask again. True when it is another one.
    fn note(&mut self, host: &Host, answer: Result<Answer, String>) -> bool {
        let now = Instant::now();
        let mut names = self.names.lock();
        let Some(known) = names.get_mut(host) else { return false };
        known.is_new = false;
        let (due, changed) = match answer {
            Ok(Answer { found, valid_until }) => {
                if known.error.take().is_some() {
                    info!(name = %host, "resolves again");
                }
                let changed = known.found.as_ref() != Some(&found);
                known.found = Some(found);
                known.answered_at = Some(now);
                let Settings { min_ttl, max_ttl, .. } = self.settings;
                (valid_until.clamp(now + min_ttl, now + max_ttl.max(min_ttl)), changed)
            }
            Err(error) => {
                match (&known.error, &known.found) {
                    (Some(_), _) => {}
                    (None, None) => {
                        warn!(name = %host, error, "does not resolve; its targets are left out until it does")
                    }
                    (None, Some(found)) => {
                        let age = known.answered_at.map(|at| at.elapsed());
                        warn!(name = %host, error, ?age, in_use = ?found, "does not resolve any more; the last good answer stays in use");
                    }
                }
                known.error = Some(error);
                (now + self.settings.retry, false)
            }
        };
        // A name that was forgotten and came back may have had two look-ups under way.
        if let Some(other) = known.due.replace(due) {
            self.due.remove(&(other, host.clone()));
        }
        self.due.insert((due, host.clone()));
        changed
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

/// A client of these servers, or of the system's.
fn dns(servers: &[SocketAddr]) -> Option<TokioResolver> {
    let adjust = |options: &mut ResolverOpts| {
        options.timeout = PATIENCE;
        options.attempts = 1;
        // Expiry is watched here.
        options.cache_size = 0;
    };
    let built = match servers {
        [] => TokioResolver::builder_tokio().and_then(|mut builder| {
            adjust(builder.options_mut());
            builder.build()
        }),
        servers => {
            let servers = servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            adjust(builder.options_mut());
            // Who names servers wants to hear those.
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder.build()
        }
    };
    built.map_err(|error| warn!(%error, "the DNS settings cannot be used")).ok()
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    NameServerConfig::new(server.ip(), true, connections.into())
}

/// Asks for one name. `last` is the last good answer.
async fn look_up(dns: &TokioResolver, host: &Host, last: Option<Found>) -> Result<Answer, String> {
    match host {
        Host::Name(name) => {
            let last = match &last {
                Some(Found::Ips(ips)) => ips.as_slice(),
                _ => &[],
            };
            let (ips, valid_until) = ips(dns, name, last).await?;
            Ok(Answer { found: Found::Ips(ips), valid_until })
        }
        Host::Service(name) => {
            let last = match last {
                Some(Found::Places(places)) => places,
                _ => Vec::new(),
            };
            places(dns, name, &last).await
        }
        Host::Ip(_) => Err("an IP address needs no resolving".to_owned()),
    }
}

/// The A and AAAA records of a name, in order. Where one kind is there and the other fails, what `last` had of that
/// kind stays.
async fn ips(dns: &TokioResolver, name: &str, last: &[IpAddr]) -> Result<(Vec<IpAddr>, Instant), String> {
    let (v4, v6) = join(records(dns, name, RecordType::A), records(dns, name, RecordType::AAAA)).await;
    if let (Err(error), Err(_)) | (Err(error), Ok(None)) | (Ok(None), Err(error)) = (&v4, &v6) {
        return Err(error.clone());
    }
    let kept = |failed: bool, is_kind: fn(&IpAddr) -> bool| {
        last.iter().copied().filter(move |ip| failed && is_kind(ip))
    };
    let mut ips: Vec<IpAddr> =
        kept(v4.is_err(), IpAddr::is_ipv4).chain(kept(v6.is_err(), IpAddr::is_ipv6)).collect();
    let mut valid_until = None;
    for (found, until) in [v4, v6].into_iter().flatten().flatten() {
        ips.extend(found.iter().filter_map(RData::ip_addr));
        valid_until = valid_until.map_or(Some(until), |other: Instant| Some(other.min(until)));
    }
    ips.sort();
    ips.dedup();
    match valid_until {
        Some(valid_until) if !ips.is_empty() => Ok((ips, valid_until)),
        _ => Err("the name has no address".to_owned()),
    }
}

/// Where the SRV records of a service lead, in order. A host among them that fails keeps what `last` had of it.
async fn places(dns: &TokioResolver, name: &str, last: &[Place]) -> Result<Answer, String> {
    let found = records(dns, name, RecordType::SRV).await?;
    let (found, mut valid_until) = found.ok_or_else(|| "the service has no record".to_owned())?;
    let records: Vec<_> = found
        .into_iter()
        .filter_map(|record| match record {
            RData::SRV(record) => Some(record),
            _ => None,
        })
        .collect();
    let led_to = records.iter().map(async |record| {
        let host = record.target.to_string().trim_end_matches('.').to_ascii_lowercase();
        let host = match host.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::Name(host),
        };
        let known = last.iter().filter(|place| place.host == host && place.socket.port() == record.port);
        let known: Vec<IpAddr> = known.map(|place| place.socket.ip()).collect();
        let ips = match &host {
            Host::Ip(ip) => Ok((vec![*ip], valid_until)),
            Host::Name(name) if !name.is_empty() => ips(dns, name, &known).await,
            _ => Err("the service is not offered".to_owned()),
        };
        (record, host, known, ips)
    });
    let mut places = Vec::new();
    let mut error = "the service has no record".to_owned();
    for (record, host, known, ips) in join_all(led_to).await {
        let ips = match ips {
            Ok((ips, until)) => {
                valid_until = valid_until.min(until);
                ips
            }
            Err(failed) => {
                error = format!("{host}: {failed}");
                known
            }
        };
        places.extend(ips.into_iter().map(|ip| Place {
            priority: record.priority,
            socket: SocketAddr::new(ip, record.port),
            host: host.clone(),
            // Those of weight 0 have a small chance beside others (RFC 2782), and an even one among themselves.
            weight: Some(u32::from(record.weight.max(1))),
        }));
    }
    places.sort();
    places.dedup();
    match places.is_empty() {
        true => Err(error),
        false => Ok(Answer { found: Found::Places(places), valid_until }),
    }
}

/// What DNS has of one kind, and until when that holds; none when it says that there is nothing.
async fn records(
    dns: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Option<(Vec<RData>, Instant)>, String> {
    // The dot at the end keeps search domains out of it.
    match timeout(PATIENCE, dns.lookup(format!("{name}."), kind)).await {
        Ok(Ok(lookup)) => {
            let until = lookup.valid_until().into();
            Ok(Some((lookup.answers().iter().map(|record| record.data.clone()).collect(), until)))
        }
        Ok(Err(error)) if error.is_no_records_found() => Ok(None),
        Ok(Err(NetError::Timeout)) | Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        Ok(Err(error)) => Err(error.to_string()),
    }
}
