//! A customer's issued invoices, as billing wrote them. Nothing is added up here.

use aggregator::directory::CustomerId;
use billing::{
    InvoiceDocument, InvoiceSummary, IssuedFilter, Month, ReadError, list_issued, load_invoice, wait_for_invoices,
};
use ingest::Timestamp;
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::tenant::TenantError;

const LIMIT_MAX: u32 = 100;
const LIMIT_DEFAULT: u32 = 50;

/// The states and kinds that can be asked for.
const STATES: [&str; 4] = ["issued", "overdue", "paid", "credited"];
const KINDS: [&str; 4] = ["monthly", "final", "prepayment", "adjustment"];

const _: () = assert!(LIMIT_MAX < billing::LIST_LIMIT_MAX, "one more than a page is asked for");

/// The answer of `GET /v1/invoices`, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvoiceList {
    #[schema(value_type = Vec<crate::schemas::InvoiceSummarySchema>)]
    invoices: Vec<InvoiceSummary>,
    /// Where the next page begins; absent after the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Which part of the list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    limit: u32,
    /// The number of the last invoice seen.
    cursor: Option<String>,
    filter: IssuedFilter,
}

impl Page {
    pub(crate) fn read(parameters: &Parameters, now: Timestamp) -> Result<Self, Problem> {
        parameters.only(&["status", "kind", "from", "to", "limit", "cursor"])?;
        let one_of = |all: [&'static str; 4]| {
            move |text: &str| {
                let known = all.contains(&text);
                if known { Ok(text.to_owned()) } else { Err(format!("expected one of {}", all.join(", "))) }
            }
        };
        let first_day = |text: &str| {
            Month::parse(text).map(Month::first_day).map_err(|_| "expected a month such as 2026-10".to_owned())
        };
        let filter = IssuedFilter {
            status: parameters.read("status", one_of(STATES))?,
            kind: parameters.read("kind", one_of(KINDS))?,
            from: parameters.read("from", first_day)?,
            to: parameters.read("to", first_day)?,
            now: Some(now),
        };
        let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
        let cursor = parameters.read("cursor", |text| {
            let is_number = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if is_number && !text.is_empty() {
                Ok(text.to_owned())
            } else {
                Err("expected the `next_cursor` of an earlier answer".to_owned())
            }
        })?;
        Ok(Self { limit, cursor, filter })
    }
}

/// A page of the invoices that the transaction's tenant may see. The transaction's end may wait for the disk.
pub(crate) async fn list(
    connection: &mut PgConnection,
    customer: &CustomerId,
    page: &Page,
) -> Result<InvoiceList, Problem> {
    // One more than the page holds tells whether there is a next page.
    let mut invoices = list_issued(connection, &page.filter, page.limit + 1, page.cursor.as_deref()).await?;
    for invoice in &invoices {
        check_owner(customer, &invoice.customer)?;
    }
    let shown: Vec<&str> = invoices.iter().map(|invoice| invoice.id.as_str()).collect();
    wait_for_invoices(connection, &shown).await.map_err(TenantError::from)?;
    let has_more = page.limit as usize <= invoices.len().saturating_sub(1);
    invoices.truncate(page.limit as usize);
    let next_cursor = invoices.last().filter(|_| has_more).map(|last| last.number.clone());
    Ok(InvoiceList { invoices, next_cursor })
}

/// The invoice with this number or id. One of another customer is as absent as one that never was. The transaction's end may
/// wait for the disk.
pub(crate) async fn load(
    connection: &mut PgConnection,
    customer: &CustomerId,
    number_or_id: &str,
    now: Timestamp,
) -> Result<InvoiceDocument, Problem> {
    let found = load_invoice(connection, number_or_id).await?;
    let Some(document) = found else {
        return Err(Problem::not_found("you have no issued invoice of this number or id; `/v1/invoices` lists yours"));
    };
    check_owner(customer, &document.customer)?;
    let shown: Vec<&str> = document.id.as_deref().into_iter().collect();
    wait_for_invoices(connection, &shown).await.map_err(TenantError::from)?;
    Ok(document.as_of(now))
}

/// Row-level security showed the row; if it is another customer's all the same, it goes no further.
pub(crate) fn check_owner(customer: &CustomerId, owner: &str) -> Result<(), Problem> {
    if customer.as_str() == owner {
        return Ok(());
    }
    tracing::error!(alarm = "isolation", %customer, "postgresql showed an invoice of another customer");
    Err(Problem::internal())
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Database(error) => TenantError::from(error).into(),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "an invoice cannot be read");
                Self::internal()
            }
        }
    }
}
