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
    /// Prefix: `shop.*`, stored as `shop.`.
    Prefix(String),
    /// Any host.
    Any,
}

impl HostMatch {
    fn parse(text: &str) -> Option<Self> {
        // Gateways name their chains by a single label that DNS would not take.
        let longest = if text.contains('.') { 63 } else { 255 };
        let label = |label: &str| {
            (1..=longest).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        let name = |text: &str| text.len() <= longest.max(253) && text.split('.').all(label);
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some("") => Some(Self::Any),
            Some(suffix) => {
                suffix.strip_prefix('.').is_some_and(name).then(|| Self::Suffix(suffix.to_owned()))
            }
            None if name(&text) => Some(Self::Exact(text)),
            None if text.ends_with(".*") => {
                text.strip_suffix(".*").filter(|text| name(text)).map(|text| Self::Prefix(format!("{text}.")))
            }
            None => {
                let ip = text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>();
                ip.is_ok().then_some(Self::Exact(text))
            }
        }
    }

    /// Returns all matchers that cover this host: itself, then the wider ones, in order of precedence.
    pub fn covering(&self) -> Vec<Self> {
        let all: Vec<Self> = match self {
            Self::Exact(host) => suffixes(host).chain(prefixes(host)).collect(),
            Self::Suffix(suffix) => suffixes(suffix).collect(),
            Self::Prefix(prefix) => prefixes(prefix).collect(),
            Self::Any => Vec::new(),
        };
        let wider = all.into_iter().filter(|host| host != self);
        let any = (*self != Self::Any).then_some(Self::Any);
        [self.clone()].into_iter().chain(wider).chain(any).collect()
    }
}

/// Returns the wildcards on the left that match hosts ending as `host`, the longest first.
fn suffixes(host: &str) -> impl Iterator<Item = HostMatch> {
    host.match_indices('.').map(|(dot, _)| HostMatch::Suffix(host[dot..].to_owned()))
}

/// Returns the wildcards on the right that match hosts beginning as `host`, the longest first.
fn prefixes(host: &str) -> impl Iterator<Item = HostMatch> {
    host.rmatch_indices('.').map(|(dot, _)| HostMatch::Prefix(host[..=dot].to_owned()))
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
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
                let help = "write a name such as shop.example.com, *.example.com or shop.*, without a port"
                    .to_owned();
                faults.wrong(&place.index(index), format!("`{text}` is not a host"), help);
            }
        }
    }
    if declared.is_empty() {
        hosts.push(HostMatch::Any);
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_covered_by_itself_and_by_wider_wildcards_in_their_order() {
        for (host, expected) in [
            ("Shop.example.com", "shop.example.com *.example.com *.com shop.example.* shop.* *"),
            ("*.shop.example.com", "*.shop.example.com *.example.com *.com *"),
            ("shop.eu.*", "shop.eu.* shop.* *"),
            ("localhost", "localhost *"),
            ("*", "*"),
        ] {
            let covering = HostMatch::parse(host).expect("a host").covering();
            let covering: Vec<String> = covering.iter().map(ToString::to_string).collect();
            assert_eq!(covering.join(" "), expected);
        }
    }

    #[test]
    fn a_wildcard_takes_the_place_of_whole_labels_on_one_side() {
        for host in ["sh*", "*op.test", ".*", "*.", "shop.*.test", "*.shop.*", "shop..*", "**", "shop.**"] {
            assert_eq!(HostMatch::parse(host), None, "{host}");
        }
    }
}
