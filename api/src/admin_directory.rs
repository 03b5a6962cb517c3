//! `POST /v1/admin/customers` and `/v1/admin/accounts`: who is a customer, and whose an account is.
//!
//! The aggregator's directory writes, as its own role and with its audit events. Saying the same again changes nothing, so
//! these writes take no idempotency key.

use aggregator::directory::{
    AccountDirectory, CreateCustomerError, CustomerCreated, CustomerId, NewCustomer, RegisterError, Registration,
};
use aggregator::usage_rows::DatabaseError;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ingest::{AccountId, Hour, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::types::Decimal;
use utoipa::ToSchema;

use crate::body::Body;
use crate::caller::Operator;
use crate::edge::now;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;

/// The body of `POST /v1/admin/customers`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminNewCustomer {
    /// 2 to 63 lower-case letters, digits and hyphens; kept for ever.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{1,62}$")]
    id: String,
    /// The name on its invoices.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// `standard`, `fintech`, `healthcare` or `gov-federal`.
    tier: String,
    /// The first hour of its contract.
    #[schema(format = DateTime)]
    contract_start: String,
    /// ISO 4217; `USD` without.
    #[serde(default)]
    currency: Option<String>,
    /// The fraction of the net amount that is tax; `0.08` without.
    #[serde(default)]
    tax_rate: Option<String>,
    /// The address on its invoices.
    #[serde(default)]
    #[schema(max_length = 1000)]
    billing_address: Option<String>,
    #[serde(default)]
    #[schema(max_length = 100)]
    tax_id: Option<String>,
}

/// The body of `POST /v1/admin/accounts`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminRegistration {
    #[schema(pattern = "^[0-9]{12}$")]
    account: String,
    /// The owner.
    customer: String,
    /// The first hour in which it is the customer's; usage that was counted since follows.
    #[schema(format = DateTime)]
    from: String,
}

/// What adding a customer did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminCustomerAdded {
    customer: String,
    /// `added`, or `unchanged` when exactly this customer existed.
    outcome: &'static str,
}

/// What a registration did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AdminRegistered {
    account: String,
    customer: String,
    /// `opened`, `extended`, `moved` or `unchanged`.
    outcome: &'static str,
    /// Whose it was until that hour, where it moved.
    former: Option<String>,
    /// Usage rows that got another owner.
    usage_rows_changed: u64,
}

fn directory(state: &ApiState) -> Result<&AccountDirectory, Problem> {
    let none = || Problem::not_found("this server does not change the directory; ask the operator's own");
    state.operations.as_ref().map(|operations| &operations.directory).ok_or_else(none)
}

pub(crate) fn whole_hour(text: &str, member: &str) -> Result<Hour, Problem> {
    let hour = Timestamp::parse_rfc3339(text).ok().filter(|instant| instant.hour().start() == *instant);
    let wrong = || Problem::invalid(&format!("`{member}` must be a whole UTC hour such as 2026-10-01T00:00:00Z"));
    Ok(hour.ok_or_else(wrong)?.hour())
}

/// Adds a customer; saying the same again changes nothing.
#[utoipa::path(post, path = "/v1/admin/customers", operation_id = "admin_add_customer", tag = "operators", security(("key" = ["admin"])),
    request_body = AdminNewCustomer,
    responses(
        (status = 201, description = "It was added", body = AdminCustomerAdded),
        (status = 200, description = "Exactly this customer exists", body = AdminCustomerAdded),
    ))]
pub(crate) async fn add_customer(
    _operator: Operator,
    State(state): State<ApiState>,
    parameters: Parameters,
    body: Body,
) -> Result<(StatusCode, Json<AdminCustomerAdded>), Problem> {
    parameters.only(&[])?;
    let asked: AdminNewCustomer = body.read()?;
    let directory = directory(&state)?;
    let tax_rate = asked.tax_rate.as_deref().unwrap_or("0.08").parse::<Decimal>();
    let customer = NewCustomer {
        id: CustomerId::parse(&asked.id).map_err(|error| Problem::invalid(&error.to_string()))?,
        name: asked.name,
        tier: asked.tier,
        currency: asked.currency.unwrap_or_else(|| "USD".to_owned()),
        tax_rate: tax_rate.map_err(|_| Problem::invalid("`tax_rate` must be a decimal such as \"0.08\""))?,
        contract_start: whole_hour(&asked.contract_start, "contract_start")?,
        billing_address: asked.billing_address.unwrap_or_default(),
        tax_id: asked.tax_id.unwrap_or_default(),
    };
    let (status, outcome) = match directory.create_customer(&customer, now()).await {
        Ok(CustomerCreated::New) => (StatusCode::CREATED, "added"),
        Ok(CustomerCreated::Unchanged) => (StatusCode::OK, "unchanged"),
        Err(CreateCustomerError::Database(error)) => return Err(away(&error)),
        Err(error @ CreateCustomerError::Differs { .. }) => return Err(Problem::conflict(error.to_string())),
        Err(error) => return Err(Problem::invalid(&error.to_string())),
    };
    Ok((status, Json(AdminCustomerAdded { customer: asked.id, outcome })))
}

/// Makes a customer the owner of an account from an hour on; usage that was counted since follows. Again changes nothing.
#[utoipa::path(post, path = "/v1/admin/accounts", operation_id = "admin_register_account", tag = "operators", security(("key" = ["admin"])),
    request_body = AdminRegistration,
    responses((status = 200, description = "What it changed", body = AdminRegistered)))]
pub(crate) async fn register(
    _operator: Operator,
    State(state): State<ApiState>,
    parameters: Parameters,
    body: Body,
) -> Result<Json<AdminRegistered>, Problem> {
    parameters.only(&[])?;
    let asked: AdminRegistration = body.read()?;
    let directory = directory(&state)?;
    let account = AccountId::parse(&asked.account).map_err(|_| Problem::invalid("`account` must be 12 digits"))?;
    let customer = CustomerId::parse(&asked.customer).map_err(|error| Problem::invalid(&error.to_string()))?;
    let from = whole_hour(&asked.from, "from")?;
    let registered = directory.register(account, &customer, from, now()).await.map_err(|error| match error {
        RegisterError::Database(error) => away(&error),
        RegisterError::HistoryDiffers { .. } => Problem::conflict(error.to_string()),
        error => Problem::invalid(&error.to_string()),
    })?;
    let (outcome, former, usage_rows_changed) = match registered {
        Registration::Unchanged { .. } => ("unchanged", None, 0),
        Registration::Opened { rows_changed } => ("opened", None, rows_changed),
        Registration::Extended { rows_changed } => ("extended", None, rows_changed),
        Registration::Moved { former, rows_changed } => ("moved", Some(former.to_string()), rows_changed),
    };
    Ok(Json(AdminRegistered { account: asked.account, customer: asked.customer, outcome, former, usage_rows_changed }))
}

/// The database did not do it; nothing was written.
fn away(error: &DatabaseError) -> Problem {
    tracing::error!(error = error as &dyn std::error::Error, "the directory cannot be changed");
    Problem::unavailable("the directory cannot be changed at the moment; send the same request again later")
}
