//! Value types of many fields: durations, sizes, status ranges and switches.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// Duration, written `250ms`, `1s`, `5m` or `1h`; several parts add up (`1m30s`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

const A_DURATION: &str = "a duration such as 250ms, 1s, 5m or 1h";

impl Duration {
    /// Zero length.
    pub const ZERO: Self = Self(std::time::Duration::ZERO);

    /// Returns a duration of `seconds`.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// Returns a duration of `milliseconds`.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }

    /// Parses `250ms`, `1.5s` or `1m30s`; `0` needs a unit too.
    pub fn parse(text: &str) -> Option<Self> {
        let mut total = std::time::Duration::ZERO;
        let mut rest = text;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, after) = rest.split_at(digits);
            let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(letters);
            let seconds = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            } * number.parse::<f64>().ok()?;
            total = total.checked_add(std::time::Duration::try_from_secs_f64(seconds).ok()?)?;
            rest = after;
        }
        // The limit is ten years; Envoy accepts at most some 290 years. Rounding to microseconds removes the
        // noise of the floating-point conversion.
        let total = Some(total).filter(|total| total.as_secs() < 315_576_000)?;
        let micros = u64::try_from((total + std::time::Duration::from_nanos(500)).as_micros()).ok()?;
        Some(Self(std::time::Duration::from_micros(micros)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (millis, micros) = (self.0.as_millis(), self.0.subsec_micros() % 1000);
        if micros != 0 {
            let fraction = format!("{micros:03}");
            write!(f, "{millis}.{}ms", fraction.trim_end_matches('0'))
        } else if !millis.is_multiple_of(1000) {
            write!(f, "{millis}ms")
        } else if millis == 0 || !millis.is_multiple_of(60_000) {
            write!(f, "{}s", millis / 1000)
        } else if !millis.is_multiple_of(3_600_000) {
            write!(f, "{}m", millis / 60_000)
        } else {
            write!(f, "{}h", millis / 3_600_000)
        }
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromText;
        impl Visitor<'_> for FromText {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(A_DURATION)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                Duration::parse(text)
                    .ok_or_else(|| E::custom(format!("`{text}` is not a duration\nwrite {A_DURATION}")))
            }
        }
        deserializer.deserialize_str(FromText)
    }
}

/// Size in bytes, written `64KiB`, `8MiB` or as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const A_SIZE: &str = "a size such as 64KiB or 1MiB";

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(scale).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes.is_multiple_of(1 << 20) => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes > 0 && bytes.is_multiple_of(1 << 10) => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(A_SIZE)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).ok_or_else(|| E::custom(format!("`{text}` is not a size\nwrite {A_SIZE}")))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// Inclusive range of HTTP statuses, written `"200-299"`, or as one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Statuses(pub u16, pub u16);

const STATUSES: &str = "a status or a range of them, such as 200 or \"200-299\"";

impl Statuses {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (100 <= first && first <= last && last < 600).then_some(Self(first, last))
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(first, last) if first == last => write!(f, "{first}"),
            Self(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StatusesVisitor;
        impl Visitor<'_> for StatusesVisitor {
            type Value = Statuses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(STATUSES)
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<Statuses, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Statuses, E> {
                Statuses::parse(text)
                    .ok_or_else(|| E::custom(format!("`{text}` is no range of statuses\nwrite {STATUSES}")))
            }
        }
        deserializer.deserialize_any(StatusesVisitor)
    }
}

/// Settings that can be switched off as a whole: `off` or `false`, or the settings.
#[derive(Debug, Clone, PartialEq)]
pub enum Switch<T> {
    /// Off, written `off` or `false`.
    Off,
    /// Declared settings.
    On(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OffOrSettings<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OffOrSettings<T> {
            type Value = Switch<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off` or a mapping")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Switch<T>, E> {
                if on { Err(E::invalid_value(de::Unexpected::Bool(true), &self)) } else { Ok(Switch::Off) }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Switch<T>, E> {
                if text == "off" {
                    Ok(Switch::Off)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(text), &self))
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Switch::On)
            }
        }
        deserializer.deserialize_any(OffOrSettings(PhantomData))
    }
}

/// Boolean, written `true` or `on`, `false` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnOff(pub bool);

impl<'de> Deserialize<'de> for OnOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FromBoolOrWord;
        impl Visitor<'_> for FromBoolOrWord {
            type Value = OnOff;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true` or `off`")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<OnOff, E> {
                Ok(OnOff(on))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OnOff, E> {
                match text {
                    "on" => Ok(OnOff(true)),
                    "off" => Ok(OnOff(false)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(FromBoolOrWord)
    }
}

/// Settings that are on or off as a whole: `true` means their defaults.
#[derive(Debug, Clone, PartialEq)]
pub enum Toggle<T> {
    /// Off, written `off` or `false`.
    Off,
    /// On, written `on` or `true`, or the declared settings.
    On(T),
}

impl<T> Toggle<T> {
    /// Returns the settings, if they are on.
    pub fn settings(&self) -> Option<&T> {
        match self {
            Self::Off => None,
            Self::On(settings) => Some(settings),
        }
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Toggle<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OffOrOn<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for OffOrOn<T> {
            type Value = Toggle<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `true` or a mapping")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Toggle<T>, E> {
                Ok(if on { Toggle::On(T::default()) } else { Toggle::Off })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Toggle<T>, E> {
                match text {
                    "off" => Ok(Toggle::Off),
                    "on" => Ok(Toggle::On(T::default())),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Toggle<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Toggle::On)
            }
        }
        deserializer.deserialize_any(OffOrOn(PhantomData))
    }
}

/// Serializes values as the config writes them, for defaults in the schema.
macro_rules! serialize_as_text {
    ($($type:ty),*) => {
        $(impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        })*
    };
}

serialize_as_text!(Duration, Size, Statuses);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_alike() {
        for text in ["250ms", "1s", "90s", "5m", "1h", "0s", "1500ms", "1.5ms", "0.001ms", "1000.25ms"] {
            assert_eq!(Duration::parse(text).expect("a duration").to_string(), text);
        }
        for (text, same) in
            [("1m30s", "90s"), ("60s", "1m"), ("0.25s", "250ms"), ("0ms", "0s"), ("1.5h", "90m")]
        {
            assert_eq!(Duration::parse(text).expect("a duration").to_string(), same);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let most = "18446744073709549568s2047s999.9999999ms";
        for text in ["", "1", "s", "-1s", "1d", "1 s", "ms", "1s ", "1.2.3s", "999999999h", most] {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
    }

    #[test]
    fn statuses_are_one_or_a_range() {
        assert_eq!(Statuses::parse("200"), Some(Statuses(200, 200)));
        assert_eq!(Statuses::parse("200 - 299"), Some(Statuses(200, 299)));
        for text in ["", "2xx", "99", "600", "299-200", "200-", "-200", "200-600"] {
            assert_eq!(Statuses::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(Size::parse("64KiB"), Some(Size(65_536)));
        assert_eq!(Size::parse("8MiB"), Some(Size(8_388_608)));
        assert_eq!(Size::parse("17"), Some(Size(17)));
        for text in ["", "KiB", "1kb", "1MB", "-1", "99999999999GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }
}
