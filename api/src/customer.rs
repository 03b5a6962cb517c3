//! `GET /v1/customers/{id}` and `GET /v1/accounts`: the customer itself, and the accounts it owns or owned.

use aggregator::directory::CustomerId;
use axum::Json;
use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use crate::caller::{ReadUsage, Tenant};
use crate::edge::now;
use crate::isolation::{Foreign, report_foreign};
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::{TenantError, TenantTransaction};

const LIMIT_MAX: u32 = 1_000;
const LIMIT_DEFAULT: u32 = 100;

pub(crate) const FIND: &str = "select c.customer_id, c.name, f.tier::text, c.currency::text, c.contract_start, \
     f.accounts_allowed, f.regions_allowed, f.sso_users_allowed, \
     (select count(distinct o.account_id) from account_ownership o \
         where o.customer_id = c.customer_id and o.valid @> $1::timestamptz) \
     from customers c join tier_features f on f.tier = tier_of(c.customer_id, ($1::timestamptz at time zone 'utc')::date) \
     where c.customer_id = (select current_tenant())";

/// Intervals of ownership in order of account and beginning, after one.
pub(crate) const ACCOUNTS: &str = "select account_id, lower(valid), upper(valid) from account_ownership \
     where customer_id = (select current_tenant()) \
     and ($1::text is null or (account_id, lower(valid)) > ($1, $2::timestamptz)) \
     order by account_id, lower(valid) limit $3";

/// A customer as it is written.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CustomerDocument {
    id: String,
    name: String,
    tier: String,
    currency: String,
    contract_start: String,
    accounts: Allowance,
    /// What the tier allows; shown, never priced.
    regions_allowed: i32,
    sso_users_allowed: i32,
}

/// Used now, and allowed by the tier.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Allowance {
    used: i64,
    allowed: i32,
}

/// An interval of ownership.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OwnedAccount {
    account: String,
    from: String,
    /// Null: until further notice.
    until: Option<String>,
}

/// The answer of `GET /v1/accounts`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountList {
    accounts: Vec<OwnedAccount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// The customer of the key, with what its tier allows.
#[utoipa::path(get, path = "/v1/customers/{customer}", operation_id = "get_customer", tag = "customer",
    security(("key" = ["read:usage"])), params(("customer" = String, Path, description = "Its own id")),
    responses((status = 200, description = "The customer", body = CustomerDocument)))]
pub(crate) async fn find(
    tenant: Tenant<ReadUsage>,
    State(state): State<ApiState>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Json<CustomerDocument>, Problem> {
    parameters.only(&[])?;
    if id != tenant.customer.as_str() {
        if let Ok(other) = CustomerId::parse(&id) {
            report_foreign(&state, &tenant.customer, Foreign::Customer(&other)).await;
        }
        return Err(Problem::not_found("there is no such customer for you; your own id stands in your key"));
    }
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let document = read(&mut transaction, now()).await.map_err(|error| shown(error, &tenant.customer))?;
    transaction.let_go();
    Ok(Json(document))
}

/// Whose key was found exists; if it is not shown to itself, no tenant is set.
fn shown(error: sqlx::Error, customer: &CustomerId) -> Problem {
    if matches!(error, sqlx::Error::RowNotFound) {
        tracing::error!(alarm = "isolation", %customer, "postgresql shows a customer nothing of itself: no tenant is set");
        return Problem::internal();
    }
    TenantError::from(error).into()
}

/// Accounts used and allowed, of the transaction's tenant.
pub(crate) async fn allowance(
    connection: &mut PgConnection,
    customer: &CustomerId,
    now: Timestamp,
) -> Result<Allowance, Problem> {
    Ok(read(connection, now).await.map_err(|error| shown(error, customer))?.accounts)
}

async fn read(connection: &mut PgConnection, now: Timestamp) -> Result<CustomerDocument, sqlx::Error> {
    let row = sqlx::query(FIND).bind(DateTime::<Utc>::from(now)).persistent(false).fetch_one(connection).await?;
    Ok(CustomerDocument {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        tier: row.try_get(2)?,
        currency: row.try_get(3)?,
        contract_start: Timestamp::from(row.try_get::<DateTime<Utc>, _>(4)?).to_string(),
        accounts: Allowance { used: row.try_get(8)?, allowed: row.try_get(5)? },
        regions_allowed: row.try_get(6)?,
        sso_users_allowed: row.try_get(7)?,
    })
}

/// The accounts that the customer owns or owned, and since when.
#[utoipa::path(get, path = "/v1/accounts", operation_id = "list_accounts", tag = "customer", security(("key" = ["read:usage"])),
    params(("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before")), responses((status = 200, description = "A page of accounts", body = AccountList)))]
pub(crate) async fn accounts(
    tenant: Tenant<ReadUsage>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<AccountList>, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let (account, from) = parameters.read("cursor", read_cursor)?.unzip();
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let rows = sqlx::query(ACCOUNTS)
        .bind(account)
        .bind(from)
        .bind(i64::from(limit) + 1)
        .persistent(state.statements.are_kept())
        .try_map(|row: PgRow| {
            Ok((
                row.try_get::<String, _>(0)?,
                row.try_get::<DateTime<Utc>, _>(1)?,
                row.try_get::<Option<DateTime<Utc>>, _>(2)?,
            ))
        })
        .fetch_all(&mut *transaction)
        .await
        .map_err(TenantError::from)?;
    transaction.let_go();
    let shown = &rows[..rows.len().min(limit as usize)];
    let last = shown.last().filter(|_| rows.len() > shown.len());
    let next_cursor = last.map(|(account, from, _)| format!("{account}-{}", Timestamp::from(*from).micros()));
    let accounts = shown.iter().map(|(account, from, until)| OwnedAccount {
        account: account.clone(),
        from: Timestamp::from(*from).to_string(),
        until: until.map(|until| Timestamp::from(until).to_string()),
    });
    Ok(Json(AccountList { accounts: accounts.collect(), next_cursor }))
}

fn read_cursor(text: &str) -> Result<(String, DateTime<Utc>), String> {
    let parts = text.split_once('-').and_then(|(account, micros)| {
        let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let from = Timestamp::from_micros(micros.parse().ok()?)?;
        is_account.then(|| (account.to_owned(), from.into()))
    });
    parts.ok_or_else(|| "expected the `next_cursor` of an earlier answer".to_owned())
}
