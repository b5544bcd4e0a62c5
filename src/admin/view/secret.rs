//! Secrets in shown entities, replaced by their hashes.
//!
//! The hashes are keyed by the store: equal secrets of one store have equal hashes, and those of another store have
//! others, so a hash tells nobody if a guess is right.

use std::fmt;

use serde_json::{Map, Value};

use crate::access::random;
use crate::config::Path;
use crate::config::document::Kind;
use crate::config::secret;
use crate::store::{self, Record, Store};

/// Kind and key of the record that holds the key in the store.
const RECORD: (&str, &str) = ("hash_key", "secrets");

/// Number of hex digits of a shown hash.
const DIGITS: usize = 32;

/// Replaces secrets by their hashes, with the key of the store.
#[derive(Clone, Copy)]
pub struct SecretMask {
    key: [u8; blake3::KEY_LEN],
}

impl fmt::Debug for SecretMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretMask")
    }
}

impl SecretMask {
    /// Reads the key of the store, or makes one if the store has none yet.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read or written, or if the key is damaged.
    pub fn open(store: &dyn Store) -> Result<Self, store::Error> {
        if let Some(mask) = Self::read(store)? {
            return Ok(mask);
        }
        let value = Some(random::hex(&random::bytes::<{ blake3::KEY_LEN }>()).into());
        store.put_records(&[Record { kind: RECORD.0, key: RECORD.1.to_owned(), value }])?;
        // Another control plane may have made one at the same time.
        Self::read(store)?.ok_or_else(damaged)
    }

    fn read(store: &dyn Store) -> Result<Option<Self>, store::Error> {
        let mut records = store.records()?.into_iter();
        let Some((_, _, value)) = records.find(|(kind, key, _)| (&**kind, &**key) == RECORD) else {
            return Ok(None);
        };
        let key = value.as_str().and_then(|text| blake3::Hash::from_hex(text).ok()).ok_or_else(damaged)?;
        Ok(Some(Self { key: key.into() }))
    }

    /// Replaces the secrets of an entity.
    pub(crate) fn shown(self, kind: Kind, mut body: Value) -> Value {
        match kind {
            Kind::Raw | Kind::Certificate => self.masked(body),
            _ => {
                self.mask_headers(&mut body);
                body
            }
        }
    }

    /// Replaces the secrets of Envoy's JSON.
    pub(crate) fn masked(self, mut body: Value) -> Value {
        self.mask(&mut body, Hidden::Nothing);
        self.mask_headers(&mut body);
        body
    }

    fn mask(self, value: &mut Value, hidden: Hidden) {
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
                    self.mask(value, below);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask(item, hidden)),
            Value::String(text) if hidden == Hidden::All => *text = self.hash(text),
            _ => {}
        }
    }

    /// Replaces the values of headers that carry credentials: in mappings by name, in Envoy's pairs of `key` and
    /// `value`, and in Envoy's matchers of headers.
    pub(crate) fn mask_headers(self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                self.mask_pair(fields);
                for (key, value) in fields {
                    match value {
                        Value::Object(headers) if secret::is_header_map(key) => self.mask_map(headers),
                        value => self.mask_headers(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask_headers(item)),
            _ => {}
        }
    }

    /// Replaces the values of headers that carry credentials, by name.
    pub(crate) fn mask_map(self, headers: &mut Map<String, Value>) {
        for (name, value) in headers {
            match value {
                // As matchers these two ask if the header is there.
                Value::String(text) if matches!(text.as_str(), "*" | "!") => {}
                value if secret::is_header(name) => self.hide(value),
                value => self.mask_headers(value),
            }
        }
    }

    /// Replaces the value of a pair in Envoy's JSON, and the texts of a matcher.
    fn mask_pair(self, fields: &mut Map<String, Value>) {
        let is_of = |field: &str| fields.get(field).and_then(Value::as_str).is_some_and(secret::is_header);
        let (is_pair, is_matcher) = (is_of("key"), is_of("name"));
        for (field, value) in fields {
            let is_value = matches!(field.as_str(), "value" | "raw_value" | "rawValue");
            let is_match = field.ends_with("_match") || field.ends_with("Match");
            if (is_pair && is_value) || (is_matcher && is_match) {
                self.hide(value);
            }
        }
    }

    /// Replaces all texts that are not replaced yet.
    fn hide(self, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.values_mut().for_each(|value| self.hide(value)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide(item)),
            Value::String(text) if !is_hash(text) => *text = self.hash(text),
            _ => {}
        }
    }

    /// Puts the secrets of `known` back where `body` has their hashes, so that what a client has read can be written back.
    pub(crate) fn unmask(self, body: &mut Value, known: &Value) {
        match (body, known) {
            (Value::Object(fields), Value::Object(known)) => {
                for (key, value) in fields {
                    if let Some(known) = known.get(key) {
                        self.unmask(value, known);
                    }
                }
            }
            (Value::Array(items), Value::Array(known)) => {
                items.iter_mut().zip(known).for_each(|(item, known)| self.unmask(item, known));
            }
            (Value::String(text), Value::String(known)) if *text == self.hash(known) => {
                text.clone_from(known)
            }
            _ => {}
        }
    }

    fn hash(self, secret: &str) -> String {
        let hash = blake3::keyed_hash(&self.key, secret.as_bytes());
        format!("[hash {}]", &hash.to_hex()[..DIGITS])
    }
}

fn damaged() -> store::Error {
    store::Error::Damaged { key: format!("{}/{}", RECORD.0, RECORD.1) }
}

/// Texts of an object that are secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Nothing,
    /// Texts that are given inline.
    Inline,
    All,
}

fn is_hash(text: &str) -> bool {
    let digits = text.strip_prefix("[hash ").and_then(|text| text.strip_suffix(']'));
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|it| it.is_ascii_hexdigit()))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MASK: SecretMask = SecretMask { key: [7; blake3::KEY_LEN] };

    #[test]
    fn equal_secrets_have_equal_hashes_in_one_store_and_others_in_another() {
        let secret = json!({"headers": {"authorization": "private", "cookie": "private"}});
        let shown = MASK.shown(Kind::Route, secret.clone());
        assert_eq!(shown["headers"]["authorization"], shown["headers"]["cookie"]);
        let other = SecretMask { key: [8; blake3::KEY_LEN] };
        assert_ne!(other.shown(Kind::Route, secret.clone()), shown);
        // A hash of another store stands for nothing.
        let mut foreign = shown.clone();
        other.unmask(&mut foreign, &secret);
        assert_eq!(foreign, shown);
        assert!(!format!("{MASK:?}").contains('7'));
    }

    #[test]
    fn secrets_are_shown_by_their_hash_and_can_be_written_back() {
        let secret = json!({"name": "a", "tls_certificate": {
            "certificate_chain": {"inline_string": "public"}, "private_key": {"inline_string": "private"}}});
        let mut shown = MASK.masked(secret.clone());
        assert_eq!(shown["tls_certificate"]["certificate_chain"]["inline_string"], "public");
        assert!(!shown.to_string().contains("private\""), "{shown}");
        MASK.unmask(&mut shown, &secret);
        assert_eq!(shown, secret);
        let filter = json!({"users": {"inlineString": "private"}, "credentials": [{"key": "private", "client": "a"}],
            "credential_provider": {"inline_credential": {"access_key_id": "a", "secretAccessKey": "private"}},
            "metadata": {"key": "public"}, "password": {"filename": "public"}});
        let mut shown = MASK.masked(filter.clone());
        assert!(!shown.to_string().contains("private"), "{shown}");
        assert_eq!(shown.to_string().matches("public").count(), 2, "{shown}");
        MASK.unmask(&mut shown, &filter);
        assert_eq!(shown, filter);
        let headers = json!({"name": "cookie", "headers": {"Cookie": "private", "x-env": "public", "x-token": "*"},
            "request_headers": {"set": {"X-Api-Key": "private", "x-env": "public"}, "add": {"x-auth-token": "private"}},
            "health_check": {"http": {"headers": {"authorization": "private"}}}, "match": {"prefix": "/public"}});
        let mut shown = MASK.shown(Kind::Route, headers.clone());
        assert!(!shown.to_string().contains("private"), "{shown}");
        assert_eq!(shown.to_string().matches("public").count(), 3, "{shown}");
        MASK.unmask(&mut shown, &headers);
        assert!(find_hash(&shown, &Path::default()).is_none());
        assert_eq!(shown, headers);
        let envoys = json!({"match": {"prefix": "/public", "headers": [
                {"name": "Authorization", "string_match": {"exact": "private"}, "invert_match": true},
                {"name": "cookie", "stringMatch": {"safeRegex": {"regex": "private"}}}]},
            "request_headers_to_add": [{"header": {"key": "set-cookie", "value": "private"}, "append_action": "ADD"},
                {"header": {"key": "x-env", "value": "public"}}]});
        let shown = MASK.masked(envoys);
        assert!(
            !shown.to_string().contains("private") && find_hash(&shown, &Path::default()).is_some(),
            "{shown}"
        );
        assert_eq!(shown.to_string().matches("public").count(), 2, "{shown}");
        let ours = json!({"name": "a", "certificate": {"inline": "public"}, "key": {"inline": "private"}});
        let shown = MASK.masked(ours.clone());
        assert_eq!((&shown["certificate"], shown["key"] != ours["key"]), (&ours["certificate"], true));
    }
}
