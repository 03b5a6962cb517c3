//! `/v1/admin`: what closes, sources and billing runs have come to. Read as the role `securebase_operator`.

use aggregator::directory::CustomerId;
use axum::Json;
use axum::extract::Path;
use billing::{Currency, Money, Month};
use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;

use crate::admin::{BAD_CURSOR, LIMIT_DEFAULT, LIMIT_MAX};
use crate::caller::Operator;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::tenant::TenantError;

/// Closes before one, newest first.
pub(crate) const CLOSES: &str = "select c.close_id, c.customer_id, c.period_start, c.period_end, c.cut, c.source_class, c.overridden_by, \
     c.override_reason, c.cut_at, encode(c.evidence_sha256, 'hex') from closes c \
     where ($1::text is null or c.customer_id = $1) and ($2::date is null or c.period_start = $2) \
     and ($3::bigint is null or c.close_id < $3) order by c.close_id desc limit $4";

/// Declared sources after one, and how far each is complete.
pub(crate) const RECEIPTS: &str = "select s.customer_id, s.meter, s.kind, s.source_class, s.lateness_seconds, s.since, \
     c.complete_through + interval '1 hour', c.waits_for, c.updated_at \
     from sources s left join completeness c on c.customer_id = s.customer_id and c.meter = s.meter \
     where ($1::text is null or s.customer_id = $1) and ($2::text is null or (s.customer_id, s.meter) > ($2, $3)) \
     order by s.customer_id, s.meter limit $4";

/// Runs before one, newest first, with how many customers came to what.
pub(crate) const RUNS: &str = "select r.run_id, r.period_start, r.is_whole, r.started_at, r.started_by, r.finished_at, coalesce(( \
         select jsonb_object_agg(o.outcome, o.customers) from ( \
             select coalesce(b.outcome, 'to be billed') as outcome, count(*) as customers \
             from billing_run_customers b where b.run_id = r.run_id group by 1) as o), '{}')::text \
     from billing_runs r where ($1::bigint is null or r.run_id < $1) order by r.run_id desc limit $2";

/// The customers of a run after one.
pub(crate) const RUN: &str = "select b.customer_id, b.outcome, b.reason, i.invoice_number, b.currency::text, b.total_minor, b.finished_at \
     from billing_run_customers b left join invoices i on i.invoice_id = b.invoice_id \
     where b.run_id = $1 and ($2::text is null or b.customer_id > $2) order by b.customer_id limit $3";

/// Whether there is such a run.
pub(crate) const RUN_EXISTS: &str = "select exists (select from billing_runs where run_id = $1)";

/// A close: what a customer's month came to at a cut.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminClose {
    id: i64,
    customer: String,
    /// First day, and first day after it.
    period_start: String,
    period_end: String,
    /// Counts the closes of a customer's month, from 1.
    cut: i32,
    /// `proven`, `reconciled` or `best effort`.
    source_class: String,
    cut_at: String,
    /// Who closed although something was missing, and why.
    overridden_by: Option<String>,
    override_reason: Option<String>,
    evidence_sha256: String,
}

/// A page of closes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminCloses {
    closes: Vec<AdminClose>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A declared source of a customer's meter, and how far it is complete.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminReceipt {
    customer: String,
    meter: String,
    /// What delivers.
    kind: String,
    source_class: String,
    lateness_seconds: i32,
    since: String,
    /// The end of the last hour through which nothing is missing; null while there is none.
    complete_through: Option<String>,
    /// What the next hour waits for; null before the first look.
    waits_for: Option<String>,
    updated_at: Option<String>,
}

/// A page of sources.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminReceipts {
    receipts: Vec<AdminReceipt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A billing run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRun {
    id: i64,
    /// `2026-10`.
    period: String,
    /// Of everyone, or of the customers that were named.
    is_whole: bool,
    started_at: String,
    started_by: String,
    /// Null while it goes on, or was interrupted.
    finished_at: Option<String>,
    /// How many customers came to what.
    #[schema(value_type = Object)]
    outcomes: Value,
}

/// A page of runs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRuns {
    runs: Vec<AdminRun>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// What a run came to for a customer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRunResult {
    customer: String,
    /// Null while it waits to be billed.
    outcome: Option<String>,
    reason: Option<String>,
    invoice: Option<String>,
    currency: Option<String>,
    /// A decimal in whole currency.
    total: Option<String>,
    finished_at: Option<String>,
}

/// A page of a run's customers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRunResults {
    results: Vec<AdminRunResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

fn instant(row: &PgRow, column: usize) -> Result<String, sqlx::Error> {
    Ok(Timestamp::from(row.try_get::<DateTime<Utc>, _>(column)?).to_string())
}

fn instant_if_any(row: &PgRow, column: usize) -> Result<Option<String>, sqlx::Error> {
    Ok(row.try_get::<Option<DateTime<Utc>>, _>(column)?.map(|at| Timestamp::from(at).to_string()))
}

fn read_customer(parameters: &Parameters) -> Result<Option<CustomerId>, Problem> {
    parameters.read("customer", |text| CustomerId::parse(text).map_err(|error| error.to_string()))
}

fn read_number(parameters: &Parameters) -> Result<Option<i64>, Problem> {
    parameters.read("cursor", |text| text.parse::<i64>().map_err(|_| BAD_CURSOR.to_owned()))
}

/// Cuts a page to its length; the last of it, if there are more.
fn cut<T>(rows: &mut Vec<T>, limit: u32) -> Option<&T> {
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    rows.last().filter(|_| has_more)
}

/// The closes, newest first. `securebase close` makes them: it can take longer than a request may.
#[utoipa::path(get, path = "/v1/admin/closes", operation_id = "admin_list_closes", tag = "operators", security(("key" = ["admin"])),
    params(
        ("customer" = Option<String>, Query, description = "Only this customer's"),
        ("period" = Option<String>, Query, description = "Only of this month, such as 2026-10", pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of closes", body = AdminCloses)))]
pub(crate) async fn closes(operator: Operator, parameters: Parameters) -> Result<Json<AdminCloses>, Problem> {
    parameters.only(&["customer", "period", "limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let customer = read_customer(&parameters)?;
    let period = parameters.read("period", |text| {
        Month::parse(text).map(Month::first_day).map_err(|_| "expected a month such as 2026-10".to_owned())
    })?;
    let mut closes = sqlx::query(CLOSES)
        .bind(customer.as_ref().map(CustomerId::as_str))
        .bind(period)
        .bind(read_number(&parameters)?)
        .bind(i64::from(limit) + 1)
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(AdminClose {
                id: row.try_get(0)?,
                customer: row.try_get(1)?,
                period_start: row.try_get::<NaiveDate, _>(2)?.to_string(),
                period_end: row.try_get::<NaiveDate, _>(3)?.to_string(),
                cut: row.try_get(4)?,
                source_class: row.try_get(5)?,
                overridden_by: row.try_get(6)?,
                override_reason: row.try_get(7)?,
                cut_at: instant(&row, 8)?,
                evidence_sha256: row.try_get(9)?,
            })
        })
        .fetch_all(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    let next_cursor = cut(&mut closes, limit).map(|last| last.id.to_string());
    Ok(Json(AdminCloses { closes, next_cursor }))
}

/// The declared sources, and how far each is complete.
#[utoipa::path(get, path = "/v1/admin/receipts", operation_id = "admin_list_receipts", tag = "operators", security(("key" = ["admin"])),
    params(
        ("customer" = Option<String>, Query, description = "Only this customer's"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of sources", body = AdminReceipts)))]
pub(crate) async fn receipts(operator: Operator, parameters: Parameters) -> Result<Json<AdminReceipts>, Problem> {
    parameters.only(&["customer", "limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let customer = read_customer(&parameters)?;
    let after = parameters.read("cursor", |text| {
        let parts = text.split_once('/').filter(|(_, meter)| !meter.contains('\0'));
        let parts = parts.and_then(|(id, meter)| Some((CustomerId::parse(id).ok()?, meter.to_owned())));
        parts.ok_or_else(|| BAD_CURSOR.to_owned())
    })?;
    let (after_customer, after_meter) = after.unzip();
    let mut receipts = sqlx::query(RECEIPTS)
        .bind(customer.as_ref().map(CustomerId::as_str))
        .bind(after_customer.as_ref().map(CustomerId::as_str))
        .bind(after_meter)
        .bind(i64::from(limit) + 1)
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(AdminReceipt {
                customer: row.try_get(0)?,
                meter: row.try_get(1)?,
                kind: row.try_get(2)?,
                source_class: row.try_get(3)?,
                lateness_seconds: row.try_get(4)?,
                since: instant(&row, 5)?,
                complete_through: instant_if_any(&row, 6)?,
                waits_for: row.try_get(7)?,
                updated_at: instant_if_any(&row, 8)?,
            })
        })
        .fetch_all(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    let next_cursor = cut(&mut receipts, limit).map(|last| format!("{}/{}", last.customer, last.meter));
    Ok(Json(AdminReceipts { receipts, next_cursor }))
}

/// The billing runs, newest first. `securebase invoice run` and the schedule make them.
#[utoipa::path(get, path = "/v1/admin/runs", operation_id = "admin_list_runs", tag = "operators", security(("key" = ["admin"])),
    params(
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of runs", body = AdminRuns)))]
pub(crate) async fn runs(operator: Operator, parameters: Parameters) -> Result<Json<AdminRuns>, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let mut runs = sqlx::query(RUNS)
        .bind(read_number(&parameters)?)
        .bind(i64::from(limit) + 1)
        .persistent(false)
        .try_map(|row: PgRow| {
            let outcomes: String = row.try_get(6)?;
            Ok(AdminRun {
                id: row.try_get(0)?,
                period: row.try_get::<NaiveDate, _>(1)?.format("%Y-%m").to_string(),
                is_whole: row.try_get(2)?,
                started_at: instant(&row, 3)?,
                started_by: row.try_get(4)?,
                finished_at: instant_if_any(&row, 5)?,
                outcomes: serde_json::from_str(&outcomes).map_err(|error| sqlx::Error::Decode(error.into()))?,
            })
        })
        .fetch_all(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    let next_cursor = cut(&mut runs, limit).map(|last| last.id.to_string());
    Ok(Json(AdminRuns { runs, next_cursor }))
}

/// What a billing run came to, customer by customer.
#[utoipa::path(get, path = "/v1/admin/runs/{run}", operation_id = "admin_get_run", tag = "operators", security(("key" = ["admin"])),
    params(
        ("run" = String, Path, description = "Its id"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of its customers", body = AdminRunResults)))]
pub(crate) async fn run(
    operator: Operator,
    Path(run): Path<String>,
    parameters: Parameters,
) -> Result<Json<AdminRunResults>, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let none = || Problem::not_found("there is no such run; `/v1/admin/runs` lists them");
    let run: i64 = run.parse().map_err(|_| none())?;
    let after = parameters.read("cursor", |text| CustomerId::parse(text).map_err(|_| BAD_CURSOR.to_owned()))?;
    let exists: bool = sqlx::query_scalar(RUN_EXISTS)
        .bind(run)
        .persistent(false)
        .fetch_one(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    if !exists {
        return Err(none());
    }
    let mut results = sqlx::query(RUN)
        .bind(run)
        .bind(after.as_ref().map(CustomerId::as_str))
        .bind(i64::from(limit) + 1)
        .persistent(false)
        .try_map(|row: PgRow| {
            let currency: Option<String> = row.try_get(4)?;
            let total_minor: Option<i64> = row.try_get(5)?;
            let known = currency.as_deref().map(Currency::parse).transpose();
            let known = known.map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            Ok(AdminRunResult {
                customer: row.try_get(0)?,
                outcome: row.try_get(1)?,
                reason: row.try_get(2)?,
                invoice: row.try_get(3)?,
                total: known.zip(total_minor).map(|(known, minor)| Money::from_minor(minor, known).to_decimal_text()),
                currency,
                finished_at: instant_if_any(&row, 6)?,
            })
        })
        .fetch_all(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    // The commits of a run are seen before the disk has them.
    let mut connection = operator.pool.acquire().await.map_err(TenantError::from)?;
    billing::wait_for_disk(&mut connection).await.map_err(TenantError::from)?;
    let next_cursor = cut(&mut results, limit).map(|last| last.customer.clone());
    Ok(Json(AdminRunResults { results, next_cursor }))
}
