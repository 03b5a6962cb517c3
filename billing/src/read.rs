//! Reading invoices and credit notes back, with whatever role and tenant the connection has.

use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use sqlx::PgConnection;
use thiserror::Error;

use crate::currency::Currency;
use crate::document::{Head, InvoiceDocument, InvoiceSummary, PeriodDocument, SourceClass, instant_text};
use crate::money::Money;
use crate::period::Month;
use crate::snapshot::{CreditSnapshot, Snapshot};
use crate::statements::{READERS, Statement};

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

/// Which invoices an operator asks for; every condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvoiceFilter {
    /// Of this customer.
    pub customer: Option<String>,
    /// In this state: `draft`, `issued`, `overdue`, `paid`, `credited` or `cancelled`.
    pub status: Option<String>,
    /// Of a period that begins in this month.
    pub period: Option<Month>,
}

/// Which issued invoices are listed; every condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuedFilter {
    /// In this state: `issued`, `overdue`, `paid` or `credited`.
    pub status: Option<String>,
    /// Of this kind, such as `monthly`.
    pub kind: Option<String>,
    /// Of a period that begins on this day or later.
    pub from: Option<NaiveDate>,
    /// Of a period that begins before this day.
    pub to: Option<NaiveDate>,
    /// Decides what is overdue; without it nothing is.
    pub now: Option<Timestamp>,
}

/// An invoice as an operator finds it, drafts included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundInvoice {
    /// The stored invoice's id.
    pub id: String,
    /// The number; none of a draft.
    pub number: Option<String>,
    /// What it is for: `monthly`.
    pub kind: String,
    /// Counts the invoices of one kind and period, from 1.
    pub revision: i32,
    /// Its state, overdue derived.
    pub status: String,
    /// The customer's id.
    pub customer: String,
    /// The first day of what is billed.
    pub period_start: NaiveDate,
    /// The first day no longer billed.
    pub period_end: NaiveDate,
    /// Its own total, with what it carries for other periods.
    pub payable: Money,
    /// What is still to be paid.
    pub open: Money,
    /// The last second in which it is paid in time.
    pub due_at: Option<Timestamp>,
}

/// What happened to an issued invoice since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceAccount {
    /// What is still to be paid.
    pub open: Money,
    /// The credit notes that refer to it, in the order of their numbers, with what each takes back.
    pub credit_notes: Vec<(String, Money)>,
    /// The payments that came in for it, by reference.
    pub payments: Vec<(String, Money)>,
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
    payable_minor: i64,
    issued_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct NoteRow {
    credit_note_id: String,
    credit_note_number: Option<String>,
    customer_id: String,
    total_minor: i64,
    snapshot: String,
    issued_at: DateTime<Utc>,
}

/// The invoice with this number or id; `None` where there is none that the connection's role and tenant may see.
///
/// Its status is `credited` once a credit note took back all of it; [`InvoiceDocument::as_of`] tells whether it is overdue.
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

/// The credit note with this number or id, as a document of its own; `None` where there is none that the connection's role
/// and tenant may see.
pub async fn load_credit_note(
    connection: &mut PgConnection,
    number_or_id: &str,
) -> Result<Option<InvoiceDocument>, ReadError> {
    if number_or_id.contains('\0') {
        return Ok(None);
    }
    let statement = if is_id(number_or_id) { NOTE_BY_ID } else { NOTE_BY_NUMBER };
    let found: Option<NoteRow> = sqlx::query_as(statement).bind(number_or_id).fetch_optional(connection).await?;
    found.map(to_note).transpose()
}

/// What happened to an issued invoice since; `None` where there is none that the connection's role and tenant may see.
pub async fn load_account(
    connection: &mut PgConnection,
    invoice_id: &str,
) -> Result<Option<InvoiceAccount>, ReadError> {
    let found: Option<(String, i64)> =
        sqlx::query_as(ACCOUNT).bind(invoice_id).fetch_optional(&mut *connection).await?;
    let Some((currency, open_minor)) = found else { return Ok(None) };
    let broken = |_| ReadError::Broken { invoice: invoice_id.to_owned(), field: "currency" };
    let currency = Currency::parse(&currency).map_err(broken)?;
    let amounts = |rows: Vec<(String, i64)>| {
        rows.into_iter().map(|(name, minor)| (name, Money::from_minor(minor, currency))).collect()
    };
    let notes: Vec<(String, i64)> = sqlx::query_as(NOTES_OF).bind(invoice_id).fetch_all(&mut *connection).await?;
    let payments: Vec<(String, i64)> = sqlx::query_as(PAYMENTS_OF).bind(invoice_id).fetch_all(connection).await?;
    Ok(Some(InvoiceAccount {
        open: Money::from_minor(open_minor, currency),
        credit_notes: amounts(notes),
        payments: amounts(payments),
    }))
}

/// The issued invoices that the connection's role and tenant may see, newest first, at most `limit` and
/// [`LIST_LIMIT_MAX`]; with `before`, those that follow the invoice of that number.
pub async fn list_invoices(
    connection: &mut PgConnection,
    limit: u32,
    before: Option<&str>,
) -> Result<Vec<InvoiceSummary>, ReadError> {
    list_issued(connection, &IssuedFilter::default(), limit, before).await
}

/// Those of [`list_invoices`] that a filter lets through.
pub async fn list_issued(
    connection: &mut PgConnection,
    filter: &IssuedFilter,
    limit: u32,
    before: Option<&str>,
) -> Result<Vec<InvoiceSummary>, ReadError> {
    let texts = [before, filter.status.as_deref(), filter.kind.as_deref()];
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return Ok(Vec::new());
    }
    let rows: Vec<SummaryRow> = sqlx::query_as(LIST)
        .bind(i64::from(limit.min(LIST_LIMIT_MAX)))
        .bind(before)
        .bind(filter.status.as_deref())
        .bind(filter.kind.as_deref())
        .bind(filter.from)
        .bind(filter.to)
        .bind(filter.now.map(DateTime::<Utc>::from))
        .fetch_all(&mut *connection)
        .await?;
    rows.into_iter().map(to_summary).collect()
}

/// Invoices for an operator, drafts included, newest first, at most `limit` and [`LIST_LIMIT_MAX`]. `now` decides what is
/// overdue.
pub async fn find_invoices(
    connection: &mut PgConnection,
    filter: &InvoiceFilter,
    limit: u32,
    now: Timestamp,
) -> Result<Vec<FoundInvoice>, ReadError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        invoice_id: String,
        invoice_number: Option<String>,
        kind: String,
        revision: i32,
        status: String,
        customer_id: String,
        period_start: NaiveDate,
        period_end: NaiveDate,
        currency: String,
        payable_minor: i64,
        open_minor: i64,
        due_at: Option<DateTime<Utc>>,
    }
    let rows: Vec<Row> = sqlx::query_as(FIND)
        .bind(&filter.customer)
        .bind(&filter.status)
        .bind(filter.period.map(Month::first_day))
        .bind(DateTime::<Utc>::from(now))
        .bind(i64::from(limit.min(LIST_LIMIT_MAX)))
        .fetch_all(connection)
        .await?;
    let found = rows.into_iter().map(|row| {
        let broken = |_| ReadError::Broken { invoice: row.invoice_id.clone(), field: "currency" };
        let currency = Currency::parse(&row.currency).map_err(broken)?;
        Ok(FoundInvoice {
            id: row.invoice_id,
            number: row.invoice_number,
            kind: row.kind,
            revision: row.revision,
            status: row.status,
            customer: row.customer_id,
            period_start: row.period_start,
            period_end: row.period_end,
            payable: Money::from_minor(row.payable_minor, currency),
            open: Money::from_minor(row.open_minor, currency),
            due_at: row.due_at.map(Timestamp::from),
        })
    });
    found.collect()
}

impl InvoiceDocument {
    /// The same with the status it has at this time: what is issued and not settled is overdue after its due date.
    pub fn as_of(mut self, now: Timestamp) -> Self {
        overdue(&mut self.status, self.due_at.as_deref(), now);
        self
    }
}

impl InvoiceSummary {
    /// The same with the status it has at this time.
    pub fn as_of(mut self, now: Timestamp) -> Self {
        overdue(&mut self.status, Some(&self.due_at), now);
        self
    }
}

fn overdue(status: &mut String, due_at: Option<&str>, now: Timestamp) {
    let due_at = due_at.and_then(|due_at| Timestamp::parse_rfc3339(due_at).ok());
    // What was paid or credited whole says so instead of `issued`.
    if status == "issued" && due_at.is_some_and(|due_at| due_at < now) {
        "overdue".clone_into(status);
    }
}

/// Whether the text has the form of a stored id; a number never has.
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
        evidence: snapshot.evidence,
        id: Some(row.invoice_id),
        ..Head::preview(snapshot.seller, snapshot.buyer)
    };
    Ok(InvoiceDocument::of(&snapshot.invoice, snapshot.terms.as_ref(), head))
}

fn to_note(row: NoteRow) -> Result<InvoiceDocument, ReadError> {
    let broken = |field| ReadError::Broken { invoice: row.credit_note_id.clone(), field };
    let CreditSnapshot { seller, buyer, correction, evidence, source_class }: CreditSnapshot =
        serde_json::from_str(&row.snapshot).map_err(|_| broken("snapshot"))?;
    let source_class = SourceClass::parse(&source_class).ok_or_else(|| broken("source class"))?;
    if correction.totals.total.minor().checked_neg() != Some(row.total_minor) {
        return Err(broken("total"));
    }
    let head = Head {
        number: row.credit_note_number,
        status: "issued".to_owned(),
        issued_at: Some(row.issued_at),
        source_class,
        evidence,
        id: Some(row.credit_note_id),
        ..Head::preview(seller, buyer)
    };
    Ok(InvoiceDocument::of_credit_note(&correction, &row.customer_id, head))
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
        payable: Money::from_minor(row.payable_minor, currency).to_decimal_text(),
        issued_at: instant_text(row.issued_at),
        due_at: instant_text(row.due_at),
    })
}

fn period(start: NaiveDate, end: NaiveDate) -> PeriodDocument {
    PeriodDocument { start: start.to_string(), end: end.to_string() }
}

/// What was credited whole says so, whether it was paid before or not.
macro_rules! status {
    () => {
        "case
            when i.status in ('issued', 'paid') and exists (
                select from credit_notes n where n.invoice_id = i.invoice_id and n.kind = 'cancellation')
            then 'credited' else i.status::text
        end"
    };
}

macro_rules! invoice_where {
    ($condition:literal) => {
        concat!(
            "
    select i.invoice_id::text, i.invoice_number, i.revision, ",
            status!(),
            " as status, i.total_minor, i.source_class, i.snapshot::text, i.issued_at, i.due_at, i.paid_at
    from invoices i
    where ",
            $condition
        )
    };
}

const INVOICE_BY_ID: &str = invoice_where!("i.invoice_id = $1::text::uuid");

const INVOICE_BY_NUMBER: &str = invoice_where!("i.invoice_number = $1::text");

macro_rules! note_where {
    ($condition:literal) => {
        concat!(
            "
    select credit_note_id::text, credit_note_number, customer_id, total_minor, snapshot::text, issued_at
    from credit_notes
    where ",
            $condition
        )
    };
}

const NOTE_BY_ID: &str = note_where!("credit_note_id = $1::text::uuid");

const NOTE_BY_NUMBER: &str = note_where!("credit_note_number = $1::text");

const ACCOUNT: &str = "
    select currency::text, invoice_open_minor(invoice_id) from invoices
    where invoice_id = $1::text::uuid and status in ('issued', 'paid')";

const NOTES_OF: &str = "
    select credit_note_number, total_minor from credit_notes
    where invoice_id = $1::text::uuid order by issued_at, credit_note_number";

const PAYMENTS_OF: &str = "
    select reference, amount_minor from payments where invoice_id = $1::text::uuid order by payment_id";

/// Newest first; a page goes on after an invoice's number, and is empty after a number that the reader cannot see.
const LIST: &str = concat!(
    "
    with judged as (
        select i.*, ",
    status!(),
    " as state
        from invoices i
        where i.status not in ('draft', 'cancelled')
            and ($2::text is null or (i.issued_at, i.invoice_id) < (
                select b.issued_at, b.invoice_id from invoices b where b.invoice_number = $2::text))
            and ($4::text is null or i.kind = $4::text)
            and ($5::date is null or i.period_start >= $5::date)
            and ($6::date is null or i.period_start < $6::date)
    ), shown as (
        select j.*, case when j.state = 'issued' and j.due_at < $7::timestamptz then 'overdue' else j.state end as shown
        from judged j
    )
    select invoice_id::text, invoice_number, kind, revision, shown as status, customer_id, period_start, period_end,
        currency::text, total_minor, total_minor + adjustments_minor as payable_minor, issued_at, due_at
    from shown
    where $3::text is null or shown = $3::text
    order by issued_at desc, invoice_id desc
    limit $1::bigint"
);

const FIND: &str = concat!(
    "
    with found as (
        select i.*, invoice_open_minor(i.invoice_id) as open_minor, ",
    status!(),
    " as state
        from invoices i
        where ($1::text is null or i.customer_id = $1::text) and ($3::date is null or i.period_start = $3::date)
    ), judged as (
        select f.*, case when f.state = 'issued' and f.due_at < $4::timestamptz then 'overdue' else f.state end as shown
        from found f
    )
    select invoice_id::text, invoice_number, kind, revision, shown as status, customer_id, period_start, period_end,
        currency::text, total_minor + adjustments_minor as payable_minor, open_minor, due_at
    from judged
    where $2::text is null or shown = $2::text
    order by coalesce(issued_at, created_at) desc, invoice_id desc
    limit $5::bigint"
);

const OPERATORS: &[&str] = &["securebase_billing", "securebase_operator"];

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement { name: "invoice by id", sql: INVOICE_BY_ID, roles: READERS },
    Statement { name: "invoice by number", sql: INVOICE_BY_NUMBER, roles: READERS },
    Statement { name: "credit note by id", sql: NOTE_BY_ID, roles: READERS },
    Statement { name: "credit note by number", sql: NOTE_BY_NUMBER, roles: READERS },
    Statement { name: "account of an invoice", sql: ACCOUNT, roles: READERS },
    Statement { name: "notes of an invoice", sql: NOTES_OF, roles: READERS },
    Statement { name: "payments of an invoice", sql: PAYMENTS_OF, roles: READERS },
    Statement { name: "list", sql: LIST, roles: READERS },
    Statement { name: "find", sql: FIND, roles: OPERATORS },
];

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

    #[test]
    fn only_what_is_issued_and_past_its_due_date_is_overdue() {
        let due = "2026-12-01T23:59:59Z";
        let (before, after) = ("2026-12-01T23:59:59Z", "2026-12-02T00:00:00Z");
        for (status, now, expected) in [
            ("issued", before, "issued"),
            ("issued", after, "overdue"),
            ("paid", after, "paid"),
            ("credited", after, "credited"),
            ("draft", after, "draft"),
        ] {
            let mut shown = status.to_owned();
            overdue(&mut shown, Some(due), Timestamp::parse_rfc3339(now).unwrap());
            assert_eq!(shown, expected, "{status} at {now}");
        }
    }
}
