//! `securebase invoice show`: an invoice on the terminal or as a file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use billing::{
    InvoiceAccount, InvoiceDocument, load_account, load_credit_note, load_invoice, render_csv, render_html,
    render_text, stored_or_rendered, wait_for_disk,
};
use serde_json::json;

use crate::cli::{self, Global, InvoiceForm};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, mail, print};

pub(super) async fn show(global: &Global, arguments: cli::InvoiceShow) -> anyhow::Result<ExitCode> {
    let cli::InvoiceShow { number, format, out } = arguments;
    let platform = Platform::open(global, Work::Database).await?;
    if format == InvoiceForm::Pdf {
        let path = out.unwrap_or_else(|| PathBuf::from(format!("{number}.pdf")));
        let written = path.clone();
        let sha256 =
            super::super::with_platform(platform, |stores| async move { write_pdf(&stores, &number, &written).await })
                .await?;
        if global.json {
            print::json(&json!({ "file": path.display().to_string(), "sha256": sha256 }));
        } else {
            print::line(&format!("{} (SHA-256 {sha256})", path.display()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = number.clone();
    let (document, account) =
        super::super::with_platform(platform, |stores| async move { load(&stores, &wanted).await }).await?;
    let document = document.with_context(|| format!("there is no invoice or credit note {number}"))?;
    let text = match format {
        _ if global.json => serde_json::to_string(&document)?,
        InvoiceForm::Json => serde_json::to_string_pretty(&document)?,
        InvoiceForm::Html => render_html(&document)?,
        InvoiceForm::Csv => String::from_utf8(render_csv(&document)?).context("the file is no text")?,
        InvoiceForm::Text | InvoiceForm::Pdf => with_account(&document, account.as_ref()),
    };
    match out {
        Some(path) => std::fs::write(&path, text).with_context(|| format!("--out {}", path.display()))?,
        None => print::line(text.trim_end_matches('\n')),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the PDF that is stored, or is rendered and stored now; returns its SHA-256.
pub(in crate::commands) async fn write_pdf(stores: &Stores, number: &str, path: &Path) -> anyhow::Result<String> {
    let renderer = mail::renderer()?;
    let mut connection = stores.database.pool(Role::Billing)?.acquire().await?;
    let stored = stored_or_rendered(&mut connection, &renderer, number, edge::now()).await?;
    let stored = stored.with_context(|| {
        format!("no invoice or credit note {number} was issued: a draft has no PDF, only --format html")
    })?;
    std::fs::write(path, &stored.bytes).with_context(|| format!("--out {}", path.display()))?;
    Ok(hex::encode(&stored.sha256))
}

async fn load(stores: &Stores, number: &str) -> anyhow::Result<(Option<InvoiceDocument>, Option<InvoiceAccount>)> {
    let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
    let document = match load_invoice(&mut connection, number).await? {
        Some(document) => Some(document.as_of(edge::now())),
        None => load_credit_note(&mut connection, number).await?,
    };
    let id = document.as_ref().filter(|document| !document.is_credit_note()).and_then(|document| document.id.clone());
    let account = match id {
        Some(id) => load_account(&mut connection, &id).await?,
        None => None,
    };
    wait_for_disk(&mut connection).await?;
    Ok((document, account))
}

fn with_account(document: &InvoiceDocument, account: Option<&InvoiceAccount>) -> String {
    let mut text = render_text(document);
    let Some(account) = account else { return text };
    for (note, amount) in &account.credit_notes {
        text.push_str(&format!("\nCredit note {note}: -{amount} {}", amount.currency()));
    }
    for (reference, amount) in &account.payments {
        text.push_str(&format!("\nPayment {reference}: {amount} {}", amount.currency()));
    }
    text.push_str(&format!("\nOpen: {} {}", account.open, account.open.currency()));
    text
}
