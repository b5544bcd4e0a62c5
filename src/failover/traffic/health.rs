//! Health of an endpoint with its age, in two bytes.

/// Health of an endpoint, and its age: the time from its last confirmation to the last report. Two bits, and
/// 14 bits of seconds, which saturate at 16,383 (4.5 hours).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ObservedHealth(u16);

impl ObservedHealth {
    const IS_KNOWN: u16 = 1;
    const IS_HEALTHY: u16 = 2;
    const SECOND: u16 = 4;

    /// Returns health that was confirmed just now.
    pub(super) fn confirmed(is_healthy: bool) -> Self {
        Self(Self::IS_KNOWN | if is_healthy { Self::IS_HEALTHY } else { 0 })
    }

    /// True for healthy, false for unhealthy; none if unknown.
    pub(super) fn is_healthy(self) -> Option<bool> {
        (self.0 & Self::IS_KNOWN != 0).then_some(self.0 & Self::IS_HEALTHY != 0)
    }

    /// Returns the age in seconds.
    pub(super) fn age(self) -> u32 {
        u32::from(self.0 / Self::SECOND)
    }

    /// Returns the same health with its age increased by `seconds`.
    pub(super) fn aged(self, seconds: u32) -> Self {
        let age = self.age().saturating_add(seconds).min(u32::from(u16::MAX / Self::SECOND));
        Self(self.0 % Self::SECOND + age as u16 * Self::SECOND)
    }
}
