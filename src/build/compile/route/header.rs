//! Changes of request and response headers.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use crate::model::header::HeaderChanges;

/// Returns the headers that are set, followed by those that are added. Envoy removes headers before it
/// applies either.
pub(super) fn added(changes: &HeaderChanges) -> Vec<core::HeaderValueOption> {
    let set = changes.set.iter().map(|(name, value)| set(name, value));
    let add =
        changes.add.iter().map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

/// Returns an option that sets a header to this value only.
pub(super) fn set(name: &str, value: &str) -> core::HeaderValueOption {
    option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd)
}

/// Encodes a header value. A `%` is doubled, since Envoy treats text between two `%` as a format command.
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
