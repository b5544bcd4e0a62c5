//! Secrets in shown entities, replaced by their hashes.

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_128;

use crate::config::document::Kind;
use crate::config::secret;

/// Replaces the secrets of an entity by their hashes.
pub(crate) fn shown(kind: Kind, body: Value) -> Value {
    match kind {
        Kind::Raw | Kind::Certificate => masked(body),
        _ => body,
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

fn hash(secret: &str) -> String {
    format!("[hash {:032x}]", xxh3_128(secret.as_bytes()))
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
        let ours = json!({"name": "a", "certificate": {"inline": "public"}, "key": {"inline": "private"}});
        let shown = masked(ours.clone());
        assert_eq!((&shown["certificate"], shown["key"] != ours["key"]), (&ours["certificate"], true));
    }
}
