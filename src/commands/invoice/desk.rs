//! What operators do with invoices by hand.

use std::process::ExitCode;

use aggregator::directory::CustomerId;
use anyhow::Context;
use billing::{
    BilledInvoice, Credited, Customers, Discarded, GrantKind, GrantRequest, Outcome, PayRequest, RunRequest,
    bill_late_usage, outbox, prepay,
};
use serde_json::json;

use super::{month, seller};
use crate::cli::{self, Global};
use crate::commands::{instant, operator, with_platform};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn issue(global: &Global, arguments: cli::InvoiceIssue) -> anyhow::Result<ExitCode> {
    let customer = CustomerId::parse(&arguments.customer)?;
    let platform = Platform::open(global, Work::Stores).await?;
    let billed = with_platform(platform, |stores| async move {
        let pool = stores.database.pool(Role::Billing)?;
        let now = edge::now();
        if arguments.of.late_usage {
            return Ok(bill_late_usage(&pool, customer.as_str(), &seller(), &operator(), now).await?);
        }
        if let Some(day) = &arguments.of.prepay_from {
            let from =
                day.parse().with_context(|| format!("--prepay-from {day}: expected a day such as 2027-01-01"))?;
            return Ok(prepay(&pool, customer.as_str(), from, &seller(), &operator(), now).await?);
        }
        let period = month(arguments.of.period.as_deref().unwrap_or_default())?;
        let request = RunRequest {
            customers: Customers::Only(vec![customer]),
            grace_hours: 0,
            discarded: Discarded::BillAgain,
            workers: 1,
            ..RunRequest::new(period, seller())
        };
        let report = billing::issue(&pool, &request, now).await?;
        match report.results.into_iter().next().map(|result| result.outcome) {
            Some(Outcome::Issued(invoice) | Outcome::AlreadyIssued(invoice)) => Ok(invoice),
            Some(outcome) => {
                anyhow::bail!("not issued: {}", outcome.reason().unwrap_or(outcome.as_str()).replace('_', " "))
            }
            None => anyhow::bail!("another process is issuing this invoice: look at `securebase invoice list`"),
        }
    })
    .await?;
    if global.json {
        print::json(&billed_json(&billed));
    } else {
        print::line(&format!("issued {}", billed_text(&billed)));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn credit(global: &Global, arguments: cli::InvoiceReason) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let credited = with_platform(platform, |stores| async move {
        let pool = stores.database.pool(Role::Billing)?;
        Ok(billing::credit(&pool, &arguments.number, &arguments.reason, &operator(), edge::now()).await?)
    })
    .await?;
    if global.json {
        print::json(&credited_json(&credited));
    } else {
        print::line(&credited_text(&credited));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn reissue(global: &Global, arguments: cli::InvoiceReason) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let (credited, billed) = with_platform(platform, |stores| async move {
        let pool = stores.database.pool(Role::Billing)?;
        let (number, reason) = (&arguments.number, &arguments.reason);
        Ok(billing::reissue(&pool, number, reason, &seller(), &operator(), edge::now()).await?)
    })
    .await?;
    if global.json {
        print::json(&json!({ "credited": credited_json(&credited), "invoice": billed_json(&billed) }));
    } else {
        print::line(&credited_text(&credited));
        print::line(&format!("issued {}", billed_text(&billed)));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pay(global: &Global, arguments: cli::InvoicePay) -> anyhow::Result<ExitCode> {
    let now = edge::now();
    let received_at = arguments.received.as_deref().map_or(Ok(now), |text| instant(text, "--received"))?;
    anyhow::ensure!(received_at <= now, "--received {received_at}: that is in the future");
    let platform = Platform::open(global, Work::Database).await?;
    let paid = with_platform(platform, |stores| async move {
        let pool = stores.database.pool(Role::Billing)?;
        let request = PayRequest {
            invoice: &arguments.number,
            amount: arguments.amount.as_deref(),
            method: &arguments.method,
            reference: &arguments.reference,
            received_at,
        };
        Ok(billing::pay(&pool, &request, &operator(), now).await?)
    })
    .await?;
    let outcome = if paid.was_known { "known" } else { "recorded" };
    if global.json {
        print::json(&json!({
            "outcome": outcome,
            "amount": paid.amount.to_decimal_text(),
            "open": paid.open.to_decimal_text(),
            "currency": paid.amount.currency().as_str(),
        }));
    } else {
        let currency = paid.amount.currency();
        let said = if paid.was_known { "recorded before" } else { "recorded" };
        print::line(&format!("{said}: {} {currency}; open: {} {currency}", paid.amount, paid.open));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn grant(global: &Global, arguments: cli::InvoiceGrant) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let granted = with_platform(platform, |stores| async move {
        let pool = stores.database.pool(Role::Billing)?;
        let request = GrantRequest {
            customer: &arguments.customer,
            amount: &arguments.amount,
            kind: if arguments.goodwill { GrantKind::Goodwill } else { GrantKind::Prepaid },
            reference: &arguments.reference,
            reason: &arguments.reason,
        };
        Ok(billing::grant(&pool, &request, &operator(), edge::now()).await?)
    })
    .await?;
    let outcome = if granted.was_known { "known" } else { "granted" };
    if global.json {
        print::json(&json!({
            "outcome": outcome,
            "amount": granted.amount.to_decimal_text(),
            "credit": granted.credit.to_decimal_text(),
            "currency": granted.amount.currency().as_str(),
        }));
    } else {
        let currency = granted.amount.currency();
        print::line(&format!("{outcome}: {} {currency}; credit: {} {currency}", granted.amount, granted.credit));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn void(global: &Global, arguments: cli::InvoiceReason) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let draft = arguments.number.clone();
    with_platform(platform, |stores| async move {
        let pool = stores.database.pool(Role::Billing)?;
        Ok(billing::void(&pool, &arguments.number, &arguments.reason, &operator()).await?)
    })
    .await?;
    if global.json {
        print::json(&json!({ "outcome": "voided", "id": draft }));
    } else {
        print::line(&format!("discarded draft {draft}"));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn remind(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let report = with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Billing)?.acquire().await?;
        Ok(outbox::remind(&mut connection, &outbox::REMINDERS, edge::now()).await?)
    })
    .await?;
    if global.json {
        print::json(&json!({
            "reminders": report.reminders, "overdue": report.overdue, "thresholds": report.thresholds,
        }));
    } else {
        print::line(&format!(
            "put into the outbox: {} reminders, {} notices of overdue invoices, {} of limits",
            report.reminders, report.overdue, report.thresholds
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn billed_json(billed: &BilledInvoice) -> serde_json::Value {
    json!({
        "id": billed.id,
        "number": billed.number,
        "total": billed.total.to_decimal_text(),
        "currency": billed.total.currency().as_str(),
    })
}

fn billed_text(billed: &BilledInvoice) -> String {
    let number = billed.number.as_deref().unwrap_or("without number");
    format!("{number}, total {} {}", billed.total, billed.total.currency())
}

fn credited_json(credited: &Credited) -> serde_json::Value {
    json!({
        "credit_notes": credited.notes,
        "total": credited.total.to_decimal_text(),
        "to_customer_credit": credited.to_credit.to_decimal_text(),
        "currency": credited.total.currency().as_str(),
    })
}

fn credited_text(credited: &Credited) -> String {
    let currency = credited.total.currency();
    format!(
        "credited {} {currency} by {}; {} {currency} of it stand to the customer's credit",
        credited.total,
        credited.notes.join(", "),
        credited.to_credit
    )
}
