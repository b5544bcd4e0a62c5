//! Secrets in shown entities, replaced by their hashes.

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_128;

use crate::config::Path;
use crate::config::document::Kind;
use crate::config::secret;

/// Replaces the secrets of an entity by their hashes.
pub(crate) fn shown(kind: Kind, mut body: Value) -> Value {
    match kind {
        Kind::Raw | Kind::Certificate => masked(body),
        _ => {
            mask_headers(&mut body);
            body
        }
    }
}

/// Texts of an object that are secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Nothing,
    /// Texts that are given inline.
    Inline,
    All,
}

/// Replaces the secrets of Envoy's JSON by their hashes.
pub(crate) fn masked(mut body: Value) -> Value {
    mask(&mut body, Hidden::Nothing);
    mask_headers(&mut body);
    body
}

fn mask(value: &mut Value, hidden: Hidden) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let below = match value {
                    _ if hidden == Hidden::All => Hidden::All,
                    Value::String(_) if secret::is_text(key) => Hidden::All,
                    Value::String(_) if hidden == Hidden::Inline && secret::is_inline(key) => Hidden::All,
                    _ if secret::is_data_source(key) => Hidden::Inline,
                    _ if secret::is_text(key) => Hidden::All,
                    _ => hidden,
                };
                mask(value, below);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, hidden)),
        Value::String(text) if hidden == Hidden::All => *text = hash(text),
        _ => {}
    }
}

/// Replaces the values of headers that carry credentials: in mappings by name, in Envoy's pairs of `key` and
/// `value`, and in Envoy's matchers of headers.
pub(crate) fn mask_headers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            mask_pair(fields);
            for (key, value) in fields {
                match value {
                    Value::Object(headers) if secret::is_header_map(key) => mask_map(headers),
                    value => mask_headers(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_headers),
        _ => {}
    }
}

/// Replaces the values of headers that carry credentials, by name.
pub(crate) fn mask_map(headers: &mut Map<String, Value>) {
    for (name, value) in headers {
        match value {
            // As matchers these two ask if the header is there.
            Value::String(text) if matches!(text.as_str(), "*" | "!") => {}
            value if secret::is_header(name) => hide(value),
            value => mask_headers(value),
        }
    }
}

/// Replaces the value of a pair in Envoy's JSON, and the texts of a matcher.
fn mask_pair(fields: &mut Map<String, Value>) {
    let is_of = |field: &str| fields.get(field).and_then(Value::as_str).is_some_and(secret::is_header);
    let (is_pair, is_matcher) = (is_of("key"), is_of("name"));
    for (field, value) in fields {
        let is_value = matches!(field.as_str(), "value" | "raw_value" | "rawValue");
        let is_match = field.ends_with("_match") || field.ends_with("Match");
        if (is_pair && is_value) || (is_matcher && is_match) {
            hide(value);
        }
    }
}

/// Replaces all texts that are not replaced yet.
fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::String(text) if !is_hash(text) => *text = hash(text),
        _ => {}
    }
}

fn hash(secret: &str) -> String {
    format!("[hash {:032x}]", xxh3_128(secret.as_bytes()))
}

fn is_hash(text: &str) -> bool {
    let digits = text.strip_prefix("[hash ").and_then(|text| text.strip_suffix(']'));
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|it| it.is_ascii_hexdigit()))
}

/// Returns the path below `path` of a hash that stands where a secret should: it was shown for another secret, or
/// elsewhere.
pub(crate) fn find_hash(value: &Value, path: &Path) -> Option<Path> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| find_hash(value, &path.key(key))),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, value)| find_hash(value, &path.index(index)))
        }
        Value::String(text) => is_hash(text).then(|| path.clone()),
        _ => None,
    }
}

/// Puts the secrets of `known` back where `body` has their hashes, so that what a client has read can be written back.
pub(crate) fn unmask(body: &mut Value, known: &Value) {
    match (body, known) {
        (Value::Object(fields), Value::Object(known)) => {
            for (key, value) in fields {
                if let Some(known) = known.get(key) {
                    unmask(value, known);
                }
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            items.iter_mut().zip(known).for_each(|(item, known)| unmask(item, known));
        }
        (Value::String(text), Value::String(known)) if *text == hash(known) => text.clone_from(known),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_shown_by_their_hash_and_can_be_written_back() {
        let secret = json!({"name": "a", "tls_certificate": {
            "certificate_chain": {"inline_string": "public"}, "private_key": {"inline_string": "private"}}});
        let mut shown = masked(secret.clone());
        assert_eq!(shown["tls_certificate"]["certificate_chain"]["inline_string"], "public");
        assert!(!shown.to_string().contains("private\""), "{shown}");
        unmask(&mut shown, &secret);
        assert_eq!(shown, secret);
        let filter = json!({"users": {"inlineString": "private"}, "credentials": [{"key": "private", "client": "a"}],
            "credential_provider": {"inline_credential": {"access_key_id": "a", "secretAccessKey": "private"}},
            "metadata": {"key": "public"}, "password": {"filename": "public"}});
        let mut shown = masked(filter.clone());
        assert!(!shown.to_string().contains("private"), "{shown}");
        assert_eq!(shown.to_string().matches("public").count(), 2, "{shown}");
        unmask(&mut shown, &filter);
        assert_eq!(shown, filter);
        let headers = json!({"name": "cookie", "headers": {"Cookie": "private", "x-env": "public", "x-token": "*"},
            "request_headers": {"set": {"X-Api-Key": "private", "x-env": "public"}, "add": {"x-auth-token": "private"}},
            "health_check": {"http": {"headers": {"authorization": "private"}}}, "match": {"prefix": "/public"}});
        let mut shown = super::shown(Kind::Route, headers.clone());
        assert!(!shown.to_string().contains("private"), "{shown}");
        assert_eq!(shown.to_string().matches("public").count(), 3, "{shown}");
        unmask(&mut shown, &headers);
        assert!(find_hash(&shown, &Path::default()).is_none());
        assert_eq!(shown, headers);
        let envoys = json!({"match": {"prefix": "/public", "headers": [
                {"name": "Authorization", "string_match": {"exact": "private"}, "invert_match": true},
                {"name": "cookie", "stringMatch": {"safeRegex": {"regex": "private"}}}]},
            "request_headers_to_add": [{"header": {"key": "set-cookie", "value": "private"}, "append_action": "ADD"},
                {"header": {"key": "x-env", "value": "public"}}]});
        let shown = masked(envoys);
        assert!(
            !shown.to_string().contains("private") && find_hash(&shown, &Path::default()).is_some(),
            "{shown}"
        );
        assert_eq!(shown.to_string().matches("public").count(), 2, "{shown}");
        let ours = json!({"name": "a", "certificate": {"inline": "public"}, "key": {"inline": "private"}});
        let shown = masked(ours.clone());
        assert_eq!((&shown["certificate"], shown["key"] != ours["key"]), (&ours["certificate"], true));
    }
}
