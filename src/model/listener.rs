//! Where Envoys listen.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::document::{self, Declared};
use crate::model::name::{Name, Scope};
use crate::model::place::{Faults, Place};

/// The name of the listener that is there when none is declared.
pub const DEFAULT: &str = "default";

/// An address on which Envoys accept HTTP.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique among listeners; also the name of its Envoy route configuration.
    pub name: Name,
    /// Never port 0.
    pub address: SocketAddr,
    /// Which fleets open it.
    pub fleets: Scope,
    /// How long a connection without requests is kept; zero for ever.
    pub idle_timeout: Duration,
}

impl Listener {
    const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

    /// HTTP on port 8000 of every address, for all fleets.
    pub fn default_listener() -> Self {
        Self {
            name: Name::parse(DEFAULT).expect("`default` is a name"),
            address: SocketAddr::from(([0, 0, 0, 0], 8000)),
            fleets: Scope::All,
            idle_timeout: Self::IDLE_TIMEOUT,
        }
    }
}

/// Understands a declared listener whose name and fleets are already known.
pub(crate) fn resolve(
    name: Name,
    fleets: Scope,
    place: &Place<'_>,
    listener: &Declared<document::Listener>,
    faults: &mut Faults,
) -> Option<Listener> {
    let address = match &listener.entity.address {
        Some(text) => address(text, &place.key("address"), faults)?,
        None => {
            faults.missing(
                &place.key("address"),
                "`address`",
                "say where Envoy listens, such as 0.0.0.0:8000",
            );
            return None;
        }
    };
    let idle_timeout = listener.entity.idle_timeout.map_or(Listener::IDLE_TIMEOUT, |timeout| timeout.0);
    Some(Listener { name, address, fleets, idle_timeout })
}

fn address(text: &str, place: &Place<'_>, faults: &mut Faults) -> Option<SocketAddr> {
    let help = "write an IP address and a port, such as 0.0.0.0:8000 or [::]:8000".to_owned();
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            faults.wrong(place, format!("`{text}` has port 0"), "name the port, from 1 to 65535".to_owned());
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            faults.wrong(place, format!("`{text}` is not an address to listen on"), help);
            None
        }
    }
}
