//! Limit of guesses: the wrong tokens that each remote address may send.
//!
//! Right tokens are never limited by it, so nobody is locked out by guesses that come through the same proxy.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::access::rate::{Bucket, RateLimit};

/// Guesses that are answered; a token has 256 random bits.
const LIMIT: RateLimit = RateLimit { burst: 100, per_second: 20 };

/// Number of networks that are told apart; all others share one limit.
const MAX_NETWORKS: usize = 10_000;

/// Interval at which networks that stopped guessing are forgotten, while the number is reached.
const SWEEP: Duration = Duration::from_secs(1);

/// Guesses by network: an IPv4 address, or the first 64 bits of an IPv6 address.
#[derive(Debug)]
pub(super) struct GuessLimits {
    networks: HashMap<IpAddr, Bucket>,
    others: Bucket,
    swept: Instant,
}

impl GuessLimits {
    /// Creates the limits of a start.
    pub(super) fn new(now: Instant) -> Self {
        Self { networks: HashMap::new(), others: Bucket::full(LIMIT, now), swept: now }
    }

    /// Counts a wrong token from this address.
    ///
    /// # Errors
    ///
    /// Returns the time until the next one is answered.
    pub(super) fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let network = network(address);
        if let Some(bucket) = self.networks.get_mut(&network) {
            return bucket.take(LIMIT, now);
        }
        if self.networks.len() >= MAX_NETWORKS && now.saturating_duration_since(self.swept) >= SWEEP {
            self.networks.retain(|_, bucket| !bucket.is_full(LIMIT, now));
            self.swept = now;
        }
        if self.networks.len() >= MAX_NETWORKS {
            return self.others.take(LIMIT, now);
        }
        self.networks.entry(network).or_insert_with(|| Bucket::full(LIMIT, now)).take(LIMIT, now)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn each_network_has_its_limit_and_the_memory_has_an_end() {
        let now = Instant::now();
        let mut limits = GuessLimits::new(now);
        let mut answered = |text: &str, times: usize, now| {
            let address: IpAddr = text.parse().expect("an address");
            (0..times).filter(|_| limits.take(address, now).is_ok()).count()
        };
        assert_eq!(answered("10.0.0.1", 600, now), 100);
        assert_eq!(answered("::ffff:10.0.0.1", 600, now), 0, "the same address");
        assert_eq!(answered("10.0.0.2", 1, now), 1);
        assert_eq!(answered("2001:db8::1", 60, now), 60);
        assert_eq!(answered("2001:db8::2", 60, now), 40, "whoever has an address has its network");
        assert_eq!(answered("10.0.0.1", 600, now + Duration::from_secs(1)), 20);

        let networks = (0..20_000).map(|network| IpAddr::from(Ipv4Addr::from_bits(network << 8)));
        let answered = networks.filter(|network| limits.take(*network, now).is_ok()).count();
        assert!((9_900..=10_100).contains(&answered), "{answered}");
        assert_eq!(limits.networks.len(), MAX_NETWORKS);
        let later = now + Duration::from_secs(60);
        assert!(limits.take(Ipv4Addr::new(192, 0, 2, 1).into(), later).is_ok());
        assert!(limits.networks.len() < 10, "those that stopped are forgotten");
    }
}
