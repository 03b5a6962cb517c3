//! `securebase invoice`.

use std::process::ExitCode;

use aggregator::directory::CustomerId;
use anyhow::Context;
use billing::{
    Customers, InvoiceDocument, Month, Outcome, Party, RunReport, RunRequest, issue, load_invoice, preview, render_text,
};
use serde_json::json;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::Invoice) -> anyhow::Result<ExitCode> {
    match command {
        cli::Invoice::Run(arguments) => run_month(global, arguments).await,
        cli::Invoice::Show { number } => show(global, number).await,
    }
}

/// Who bills. One seller a deployment; it is kept with each invoice.
fn seller() -> Party {
    let setting = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    Party {
        name: setting("SECUREBASE_SELLER_NAME", "SecureBase Inc."),
        address: setting("SECUREBASE_SELLER_ADDRESS", ""),
        tax_id: setting("SECUREBASE_SELLER_TAX_ID", ""),
    }
}

pub(super) async fn issue_month(
    stores: &Stores,
    period: Month,
    customers: Customers,
    dry_run: bool,
) -> anyhow::Result<RunReport> {
    // An issued invoice never changes, so nothing that is counted may be missing from it.
    super::caught_up(stores).await?;
    let pool = stores.database.pool(Role::Billing)?;
    let request = RunRequest { period, customers, seller: seller() };
    Ok(if dry_run { preview(&pool, &request).await? } else { issue(&pool, &request, edge::now()).await? })
}

async fn run_month(global: &Global, arguments: cli::InvoiceRun) -> anyhow::Result<ExitCode> {
    let period = Month::parse(&arguments.period).with_context(|| format!("--period {}", arguments.period))?;
    let customers = match &arguments.customer {
        Some(customer) => Customers::Only(vec![CustomerId::parse(customer).context("--customer")?]),
        None => Customers::All,
    };
    let platform = Platform::open(global, Work::Stores).await?;
    let report = super::with_platform(platform, |stores| async move {
        issue_month(&stores, period, customers, arguments.dry_run).await
    })
    .await?;
    for result in &report.results {
        if let Outcome::Failed(error) = &result.outcome {
            print::note(&format!("securebase: no invoice for {}: {error}", result.customer));
        }
    }
    let is_alone = report.results.len() == 1;
    if global.json {
        let results = report.results.iter().map(|result| {
            let (outcome, invoice, error) = match &result.outcome {
                Outcome::Issued(invoice) => ("issued", Some(invoice), None),
                Outcome::AlreadyIssued(invoice) => ("already_issued", Some(invoice), None),
                Outcome::Previewed(invoice) => ("previewed", Some(invoice), None),
                Outcome::NotUnderContract => ("not_under_contract", None, None),
                Outcome::Failed(error) => ("failed", None, Some(error.to_string())),
            };
            json!({ "customer": result.customer.as_str(), "outcome": outcome, "invoice": invoice, "error": error })
        });
        print::json(&json!({
            "period": report.period.to_string(),
            "issued": report.issued(),
            "failures": report.failures(),
            "results": results.collect::<Vec<_>>(),
        }));
    } else {
        for result in &report.results {
            print_outcome(result.customer.as_str(), &result.outcome, is_alone);
        }
        print::line(&format!("{} issued, {} failed", report.issued(), report.failures()));
    }
    Ok(if report.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_outcome(customer: &str, outcome: &Outcome, is_alone: bool) {
    let (said, invoice) = match outcome {
        Outcome::Issued(invoice) => ("issued", Some(invoice)),
        Outcome::AlreadyIssued(invoice) => ("issued before", Some(invoice)),
        Outcome::Previewed(invoice) => ("would be issued", Some(invoice)),
        Outcome::NotUnderContract => ("not under contract in this month", None),
        Outcome::Failed(_) => return,
    };
    match invoice {
        Some(invoice) if is_alone => print::line(&render_text(invoice)),
        Some(invoice) => print::line(&format!("{customer}: {said}: {}", summary(invoice))),
        None => print::line(&format!("{customer}: {said}")),
    }
}

fn summary(invoice: &InvoiceDocument) -> String {
    let number = invoice.number.as_deref().unwrap_or("no number");
    format!("{number}, total {} {}", invoice.total, invoice.currency)
}

async fn show(global: &Global, number: String) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let wanted = number.clone();
    let invoice = super::with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        Ok(load_invoice(&mut connection, &wanted).await?)
    })
    .await?;
    let invoice = invoice.with_context(|| format!("there is no invoice {number}"))?;
    if global.json {
        print::json(&invoice);
    } else {
        print::line(&render_text(&invoice));
    }
    Ok(ExitCode::SUCCESS)
}
