//! Admission of requests to the admin API: the policy of its port, the token of the client, and the rate of that
//! token. The HTTP of it is in `admin::http::guard`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use crate::access::rate::Bucket;
use crate::access::tokens::{self, Role, Token, TokenSecret};

/// Name of a client without a token.
const ANONYMOUS: &str = "anonymous";

/// Openness of the admin port.
#[derive(Debug, Clone, Copy)]
pub struct AccessPolicy {
    /// True if the port is on loopback, so that only this machine reaches it.
    pub loopback: bool,
    /// True if the port speaks TLS.
    pub tls: bool,
    /// True if a token is required whatever the port.
    pub require_token: bool,
    /// Number of requests a second that each token may make; as many at once.
    pub requests_per_second: u32,
}

/// Policy, tokens and rates of the admin port.
#[derive(Debug)]
pub struct Access {
    policy: AccessPolicy,
    tokens: Mutex<Arc<[Token]>>,
    /// Rates by the name of a token; the empty name stands for all failed authentications.
    buckets: Mutex<HashMap<String, Bucket>>,
}

/// Authenticated client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name of the token, which becomes the author of revisions; `anonymous` without a token.
    pub name: String,
    /// Permissions.
    pub role: Role,
}

impl Principal {
    /// Returns the principal of a request that needs no token.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), role: Role::Write }
    }

    /// Checks that it has this role.
    ///
    /// # Errors
    ///
    /// Returns [`Denial::Role`] if it lacks permission.
    pub fn require(&self, needed: Role) -> Result<(), Denial> {
        if self.role < needed {
            let (name, role) = (self.name.clone(), self.role.word());
            return Err(Denial::Role { name, role, needed: needed.word() });
        }
        Ok(())
    }
}

/// Reason for which a client is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A token is required, and the request has none.
    #[error("this needs a token: send `Authorization: Bearer …`")]
    NoToken,
    /// The request has a text that is no token, or that of a revoked one.
    #[error("this is no token, or it was revoked")]
    WrongToken,
    /// The token lacks permission.
    #[error("the token `{name}` has the role `{role}`, and this needs `{needed}`")]
    Role {
        /// Name of the token.
        name: String,
        /// Role of the token.
        role: &'static str,
        /// Role that the request needs.
        needed: &'static str,
    },
    /// The token made too many requests.
    #[error("more than {requests_per_second} requests a second; try again in {retry_after} s")]
    Rate {
        /// Allowed rate.
        requests_per_second: u32,
        /// Time until the next request is allowed, in seconds.
        retry_after: u64,
    },
}

impl Access {
    /// Creates the access control of a port with these tokens.
    pub fn new(policy: AccessPolicy, tokens: Vec<Token>) -> Self {
        let access = Self { policy, tokens: Mutex::new(tokens.into()), buckets: Mutex::default() };
        if access.is_required() && access.tokens().is_empty() {
            warn!(
                "there is no token yet, so nobody can use the admin API; make one with `understudy token create`"
            );
        }
        if !policy.loopback && !access.is_required() {
            warn!("anyone who reaches the admin API may read all and change all; make a token to end that");
        }
        access
    }

    /// Returns the tokens.
    pub fn tokens(&self) -> Arc<[Token]> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the tokens by those that are stored now.
    pub fn replace_tokens(&self, tokens: Vec<Token>) {
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = tokens.into();
    }

    /// True if the port is on loopback.
    pub fn is_loopback(&self) -> bool {
        self.policy.loopback
    }

    /// True if no request is admitted without a token.
    pub fn is_required(&self) -> bool {
        let AccessPolicy { loopback, tls, require_token, .. } = self.policy;
        require_token || (!loopback && (tls || !self.tokens().is_empty()))
    }

    /// Returns the client of a request that needs this role. `secret` is the token that it sent; none if it sent
    /// no credentials.
    ///
    /// # Errors
    ///
    /// Returns the reason for which it is not admitted.
    pub fn admit(&self, secret: Option<&TokenSecret>, needed: Role) -> Result<Principal, Denial> {
        let principal = self.authenticate(secret).inspect_err(|_| drop(self.spend("")))?;
        self.spend(&principal.name)?;
        principal.require(needed)?;
        Ok(principal)
    }

    fn authenticate(&self, secret: Option<&TokenSecret>) -> Result<Principal, Denial> {
        let Some(secret) = secret else {
            return if self.is_required() { Err(Denial::NoToken) } else { Ok(Principal::anonymous()) };
        };
        let tokens = self.tokens();
        let token = tokens::find(&tokens, secret).ok_or(Denial::WrongToken)?;
        Ok(Principal { name: token.name.clone(), role: token.role })
    }

    /// Takes one request from the rate of a token.
    fn spend(&self, name: &str) -> Result<(), Denial> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests_per_second, now) = (self.policy.requests_per_second, Instant::now());
        let bucket = buckets.entry(name.to_owned()).or_insert_with(|| Bucket::full(requests_per_second, now));
        bucket
            .take(requests_per_second, now)
            .map_err(|wait| Denial::Rate { requests_per_second, retry_after: wait.as_secs() + 1 })
    }
}
