//! `/v1/admin`: what operators ask, as the role `securebase_operator`, of all customers at once.

use aggregator::directory::CustomerId;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use utoipa::ToSchema;

use crate::api_keys::wire::{KeyDocument, KeyList, mint, read_cursor, read_id, write_cursor};
use crate::api_keys::{self, KeyActor, NewKey};
use crate::auth::{KeyId, Scope, Scopes};
use crate::body::Body;
use crate::caller::Operator;
use crate::edge::now;
use crate::idempotency::Repeatable;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::TenantError;
use crate::write::{Begun, Write};

pub(crate) const LIMIT_MAX: u32 = 1_000;
pub(crate) const LIMIT_DEFAULT: u32 = 100;

/// Customers after one, by id.
pub(crate) const CUSTOMERS: &str = "select c.customer_id, c.name, \
     tier_of(c.customer_id, ($3::timestamptz at time zone 'utc')::date)::text, c.currency::text, c.contract_start, \
     (select count(distinct o.account_id) from account_ownership o \
         where o.customer_id = c.customer_id and o.valid @> $3::timestamptz) \
     from customers c where ($1::text is null or c.customer_id > $1) order by c.customer_id limit $2";

/// Accounts after one, by id, with who owns them now; $4: those of nobody alone.
pub(crate) const ACCOUNTS: &str = "select a.account_id, a.name, a.first_seen_at, o.customer_id from accounts a \
     left join account_ownership o on o.account_id = a.account_id and o.valid @> $3::timestamptz \
     where ($1::text is null or a.account_id > $1) and (not $4 or o.customer_id is null) order by a.account_id limit $2";

/// Rate cards with their prices.
pub(crate) const RATE_CARDS: &str = "select c.rate_card_id, c.tier::text, c.version, c.valid_from, c.valid_to, c.currency::text, \
     c.base_fee_minor, p.meter, p.unit, p.unit_price::text \
     from rate_cards c left join rate_card_prices p on p.rate_card_id = c.rate_card_id \
     order by c.tier, c.version desc, p.meter";

/// A customer, as operators see it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminCustomer {
    id: String,
    name: String,
    tier: String,
    currency: String,
    contract_start: String,
    /// Owned now.
    accounts: i64,
}

/// A page of customers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminCustomers {
    customers: Vec<AdminCustomer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// An account that was ever seen or registered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminAccount {
    account: String,
    name: String,
    first_seen_at: String,
    /// Who owns it now; null: nobody, so its usage is not billed.
    customer: Option<String>,
}

/// A page of accounts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminAccounts {
    accounts: Vec<AdminAccount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A price of a rate card.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminPrice {
    meter: String,
    unit: String,
    /// A decimal in whole currency.
    unit_price: String,
}

/// A rate card.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRateCard {
    id: i64,
    tier: String,
    version: i32,
    valid_from: String,
    /// Null: until further notice.
    valid_to: Option<String>,
    currency: String,
    /// In minor units.
    base_fee_minor: i64,
    prices: Vec<AdminPrice>,
}

/// Every rate card.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRateCards {
    rate_cards: Vec<AdminRateCard>,
}

/// The body of `POST /v1/admin/api-keys`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AdminNewKey)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminNewKey {
    /// Whose key; null: an operator's, whose one scope is `admin`.
    customer: Option<String>,
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    #[schema(min_items = 1)]
    scopes: Vec<String>,
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// Every customer, by id.
#[utoipa::path(get, path = "/v1/admin/customers", operation_id = "admin_list_customers", tag = "operators", security(("key" = ["admin"])),
    params(
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of customers", body = AdminCustomers)))]
pub(crate) async fn customers(operator: Operator, parameters: Parameters) -> Result<Json<AdminCustomers>, Problem> {
    parameters.only(&["limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let after = parameters.read("cursor", |text| CustomerId::parse(text).map_err(|_| BAD_CURSOR.to_owned()))?;
    let mut customers = sqlx::query(CUSTOMERS)
        .bind(after.as_ref().map(CustomerId::as_str))
        .bind(i64::from(limit) + 1)
        .bind(DateTime::<Utc>::from(now()))
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(AdminCustomer {
                id: row.try_get(0)?,
                name: row.try_get(1)?,
                tier: row.try_get(2)?,
                currency: row.try_get(3)?,
                contract_start: instant(&row, 4)?,
                accounts: row.try_get(5)?,
            })
        })
        .fetch_all(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    let has_more = customers.len() > limit as usize;
    customers.truncate(limit as usize);
    let next_cursor = customers.last().filter(|_| has_more).map(|last| last.id.clone());
    Ok(Json(AdminCustomers { customers, next_cursor }))
}

pub(crate) const BAD_CURSOR: &str = "expected the `next_cursor` of an earlier answer";

fn instant(row: &PgRow, column: usize) -> Result<String, sqlx::Error> {
    Ok(Timestamp::from(row.try_get::<DateTime<Utc>, _>(column)?).to_string())
}

/// Every account ever seen, by id, with who owns it now.
#[utoipa::path(get, path = "/v1/admin/accounts", operation_id = "admin_list_accounts", tag = "operators", security(("key" = ["admin"])),
    params(
        ("owner" = Option<String>, Query, description = "`none`: only accounts of nobody, whose usage is not billed"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of accounts", body = AdminAccounts)))]
pub(crate) async fn accounts(operator: Operator, parameters: Parameters) -> Result<Json<AdminAccounts>, Problem> {
    parameters.only(&["owner", "limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let of_nobody = parameters.read("owner", |text| match text {
        "none" => Ok(true),
        _ => Err("expected none".to_owned()),
    })?;
    let after = parameters.read("cursor", |text| {
        let is_account = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_account { Ok(text.to_owned()) } else { Err(BAD_CURSOR.to_owned()) }
    })?;
    let mut accounts = sqlx::query(ACCOUNTS)
        .bind(after)
        .bind(i64::from(limit) + 1)
        .bind(DateTime::<Utc>::from(now()))
        .bind(of_nobody.unwrap_or(false))
        .persistent(false)
        .try_map(|row: PgRow| {
            Ok(AdminAccount {
                account: row.try_get(0)?,
                name: row.try_get(1)?,
                first_seen_at: instant(&row, 2)?,
                customer: row.try_get(3)?,
            })
        })
        .fetch_all(&operator.pool)
        .await
        .map_err(TenantError::from)?;
    let has_more = accounts.len() > limit as usize;
    accounts.truncate(limit as usize);
    let next_cursor = accounts.last().filter(|_| has_more).map(|last| last.account.clone());
    Ok(Json(AdminAccounts { accounts, next_cursor }))
}

/// Every rate card with its prices.
#[utoipa::path(get, path = "/v1/admin/rate-cards", operation_id = "admin_list_rate_cards", tag = "operators", security(("key" = ["admin"])),
    responses((status = 200, description = "The rate cards", body = AdminRateCards)))]
pub(crate) async fn rate_cards(operator: Operator, parameters: Parameters) -> Result<Json<AdminRateCards>, Problem> {
    parameters.only(&[])?;
    let rows = sqlx::query(RATE_CARDS).persistent(false).fetch_all(&operator.pool).await.map_err(TenantError::from)?;
    let mut rate_cards: Vec<AdminRateCard> = Vec::new();
    for row in &rows {
        add_rate_card(&mut rate_cards, row).map_err(TenantError::from)?;
    }
    Ok(Json(AdminRateCards { rate_cards }))
}

fn add_rate_card(rate_cards: &mut Vec<AdminRateCard>, row: &PgRow) -> Result<(), sqlx::Error> {
    let id: i64 = row.try_get(0)?;
    if rate_cards.last().is_none_or(|card| card.id != id) {
        rate_cards.push(AdminRateCard {
            id,
            tier: row.try_get(1)?,
            version: row.try_get(2)?,
            valid_from: row.try_get::<NaiveDate, _>(3)?.to_string(),
            valid_to: row.try_get::<Option<NaiveDate>, _>(4)?.map(|day| day.to_string()),
            currency: row.try_get(5)?,
            base_fee_minor: row.try_get(6)?,
            prices: Vec::new(),
        });
    }
    let card = rate_cards.last_mut().expect("it is there, or was pushed");
    if let Some(meter) = row.try_get::<Option<String>, _>(7)? {
        card.prices.push(AdminPrice { meter, unit: row.try_get(8)?, unit_price: row.try_get(9)? });
    }
    Ok(())
}

/// The keys of a customer, or of all, newest first; never a secret.
#[utoipa::path(get, path = "/v1/admin/api-keys", operation_id = "admin_list_api_keys", tag = "operators", security(("key" = ["admin"])),
    params(
        ("customer" = Option<String>, Query, description = "Only this customer's"),
        ("limit" = Option<u32>, Query, description = "At most so many in the answer; 100 without", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the answer before"),
    ),
    responses((status = 200, description = "A page of keys", body = KeyList)))]
pub(crate) async fn keys(operator: Operator, parameters: Parameters) -> Result<Json<KeyList>, Problem> {
    parameters.only(&["customer", "limit", "cursor"])?;
    let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
    let customer = parameters.read("customer", |text| CustomerId::parse(text).map_err(|error| error.to_string()))?;
    let after = parameters.read("cursor", read_cursor)?;
    let mut connection = operator.pool.acquire().await.map_err(TenantError::from)?;
    let mut records = api_keys::list(&mut connection, customer.as_ref(), after, limit + 1).await?;
    let has_more = records.len() > limit as usize;
    records.truncate(limit as usize);
    let next_cursor = records.last().filter(|_| has_more).map(write_cursor);
    Ok(Json(KeyList::of(&records, next_cursor)))
}

/// Makes a key for a customer, or for an operator, and shows it, this once.
#[utoipa::path(post, path = "/v1/admin/api-keys", operation_id = "admin_create_api_key", tag = "operators", security(("key" = ["admin"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within 24 hours, the write is not done again", min_length = 1, max_length = 255)),
    request_body = AdminNewKey,
    responses((status = 201, description = "The key; its text is in `key`", body = KeyDocument)))]
pub(crate) async fn create_key(
    operator: Operator,
    State(state): State<ApiState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let asked: AdminNewKey = body.read()?;
    let repeatable = Repeatable::read(&headers, Method::POST.as_str(), uri.path(), &body.0)?;
    let customer = asked.customer.as_deref().map(CustomerId::parse).transpose();
    let customer = customer.map_err(|error| Problem::invalid(&error.to_string()))?;
    let expires_at = asked.expires_at.as_deref().map(Timestamp::parse_rfc3339).transpose();
    let new = NewKey {
        customer,
        name: asked.name,
        scopes: Scopes::parse(asked.scopes.iter().map(String::as_str))
            .map_err(|error| Problem::invalid(&error.to_string()))?,
        expires_at: expires_at
            .map_err(|_| Problem::invalid("`expires_at` must be an instant such as 2027-01-01T00:00:00Z, or null"))?,
    };
    let now = now();
    let minted = mint(state.authenticator.hashing(), new.customer.as_ref()).await?;
    let mut write = match Write::begin_as_operator(&operator.pool, repeatable, now).await? {
        Begun::Done(answer) => return Ok(answer.into_response()),
        Begun::New(write) => write,
    };
    let record = api_keys::create(write.connection(), &new, &minted, &actor(&operator), now).await?;
    let (shown, kept) = (KeyDocument::of(&record, Some(&minted.token)), KeyDocument::of(&record, None));
    write.finish(StatusCode::CREATED, &shown, &kept).await
}

/// Refuses anyone's key and its sessions from the next request on; again changes nothing.
#[utoipa::path(delete, path = "/v1/admin/api-keys/{key}", operation_id = "admin_revoke_api_key", tag = "operators", security(("key" = ["admin"])),
    params(
        ("key" = String, Path, description = "The key's id, 16 letters and digits"),
        ("customer" = Option<String>, Query, description = "Whose key; an operator's without"),
    ),
    responses((status = 200, description = "The key as it is now", body = KeyDocument)))]
pub(crate) async fn revoke_key(
    operator: Operator,
    Path(key): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.only(&["customer"])?;
    let customer = parameters.read("customer", |text| CustomerId::parse(text).map_err(|error| error.to_string()))?;
    let key_id: KeyId = read_id(&key)?;
    let now = now();
    let mut write = match Write::begin_as_operator(&operator.pool, None, now).await? {
        Begun::Done(answer) => return Ok(answer.into_response()),
        Begun::New(write) => write,
    };
    let record = api_keys::revoke(write.connection(), customer.as_ref(), &key_id, &actor(&operator), now).await?;
    let document = KeyDocument::of(&record, None);
    write.finish(StatusCode::OK, &document, &document).await
}

fn actor(operator: &Operator) -> KeyActor {
    debug_assert!(operator.caller.scopes.allows(Scope::Admin), "an operator has the scope");
    KeyActor { name: operator.caller.actor(), scopes: None }
}
