//! `securebase invoice`.

mod desk;
mod run;
mod show;

use std::process::ExitCode;

use anyhow::Context;
use billing::{InvoiceFilter, Month, Party, find_invoices, wait_for_disk};
use serde_json::json;

pub(super) use self::run::issue_month;
pub(super) use self::show::write_pdf;
use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::Invoice) -> anyhow::Result<ExitCode> {
    match command {
        cli::Invoice::Run(arguments) => run::run_month(global, arguments).await,
        cli::Invoice::Preview(arguments) => run::preview_month(global, arguments).await,
        cli::Invoice::List(arguments) => list(global, arguments).await,
        cli::Invoice::Show(arguments) => show::show(global, arguments).await,
        cli::Invoice::Issue(arguments) => desk::issue(global, arguments).await,
        cli::Invoice::Credit(arguments) => desk::credit(global, arguments).await,
        cli::Invoice::Reissue(arguments) => desk::reissue(global, arguments).await,
        cli::Invoice::Pay(arguments) => desk::pay(global, arguments).await,
        cli::Invoice::Grant(arguments) => desk::grant(global, arguments).await,
        cli::Invoice::Void(arguments) => desk::void(global, arguments).await,
        cli::Invoice::Remind => desk::remind(global).await,
    }
}

/// Who bills. One seller a deployment; it is kept with each invoice.
pub(super) fn seller() -> Party {
    let setting = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    Party {
        name: setting("SECUREBASE_SELLER_NAME", "SecureBase Inc."),
        address: setting("SECUREBASE_SELLER_ADDRESS", ""),
        tax_id: setting("SECUREBASE_SELLER_TAX_ID", ""),
    }
}

fn month(text: &str) -> anyhow::Result<Month> {
    Month::parse(text).with_context(|| format!("--period {text}"))
}

async fn list(global: &Global, arguments: cli::InvoiceList) -> anyhow::Result<ExitCode> {
    const STATES: [&str; 6] = ["draft", "issued", "overdue", "paid", "credited", "cancelled"];
    if let Some(status) = &arguments.status {
        anyhow::ensure!(STATES.contains(&status.as_str()), "--status {status}: expected one of {}", STATES.join(", "));
    }
    let filter = InvoiceFilter {
        customer: arguments.customer,
        status: arguments.status,
        period: arguments.period.as_deref().map(month).transpose()?,
    };
    let platform = Platform::open(global, Work::Database).await?;
    let found = super::with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        let found = find_invoices(&mut connection, &filter, arguments.limit, edge::now()).await?;
        wait_for_disk(&mut connection).await?;
        Ok(found)
    })
    .await?;
    if global.json {
        let invoices = found.iter().map(|invoice| {
            json!({
                "id": invoice.id,
                "number": invoice.number,
                "kind": invoice.kind,
                "revision": invoice.revision,
                "status": invoice.status,
                "customer": invoice.customer,
                "period": { "start": invoice.period_start.to_string(), "end": invoice.period_end.to_string() },
                "currency": invoice.payable.currency().as_str(),
                "payable": invoice.payable.to_decimal_text(),
                "open": invoice.open.to_decimal_text(),
                "due_at": invoice.due_at.map(|due_at| due_at.to_string()),
            })
        });
        print::json(&json!({ "invoices": invoices.collect::<Vec<_>>() }));
    } else {
        let rows: Vec<Vec<String>> = found
            .iter()
            .map(|invoice| {
                vec![
                    invoice.number.clone().unwrap_or_else(|| invoice.id.clone()),
                    invoice.customer.clone(),
                    invoice.kind.clone(),
                    invoice.period_start.to_string(),
                    invoice.status.clone(),
                    invoice.payable.to_string(),
                    invoice.open.to_string(),
                    invoice.payable.currency().as_str().to_owned(),
                    invoice.due_at.map(|due| due.to_string().chars().take(10).collect()).unwrap_or_default(),
                ]
            })
            .collect();
        let head = ["invoice", "customer", "kind", "from", "status", "payable", "open", "in", "due"];
        print::table(&head, &rows);
    }
    Ok(ExitCode::SUCCESS)
}
