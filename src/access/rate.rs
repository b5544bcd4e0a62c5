//! Rate limit of a token: a bucket that is refilled continuously.

use std::time::{Duration, Instant};

/// Requests that a token may still make now, at most those of one second.
#[derive(Debug)]
pub struct Bucket {
    left: f64,
    /// Time at which `left` was computed.
    at: Instant,
}

impl Bucket {
    /// Returns a bucket with the requests of one second.
    pub fn full(requests_per_second: u32, at: Instant) -> Self {
        Self { left: f64::from(requests_per_second), at }
    }

    /// Takes one request.
    ///
    /// # Errors
    ///
    /// Returns the time until the next request is allowed.
    pub fn take(&mut self, requests_per_second: u32, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(requests_per_second);
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        (self.left, self.at) = ((self.left + gained).min(rate), now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / rate));
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_on_average_and_over_is_over() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut bucket = Bucket::full(10, start);
        assert!((0..10).all(|_| bucket.take(10, start).is_ok()));
        assert_eq!(bucket.take(10, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(10, after(100)), Ok(()));
        assert!(bucket.take(10, after(150)).is_err());
        // Requests that were not made are not saved up beyond one second.
        assert_eq!((0..99).filter(|_| bucket.take(10, after(60_000)).is_ok()).count(), 10);
    }
}
