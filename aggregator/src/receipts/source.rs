//! Which source feeds a customer's meter, and what it promises.

use std::fmt;

use chrono::{DateTime, Utc};
use ingest::{Hour, Meter, Timestamp};
use sqlx::PgPool;
use thiserror::Error;

use crate::directory::CustomerId;
use crate::usage_rows::DatabaseError;

/// What a source promises about being whole. In order of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceClass {
    /// Nothing: what arrives is counted, and invoices say so.
    BestEffort,
    /// A list or an export says what there should be.
    Reconciled,
    /// A signed chain names every object.
    Proven,
}

impl SourceClass {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Proven, Self::Reconciled, Self::BestEffort];

    /// The name used in SQL, on invoices and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Reconciled => "reconciled",
            Self::BestEffort => "best effort",
        }
    }

    /// Reads a class; a hyphen may stand for the space.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text.replace('-', " "))
    }
}

impl fmt::Display for SourceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one source of a customer's meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Whose usage.
    pub customer: CustomerId,
    /// Of what.
    pub meter: Meter,
    /// What delivers, such as `cloudtrail_digests`: lower-case letters, digits and underscores.
    pub kind: String,
    /// What it promises.
    pub class: SourceClass,
    /// How much later than an event its record may be delivered.
    pub lateness_seconds: u32,
    /// From when on it is expected to say everything.
    pub since: Hour,
    /// Of which trail, where several deliver; `None`: every trail that is seen must be whole.
    pub trail: Option<String>,
    /// Lanes (`REGION/TRAIL`) that every account has, besides those it is seen to have.
    pub lanes: Vec<String>,
}

/// Why a source was not declared. Nothing was written.
#[derive(Debug, Error)]
pub enum DeclareError {
    /// Stop: create the customer first.
    #[error("customer {0} does not exist")]
    UnknownCustomer(CustomerId),
    /// Stop: correct it.
    #[error("the kind of a source has 2 to 63 lower-case letters, digits and underscores, a letter first")]
    Kind,
    /// Retry or stop, as it says.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// The declared sources of a database, written as `securebase_aggregator`.
#[derive(Clone, Debug)]
pub struct Sources {
    pool: PgPool,
}

impl Sources {
    /// The sources behind a pool of connections of `securebase_aggregator`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Declares a source in the name of `actor`, in place of the one declared before. Says whether anything changed.
    pub async fn declare(&self, source: &Source, actor: &str, now: Timestamp) -> Result<bool, DeclareError> {
        let part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_word = (2..=63).contains(&source.kind.len())
            && source.kind.bytes().all(part)
            && source.kind.as_bytes()[0].is_ascii_lowercase();
        if !is_word {
            return Err(DeclareError::Kind);
        }
        let mut transaction = self.pool.begin().await.map_err(DatabaseError::from)?;
        let (customer, meter) = (source.customer.as_str(), source.meter.as_str());
        let changed: Option<bool> = sqlx::query_scalar(DECLARE)
            .bind(customer)
            .bind(meter)
            .bind(&source.kind)
            .bind(source.class.as_str())
            .bind(i64::from(source.lateness_seconds))
            .bind(DateTime::<Utc>::from(source.since.start()))
            .bind(&source.trail)
            .bind(&source.lanes)
            .bind(DateTime::<Utc>::from(now))
            .fetch_optional(&mut *transaction)
            .await
            .map_err(|error| match error.as_database_error().and_then(|error| error.code()) {
                Some(code) if code == "23503" => DeclareError::UnknownCustomer(source.customer.clone()),
                _ => DatabaseError::from(error).into(),
            })?;
        if changed.is_some() {
            sqlx::query(AUDIT)
                .bind(customer)
                .bind(actor)
                .bind(meter)
                .bind(&source.kind)
                .bind(source.class.as_str())
                .bind(i64::from(source.lateness_seconds))
                .bind(source.since.start().to_string())
                .bind(&source.trail)
                .bind(&source.lanes)
                .execute(&mut *transaction)
                .await
                .map_err(DatabaseError::from)?;
        }
        transaction.commit().await.map_err(DatabaseError::from)?;
        Ok(changed.is_some())
    }

    /// Every declared source, or those of one customer, by customer and meter.
    pub async fn list(&self, customer: Option<&CustomerId>) -> Result<Vec<Source>, DatabaseError> {
        let rows: Vec<SourceRow> =
            sqlx::query_as(LIST).bind(customer.map(CustomerId::as_str)).fetch_all(&self.pool).await?;
        // A meter that this program does not know is another version's; its usage is not ours to judge.
        Ok(rows.into_iter().filter_map(SourceRow::source).collect())
    }
}

#[derive(sqlx::FromRow)]
struct SourceRow {
    customer_id: String,
    meter: String,
    kind: String,
    source_class: String,
    lateness_seconds: i32,
    since: DateTime<Utc>,
    trail: Option<String>,
    lanes: Vec<String>,
}

impl SourceRow {
    fn source(self) -> Option<Source> {
        Some(Source {
            customer: CustomerId::parse(&self.customer_id).expect("a constraint: a customer id has this form"),
            meter: Meter::parse_stored(&self.meter).ok()?,
            kind: self.kind,
            class: SourceClass::parse(&self.source_class).expect("a constraint: the class is known"),
            lateness_seconds: self.lateness_seconds.unsigned_abs(),
            since: Timestamp::from(self.since).hour(),
            trail: self.trail,
            lanes: self.lanes,
        })
    }
}

// Says something only where something changed.
const DECLARE: &str = "
    insert into sources as s
        (customer_id, meter, kind, source_class, lateness_seconds, since, trail, lanes, declared_at)
    values ($1, $2, $3, $4, $5::int, $6, $7, $8, $9)
    on conflict (customer_id, meter) do update set
        kind = excluded.kind, source_class = excluded.source_class, lateness_seconds = excluded.lateness_seconds,
        since = excluded.since, trail = excluded.trail, lanes = excluded.lanes, declared_at = excluded.declared_at
    where (s.kind, s.source_class, s.lateness_seconds, s.since, s.trail, s.lanes)
        is distinct from
        (excluded.kind, excluded.source_class, excluded.lateness_seconds, excluded.since, excluded.trail,
            excluded.lanes)
    returning true";

const AUDIT: &str = "
    select record_audit_event($1, $2, 'source.declared', $3, jsonb_build_object(
        'kind', $4::text, 'class', $5::text, 'lateness_seconds', $6::bigint, 'since', $7::text, 'trail', $8::text,
        'lanes', $9::text[]))";

const LIST: &str = "
    select customer_id, meter, kind, source_class, lateness_seconds, since, trail, lanes
    from sources where $1::text is null or customer_id = $1
    order by customer_id, meter";

pub(super) const STATEMENTS: &[&str] = &[DECLARE, AUDIT, LIST];
