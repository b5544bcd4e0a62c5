//! Tokens of the API, without their texts.

use schemars::JsonSchema;
use serde::Serialize;

use crate::access::tokens::Token;

/// Token.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TokenView {
    /// Name of its holder.
    pub(crate) name: String,
    /// Permissions: `read`, `operate` or `write`.
    pub(crate) role: &'static str,
    /// Time of creation.
    pub(crate) created: String,
}

impl From<&Token> for TokenView {
    fn from(token: &Token) -> Self {
        Self { name: token.name.clone(), role: token.role.word(), created: token.created.to_string() }
    }
}

/// New token, with its text. No other response has that.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NewTokenView {
    #[serde(flatten)]
    pub(crate) stored: TokenView,
    /// Text to send as `Authorization: Bearer …`.
    pub(crate) token: String,
}
