//! DNS resolution of host names.
//!
//! Look-ups run in the background. A config change waits only for names that were never looked up, for a
//! second at most. Names are looked up again when their answer expires. The last good answer stays in use
//! while look-ups fail: a DNS outage must not empty an upstream.

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

use crate::model::addresses::{Addresses, ResolvedAddress};
use crate::model::resolver::Resolver as Settings;
use crate::model::target::Host;

/// Time after which a look-up without a response fails, and for which a config change waits at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// Maximum number of concurrent look-ups.
const AT_ONCE: usize = 256;

/// Resolver that remembers the answers.
#[derive(Debug)]
pub struct DnsResolver {
    settings: Settings,
    dns: Option<TokioResolver>,
    names: ResolvedNames,
    /// Next look-up of each name. A name has no entry while its look-up is under way.
    due: BTreeSet<(Instant, Host)>,
    lookups: JoinSet<(Host, Result<DnsAnswer, String>)>,
    permits: Arc<Semaphore>,
}

/// Shared view of the resolved names. Cheap to clone: clones share their state.
#[derive(Debug, Clone, Default)]
pub struct ResolvedNames(Arc<Mutex<BTreeMap<Host, NameEntry>>>);

#[derive(Debug, Clone, Default)]
struct NameEntry {
    /// Last good answer; none if there never was one.
    found: Option<DnsRecords>,
    /// Time of that answer.
    answered_at: Option<Instant>,
    /// Reason why the newest look-up failed, if it did.
    error: Option<String>,
    /// True until the first look-up has ended.
    is_new: bool,
    /// Time of the next look-up; none while one is under way.
    due: Option<Instant>,
}

/// Good answer: it has at least one address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DnsRecords {
    Ips(Vec<IpAddr>),
    Sockets(Vec<ResolvedAddress>),
}

#[derive(Debug)]
struct DnsAnswer {
    found: DnsRecords,
    valid_until: Instant,
}

/// State of a name.
#[derive(Debug, Clone, PartialEq)]
pub struct NameStatus {
    /// Age of the answer in use; none if there never was one.
    pub age: Option<Duration>,
    /// Reason why the newest look-up failed, if it did.
    pub error: Option<String>,
}

impl ResolvedNames {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Host, NameEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state of a name; none if it is not resolved here.
    pub fn resolved(&self, host: &Host) -> Option<NameStatus> {
        self.lock().get(host).map(|known| NameStatus {
            age: known.answered_at.map(|at| at.elapsed()),
            error: known.error.clone(),
        })
    }
}

impl DnsResolver {
    /// Returns a resolver with default settings, which uses the DNS servers of the system.
    pub fn new() -> Self {
        let settings = Settings::default();
        Self {
            dns: dns(&settings.servers),
            settings,
            names: ResolvedNames::default(),
            due: BTreeSet::new(),
            lookups: JoinSet::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Returns the shared view of the resolved names.
    pub fn names(&self) -> ResolvedNames {
        self.names.clone()
    }

    /// Applies these settings. If the servers change, all names are looked up again at once; the last good
    /// answers stay in use until then.
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

    /// Looks up those of `hosts` that were never looked up, and waits for the answers, for a second at most.
    pub async fn learn(&mut self, hosts: &BTreeSet<Host>) {
        let deadline = Instant::now() + PATIENCE;
        let new: Vec<Host> = {
            let mut names = self.names.lock();
            let new: Vec<Host> = hosts.iter().filter(|host| !names.contains_key(host)).cloned().collect();
            names.extend(
                new.iter().map(|host| (host.clone(), NameEntry { is_new: true, ..NameEntry::default() })),
            );
            new
        };
        for host in &new {
            self.look_up(host.clone());
        }
        let is_unknown = |names: &ResolvedNames| {
            let names = names.lock();
            new.iter().any(|host| names.get(host).is_some_and(|known| known.is_new))
        };
        while is_unknown(&self.names) {
            match timeout_at(deadline, self.lookups.join_next()).await {
                Ok(Some(ended)) => drop(ended.map(|(host, answer)| self.record(&host, answer))),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Forgets all names but `hosts`.
    pub fn retain(&mut self, hosts: &BTreeSet<Host>) {
        self.names.lock().retain(|host, _| hosts.contains(host));
        self.due.retain(|(_, host)| hosts.contains(host));
    }

    /// Looks names up again as their answers expire, and returns when an answer differs. Cancel-safe.
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
                    changed |= ended.is_ok_and(|(host, answer)| self.record(&host, answer));
                }
            }
            // Answers that arrived at the same time make one change.
            while let Some(ended) = self.lookups.try_join_next() {
                changed |= ended.is_ok_and(|(host, answer)| self.record(&host, answer));
            }
            if changed {
                return;
            }
        }
    }

    /// Returns the addresses of every name that has a good answer.
    pub fn addresses(&self) -> Addresses {
        let mut addresses = Addresses::default();
        for (host, known) in self.names.lock().iter() {
            match (host, &known.found) {
                (Host::Name(name), Some(DnsRecords::Ips(ips))) => {
                    addresses.names.insert(name.clone(), ips.clone());
                }
                (Host::Service(name), Some(DnsRecords::Sockets(sockets))) => {
                    addresses.services.insert(name.clone(), sockets.clone());
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

    /// Records an answer and schedules the next look-up. True if the addresses differ.
    fn record(&mut self, host: &Host, answer: Result<DnsAnswer, String>) -> bool {
        let now = Instant::now();
        let mut names = self.names.lock();
        let Some(known) = names.get_mut(host) else { return false };
        known.is_new = false;
        let (due, changed) = match answer {
            Ok(DnsAnswer { found, valid_until }) => {
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

impl Default for DnsResolver {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns a DNS client for these servers or, if there are none, for those of the system. None if the DNS
/// settings are unusable.
fn dns(servers: &[SocketAddr]) -> Option<TokioResolver> {
    let adjust = |options: &mut ResolverOpts| {
        options.timeout = PATIENCE;
        options.attempts = 1;
        // The resolver tracks expiry itself, so the client must not cache.
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
            // Names are answered by the configured servers alone, not by the hosts file.
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

/// Looks up one name. `last` is the last good answer.
async fn look_up(dns: &TokioResolver, host: &Host, last: Option<DnsRecords>) -> Result<DnsAnswer, String> {
    match host {
        Host::Name(name) => {
            let last = match &last {
                Some(DnsRecords::Ips(ips)) => ips.as_slice(),
                _ => &[],
            };
            let (ips, valid_until) = ips(dns, name, last).await?;
            Ok(DnsAnswer { found: DnsRecords::Ips(ips), valid_until })
        }
        Host::Service(name) => {
            let last = match last {
                Some(DnsRecords::Sockets(sockets)) => sockets,
                _ => Vec::new(),
            };
            service_sockets(dns, name, &last).await
        }
        Host::Ip(_) => Err("an IP address needs no resolving".to_owned()),
    }
}

/// Looks up the A and AAAA records of a name; the addresses are sorted. If one record type resolves and the
/// other fails, the addresses of the failed type are kept from `last`.
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

/// Looks up the SRV records of a service and the addresses of their hosts; the result is sorted. If a host
/// fails, its addresses are kept from `last`.
async fn service_sockets(
    dns: &TokioResolver,
    name: &str,
    last: &[ResolvedAddress],
) -> Result<DnsAnswer, String> {
    let found = records(dns, name, RecordType::SRV).await?;
    let (found, mut valid_until) = found.ok_or_else(|| "the service has no record".to_owned())?;
    let records: Vec<_> = found
        .into_iter()
        .filter_map(|record| match record {
            RData::SRV(record) => Some(record),
            _ => None,
        })
        .collect();
    let resolved_hosts = records.iter().map(async |record| {
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
    let mut sockets = Vec::new();
    let mut error = "the service has no record".to_owned();
    for (record, host, known, ips) in join_all(resolved_hosts).await {
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
        sockets.extend(ips.into_iter().map(|ip| ResolvedAddress {
            priority: record.priority,
            socket: SocketAddr::new(ip, record.port),
            host: host.clone(),
            // SRV records of weight 0 have a small chance beside others (RFC 2782) and equal chances among
            // themselves, so they count as weight 1.
            weight: Some(u32::from(record.weight.max(1))),
        }));
    }
    sockets.sort();
    sockets.dedup();
    if sockets.is_empty() {
        return Err(error);
    }
    Ok(DnsAnswer { found: DnsRecords::Sockets(sockets), valid_until })
}

/// Returns the records of one type and the time at which they expire; none if DNS says that there are none.
async fn records(
    dns: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Option<(Vec<RData>, Instant)>, String> {
    // The trailing dot prevents the use of search domains.
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
