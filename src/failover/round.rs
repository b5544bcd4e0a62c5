//! Rounding of shown numbers.

/// Rounds to one digit after the point.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
