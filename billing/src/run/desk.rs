//! What operators do with invoices by hand: discard, credit, reissue, record payments, give credit, bill in advance.
//!
//! Each is one transaction in which the customer is locked, and each is recorded in the audit trail with who did it and why.

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use ingest::Timestamp;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgPool};
use thiserror::Error;

use super::agreement::Catalog;
use super::bill::{Billing, Plan, Written};
use super::interruption::Uninterrupted;
use super::late::{self, Invoiced};
use super::report::{BilledInvoice, Outcome};
use super::{BillingError, Discarded};
use crate::audit::{Recorded, record};
use crate::books::{draft, issue, ledger, lock_customer};
use crate::currency::{Currency, UnknownCurrency};
use crate::document::Party;
use crate::invoice::InvoiceKind;
use crate::lifecycle::AnyStored;
use crate::money::Money;
use crate::period::Month;
use crate::postings::Postings;
use crate::prepayment::PrepaymentError;
use crate::statements::{BILLING, Statement};

/// A payment that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayRequest<'a> {
    /// The number of the invoice it is for.
    pub invoice: &'a str,
    /// How much, in the invoice's currency: `2218.54`; all that is open without.
    pub amount: Option<&'a str>,
    /// `bank_transfer`, `card`, `marketplace` or `other`.
    pub method: &'a str,
    /// What names the payment at the bank. The same reference is the same payment, recorded once.
    pub reference: &'a str,
    /// When it came in.
    pub received_at: Timestamp,
}

/// A recorded payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paid {
    /// How much was recorded.
    pub amount: Money,
    /// What is still open of the invoice.
    pub open: Money,
    /// Whether this very payment was recorded before; then nothing was written.
    pub was_known: bool,
}

/// Why credit is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// Money that was paid in advance.
    Prepaid,
    /// A gift.
    Goodwill,
}

impl GrantKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Prepaid, Self::Goodwill];

    /// The name used in SQL and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepaid => "prepaid",
            Self::Goodwill => "goodwill",
        }
    }
}

/// Credit to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRequest<'a> {
    /// To whom.
    pub customer: &'a str,
    /// How much, in the customer's currency: `1000.00`.
    pub amount: &'a str,
    /// Why.
    pub kind: GrantKind,
    /// What names it. The same reference is the same grant, given once.
    pub reference: &'a str,
    /// Why, in words.
    pub reason: &'a str,
}

/// Given credit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// How much.
    pub amount: Money,
    /// What the customer has in credit now.
    pub credit: Money,
    /// Whether this very grant was given before; then nothing was written.
    pub was_known: bool,
}

/// What was credited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credited {
    /// The numbers of the credit notes.
    pub notes: Vec<String>,
    /// What they take back.
    pub total: Money,
    /// What of it became customer credit, because it was paid.
    pub to_credit: Money,
}

/// Nothing was done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeskError {
    /// Stop: there is no such invoice.
    #[error("there is no invoice {0}")]
    UnknownInvoice(String),
    /// Stop: there is no such customer.
    #[error("there is no customer {0}")]
    UnknownCustomer(String),
    /// Stop: the invoice is not in the state for this.
    #[error("invoice {invoice} is {status}: {advice}")]
    WrongState {
        /// Its number or id.
        invoice: String,
        /// Its state.
        status: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// Stop: the amount cannot be read, or is none.
    #[error("{0:?} is no amount in {1}: expected a form such as 2218.54, above nothing")]
    NotAnAmount(String, Currency),
    /// Stop: more than is open.
    #[error("{amount:?} is more than the {open:?} that are open of {invoice}")]
    MoreThanOpen {
        /// The invoice.
        invoice: String,
        /// What was to be recorded.
        amount: Money,
        /// What is open.
        open: Money,
    },
    /// Stop: the reference names another payment or grant.
    #[error("reference {reference:?} is recorded already, for {recorded}")]
    OtherReference {
        /// The reference.
        reference: String,
        /// What is recorded under it.
        recorded: String,
    },
    /// Stop: what names or explains it is missing.
    #[error("a {0} must be given")]
    Missing(&'static str),
    /// Stop: the method is none.
    #[error("unknown method {0:?}: expected bank_transfer, card, marketplace or other")]
    UnknownMethod(String),
    /// Retry later: the period cannot be issued now.
    #[error("it cannot be issued again now: {0}")]
    NotIssuable(String),
    /// Stop: there is nothing that would be billed.
    #[error("there is no late usage of {0} to be billed")]
    NothingLate(String),
    /// Stop: the fee cannot be paid in advance.
    #[error(transparent)]
    Prepayment(#[from] PrepaymentError),
    /// Stop: the customer's currency is none.
    #[error(transparent)]
    Currency(#[from] UnknownCurrency),
    /// Retry or stop, as it says.
    #[error(transparent)]
    Billing(#[from] BillingError),
    /// Retry: the database did not answer, or refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
}

/// Methods of payment, as the table knows them.
const METHODS: [&str; 4] = ["bank_transfer", "card", "marketplace", "other"];

/// Discards a draft, by its id: it is shown as cancelled and never issued. `reason` goes to the audit trail.
pub async fn void(pool: &PgPool, invoice_id: &str, reason: &str, actor: &str) -> Result<(), DeskError> {
    let reason = given(reason, "reason")?;
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    let (invoice, _, _) = found(&mut transaction, invoice_id).await?;
    let AnyStored::Draft(stored) = invoice.stored.clone() else {
        return Err(wrong_state(&invoice, "only a draft can be discarded; credit what was issued"));
    };
    let customer = stored.customer_id().to_owned();
    draft::discard(&mut transaction, stored).await?;
    let event = Recorded {
        customer: Some(&customer),
        actor,
        action: "invoice.voided",
        subject: &invoice.id,
        details: json!({ "reason": reason }),
    };
    record(&mut transaction, event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Records a payment; an invoice of which nothing is open then is paid. The same reference again changes nothing.
pub async fn pay(pool: &PgPool, request: &PayRequest<'_>, actor: &str, now: Timestamp) -> Result<Paid, DeskError> {
    let reference = given(request.reference, "reference")?;
    if !METHODS.contains(&request.method) {
        return Err(DeskError::UnknownMethod(request.method.to_owned()));
    }
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    let (invoice, _, _) = found(&mut transaction, request.invoice).await?;
    let currency = invoice.snapshot.invoice.currency;
    let customer = invoice.snapshot.invoice.customer.clone();
    let open = Money::from_minor(ledger::open_minor(&mut transaction, &invoice.id).await?, currency);
    let known: Option<(String, i64)> = sqlx::query_as(KNOWN_PAYMENT)
        .bind(&customer)
        .bind(request.method)
        .bind(reference)
        .fetch_optional(&mut *transaction)
        .await?;
    if let Some((invoice_id, minor)) = known {
        let recorded = Money::from_minor(minor, currency);
        let is_same = invoice_id == invoice.id
            && request.amount.is_none_or(|amount| Money::parse(amount, currency) == Some(recorded));
        if is_same {
            return Ok(Paid { amount: recorded, open, was_known: true });
        }
        let recorded = format!("{recorded} {currency} of invoice {invoice_id}");
        return Err(DeskError::OtherReference { reference: reference.to_owned(), recorded });
    }
    let amount = match request.amount {
        None => open,
        Some(text) => amount(text, currency)?,
    };
    let AnyStored::Issued(stored) = invoice.stored.clone() else {
        return Err(wrong_state(&invoice, "only what is issued and open can be paid"));
    };
    if open.minor() < amount.minor() || amount.minor() <= 0 {
        return Err(DeskError::MoreThanOpen { invoice: invoice.number, amount, open });
    }
    let payment_id: i64 = sqlx::query_scalar(INSERT_PAYMENT)
        .bind(&customer)
        .bind(&invoice.id)
        .bind(currency.as_str())
        .bind(amount.minor())
        .bind(request.method)
        .bind(reference)
        .bind(DateTime::<Utc>::from(request.received_at))
        .bind(DateTime::<Utc>::from(now))
        .bind(actor)
        .fetch_one(&mut *transaction)
        .await?;
    let postings = Postings::of_payment(amount).map_err(BillingError::from)?;
    let occasion = ledger::Occasion::Payment(payment_id);
    ledger::post(&mut transaction, &customer, currency, Some(&invoice.id), occasion, &postings, now).await?;
    let left = open.checked_sub(amount).map_err(BillingError::from)?;
    let event = Recorded {
        customer: Some(&customer),
        actor,
        action: "payment.recorded",
        subject: &invoice.number,
        details: json!({
            "amount": amount.to_decimal_text(),
            "currency": currency.as_str(),
            "method": request.method,
            "reference": reference,
            "received_at": request.received_at.to_string(),
            "open": left.to_decimal_text(),
        }),
    };
    record(&mut transaction, event).await?;
    if left.is_zero() {
        let because = "payment";
        issue::settle(&mut transaction, stored, &invoice.number, because, actor, request.received_at).await?;
    }
    transaction.commit().await?;
    Ok(Paid { amount, open: left, was_known: false })
}

/// Gives a customer credit, which its next invoices use. The same reference again changes nothing.
pub async fn grant(
    pool: &PgPool,
    request: &GrantRequest<'_>,
    actor: &str,
    now: Timestamp,
) -> Result<Granted, DeskError> {
    let (reference, reason) = (given(request.reference, "reference")?, given(request.reason, "reason")?);
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    lock_customer(&mut transaction, request.customer).await?;
    let row: Option<(String, i64)> =
        sqlx::query_as(CREDIT).bind(request.customer).fetch_optional(&mut *transaction).await?;
    let (code, credit_minor) = row.ok_or_else(|| DeskError::UnknownCustomer(request.customer.to_owned()))?;
    let currency = Currency::parse(&code)?;
    let credit = Money::from_minor(credit_minor, currency);
    let amount = amount(request.amount, currency)?;
    let known: Option<(i64, String)> =
        sqlx::query_as(KNOWN_GRANT).bind(request.customer).bind(reference).fetch_optional(&mut *transaction).await?;
    if let Some((minor, kind)) = known {
        if minor == amount.minor() && kind == request.kind.as_str() {
            return Ok(Granted { amount, credit, was_known: true });
        }
        let recorded = format!("{} {currency} of {kind} credit", Money::from_minor(minor, currency));
        return Err(DeskError::OtherReference { reference: reference.to_owned(), recorded });
    }
    let grant_id: i64 = sqlx::query_scalar(INSERT_GRANT)
        .bind(request.customer)
        .bind(currency.as_str())
        .bind(amount.minor())
        .bind(request.kind.as_str())
        .bind(reference)
        .bind(reason)
        .bind(DateTime::<Utc>::from(now))
        .bind(actor)
        .fetch_one(&mut *transaction)
        .await?;
    let postings = match request.kind {
        GrantKind::Prepaid => Postings::of_advance(amount),
        GrantKind::Goodwill => Postings::of_grant(amount),
    };
    let postings = postings.map_err(BillingError::from)?;
    let occasion = ledger::Occasion::Grant(grant_id);
    ledger::post(&mut transaction, request.customer, currency, None, occasion, &postings, now).await?;
    let event = Recorded {
        customer: Some(request.customer),
        actor,
        action: "credit.granted",
        subject: reference,
        details: json!({
            "amount": amount.to_decimal_text(),
            "currency": currency.as_str(),
            "kind": request.kind.as_str(),
            "reason": reason,
        }),
    };
    record(&mut transaction, event).await?;
    transaction.commit().await?;
    let credit = credit.checked_add(amount).map_err(BillingError::from)?;
    Ok(Granted { amount, credit, was_known: false })
}

/// Credits an invoice whole, adjustments included, which are then free to be billed again. What was paid becomes credit.
pub async fn credit(
    pool: &PgPool,
    number: &str,
    reason: &str,
    actor: &str,
    now: Timestamp,
) -> Result<Credited, DeskError> {
    let reason = given(reason, "reason")?;
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    let (invoice, period_start, is_cancelled) = found(&mut transaction, number).await?;
    check_credited(&invoice, is_cancelled)?;
    let (catalog, seller) = (Catalog::none(month_of(period_start)), Party::default());
    let billing = by_hand(month_of(period_start), &seller, actor, &catalog, now);
    let notes = billing.take_back(&mut transaction, &invoice, reason).await?;
    let mut written = Written::of_notes(notes);
    let credited = number_notes(&mut transaction, &billing, &invoice, &mut written).await?;
    transaction.commit().await?;
    Ok(credited)
}

/// Credits the invoice of a month whole and issues it again as a new revision, with the newest close and the terms as they are
/// now, in one transaction.
pub async fn reissue(
    pool: &PgPool,
    number: &str,
    reason: &str,
    seller: &Party,
    actor: &str,
    now: Timestamp,
) -> Result<(Credited, BilledInvoice), DeskError> {
    let reason = given(reason, "reason")?;
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    let (invoice, period_start, is_cancelled) = found(&mut transaction, number).await?;
    check_credited(&invoice, is_cancelled)?;
    if !matches!(invoice.snapshot.invoice.kind, InvoiceKind::Monthly | InvoiceKind::Final) {
        return Err(wrong_state(&invoice, "only the invoice of a month can be issued again"));
    }
    let catalog = Catalog::load(&mut transaction, month_of(period_start)).await?;
    let billing = by_hand(month_of(period_start), seller, actor, &catalog, now);
    let customer = invoice.snapshot.invoice.customer.clone();
    let plan = Plan::Replace { invoice: &invoice, cause: reason };
    let mut written = billing.write(&mut transaction, &customer, plan).await?;
    if !matches!(written.outcome, Outcome::Issued(_)) {
        let reason = written.outcome.reason().unwrap_or("no day of the month is under contract");
        return Err(DeskError::NotIssuable(reason.to_owned()));
    }
    let credited = number_notes(&mut transaction, &billing, &invoice, &mut written).await?;
    transaction.commit().await?;
    match written.outcome {
        Outcome::Issued(billed) => Ok((credited, billed)),
        outcome => Err(DeskError::NotIssuable(outcome.as_str().to_owned())),
    }
}

/// Bills late usage of a customer on an invoice of its own: for a customer without a next invoice that could carry it. Credit
/// notes that are due as well are issued with it.
pub async fn bill_late_usage(
    pool: &PgPool,
    customer: &str,
    seller: &Party,
    actor: &str,
    now: Timestamp,
) -> Result<BilledInvoice, DeskError> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    let month = Month::containing(now).ok_or(BillingError::OutOfCalendar(now))?;
    let catalog = Catalog::none(month);
    let billing = by_hand(month, seller, actor, &catalog, now);
    let mut written = match billing.write_late_usage(&mut transaction, customer).await {
        Err(BillingError::UnknownCustomer) => return Err(DeskError::UnknownCustomer(customer.to_owned())),
        written => written?.ok_or_else(|| DeskError::NothingLate(customer.to_owned()))?,
    };
    billing.number(&mut transaction, customer, &mut written).await?;
    transaction.commit().await?;
    match written.outcome {
        Outcome::Issued(billed) => Ok(billed),
        outcome => Err(DeskError::NotIssuable(outcome.as_str().to_owned())),
    }
}

/// Bills twelve months of a customer's fee in advance from a day on, where its rate card offers that.
pub async fn prepay(
    pool: &PgPool,
    customer: &str,
    from: NaiveDate,
    seller: &Party,
    actor: &str,
    now: Timestamp,
) -> Result<BilledInvoice, DeskError> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection.begin().await?;
    let month = Month::new(from.year(), from.month()).ok_or(BillingError::OutOfCalendar(now))?;
    let catalog = Catalog::load(&mut transaction, month).await?;
    let billing = by_hand(month, seller, actor, &catalog, now);
    let mut written = match billing.write_prepayment(&mut transaction, customer, from).await {
        Err(DeskError::Billing(BillingError::UnknownCustomer)) => {
            return Err(DeskError::UnknownCustomer(customer.to_owned()));
        }
        written => written?,
    };
    billing.number(&mut transaction, customer, &mut written).await?;
    transaction.commit().await?;
    match written.outcome {
        Outcome::Issued(billed) => Ok(billed),
        outcome => Err(DeskError::NotIssuable(outcome.as_str().to_owned())),
    }
}

/// Billing of one customer by an operator: nothing is waited for but the close.
fn by_hand<'a>(period: Month, seller: &'a Party, actor: &'a str, catalog: &'a Catalog, now: Timestamp) -> Billing<'a> {
    Billing {
        period,
        seller,
        grace_hours: 0,
        discarded: Discarded::BillAgain,
        actor,
        catalog,
        now,
        interruptions: &Uninterrupted,
    }
}

async fn number_notes(
    connection: &mut PgConnection,
    billing: &Billing<'_>,
    invoice: &Invoiced,
    written: &mut Written,
) -> Result<Credited, DeskError> {
    let currency = invoice.snapshot.invoice.currency;
    let sum = |amounts: &mut dyn Iterator<Item = Money>| Money::sum(amounts, currency).map_err(BillingError::from);
    let total = sum(&mut written.notes.iter().map(|note| note.total))?;
    let to_credit = sum(&mut written.notes.iter().map(|note| note.to_credit))?;
    let notes = billing.number(connection, &invoice.snapshot.invoice.customer, written).await?;
    Ok(Credited { notes, total, to_credit })
}

/// The invoice, looked at again once its customer is locked.
async fn found(connection: &mut PgConnection, number_or_id: &str) -> Result<(Invoiced, NaiveDate, bool), DeskError> {
    let unknown = || DeskError::UnknownInvoice(number_or_id.to_owned());
    let (invoice, _, _) = late::find(connection, number_or_id).await?.ok_or_else(unknown)?;
    lock_customer(connection, &invoice.snapshot.invoice.customer).await?;
    late::find(connection, number_or_id).await?.ok_or_else(unknown)
}

fn check_credited(invoice: &Invoiced, is_cancelled: bool) -> Result<(), DeskError> {
    if is_cancelled {
        let (number, status) = (invoice.number.clone(), "credited whole already".to_owned());
        return Err(DeskError::WrongState { invoice: number, status, advice: "there is nothing left of it" });
    }
    match invoice.stored {
        AnyStored::Issued(_) | AnyStored::Paid(_) => Ok(()),
        AnyStored::Draft(_) | AnyStored::Cancelled(_) => {
            Err(wrong_state(invoice, "only what was issued can be credited; discard a draft"))
        }
    }
}

fn wrong_state(invoice: &Invoiced, advice: &'static str) -> DeskError {
    let name = if invoice.number.is_empty() { &invoice.id } else { &invoice.number };
    DeskError::WrongState { invoice: name.clone(), status: invoice.stored.status().to_string(), advice }
}

fn given<'a>(text: &'a str, what: &'static str) -> Result<&'a str, DeskError> {
    let text = text.trim();
    if text.is_empty() || text.contains('\0') { Err(DeskError::Missing(what)) } else { Ok(text) }
}

fn amount(text: &str, currency: Currency) -> Result<Money, DeskError> {
    let amount = Money::parse(text.trim(), currency).filter(|amount| 0 < amount.minor());
    amount.ok_or_else(|| DeskError::NotAnAmount(text.to_owned(), currency))
}

fn month_of(period_start: NaiveDate) -> Month {
    Month::new(period_start.year(), period_start.month()).expect("a stored period lies in a month of the calendar")
}

const KNOWN_PAYMENT: &str = "
    select invoice_id::text, amount_minor from payments
    where customer_id = $1::text and method = $2::text and reference = $3::text";

const INSERT_PAYMENT: &str = "
    insert into payments (
        customer_id, invoice_id, currency, amount_minor, method, reference, received_at, recorded_at, recorded_by)
    values (
        $1::text, $2::text::uuid, $3::text, $4::bigint, $5::text, $6::text, $7::timestamptz, $8::timestamptz, $9::text)
    returning payment_id";

const CREDIT: &str = "
    select c.currency::text, coalesce(b.credit_minor, 0)
    from customers c
    left join customer_balances b on b.customer_id = c.customer_id and b.currency = c.currency
    where c.customer_id = $1::text";

const KNOWN_GRANT: &str = "
    select amount_minor, kind from credit_grants where customer_id = $1::text and reference = $2::text";

const INSERT_GRANT: &str = "
    insert into credit_grants (customer_id, currency, amount_minor, kind, reference, reason, granted_at, granted_by)
    values ($1::text, $2::text, $3::bigint, $4::text, $5::text, $6::text, $7::timestamptz, $8::text)
    returning grant_id";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "known payment", sql: KNOWN_PAYMENT, roles: BILLING },
    Statement { name: "insert payment", sql: INSERT_PAYMENT, roles: BILLING },
    Statement { name: "credit of a customer", sql: CREDIT, roles: BILLING },
    Statement { name: "known grant", sql: KNOWN_GRANT, roles: BILLING },
    Statement { name: "insert grant", sql: INSERT_GRANT, roles: BILLING },
];
