//! The monthly run: one transaction per customer, from usage rows to an issued invoice.
//!
//! Invariant: the number is the last thing an issuing transaction takes, from a counter row that stays locked until it
//! ends. So numbers have no gaps, and only taking the number waits for other customers.
//!
//! Invariant: the unique key (customer, period, kind, revision) decides who issues. Another run that comes later, or at the
//! same moment, finds the invoice and reports it.

use aggregator::directory::CustomerId;
use chrono::{DateTime, NaiveDate, Utc};
use ingest::{Meter, Timestamp};
use sqlx::{Connection, PgConnection, PgPool};
use thiserror::Error;

use crate::agreement::{AgreementError, AgreementsError, load_agreements};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::days::Days;
use crate::document::{FIRST_REVISION, Head, InvoiceDocument, Party, SourceClass};
use crate::fraction::Fraction;
use crate::invoice::{DraftError, Invoice, InvoiceKind, draft};
use crate::period::{Month, end_of_day_after};
use crate::read::{ReadError, Snapshot, load_invoice};
use crate::share::Share;
use crate::statements::{CUSTOMERS, EXISTING, INSERT_DRAFT, INSERT_LINES, ISSUE, TAKE_NUMBER, USAGE};
use crate::terms::Terms;
use crate::usage::{Usage, UsageError, UsagePart, Windows};

/// Days from the issue to the end of the day on which an invoice is due.
pub const DUE_DAYS: u64 = 30;

/// The series of invoice numbers.
const INVOICE_SERIES: &str = "INV";

/// Who is billed by a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Customers {
    /// Everyone.
    All,
    /// These.
    Only(Vec<CustomerId>),
}

/// What a run is to bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// The month.
    pub period: Month,
    /// Who.
    pub customers: Customers,
    /// Who bills: kept with each invoice.
    pub seller: Party,
}

/// What a run did, customer by customer in the order of their ids.
#[derive(Debug)]
pub struct RunReport {
    /// The month.
    pub period: Month,
    /// What happened to each customer.
    pub results: Vec<CustomerResult>,
}

/// What a run did for one customer.
#[derive(Debug)]
pub struct CustomerResult {
    /// Who.
    pub customer: CustomerId,
    /// What.
    pub outcome: Outcome,
}

/// What a run did for one customer.
#[derive(Debug)]
pub enum Outcome {
    /// This run issued the invoice.
    Issued(Box<InvoiceDocument>),
    /// The invoice was issued before; nothing was written.
    AlreadyIssued(Box<InvoiceDocument>),
    /// What would be issued; nothing was written.
    Previewed(Box<InvoiceDocument>),
    /// The contract begins after the month; there is nothing to bill.
    NotUnderContract,
    /// Nothing was issued or written for this customer.
    Failed(BillingError),
}

impl RunReport {
    /// How many customers failed.
    pub fn failures(&self) -> usize {
        self.results.iter().filter(|result| matches!(result.outcome, Outcome::Failed(_))).count()
    }

    /// How many invoices this run issued.
    pub fn issued(&self) -> usize {
        self.results.iter().filter(|result| matches!(result.outcome, Outcome::Issued(_))).count()
    }
}

/// A run did not begin. Nothing was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// Retry when the month is over.
    #[error("the period {period} has not ended: it can be issued from {ends_at} on, and previewed by a dry run")]
    PeriodNotEnded {
        /// The month.
        period: Month,
        /// Its end.
        ends_at: Timestamp,
    },
    /// Retry: the customers cannot be read.
    #[error("cannot read the customers: {0}")]
    Customers(#[source] sqlx::Error),
    /// Stop: a stored id is no customer id.
    #[error("stored customer {0:?} has no valid id")]
    BrokenCustomerId(String),
}

/// One customer cannot be billed; the others are. Nothing was written for this one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BillingError {
    /// Skip: there is no such customer.
    #[error("no such customer")]
    UnknownCustomer,
    /// Stop or retry, as it says.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Stop or retry, as it says.
    #[error(transparent)]
    Agreements(#[from] AgreementsError),
    /// Stop: what is agreed on cannot be used.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// Stop: usage cannot be summed.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// Stop: a stored total is no whole number in range.
    #[error("usage of {meter} is no whole number in range: {total:?}")]
    UnreadableUsage {
        /// The meter's name.
        meter: String,
        /// What is stored.
        total: String,
    },
    /// Stop: the amounts cannot be formed.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// Stop: an invoice of this period is stored that was not issued.
    #[error("an invoice of this period is stored as {status}; it is not issued by a run")]
    NotIssuable {
        /// Its status.
        status: String,
    },
    /// Stop: the due date lies beyond the calendar.
    #[error("no invoice can be issued at {0}")]
    OutOfCalendar(Timestamp),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Retry: the transaction was rolled back.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// Says what [`issue`] would do at the end of the period with the usage there is now. Writes nothing; the period may still
/// be going on.
pub async fn preview(pool: &PgPool, request: &RunRequest) -> Result<RunReport, RunError> {
    run(pool, request, None).await
}

/// Issues the invoices of a month that has ended at `now`, each in a transaction of its own. A customer that fails does not
/// stop the others; a customer that has its invoice keeps it.
///
/// Nothing proves yet that all usage has arrived: every invoice says so.
pub async fn issue(pool: &PgPool, request: &RunRequest, now: Timestamp) -> Result<RunReport, RunError> {
    let ends_at = request.period.end();
    if now < ends_at {
        return Err(RunError::PeriodNotEnded { period: request.period, ends_at });
    }
    run(pool, request, Some(now)).await
}

async fn run(pool: &PgPool, request: &RunRequest, issued_at: Option<Timestamp>) -> Result<RunReport, RunError> {
    let mut results = Vec::new();
    for (customer, row) in billed(pool, &request.customers).await? {
        let outcome = match row {
            None => Outcome::Failed(BillingError::UnknownCustomer),
            Some(row) => {
                let outcome = bill(pool, request, &row, issued_at).await.unwrap_or_else(Outcome::Failed);
                log(&customer, request.period, &outcome);
                outcome
            }
        };
        results.push(CustomerResult { customer, outcome });
    }
    Ok(RunReport { period: request.period, results })
}

fn log(customer: &CustomerId, period: Month, outcome: &Outcome) {
    match outcome {
        Outcome::Failed(error) => tracing::error!(%customer, %period, %error, "invoice failed"),
        Outcome::Issued(invoice) => {
            tracing::info!(%customer, %period, number = invoice.number, total = %invoice.total, "invoice issued");
        }
        Outcome::AlreadyIssued(_) | Outcome::Previewed(_) | Outcome::NotUnderContract => {}
    }
}

#[derive(Debug, sqlx::FromRow)]
struct CustomerRow {
    customer_id: String,
    name: String,
    billing_address: String,
    tax_id: String,
}

/// Who is to be billed, in the order of ids, each once; without a row where no such customer is stored.
async fn billed(pool: &PgPool, customers: &Customers) -> Result<Vec<(CustomerId, Option<CustomerRow>)>, RunError> {
    let wanted: Option<Vec<&str>> = match customers {
        Customers::All => None,
        Customers::Only(ids) => Some(ids.iter().map(CustomerId::as_str).collect()),
    };
    let rows: Vec<CustomerRow> =
        sqlx::query_as(CUSTOMERS).bind(wanted).fetch_all(pool).await.map_err(RunError::Customers)?;
    let mut billed = std::collections::BTreeMap::new();
    if let Customers::Only(ids) = customers {
        billed.extend(ids.iter().map(|id| (id.clone(), None)));
    }
    for row in rows {
        let id =
            CustomerId::parse(&row.customer_id).map_err(|_| RunError::BrokenCustomerId(row.customer_id.clone()))?;
        billed.insert(id, Some(row));
    }
    Ok(billed.into_iter().collect())
}

/// One customer: drafts, and issues when there is a time of issue, in one transaction.
async fn bill(
    pool: &PgPool,
    request: &RunRequest,
    customer: &CustomerRow,
    issued_at: Option<Timestamp>,
) -> Result<Outcome, BillingError> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    if let Some(invoice) = existing(&mut transaction, request.period, customer).await? {
        return Ok(Outcome::AlreadyIssued(Box::new(invoice)));
    }
    let terms = terms(&mut transaction, &customer.customer_id, request.period).await?;
    if terms.days().is_err() {
        return Ok(Outcome::NotUnderContract);
    }
    let usage = usage(&mut transaction, request.period, &customer.customer_id).await?;
    let invoice = draft(&terms, &usage)?;
    let buyer = Party {
        name: customer.name.clone(),
        address: customer.billing_address.clone(),
        tax_id: customer.tax_id.clone(),
    };
    let head = Head::preview(request.seller.clone(), buyer.clone());
    let document = InvoiceDocument::of(&invoice, Some(&terms), head);
    let Some(issued_at) = issued_at else { return Ok(Outcome::Previewed(Box::new(document))) };

    let snapshot = Snapshot { seller: request.seller.clone(), buyer, terms, invoice };
    let Some(id) = insert_draft(&mut transaction, &snapshot, issued_at).await? else {
        // Another run has issued it since we looked.
        let invoice = existing(&mut transaction, request.period, customer).await?;
        return invoice
            .map(|invoice| Outcome::AlreadyIssued(Box::new(invoice)))
            .ok_or_else(|| BillingError::Database(sqlx::Error::RowNotFound));
    };
    insert_lines(&mut transaction, &id, &snapshot.invoice).await?;
    let due_at = end_of_day_after(issued_at, DUE_DAYS).ok_or(BillingError::OutOfCalendar(issued_at))?;
    let number = take_number(&mut transaction, issued_at).await?;
    sqlx::query(ISSUE)
        .bind(&id)
        .bind(&number)
        .bind(DateTime::<Utc>::from(issued_at))
        .bind(DateTime::<Utc>::from(due_at))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Outcome::Issued(Box::new(InvoiceDocument {
        id: Some(id),
        number: Some(number),
        status: "issued".to_owned(),
        issued_at: Some(issued_at.to_string()),
        due_at: Some(due_at.to_string()),
        ..document
    })))
}

/// The customer's invoice of the month, if it was issued.
async fn existing(
    connection: &mut PgConnection,
    period: Month,
    customer: &CustomerRow,
) -> Result<Option<InvoiceDocument>, BillingError> {
    let found: Option<(String, String)> = sqlx::query_as(EXISTING)
        .bind(&customer.customer_id)
        .bind(period.first_day())
        .bind(InvoiceKind::Monthly.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    match found {
        None => Ok(None),
        Some((_, status)) if matches!(status.as_str(), "draft" | "cancelled") => {
            Err(BillingError::NotIssuable { status })
        }
        Some((id, _)) => Ok(load_invoice(connection, &id).await?),
    }
}

/// What the customer and its operator have agreed on for the month.
async fn terms(connection: &mut PgConnection, customer: &str, month: Month) -> Result<Terms, BillingError> {
    let id = CustomerId::parse(customer).map_err(|_| BillingError::UnknownCustomer)?;
    let catalogue = Catalogue::load(&mut *connection).await?;
    let agreements = load_agreements(connection, Some(&[id]), month).await?;
    let (_, agreement) = agreements.into_iter().next().ok_or(BillingError::UnknownCustomer)?;
    Ok(agreement?.terms(&catalogue, month)?)
}

/// The month's usage by day, from one statement and so from one moment.
async fn usage(connection: &mut PgConnection, period: Month, customer_id: &str) -> Result<Usage, BillingError> {
    #[derive(sqlx::FromRow)]
    struct Row(String, NaiveDate, String, String, i64, DateTime<Utc>, DateTime<Utc>);
    let rows: Vec<Row> = sqlx::query_as(USAGE)
        .bind(customer_id)
        .bind(DateTime::<Utc>::from(period.start()))
        .bind(DateTime::<Utc>::from(period.end()))
        .fetch_all(connection)
        .await?;
    let mut usage = Usage::default();
    for Row(meter, day, total, peak, count, first, last) in rows {
        let known = (Meter::parse_stored(&meter), Fraction::parse(&total), Fraction::parse(&peak));
        let (Ok(known), Ok(exact), Ok(peak)) = known else {
            return Err(BillingError::UnreadableUsage { meter, total });
        };
        let days = day.succ_opt().and_then(|next| Days::new(day, next));
        let days = days.ok_or(BillingError::OutOfCalendar(Timestamp::from(first)))?;
        let end = Timestamp::from(last).saturating_add_secs(crate::quantity::SECONDS_PER_WINDOW);
        let windows = Windows::new(first.into(), end, u64::try_from(count).unwrap_or_default());
        usage.add(UsagePart { meter: known, days, total: exact, peak, windows })?;
    }
    Ok(usage)
}

/// The new draft's id; `None` when another run has this invoice.
async fn insert_draft(
    connection: &mut PgConnection,
    snapshot: &Snapshot,
    created_at: Timestamp,
) -> Result<Option<String>, BillingError> {
    let Snapshot { invoice, terms, .. } = snapshot;
    let totals = &invoice.totals;
    let discounts = totals.volume_discount.checked_add(totals.coupons).map_err(DraftError::Total)?;
    let tax_rate = invoice.taxes.first().map_or_else(Share::default, |tax| tax.rate.rate);
    let card = terms.stretches.last().and_then(|stretch| stretch.rate_card_id);
    let written = serde_json::to_string(snapshot).expect("a snapshot is text, numbers and lists of them");
    Ok(sqlx::query_scalar(INSERT_DRAFT)
        .bind(&invoice.customer)
        .bind(invoice.kind.as_str())
        .bind(FIRST_REVISION)
        .bind(terms.month.first_day())
        .bind(terms.month.end_day())
        .bind(invoice.currency.as_str())
        .bind(totals.subtotal.minor())
        .bind(discounts.minor())
        .bind(totals.net.minor())
        .bind(tax_rate.decimal())
        .bind(totals.tax.minor())
        .bind(totals.total.minor())
        .bind(SourceClass::BestEffort.as_str())
        .bind(card)
        .bind(written)
        .bind(DateTime::<Utc>::from(created_at))
        .fetch_optional(connection)
        .await?)
}

async fn insert_lines(connection: &mut PgConnection, invoice_id: &str, invoice: &Invoice) -> Result<(), BillingError> {
    let lines = &invoice.lines;
    let positions: Vec<i32> = (1..).take(lines.len()).collect();
    sqlx::query(INSERT_LINES)
        .bind(invoice_id)
        .bind(&invoice.customer)
        .bind(positions)
        .bind(lines.iter().map(|line| line.kind.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.meter().map(Meter::as_str)).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.description.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| decimal_text(line.quantity.raw())).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| decimal_text(line.quantity.raw_per_unit())).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.unit.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.pricing.marginal.price.decimal()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.exact_minor.numerator().to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.exact_minor.denominator().to_string()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.amount.minor()).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.item.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// A total or a divisor: neither has more places than usage has.
fn decimal_text(number: &Fraction) -> String {
    number.to_decimal_text(crate::usage::USAGE_PLACES_MAX)
}

/// The next number of the month of issue; others wait for it until this transaction ends.
async fn take_number(connection: &mut PgConnection, issued_at: Timestamp) -> Result<String, BillingError> {
    let month = Month::containing(issued_at).ok_or(BillingError::OutOfCalendar(issued_at))?;
    let number: i32 =
        sqlx::query_scalar(TAKE_NUMBER).bind(INVOICE_SERIES).bind(month.first_day()).fetch_one(connection).await?;
    Ok(format!("{INVOICE_SERIES}-{month}-{number:04}"))
}
