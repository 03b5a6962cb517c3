//! Look-ups of keys, one statement for all who ask at the same time.
//!
//! Every request reads its key anew. While a statement is under way the next requests gather, and the next statement is
//! theirs: it begins after each of them asked, so none is told what was true before. Under load a statement serves many.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::stored_key::{Found, LookUpError, StoredKey};
use super::token::KeyId;
use crate::lease::Lease;
use crate::tenant::{DATABASE_WAIT_MS_MAX, Statements, TenantError};

/// Keys in one statement.
const KEYS_MAX: usize = 256;

/// Who waits for the next statements; more are held back before they ask.
const ASKING_MAX: usize = 4_096;

#[derive(Debug)]
struct Asked {
    key_id: KeyId,
    answer: oneshot::Sender<Result<Option<StoredKey>, LookUpError>>,
}

/// Looks keys up. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct KeyLookUps {
    asking: mpsc::Sender<Asked>,
}

impl KeyLookUps {
    /// Begins to look up, as a task of this runtime that ends when the last of these is dropped.
    pub(crate) fn start(pool: PgPool, statements: Statements) -> Self {
        let (asking, asked) = mpsc::channel(ASKING_MAX);
        tokio::spawn(look_up(pool, statements, asked));
        Self { asking }
    }

    /// The key of this id as it stands now, if there is one.
    pub(crate) async fn look_up(&self, key_id: &KeyId) -> Result<Option<StoredKey>, LookUpError> {
        let (answer, answered) = oneshot::channel();
        // The task ends with its runtime alone, and then nobody waits for an answer.
        let ended = |()| LookUpError::from(TenantError::TimedOut);
        self.asking.send(Asked { key_id: key_id.clone(), answer }).await.map_err(|_| ended(()))?;
        answered.await.map_err(|_| ended(()))?
    }
}

async fn look_up(pool: PgPool, statements: Statements, mut asked: mpsc::Receiver<Asked>) {
    let mut together = Vec::new();
    let mut kept = None;
    while asked.recv_many(&mut together, KEYS_MAX).await > 0 {
        let key_ids: BTreeSet<&KeyId> = together.iter().map(|asked| &asked.key_id).collect();
        let found = match look_up_all(&pool, kept.take(), key_ids, statements).await {
            Ok((found, lease)) => {
                // Who asked meanwhile is next: the connection stays, and nobody waits for another.
                kept = Some(lease).filter(|_| !asked.is_empty());
                Ok(found)
            }
            Err(error) => Err(LookUpError::from(error)),
        };
        for Asked { key_id, answer } in together.drain(..) {
            let of_key = match &found {
                Ok(found) => found.get(key_id.as_str()).cloned().transpose(),
                Err(error) => Err(error.clone()),
            };
            // Who gave up while it was looked up does not listen.
            let _ = answer.send(of_key);
        }
    }
}

/// Looks all of them up in bounded time, and keeps the connection. One that did not answer goes to nobody else.
async fn look_up_all(
    pool: &PgPool,
    kept: Option<Lease>,
    key_ids: BTreeSet<&KeyId>,
    statements: Statements,
) -> Result<(Found, Lease), TenantError> {
    let until = Instant::now() + Duration::from_millis(DATABASE_WAIT_MS_MAX);
    let mut lease = match kept {
        Some(lease) => lease,
        None => timeout_at(until, Lease::of(pool)).await.map_err(|_| TenantError::TimedOut)??,
    };
    match timeout_at(until, StoredKey::look_up_all(&mut lease, key_ids, statements)).await {
        Ok(found) => Ok((found?, lease)),
        Err(_) => {
            lease.abandon();
            Err(TenantError::TimedOut)
        }
    }
}
