//! Where secrets stand in what people write: what is told of such places is that something stands there.

use std::borrow::Cow;

use crate::config::tree::Fault;
use crate::config::{Path, Step};

/// Below these a value that stands in line (see [`is_inline`]) is a secret: keys of certificates, and what Envoy's
/// descriptors call sensitive.
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

/// All text below these is a secret.
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

/// How it is said that a value stands there itself and not in a file.
const INLINE: [&str; 3] = ["inline", "inline_string", "inline_bytes"];

/// How Envoy spells it that writes `inlineString`.
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

/// True for the key of a value that stands there itself and not in a file.
pub fn is_inline(key: &str) -> bool {
    INLINE.contains(&&*snake(key))
}

/// True where values that stand in line below this key are secrets.
pub fn is_data_source(key: &str) -> bool {
    DATA_SOURCES.contains(&&*snake(key))
}

/// True where all text below this key is secret.
pub fn is_text(key: &str) -> bool {
    TEXTS.contains(&&*snake(key))
}

/// All keys behind which a line of source may hold a secret, in both spellings.
pub(super) fn keys() -> impl Iterator<Item = String> {
    INLINE.into_iter().chain(TEXTS).flat_map(spellings)
}

/// The same of those behind which a mapping should stand.
pub(super) fn data_sources() -> impl Iterator<Item = String> {
    DATA_SOURCES.into_iter().flat_map(spellings)
}

fn spellings(key: &str) -> [String; 2] {
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    [key.to_owned(), words.fold(first, |key, word| key + &word[..1].to_ascii_uppercase() + &word[1..])]
}

/// True where a text that stands there, whether it belongs there or not, may be a secret.
pub fn may_be_at(path: &Path) -> bool {
    path.0.iter().any(|step| match step {
        Step::Key(key) => is_inline(key) || is_data_source(key) || is_text(key),
        Step::Index(_) => false,
    })
}

/// The fault without what was found, where that may be a secret.
pub(super) fn discreet(mut fault: Fault) -> Fault {
    if may_be_at(&fault.path)
        && let Some((expected, found)) = fault.message.split_once(", found ")
        && (found.starts_with('`') || found.starts_with("the "))
    {
        // It says which text or number it is, and not only what kind of value.
        fault.message = format!("{expected}, found something else");
        fault.help = fault.help.filter(|help| !help.contains("quote"));
    }
    fault
}
