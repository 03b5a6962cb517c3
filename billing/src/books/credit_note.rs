//! Credit notes: written, posted and announced first, numbered last.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde_json::json;
use sqlx::PgConnection;

use super::ledger::{self, Occasion};
use crate::correction::Correction;
use crate::document::{Evidence, SourceClass};
use crate::lifecycle::CreditNoteKind;
use crate::money::{AmountError, Money};
use crate::outbox::{Notification, enqueue};
use crate::period::Month;
use crate::postings::{Account, Postings};
use crate::snapshot::{CreditSnapshot, Snapshot};
use crate::statements::{BILLING, Statement};

/// The series of the numbers of credit notes.
const SERIES: &str = "CN";

/// What a note is to credit.
#[derive(Clone, Debug)]
pub(crate) struct NoteContent<'a> {
    /// The invoice it refers to.
    pub(crate) invoice_id: &'a str,
    /// Whose.
    pub(crate) customer_id: &'a str,
    /// That invoice's snapshot, for the parties.
    pub(crate) snapshot: &'a Snapshot,
    /// Why.
    pub(crate) kind: CreditNoteKind,
    /// The adjustment it takes back.
    pub(crate) adjustment_id: Option<&'a str>,
    /// The newer cut, where the period was counted again.
    pub(crate) close: Option<(i64, Evidence)>,
    /// How far the usage it goes by is proven.
    pub(crate) source_class: SourceClass,
    /// The change; its total is nothing or below.
    pub(crate) correction: Correction,
}

/// A note that is written and has no number yet.
#[derive(Clone, Debug)]
pub(crate) struct WrittenNote {
    id: String,
    customer_id: String,
    invoice_number: String,
    kind: CreditNoteKind,
    cause: String,
    /// What it takes back.
    pub(crate) total: Money,
    /// What of it became customer credit.
    pub(crate) to_credit: Money,
    /// What is open of the invoice afterwards, in minor units.
    pub(crate) left_open_minor: i64,
}

/// A note was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoteError {
    /// Stop: an amount is out of range.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// Stop: no number can be taken at this time.
    #[error("no credit note can be issued at {0}")]
    OutOfCalendar(Timestamp),
    /// Retry: the database did not answer, or refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Writes a note with its ledger entry and its notification. It is only committed once it is numbered ([`number`]).
pub(crate) async fn write(
    connection: &mut PgConnection,
    content: NoteContent<'_>,
    issued_at: Timestamp,
) -> Result<WrittenNote, NoteError> {
    let totals = &content.correction.totals;
    let currency = totals.total.currency();
    let taken_back = totals.total.checked_neg()?;
    let discount = totals.volume_discount.checked_add(totals.coupons)?.checked_neg()?;
    let open_minor = ledger::open_minor(connection, content.invoice_id).await?;
    let open = Money::from_minor(open_minor.max(0), currency);
    let off_open = taken_back.at_most(open)?;
    let to_credit = taken_back.checked_sub(off_open)?;
    let postings = Postings::of_credit_note(&content.correction, to_credit)?;
    let snapshot = CreditSnapshot {
        seller: content.snapshot.seller.clone(),
        buyer: content.snapshot.buyer.clone(),
        correction: content.correction.clone(),
        evidence: content.close.as_ref().map(|(_, evidence)| evidence.clone()),
        source_class: content.source_class.as_str().to_owned(),
    };
    let id: String = sqlx::query_scalar(INSERT)
        .bind(content.customer_id)
        .bind(content.invoice_id)
        .bind(content.kind.as_str())
        .bind(content.adjustment_id)
        .bind(content.close.as_ref().map(|(close_id, _)| *close_id))
        .bind(currency.as_str())
        .bind(totals.subtotal.checked_neg()?.minor())
        .bind(discount.minor())
        .bind(totals.net.checked_neg()?.minor())
        .bind(totals.tax.checked_neg()?.minor())
        .bind(taken_back.minor())
        .bind(off_open.minor())
        .bind(to_credit.minor())
        .bind(&content.correction.cause)
        .bind(serde_json::to_string(&snapshot).expect("a snapshot is text and lists of it"))
        .bind(DateTime::<Utc>::from(issued_at))
        .fetch_one(&mut *connection)
        .await?;
    ledger::post(
        connection,
        content.customer_id,
        currency,
        Some(content.invoice_id),
        Occasion::CreditNote(&id),
        &postings,
        issued_at,
    )
    .await?;
    enqueue(connection, &Notification::of_credit_note(content.customer_id, &id), issued_at).await?;
    Ok(WrittenNote {
        customer_id: content.customer_id.to_owned(),
        invoice_number: content.correction.invoice.clone(),
        kind: content.kind,
        cause: content.correction.cause,
        total: taken_back,
        to_credit,
        left_open_minor: open_minor + ledger::change_of(&postings, &Account::Receivable),
        id,
    })
}

/// Takes the next number for a written note and records it. Others that credit wait from here to the end of the caller's
/// transaction. In a transaction that also issues an invoice notes come first, so that two of them never wait for each other.
pub(crate) async fn number(
    connection: &mut PgConnection,
    note: &WrittenNote,
    actor: &str,
    issued_at: Timestamp,
) -> Result<String, NoteError> {
    let month = Month::containing(issued_at).ok_or(NoteError::OutOfCalendar(issued_at))?;
    let details = json!({
        "credit_note_id": note.id,
        "invoice": note.invoice_number,
        "kind": note.kind.as_str(),
        "cause": note.cause,
        "currency": note.total.currency().as_str(),
        "total": note.total.to_decimal_text(),
        "to_customer_credit": note.to_credit.to_decimal_text(),
    });
    let number: Option<String> = sqlx::query_scalar(NUMBER)
        .bind(&note.id)
        .bind(SERIES)
        .bind(month.first_day())
        .bind(actor)
        .bind(details.to_string())
        .bind(&note.customer_id)
        .fetch_optional(connection)
        .await?;
    Ok(number.ok_or(sqlx::Error::RowNotFound)?)
}

const INSERT: &str = "
    insert into credit_notes (
        customer_id, invoice_id, kind, adjustment_id, close_id, currency, gross_minor, discount_minor, net_minor, tax_minor,
        total_minor, receivable_minor, credit_minor, cause, snapshot, issued_at)
    values (
        $1::text, $2::text::uuid, $3::text, $4::text::uuid, $5::bigint, $6::text, $7::bigint, $8::bigint, $9::bigint,
        $10::bigint, $11::bigint, $12::bigint, $13::bigint, $14::text, $15::text::jsonb, $16::timestamptz)
    returning credit_note_id::text";

const NUMBER: &str = "
    with numbered as (
        update credit_notes set credit_note_number = take_invoice_number($2::text, $3::date)
        where credit_note_id = $1::text::uuid and customer_id = $6::text and credit_note_number is null
        returning customer_id, credit_note_number
    ), recorded as (
        select record_audit_event(customer_id, $4::text, 'credit_note.issued', credit_note_number, $5::text::jsonb)
        from numbered
    )
    select n.credit_note_number from numbered n cross join recorded";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "insert credit note", sql: INSERT, roles: BILLING },
    Statement { name: "number credit note", sql: NUMBER, roles: BILLING },
];
