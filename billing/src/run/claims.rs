//! Who is still to be billed: runs, and the claims that workers take.
//!
//! A claim is a row that is locked while its customer is billed, in the transaction that bills it. So a claim is done exactly
//! when its invoice is, and a worker that dies lets go of its claim at once. No lease has to run out.

use aggregator::directory::CustomerId;
use chrono::{DateTime, Utc};
use ingest::Timestamp;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::report::{BilledInvoice, CustomerResult, Outcome};
use super::{Customers, RunError};
use crate::audit::{Recorded, record};
use crate::currency::Currency;
use crate::money::Money;
use crate::period::Month;
use crate::statements::{BILLING, Statement};

/// Who starts and ends a run, in the audit trail.
const ACTOR: &str = "billing";

/// The run of this period: a new one, or, of everyone, the one that another process has begun and not finished.
pub(super) async fn open(
    connection: &mut PgConnection,
    period: Month,
    customers: &Customers,
    now: Timestamp,
) -> Result<i64, RunError> {
    let is_whole = matches!(customers, Customers::All);
    let named: Option<Vec<&str>> = match customers {
        Customers::All => None,
        Customers::Only(ids) => Some(ids.iter().map(CustomerId::as_str).collect()),
    };
    // The other process may finish its run between our insert and our look.
    loop {
        let mut transaction = connection.begin().await?;
        let opened: Option<i64> = sqlx::query_scalar(OPEN)
            .bind(period.first_day())
            .bind(is_whole)
            .bind(DateTime::<Utc>::from(now))
            .bind(ACTOR)
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(run_id) = opened {
            let listed = sqlx::query(LIST).bind(run_id).bind(&named).execute(&mut *transaction).await?;
            let event = Recorded {
                customer: None,
                actor: ACTOR,
                action: "billing_run.started",
                subject: &run_id.to_string(),
                details: json!({ "period": period.to_string(), "customers": listed.rows_affected() }),
            };
            record(&mut transaction, event).await?;
            transaction.commit().await?;
            return Ok(run_id);
        }
        transaction.rollback().await?;
        let joined: Option<i64> =
            sqlx::query_scalar(JOIN).bind(period.first_day()).fetch_optional(&mut *connection).await?;
        if let Some(run_id) = joined {
            return Ok(run_id);
        }
    }
}

/// Locks the next waiting customer after this one, until the caller's transaction ends; `None` where nobody waits that no
/// other worker bills.
pub(super) async fn take(
    connection: &mut PgConnection,
    run_id: i64,
    after: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(TAKE).bind(run_id).bind(after).fetch_optional(connection).await
}

/// Waits for whoever bills one of the last customers: returns the customer if they died over it, `None` once nobody is left.
pub(super) async fn take_over(connection: &mut PgConnection, run_id: i64) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(TAKE_OVER).bind(run_id).fetch_optional(connection).await
}

/// Marks a claim done, in the transaction that did it; one that is done already stays as it is.
pub(super) async fn finish(
    connection: &mut PgConnection,
    run_id: i64,
    customer: &str,
    result: &CustomerResult,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let billed = result.outcome.billed();
    sqlx::query(FINISH)
        .bind(run_id)
        .bind(customer)
        .bind(result.outcome.as_str())
        .bind(result.outcome.reason().map(|reason| reason.replace('\0', " ")))
        .bind(billed.map(|invoice| invoice.id.as_str()))
        .bind(billed.map(|invoice| invoice.total.currency().as_str()))
        .bind(billed.map(|invoice| invoice.total.minor()))
        .bind(result.credited_minor)
        .bind(result.credit_notes)
        .bind(DateTime::<Utc>::from(now))
        .execute(connection)
        .await
        .map(drop)
}

/// Lets this transaction's commit return before it is on the disk.
pub(super) async fn commit_without_waiting(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(COMMIT_WITHOUT_WAITING).execute(transaction).await?;
    Ok(())
}

/// Ends a run where nobody waits any more; returns whether it is ended.
pub(super) async fn close(connection: &mut PgConnection, run_id: i64, now: Timestamp) -> Result<bool, RunError> {
    let mut transaction = connection.begin().await?;
    let closed = sqlx::query(CLOSE).bind(run_id).bind(DateTime::<Utc>::from(now)).execute(&mut *transaction).await?;
    if closed.rows_affected() == 1 {
        let counts: Vec<(String, i64)> = sqlx::query_as(COUNT).bind(run_id).fetch_all(&mut *transaction).await?;
        let counts: serde_json::Map<String, serde_json::Value> =
            counts.into_iter().map(|(outcome, count)| (outcome, count.into())).collect();
        let event = Recorded {
            customer: None,
            actor: ACTOR,
            action: "billing_run.finished",
            subject: &run_id.to_string(),
            details: counts.into(),
        };
        record(&mut transaction, event).await?;
        transaction.commit().await?;
        return Ok(true);
    }
    transaction.rollback().await?;
    let waiting: i64 = sqlx::query_scalar(WAITING).bind(run_id).fetch_one(connection).await?;
    Ok(waiting == 0)
}

/// What a run did, in the order of customers; those that still wait are left out.
pub(super) async fn results(connection: &mut PgConnection, run_id: i64) -> Result<Vec<CustomerResult>, RunError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        customer_id: String,
        outcome: String,
        reason: Option<String>,
        invoice_id: Option<String>,
        invoice_number: Option<String>,
        currency: Option<String>,
        total_minor: Option<i64>,
        credited_minor: i64,
        credit_note_count: i32,
    }
    let rows: Vec<Row> = sqlx::query_as(RESULTS).bind(run_id).fetch_all(connection).await?;
    let mut results = Vec::with_capacity(rows.len());
    for row in rows {
        let broken = || RunError::BrokenRun { run_id, customer: row.customer_id.clone() };
        let customer = CustomerId::parse(&row.customer_id).map_err(|_| broken())?;
        let currency = row.currency.as_deref().map(Currency::parse).transpose().map_err(|_| broken())?;
        let invoice = match (row.invoice_id, currency, row.total_minor) {
            (Some(id), Some(currency), Some(minor)) => {
                Some(BilledInvoice { id, number: row.invoice_number, total: Money::from_minor(minor, currency) })
            }
            _ => None,
        };
        let outcome = Outcome::of_row(&row.outcome, row.reason, invoice);
        results.push(CustomerResult {
            customer,
            outcome: outcome.ok_or_else(broken)?,
            credit_notes: row.credit_note_count,
            credited_minor: row.credited_minor,
        });
    }
    Ok(results)
}

const OPEN: &str = "
    insert into billing_runs (period_start, is_whole, started_at, started_by)
    values ($1::date, $2::boolean, $3::timestamptz, $4::text)
    on conflict (period_start) where is_whole and finished_at is null do nothing
    returning run_id";

const LIST: &str = "
    insert into billing_run_customers (run_id, customer_id)
    select $1::bigint, customer_id from customers where $2::text[] is null or customer_id = any($2::text[])";

const JOIN: &str = "
    select run_id from billing_runs where period_start = $1::date and is_whole and finished_at is null";

/// The commits of a run come one after the other, because numbers are held until them; so each does not wait for the disk.
/// What is on the disk is always a beginning of what was committed: a database that dies takes the last invoices back, whole
/// and with their numbers, and the next call of the run issues them. Whatever leaves is written by a transaction that waits,
/// and then everything before it is on the disk, too: the rendered document, which mail and downloads need, and the end of
/// the run, which its caller is told of. Whoever shows an invoice before that waits itself: [`crate::wait_for_invoices`].
/// Source: PostgreSQL documentation, "Asynchronous Commit".
const COMMIT_WITHOUT_WAITING: &str = "select set_config('synchronous_commit', 'off', true)";

const TAKE: &str = "
    select customer_id from billing_run_customers
    where run_id = $1::bigint and outcome is null and customer_id > $2::text
    order by customer_id
    limit 1
    for update skip locked";

const TAKE_OVER: &str = "
    select customer_id from billing_run_customers
    where run_id = $1::bigint and outcome is null
    order by customer_id
    limit 1
    for update";

const FINISH: &str = "
    update billing_run_customers
    set outcome = $3::text, reason = $4::text, invoice_id = $5::text::uuid, currency = $6::text, total_minor = $7::bigint,
        credited_minor = $8::bigint, credit_note_count = $9::int, finished_at = $10::timestamptz
    where run_id = $1::bigint and customer_id = $2::text and outcome is null";

const CLOSE: &str = "
    update billing_runs set finished_at = greatest($2::timestamptz, started_at)
    where run_id = $1::bigint and finished_at is null
        and not exists (select from billing_run_customers c where c.run_id = $1::bigint and c.outcome is null)";

const COUNT: &str = "
    select outcome, count(*) from billing_run_customers where run_id = $1::bigint group by outcome order by outcome";

const WAITING: &str = "
    select count(*) from billing_run_customers where run_id = $1::bigint and outcome is null";

const RESULTS: &str = "
    select c.customer_id, c.outcome, c.reason, c.invoice_id::text, i.invoice_number, c.currency::text, c.total_minor,
        c.credited_minor, c.credit_note_count
    from billing_run_customers c
    left join invoices i on i.invoice_id = c.invoice_id
    where c.run_id = $1::bigint and c.outcome is not null
    order by c.customer_id";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "open run", sql: OPEN, roles: BILLING },
    Statement { name: "list customers of a run", sql: LIST, roles: BILLING },
    Statement { name: "join run", sql: JOIN, roles: BILLING },
    Statement { name: "commit without waiting", sql: COMMIT_WITHOUT_WAITING, roles: BILLING },
    Statement { name: "take claim", sql: TAKE, roles: BILLING },
    Statement { name: "take over claim", sql: TAKE_OVER, roles: BILLING },
    Statement { name: "finish claim", sql: FINISH, roles: BILLING },
    Statement { name: "close run", sql: CLOSE, roles: BILLING },
    Statement { name: "count outcomes", sql: COUNT, roles: BILLING },
    Statement { name: "count waiting", sql: WAITING, roles: BILLING },
    Statement { name: "results of a run", sql: RESULTS, roles: BILLING },
];
