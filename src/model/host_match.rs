//! Matchers of the host of a request.

use std::collections::HashSet;
use std::fmt;

use crate::model::place::{FaultCollector, FaultPlace};

/// Matcher of the host of a request; variants in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostMatch {
    /// Exact host, in lower case.
    Exact(String),
    /// Suffix: `*.example.com`, stored as `.example.com`.
    Suffix(String),
    /// Any host.
    Any,
}

impl HostMatch {
    fn parse(text: &str) -> Option<Self> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        let name = |text: &str| text.len() <= 253 && text.split('.').all(label);
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some("") => Some(Self::Any),
            Some(suffix) => {
                suffix.strip_prefix('.').is_some_and(name).then(|| Self::Suffix(suffix.to_owned()))
            }
            None if name(&text) => Some(Self::Exact(text)),
            None => {
                let ip = text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>();
                ip.is_ok().then_some(Self::Exact(text))
            }
        }
    }

    /// Returns all matchers that cover this host: itself, then the wider ones.
    pub fn covering(&self) -> Vec<Self> {
        let (Self::Exact(host) | Self::Suffix(host)) = self else { return vec![Self::Any] };
        let suffixes = host.match_indices('.').map(|(dot, _)| Self::Suffix(host[dot..].to_owned()));
        let wider = suffixes.filter(|suffix| suffix != self);
        [self.clone()].into_iter().chain(wider).chain([Self::Any]).collect()
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// True for `host` and `host:port`, the form of the host in a request.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    matches!(HostMatch::parse(host), Some(HostMatch::Exact(_))) && port.is_none_or(is_port)
}

/// Resolves the hosts that a route declares; any host if it declares none.
pub(crate) fn resolve(
    place: &FaultPlace<'_>,
    declared: &[String],
    faults: &mut FaultCollector,
) -> Vec<HostMatch> {
    let (mut hosts, mut known) = (Vec::new(), HashSet::new());
    for (index, text) in declared.iter().enumerate() {
        match HostMatch::parse(text) {
            Some(host) if !known.insert(host.clone()) => {}
            Some(host) => hosts.push(host),
            None => {
                let help =
                    "write a name such as shop.example.com or *.example.com, without a port".to_owned();
                faults.wrong(&place.index(index), format!("`{text}` is not a host"), help);
            }
        }
    }
    if declared.is_empty() {
        hosts.push(HostMatch::Any);
    }
    hosts
}
