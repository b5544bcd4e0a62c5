//! What is done to headers on their way.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use crate::model::header::HeaderChanges;

/// Those that are set and those that are added, in this order. Envoy removes before it does either.
pub(super) fn added(changes: &HeaderChanges) -> Vec<core::HeaderValueOption> {
    let set = changes.set.iter().map(|(name, value)| set(name, value));
    let add =
        changes.add.iter().map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

/// A header with this value only.
pub(super) fn set(name: &str, value: &str) -> core::HeaderValueOption {
    option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd)
}

/// Envoy takes what stands between two `%` for a command, and a doubled one for itself.
fn option(name: &str, value: &str, action: HeaderAppendAction) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.to_owned(),
            value: value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: action.into(),
        keep_empty_value: value.is_empty(),
        ..Default::default()
    }
}
