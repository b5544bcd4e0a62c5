//! Values of the admin API's JSON as text for people.

use serde_json::Value;

use crate::cli::output::table;
use crate::config::printable::printable;

/// Formats a value as one printable cell: `-` for null, the elements of a list separated by commas.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text).into_owned(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Formats a time to the second.
pub(crate) fn time(value: &Value) -> String {
    let parsed = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    parsed.map_or_else(|| text(value), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Returns the elements of a list; none for any other value.
pub(crate) fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Formats these fields of each element as a table, or `none` for an empty list.
pub(crate) fn field_table(list: &Value, fields: &[&str]) -> String {
    let cell = |item: &Value, field: &str| match field {
        "start" | "end" | "started" => time(&item[field]),
        field => text(&item[field]),
    };
    match items(list) {
        [] => "none".to_owned(),
        items => {
            table(fields, items.iter().map(|item| fields.iter().map(|field| cell(item, field)).collect()))
        }
    }
}
