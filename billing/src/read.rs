//! Reading issued invoices back, with whatever role and tenant the connection has.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use thiserror::Error;

use crate::currency::Currency;
use crate::document::{Head, InvoiceDocument, InvoiceSummary, Party, PeriodDocument, SourceClass, instant_text};
use crate::invoice::Invoice;
use crate::money::Money;
use crate::statements::{INVOICE_BY_ID, INVOICE_BY_NUMBER, LIST};
use crate::terms::Terms;

/// The most invoices one page can have.
pub const LIST_LIMIT_MAX: u32 = 1000;

/// Invoices cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Retry: the database did not answer, or refused.
    #[error("cannot read invoices: {0}")]
    Database(#[from] sqlx::Error),
    /// Stop: a stored invoice is not what this room writes.
    #[error("stored invoice {invoice} cannot be read: its {field} is broken")]
    Broken {
        /// The invoice's id.
        invoice: String,
        /// The field.
        field: &'static str,
    },
}

/// What is kept of the world at the moment of issue: enough to show the invoice, and to count it again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) seller: Party,
    pub(crate) buyer: Party,
    pub(crate) terms: Terms,
    pub(crate) invoice: Invoice,
}

#[derive(sqlx::FromRow)]
struct InvoiceRow {
    invoice_id: String,
    invoice_number: Option<String>,
    revision: i32,
    status: String,
    total_minor: i64,
    source_class: String,
    snapshot: String,
    issued_at: Option<DateTime<Utc>>,
    due_at: Option<DateTime<Utc>>,
    paid_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct SummaryRow {
    invoice_id: String,
    invoice_number: String,
    kind: String,
    revision: i32,
    status: String,
    customer_id: String,
    period_start: NaiveDate,
    period_end: NaiveDate,
    currency: String,
    total_minor: i64,
    issued_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
}

/// The invoice with this number or id; `None` where there is none that the connection's role and tenant may see.
pub async fn load_invoice(
    connection: &mut PgConnection,
    number_or_id: &str,
) -> Result<Option<InvoiceDocument>, ReadError> {
    // Text with a zero byte is no PostgreSQL text, so it names nothing.
    if number_or_id.contains('\0') {
        return Ok(None);
    }
    let statement = if is_id(number_or_id) { INVOICE_BY_ID } else { INVOICE_BY_NUMBER };
    let found: Option<InvoiceRow> =
        sqlx::query_as(statement).bind(number_or_id).fetch_optional(&mut *connection).await?;
    found.map(to_document).transpose()
}

/// The issued invoices that the connection's role and tenant may see, newest first, at most `limit` and
/// [`LIST_LIMIT_MAX`]; with `before`, those that follow the invoice of that number.
pub async fn list_invoices(
    connection: &mut PgConnection,
    limit: u32,
    before: Option<&str>,
) -> Result<Vec<InvoiceSummary>, ReadError> {
    if before.is_some_and(|number| number.contains('\0')) {
        return Ok(Vec::new());
    }
    let rows: Vec<SummaryRow> = sqlx::query_as(LIST)
        .bind(i64::from(limit.min(LIST_LIMIT_MAX)))
        .bind(before)
        .fetch_all(&mut *connection)
        .await?;
    rows.into_iter().map(to_summary).collect()
}

/// Whether the text has the form of a stored invoice's id; a number never has.
fn is_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn to_document(row: InvoiceRow) -> Result<InvoiceDocument, ReadError> {
    let broken = |field| ReadError::Broken { invoice: row.invoice_id.clone(), field };
    let snapshot: Snapshot = serde_json::from_str(&row.snapshot).map_err(|_| broken("snapshot"))?;
    if snapshot.invoice.totals.total.minor() != row.total_minor {
        return Err(broken("total"));
    }
    let source_class = SourceClass::parse(&row.source_class).ok_or_else(|| broken("source class"))?;
    let head = Head {
        number: row.invoice_number,
        revision: row.revision,
        status: row.status,
        issued_at: row.issued_at,
        due_at: row.due_at,
        paid_at: row.paid_at,
        source_class,
        id: Some(row.invoice_id),
        ..Head::preview(snapshot.seller, snapshot.buyer)
    };
    Ok(InvoiceDocument::of(&snapshot.invoice, Some(&snapshot.terms), head))
}

fn to_summary(row: SummaryRow) -> Result<InvoiceSummary, ReadError> {
    let broken = |field| ReadError::Broken { invoice: row.invoice_id.clone(), field };
    let currency = Currency::parse(&row.currency).map_err(|_| broken("currency"))?;
    Ok(InvoiceSummary {
        id: row.invoice_id,
        number: row.invoice_number,
        kind: row.kind,
        revision: row.revision,
        status: row.status,
        customer: row.customer_id,
        period: period(row.period_start, row.period_end),
        currency: row.currency,
        total: Money::from_minor(row.total_minor, currency).to_decimal_text(),
        issued_at: instant_text(row.issued_at),
        due_at: instant_text(row.due_at),
    })
}

fn period(start: NaiveDate, end: NaiveDate) -> PeriodDocument {
    PeriodDocument { start: start.to_string(), end: end.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_from_a_number_by_its_form() {
        assert!(is_id("6a0f2b44-3c0e-4d1d-9a55-0a1b2c3d4e5f"));
        for number in
            ["INV-2026-11-0001", "", "6a0f2b443c0e4d1d9a550a1b2c3d4e5f", "6a0f2b44-3c0e-4d1d-9a55-0a1b2c3d4e5g"]
        {
            assert!(!is_id(number), "{number}");
        }
    }
}
