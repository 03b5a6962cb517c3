//! What is written down outside the database, where not even its owner can change it: the heads of every day, and months
//! that are past 90 days.
//!
//! | object | holds |
//! |---|---|
//! | `heads/2026-11-22.json` | the head of every chain on that day: the witness of [`super::verify`] |
//! | `events/2026-08/<chain>.jsonl.gz` | a month's events of one chain, one JSON object a line, as they were hashed; the platform's chain is `_platform` |
//! | `events/2026-08/index.json` | which chains that month has, with counts and SHA-256; written last, so a month with an index is whole |
//!
//! Every object is written once. A second writer of the same object finds it there and leaves it.

use std::future::Future;
use std::io::Write as _;

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use ingest::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use thiserror::Error;

use super::chain::ChainedEvent;
use super::verify::{Head, VerifyError, Witness, event, heads};

/// Months are archived when their last day is so long past.
pub const ARCHIVED_AFTER_DAYS: i64 = 90;

/// The chains that have events in a month.
pub(crate) const CHAINS_OF_MONTH: &str = "select distinct chain from audit_events \
     where occurred_at >= $1 and occurred_at < $2 order by 1";

/// The events of a chain in a month, after one, in order.
pub(crate) const EVENTS_OF_MONTH: &str = "select chain, sequence, (extract(epoch from occurred_at) * 1000000)::bigint as micros, \
     recorded_by, actor, action, subject, details::text as details, encode(previous_hash, 'hex') as previous_hash, \
     encode(hash, 'hex') as hash from audit_events \
     where occurred_at >= $1 and occurred_at < $2 and chain = $3 and sequence > $4 order by sequence limit 5000";

/// The first event of all.
pub(crate) const FIRST: &str = "select min(occurred_at) from audit_events";

/// A place where objects are written once and kept.
pub trait Archive: Send + Sync {
    /// Writes an object unless one of this name is there. Returns whether it was written.
    fn put_once(&self, name: &str, bytes: Vec<u8>) -> impl Future<Output = Result<bool, ArchiveError>> + Send;

    /// The names that begin like this, sorted.
    fn names(&self, prefix: &str) -> impl Future<Output = Result<Vec<String>, ArchiveError>> + Send;

    /// The bytes of an object.
    fn get(&self, name: &str) -> impl Future<Output = Result<Vec<u8>, ArchiveError>> + Send;
}

/// Why nothing was archived or read. What was written before stays.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The place failed. Retry.
    #[error("cannot use the archive ({name}): {source}")]
    Place {
        /// The object.
        name: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stop: an object holds what we never write.
    #[error("the archived object {0} cannot be read")]
    Malformed(String),
    /// PostgreSQL failed. Retry when it was away.
    #[error(transparent)]
    Database(#[from] VerifyError),
}

impl ArchiveError {
    /// The place failed at this object.
    pub fn at(name: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Place { name: name.to_owned(), source: source.into() }
    }
}

impl From<sqlx::Error> for ArchiveError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The heads of one day.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DailyHeads {
    taken_at: String,
    heads: Vec<Head>,
}

/// What a month has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MonthIndex {
    month: String,
    chains: Vec<MonthChain>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MonthChain {
    chain: String,
    events: u64,
    /// Of the compressed object.
    sha256: String,
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// The day whose heads were written; `None` when they were there.
    pub day: Option<String>,
    /// Months written whole.
    pub months: Vec<String>,
}

/// Writes down the heads of today, once a day, and the months that are due. The connection is the operator's.
pub async fn archive(
    connection: &mut PgConnection,
    place: &impl Archive,
    now: Timestamp,
) -> Result<Archived, ArchiveError> {
    let mut archived = Archived::default();
    let today = DateTime::<Utc>::from(now).date_naive();
    let name = format!("heads/{today}.json");
    let daily = DailyHeads { taken_at: now.to_string(), heads: heads(connection).await? };
    // The head of an event that the database could still lose would break the chain for ever.
    billing::wait_for_disk(connection).await?;
    if place.put_once(&name, json(&daily)).await? {
        archived.day = Some(today.to_string());
    }
    let first: Option<DateTime<Utc>> = sqlx::query_scalar(FIRST).persistent(false).fetch_one(&mut *connection).await?;
    let Some(first) = first else { return Ok(archived) };
    let mut month = first_of_month(first.date_naive());
    while let Some(end) = month.checked_add_months(Months::new(1)) {
        if today.signed_duration_since(end).num_days() < ARCHIVED_AFTER_DAYS {
            break;
        }
        if archive_month(connection, place, month, end).await? {
            archived.months.push(month.format("%Y-%m").to_string());
        }
        month = end;
    }
    Ok(archived)
}

fn first_of_month(day: NaiveDate) -> NaiveDate {
    day.with_day(1).expect("every month has a first day")
}

async fn archive_month(
    connection: &mut PgConnection,
    place: &impl Archive,
    month: NaiveDate,
    end: NaiveDate,
) -> Result<bool, ArchiveError> {
    let folder = format!("events/{}", month.format("%Y-%m"));
    let index_name = format!("{folder}/index.json");
    if !place.names(&index_name).await?.is_empty() {
        return Ok(false);
    }
    let midnight = |day: NaiveDate| day.and_time(chrono::NaiveTime::MIN).and_utc();
    let (start, end) = (midnight(month), midnight(end));
    let chains: Vec<String> =
        sqlx::query_scalar(CHAINS_OF_MONTH).bind(start).bind(end).persistent(false).fetch_all(&mut *connection).await?;
    let mut index = MonthIndex { month: month.format("%Y-%m").to_string(), chains: Vec::new() };
    for chain in chains {
        let mut file = GzEncoder::new(Vec::new(), Compression::default());
        let mut events = 0;
        let mut after = 0;
        loop {
            let page: Vec<ChainedEvent> = sqlx::query(EVENTS_OF_MONTH)
                .bind(start)
                .bind(end)
                .bind(&chain)
                .bind(after)
                .persistent(false)
                .try_map(|row: PgRow| event(&row))
                .fetch_all(&mut *connection)
                .await?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            for event in &page {
                let mut line = json(event);
                line.push(b'\n');
                file.write_all(&line).expect("memory takes what is written");
                events += 1;
            }
        }
        let bytes = file.finish().expect("memory takes what is written");
        let sha256 = hex::encode(Sha256::digest(&bytes));
        place.put_once(&format!("{folder}/{}.jsonl.gz", object_name(&chain)), bytes).await?;
        index.chains.push(MonthChain { chain, events, sha256 });
    }
    place.put_once(&index_name, json(&index)).await
}

/// No customer's id has an underscore.
fn object_name(chain: &str) -> &str {
    if chain.is_empty() { "_platform" } else { chain }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("made of strings and numbers")
}

/// The heads of every day that was written down.
pub async fn witnesses(place: &impl Archive) -> Result<Vec<Witness>, ArchiveError> {
    let mut witnesses = Vec::new();
    for name in place.names("heads/").await? {
        let bytes = place.get(&name).await?;
        let daily: DailyHeads = serde_json::from_slice(&bytes).map_err(|_| ArchiveError::Malformed(name.clone()))?;
        witnesses.push(Witness { name, heads: daily.heads });
    }
    Ok(witnesses)
}
