//! Ports of a demo.

use std::net::{SocketAddr, TcpListener};

/// Number of port sets that are tried. Up to it, no port of one set is another port of another set.
const CANDIDATES: u16 = 50;

/// Addresses of one demo, on loopback.
///
/// They move together, by ten, when one of them is taken. A demo that got the admin address therefore has all
/// the others too: two demos that start at once cannot share Envoy's port (which Envoy would allow), and
/// neither takes the port of a backend that is dead at the moment. For the same reason all are below the
/// range from which systems take the ports of outgoing connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    /// Address of Envoy's listener.
    pub(crate) listener: SocketAddr,
    /// Address of the control plane's admin API.
    pub(crate) admin: SocketAddr,
    /// Address of the control plane's xDS server.
    pub(crate) xds: SocketAddr,
    /// Address of Envoy's own admin interface.
    pub(crate) envoy_admin: SocketAddr,
    /// Addresses of the backends, in the order of [`BACKENDS`](crate::cli::demo::environment::BACKENDS).
    pub(crate) backends: [SocketAddr; 3],
    /// Address suggested for a backend that the user starts.
    pub(crate) extra: SocketAddr,
}

impl Ports {
    /// Returns the candidate port sets, the preferred one first.
    pub(crate) fn candidates() -> impl Iterator<Item = Self> {
        (0..CANDIDATES).map(|step| {
            let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port + 10 * step));
            Self {
                listener: address(8000),
                admin: address(8001),
                xds: address(18000),
                envoy_admin: address(9901),
                backends: [address(9001), address(9002), address(9003)],
                extra: address(9004),
            }
        })
    }

    /// Returns true if all ports are free.
    pub(crate) fn free(&self) -> bool {
        self.all().into_iter().all(|address| TcpListener::bind(address).is_ok())
    }

    fn all(&self) -> [SocketAddr; 8] {
        let [first, second, third] = self.backends;
        [self.listener, self.admin, self.xds, self.envoy_admin, first, second, third, self.extra]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_places_share_a_port() {
        let all: Vec<_> = Ports::candidates().flat_map(|ports| ports.all()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn one_taken_port_spoils_a_place() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = Ports { extra: taken.local_addr().unwrap(), ..Ports::candidates().last().unwrap() };
        assert!(!ports.free());
    }
}
