//! Who a caller is: from a key, from a session, or from what an authorizer found out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use aggregator::directory::CustomerId;
use ingest::Timestamp;
use sqlx::PgPool;
use thiserror::Error;

use super::attempts::Attempts;
use super::authorizer::AuthorizerContext;
use super::hashing::{HashingError, HashingPool};
use super::key_look_ups::KeyLookUps;
use super::scope::Scopes;
use super::session::{NewSession, Session, Sessions};
use super::stored_key::LookUpError;
use super::token::{KeyId, KeyToken};
use super::verified::{CacheCounts, EntryName, Verified};
use crate::tenant::Statements;

/// Longer headers are refused before they are read.
const CREDENTIALS_BYTES_MAX: usize = 2_048;

/// Someone who has shown a key or a session of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The customer it acts for; `None` for an operator.
    pub customer: Option<CustomerId>,
    /// The key.
    pub key_id: KeyId,
    /// The key's generation.
    pub generation: i32,
    /// What the key may do now.
    pub scopes: Scopes,
    /// The session's name, when a session was shown and not the key itself.
    pub session: Option<String>,
}

impl Caller {
    /// The caller in the audit trail.
    pub fn actor(&self) -> String {
        format!("key:{}", self.key_id)
    }
}

/// Why nobody was let in.
#[derive(Debug, Error)]
pub enum AuthenticationError {
    /// No key or session of ours, or one that is no more in force. Deliberately one answer. Stop.
    #[error("no valid key")]
    NotAuthenticated,
    /// Too many wrong secrets for this key from this address. Retry after so many seconds.
    #[error("too many wrong secrets; the next try is free in {retry_after_secs} s")]
    TooManyAttempts {
        /// When the next try is free.
        retry_after_secs: u64,
    },
    /// Too many keys are being checked. Retry.
    #[error("too many keys are being checked")]
    Busy,
    /// The key could not be looked up. Retry when PostgreSQL was away, else stop.
    #[error(transparent)]
    LookUp(#[from] LookUpError),
    /// The secret could not be checked. Stop.
    #[error("the secret could not be checked")]
    Broken(#[source] HashingError),
}

/// Checks keys and sessions.
#[derive(Clone, Debug)]
pub struct Authenticator {
    keys: KeyLookUps,
    hashing: HashingPool,
    attempts: Attempts,
    verified: Verified,
    sessions: Sessions,
    /// One bcrypt at a time for the same secret: the others wait for what it finds.
    flights: Arc<Mutex<HashMap<EntryName, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Authenticator {
    /// The pool's connections are `securebase_app`'s. Looks keys up as a task of this runtime.
    pub fn new(
        pool: PgPool,
        statements: Statements,
        hashing: HashingPool,
        verified: Verified,
        sessions: Sessions,
    ) -> Self {
        Self {
            keys: KeyLookUps::start(pool, statements),
            hashing,
            attempts: Attempts::new(),
            verified,
            sessions,
            flights: Arc::default(),
        }
    }

    /// How often bcrypt was spared.
    pub fn cache_counts(&self) -> CacheCounts {
        self.verified.counts()
    }

    /// The threads that hash.
    pub fn hashing(&self) -> &HashingPool {
        &self.hashing
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The caller of an `Authorization` header: `Bearer <key or session>`, the scheme in any case (RFC 9110, 11.1).
    ///
    /// `address` is the peer's, or what the request's context says; never what a header says.
    pub async fn authenticate(
        &self,
        header: &[u8],
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Caller, AuthenticationError> {
        let credentials = bearer(header).ok_or(AuthenticationError::NotAuthenticated)?;
        if credentials.starts_with("sk_") {
            let token = KeyToken::parse(credentials).map_err(|_| AuthenticationError::NotAuthenticated)?;
            self.by_key(&token, address, now).await
        } else {
            let session = self.sessions.verify_fresh(credentials, now).await;
            let session = session.map_err(|_| AuthenticationError::NotAuthenticated)?;
            let name = session.id;
            let context = AuthorizerContext {
                customer: session.customer,
                key_id: session.key_id,
                generation: session.generation,
                session: Some(name),
            };
            self.recheck(&context, now).await
        }
    }

    /// The caller an authorizer found out about, as its key stands now: what it found may be minutes old.
    pub async fn recheck(&self, context: &AuthorizerContext, now: Timestamp) -> Result<Caller, AuthenticationError> {
        let stored = self.keys.look_up(&context.key_id).await?;
        let stored = stored
            .filter(|stored| stored.customer == context.customer && stored.generation == context.generation)
            .filter(|stored| stored.is_in_force(now))
            .ok_or(AuthenticationError::NotAuthenticated)?;
        Ok(Caller {
            customer: stored.customer,
            key_id: context.key_id.clone(),
            generation: stored.generation,
            scopes: stored.scopes,
            session: context.session.clone(),
        })
    }

    /// Begins a session of a caller that has shown its key. `None` for one that has shown a session: a session that makes
    /// sessions would never end.
    pub async fn begin_session(&self, caller: &Caller, id: String, now: Timestamp) -> Option<NewSession> {
        if caller.session.is_some() {
            return None;
        }
        let session = Session {
            customer: caller.customer.clone(),
            key_id: caller.key_id.clone(),
            generation: caller.generation,
            id,
        };
        Some(self.sessions.sign_fresh(&session, now).await)
    }

    async fn by_key(&self, token: &KeyToken, address: IpAddr, now: Timestamp) -> Result<Caller, AuthenticationError> {
        let stored = self.keys.look_up(&token.key_id).await?;
        // A key that names another customer than its own is no key; it takes as long as one that does not exist.
        let stored = stored.filter(|stored| stored.customer == token.customer);
        let digest = token.secret.digest();
        let hash = stored.as_ref().map(|stored| stored.secret_hash.clone());
        let name = self.verified.name(&token.key_id, digest, hash.as_deref().unwrap_or("nobody's"));
        if !self.verified.holds(name, now).await {
            self.check_secret(token, digest, hash, name, address, now).await?;
        }
        let stored = stored.filter(|stored| stored.is_in_force(now)).ok_or(AuthenticationError::NotAuthenticated)?;
        Ok(Caller {
            customer: stored.customer,
            key_id: token.key_id.clone(),
            generation: stored.generation,
            scopes: stored.scopes,
            session: None,
        })
    }

    async fn check_secret(
        &self,
        token: &KeyToken,
        digest: [u8; 32],
        hash: Option<String>,
        name: EntryName,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<(), AuthenticationError> {
        let flight = self.flight(name);
        let landed = flight.lock().await;
        let outcome = if self.verified.holds_in_memory(name, now) {
            Ok(())
        } else {
            self.ask_bcrypt(token, digest, hash, name, address, now).await
        };
        drop(landed);
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Ours and the map's: nobody waits any more.
        if Arc::strong_count(&flight) <= 2 {
            flights.remove(&name);
        }
        outcome
    }

    fn flight(&self, name: EntryName) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // A request that was given up left its flight behind.
        if flights.len() > 1_024 {
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        }
        Arc::clone(flights.entry(name).or_default())
    }

    async fn ask_bcrypt(
        &self,
        token: &KeyToken,
        digest: [u8; 32],
        hash: Option<String>,
        name: EntryName,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<(), AuthenticationError> {
        let attempt = match &hash {
            // What was right before is no guess: whatever others try from the same address, it is not refused.
            Some(_) if self.verified.was_accepted(name) => Ok(None),
            Some(_) => self.attempts.take(address, &token.key_id, now).map(Some),
            None => self.attempts.take_of_nobody(address, &token.key_id, now).map(|()| None),
        };
        let attempt = attempt.map_err(|retry_after_secs| AuthenticationError::TooManyAttempts { retry_after_secs })?;
        let is_right = self.hashing.verify(digest, hash).await.map_err(|error| match error {
            HashingError::Busy => AuthenticationError::Busy,
            error => AuthenticationError::Broken(error),
        })?;
        if !is_right {
            return Err(AuthenticationError::NotAuthenticated);
        }
        if let Some(attempt) = attempt {
            attempt.was_right();
        }
        // Wrong secrets are no misses: they could never have been found.
        self.verified.missed();
        self.verified.remember(name, now).await;
        Ok(())
    }
}

/// The credentials of an `Authorization` header.
fn bearer(header: &[u8]) -> Option<&str> {
    if header.len() > CREDENTIALS_BYTES_MAX {
        return None;
    }
    let (scheme, credentials) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credentials.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_header_holds_credentials() {
        assert_eq!(bearer(b"Bearer x"), Some("x"));
        assert_eq!(bearer(b"bEARER   x "), Some("x"));
        for bad in [&b"Basic x"[..], b"x", b"Bearerx", b"", b"Bearer \xff"] {
            assert_eq!(bearer(bad), None);
        }
        assert_eq!(bearer(&[b"Bearer ".to_vec(), vec![b'x'; CREDENTIALS_BYTES_MAX]].concat()), None);
    }
}
