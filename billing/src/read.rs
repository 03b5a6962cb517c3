//! Reading issued invoices back, with whatever role and tenant the connection has.

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use thiserror::Error;

use crate::document::{
    InvoiceDocument, InvoiceSummary, LineDocument, Party, PeriodDocument, Rates, SourceClass, UsageSource,
    instant_text, price_text, quantity_text,
};
use crate::fraction::Fraction;
use crate::money::{Currency, Money};
use crate::statements::{INVOICE_BY_ID, INVOICE_BY_NUMBER, LINES, LIST};

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

/// What is kept of the world at the moment of issue.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) seller: Party,
    pub(crate) buyer: Party,
    pub(crate) rates: Rates,
    /// When the supply counts as made, by tax law: the end of the period.
    pub(crate) tax_point: String,
    pub(crate) meters_without_usage: Vec<String>,
}

#[derive(sqlx::FromRow)]
struct InvoiceRow {
    invoice_id: String,
    invoice_number: Option<String>,
    kind: String,
    revision: i32,
    status: String,
    customer_id: String,
    period_start: NaiveDate,
    period_end: NaiveDate,
    currency: String,
    subtotal_minor: i64,
    discount_minor: i64,
    net_minor: i64,
    tax_rate: Decimal,
    tax_minor: i64,
    total_minor: i64,
    source_class: String,
    snapshot: String,
    issued_at: Option<DateTime<Utc>>,
    due_at: Option<DateTime<Utc>>,
    paid_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct LineRow {
    position: i32,
    kind: String,
    meter: Option<String>,
    description: String,
    quantity_raw: String,
    quantity_raw_per_unit: String,
    unit: String,
    unit_price: Decimal,
    exact_numerator: String,
    exact_denominator: String,
    amount_minor: i64,
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
    let Some(invoice) = found else { return Ok(None) };
    let lines: Vec<LineRow> = sqlx::query_as(LINES).bind(&invoice.invoice_id).fetch_all(&mut *connection).await?;
    to_document(invoice, lines).map(Some)
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

fn to_document(invoice: InvoiceRow, lines: Vec<LineRow>) -> Result<InvoiceDocument, ReadError> {
    let broken = |field| ReadError::Broken { invoice: invoice.invoice_id.clone(), field };
    let snapshot: Snapshot = serde_json::from_str(&invoice.snapshot).map_err(|_| broken("snapshot"))?;
    let currency = Currency::parse(&invoice.currency).map_err(|_| broken("currency"))?;
    let money = |minor| Money::from_minor(minor, currency).to_decimal_text();
    let lines = lines.into_iter().map(|line| to_line(line, currency).map_err(broken)).collect::<Result<_, _>>()?;
    if invoice.source_class != SourceClass::BestEffort.as_str() {
        return Err(broken("source class"));
    }
    Ok(InvoiceDocument {
        id: Some(invoice.invoice_id),
        number: invoice.invoice_number,
        kind: invoice.kind,
        revision: invoice.revision,
        status: invoice.status,
        customer: invoice.customer_id,
        period: period(invoice.period_start, invoice.period_end),
        issued_at: invoice.issued_at.map(instant_text),
        due_at: invoice.due_at.map(instant_text),
        paid_at: invoice.paid_at.map(instant_text),
        seller: snapshot.seller,
        buyer: snapshot.buyer,
        rates: snapshot.rates,
        currency: invoice.currency,
        lines,
        subtotal: money(invoice.subtotal_minor),
        volume_discount: money(invoice.discount_minor),
        net: money(invoice.net_minor),
        tax: money(invoice.tax_minor),
        tax_rate: invoice.tax_rate.normalize().to_string(),
        total: money(invoice.total_minor),
        usage_source: UsageSource::of(SourceClass::BestEffort, snapshot.meters_without_usage),
    })
}

/// The line, or the name of its broken field.
fn to_line(line: LineRow, currency: Currency) -> Result<LineDocument, &'static str> {
    let fraction = |above: &str, below: &str| Fraction::new(above.parse().ok()?, below.parse().ok()?);
    let quantity = fraction(&line.quantity_raw, &line.quantity_raw_per_unit).ok_or("quantity")?;
    let exact_minor = fraction(&line.exact_numerator, &line.exact_denominator).ok_or("exact amount")?;
    Ok(LineDocument {
        position: line.position,
        kind: line.kind,
        meter: line.meter,
        description: line.description,
        quantity: quantity_text(quantity),
        quantity_raw: line.quantity_raw,
        quantity_raw_per_unit: line.quantity_raw_per_unit,
        unit: line.unit,
        unit_price: price_text(line.unit_price, currency),
        exact_minor: exact_minor.to_string(),
        amount: Money::from_minor(line.amount_minor, currency).to_decimal_text(),
    })
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
