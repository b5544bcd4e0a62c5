//! Settings of the control plane's resolution of host names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::code;
use crate::config::document::{self, Declared};
use crate::model::documents::Documents;
use crate::model::place::{FaultCollector, FaultPlace};

/// Default port of DNS.
const DNS: u16 = 53;

/// Settings of the control plane's resolution of host names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// DNS servers; empty for those of the system.
    pub servers: Vec<SocketAddr>,
    /// Minimum time for which an answer is used, whatever its TTL.
    pub min_ttl: Duration,
    /// Maximum time for which an answer is used, whatever its TTL.
    pub max_ttl: Duration,
    /// Delay before a failed look-up is repeated.
    pub retry: Duration,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: document::resolver::Resolver::MIN_TTL.0,
            max_ttl: document::resolver::Resolver::MAX_TTL.0,
            retry: document::resolver::Resolver::RETRY.0,
        }
    }
}

/// Resolves the resolver that the documents declare. A second declaration is a fault.
pub(crate) fn resolve(documents: &Documents, faults: &mut FaultCollector) -> Resolver {
    let mut declared =
        documents.of_files().filter_map(|document| Some((document, document.resolver.as_ref()?)));
    let Some((document, first)) = declared.next() else { return Resolver::default() };
    let place = FaultPlace::new(document, &first.path);
    for (document, Declared { path, .. }) in declared {
        let message = "the resolver is declared twice".to_owned();
        let help = "say all of it in one place".to_owned();
        let related = vec![place.related("first declared here")];
        faults.error_with(&FaultPlace::new(document, path), code::DECLARED_TWICE, message, help, related);
    }
    understand(&place, &first.entity, faults)
}

fn understand(
    place: &FaultPlace<'_>,
    declared: &document::resolver::Resolver,
    faults: &mut FaultCollector,
) -> Resolver {
    let default = Resolver::default();
    let mut servers = Vec::new();
    for (index, text) in declared.servers.iter().enumerate() {
        match server(text) {
            Some(server) => servers.push(server),
            None => {
                let help =
                    "write the address of a DNS server, such as 127.0.0.1 or 127.0.0.1:5353".to_owned();
                let place = place.key("servers").index(index);
                faults.wrong(&place, format!("`{text}` is no address of a server"), help);
            }
        }
    }
    let min_ttl = declared.min_ttl.map_or(default.min_ttl, |time| time.0);
    let max_ttl = declared.max_ttl.map_or(default.max_ttl.max(min_ttl), |time| time.0);
    if max_ttl < min_ttl {
        let message = "`max_ttl` is shorter than `min_ttl`".to_owned();
        faults.error(&place.key("max_ttl"), code::CONFLICT, message, None);
    }
    let retry = declared.retry.map_or(default.retry, |time| time.0);
    // The servers may belong to third parties, and would be flooded without a minimum pause.
    for (key, time) in [("min_ttl", min_ttl), ("max_ttl", max_ttl), ("retry", retry)] {
        if time < Duration::from_millis(10) {
            let help = "10ms or more".to_owned();
            faults.wrong(&place.key(key), "this time is too short".to_owned(), help);
        }
    }
    Resolver { servers, min_ttl, max_ttl, retry }
}

fn server(text: &str) -> Option<SocketAddr> {
    let with_port = text.parse::<SocketAddr>().ok().filter(|server| server.port() != 0);
    let ip = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS));
    with_port.or_else(ip)
}
