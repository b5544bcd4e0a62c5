//! Rate limits: buckets that are refilled continuously.

use std::time::{Duration, Instant};

/// Rate of requests.
#[derive(Debug, Clone, Copy)]
pub struct RateLimit {
    /// Number of requests that may be made at once.
    pub burst: u32,
    /// Number of requests a second that may be made in the long run.
    pub per_second: u32,
}

/// Requests that may still be made now, at most a burst.
#[derive(Debug)]
pub struct Bucket {
    left: f64,
    /// Time at which `left` was computed.
    at: Instant,
}

impl Bucket {
    /// Returns a bucket with the requests of one burst.
    pub fn full(limit: RateLimit, at: Instant) -> Self {
        Self { left: f64::from(limit.burst), at }
    }

    /// Takes one request.
    ///
    /// # Errors
    ///
    /// Returns the time until the next request is allowed.
    pub fn take(&mut self, limit: RateLimit, now: Instant) -> Result<(), Duration> {
        (self.left, self.at) = (self.left_at(limit, now), now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / f64::from(limit.per_second)));
        }
        self.left -= 1.0;
        Ok(())
    }

    /// True if it is as a new one would be.
    pub fn is_full(&self, limit: RateLimit, now: Instant) -> bool {
        self.left_at(limit, now) >= f64::from(limit.burst)
    }

    fn left_at(&self, limit: RateLimit, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(limit.per_second);
        (self.left + gained).min(f64::from(limit.burst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_on_average_and_over_is_over() {
        let (start, limit) = (Instant::now(), RateLimit { burst: 10, per_second: 10 });
        let after = |millis| start + Duration::from_millis(millis);
        let mut bucket = Bucket::full(limit, start);
        assert!((0..10).all(|_| bucket.take(limit, start).is_ok()));
        assert_eq!(bucket.take(limit, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(limit, after(100)), Ok(()));
        assert!(bucket.take(limit, after(150)).is_err());
        assert!(!bucket.is_full(limit, after(1000)) && bucket.is_full(limit, after(1150)));
        // Requests that were not made are not saved up beyond one burst.
        assert_eq!((0..99).filter(|_| bucket.take(limit, after(60_000)).is_ok()).count(), 10);
    }
}
