//! Hourly usage rows, daily and monthly totals in PostgreSQL: the write side of the roll-up.
//!
//! A counter's row holds the running total of its log partition, so writing it again changes nothing. Rows, totals
//! and the partition's cursor move in one transaction, and only if the cursor still stands where the caller read it.
//!
//! Invariant: a row carries the customer that owns its account at its window, and a customer's daily and monthly totals are
//! the sums of its rows of that day and month, after every transaction.
//!
//! Locks are taken in one order by everyone (cursors, accounts, rows, days and months; each sorted), so writers wait but do not
//! deadlock: an advance locks the rows of `accounts` shared, a registration exclusively.

mod database_error;
mod monthly;

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use ingest::{AccountId, Hour, Meter, Timestamp};
use sqlx::types::Decimal;
use sqlx::{PgConnection, PgPool};
use thiserror::Error;

use crate::fact_rows::FactRows;

pub use database_error::DatabaseError;
pub(crate) use monthly::{CustomerMonth, recompute, recomputed_meters, with_totals};

/// One counter as the newest entry of its partition's log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterTotal {
    /// Whose usage.
    pub account: AccountId,
    /// What was counted.
    pub meter: Meter,
    /// The AWS region.
    pub region: String,
    /// The event category; `none` where the event has none.
    pub category: String,
    /// The hour the usage happened in.
    pub window: Hour,
    /// The counter's running total in its partition, never less than before.
    pub total: u64,
    /// The entry that set this total.
    pub version: u64,
}

/// What the entries of one partition after `from_version` and through `to_version` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The log partition's name.
    pub partition: String,
    /// Where the cursor must stand: 0 for a partition never rolled up.
    pub from_version: u64,
    /// Where the cursor stands afterwards.
    pub to_version: u64,
    /// Every counter named by those entries, once, with its newest total.
    pub counters: Vec<CounterTotal>,
}

/// What became of one [`Advance`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdvanceOutcome {
    /// Rows, monthly totals and cursor were written.
    Moved,
    /// Nothing was written for this partition: another roll-up has moved its cursor.
    Stale {
        /// Where the cursor stands.
        at: u64,
    },
}

/// Why nothing of a batch was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdvanceError {
    /// Stop: the caller's batch contradicts itself.
    #[error("advance of partition {partition} is malformed: {reason}")]
    Malformed {
        /// The partition.
        partition: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Stop: the log says less than it said before, so it or the table is corrupt.
    #[error("total of {counter} in partition {partition} went back from {stored} to {told}")]
    TotalWentBack {
        /// The partition.
        partition: String,
        /// Account, meter, hour, region and category.
        counter: String,
        /// The total in the table.
        stored: Decimal,
        /// The total in the log.
        told: Decimal,
    },
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl AdvanceError {
    /// The one partition at fault; without it the rest of the batch can be written.
    pub fn partition(&self) -> Option<&str> {
        match self {
            Self::Malformed { partition, .. } | Self::TotalWentBack { partition, .. } => Some(partition),
            Self::Database(_) => None,
        }
    }
}

impl From<sqlx::Error> for AdvanceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The usage rows of a database, written as `securebase_aggregator`.
#[derive(Clone, Debug)]
pub struct UsageRows {
    pool: PgPool,
}

impl UsageRows {
    /// The rows behind a pool of connections of `securebase_aggregator`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// The rows of facts behind the same connections.
    pub fn fact_rows(&self) -> FactRows {
        FactRows::new(self.pool.clone())
    }

    /// How many log partitions are rolled up, as far as they are.
    pub async fn partitions(&self) -> Result<u64, DatabaseError> {
        let count: i64 = sqlx::query_scalar(COUNT_CURSORS).fetch_one(&self.pool).await?;
        Ok(count.unsigned_abs())
    }

    /// Where the cursors of these partitions stand; 0 for a partition never rolled up.
    pub async fn cursors(&self, partitions: &[String]) -> Result<HashMap<String, u64>, DatabaseError> {
        let stored: Vec<(String, i64)> =
            sqlx::query_as(READ_CURSORS).bind(partitions).fetch_all(&self.pool).await.map_err(DatabaseError::from)?;
        let mut cursors: HashMap<_, _> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
        cursors.extend(stored.into_iter().map(|(partition, version)| (partition, version.unsigned_abs())));
        Ok(cursors)
    }

    /// Moves the cursors that stand where the caller says, with their rows and the monthly totals, in one transaction.
    ///
    /// One outcome per advance, in their order. A stale one writes nothing and does not hold up the others; an error
    /// means that nothing of the batch was written.
    pub async fn advance(&self, batch: &[Advance], now: Timestamp) -> Result<Vec<AdvanceOutcome>, AdvanceError> {
        check(batch)?;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let now = DateTime::<Utc>::from(now);
        let mut transaction = self.pool.begin().await?;

        let wanted: Vec<(String, u64)> =
            batch.iter().map(|advance| (advance.partition.clone(), advance.from_version)).collect();
        let outcomes = lock_cursors(&wanted, Timestamp::from(now), &mut transaction).await?;
        let stands = batch.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == AdvanceOutcome::Moved);
        let moving: Vec<&Advance> = stands.map(|(advance, _)| advance).collect();
        if moving.is_empty() {
            return Ok(outcomes);
        }

        let accounts: BTreeSet<AccountId> =
            moving.iter().flat_map(|advance| &advance.counters).map(|counter| counter.account).collect();
        if !accounts.is_empty() {
            lock_accounts(&accounts, Timestamp::from(now), &mut transaction).await?;
            let columns = Columns::of(&moving);
            if let Some(went_back) = columns.write(now, &mut transaction).await? {
                return Err(went_back);
            }
        }

        let moved: Vec<(String, u64)> =
            moving.iter().map(|advance| (advance.partition.clone(), advance.to_version)).collect();
        move_cursors(&moved, Timestamp::from(now), &mut transaction).await?;
        transaction.commit().await?;
        Ok(outcomes)
    }
}

/// Locks cursors, made where they are new, and says which of them stand where they are expected.
///
/// Sorted by the database in each statement: its collation is the one order everyone locks in.
pub(crate) async fn lock_cursors(
    wanted: &[(String, u64)],
    now: Timestamp,
    connection: &mut PgConnection,
) -> Result<Vec<AdvanceOutcome>, sqlx::Error> {
    let fresh: Vec<&str> = wanted.iter().filter(|(_, from)| *from == 0).map(|(name, _)| name.as_str()).collect();
    if !fresh.is_empty() {
        let now = DateTime::<Utc>::from(now);
        sqlx::query(ADD_CURSORS).bind(&fresh).bind(now).execute(&mut *connection).await?;
    }
    let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let locked: Vec<(String, i64)> = sqlx::query_as(LOCK_CURSORS).bind(&names).fetch_all(connection).await?;
    let at: HashMap<&str, u64> = locked.iter().map(|(name, version)| (name.as_str(), version.unsigned_abs())).collect();
    let outcome = |(name, from): &(String, u64)| match at.get(name.as_str()).copied().unwrap_or(0) {
        at if at == *from => AdvanceOutcome::Moved,
        at => AdvanceOutcome::Stale { at },
    };
    Ok(wanted.iter().map(outcome).collect())
}

/// Moves cursors that are locked.
pub(crate) async fn move_cursors(
    moved: &[(String, u64)],
    now: Timestamp,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let names: Vec<&str> = moved.iter().map(|(name, _)| name.as_str()).collect();
    let versions: Vec<i64> = moved.iter().map(|(_, version)| stored_version(*version)).collect();
    let now = DateTime::<Utc>::from(now);
    let rows = sqlx::query(MOVE_CURSORS).bind(&names).bind(&versions).bind(now).execute(connection).await?;
    assert_eq!(rows.rows_affected(), moved.len() as u64, "every moving cursor was locked");
    Ok(())
}

/// Makes sure that accounts are listed, and keeps their owners as they are until the transaction ends.
pub(crate) async fn lock_accounts(
    accounts: &BTreeSet<AccountId>,
    now: Timestamp,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    if accounts.is_empty() {
        return Ok(());
    }
    let accounts: Vec<&str> = accounts.iter().map(AccountId::as_str).collect();
    sqlx::query(ADD_ACCOUNTS).bind(&accounts).bind(DateTime::<Utc>::from(now)).execute(&mut *connection).await?;
    sqlx::query(SHARE_ACCOUNTS).bind(&accounts).execute(connection).await.map(drop)
}

/// The counters of a batch, column by column: one statement writes them all.
#[derive(Default)]
struct Columns<'a> {
    partitions: Vec<&'a str>,
    accounts: Vec<&'a str>,
    meters: Vec<&'a str>,
    regions: Vec<&'a str>,
    categories: Vec<&'a str>,
    windows: Vec<DateTime<Utc>>,
    totals: Vec<Decimal>,
    versions: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(moving: &[&'a Advance]) -> Self {
        let mut columns = Self::default();
        for advance in moving {
            for counter in &advance.counters {
                columns.partitions.push(&advance.partition);
                columns.accounts.push(counter.account.as_str());
                columns.meters.push(counter.meter.as_str());
                columns.regions.push(&counter.region);
                columns.categories.push(&counter.category);
                columns.windows.push(counter.window.start().into());
                columns.totals.push(Decimal::from(counter.total));
                columns.versions.push(stored_version(counter.version));
            }
        }
        columns
    }

    /// Writes rows and monthly totals; the answer is a total that went back, and then nothing may be committed.
    async fn write(
        &self,
        now: DateTime<Utc>,
        connection: &mut PgConnection,
    ) -> Result<Option<AdvanceError>, sqlx::Error> {
        let went_back: Option<(String, String, Decimal, Decimal)> = sqlx::query_as(WRITE_ROWS)
            .bind(&self.partitions)
            .bind(&self.accounts)
            .bind(&self.meters)
            .bind(&self.regions)
            .bind(&self.categories)
            .bind(&self.windows)
            .bind(&self.totals)
            .bind(&self.versions)
            .bind(now)
            .fetch_optional(connection)
            .await?;
        Ok(went_back.map(|(partition, counter, stored, told)| AdvanceError::TotalWentBack {
            partition,
            counter,
            stored,
            told,
        }))
    }
}

fn stored_version(version: u64) -> i64 {
    i64::try_from(version).expect("checked: versions fit")
}

fn check(batch: &[Advance]) -> Result<(), AdvanceError> {
    let mut partitions = HashSet::new();
    for advance in batch {
        let malformed =
            |reason| Err(AdvanceError::Malformed { partition: advance.partition.escape_debug().to_string(), reason });
        if !partitions.insert(advance.partition.as_str()) {
            return malformed("it is in the batch twice");
        }
        if advance.to_version <= advance.from_version || i64::try_from(advance.to_version).is_err() {
            return malformed("its version does not go forward");
        }
        let mut counters = HashSet::new();
        for counter in &advance.counters {
            if counter.version <= advance.from_version || advance.to_version < counter.version {
                return malformed("a counter's version is not among those read");
            }
            let key =
                (counter.account, counter.meter, counter.window, counter.region.as_str(), counter.category.as_str());
            if !counters.insert(key) {
                return malformed("a counter is in it twice");
            }
        }
        let texts = advance.counters.iter().flat_map(|counter| [&counter.region, &counter.category]);
        if texts.chain([&advance.partition]).any(|text| text.contains('\0')) {
            return malformed("a text holds a zero character, which PostgreSQL cannot store");
        }
    }
    Ok(())
}

const READ_CURSORS: &str = "select partition, version from rollup_cursors where partition = any($1)";

const COUNT_CURSORS: &str = "select count(*) from rollup_cursors";

const ADD_CURSORS: &str = "
    insert into rollup_cursors (partition, version, updated_at)
    select partition, 0, $2 from unnest($1::text[]) as i (partition) order by partition
    on conflict do nothing";

const LOCK_CURSORS: &str =
    "select partition, version from rollup_cursors where partition = any($1) order by partition for update";

const ADD_ACCOUNTS: &str = "
    insert into accounts (account_id, first_seen_at)
    select account_id, $2 from unnest($1::text[]) as i (account_id) order by account_id
    on conflict do nothing";

const SHARE_ACCOUNTS: &str = "select account_id from accounts where account_id = any($1) order by account_id for share";

// Runs after the accounts are share-locked, in a statement of its own: it must see the ownership committed before.
// Nobody else adds or raises rows of these partitions while their cursors are locked, so an insert meets no conflict;
// two statements cost a third less than one `on conflict`.
const WRITE_ROWS: &str = with_totals!(
    "with input as (
        select * from unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::numeric[], $8::bigint[]
        ) as i (partition, account_id, meter, region, category, window_start, total, version)
    ), owned as (
        select i.*, o.customer_id
        from input i
        left join account_ownership o on o.account_id = i.account_id and o.valid @> i.window_start
    ), compared as materialized (
        select i.*, u.total is not null as is_known, coalesce(u.total, 0) as former
        from owned i
        left join usage_rows u using (account_id, meter, window_start, region, category, partition)
    ), rows_changed as (
        update usage_rows u set total = c.total, version = c.version
        from compared c
        where c.is_known
            and u.account_id = c.account_id and u.meter = c.meter and u.window_start = c.window_start
            and u.region = c.region and u.category = c.category and u.partition = c.partition
    ), rows_added as (
        insert into usage_rows
            (account_id, meter, region, category, window_start, partition, total, version, customer_id)
        select account_id, meter, region, category, window_start, partition, total, version, customer_id
        from compared
        where not is_known
        order by account_id, meter, window_start, region, category, partition
    ), change as (
        select
            customer_id, account_id, meter, region, category, window_start,
            total - former as quantity, (not is_known)::int as hourly_rows
        from compared
    )",
    "$9",
    "select
        partition,
        concat_ws(' ', account_id, meter, to_char(window_start at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24'), region, category),
        former,
        total
    from compared where former > total
    order by account_id, window_start limit 1"
);

const MOVE_CURSORS: &str = "
    update rollup_cursors c set version = i.version, updated_at = $3
    from unnest($1::text[], $2::bigint[]) as i (partition, version)
    where c.partition = i.partition";

/// Every statement of this module, for the test that prepares them against the schema.
#[doc(hidden)]
pub const STATEMENTS: &[&str] = &[
    READ_CURSORS,
    COUNT_CURSORS,
    ADD_CURSORS,
    LOCK_CURSORS,
    ADD_ACCOUNTS,
    SHARE_ACCOUNTS,
    WRITE_ROWS,
    MOVE_CURSORS,
    monthly::RECOMPUTE_MONTHS,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(from_version: u64, to_version: u64, versions: &[u64]) -> Advance {
        let counter = |(position, version): (usize, &u64)| CounterTotal {
            account: AccountId::parse("000000000001").unwrap(),
            meter: Meter::CloudTrailEvents,
            region: "us-east-1".into(),
            category: "Management".into(),
            window: Hour::from_number(position as i64).unwrap(),
            total: 1,
            version: *version,
        };
        Advance {
            partition: "p".into(),
            from_version,
            to_version,
            counters: versions.iter().enumerate().map(counter).collect(),
        }
    }

    #[test]
    fn a_batch_that_contradicts_itself_is_refused_before_anything_is_written() {
        assert!(check(&[advance(0, 2, &[1, 2])]).is_ok());
        let mut twice = advance(0, 1, &[1, 1]);
        twice.counters[1] = twice.counters[0].clone();
        let mut zero = advance(0, 1, &[1]);
        zero.counters[0].region = "a\0b".into();
        for (bad, why) in [
            (vec![advance(0, 1, &[1]), advance(1, 2, &[2])], "the same partition twice"),
            (vec![advance(2, 2, &[])], "no progress"),
            (vec![advance(2, 1, &[])], "backwards"),
            (vec![advance(0, u64::MAX, &[])], "a version that does not fit"),
            (vec![advance(1, 2, &[1])], "a counter from before"),
            (vec![advance(1, 2, &[3])], "a counter from after"),
            (vec![twice], "a counter twice"),
            (vec![zero], "a zero character"),
        ] {
            assert!(matches!(check(&bad), Err(AdvanceError::Malformed { .. })), "{why}");
        }
    }
}
