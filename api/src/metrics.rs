//! `GET /v1/metrics` and `/v1/metrics/history`: a customer's monthly totals.

use aggregator::directory::CustomerId;
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use ingest::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use crate::caller::{ReadUsage, Tenant};
use crate::completeness::{self, of_all_sql};
use crate::edge::now;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::{Statements, TenantError, TenantTransaction};

/// Months of a history.
const MONTHS_MAX: u32 = 12;

/// The totals of the months `[$1, $2]` of the customer `$3`, each as an object of decimal strings: every total the table has, by its name;
/// and in every row up to when all of the customer is complete.
pub(crate) const READ: &str = concat!(
    "select m.month, m.updated_at, \
     (select jsonb_object_agg(e.key, e.value) \
      from jsonb_each_text(to_jsonb(m) - array['customer_id', 'month', 'updated_at']) as e)::text, (",
    of_all_sql!("$3"),
    ") from usage_metrics m where m.customer_id = $3 and m.month between $1 and $2 order by m.month desc"
);

/// One month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MonthMetrics {
    /// `2026-11`, UTC.
    pub(crate) month: String,
    /// Totals in each meter's raw unit, as decimal strings; a total is null while no source of it has reported. Null
    /// altogether when nothing was counted in that month.
    #[schema(value_type = Option<Object>)]
    pub(crate) metrics: Option<Value>,
    /// When the totals last changed.
    pub(crate) updated_at: Option<String>,
    /// Up to here nothing more is expected; null while no source is proven or reconciled.
    pub(crate) complete_through: Option<String>,
}

/// The answer of `GET /v1/metrics/history`, newest first, every month of the range.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MetricsHistory {
    months: Vec<MonthMetrics>,
}

/// The totals of a month.
#[utoipa::path(get, path = "/v1/metrics", operation_id = "get_metrics", tag = "usage", security(("key" = ["read:usage"])),
    params(("month" = Option<String>, Query, description = "Such as 2026-11; the running one without", pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$")),
    responses((status = 200, description = "The month", body = MonthMetrics)))]
pub(crate) async fn month(
    tenant: Tenant<ReadUsage>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<MonthMetrics>, Problem> {
    parameters.only(&["month"])?;
    let month = parameters.read("month", read_month)?.unwrap_or_else(|| first_day(now()));
    let mut months = read(&state, &tenant, month, month).await?;
    Ok(Json(months.remove(0)))
}

/// The totals of the last months, newest first.
#[utoipa::path(get, path = "/v1/metrics/history", operation_id = "get_metrics_history", tag = "usage", security(("key" = ["read:usage"])),
    params(
        ("months" = Option<u32>, Query, description = "How many; 12 without", minimum = 1, maximum = 12),
        ("until" = Option<String>, Query, description = "The last of them, such as 2026-11; the running one without", pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$"),
    ),
    responses((status = 200, description = "Every month of the range", body = MetricsHistory)))]
pub(crate) async fn history(
    tenant: Tenant<ReadUsage>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<MetricsHistory>, Problem> {
    parameters.only(&["months", "until"])?;
    let months = parameters.read("months", |text| match text.parse() {
        Ok(months) if (1..=MONTHS_MAX).contains(&months) => Ok(months),
        _ => Err(format!("expected a whole number from 1 to {MONTHS_MAX}")),
    })?;
    let last = parameters.read("until", read_month)?.unwrap_or_else(|| first_day(now()));
    let back = Months::new(months.unwrap_or(MONTHS_MAX) - 1);
    let first = last
        .checked_sub_months(back)
        .ok_or_else(|| Problem::parameter("until", "query parameter `until`: too early"))?;
    Ok(Json(MetricsHistory { months: read(&state, &tenant, first, last).await? }))
}

/// `2026-11`, of the years in which usage can be.
fn read_month(text: &str) -> Result<NaiveDate, String> {
    let digits = text.len() == 7
        && text.bytes().enumerate().all(|(at, byte)| if at == 4 { byte == b'-' } else { byte.is_ascii_digit() });
    let month = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok();
    let month = month.filter(|month| digits && (2000..2200).contains(&month.year()));
    month.ok_or_else(|| "expected a month such as 2026-11".to_owned())
}

fn first_day(now: Timestamp) -> NaiveDate {
    DateTime::<Utc>::from(now).date_naive().with_day(1).expect("every month has a first day")
}

async fn read(
    state: &ApiState,
    tenant: &Tenant<ReadUsage>,
    first: NaiveDate,
    last: NaiveDate,
) -> Result<Vec<MonthMetrics>, Problem> {
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let read = totals(&mut transaction, &tenant.customer, first, last, state.statements).await;
    let Totals { of_months, complete_through } = read.map_err(TenantError::from)?;
    transaction.let_go();
    let mut months = Vec::new();
    let mut month = last;
    while month >= first {
        let found = of_months.iter().find(|found| found.month == month);
        months.push(MonthMetrics {
            month: month.format("%Y-%m").to_string(),
            metrics: found.map(|found| found.metrics.clone()),
            updated_at: found.map(|found| Timestamp::from(found.updated_at).to_string()),
            complete_through: complete_through.clone(),
        });
        month = month.checked_sub_months(Months::new(1)).expect("months of this range");
    }
    Ok(months)
}

/// The totals of a range of months.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Those there are, newest first.
    pub(crate) of_months: Vec<MonthTotals>,
    /// As [`MonthMetrics::complete_through`].
    pub(crate) complete_through: Option<String>,
}

/// The totals of a month, as they are stored.
#[derive(Debug)]
pub(crate) struct MonthTotals {
    /// Its first day.
    pub(crate) month: NaiveDate,
    /// When they last changed.
    pub(crate) updated_at: DateTime<Utc>,
    /// As [`MonthMetrics::metrics`].
    pub(crate) metrics: Value,
}

/// Reads the totals of the months from `first` to `last` of the customer whose transaction it is.
pub(crate) async fn totals(
    connection: &mut PgConnection,
    customer: &CustomerId,
    first: NaiveDate,
    last: NaiveDate,
    statements: Statements,
) -> Result<Totals, sqlx::Error> {
    let mut complete_through = None;
    let of_months = sqlx::query(READ)
        .bind(first)
        .bind(last)
        .bind(customer.as_str())
        .persistent(statements.are_kept())
        .try_map(|row: PgRow| {
            complete_through = row.try_get(3)?;
            let metrics: String = row.try_get(2)?;
            let metrics = serde_json::from_str(&metrics).map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok(MonthTotals { month: row.try_get(0)?, updated_at: row.try_get(1)?, metrics })
        })
        .fetch_all(&mut *connection)
        .await?;
    let complete_through = match of_months.is_empty() {
        // No row said it.
        true => completeness::of_all(connection, customer, statements).await?,
        false => completeness::written(complete_through),
    };
    Ok(Totals { of_months, complete_through })
}
