//! Closes in PostgreSQL: added whole, in one transaction, and never changed.

use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use sqlx::PgPool;

use super::closing::Override;
use super::period::Period;
use super::totals::{ClosedTotal, CustomerTotals};
use super::{TotalKey, evidence};
use crate::directory::CustomerId;
use crate::receipts::SourceClass;
use crate::usage_rows::DatabaseError;

/// Rows of closed totals in one statement.
const ROWS_TOGETHER: usize = 8_192;

/// A close as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredClose {
    /// Its number in the database.
    pub close_id: i64,
    /// Whose.
    pub customer: CustomerId,
    /// The first day of its period.
    pub period_start: NaiveDate,
    /// Which cut of the period, from 1.
    pub cut: i32,
    /// What its sources promise together.
    pub class: SourceClass,
    /// Who closed although something was missing, and why.
    pub overridden: Option<Override>,
    /// When the cut was made.
    pub cut_at: Timestamp,
    /// SHA-256 of its evidence.
    pub evidence_sha256: [u8; 32],
    /// SHA-256 over its totals; `None` for one made before these were kept.
    pub totals_sha256: Option<[u8; 32]>,
}

/// What a close adds.
pub(super) struct NewClose<'a> {
    pub(super) customer: &'a CustomerId,
    pub(super) period: Period,
    pub(super) cut: i32,
    pub(super) class: SourceClass,
    pub(super) overridden: Option<&'a Override>,
    pub(super) directory_version: i64,
    pub(super) cut_at: Timestamp,
    pub(super) totals: &'a CustomerTotals,
    pub(super) totals_sha256: [u8; 32],
    pub(super) document: &'a [u8],
    pub(super) actor: &'a str,
    /// What was missing, one a line, for the audit.
    pub(super) blockers: String,
}

/// The closes of a customer's period, oldest cut first.
pub async fn closes_of(
    pool: &PgPool,
    customer: &CustomerId,
    period: Period,
) -> Result<Vec<StoredClose>, DatabaseError> {
    let rows: Vec<CloseRow> =
        sqlx::query_as(CLOSES).bind(customer.as_str()).bind(period.first_day()).fetch_all(pool).await?;
    Ok(rows.into_iter().map(CloseRow::close).collect())
}

/// The evidence of a close: its canonical bytes, compressed with gzip.
pub async fn evidence_of(pool: &PgPool, close_id: i64) -> Result<Option<Vec<u8>>, DatabaseError> {
    Ok(sqlx::query_scalar(EVIDENCE).bind(close_id).fetch_optional(pool).await?)
}

/// Customers whose contract began before the end of a period, by id.
pub(super) async fn customers_of(pool: &PgPool, period: Period) -> Result<Vec<CustomerId>, DatabaseError> {
    let end = DateTime::<Utc>::from(period.end());
    let ids: Vec<String> = sqlx::query_scalar(CUSTOMERS).bind(end).fetch_all(pool).await?;
    let parse = |id: String| CustomerId::parse(&id).expect("a constraint: a customer id has this form");
    Ok(ids.into_iter().map(parse).collect())
}

/// Adds a close with everything that belongs to it.
pub(super) async fn add(pool: &PgPool, new: &NewClose<'_>) -> Result<[u8; 32], DatabaseError> {
    let sha256 = evidence::sha256(new.document);
    let mut transaction = pool.begin().await?;
    let close_id: i64 = sqlx::query_scalar(ADD_CLOSE)
        .bind(new.customer.as_str())
        .bind(new.period.first_day())
        .bind(new.period.end_day())
        .bind(new.cut)
        .bind(new.class.as_str())
        .bind(new.overridden.map(|overridden| overridden.by.as_str()))
        .bind(new.overridden.map(|overridden| overridden.because.as_str()))
        .bind(new.directory_version)
        .bind(DateTime::<Utc>::from(new.cut_at))
        .bind(sha256.as_slice())
        .bind(new.totals_sha256.as_slice())
        .fetch_one(&mut *transaction)
        .await?;
    let totals: Vec<(&TotalKey, &ClosedTotal)> = new.totals.totals.iter().collect();
    for rows in totals.chunks(ROWS_TOGETHER) {
        let column = |text: fn(&TotalKey) -> &str| rows.iter().map(|(key, _)| text(key)).collect::<Vec<&str>>();
        let windows: Vec<DateTime<Utc>> = rows.iter().map(|(key, _)| key.window.start().into()).collect();
        let amounts: Vec<String> = rows.iter().map(|(_, closed)| closed.total.to_string()).collect();
        let hashes: Vec<&[u8]> = rows.iter().map(|(_, closed)| closed.identities_sha256.as_slice()).collect();
        sqlx::query(ADD_TOTALS)
            .bind(close_id)
            .bind(new.customer.as_str())
            .bind(column(|key| key.account.as_str()))
            .bind(column(|key| key.meter.as_str()))
            .bind(column(|key| &key.region))
            .bind(column(|key| &key.category))
            .bind(windows)
            .bind(amounts)
            .bind(hashes)
            .execute(&mut *transaction)
            .await?;
    }
    sqlx::query(ADD_EVIDENCE)
        .bind(close_id)
        .bind(new.customer.as_str())
        .bind(sha256.as_slice())
        .bind(evidence::compressed(new.document))
        .execute(&mut *transaction)
        .await?;
    sqlx::query(AUDIT)
        .bind(new.customer.as_str())
        .bind(new.actor)
        .bind(if new.overridden.is_some() { "close.overridden" } else { "close.made" })
        .bind(format!("{} cut {}", new.period, new.cut))
        .bind(new.class.as_str())
        .bind(hex::encode(sha256))
        .bind(new.overridden.map(|overridden| overridden.because.as_str()))
        .bind(&new.blockers)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(sha256)
}

#[derive(sqlx::FromRow)]
struct CloseRow {
    close_id: i64,
    customer_id: String,
    period_start: NaiveDate,
    cut: i32,
    source_class: String,
    overridden_by: Option<String>,
    override_reason: Option<String>,
    cut_at: DateTime<Utc>,
    evidence_sha256: Vec<u8>,
    totals_sha256: Option<Vec<u8>>,
}

impl CloseRow {
    fn close(self) -> StoredClose {
        let hash = |bytes: Vec<u8>| bytes.try_into().expect("a constraint: a SHA-256");
        let overridden = self.overridden_by.zip(self.override_reason);
        StoredClose {
            close_id: self.close_id,
            customer: CustomerId::parse(&self.customer_id).expect("a constraint: a customer id has this form"),
            period_start: self.period_start,
            cut: self.cut,
            class: SourceClass::parse(&self.source_class).expect("a constraint: the class is known"),
            overridden: overridden.map(|(by, because)| Override { by, because }),
            cut_at: self.cut_at.into(),
            evidence_sha256: hash(self.evidence_sha256),
            totals_sha256: self.totals_sha256.map(hash),
        }
    }
}

const CUSTOMERS: &str = "select customer_id from customers where contract_start < $1 order by customer_id";

const CLOSES: &str = "
    select close_id, customer_id, period_start, cut, source_class, overridden_by, override_reason, cut_at,
        evidence_sha256, totals_sha256
    from closes where customer_id = $1 and period_start = $2 order by cut";

const EVIDENCE: &str = "select document from evidence_records where close_id = $1";

const ADD_CLOSE: &str = "
    insert into closes (
        customer_id, period_start, period_end, cut, source_class, overridden_by, override_reason, directory_version,
        cut_at, evidence_sha256, totals_sha256)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    returning close_id";

const ADD_TOTALS: &str = "
    insert into closed_totals (
        close_id, customer_id, account_id, meter, region, category, window_start, total, identities)
    select $1, $2, account_id, meter, region, category, window_start, total::numeric, identities
    from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::bytea[])
        as i (account_id, meter, region, category, window_start, total, identities)";

const ADD_EVIDENCE: &str =
    "insert into evidence_records (close_id, customer_id, sha256, document) values ($1, $2, $3, $4)";

const AUDIT: &str = "
    select record_audit_event($1, $2, $3, $4, jsonb_build_object(
        'class', $5::text, 'evidence_sha256', $6::text, 'reason', $7::text, 'missing', left($8::text, 20000)))";

pub(super) const STATEMENTS: &[&str] = &[CUSTOMERS, CLOSES, EVIDENCE, ADD_CLOSE, ADD_TOTALS, ADD_EVIDENCE, AUDIT];
