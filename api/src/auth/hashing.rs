//! bcrypt, on a bounded number of threads.
//!
//! bcrypt reads 72 bytes at most and stops at a NUL; it is therefore fed with base64(SHA-256(secret)), 44 characters that
//! depend on every byte of the secret.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bcrypt::{BcryptError, Version};
use thiserror::Error;
use tokio::sync::Semaphore;

/// bcrypt's cost: 2^10 rounds, about 50 ms. The secret has 256 bits, so more would slow nobody but ourselves.
const COST: u32 = 10;

/// Those that may wait for a thread. More are turned away: what waits longer than this has lost its caller.
const WAITING_MAX: usize = 256;

/// Checked for ids that no key has, so that the answer takes as long as for one that exists. Nobody knows its secret:
/// it is the hash of random bytes that were thrown away.
const NOBODYS_HASH: &str = "$2b$10$XjVbNTjTSWrUxwB3RDU8GOiJVP25vcGuXb0v5BU1PmGvhWTdEDxtS";

/// Why a secret was neither accepted nor refused.
#[derive(Debug, Error)]
pub enum HashingError {
    /// Too many are waiting. Retry later.
    #[error("too many keys are being checked")]
    Busy,
    /// The stored hash is none. Stop: the row was not written by us.
    #[error("a stored hash cannot be read")]
    Malformed(#[source] BcryptError),
    /// A thread died. Stop.
    #[error("a key was not checked to the end")]
    Died,
}

/// The threads that compute bcrypt.
#[derive(Clone, Debug)]
pub struct HashingPool {
    threads: Arc<Semaphore>,
    seats: Arc<Semaphore>,
}

impl HashingPool {
    /// At most so many at once.
    pub fn new(threads: usize) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(threads.max(1))),
            seats: Arc::new(Semaphore::new(threads.max(1) + WAITING_MAX)),
        }
    }

    /// The hash to store for a secret's digest.
    pub async fn hash(&self, digest: [u8; 32], salt: [u8; 16]) -> Result<String, HashingError> {
        self.on_a_thread(move || {
            let parts = bcrypt::non_truncating_hash_with_salt(fed(&digest), COST, salt);
            Ok(parts.map_err(HashingError::Malformed)?.format_for_version(Version::TwoB))
        })
        .await
    }

    /// Whether the digest is the one that was hashed; `None` stands for a key that does not exist, and takes as long.
    pub async fn verify(&self, digest: [u8; 32], stored: Option<String>) -> Result<bool, HashingError> {
        self.on_a_thread(move || {
            let hash = stored.as_deref().unwrap_or(NOBODYS_HASH);
            let is_it = bcrypt::verify(fed(&digest), hash).map_err(HashingError::Malformed)?;
            Ok(is_it && stored.is_some())
        })
        .await
    }

    async fn on_a_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, HashingError> + Send + 'static,
    ) -> Result<T, HashingError> {
        let seat = Arc::clone(&self.seats).try_acquire_owned().map_err(|_| HashingError::Busy)?;
        let permit = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| HashingError::Died)?;
        tokio::task::spawn_blocking(move || {
            // Held by the work and not by its caller, who may have gone: the thread is busy all the same.
            let _held = (seat, permit);
            work()
        })
        .await
        .map_err(|_| HashingError::Died)?
    }
}

fn fed(digest: &[u8; 32]) -> String {
    STANDARD.encode(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_its_own_and_every_bit_of_it_counts() {
        let pool = HashingPool::new(2);
        let stored = pool.hash([1; 32], [2; 16]).await.unwrap();
        assert!(stored.starts_with("$2b$10$") && stored.len() == 60, "{stored}");
        assert!(pool.verify([1; 32], Some(stored.clone())).await.unwrap());
        let mut other = [1; 32];
        other[31] = 0;
        assert!(!pool.verify(other, Some(stored)).await.unwrap());
    }

    #[tokio::test]
    async fn nobodys_hash_is_a_hash_and_lets_nobody_in() {
        let pool = HashingPool::new(1);
        assert!(!pool.verify([0; 32], None).await.unwrap());
        assert!(bcrypt::verify("x", NOBODYS_HASH).is_ok_and(|is_it| !is_it), "of the same cost");
        assert!(matches!(pool.verify([0; 32], Some("x".into())).await, Err(HashingError::Malformed(_))));
    }

    #[tokio::test]
    async fn those_who_would_wait_too_long_are_turned_away() {
        let pool = HashingPool::new(1);
        let held = Arc::clone(&pool.seats).acquire_many_owned(u32::try_from(WAITING_MAX + 1).unwrap()).await.unwrap();
        assert!(matches!(pool.verify([0; 32], None).await, Err(HashingError::Busy)));
        drop(held);
        assert!(!pool.verify([0; 32], None).await.unwrap());
    }
}
