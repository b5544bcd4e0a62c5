//! Versions that clients state.
//!
//! A version is the hash of the content; its text for clients also has the id of the store. So a control
//! plane recognizes an Envoy that runs the config of another store, and equal content is still equal.

use crate::build::snapshot::resource::{VERSION_DIGITS, Version};
use crate::build::snapshot::store_id::StoreId;

/// Version that a client states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedVersion {
    /// Version of the content.
    pub version: Version,
    /// Store that the client got it from; none if the control plane named none, as earlier releases.
    pub store: Option<StoreId>,
}

impl StatedVersion {
    /// Reads the text that a client states; none if no understudy wrote it.
    pub fn parse(text: &str) -> Option<Self> {
        let (version, store) = text.split_at_checked(VERSION_DIGITS)?;
        let store = if store.is_empty() { None } else { Some(StoreId::parse(store)?) };
        Some(Self { version: version.parse().ok()?, store })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    #[test]
    fn a_version_is_read_as_it_was_written() {
        let version = Version::of(&[b"a"]);
        let id = NonZeroU64::new(7).map(StoreId::new);
        for store in [None, id] {
            let text = version.text(store);
            assert_eq!(StatedVersion::parse(&text), Some(StatedVersion { version, store }), "{text}");
        }
        assert_eq!(id.map(|id| id.to_string()).as_deref(), Some("0000000000000007"));
    }

    #[test]
    fn versions_of_others_are_not_read() {
        let hash = Version::of(&[b"a"]).to_string();
        let foreign = ["", "1", "v1", &hash[1..], "2026-11-29T20:58:51.000000000Z/1", "ü"];
        for text in foreign.map(str::to_owned).into_iter().chain([
            format!("{hash}0"),
            format!("{hash}0000000000000000"),
            format!("{hash}000000000000000g"),
            format!("{hash}+000000000000001"),
            format!("+{}", &hash[1..]),
            format!("{hash}00000000000000001"),
        ]) {
            assert_eq!(StatedVersion::parse(&text), None, "{text}");
        }
    }
}
