//! Addresses of host names, from DNS or from the operator.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use imbl::OrdMap;
use serde::Deserialize;

use crate::model::target::{Address, Host};

/// Addresses that the host names of targets resolve to. A name without an entry has never been resolved.
///
/// A file maps a name to its IPs, and the name of a service, with or without `srv:`, to a list of
/// `host:port`, whose hosts are IPs or names of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<String>>")]
pub struct Addresses {
    /// A and AAAA records of a name.
    pub names: OrdMap<String, Vec<IpAddr>>,
    /// Places that the SRV records of a service lead to.
    pub services: OrdMap<String, Vec<ResolvedAddress>>,
}

/// Socket address of a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolvedAddress {
    /// Priority of the SRV record that led here, the lowest first; zero without one.
    pub priority: u16,
    /// IP address and port.
    pub socket: SocketAddr,
    /// Host that was resolved: an IP address that was given as such, or a name. Never a service.
    pub host: Host,
    /// Weight of the SRV record, from 1; `None` without one.
    pub weight: Option<u32>,
}

impl Addresses {
    /// Resolves `address`: one result per IP, or none if it is not resolved.
    pub fn resolve(&self, address: &Address) -> Vec<ResolvedAddress> {
        let ips = match &address.host {
            Host::Service(name) => return self.services.get(name).cloned().unwrap_or_default(),
            Host::Ip(ip) => std::slice::from_ref(ip),
            Host::Name(name) => self.names.get(name).map(Vec::as_slice).unwrap_or_default(),
        };
        let place = |ip: &IpAddr| ResolvedAddress {
            priority: 0,
            socket: SocketAddr::new(*ip, address.port),
            host: address.host.clone(),
            weight: None,
        };
        ips.iter().map(place).collect()
    }

    /// Returns the socket addresses of `address`.
    pub fn sockets(&self, address: &Address) -> Vec<SocketAddr> {
        match &address.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, address.port)],
            Host::Name(_) | Host::Service(_) => {
                self.resolve(address).into_iter().map(|place| place.socket).collect()
            }
        }
    }

    /// Returns the entries of `hosts` only.
    pub fn of<'h>(&self, hosts: impl Iterator<Item = &'h Host>) -> Self {
        let mut of = Self::default();
        if self.names.is_empty() && self.services.is_empty() {
            return of;
        }
        for host in hosts {
            match host {
                Host::Ip(_) => {}
                Host::Name(name) => {
                    let known = self.names.get(name).map(|ips| (name.clone(), ips.clone()));
                    of.names.extend(known);
                }
                Host::Service(name) => {
                    let known = self.services.get(name).map(|sockets| (name.clone(), sockets.clone()));
                    of.services.extend(known);
                }
            }
        }
        of
    }

    /// True if `host` needs no resolution or has been resolved.
    pub fn knows(&self, host: &Host) -> bool {
        match host {
            Host::Ip(_) => true,
            Host::Name(name) => self.names.contains_key(name),
            Host::Service(name) => self.services.contains_key(name),
        }
    }
}

impl TryFrom<BTreeMap<String, Vec<String>>> for Addresses {
    type Error = String;

    fn try_from(file: BTreeMap<String, Vec<String>>) -> Result<Self, String> {
        let mut addresses = Self::default();
        let mut services = Vec::new();
        for (name, list) in file {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let ips: Option<Vec<IpAddr>> = list.iter().map(|text| text.parse().ok()).collect();
            match (name.strip_prefix("srv:"), ips) {
                (Some(name), _) => services.push((name.to_owned(), list)),
                (None, None) => services.push((name, list)),
                (None, Some(ips)) => drop(addresses.names.insert(name, ips)),
            }
        }
        for (name, list) in services {
            let mut sockets = Vec::new();
            for text in list {
                match Address::parse(&text) {
                    Ok(address) if !matches!(address.host, Host::Service(_)) => {
                        let resolved = addresses.resolve(&address).into_iter();
                        sockets.extend(resolved.map(|place| ResolvedAddress { weight: Some(1), ..place }));
                    }
                    _ => return Err(format!("`{text}` of `{name}` is neither an IP nor host:port")),
                }
            }
            addresses.services.insert(name, sockets);
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Result<Addresses, String> {
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    fn check(target: &str, expected: &[&str]) {
        let text = "
A.example.com: [192.0.2.1, '2001:db8::1']
_http._tcp.example.com: ['a.example.com:81', '192.0.2.9:82', 'gone.example.com:83']
srv:_empty._tcp.example.com.: []
";
        let sockets = addresses(text).expect("valid").resolve(&Address::parse(target).expect("valid"));
        let told: Vec<String> = sockets
            .iter()
            .map(|place| format!("{} {} {:?}", place.socket, place.host, place.weight))
            .collect();
        assert_eq!(told, expected, "{target}");
    }

    #[test]
    fn names_lead_to_all_their_ips_and_services_to_those_of_their_hosts() {
        check("10.0.0.1:80", &["10.0.0.1:80 10.0.0.1 None"]);
        check(
            "a.example.com:80",
            &["192.0.2.1:80 a.example.com None", "[2001:db8::1]:80 a.example.com None"],
        );
        check(
            "srv:_http._tcp.example.com",
            &[
                "192.0.2.1:81 a.example.com Some(1)",
                "[2001:db8::1]:81 a.example.com Some(1)",
                "192.0.2.9:82 192.0.2.9 Some(1)",
            ],
        );
        check("srv:_empty._tcp.example.com", &[]);
        check("b.example.com:80", &[]);
    }

    #[test]
    fn what_is_neither_an_ip_nor_an_address_is_refused() {
        let error = addresses("a.example.com: [192.0.2.300]").expect_err("no IP");
        assert!(error.contains("`192.0.2.300` of `a.example.com`"), "{error}");
        addresses("a: ['srv:_http._tcp.b']").expect_err("no chain of services");
    }
}
