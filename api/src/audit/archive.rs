//! What is written down outside the database, where not even its owner can change it: the heads of every day, and months
//! that are past 90 days.
//!
//! | object | holds |
//! |---|---|
//! | `heads/2026-11-22.json` | the head of every chain on that day: the witness of [`super::verify`] |
//! | `events/2026-08/<chain>.jsonl.gz` | a month's events of one chain, one JSON object a line, as they were hashed; the platform's chain is `_platform` |
//! | `events/2026-08/index.json` | which chains that month has, with counts and SHA-256; written last, so a month with an index is whole |
//!
//! Every object is written once. A second writer of the same object finds it there, and leaves it if it says what it may:
//! anything else is an error, because somebody else wrote it.

use std::future::Future;
use std::io::{Read as _, Write as _};

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use flate2::Compression;
use flate2::read::GzDecoder;
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

/// Heads that were written down and are not the trail's: of another event, or of none.
pub(crate) const STRANGE_HEADS: &str = "select count(*) from unnest($1::text[], $2::bigint[], $3::text[]) as w (chain, sequence, hash) \
     where w.sequence > 0 and not exists (select from audit_events e \
         where e.chain = w.chain and e.sequence = w.sequence and encode(e.hash, 'hex') = w.hash)";

/// Chains that had events before an instant and are not among these.
pub(crate) const UNNAMED_CHAINS: &str = "select count(*) from audit_heads h where h.chain <> all ($1::text[]) \
     and exists (select from audit_events e where e.chain = h.chain and e.occurred_at < $2)";

/// The clock of the database and of whoever archives differ by less.
const CLOCKS_DIFFER_SECS_MAX: i64 = 300;

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
    /// Stop, and look who writes there: an object that is written once says something else than the trail.
    #[error("the archived object {0} is not of this trail: somebody else wrote it, or the trail was changed")]
    Strange(String),
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
pub(super) struct MonthIndex {
    pub(super) month: String,
    pub(super) chains: Vec<MonthChain>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MonthChain {
    pub(super) chain: String,
    pub(super) events: u64,
    /// Of the compressed object.
    pub(super) sha256: String,
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
    let mut strange = false;
    if place.put_once(&name, json(&daily)).await? {
        archived.day = Some(today.to_string());
    } else {
        strange = !stands_for_us(connection, &place.get(&name).await?, today, now).await?;
    }
    let first: Option<DateTime<Utc>> = sqlx::query_scalar(FIRST).persistent(false).fetch_one(&mut *connection).await?;
    let mut month = first_of_month(first.map_or(today, |first| first.date_naive()));
    while let Some(end) = month.checked_add_months(Months::new(1)) {
        if today.signed_duration_since(end).num_days() < ARCHIVED_AFTER_DAYS {
            break;
        }
        if archive_month(connection, place, month, end).await? {
            archived.months.push(month.format("%Y-%m").to_string());
        }
        month = end;
    }
    if strange { Err(ArchiveError::Strange(name)) } else { Ok(archived) }
}

/// Whether heads that stand there already can be what we wrote earlier that day.
async fn stands_for_us(
    connection: &mut PgConnection,
    bytes: &[u8],
    day: NaiveDate,
    now: Timestamp,
) -> Result<bool, ArchiveError> {
    let Ok(daily) = serde_json::from_slice::<DailyHeads>(bytes) else { return Ok(false) };
    let Ok(taken_at) = Timestamp::parse_rfc3339(&daily.taken_at) else { return Ok(false) };
    let latest = now.saturating_add_secs(CLOCKS_DIFFER_SECS_MAX);
    if DateTime::<Utc>::from(taken_at).date_naive() != day || latest < taken_at {
        return Ok(false);
    }
    let chains: Vec<&str> = daily.heads.iter().map(|head| head.chain.as_str()).collect();
    let hashes: Vec<&str> = daily.heads.iter().map(|head| head.hash.as_str()).collect();
    let sequences: Vec<i64> = daily.heads.iter().map(|head| head.sequence).collect();
    let strange = sqlx::query_scalar(STRANGE_HEADS).bind(&chains).bind(sequences).bind(hashes).persistent(false);
    let strange: i64 = strange.fetch_one(&mut *connection).await?;
    let before = DateTime::<Utc>::from(taken_at.saturating_add_secs(-CLOCKS_DIFFER_SECS_MAX));
    let unnamed = sqlx::query_scalar(UNNAMED_CHAINS).bind(chains).bind(before).persistent(false);
    let unnamed: i64 = unnamed.fetch_one(connection).await?;
    Ok(strange == 0 && unnamed == 0)
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
        let mut lines = Sha256::new();
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
                lines.update(&line);
                file.write_all(&line).expect("memory takes what is written");
                events += 1;
            }
        }
        let bytes = file.finish().expect("memory takes what is written");
        let name = format!("{folder}/{}.jsonl.gz", object_name(&chain));
        let mut sha256 = hex::encode(Sha256::digest(&bytes));
        if !place.put_once(&name, bytes).await? {
            // An attempt that was cut short left it. Another version of the compressor may write other bytes, never other events.
            let standing = place.get(&name).await?;
            if inflated_sha256(&standing) != Some(lines.finalize().into()) {
                return Err(ArchiveError::Strange(name));
            }
            sha256 = hex::encode(Sha256::digest(&standing));
        }
        index.chains.push(MonthChain { chain, events, sha256 });
    }
    place.put_once(&index_name, json(&index)).await
}

/// Of what is in a gzip file; `None` for another file.
fn inflated_sha256(bytes: &[u8]) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut inflating = GzDecoder::new(bytes);
    let mut part = vec![0; 65_536];
    loop {
        match inflating.read(&mut part).ok()? {
            0 => return Some(hash.finalize().into()),
            count => hash.update(&part[..count]),
        }
    }
}

/// No customer's id has an underscore.
pub(super) fn object_name(chain: &str) -> &str {
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
