//! What a process that counts has met, where its operator can read it: its counters are in its memory only.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use sqlx::PgPool;

use crate::aggregator::CountersSnapshot;
use crate::usage_rows::DatabaseError;

/// Records that are so old are taken away, in days.
const KEPT_DAYS: i64 = 30;

/// The record of one process.
#[derive(Clone, Debug)]
pub struct WorkerRecord {
    pool: PgPool,
    worker: String,
    started_at: Timestamp,
}

/// What all processes have met that were seen since a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// How many processes there were.
    pub workers: u64,
    /// What they met, added.
    pub counters: CountersSnapshot,
}

impl WorkerRecord {
    /// The record of a process with this random id.
    pub fn new(pool: PgPool, worker: String, started_at: Timestamp) -> Self {
        Self { pool, worker, started_at }
    }

    /// Writes where its counters stand, and takes away records of long ago.
    pub async fn write(&self, counters: CountersSnapshot, now: Timestamp) -> Result<(), DatabaseError> {
        let CountersSnapshot { conflicts, unknown_outcomes, parked_slices } = counters;
        sqlx::query(WRITE)
            .bind(&self.worker)
            .bind(DateTime::<Utc>::from(self.started_at))
            .bind(DateTime::<Utc>::from(now))
            .bind(conflicts.cast_signed())
            .bind(unknown_outcomes.cast_signed())
            .bind(parked_slices.cast_signed())
            .execute(&self.pool)
            .await?;
        let before = now.saturating_add_secs(-KEPT_DAYS * 24 * 3_600);
        sqlx::query(FORGET).bind(DateTime::<Utc>::from(before)).execute(&self.pool).await?;
        Ok(())
    }

    /// What processes have met that were seen since then.
    pub async fn since(pool: &PgPool, since: Timestamp) -> Result<Met, DatabaseError> {
        let (workers, conflicts, unknown_outcomes, parked_slices): (i64, i64, i64, i64) =
            sqlx::query_as(READ).bind(DateTime::<Utc>::from(since)).fetch_one(pool).await?;
        let counters = CountersSnapshot {
            conflicts: conflicts.cast_unsigned(),
            unknown_outcomes: unknown_outcomes.cast_unsigned(),
            parked_slices: parked_slices.cast_unsigned(),
        };
        Ok(Met { workers: workers.cast_unsigned(), counters })
    }
}

const WRITE: &str = "
    insert into worker_records (worker, started_at, seen_at, conflicts, unknown_outcomes, parked_slices)
    values ($1, $2, $3, $4, $5, $6)
    on conflict (worker) do update set seen_at = excluded.seen_at, conflicts = excluded.conflicts,
        unknown_outcomes = excluded.unknown_outcomes, parked_slices = excluded.parked_slices";

const FORGET: &str = "delete from worker_records where seen_at < $1";

const READ: &str = "
    select count(*), coalesce(sum(conflicts), 0)::bigint, coalesce(sum(unknown_outcomes), 0)::bigint,
        coalesce(sum(parked_slices), 0)::bigint
    from worker_records where seen_at >= $1";

/// Every statement of this module, for the test that prepares them against the schema.
#[doc(hidden)]
pub const STATEMENTS: &[&str] = &[WRITE, FORGET, READ];
