//! Usage rows of facts in PostgreSQL: the write side of the roll-up of facts.
//!
//! The facts that stand are kept in PostgreSQL as far as their logs are rolled up, so that what lies before and after a new
//! fact is found there. One transaction takes a bucket's new facts in, evaluates the resources they are about as they were and
//! as they are, adds the difference to usage rows and monthly totals, and moves the cursors it read from.
//!
//! Invariant: usage rows of facts are the evaluation of the standing facts in force, after every transaction. A bucket's row
//! in `fact_buckets` is locked first, so the cursors of every partition whose facts are looked at, carry-in included, stand
//! still meanwhile.
//!
//! Locks are taken in one order by everyone: buckets, exports, cursors, accounts, rows, months; each sorted.

mod change;
mod exports;
mod live;
mod report;
mod series;
mod statements;
mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use ingest::{Bucket, FactValue, Hour, Identity, Meter, Meters, Timestamp, UsageFact};
use sqlx::{PgConnection, PgPool};
use thiserror::Error;

use crate::facts::{EvaluationError, FactVersion};
use crate::partition::Partition;
use crate::usage_rows::{AdvanceOutcome, DatabaseError};

use change::Change;
pub use report::{FactsReport, Missing};
use series::SeriesKey;
#[doc(hidden)]
pub use statements::STATEMENTS;
use statements::{
    ADD_BUCKETS, ADD_EXPORTS, BUMP_BUCKETS, COMPLETE_EXPORTS, COUNT_EXPORTS, LOCK_BUCKETS, LOCK_EXPORTS, READ_VERSIONS,
};
use stored::FactColumns;
pub use stored::StoredError;

/// What the entries of one partition after `from_version` and through `to_version` state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactAdvance {
    /// The log partition: of the bucket's facts.
    pub partition: Partition,
    /// Where the cursor must stand: 0 for a partition never rolled up.
    pub from_version: u64,
    /// Where the cursor stands afterwards.
    pub to_version: u64,
    /// The facts, in the order of the log.
    pub facts: Vec<UsageFact<'static>>,
}

/// What became of the advances of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactsAdvanced {
    /// One for each advance, in their order.
    pub outcomes: Vec<AdvanceOutcome>,
    /// Exports of which a later generation is complete than the one in force: [`FactRows::put_in_force`] is next.
    pub exports_complete: BTreeSet<String>,
}

/// Why nothing of a batch was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FactError {
    /// Stop with the partition: its meter's rules are not known. Define it, and it is rolled up.
    #[error("partition {partition} states facts of meter {meter}, which is not defined: securebase meters define")]
    MeterUnknown {
        /// The partition.
        partition: String,
        /// The meter.
        meter: Meter,
    },
    /// Stop with the partition: a value does not fit.
    #[error("partition {partition}: {source}")]
    Evaluation {
        /// The partition.
        partition: String,
        /// Which value.
        source: EvaluationError,
    },
    /// Stop: a total would have fewer parts than are taken from it, so the table is corrupt.
    #[error("the usage row {row} does not hold what is to be taken from it")]
    Corrupt {
        /// Account, meter, hour, region and category.
        row: String,
    },
    /// Stop: a stored fact cannot be read.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl FactError {
    /// The one partition at fault; without it the rest of the batch can be written.
    pub fn partition(&self) -> Option<&str> {
        match self {
            Self::MeterUnknown { partition, .. } | Self::Evaluation { partition, .. } => Some(partition),
            Self::Corrupt { .. } | Self::Stored(_) | Self::Database(_) => None,
        }
    }
}

impl From<sqlx::Error> for FactError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The usage rows of facts of a database, written as `securebase_aggregator`.
#[derive(Clone, Debug)]
pub struct FactRows {
    pool: PgPool,
}

/// The row that stands for a bucket's roll-up, locked.
struct LockedBucket {
    bucket: Bucket,
    /// The number of this transaction.
    sequence: i64,
    /// The first hour that is not over, as far as this bucket is concerned.
    through: Hour,
}

impl LockedBucket {
    /// What stands in the rows' partition: the totals of a bucket's facts are one whatever partitions they are from.
    fn rows_partition(&self) -> String {
        rows_partition(self.bucket)
    }
}

/// The name that the usage rows of a bucket's facts have in place of a log partition's.
pub fn rows_partition(bucket: Bucket) -> String {
    format!("facts/{:02}", bucket.number())
}

impl FactRows {
    /// The rows behind a pool of connections of `securebase_aggregator`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Takes in what partitions of one bucket state, if their cursors stand where the caller says, in one transaction.
    ///
    /// A stale advance writes nothing and does not hold up the others; an error means that nothing was written.
    pub async fn advance(
        &self,
        bucket: Bucket,
        batch: &[FactAdvance],
        now: Timestamp,
    ) -> Result<FactsAdvanced, FactError> {
        assert!(batch.iter().all(|advance| advance.partition.bucket == bucket), "a batch is of one bucket");
        let mut transaction = self.pool.begin().await?;
        let locked = lock_bucket(bucket, now, &mut transaction).await?;
        let exports = batch.iter().flat_map(|advance| &advance.facts).filter_map(|fact| fact.key.export.as_ref());
        let exports: BTreeSet<(&str, i64)> =
            exports.map(|export| (&*export.scope, export.number.cast_signed())).collect();
        let in_force = lock_exports(&exports, now, &mut transaction).await?;
        let outcomes = crate::usage_rows::lock_cursors(
            &batch.iter().map(|advance| (advance.partition.to_string(), advance.from_version)).collect::<Vec<_>>(),
            now,
            &mut transaction,
        )
        .await?;
        let moving: Vec<&FactAdvance> = batch
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome == AdvanceOutcome::Moved)
            .map(|(advance, _)| advance)
            .collect();
        if moving.is_empty() {
            return Ok(FactsAdvanced { outcomes, ..FactsAdvanced::default() });
        }

        let meters = crate::meters::read(&mut transaction).await?;
        let fresh = fresh(&moving, &mut transaction).await?;
        let counts = |fact: &UsageFact<'static>| {
            fact.key.export.as_ref().is_none_or(|export| in_force.get(&*export.scope) == Some(&export.number))
        };
        let mut change = Change::default();
        add_changes(&fresh, counts, &meters, &locked, &mut change, &mut transaction).await?;
        let columns = FactColumns::of(fresh.iter().map(|fresh| (fresh.fact, counts(fresh.fact))));
        columns.write(bucket, &mut transaction).await?;
        let exports_complete = count_exports(&fresh, now, &mut transaction).await?;
        change.write(&locked.rows_partition(), locked.sequence, now, &mut transaction).await?;

        let cursors: Vec<_> =
            moving.iter().map(|advance| (advance.partition.to_string(), advance.to_version)).collect();
        crate::usage_rows::move_cursors(&cursors, now, &mut transaction).await?;
        transaction.commit().await?;
        Ok(FactsAdvanced { outcomes, exports_complete })
    }
}

/// A fact that stands now and did not before.
struct Fresh<'a> {
    fact: &'a UsageFact<'static>,
    /// The name of the partition it is from.
    partition: String,
    /// Whether nothing stood under its key.
    is_new_key: bool,
}

/// Of each key the highest fact of the batch, if it is higher than what stands.
async fn fresh<'a>(moving: &[&'a FactAdvance], connection: &mut PgConnection) -> Result<Vec<Fresh<'a>>, FactError> {
    let mut highest = BTreeMap::<Identity, (FactVersion, Fresh<'a>)>::new();
    for advance in moving {
        for fact in &advance.facts {
            let (identity, version) = (fact.key.identity(), FactVersion::of(fact));
            if highest.get(&identity).is_none_or(|(standing, _)| *standing < version) {
                let partition = advance.partition.to_string();
                highest.insert(identity, (version, Fresh { fact, partition, is_new_key: true }));
            }
        }
    }
    let keys: Vec<Vec<u8>> = highest.keys().map(|key| key.as_bytes().to_vec()).collect();
    let stored: Vec<(Vec<u8>, i64, Vec<u8>)> = sqlx::query_as(READ_VERSIONS).bind(keys).fetch_all(connection).await?;
    for (key, revision, hash) in stored {
        let (key, standing) = stored::version(&key, revision, &hash)?;
        let Some((version, fresh)) = highest.get_mut(&key) else { continue };
        if *version <= standing {
            highest.remove(&key);
        } else {
            fresh.is_new_key = false;
        }
    }
    Ok(highest.into_values().map(|(_, fresh)| fresh).collect())
}

/// What the fresh facts that count change in the totals and gaps of their resources.
async fn add_changes(
    fresh: &[Fresh<'_>],
    counts: impl Fn(&UsageFact<'static>) -> bool,
    meters: &Meters,
    locked: &LockedBucket,
    change: &mut Change,
    connection: &mut PgConnection,
) -> Result<(), FactError> {
    change.sees(fresh.iter().map(|fresh| fresh.fact.key.account));
    let mut by_series = BTreeMap::<SeriesKey, Vec<&Fresh<'_>>>::new();
    for fresh in fresh {
        let is_usage = !matches!(fresh.fact.value, FactValue::ExportEnd { .. });
        if is_usage && counts(fresh.fact) {
            by_series.entry(SeriesKey::of(&fresh.fact.key)).or_default().push(fresh);
        }
    }
    let asked: Vec<_> = by_series
        .iter()
        .map(|(series, fresh)| {
            let times = fresh.iter().map(|fresh| fresh.fact.key.time);
            let first = times.clone().min().expect("a series of the batch has a fact");
            (series, first, times.max().unwrap_or(first))
        })
        .collect();
    let loaded = series::load(&asked, connection).await?;
    for ((series, fresh), loaded) in by_series.iter().zip(loaded) {
        let partition = || fresh[0].partition.clone();
        let definition = meters
            .get(series.meter)
            .ok_or_else(|| FactError::MeterUnknown { partition: partition(), meter: series.meter })?;
        let facts = fresh.iter().map(|fresh| fresh.fact);
        change
            .add_series(series, definition, loaded, facts, locked.through)
            .map_err(|source| FactError::Evaluation { partition: partition(), source })?;
    }
    Ok(())
}

/// Locks a bucket's row, made if it is the first time, and takes the next number.
async fn lock_bucket(bucket: Bucket, now: Timestamp, connection: &mut PgConnection) -> Result<LockedBucket, FactError> {
    let number = bucket.number().cast_signed();
    let through = DateTime::<Utc>::from(now.hour().start());
    sqlx::query(ADD_BUCKETS).bind(vec![number]).bind(through).execute(&mut *connection).await?;
    let locked = lock_buckets(&[number], connection).await?;
    let mut locked = locked.into_iter();
    let mut bucket = locked.next().expect("the row was just made sure of");
    bucket.sequence += 1;
    sqlx::query(BUMP_BUCKETS).bind(vec![number]).execute(connection).await?;
    Ok(bucket)
}

/// Locks the rows of these buckets, in order; those that were never rolled up have none.
async fn lock_buckets(numbers: &[i16], connection: &mut PgConnection) -> Result<Vec<LockedBucket>, FactError> {
    let rows: Vec<(i16, i64, DateTime<Utc>)> = sqlx::query_as(LOCK_BUCKETS).bind(numbers).fetch_all(connection).await?;
    let locked = rows.into_iter().map(|(number, sequence, through)| LockedBucket {
        bucket: Bucket::new(number.cast_unsigned()).expect("a constraint: a bucket is below 32"),
        sequence,
        through: Timestamp::from(through).hour(),
    });
    Ok(locked.collect())
}

/// Locks these generations, made if they are new, and returns which generation of each export is in force.
async fn lock_exports(
    exports: &BTreeSet<(&str, i64)>,
    now: Timestamp,
    connection: &mut PgConnection,
) -> Result<HashMap<String, u64>, FactError> {
    if exports.is_empty() {
        return Ok(HashMap::new());
    }
    let (scopes, numbers): (Vec<&str>, Vec<i64>) = exports.iter().copied().unzip();
    let now = DateTime::<Utc>::from(now);
    sqlx::query(ADD_EXPORTS).bind(&scopes).bind(&numbers).bind(now).execute(&mut *connection).await?;
    let rows: Vec<(String, i64, bool)> = sqlx::query_as(LOCK_EXPORTS).bind(&scopes).fetch_all(connection).await?;
    let in_force = rows.into_iter().filter(|(_, _, in_force)| *in_force);
    Ok(in_force.map(|(scope, number, _)| (scope, number.cast_unsigned())).collect())
}

/// Counts what was seen of each generation; returns the exports of which one is complete that is later than the one in force.
async fn count_exports(
    fresh: &[Fresh<'_>],
    now: Timestamp,
    connection: &mut PgConnection,
) -> Result<BTreeSet<String>, FactError> {
    let mut seen = BTreeMap::<(&str, i64), i64>::new();
    for Fresh { fact, is_new_key, .. } in fresh {
        let Some(export) = &fact.key.export else { continue };
        let is_row = !matches!(fact.value, FactValue::ExportEnd { .. });
        *seen.entry((&export.scope, export.number.cast_signed())).or_default() += i64::from(is_row && *is_new_key);
    }
    if seen.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (names, counts): (Vec<(&str, i64)>, Vec<i64>) = seen.into_iter().unzip();
    let (scopes, numbers): (Vec<&str>, Vec<i64>) = names.into_iter().unzip();
    sqlx::query(COUNT_EXPORTS)
        .bind(&scopes)
        .bind(numbers)
        .bind(counts)
        .bind(DateTime::<Utc>::from(now))
        .execute(&mut *connection)
        .await?;
    let complete: Vec<String> = sqlx::query_scalar(COMPLETE_EXPORTS).bind(Some(scopes)).fetch_all(connection).await?;
    Ok(complete.into_iter().collect())
}
