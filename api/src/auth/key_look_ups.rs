//! Look-ups of keys, one statement for all who ask at the same time.
//!
//! Every request reads its key anew. While a statement is under way the next requests gather, and the next statement is
//! theirs: it begins after each of them asked, so none is told what was true before. Under load a statement serves many.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use super::stored_key::{LookUpError, StoredKey};
use super::token::KeyId;
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
        let wait = Duration::from_millis(DATABASE_WAIT_MS_MAX);
        let looked_up = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => pool.acquire().await?,
            };
            let found = StoredKey::look_up_all(&mut connection, key_ids, statements).await?;
            Ok::<_, TenantError>((found, connection))
        };
        let found = match tokio::time::timeout(wait, looked_up).await {
            Ok(Ok((found, connection))) => {
                // Who asked meanwhile is next: the connection stays, and nobody waits for another.
                kept = Some(connection).filter(|_| !asked.is_empty());
                Ok(found)
            }
            Ok(Err(error)) => Err(LookUpError::from(error)),
            Err(_) => Err(TenantError::TimedOut.into()),
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
