//! What a day brings to the outbox: invoices that are due soon, invoices that are overdue, limits of a tier that are near.
//!
//! Each occasion has one tag, so running this again, or twice at once, tells nobody anything twice.

use chrono::{DateTime, NaiveDate, Utc};
use ingest::Timestamp;
use sqlx::{Connection as _, PgConnection};

use super::notification::{Notification, Tag, enqueue};
use super::template::Template;
use crate::audit::{Recorded, record};
use crate::period::Month;
use crate::statements::{BILLING, Statement};

/// Who records reminders.
const ACTOR: &str = "billing";

/// When customers are reminded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reminders {
    /// Days before the due day from which on one reminder is sent.
    pub before_due_days: i64,
    /// Days between notices of an overdue invoice; the first comes with the first day after the due day.
    pub overdue_every_days: i64,
    /// The most notices of one overdue invoice.
    pub overdue_max: u32,
    /// Shares of what a tier allows at which the customer is told, in percent, in rising order.
    pub threshold_percents: &'static [i64],
}

/// The usual times.
pub const REMINDERS: Reminders =
    Reminders { before_due_days: 7, overdue_every_days: 14, overdue_max: 3, threshold_percents: &[80, 100] };

/// What was put into the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReminderReport {
    /// Invoices that are due soon.
    pub reminders: u64,
    /// Notices of overdue invoices.
    pub overdue: u64,
    /// Limits of a tier that are near or reached.
    pub thresholds: u64,
}

#[derive(sqlx::FromRow)]
struct OpenInvoice {
    invoice_id: String,
    customer_id: String,
    invoice_number: String,
    due_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Limits {
    customer_id: String,
    accounts: i64,
    accounts_allowed: i32,
    regions: i64,
    regions_allowed: i32,
}

/// Puts into the outbox what customers are to be told on this day.
pub async fn remind(
    connection: &mut PgConnection,
    reminders: &Reminders,
    now: Timestamp,
) -> Result<ReminderReport, sqlx::Error> {
    let mut report = ReminderReport::default();
    let open: Vec<OpenInvoice> = sqlx::query_as(OPEN).fetch_all(&mut *connection).await?;
    for invoice in open {
        let Some((template, number)) = occasion(reminders, invoice.due_at.into(), now) else { continue };
        let notification = Notification::of_invoice(&invoice.customer_id, template, &invoice.invoice_id, number);
        let mut transaction = connection.begin().await?;
        if enqueue(&mut transaction, &notification, now).await? {
            let event = Recorded {
                customer: Some(&invoice.customer_id),
                actor: ACTOR,
                action: "invoice.reminded",
                subject: &invoice.invoice_number,
                details: serde_json::json!({ "notification": notification.tag.as_str() }),
            };
            record(&mut transaction, event).await?;
            transaction.commit().await?;
            match template {
                Template::InvoiceOverdue => report.overdue += 1,
                _ => report.reminders += 1,
            }
        }
    }
    report.thresholds = tell_limits(connection, reminders, now).await?;
    Ok(report)
}

/// What is to be said of an open invoice on this day, and for which time.
fn occasion(reminders: &Reminders, due_at: Timestamp, now: Timestamp) -> Option<(Template, Option<u32>)> {
    let days = day(due_at).signed_duration_since(day(now)).num_days();
    if now <= due_at {
        return (days <= reminders.before_due_days).then_some((Template::InvoiceReminder, None));
    }
    let notice =
        u32::try_from((-days).max(1) - 1).unwrap_or(0) / u32::try_from(reminders.overdue_every_days).ok()?.max(1);
    Some((Template::InvoiceOverdue, Some(notice.min(reminders.overdue_max.saturating_sub(1)) + 1)))
}

fn day(instant: Timestamp) -> NaiveDate {
    DateTime::<Utc>::from(instant).date_naive()
}

async fn tell_limits(connection: &mut PgConnection, reminders: &Reminders, now: Timestamp) -> Result<u64, sqlx::Error> {
    let Some(month) = Month::containing(now) else { return Ok(0) };
    let limits: Vec<Limits> = sqlx::query_as(LIMITS)
        .bind(DateTime::<Utc>::from(now))
        .bind(DateTime::<Utc>::from(month.start()))
        .bind(DateTime::<Utc>::from(month.end()))
        .fetch_all(&mut *connection)
        .await?;
    let mut told = 0;
    for customer in limits {
        for (what, used, allowed) in [
            ("accounts", customer.accounts, i64::from(customer.accounts_allowed)),
            ("regions", customer.regions, i64::from(customer.regions_allowed)),
        ] {
            let reached = reminders.threshold_percents.iter().rev().find(|percent| allowed * **percent <= used * 100);
            let Some(percent) = reached else { continue };
            let tag = format!("usage-threshold-{}-{what}-{month}-{percent}", customer.customer_id);
            let notification = Notification {
                tag: Tag::parse(&tag).expect("a customer's id, words and digits make a tag"),
                customer: customer.customer_id.clone(),
                template: Template::UsageThreshold,
                invoice_id: None,
                credit_note_id: None,
                payload: serde_json::json!({
                    "what": what,
                    "used": used.to_string(),
                    "allowed": allowed.to_string(),
                    "percent": percent.to_string(),
                    "month": month.to_string(),
                }),
            };
            told += u64::from(enqueue(connection, &notification, now).await?);
        }
    }
    Ok(told)
}

/// Issued invoices of which something is open; what was credited whole has nothing open.
const OPEN: &str = "
    select invoice_id::text, customer_id, invoice_number, due_at
    from invoices
    where status = 'issued' and invoice_open_minor(invoice_id) > 0
    order by due_at, invoice_id";

/// Accounts owned now, and regions with usage in the month, beside what the tier of this day allows; of contracts that go on.
const LIMITS: &str = "
    select c.customer_id, a.accounts, f.accounts_allowed, r.regions, f.regions_allowed
    from customers c
    join tier_features f on f.tier = tier_of(c.customer_id, ($1::timestamptz at time zone 'utc')::date)
    cross join lateral (
        select count(distinct o.account_id) as accounts
        from account_ownership o where o.customer_id = c.customer_id and o.valid @> $1::timestamptz
    ) a
    cross join lateral (
        select count(distinct u.region) as regions
        from usage_rows u
        where u.customer_id = c.customer_id and u.meter = 'cloudtrail_events' and u.region <> 'none'
            and u.window_start >= $2::timestamptz and u.window_start < $3::timestamptz
    ) r
    where c.contract_start <= $1::timestamptz and not exists (
        select from contract_ends e
        where e.customer_id = c.customer_id and e.ends_on <= ($1::timestamptz at time zone 'utc')::date)
    order by c.customer_id";

pub(super) const STATEMENTS: &[Statement] = &[
    Statement { name: "open invoices", sql: OPEN, roles: BILLING },
    Statement { name: "limits of tiers", sql: LIMITS, roles: BILLING },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_is_reminded_before_the_due_day_and_told_again_after_it() {
        let due = Timestamp::parse_rfc3339("2026-12-01T23:59:59Z").unwrap();
        for (now, expected) in [
            ("2026-11-01T00:00:00Z", None),
            ("2026-11-23T23:59:59Z", None),
            ("2026-11-24T00:00:00Z", Some((Template::InvoiceReminder, None))),
            ("2026-12-01T23:59:59Z", Some((Template::InvoiceReminder, None))),
            ("2026-12-02T00:00:00Z", Some((Template::InvoiceOverdue, Some(1)))),
            ("2026-12-15T23:59:59Z", Some((Template::InvoiceOverdue, Some(1)))),
            ("2026-12-16T00:00:00Z", Some((Template::InvoiceOverdue, Some(2)))),
            ("2026-12-30T00:00:00Z", Some((Template::InvoiceOverdue, Some(3)))),
            ("2027-12-30T00:00:00Z", Some((Template::InvoiceOverdue, Some(3)))),
        ] {
            assert_eq!(occasion(&REMINDERS, due, Timestamp::parse_rfc3339(now).unwrap()), expected, "{now}");
        }
    }
}
