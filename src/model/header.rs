//! Names and values of headers, and changes to them.

use std::collections::BTreeMap;

use crate::config::code;
use crate::config::document;
use crate::model::place::{FaultCollector, FaultPlace};

/// Maximum length in bytes. Envoy accepts twice as much, but each `%` is written to its config as two.
const LONGEST: usize = 8192;

/// Changes to the headers of a request or of a response: removals first, then `set`, then `add`. Names are in
/// lower case; values are literal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Headers that replace existing ones of the name.
    pub set: BTreeMap<String, String>,
    /// Headers that are added to existing ones of the name.
    pub add: BTreeMap<String, String>,
    /// Names of headers that are removed, with all their values.
    pub remove: Vec<String>,
}

impl HeaderChanges {
    pub(crate) fn resolve(
        place: &FaultPlace<'_>,
        declared: &document::route::HeaderChanges,
        faults: &mut FaultCollector,
    ) -> Self {
        for (index, text) in declared.remove.iter().enumerate() {
            changeable(&place.key("remove").index(index), text, faults);
        }
        Self {
            set: values(&place.key("set"), &declared.set, faults),
            add: values(&place.key("add"), &declared.add, faults),
            remove: declared.remove.iter().map(|name| name.to_ascii_lowercase()).collect(),
        }
    }
}

/// Resolves headers to be written, by name in lower case.
pub(crate) fn values(
    place: &FaultPlace<'_>,
    declared: &BTreeMap<String, String>,
    faults: &mut FaultCollector,
) -> BTreeMap<String, String> {
    for (text, value) in declared {
        changeable(&place.key(text), text, faults);
        if http::HeaderValue::from_bytes(value.as_bytes()).is_err() || value.len() > LONGEST {
            let help = format!("one line of text, of {LONGEST} bytes at most");
            faults.wrong(&place.key(text), format!("this cannot be the value of `{text}`"), help);
        }
    }
    by_lower_case(place, declared, faults)
}

/// Changes the keys to lower case. Header names ignore case, so two that differ only in case are a fault.
pub(crate) fn by_lower_case<V: Clone>(
    place: &FaultPlace<'_>,
    declared: &BTreeMap<String, V>,
    faults: &mut FaultCollector,
) -> BTreeMap<String, V> {
    let mut lower = BTreeMap::new();
    for (text, value) in declared {
        if lower.insert(text.to_ascii_lowercase(), value.clone()).is_some() {
            let message = format!("the header `{}` is here twice", text.to_ascii_lowercase());
            let help = "leave one; the case of letters makes no difference".to_owned();
            faults.error(&place.key(text), code::DUPLICATE_KEY, message, help);
        }
    }
    lower
}

/// Reports a text that is no valid header name.
pub(crate) fn name(place: &FaultPlace<'_>, text: &str, faults: &mut FaultCollector) {
    if http::HeaderName::from_bytes(text.as_bytes()).is_err() || text.len() > LONGEST {
        faults.wrong(place, format!("`{text}` is not the name of a header"), None);
    }
}

/// Reports headers that cannot be changed. Envoy changes the host by other settings and refuses it here.
fn changeable(place: &FaultPlace<'_>, text: &str, faults: &mut FaultCollector) {
    if text.eq_ignore_ascii_case("host") {
        let help = "the service's `host_header` says which host targets are told".to_owned();
        faults.wrong(place, "the header `host` is not changed here".to_owned(), help);
    }
    name(place, text, faults);
}
