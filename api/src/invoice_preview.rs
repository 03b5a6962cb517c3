//! `GET /v1/invoices/preview`: what a month comes to so far, and what it will come to if it goes on like this.

use axum::Json;
use axum::extract::State;
use billing::{InvoiceDocument, Month, MonthPreview, Previewed, Projection, RunError, preview_month};
use serde::Serialize;
use utoipa::ToSchema;

use crate::caller::{ReadInvoices, Tenant};
use crate::completeness;
use crate::customer::{self, Allowance};
use crate::edge::now;
use crate::invoices::check_owner;
use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::state::ApiState;
use crate::tenant::{TenantError, TenantTransaction};

/// Said with every projection.
const METHOD: &str = "usage so far, of each meter and day, times the hours of the month under contract over those that have \
     passed, rounded down to whole units; fees as they are; priced, discounted and taxed like an invoice";

/// The answer of `GET /v1/invoices/preview`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvoicePreview {
    /// `2026-11`, UTC.
    month: String,
    accounts: Allowance,
    /// An invoice document with status `draft`, or the one that was issued for the month.
    #[schema(value_type = InvoiceDocument)]
    charges_so_far: Box<InvoiceDocument>,
    /// What would be paid for it now, a decimal in whole currency.
    total_so_far: String,
    currency: String,
    /// Null for a month that was issued, and before its first hour under contract has passed.
    projected: Option<ProjectedTotal>,
    /// Up to here nothing more is expected; null while no source is proven or reconciled.
    complete_through: Option<String>,
}

/// What the month will come to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectedTotal {
    /// A decimal in whole currency.
    total: String,
    /// How it is found.
    method: &'static str,
    /// Hours of the month under contract that have passed.
    hours_passed: i64,
    /// All of them.
    hours: i64,
}

impl From<Projection> for ProjectedTotal {
    fn from(projection: Projection) -> Self {
        let Projection { total, hours_passed, hours } = projection;
        Self { total, method: METHOD, hours_passed, hours }
    }
}

/// What a month comes to so far, and what it will come to if it goes on like this. Nothing is written.
#[utoipa::path(get, path = "/v1/invoices/preview", operation_id = "preview_invoice", tag = "invoices", security(("key" = ["read:invoices"])),
    params(("month" = Option<String>, Query, description = "Such as 2026-11; the running one without", pattern = "^2[01][0-9]{2}-(0[1-9]|1[0-2])$")),
    responses(
        (status = 200, description = "The month", body = InvoicePreview),
        (status = 404, description = "No day of the month is under contract"),
    ))]
pub(crate) async fn preview(
    tenant: Tenant<ReadInvoices>,
    State(state): State<ApiState>,
    parameters: Parameters,
) -> Result<Json<InvoicePreview>, Problem> {
    parameters.only(&["month"])?;
    let now = now();
    let month = parameters
        .read("month", |text| Month::parse(text).map_err(|_| "expected a month such as 2026-11".to_owned()))?;
    let month = month.or_else(|| Month::containing(now)).ok_or_else(Problem::internal)?;
    let mut transaction = TenantTransaction::begin(&state.pool, &state.mac_key, &tenant.customer).await?;
    let accounts = customer::allowance(&mut transaction, &tenant.customer, now).await?;
    let complete_through =
        completeness::of_all(&mut transaction, &tenant.customer, state.statements).await.map_err(TenantError::from)?;
    // As the customers' role: row-level security shows billing this customer's prices, agreements and usage alone.
    let made = preview_month(&mut transaction, &tenant.customer, month, &state.seller, now).await;
    let MonthPreview { so_far, projection } = made.map_err(|error| match error {
        RunError::Database(error) => TenantError::from(error).into(),
        error => {
            tracing::error!(customer = %tenant.customer, error = &error as &dyn std::error::Error, "no preview");
            Problem::internal()
        }
    })?;
    transaction.end().await?;
    let document = match so_far {
        Previewed::Document(document) | Previewed::AlreadyIssued(document) => document,
        Previewed::NotUnderContract => return Err(Problem::not_found("no day of this month is under contract")),
        Previewed::Failed(error) => {
            tracing::error!(customer = %tenant.customer, error = &error as &dyn std::error::Error, "no preview");
            return Err(Problem::internal());
        }
    };
    check_owner(&tenant.customer, &document.customer)?;
    Ok(Json(InvoicePreview {
        month: month.to_string(),
        accounts,
        total_so_far: document.payable.clone(),
        currency: document.currency.clone(),
        charges_so_far: document,
        projected: projection.map(ProjectedTotal::from),
        complete_through,
    }))
}
