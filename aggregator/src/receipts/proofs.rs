//! Proofs, recorded once with what they expect, which is marked as it gets done.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use ingest::{AccountId, Identity, RunId, Timestamp, Window};
use sqlx::{PgConnection, PgPool};
use thiserror::Error;

use super::done::{ReceiptError, Receipts};
use super::proof::Proof;
use crate::close::{Cut, PrefixError, read_hour};
use crate::commit_log::CommitLog;
use crate::partition::Partition;
use crate::usage_rows::DatabaseError;

/// Expected objects and hours looked up together.
const LOOK_UPS_AT_ONCE: usize = 16;
/// Expected objects of one page.
const PAGE: i64 = 512;

/// Why proofs were not recorded. Nothing was written.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Stop: what it says cannot be, such as a stretch that ends before it begins.
    #[error("{name} covers no stretch of time")]
    Malformed {
        /// Its delivered name.
        name: String,
    },
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for RecordError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Why it was not found out what is done. What was marked before stays marked.
#[derive(Debug, Error)]
pub enum RefreshError {
    /// As it says.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The logs of an hour cannot be read, or cannot be trusted.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for RefreshError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// What a look at everything expected found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Expected objects and units that turned out to be done.
    pub done: u64,
    /// Those that still wait.
    pub waiting: u64,
}

/// The proofs in a database, written as `securebase_aggregator`.
#[derive(Clone, Debug)]
pub struct Proofs {
    pool: PgPool,
}

impl Proofs {
    /// The proofs behind a pool of connections of `securebase_aggregator`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Records proofs with what they expect, all or none; returns how many were new. Saying the same again changes nothing,
    /// in whatever order they come. One whose name is recorded with another content breaks its lane: one of the two is not
    /// what was delivered, and nothing tells which.
    pub async fn record(&self, proofs: &[Proof], now: Timestamp) -> Result<usize, RecordError> {
        for proof in proofs {
            if proof.covers.1 <= proof.covers.0 {
                return Err(RecordError::Malformed { name: proof.name.clone() });
            }
        }
        let mut transaction = self.pool.begin().await?;
        // Lanes are locked in one order by everyone.
        let lanes: BTreeSet<(&str, &str, &str)> =
            proofs.iter().map(|proof| (proof.meter.as_str(), proof.account.as_str(), proof.lane.as_str())).collect();
        for (meter, account, lane) in lanes {
            sqlx::query(ADD_LANE).bind(meter).bind(account).bind(lane).execute(&mut *transaction).await?;
            sqlx::query(LOCK_LANE).bind(meter).bind(account).bind(lane).execute(&mut *transaction).await?;
        }
        let mut new = 0;
        for proof in proofs {
            new += usize::from(record_one(proof, now, &mut transaction).await?);
        }
        transaction.commit().await?;
        Ok(new)
    }

    /// Looks at everything that is expected and not done, and marks what is.
    pub async fn refresh<L: CommitLog>(
        &self,
        receipts: &Receipts,
        log: &L,
        now: Timestamp,
    ) -> Result<Refreshed, RefreshError> {
        let objects = self.refresh_objects(receipts, now).await?;
        let usage = self.refresh_usage(receipts, log, now).await?;
        Ok(Refreshed { done: objects.done + usage.done, waiting: objects.waiting + usage.waiting })
    }

    async fn refresh_objects(&self, receipts: &Receipts, now: Timestamp) -> Result<Refreshed, RefreshError> {
        let mut refreshed = Refreshed::default();
        let mut after = (0, String::new());
        loop {
            let page: Vec<WaitingObject> =
                sqlx::query_as(WAITING_OBJECTS).bind(after.0).bind(&after.1).bind(PAGE).fetch_all(&self.pool).await?;
            let Some(last) = page.last() else { return Ok(refreshed) };
            after = (last.proof_id, last.name.clone());
            // Collected first: the compiler cannot tell that a closure over references is as general as a task needs.
            let looks: Vec<_> = page.iter().map(|object| look_up(receipts, object)).collect();
            let looked_at: Vec<(&WaitingObject, Option<RunId>)> =
                stream::iter(looks).buffered(LOOK_UPS_AT_ONCE).try_collect().await?;
            let done = || looked_at.iter().filter_map(|(object, run)| Some((object, (*run)?)));
            let proofs: Vec<i64> = done().map(|(object, _)| object.proof_id).collect();
            let names: Vec<&str> = done().map(|(object, _)| object.name.as_str()).collect();
            let runs: Vec<Vec<u8>> = done().map(|(_, run)| run.as_bytes().to_vec()).collect();
            let marked =
                sqlx::query(MARK_OBJECTS).bind(&proofs).bind(&names).bind(&runs).bind(DateTime::<Utc>::from(now));
            refreshed.done += marked.execute(&self.pool).await?.rows_affected();
            refreshed.waiting += (page.len() - proofs.len()) as u64;
        }
    }

    async fn refresh_usage<L: CommitLog>(
        &self,
        receipts: &Receipts,
        log: &L,
        now: Timestamp,
    ) -> Result<Refreshed, RefreshError> {
        let waiting: Vec<WaitingUsage> = sqlx::query_as(WAITING_USAGE).fetch_all(&self.pool).await?;
        let mut by_place = BTreeMap::<Partition, Vec<WaitingUsage>>::new();
        let mut refreshed = Refreshed::default();
        for unit in waiting {
            let account = AccountId::parse(&unit.account_id).expect("a constraint: an account id has 12 digits");
            let root = Partition::root(account.bucket(), Window::Hour(Timestamp::from(unit.window_start).hour()));
            by_place.entry(root).or_default().push(unit);
        }
        for (root, units) in by_place {
            let counted = read_hour(log, root, Cut::End).await?;
            // What is counted is done once usage rows hold it.
            let names: Vec<String> = counted.versions.keys().map(ToString::to_string).collect();
            let cursors = receipts.rows.cursors(&names).await?;
            let is_rolled_up =
                counted.versions.iter().zip(&names).all(|((_, version), name)| *version <= cursors[name]);
            let is_counted = |unit: &&WaitingUsage| {
                let Ok(identity) = <[u8; 16]>::try_from(unit.identity.as_slice()) else { return false };
                let identity = Identity::from_bytes(identity);
                let of_account = counted.counters.iter().filter(|(counter, _)| {
                    counter.meter.as_str() == unit.meter && counter.account.as_str() == unit.account_id
                });
                is_rolled_up && of_account.into_iter().any(|(_, known)| known.binary_search(&identity).is_ok())
            };
            let done: Vec<&WaitingUsage> = units.iter().filter(is_counted).collect();
            let proofs: Vec<i64> = done.iter().map(|unit| unit.proof_id).collect();
            let windows: Vec<DateTime<Utc>> = done.iter().map(|unit| unit.window_start).collect();
            let identities: Vec<&[u8]> = done.iter().map(|unit| unit.identity.as_slice()).collect();
            let marked = sqlx::query(MARK_USAGE).bind(&proofs).bind(&windows).bind(&identities);
            refreshed.done += marked.bind(DateTime::<Utc>::from(now)).execute(&self.pool).await?.rows_affected();
            refreshed.waiting += (units.len() - done.len()) as u64;
        }
        Ok(refreshed)
    }
}

/// The run by which an expected object is done, if it is.
async fn look_up<'a>(
    receipts: &Receipts,
    object: &'a WaitingObject,
) -> Result<(&'a WaitingObject, Option<RunId>), ReceiptError> {
    let content = object.content_sha256.as_slice().try_into().expect("a constraint: a SHA-256");
    Ok((object, receipts.done_by(&object.file_name, content).await?))
}

/// Records one proof; `false` if it is recorded already.
async fn record_one(proof: &Proof, now: Timestamp, connection: &mut PgConnection) -> Result<bool, RecordError> {
    let time = |instant: Timestamp| DateTime::<Utc>::from(instant);
    let (meter, account, lane) = (proof.meter.as_str(), proof.account.as_str(), proof.lane.as_str());
    let file = file_name(&proof.name);
    let previous = proof.previous.as_ref();
    let added: Option<i64> = sqlx::query_scalar(ADD_PROOF)
        .bind(meter)
        .bind(account)
        .bind(lane)
        .bind(&proof.name)
        .bind(file)
        .bind(proof.content_sha256.as_slice())
        .bind(time(proof.covers.0))
        .bind(time(proof.covers.1))
        .bind(proof.is_backfill)
        .bind(previous.map(|previous| file_name(&previous.name)))
        .bind(previous.map(|previous| previous.content_sha256.as_slice()))
        .bind(proof.is_signature_checked)
        .bind(time(now))
        .fetch_optional(&mut *connection)
        .await?;
    let Some(proof_id) = added else {
        let broken = sqlx::query(BREAK_LANE).bind(meter).bind(account).bind(lane).bind(file);
        let broken = broken.bind(proof.content_sha256.as_slice()).execute(connection).await?;
        if 0 < broken.rows_affected() {
            tracing::error!(name = proof.name, "a proof was recorded with another content; its lane is broken there");
        }
        return Ok(false);
    };
    if !proof.objects.is_empty() {
        let names: Vec<&str> = proof.objects.iter().map(|object| object.name.as_str()).collect();
        let files: Vec<&str> = names.iter().map(|name| file_name(name)).collect();
        let hashes: Vec<&[u8]> = proof.objects.iter().map(|object| object.content_sha256.as_slice()).collect();
        let first: Vec<_> =
            proof.objects.iter().map(|object| object.event_times.map(|(first, _)| time(first))).collect();
        let last: Vec<_> = proof.objects.iter().map(|object| object.event_times.map(|(_, last)| time(last))).collect();
        let add = sqlx::query(ADD_OBJECTS).bind(proof_id).bind(names).bind(files).bind(hashes).bind(first).bind(last);
        add.execute(&mut *connection).await?;
    }
    if !proof.usage.is_empty() {
        let windows: Vec<_> = proof.usage.iter().map(|unit| time(unit.hour.start())).collect();
        let identities: Vec<&[u8]> = proof.usage.iter().map(|unit| unit.identity.as_bytes().as_slice()).collect();
        let add = sqlx::query(ADD_USAGE).bind(proof_id).bind(windows).bind(identities);
        add.execute(&mut *connection).await?;
    }
    sqlx::query(EXTEND_LANE).bind(proof_id).execute(connection).await?;
    Ok(true)
}

/// The last part of a delivered name: what it keeps wherever a copy of it lies.
fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

#[derive(sqlx::FromRow)]
struct WaitingObject {
    proof_id: i64,
    name: String,
    file_name: String,
    content_sha256: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct WaitingUsage {
    proof_id: i64,
    meter: String,
    account_id: String,
    window_start: DateTime<Utc>,
    identity: Vec<u8>,
}

const ADD_LANE: &str = "insert into source_lanes (meter, account_id, lane) values ($1, $2, $3) on conflict do nothing";

const LOCK_LANE: &str = "select lane from source_lanes where meter = $1 and account_id = $2 and lane = $3 for update";

const ADD_PROOF: &str = "
    insert into source_proofs (
        meter, account_id, lane, name, file_name, content_sha256, covers_from, covers_until, is_backfill,
        previous_file_name, previous_sha256, is_signature_checked, recorded_at)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
    on conflict (meter, account_id, lane, file_name) do nothing
    returning proof_id";

const BREAK_LANE: &str = "
    update source_lanes l set breaks = l.breaks || p.covers_from
    from source_proofs p
    where p.meter = $1 and p.account_id = $2 and p.lane = $3 and p.file_name = $4 and p.content_sha256 <> $5
        and l.meter = p.meter and l.account_id = p.account_id and l.lane = p.lane
        and p.covers_from <> all (l.breaks)";

const ADD_OBJECTS: &str = "
    insert into expected_objects (proof_id, name, file_name, content_sha256, first_event_at, last_event_at)
    select $1, * from unnest($2::text[], $3::text[], $4::bytea[], $5::timestamptz[], $6::timestamptz[])
    on conflict do nothing";

const ADD_USAGE: &str = "
    insert into expected_usage (proof_id, window_start, identity)
    select $1, * from unnest($2::timestamptz[], $3::bytea[])
    on conflict do nothing";

// The links are checked both ways, because proofs come in any order.
const EXTEND_LANE: &str = "
    update source_lanes l set
        covers = case when p.is_backfill then l.covers
            else l.covers + tstzmultirange(tstzrange(p.covers_from, p.covers_until)) end,
        starts_at = case when p.is_backfill or p.previous_file_name is not null then l.starts_at
            else least(l.starts_at, p.covers_from) end,
        breaks = l.breaks || array(
            select p.covers_from from source_proofs q
            where q.meter = p.meter and q.account_id = p.account_id and q.lane = p.lane
                and q.file_name = p.previous_file_name and q.content_sha256 <> p.previous_sha256
            union all
            select q.covers_from from source_proofs q
            where q.meter = p.meter and q.account_id = p.account_id and q.lane = p.lane
                and q.previous_file_name = p.file_name and q.previous_sha256 <> p.content_sha256)
    from source_proofs p
    where p.proof_id = $1 and l.meter = p.meter and l.account_id = p.account_id and l.lane = p.lane";

const WAITING_OBJECTS: &str = "
    select proof_id, name, file_name, content_sha256 from expected_objects
    where done_at is null and (proof_id, name) > ($1, $2)
    order by proof_id, name limit $3";

const MARK_OBJECTS: &str = "
    update expected_objects e set done_at = $4, done_run = i.run
    from unnest($1::bigint[], $2::text[], $3::bytea[]) as i (proof_id, name, run)
    where e.proof_id = i.proof_id and e.name = i.name and e.done_at is null";

const WAITING_USAGE: &str = "
    select u.proof_id, p.meter, p.account_id, u.window_start, u.identity
    from expected_usage u join source_proofs p using (proof_id)
    where u.done_at is null
    order by u.window_start, p.account_id";

const MARK_USAGE: &str = "
    update expected_usage e set done_at = $4
    from unnest($1::bigint[], $2::timestamptz[], $3::bytea[]) as i (proof_id, window_start, identity)
    where e.proof_id = i.proof_id and e.window_start = i.window_start and e.identity = i.identity
        and e.done_at is null";

pub(super) const STATEMENTS: &[&str] = &[
    ADD_LANE,
    LOCK_LANE,
    ADD_PROOF,
    BREAK_LANE,
    ADD_OBJECTS,
    ADD_USAGE,
    EXTEND_LANE,
    WAITING_OBJECTS,
    MARK_OBJECTS,
    WAITING_USAGE,
    MARK_USAGE,
];
