//! Access control of the admin API: tokens, their roles, and the role that each request needs.
//!
//! A token is random, so its plain hash reveals nothing about it: the store keeps only the hash, and the text
//! is shown once, when the token is made.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::store::{self, Store, TokenRecord};

/// Permissions of a token. Each role includes the permissions of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Read everything but secrets.
    Read,
    /// Also move traffic: drain, drill, fail back, pin, reload.
    Operate,
    /// Also change the config, make tokens and take backups.
    Write,
}

impl Role {
    const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Write];

    /// Returns the name of the role in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Write => "write",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.word() == word);
        found.ok_or_else(|| format!("`{word}` is no role; the roles are `read`, `operate` and `write`"))
    }
}

/// Prefix of every token, so that a leaked token is recognized.
const PREFIX: &str = "understudy_";

/// Text of a token. It is not shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[a token]")
    }
}

impl Secret {
    /// Creates a token from random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random.iter().fold(PREFIX.to_owned(), |text, byte| text + &format!("{byte:02x}")))
    }

    /// Takes the text that a client sent, without surrounding whitespace.
    pub fn from_text(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// Returns the text, to be shown once or sent.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns the hash that is kept of the token.
    pub fn hash(&self) -> blake3::Hash {
        blake3::hash(self.0.as_bytes())
    }
}

/// Token, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Name of its owner, which becomes the author of the revisions made with it.
    pub name: String,
    /// Permissions.
    pub role: Role,
    /// Time of creation.
    pub created: Timestamp,
    /// Hash of its text.
    pub hash: blake3::Hash,
}

impl Token {
    /// Returns the record of the token in the store.
    pub fn to_record(&self) -> TokenRecord {
        TokenRecord {
            name: self.name.clone(),
            role: self.role.word().to_owned(),
            created: self.created,
            hash: self.hash.as_bytes().to_vec(),
        }
    }

    /// Returns the token of a record; none if the record is damaged.
    fn from_record(record: &TokenRecord) -> Option<Self> {
        Some(Self {
            name: record.name.clone(),
            role: record.role.parse().ok()?,
            created: record.created,
            hash: blake3::Hash::from_slice(&record.hash).ok()?,
        })
    }
}

/// Returns the tokens in the store, by name.
///
/// # Errors
///
/// Fails if the store cannot be read, or a record is damaged.
pub fn stored(store: &dyn Store) -> Result<Vec<Token>, store::Error> {
    let token = |record: TokenRecord| {
        let damaged = || store::Error::Damaged { key: format!("tokens/{}", record.name) };
        Token::from_record(&record).ok_or_else(damaged)
    };
    store.tokens()?.into_iter().map(token).collect()
}

/// True if a token may have this name: 1 to 63 ASCII letters, digits and `-_.@:`, since it is shown in
/// revisions, logs and metrics.
pub fn is_name(name: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':');
    (1..=63).contains(&name.len()) && name.chars().all(is_fine)
}

/// Finds the token with this text. The time does not depend on which token matches or how much of a wrong
/// text is right: hashes are compared in constant time, and always all of them.
pub fn find<'t>(tokens: &'t [Token], secret: &Secret) -> Option<&'t Token> {
    let hash = secret.hash();
    tokens.iter().fold(None, |found, token| if token.hash == hash { Some(token) } else { found })
}

/// Returns the role that a request needs, by its method and the template of its path; none for liveness and
/// readiness, which need no token.
pub fn needed(method: &str, route: &str) -> Option<Role> {
    let is_read = matches!(method, "GET" | "HEAD" | "OPTIONS");
    let last = route.rsplit('/').find(|segment| !segment.starts_with('{')).unwrap_or_default();
    match route {
        "/livez" | "/readyz" => None,
        "/backup" | "/tokens" | "/tokens/{name}" => Some(Role::Write),
        "/simulate" | "/plan" => Some(Role::Read),
        "/notify/test" => Some(Role::Operate),
        _ if is_read => Some(Role::Read),
        _ if route.starts_with("/raw/") => Some(Role::Write),
        _ if matches!(last, "state" | "drill" | "drills" | "failback" | "pin" | "reload") => {
            Some(Role::Operate)
        }
        _ => Some(Role::Write),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_needs_a_role() {
        let cases = [
            ("GET", "/upstreams", Some(Role::Read)),
            ("HEAD", "/upstreams/{name}", Some(Role::Read)),
            ("POST", "/upstreams", Some(Role::Write)),
            ("PATCH", "/config", Some(Role::Write)),
            ("POST", "/revisions/{number}/rollback", Some(Role::Write)),
            ("POST", "/simulate", Some(Role::Read)),
            ("POST", "/plan", Some(Role::Read)),
            ("PUT", "/upstreams/{name}/targets/{target}/state", Some(Role::Operate)),
            ("PUT", "/upstreams/{name}/targets/{target}", Some(Role::Write)),
            ("POST", "/upstreams/{name}/drill", Some(Role::Operate)),
            ("DELETE", "/drills/{id}", Some(Role::Operate)),
            ("POST", "/upstreams/{name}/failback", Some(Role::Operate)),
            ("DELETE", "/upstreams/{name}/pin", Some(Role::Operate)),
            ("POST", "/reload", Some(Role::Operate)),
            ("PUT", "/raw/{type}/{*name}", Some(Role::Write)),
            ("GET", "/backup", Some(Role::Write)),
            ("GET", "/tokens", Some(Role::Write)),
            ("GET", "/livez", None),
            ("GET", "/readyz", None),
            ("GET", "/metrics", Some(Role::Read)),
            // Unknown paths need a role too, so that a client without a token cannot find out which paths
            // exist.
            ("GET", "other", Some(Role::Read)),
            ("BREW", "other", Some(Role::Write)),
        ];
        for (method, route, role) in cases {
            assert_eq!(needed(method, route), role, "{method} {route}");
        }
    }

    #[test]
    fn a_token_is_found_by_its_text_alone_and_shows_nothing_of_it() {
        let secrets = [1, 2, 3].map(|byte| Secret::new([byte; 32]));
        let token = |secret: &Secret| Token {
            name: "ci".to_owned(),
            role: Role::Write,
            created: Timestamp::UNIX_EPOCH,
            hash: secret.hash(),
        };
        let tokens = [token(&secrets[0]), token(&secrets[1])];
        assert_eq!(find(&tokens, &secrets[1]), Some(&tokens[1]));
        assert_eq!(find(&tokens, &secrets[2]), None);
        assert_eq!(find(&tokens, &Secret::from_text("")), None);
        assert!(!format!("{:?} {:?}", secrets[0], tokens).contains("0101"), "{tokens:?}");
        assert_eq!(Secret::from_text(&format!(" {}\n", secrets[0].reveal())), secrets[0]);
    }

    #[test]
    fn a_name_can_be_shown_anywhere() {
        for (name, fine) in
            [("ci", true), ("eve@example.com", true), ("", false), ("a b", false), ("a\n", false)]
        {
            assert_eq!(is_name(name), fine, "{name:?}");
        }
        assert!(!is_name(&"x".repeat(64)));
    }
}
