//! Selections of targets of an upstream, as operators write them.

use std::collections::BTreeSet;
use std::fmt;

use crate::config::near;
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

/// Selection of targets of an upstream: `10.0.0.1:8080`, `region=R`, `zone=Z`, `sub_zone=S` or `priority=N`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetSelector {
    /// Single target.
    Target(Address),
    /// All targets of a region.
    Region(String),
    /// All targets of a zone.
    Zone(String),
    /// All targets of a sub-zone.
    SubZone(String),
    /// All targets of a tier.
    Priority(u32),
}

/// Message and suggestion for a text that selects nothing.
pub type SelectorError = (String, String);

impl TargetSelector {
    /// Parses a selection that must match a target of the upstream.
    ///
    /// # Errors
    ///
    /// Returns a message and a suggestion if the text is not valid or matches no target of the upstream.
    pub fn parse(text: &str, upstream: &Upstream) -> Result<Self, SelectorError> {
        let selector = Self::read(text)?;
        if upstream.targets.iter().any(|target| selector.includes(target)) {
            Ok(selector)
        } else {
            Err(selector.absent_in(upstream))
        }
    }

    /// Parses a selection without a check against an upstream.
    ///
    /// # Errors
    ///
    /// Returns a message and a suggestion if the text is not valid.
    pub fn read(text: &str) -> Result<Self, SelectorError> {
        let selector = match text.split_once('=') {
            Some(("region", name)) => Self::Region(name.to_owned()),
            Some(("zone", name)) => Self::Zone(name.to_owned()),
            Some(("sub_zone", name)) => Self::SubZone(name.to_owned()),
            Some(("priority", number)) => Self::Priority(number.parse().map_err(|_| {
                let message = format!("`{number}` is no priority");
                (message, "priorities are numbers from 0, as in priority=0".to_owned())
            })?),
            Some((word, _)) => {
                let words = ["region", "zone", "sub_zone", "priority"];
                let help = match near(word, words).first() {
                    Some(word) => format!("did you mean `{word}=`?"),
                    None => "write a target, region=R, zone=Z, sub_zone=S or priority=N".to_owned(),
                };
                return Err((format!("`{word}` is nothing that can be down"), help));
            }
            None => Self::Target(Address::parse(text).map_err(|(message, help)| (message, help.to_owned()))?),
        };
        Ok(selector)
    }

    /// True if the selection includes this target.
    pub fn includes(&self, target: &Target) -> bool {
        match self {
            Self::Target(address) => target.address == *address,
            Self::Region(region) => target.locality.region == *region,
            Self::Zone(zone) => target.locality.zone == *zone,
            Self::SubZone(sub_zone) => target.locality.sub_zone == *sub_zone,
            Self::Priority(priority) => target.tier == *priority,
        }
    }

    fn absent_in(&self, upstream: &Upstream) -> SelectorError {
        let (kind, wanted, of): (_, _, fn(&Target) -> String) = match self {
            Self::Target(address) => ("target", address.to_string(), |target| target.address.to_string()),
            Self::Region(name) => ("region", name.clone(), |target| target.locality.region.clone()),
            Self::Zone(name) => ("zone", name.clone(), |target| target.locality.zone.clone()),
            Self::SubZone(name) => ("sub_zone", name.clone(), |target| target.locality.sub_zone.clone()),
            Self::Priority(number) => ("priority", number.to_string(), |target| target.tier.to_string()),
        };
        let there: BTreeSet<String> =
            upstream.targets.iter().map(of).filter(|name| !name.is_empty()).collect();
        let help = match near(&wanted, there.iter().map(String::as_str)).as_slice() {
            [] if there.is_empty() => format!("none of its targets has a {kind}"),
            [] => format!("there is {}", there.into_iter().take(8).collect::<Vec<_>>().join(", ")),
            words => format!("did you mean `{}`?", words.join("` or `")),
        };
        (format!("upstream `{}` has no {kind} `{wanted}` with traffic", upstream.name), help)
    }
}

impl fmt::Display for TargetSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(address) => address.fmt(f),
            Self::Region(name) => write!(f, "region={name}"),
            Self::Zone(name) => write!(f, "zone={name}"),
            Self::SubZone(name) => write!(f, "sub_zone={name}"),
            Self::Priority(number) => write!(f, "priority={number}"),
        }
    }
}

impl serde::Serialize for TargetSelector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TargetSelector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::read(&text).map_err(|(message, _)| serde::de::Error::custom(message))
    }
}
