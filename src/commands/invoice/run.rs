//! `securebase invoice run`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use aggregator::directory::CustomerId;
use anyhow::Context;
use billing::{
    Customers, InvoiceDocument, Month, Outcome, Previewed, RunReport, RunRequest, issue, load_invoice, preview,
    render_text,
};
use serde_json::{Value, json};

use super::{month, seller};
use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

/// The exit code where nothing failed and somebody waits, for a close or for the end of the grace.
const SOME_WAIT: u8 = 3;

/// Issues a month of some customers, from closes that are there.
pub(in crate::commands) async fn issue_month(
    stores: &Stores,
    period: Month,
    customers: Customers,
    grace_hours: u32,
) -> anyhow::Result<RunReport> {
    let pool = stores.database.pool(Role::Billing)?;
    let request = RunRequest { customers, grace_hours, ..RunRequest::new(period, seller()) };
    Ok(issue(&pool, &request, edge::now()).await?)
}

pub(super) async fn run_month(global: &Global, arguments: cli::InvoiceRun) -> anyhow::Result<ExitCode> {
    let period = month(&arguments.period)?;
    anyhow::ensure!(0 < arguments.workers, "--workers 0: somebody has to bill");
    let customers = match &arguments.customer {
        Some(customer) => Customers::Only(vec![CustomerId::parse(customer).context("--customer")?]),
        None => Customers::All,
    };
    let request = RunRequest {
        customers,
        grace_hours: arguments.grace_hours,
        workers: arguments.workers,
        ..RunRequest::new(period, seller())
    };
    if arguments.dry_run {
        return show_previews(global, request).await;
    }
    let platform = Platform::open(global, Work::Stores).await?;
    let is_json = global.json;
    let (report, documents) = super::super::with_platform(platform, |stores| async move {
        let pool = stores.database.pool_of(Role::Billing, connections(request.workers))?;
        let report = issue(&pool, &request, edge::now()).await?;
        // Programs get every invoice whole, people the only one.
        let mut documents = BTreeMap::new();
        if is_json || report.results.len() == 1 {
            let mut connection = pool.acquire().await?;
            for invoice in report.results.iter().filter_map(|result| result.outcome.billed()) {
                let document = load_invoice(&mut connection, &invoice.id).await?;
                documents.extend(document.map(|document| (invoice.id.clone(), document)));
            }
        }
        Ok((report, documents))
    })
    .await?;
    print_report(global, &report, &documents);
    let waits = report.results.iter().any(|result| matches!(result.outcome, Outcome::Waiting { .. }));
    Ok(match (report.failures(), report.is_finished) {
        (0, true) if waits => ExitCode::from(SOME_WAIT),
        (0, true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

pub(super) async fn preview_month(global: &Global, arguments: cli::InvoicePreview) -> anyhow::Result<ExitCode> {
    let period = match &arguments.period {
        Some(text) => month(text)?,
        None => Month::containing(edge::now()).context("no such month")?,
    };
    let customers = match &arguments.customer {
        Some(customer) => Customers::Only(vec![CustomerId::parse(customer).context("--customer")?]),
        None => Customers::All,
    };
    show_previews(global, RunRequest { customers, ..RunRequest::new(period, seller()) }).await
}

async fn show_previews(global: &Global, request: RunRequest) -> anyhow::Result<ExitCode> {
    let period = request.period;
    let platform = Platform::open(global, Work::Stores).await?;
    let previews = super::super::with_platform(platform, |stores| async move {
        // What was counted and not rolled up yet would be missing.
        super::super::caught_up(&stores).await?;
        Ok(preview(&stores.database.pool(Role::Billing)?, &request).await?)
    })
    .await?;
    Ok(print_previews(global, period, &previews))
}

/// One a worker, and one that opens and closes the run.
fn connections(workers: usize) -> u32 {
    u32::try_from(workers).unwrap_or(u32::MAX).saturating_add(1)
}

fn print_report(global: &Global, report: &RunReport, documents: &BTreeMap<String, InvoiceDocument>) {
    for result in &report.results {
        if let Some(reason) = result.outcome.reason() {
            print::note(&format!("securebase: no invoice for {}: {reason}", result.customer));
        }
    }
    if global.json {
        let results = report.results.iter().map(|result| {
            json!({
                "customer": result.customer.as_str(),
                "outcome": result.outcome.as_str(),
                "invoice": result.outcome.billed().and_then(|invoice| documents.get(&invoice.id)),
                "credit_notes": result.credit_notes,
                "error": result.outcome.reason(),
            })
        });
        let totals = report.totals().into_iter();
        print::json(&json!({
            "run": report.run_id,
            "period": report.period.to_string(),
            "finished": report.is_finished,
            "issued": report.issued(),
            "failures": report.failures(),
            "counts": report.counts(),
            "totals": totals
                .map(|total| (total.currency().as_str().to_owned(), total.to_decimal_text().into()))
                .collect::<serde_json::Map<String, Value>>(),
            "credit_notes": report.credit_notes(),
            "results": results.collect::<Vec<_>>(),
        }));
        return;
    }
    for result in &report.results {
        let said = match result.outcome.as_str() {
            "already_issued" => "issued before".to_owned(),
            "not_under_contract" => "not under contract in this month".to_owned(),
            name => name.to_owned(),
        };
        let billed = result.outcome.billed();
        match billed.and_then(|invoice| documents.get(&invoice.id)) {
            Some(document) => print::line(&render_text(document)),
            None => match billed {
                Some(invoice) => {
                    let number = invoice.number.as_deref().unwrap_or("draft");
                    let currency = invoice.total.currency();
                    print::line(&format!("{}: {said}: {number}, total {} {currency}", result.customer, invoice.total));
                }
                None => print::line(&format!("{}: {said}", result.customer)),
            },
        }
    }
    let counts: Vec<String> =
        report.counts().into_iter().map(|(outcome, count)| format!("{count} {}", outcome.replace('_', " "))).collect();
    let totals: Vec<String> =
        report.totals().into_iter().map(|total| format!("{total} {}", total.currency())).collect();
    print::line(&format!("{} customers: {}", report.results.len(), counts.join(", ")));
    if !totals.is_empty() {
        print::line(&format!("issued: {}", totals.join(", ")));
    }
    if 0 < report.credit_notes() {
        print::line(&format!("credit notes for late usage: {}", report.credit_notes()));
    }
}

fn print_previews(global: &Global, period: Month, previews: &[(CustomerId, Previewed)]) -> ExitCode {
    let mut failures = 0;
    let mut results = Vec::new();
    for (customer, previewed) in previews {
        let (outcome, document, error) = match previewed {
            Previewed::Document(document) => ("previewed", Some(document), None),
            Previewed::AlreadyIssued(document) => ("already_issued", Some(document), None),
            Previewed::NotUnderContract => ("not_under_contract", None, None),
            Previewed::Failed(error) => ("failed", None, Some(error.to_string())),
        };
        if let Some(error) = &error {
            failures += 1;
            print::note(&format!("securebase: no invoice for {customer}: {error}"));
        }
        if global.json {
            results.push(json!({
                "customer": customer.as_str(), "outcome": outcome, "invoice": document, "error": error,
            }));
        } else {
            match document {
                Some(document) if previews.len() == 1 => print::line(&render_text(document)),
                Some(document) => print::line(&format!(
                    "{customer}: {}: total {} {}",
                    outcome.replace('_', " "),
                    document.total,
                    document.currency
                )),
                None => print::line(&format!("{customer}: {}", outcome.replace('_', " "))),
            }
        }
    }
    if global.json {
        print::json(&json!({
            "period": period.to_string(), "issued": 0, "failures": failures, "results": results,
        }));
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
