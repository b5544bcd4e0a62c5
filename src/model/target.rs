//! Targets: the members of an upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::config::code;
use crate::config::document;
use crate::envoy::node::Locality;
use crate::model::health::{self, TargetCheck};
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::tls::TargetTls;

/// Maximum weight of one target. Envoy adds up weights in 32 bits.
pub const MAX_WEIGHT: u32 = 65_535;
/// Maximum priority that Envoy accepts.
pub const MAX_PRIORITY: u32 = 127;

/// Host of a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Literal IP address.
    Ip(IpAddr),
    /// Host name, in lower case; resolved by the control plane or, with `resolve: envoy`, by Envoy.
    Name(String),
    /// Name whose SRV records give hosts and ports, in lower case.
    Service(String),
}

impl Host {
    /// Returns the IP address; none for a name or a service.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) | Self::Service(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
            Self::Service(name) => write!(f, "{SERVICE}{name}"),
        }
    }
}

/// Prefix of the name of a service.
const SERVICE: &str = "srv:";

/// `host:port` or the name of a service; identifies a target within its upstream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// IP address, name or service.
    pub host: Host,
    /// Port, from 1; zero for a service, whose records have the ports.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Service(_) => write!(f, "{}", self.host),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Message and suggestion for a text that is no address.
pub type NotAnAddress = (String, &'static str);

impl Address {
    /// Parses `10.0.0.1:8080`, `[::1]:8080`, `name:8080` or `srv:_http._tcp.name`.
    ///
    /// # Errors
    ///
    /// Returns a message and a suggestion if the text is no address.
    pub fn parse(text: &str) -> Result<Self, NotAnAddress> {
        if let Some(name) = text.strip_prefix(SERVICE) {
            return parse_service(name);
        }
        let example = "write host:port, such as 10.0.0.1:8080, [::1]:8080 or app.example.com:8080";
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err((format!("`{text}` has no port"), example));
        };
        let port = match port.parse::<u16>() {
            Ok(0) => return Err((format!("`{text}` has port 0"), "name the port, from 1 to 65535")),
            Ok(port) => port,
            Err(_) => return Err((format!("`{port}` is not a port"), "name the port, from 1 to 65535")),
        };
        match parse_host(host) {
            Some(host) => Ok(Self { host, port }),
            None => Err((format!("`{host}` is neither an IP address nor a host name"), example)),
        }
    }
}

fn parse_service(text: &str) -> Result<Address, NotAnAddress> {
    match parse_host(text) {
        Some(Host::Name(name)) => Ok(Address { host: Host::Service(name), port: 0 }),
        _ if text.contains(':') => {
            let help = "leave out the port: the records of a service have their own";
            Err((format!("`{text}` is no name of a service"), help))
        }
        _ => Err((format!("`{text}` is no name of a service"), "write srv:_service._protocol.domain")),
    }
}

fn parse_host(text: &str) -> Option<Host> {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().ok().map(|ip| Host::Ip(ip.into()));
    }
    if let Ok(IpAddr::V4(ip)) = text.parse() {
        return Some(Host::Ip(ip.into()));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len())
            && label.chars().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits alone is a mistyped IP address, never a name (RFC 1123, section 2.1).
    let numeric = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    let valid = name.len() <= 253 && name.split('.').all(label) && !numeric;
    valid.then_some(Host::Name(name))
}

/// Member of an upstream that gets traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Address, unique within the upstream.
    pub address: Address,
    /// Weight, from 1. The places of a service have the weights of their SRV records.
    pub weight: u32,
    /// Tier, from 0. Declared targets without traffic count, so that a tier may be empty: the last primary
    /// may be disabled without promoting its standby to tier 0.
    pub tier: u32,
    /// Locality in which it runs; unknown levels are empty.
    pub locality: Locality,
    /// Health check, as far as its upstream has checks.
    pub health_check: TargetCheck,
    /// TLS settings of the connections to it.
    pub tls: TargetTls,
}

/// Declared target, before the priorities of its upstream are turned into tiers.
#[derive(Debug, Clone)]
pub(crate) struct TargetCandidate<'a> {
    pub(crate) place: FaultPlace<'a>,
    pub(crate) address: Address,
    pub(crate) weight: u32,
    pub(crate) priority: u32,
    pub(crate) enabled: bool,
    pub(crate) locality: Locality,
    pub(crate) health_check: TargetCheck,
    pub(crate) tls: TargetTls,
}

impl TargetCandidate<'_> {
    /// True if it gets traffic.
    pub(crate) fn is_used(&self) -> bool {
        self.enabled && self.weight > 0
    }
}

/// Resolves one declared target of `upstream`.
pub(crate) fn resolve<'a>(
    place: FaultPlace<'a>,
    target: &document::target::Target,
    upstream: &document::upstream::Upstream,
    faults: &mut FaultCollector,
) -> Option<TargetCandidate<'a>> {
    let Some(text) = &target.target else {
        faults.missing(&place.key("target"), "`target`", "name it as host:port, such as 10.0.0.1:8080");
        return None;
    };
    let address = match Address::parse(text) {
        Ok(address) => address,
        Err((message, help)) => {
            faults.wrong(&place.key("target"), message, help.to_owned());
            return None;
        }
    };
    if matches!(address.host, Host::Service(_))
        && upstream.resolve == Some(document::upstream::Resolve::Envoy)
    {
        let message = "Envoy does not look services up".to_owned();
        let help = "remove `resolve: envoy`, or name the hosts".to_owned();
        faults.error(&place.key("target"), code::CONFLICT, message, help);
    }
    Some(TargetCandidate {
        address,
        weight: weight(&place, target.weight, faults),
        priority: priority(&place, target.priority, target.failover, "target", faults),
        enabled: target.enabled.unwrap_or(document::target::Target::ENABLED),
        locality: Locality {
            region: target.region.clone().unwrap_or_default(),
            zone: target.zone.clone().unwrap_or_default(),
            sub_zone: target.sub_zone.clone().unwrap_or_default(),
        },
        health_check: health::target_check(
            &place.key("health_check"),
            target.health_check.as_deref(),
            upstream.health_check.as_ref(),
            faults,
        ),
        tls: TargetTls::AsUpstream,
        place,
    })
}

/// Resolves the weight of a target, or of a member of a service. The default is 100.
pub(crate) fn weight(place: &FaultPlace<'_>, declared: Option<u32>, faults: &mut FaultCollector) -> u32 {
    let weight = declared.unwrap_or(document::target::Target::WEIGHT);
    if weight > MAX_WEIGHT {
        let help = format!("weights go from 0 to {MAX_WEIGHT}; only their ratio counts");
        faults.wrong(&place.key("weight"), format!("the weight {weight} is too large"), help);
    }
    weight
}

/// Resolves the priority of a target, or of a member of a service; `what` is the word for it in messages.
pub(crate) fn priority(
    place: &FaultPlace<'_>,
    priority: Option<u32>,
    failover: Option<bool>,
    what: &str,
    faults: &mut FaultCollector,
) -> u32 {
    match (priority, failover) {
        // `failover: false` beside `priority: 0` contradicts nothing.
        (Some(0), Some(false)) => 0,
        (Some(_), Some(_)) => {
            let help = "`failover: true` is short for `priority: 1`; leave one of them out".to_owned();
            let message = format!("`failover` and `priority` both say which tier this {what} is in");
            faults.error(&place.key("failover"), code::CONFLICT, message, help);
            0
        }
        (Some(priority), None) => {
            if priority > MAX_PRIORITY {
                let help = format!("priorities go from 0, which is used first, to {MAX_PRIORITY}");
                faults.wrong(&place.key("priority"), format!("the priority {priority} is too large"), help);
            }
            priority
        }
        (None, Some(true)) => 1,
        (None, Some(false) | None) => document::target::Target::PRIORITY,
    }
}

/// Returns the tier of each priority: its position among them.
pub(crate) fn tiers(priorities: impl Iterator<Item = u32>) -> BTreeMap<u32, u32> {
    let priorities: BTreeSet<u32> = priorities.collect();
    priorities.into_iter().zip(0..).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses_or_names_with_a_port() {
        for (text, same) in [
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[::1]:80", "[::1]:80"),
            ("[0:0::1]:80", "[::1]:80"),
            ("Standby.Example.COM.:443", "standby.example.com:443"),
            ("localhost:1", "localhost:1"),
            ("my_service:9000", "my_service:9000"),
            ("srv:_http._tcp.Example.com.", "srv:_http._tcp.example.com"),
        ] {
            assert_eq!(Address::parse(text).expect(text).to_string(), same);
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            ":80",
            "10.0.0.300:80",
            "::1:80",
            "a b:80",
            "http://a:80",
            "-a:80",
            "a..b:80",
            "[::1:80",
            "10.0.0.1:80:80",
            "srv:",
            "srv:10.0.0.1",
            "srv:_http._tcp.example.com:80",
        ] {
            Address::parse(text).expect_err(text);
        }
    }
}
