//! `securebase outbox`.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context;
use billing::outbox::{
    Feedback, add_recipient, list_outbox, list_recipients, record_feedback, retry_failed, suppress_recipient,
};
use serde_json::json;

use crate::cli::{self, Global};
use crate::commands::{operator, with_platform};
use crate::mail::Mail;
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::Outbox) -> anyhow::Result<ExitCode> {
    match command {
        cli::Outbox::List { state, limit } => list(global, state, limit).await,
        cli::Outbox::Send { limit } => send(global, limit).await,
        cli::Outbox::Retry => retry(global).await,
        cli::Outbox::Feedback { file } => feedback(global, file).await,
        cli::Outbox::Recipients { customer } => recipients(global, customer).await,
        cli::Outbox::AddRecipient { customer, address } => change(global, customer, address, Change::Add).await,
        cli::Outbox::SuppressRecipient { customer, address } => {
            change(global, customer, address, Change::Suppress).await
        }
    }
}

#[derive(Clone, Copy)]
enum Change {
    Add,
    Suppress,
}

async fn send(global: &Global, limit: u64) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let mail = Mail::of(global, &platform.stores);
    let (rendered, sent) = with_platform(platform, |_| async move {
        let mail = mail?.context("SECUREBASE_MAIL_FROM is not set: mail needs an address that SES may send from")?;
        mail.send(limit).await
    })
    .await?;
    if global.json {
        print::json(&json!({
            "rendered": rendered.rendered,
            "not_rendered": rendered.failed,
            "sent": sent.sent,
            "retried": sent.retried,
            "failed": sent.failed,
            "waiting": sent.waiting,
        }));
    } else {
        print::line(&format!(
            "rendered {}, sent {}, to be tried again {}, given up {}, waiting {}",
            rendered.rendered, sent.sent, sent.retried, sent.failed, sent.waiting
        ));
    }
    Ok(if rendered.failed == 0 && sent.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn list(global: &Global, state: Option<String>, limit: u32) -> anyhow::Result<ExitCode> {
    const STATES: [&str; 3] = ["pending", "sent", "failed"];
    if let Some(state) = &state {
        anyhow::ensure!(STATES.contains(&state.as_str()), "--state {state}: expected one of {}", STATES.join(", "));
    }
    let platform = Platform::open(global, Work::Database).await?;
    let entries = with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        Ok(list_outbox(&mut connection, state.as_deref(), i64::from(limit)).await?)
    })
    .await?;
    let time = |instant: chrono::DateTime<chrono::Utc>| ingest::Timestamp::from(instant).to_string();
    if global.json {
        let entries = entries.iter().map(|entry| {
            json!({
                "tag": entry.tag,
                "customer": entry.customer,
                "template": entry.template,
                "state": entry.state,
                "attempts": entry.attempts,
                "created_at": time(entry.created_at),
                "next_attempt_at": time(entry.next_attempt_at),
                "sent_at": entry.sent_at.map(time),
                "last_error": entry.last_error,
            })
        });
        print::json(&json!({ "notifications": entries.collect::<Vec<_>>() }));
    } else {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| {
                vec![
                    time(entry.created_at),
                    entry.customer.clone(),
                    entry.template.clone(),
                    entry.state.clone(),
                    entry.attempts.to_string(),
                    entry.last_error.clone().unwrap_or_default(),
                ]
            })
            .collect();
        print::table(&["written", "customer", "about", "state", "tries", "because"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

async fn retry(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let retried = with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Billing)?.acquire().await?;
        Ok(retry_failed(&mut connection, edge::now()).await?)
    })
    .await?;
    if global.json {
        print::json(&json!({ "retried": retried }));
    } else {
        print::line(&format!("{retried} messages are tried again"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn feedback(global: &Global, file: String) -> anyhow::Result<ExitCode> {
    let text = if file == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        text
    } else {
        std::fs::read_to_string(&file).with_context(|| file.clone())?
    };
    let platform = Platform::open(global, Work::Database).await?;
    let (recorded, suppressed, failed) = with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Billing)?.acquire().await?;
        let (mut recorded, mut suppressed, mut failed) = (0_u64, 0_u64, 0_u64);
        for (line, event) in (1_u64..).zip(text.lines()).filter(|(_, event)| !event.trim().is_empty()) {
            match record_feedback(&mut connection, event, edge::now()).await {
                Ok(Feedback::Recorded { suppressed: now_suppressed, .. }) => {
                    recorded += 1;
                    suppressed += now_suppressed;
                }
                Ok(Feedback::Known | Feedback::NotKept { .. }) => {}
                Err(billing::outbox::FeedbackError::NotAnEvent(reason)) => {
                    failed += 1;
                    print::note(&format!("securebase: {file} line {line}: not an event of Amazon SES: {reason}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((recorded, suppressed, failed))
    })
    .await?;
    if global.json {
        print::json(&json!({ "recorded": recorded, "suppressed": suppressed, "failed": failed }));
    } else {
        print::line(&format!("recorded {recorded} events, suppressed {suppressed} addresses, not understood {failed}"));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn recipients(global: &Global, customer: Option<String>) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let recipients = with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        Ok(list_recipients(&mut connection, customer.as_deref()).await?)
    })
    .await?;
    if global.json {
        let recipients = recipients.iter().map(
            |one| json!({ "customer": one.customer, "address": one.address, "suppressed": one.suppressed_because }),
        );
        print::json(&json!({ "recipients": recipients.collect::<Vec<_>>() }));
    } else {
        let rows: Vec<Vec<String>> = recipients
            .iter()
            .map(|one| {
                vec![
                    one.customer.clone(),
                    one.address.clone(),
                    one.suppressed_because.as_ref().map(|because| format!("no mail: {because}")).unwrap_or_default(),
                ]
            })
            .collect();
        print::table(&["customer", "address", ""], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(global: &Global, customer: String, address: String, change: Change) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let (of, to) = (customer.clone(), address.clone());
    with_platform(platform, |stores| async move {
        let mut connection = stores.database.pool(Role::Billing)?.acquire().await?;
        let (actor, now) = (operator(), edge::now());
        match change {
            Change::Add => add_recipient(&mut connection, &of, &to, &actor, now).await?,
            Change::Suppress => suppress_recipient(&mut connection, &of, &to, &actor, now).await?,
        }
        Ok(())
    })
    .await?;
    let outcome = match change {
        Change::Add => "added",
        Change::Suppress => "suppressed",
    };
    if global.json {
        print::json(&json!({ "customer": customer, "address": address, "outcome": outcome }));
    } else {
        print::line(&format!("{outcome} {address} of {customer}"));
    }
    Ok(ExitCode::SUCCESS)
}
