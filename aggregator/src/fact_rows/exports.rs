//! A restated export takes force whole.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use ingest::{AccountId, Timestamp};

use super::change::Applied;
use super::statements::{
    ACCOUNTS_OF_GENERATIONS, ALL_BUCKETS, APPLY_GENERATION, BUMP_BUCKETS, COMPLETE_EXPORTS, GIVE_FORCE,
    LOCK_GENERATIONS, MARK_FACTS, TAKE_FORCE,
};
use super::stored::StoredError;
use super::{FactError, FactRows, lock_buckets};
use crate::usage_rows::{lock_accounts, recompute};

impl FactRows {
    /// Exports of which a later generation is complete than the one in force: none, unless a process ended in between.
    pub async fn exports_complete(&self) -> Result<BTreeSet<String>, FactError> {
        let complete: Vec<String> =
            sqlx::query_scalar(COMPLETE_EXPORTS).bind(None::<Vec<String>>).fetch_all(&self.pool).await?;
        Ok(complete.into_iter().collect())
    }

    /// Puts the highest complete generation of an export in force, in place of its predecessor, in one transaction over all
    /// buckets. Says whether anything changed; doing it again changes nothing.
    pub async fn put_in_force(&self, export: &str, now: Timestamp) -> Result<bool, FactError> {
        let mut transaction = self.pool.begin().await?;
        let buckets: Vec<i16> = sqlx::query_scalar(ALL_BUCKETS).fetch_all(&mut *transaction).await?;
        lock_buckets(&buckets, &mut transaction).await?;
        let generations: Vec<(i64, bool, bool)> =
            sqlx::query_as(LOCK_GENERATIONS).bind(export).fetch_all(&mut *transaction).await?;
        let former = generations.iter().find(|(_, in_force, _)| *in_force).map(|(number, _, _)| *number);
        let complete = generations.iter().rev().find(|(_, _, is_complete)| *is_complete).map(|(number, _, _)| *number);
        let Some(next) = complete.filter(|next| former.is_none_or(|former| former < *next)) else { return Ok(false) };

        sqlx::query(BUMP_BUCKETS).bind(&buckets).execute(&mut *transaction).await?;
        let accounts: Vec<String> = sqlx::query_scalar(ACCOUNTS_OF_GENERATIONS)
            .bind(export)
            .bind(next)
            .bind(former)
            .fetch_all(&mut *transaction)
            .await?;
        let read =
            |account: String| AccountId::parse(&account).map_err(|_| StoredError { account, column: "account_id" });
        let accounts = accounts.into_iter().map(read).collect::<Result<BTreeSet<_>, _>>()?;
        lock_accounts(&accounts, now, &mut transaction).await?;
        let now = DateTime::<Utc>::from(now);
        let applied: Vec<Applied> = sqlx::query_as(APPLY_GENERATION)
            .bind(export)
            .bind(next)
            .bind(former)
            .bind(now)
            .fetch_all(&mut *transaction)
            .await?;
        recompute(&Applied::months(applied)?, now, &mut transaction).await?;
        sqlx::query(MARK_FACTS).bind(export).bind(next).bind(former).execute(&mut *transaction).await?;
        sqlx::query(TAKE_FORCE).bind(export).bind(now).execute(&mut *transaction).await?;
        sqlx::query(GIVE_FORCE).bind(export).bind(next).bind(now).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }
}
