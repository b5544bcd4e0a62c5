//! Positions of secrets in documents. A message about such a position says only that a value is there.

use std::borrow::Cow;

use serde_json::Value;

use crate::config::Fault;
use crate::config::{Path, Step};

/// Keys below which an inline value (see [`is_inline`]) is a secret: private keys of certificates, and fields
/// that Envoy's descriptors mark as sensitive.
const DATA_SOURCES: [&str; 21] = [
    "key",
    "private_key",
    "pkcs12",
    "password",
    "keys",
    "session_ticket_keys",
    "generic_secret",
    "secret",
    "secrets",
    "secret_data",
    "hmac_secret",
    "token_secret",
    "client_secret",
    "users",
    "auth_username",
    "auth_password",
    "downstream_auth_username",
    "downstream_auth_password",
    "downstream_auth_passwords",
    "web_identity_token_data_source",
    "credentials_data_source",
];

/// Keys below which all text is secret.
const TEXTS: [&str; 10] = [
    "secret",
    "secret_access_key",
    "session_token",
    "access_token",
    "backend_token",
    "google_refresh_token",
    "authorization_token",
    "credentials",
    "context_extensions",
    "private_key_provider",
];

/// Keys of inline values, as opposed to values in files.
const INLINE: [&str; 3] = ["inline", "inline_string", "inline_bytes"];

/// Headers whose values are credentials, in lower case.
const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// Keys of mappings from the name of a header to its value.
const HEADER_MAPS: [&str; 3] = ["headers", "set", "add"];

/// True for the name of a header whose values are credentials, such as `Authorization`, `x-api-key` and
/// `x-auth-token`.
pub fn is_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_like = |ending: &str| name.ends_with(ending);
    HEADERS.contains(&&*name)
        || is_like("-token")
        || is_like("-secret")
        || name.contains("api-key")
        || name.contains("apikey")
}

/// True for the key of a mapping from the name of a header to its value.
pub fn is_header_map(key: &str) -> bool {
    HEADER_MAPS.contains(&key)
}

/// Converts the JSON spelling of a key, such as `inlineString`, to snake case.
fn snake(key: &str) -> Cow<'_, str> {
    if !key.contains(|c: char| c.is_ascii_uppercase()) {
        return key.into();
    }
    let mut snake = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake.into()
}

/// True for the key of an inline value.
pub fn is_inline(key: &str) -> bool {
    INLINE.contains(&&*snake(key))
}

/// True if inline values below this key are secrets.
pub fn is_data_source(key: &str) -> bool {
    DATA_SOURCES.contains(&&*snake(key))
}

/// True if all text below this key is secret.
pub fn is_text(key: &str) -> bool {
    TEXTS.contains(&&*snake(key))
}

/// Iterates over the keys that may be followed by a secret in a source line, in both spellings.
pub(super) fn keys() -> impl Iterator<Item = String> {
    INLINE.into_iter().chain(TEXTS).flat_map(spellings)
}

/// Iterates over the keys that should be followed by a mapping with a data source, in both spellings.
pub(super) fn data_sources() -> impl Iterator<Item = String> {
    DATA_SOURCES.into_iter().flat_map(spellings)
}

fn spellings(key: &str) -> [String; 2] {
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    [key.to_owned(), words.fold(first, |key, word| key + &word[..1].to_ascii_uppercase() + &word[1..])]
}

/// True if Envoy's JSON has the text of a secret: a private key, or another value that is marked as sensitive.
/// Headers that carry credentials do not count.
pub fn is_in(body: &Value) -> bool {
    has_text(body, SecretTexts::None)
}

/// Texts of a value that are secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SecretTexts {
    None,
    /// Texts that are given inline.
    Inline,
    All,
}

fn has_text(value: &Value, secret: SecretTexts) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            let below = match secret {
                SecretTexts::All => SecretTexts::All,
                _ if is_text(key) => SecretTexts::All,
                SecretTexts::Inline if is_inline(key) => SecretTexts::All,
                _ if is_data_source(key) => SecretTexts::Inline,
                other => other,
            };
            has_text(value, below)
        }),
        Value::Array(items) => items.iter().any(|item| has_text(item, secret)),
        Value::String(text) => secret == SecretTexts::All && !text.is_empty(),
        _ => false,
    }
}

/// True if a text at this path may be a secret, even a misplaced one.
pub fn may_be_at(path: &Path) -> bool {
    let is_secret = |step: &Step| match step {
        Step::Key(key) => is_inline(key) || is_data_source(key) || is_text(key),
        Step::Index(_) => false,
    };
    let is_header_value = |pair: &[Step]| match pair {
        [Step::Key(map), Step::Key(name)] => is_header_map(map) && is_header(name),
        _ => false,
    };
    path.0.iter().any(is_secret) || path.0.windows(2).any(is_header_value)
}

/// Removes the found value from the message of a fault if it may be a secret.
pub(super) fn discreet(mut fault: Fault) -> Fault {
    if may_be_at(&fault.path)
        && let Some((expected, found)) = fault.message.split_once(", found ")
        && (found.starts_with('`') || found.starts_with("the "))
    {
        // The message contains the text or number itself, not only its type.
        fault.message = format!("{expected}, found something else");
        fault.help = fault.help.filter(|help| !help.contains("quote"));
    }
    fault
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_of_secrets_are_found_wherever_they_are() {
        for (body, expected) in [
            (json!({"name": "web"}), false),
            (json!({"private_key": {"inline_string": "PEM"}}), true),
            (json!({"filters": [{"typed_config": {"privateKey": {"inlineBytes": "UEVN"}}}]}), true),
            (json!({"private_key": {"filename": "/etc/key.pem"}}), false),
            (json!({"private_key": {"inline_string": ""}}), false),
            (json!({"certificate_chain": {"inline_string": "PEM"}}), false),
            (json!({"trusted_ca": {"inline_string": "PEM"}}), false),
            (json!({"session_ticket_keys": {"keys": [{"inline_bytes": "AAAA"}]}}), true),
            (json!({"credentials": {"token": "hush"}}), true),
            (json!({"request_headers_to_add": [{"header": {"key": "authorization", "value": "x"}}]}), false),
        ] {
            assert_eq!(is_in(&body), expected, "{body}");
        }
    }
}
