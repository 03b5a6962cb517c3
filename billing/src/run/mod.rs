//! The monthly run: one transaction per customer, from closed totals to an issued invoice.
//!
//! Invariant: the number is the last thing an issuing transaction takes, from a counter row that stays locked until it
//! ends. So numbers have no gaps, and only taking the number waits for other customers.
//!
//! Invariant: the unique key (customer, period, kind, revision) decides who issues. Another run that comes later, or at the
//! same moment, finds the invoice and reports it.
//!
//! Invariant: an invoice, its lines, its ledger entry, its notification, its number, its place in the audit trail and the claim
//! of the run are one transaction. Whatever is cut off in between was never there, and the customer is billed by whoever
//! comes next.

mod agreement;
mod bill;
mod claims;
mod desk;
mod interruption;
mod late;
mod month_preview;
mod readiness;
mod report;
mod usage_reading;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;

use aggregator::directory::CustomerId;
use ingest::Timestamp;
use sqlx::PgPool;
use thiserror::Error;

use self::agreement::Catalog;
use self::bill::Billing;
pub use self::desk::{
    Credited, DeskError, GrantKind, GrantRequest, Granted, Paid, PayRequest, bill_late_usage, credit, grant, pay,
    prepay, reissue, void,
};
pub use self::interruption::{Interruptions, Point, Uninterrupted};
pub use self::month_preview::{MonthPreview, Projection, preview_month};
pub use self::readiness::GRACE_HOURS;
pub use self::report::{BilledInvoice, CustomerResult, Outcome, RunReport};
use crate::agreement::{AgreementError, AgreementsError};
use crate::books::credit_note::NoteError;
use crate::books::draft::WriteError;
pub use crate::books::issue::DUE_DAYS;
use crate::books::issue::IssueError;
use crate::catalogue::CatalogueError;
use crate::currency::UnknownCurrency;
use crate::document::{Head, InvoiceDocument, Party};
use crate::durability::{wait_for_disk, wait_for_invoices};
use crate::invoice::DraftError;
use crate::money::AmountError;
use crate::period::Month;
use crate::read::{ReadError, load_invoice};
use crate::statements::Statement;
use crate::usage::UsageError;

/// Workers of a run, unless it asks for others: more keep a PostgreSQL on two cores no busier.
pub const WORKERS: usize = 4;

/// Who runs bill by, in the audit trail.
const ACTOR: &str = "billing";

/// Who is billed by a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Customers {
    /// Everyone.
    All,
    /// These.
    Only(Vec<CustomerId>),
}

/// What becomes of a period whose draft was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// It is left alone.
    Stay,
    /// It is billed after all, as a new revision.
    BillAgain,
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
    /// Hours after the period's end in which late usage is waited for; [`GRACE_HOURS`] usually.
    pub grace_hours: u32,
    /// Whether discarded drafts are billed again.
    pub discarded: Discarded,
    /// How many customers are billed at once, each on a connection of its own; [`WORKERS`] usually. At least one.
    pub workers: usize,
}

impl RunRequest {
    /// The usual run of everyone.
    pub fn new(period: Month, seller: Party) -> Self {
        Self {
            period,
            customers: Customers::All,
            seller,
            grace_hours: GRACE_HOURS,
            discarded: Discarded::Stay,
            workers: WORKERS,
        }
    }
}

/// What one customer's period would come to.
#[derive(Debug)]
pub enum Previewed {
    /// What would be issued; nothing was written.
    Document(Box<InvoiceDocument>),
    /// The invoice was issued before.
    AlreadyIssued(Box<InvoiceDocument>),
    /// No day of the month is under contract; there is nothing to bill.
    NotUnderContract,
    /// It cannot be billed as things stand.
    Failed(BillingError),
}

/// A run did not begin, or did not go on. What was issued before stays issued; the same call goes on where it ended.
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
    /// Stop: there is no such customer.
    #[error("there is no customer {0}")]
    UnknownCustomer(CustomerId),
    /// Stop until the rate cards are corrected.
    #[error("rate cards: {0}")]
    Catalog(#[source] Box<BillingError>),
    /// Stop: a stored row is not what this room writes.
    #[error("what run {run_id} did for customer {customer} cannot be read")]
    BrokenRun {
        /// The run.
        run_id: i64,
        /// The customer.
        customer: String,
    },
    /// Stop: a worker panicked outside of billing a customer, which is a bug.
    #[error("a worker of the run panicked")]
    Panicked,
    /// Retry: the database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// One customer cannot be billed; the others are. Nothing was written for this one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BillingError {
    /// Skip: there is no such customer.
    #[error("no such customer")]
    UnknownCustomer,
    /// Retry or stop, as it says: the prices cannot be read.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// Retry or stop, as it says: agreements cannot be read.
    #[error(transparent)]
    Agreements(#[from] AgreementsError),
    /// Stop for this customer until what was agreed on is corrected.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// Stop: the customer's or the card's currency is none.
    #[error(transparent)]
    Currency(#[from] UnknownCurrency),
    /// Stop: usage cannot be summed.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// Stop: a stored total is no number in range.
    #[error("usage of {meter} is no number in range: {total:?}")]
    UnreadableUsage {
        /// The meter's name.
        meter: String,
        /// What is stored.
        total: String,
    },
    /// Stop: the amounts cannot be formed.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// Stop: an amount is out of range.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// Stop: a stored close is not what the aggregator writes.
    #[error("close {close_id} cannot be read")]
    BrokenClose {
        /// The close.
        close_id: i64,
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

impl From<WriteError> for BillingError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Amount(error) => error.into(),
            WriteError::Database(error) => error.into(),
        }
    }
}

impl From<IssueError> for BillingError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::OutOfCalendar(at) => Self::OutOfCalendar(at),
            IssueError::Database(error) => error.into(),
        }
    }
}

impl From<NoteError> for BillingError {
    fn from(error: NoteError) -> Self {
        match error {
            NoteError::Amount(error) => error.into(),
            NoteError::OutOfCalendar(at) => Self::OutOfCalendar(at),
            NoteError::Database(error) => error.into(),
        }
    }
}

impl BillingError {
    /// The database's error where the connection, and not the customer, is to blame: then the customer is tried again.
    fn into_passing(self) -> Result<sqlx::Error, Self> {
        let is_passing = |error: &sqlx::Error| match error {
            // Shut down or out of resources (classes 57 and 53), connections (08), deadlocks and serialization (40).
            sqlx::Error::Database(error) => {
                error.code().is_some_and(|code| ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)))
            }
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
            _ => false,
        };
        match self {
            Self::Database(error)
            | Self::Read(ReadError::Database(error))
            | Self::Agreements(AgreementsError::Database(error))
                if is_passing(&error) =>
            {
                Ok(error)
            }
            error => Err(error),
        }
    }
}

/// Issues the invoices of a month that has ended at `now`, each in a transaction of its own, several at once. A customer that
/// fails does not stop the others; one that has its invoice keeps it.
///
/// Calling it again, after whatever ended the first call, goes on with who is left and reports all. Several processes share
/// the work.
pub async fn issue(pool: &PgPool, request: &RunRequest, now: Timestamp) -> Result<RunReport, RunError> {
    issue_with(pool, request, now, Arc::new(Uninterrupted)).await
}

/// [`issue`] with connections that are cut at chosen points: how tests show that no point leaves anything half done.
pub async fn issue_with(
    pool: &PgPool,
    request: &RunRequest,
    now: Timestamp,
    interruptions: Arc<dyn Interruptions>,
) -> Result<RunReport, RunError> {
    let ends_at = request.period.end();
    if now < ends_at {
        return Err(RunError::PeriodNotEnded { period: request.period, ends_at });
    }
    let mut connection = pool.acquire().await?;
    known(&mut connection, &request.customers).await?;
    let catalog = catalog(&mut connection, request.period).await?;
    let run_id = claims::open(&mut connection, request.period, &request.customers, now).await?;
    drop(connection);
    worker::work(pool, request, run_id, Arc::new(catalog), now, interruptions).await?;
    let mut connection = pool.acquire().await?;
    let is_finished = claims::close(&mut connection, run_id, now).await?;
    let results = claims::results(&mut connection, run_id).await?;
    // Also where this call did not end the run: who is told of an invoice will find it.
    wait_for_disk(&mut connection).await?;
    Ok(RunReport { run_id, period: request.period, results, is_finished })
}

/// Says what [`issue`] would issue with the closed totals there are, or, where there is no close, with the usage so far. Writes
/// nothing; the period may still be going on.
pub async fn preview(pool: &PgPool, request: &RunRequest) -> Result<Vec<(CustomerId, Previewed)>, RunError> {
    let mut connection = pool.acquire().await?;
    let customers = known(&mut connection, &request.customers).await?;
    let catalog = catalog(&mut connection, request.period).await?;
    let billing = previewing(request.period, &request.seller, &catalog);
    let mut previews = Vec::with_capacity(customers.len());
    for customer in customers {
        let previewed = preview_one(&mut connection, &billing, &customer).await.unwrap_or_else(Previewed::Failed);
        previews.push((customer, previewed));
    }
    Ok(previews)
}

/// The same for one customer, on a connection as it is: as `securebase_billing`, or as `securebase_app` in a transaction whose
/// proven tenant is that customer; any other is then [`RunError::UnknownCustomer`].
///
/// Everything but the evidence, the class of the sources, number and dates is what the invoice will say, once the usage is
/// complete through the end of the period: the same terms, the same arithmetic, and a close refuses totals that are not those of
/// the usage rows.
pub async fn preview_customer(
    connection: &mut sqlx::PgConnection,
    customer: &CustomerId,
    period: Month,
    seller: &Party,
) -> Result<Previewed, RunError> {
    let catalog = catalog(connection, period).await?;
    match preview_one(connection, &previewing(period, seller, &catalog), customer).await {
        Ok(previewed) => Ok(previewed),
        Err(BillingError::UnknownCustomer) => Err(RunError::UnknownCustomer(customer.clone())),
        Err(error) => match error.into_passing() {
            Ok(error) => Err(error.into()),
            Err(error) => Ok(Previewed::Failed(error)),
        },
    }
}

fn previewing<'a>(period: Month, seller: &'a Party, catalog: &'a Catalog) -> Billing<'a> {
    Billing {
        period,
        seller,
        // Read for decisions about issuing, of which a preview makes none.
        grace_hours: GRACE_HOURS,
        discarded: Discarded::Stay,
        now: period.end(),
        actor: ACTOR,
        catalog,
        interruptions: &Uninterrupted,
    }
}

async fn preview_one(
    connection: &mut sqlx::PgConnection,
    billing: &Billing<'_>,
    customer: &CustomerId,
) -> Result<Previewed, BillingError> {
    if let Some(id) = billing.issued(connection, customer.as_str()).await? {
        let document = load_invoice(connection, &id).await?.ok_or(sqlx::Error::RowNotFound)?;
        wait_for_invoices(connection, &[&id]).await?;
        return Ok(Previewed::AlreadyIssued(Box::new(document)));
    }
    let Some((snapshot, source_class)) = billing.preview(connection, customer.as_str()).await? else {
        return Ok(Previewed::NotUnderContract);
    };
    let head = Head { source_class, evidence: snapshot.evidence, ..Head::preview(snapshot.seller, snapshot.buyer) };
    let document = InvoiceDocument::of(&snapshot.invoice, snapshot.terms.as_ref(), head);
    Ok(Previewed::Document(Box::new(document)))
}

async fn catalog(connection: &mut sqlx::PgConnection, period: Month) -> Result<Catalog, RunError> {
    Catalog::load(connection, period).await.map_err(|error| match error {
        BillingError::Catalogue(CatalogueError::Database(error)) => RunError::Database(error),
        error => RunError::Catalog(Box::new(error)),
    })
}

/// The customers asked for, in the order of their ids; all of them exist.
async fn known(connection: &mut sqlx::PgConnection, customers: &Customers) -> Result<Vec<CustomerId>, RunError> {
    let named: Option<Vec<&str>> = match customers {
        Customers::All => None,
        Customers::Only(ids) => Some(ids.iter().map(CustomerId::as_str).collect()),
    };
    let found: Vec<String> = sqlx::query_scalar(CUSTOMERS).bind(named).fetch_all(connection).await?;
    let found: BTreeSet<CustomerId> = found.iter().filter_map(|id| CustomerId::parse(id).ok()).collect();
    if let Customers::Only(ids) = customers
        && let Some(unknown) = ids.iter().find(|id| !found.contains(id))
    {
        return Err(RunError::UnknownCustomer(unknown.clone()));
    }
    Ok(found.into_iter().collect())
}

const CUSTOMERS: &str = "
    select customer_id from customers
    where $1::text[] is null or customer_id = any($1::text[])
    order by customer_id";

/// Every statement of a run.
pub(crate) const STATEMENTS: &[&[Statement]] = &[
    &[Statement { name: "customers", sql: CUSTOMERS, roles: crate::statements::BILLING }],
    bill::STATEMENTS,
    claims::STATEMENTS,
    desk::STATEMENTS,
    late::STATEMENTS,
    usage_reading::STATEMENTS,
];
