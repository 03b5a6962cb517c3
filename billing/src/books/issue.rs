//! Issuing: the number, the state and the audit trail, in one statement and last of all; and settling what nothing is due of.

use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde_json::json;
use sqlx::PgConnection;

use crate::audit::{Recorded, record};
use crate::lifecycle::{Drafted, Open, Settled, Stored};
use crate::period::{Month, end_of_day_after};
use crate::snapshot::Snapshot;
use crate::statements::{BILLING, Statement};

/// Days from the issue to the end of the day on which an invoice is due.
pub const DUE_DAYS: u64 = 30;

/// The series of invoice numbers.
const SERIES: &str = "INV";

/// An invoice was not issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// Stop: the due date lies beyond the calendar.
    #[error("no invoice can be issued at {0}")]
    OutOfCalendar(Timestamp),
    /// Retry: the database did not answer, or refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Takes the next number, issues the draft under it and records that. Others that issue wait from here to the end of the
/// caller's transaction, so it ends right after.
pub(crate) async fn issue(
    connection: &mut PgConnection,
    draft: Stored<Drafted>,
    snapshot: &Snapshot,
    actor: &str,
    issued_at: Timestamp,
) -> Result<(Stored<Open>, String), IssueError> {
    let month = Month::containing(issued_at).ok_or(IssueError::OutOfCalendar(issued_at))?;
    let due_at = end_of_day_after(issued_at, DUE_DAYS).ok_or(IssueError::OutOfCalendar(issued_at))?;
    let invoice = &snapshot.invoice;
    let details = json!({
        "invoice_id": draft.id(),
        "kind": invoice.kind.as_str(),
        "period": invoice.period.to_string(),
        "currency": invoice.currency.as_str(),
        "total": invoice.totals.total.to_decimal_text(),
        "adjustments": invoice.settlement.adjustments.iter().map(|carried| &carried.invoice).collect::<Vec<_>>(),
        "payable": invoice.settlement.payable.to_decimal_text(),
        "credit_applied": invoice.settlement.credit.to_decimal_text(),
        "due": invoice.settlement.due.to_decimal_text(),
        "evidence_sha256": snapshot.evidence.as_ref().map(|evidence| &evidence.sha256),
    });
    let number: Option<String> = sqlx::query_scalar(ISSUE)
        .bind(draft.id())
        .bind(SERIES)
        .bind(month.first_day())
        .bind(DateTime::<Utc>::from(issued_at))
        .bind(DateTime::<Utc>::from(due_at))
        .bind(actor)
        .bind(details.to_string())
        .fetch_optional(connection)
        .await?;
    let number = number.ok_or(sqlx::Error::RowNotFound)?;
    Ok((draft.issued(), number))
}

/// Marks an invoice paid of which nothing is open, and records that.
pub(crate) async fn settle(
    connection: &mut PgConnection,
    invoice: Stored<Open>,
    number: &str,
    because: &str,
    actor: &str,
    paid_at: Timestamp,
) -> Result<Stored<Settled>, sqlx::Error> {
    let done =
        sqlx::query(SETTLE).bind(invoice.id()).bind(DateTime::<Utc>::from(paid_at)).execute(&mut *connection).await?;
    if done.rows_affected() != 1 {
        return Err(sqlx::Error::RowNotFound);
    }
    let event = Recorded {
        customer: Some(invoice.customer_id()),
        actor,
        action: "invoice.paid",
        subject: number,
        details: json!({ "because": because, "paid_at": paid_at.to_string() }),
    };
    record(connection, event).await?;
    Ok(invoice.settled())
}

const ISSUE: &str = "
    with issued as (
        update invoices
        set status = 'issued', invoice_number = take_invoice_number($2::text, $3::date), issued_at = $4::timestamptz,
            due_at = $5::timestamptz
        where invoice_id = $1::text::uuid and status = 'draft'
        returning customer_id, invoice_number
    ), recorded as (
        select record_audit_event(customer_id, $6::text, 'invoice.issued', invoice_number, $7::text::jsonb) from issued
    )
    select i.invoice_number from issued i cross join recorded";

const SETTLE: &str = "
    update invoices set status = 'paid', paid_at = greatest($2::timestamptz, issued_at)
    where invoice_id = $1::text::uuid and status = 'issued'";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "issue", sql: ISSUE, roles: BILLING },
    Statement { name: "settle", sql: SETTLE, roles: BILLING },
];
