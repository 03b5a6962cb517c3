//! A customer's issued invoices, as billing wrote them. Nothing is added up here.

use aggregator::directory::CustomerId;
use billing::{InvoiceDocument, InvoiceSummary, ReadError, list_invoices, load_invoice};
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::parameters::Parameters;
use crate::problem::Problem;
use crate::tenant::TenantError;

const LIMIT_MAX: u32 = 100;
const LIMIT_DEFAULT: u32 = 50;

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
}

impl Page {
    pub(crate) fn read(parameters: &Parameters) -> Result<Self, Problem> {
        parameters.only(&["limit", "cursor"])?;
        let limit = parameters.read_limit(LIMIT_MAX, LIMIT_DEFAULT)?;
        let cursor = parameters.read("cursor", |text| {
            let is_number = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if is_number && !text.is_empty() {
                Ok(text.to_owned())
            } else {
                Err("expected the `next_cursor` of an earlier answer".to_owned())
            }
        })?;
        Ok(Self { limit, cursor })
    }
}

/// A page of the invoices that the transaction's tenant may see.
pub(crate) async fn list(
    connection: &mut PgConnection,
    customer: &CustomerId,
    page: &Page,
) -> Result<InvoiceList, Problem> {
    // One more than the page holds tells whether there is a next page.
    let mut invoices = list_invoices(connection, page.limit + 1, page.cursor.as_deref()).await?;
    for invoice in &invoices {
        check_owner(customer, &invoice.customer)?;
    }
    let has_more = page.limit as usize <= invoices.len().saturating_sub(1);
    invoices.truncate(page.limit as usize);
    let next_cursor = invoices.last().filter(|_| has_more).map(|last| last.number.clone());
    Ok(InvoiceList { invoices, next_cursor })
}

/// The invoice with this number or id. One of another customer is as absent as one that never was.
pub(crate) async fn load(
    connection: &mut PgConnection,
    customer: &CustomerId,
    number_or_id: &str,
) -> Result<InvoiceDocument, Problem> {
    let found = load_invoice(connection, number_or_id).await?;
    let Some(document) = found else {
        return Err(Problem::not_found("you have no issued invoice of this number or id; `/v1/invoices` lists yours"));
    };
    check_owner(customer, &document.customer)?;
    Ok(document)
}

/// Row-level security showed the row; if it is another customer's all the same, it goes no further.
fn check_owner(customer: &CustomerId, owner: &str) -> Result<(), Problem> {
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
