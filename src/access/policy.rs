//! Admission of requests to the admin API: the policy of its port, the token of the client, and the rate of that
//! token. The HTTP of it is in `admin::http::guard`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tracing::warn;

use crate::access::guesses::GuessLimits;
use crate::access::rate::{Bucket, RateLimit};
use crate::access::tokens::{self, Role, Token, TokenSecret};
use crate::store::{self, Store};

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
    tokens: watch::Sender<Arc<[Token]>>,
    /// True if there is a token or ever was one. It never becomes false again.
    had_token: AtomicBool,
    /// Held while the tokens are read from the store, so that an older list never replaces a newer one.
    reloading: Mutex<()>,
    /// Rates by the name of a token.
    buckets: Mutex<HashMap<String, Bucket>>,
    guesses: Mutex<GuessLimits>,
}

/// Authenticated client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Name of the token, which becomes the author of revisions; `anonymous` without a token.
    pub name: String,
    /// Permissions.
    pub role: Role,
    /// Hash of the token; none without a token.
    token: Option<blake3::Hash>,
}

impl Principal {
    /// Returns the principal of a request that needs no token.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), role: Role::Write, token: None }
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

    /// Returns the hash of its token; none without a token.
    pub fn token_hash(&self) -> Option<&[u8]> {
        self.token.as_ref().map(|hash| hash.as_bytes().as_slice())
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
    /// The address sent too many wrong tokens.
    #[error("too many wrong tokens came from this address; try again in {retry_after} s")]
    Guesses {
        /// Time until the next one is answered, in seconds.
        retry_after: u64,
    },
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
    /// Creates the access control of a port with the tokens in the store.
    ///
    /// # Errors
    ///
    /// Fails if the tokens cannot be read.
    pub fn new(policy: AccessPolicy, store: &dyn Store) -> Result<Self, store::Error> {
        let access = Self {
            policy,
            tokens: watch::Sender::new(tokens::stored(store)?.into()),
            had_token: AtomicBool::new(store.had_token()?),
            reloading: Mutex::default(),
            buckets: Mutex::default(),
            guesses: Mutex::new(GuessLimits::new(Instant::now())),
        };
        if access.is_required() && access.tokens().is_empty() {
            warn!(
                "there is no token, so nobody can use the admin API; stop understudy and make one with \
                 `understudy token create NAME --data DIR`"
            );
        }
        if !policy.loopback && !access.is_required() {
            warn!("anyone who reaches the admin API may read all and change all; make a token to end that");
        }
        Ok(access)
    }

    /// Returns the tokens.
    pub fn tokens(&self) -> Arc<[Token]> {
        self.tokens.borrow().clone()
    }

    /// Reads the tokens from the store again.
    ///
    /// # Errors
    ///
    /// Fails if they cannot be read.
    pub fn reload_tokens(&self, store: &dyn Store) -> Result<(), store::Error> {
        let _reloading = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = tokens::stored(store)?;
        if !tokens.is_empty() {
            self.had_token.store(true, Ordering::Release);
        }
        self.tokens.send_replace(tokens.into());
        Ok(())
    }

    /// Waits until a client that was admitted would not be admitted any more: its token was revoked, or it has
    /// none and needs one now.
    pub async fn revoked(&self, principal: &Principal) {
        let mut tokens = self.tokens.subscribe();
        let is_revoked = |tokens: &Arc<[Token]>| match principal.token {
            Some(hash) => !tokens.iter().any(|token| token.hash == hash),
            None => self.is_required(),
        };
        // It fails only when the sender is dropped, which `self` keeps.
        let _ = tokens.wait_for(is_revoked).await;
    }

    /// True if the port is on loopback.
    pub fn is_loopback(&self) -> bool {
        self.policy.loopback
    }

    /// True if no request is admitted without a token. Beyond loopback, a first token closes the port for good:
    /// also when all tokens are gone.
    pub fn is_required(&self) -> bool {
        let AccessPolicy { loopback, tls, require_token, .. } = self.policy;
        require_token || (!loopback && (tls || self.had_token.load(Ordering::Acquire)))
    }

    /// Returns the client of a request that needs this role. `secret` is the token that it sent, from this
    /// address; none if it sent no credentials.
    ///
    /// # Errors
    ///
    /// Returns the reason for which it is not admitted.
    pub fn admit(
        &self,
        secret: Option<&TokenSecret>,
        address: IpAddr,
        needed: Role,
    ) -> Result<Principal, Denial> {
        let principal = self.authenticate(secret, address)?;
        self.spend(&principal.name)?;
        principal.require(needed)?;
        Ok(principal)
    }

    fn authenticate(&self, secret: Option<&TokenSecret>, address: IpAddr) -> Result<Principal, Denial> {
        let Some(secret) = secret else {
            return if self.is_required() { Err(Denial::NoToken) } else { Ok(Principal::anonymous()) };
        };
        let tokens = self.tokens();
        let token = tokens::find(&tokens, secret).ok_or_else(|| self.wrong_token(address))?;
        Ok(Principal { name: token.name.clone(), role: token.role, token: Some(token.hash) })
    }

    /// Counts a wrong token from this address.
    fn wrong_token(&self, address: IpAddr) -> Denial {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        match guesses.take(address, Instant::now()) {
            Ok(()) => Denial::WrongToken,
            Err(wait) => Denial::Guesses { retry_after: wait.as_secs() + 1 },
        }
    }

    /// Takes one request from the rate of a token.
    fn spend(&self, name: &str) -> Result<(), Denial> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests_per_second, now) = (self.policy.requests_per_second, Instant::now());
        let limit = RateLimit { burst: requests_per_second, per_second: requests_per_second };
        let bucket = buckets.entry(name.to_owned()).or_insert_with(|| Bucket::full(limit, now));
        bucket
            .take(limit, now)
            .map_err(|wait| Denial::Rate { requests_per_second, retry_after: wait.as_secs() + 1 })
    }
}
