//! `securebase accounts`.

use std::process::ExitCode;

use aggregator::directory::{Account, AccountDirectory, CustomerId, Registration};
use anyhow::Context;
use ingest::AccountId;
use serde_json::json;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::Accounts) -> anyhow::Result<ExitCode> {
    match command {
        cli::Accounts::List => list(global).await,
        cli::Accounts::Register(arguments) => register(global, arguments).await,
    }
}

async fn list(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let accounts = super::with_platform(platform, |stores| async move {
        Ok(AccountDirectory::new(stores.database.pool(Role::Aggregator)?).list().await?)
    })
    .await?;
    if global.json {
        let accounts = accounts.iter().map(account_json).collect::<Vec<_>>();
        print::json(&json!({ "accounts": accounts }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for account in &accounts {
        if account.ownership.is_empty() {
            rows.push(vec![account.account.to_string(), "none".to_owned(), String::new(), String::new()]);
        }
        for owned in &account.ownership {
            let until = owned.until.map_or_else(|| "open".to_owned(), |hour| hour.start().to_string());
            let customer = owned.customer.as_str().to_owned();
            rows.push(vec![account.account.to_string(), customer, owned.from.start().to_string(), until]);
        }
    }
    print::table(&["account", "customer", "from", "until"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn account_json(account: &Account) -> serde_json::Value {
    let ownership = account.ownership.iter().map(|owned| {
        json!({
            "customer": owned.customer.as_str(),
            "from": owned.from.start().to_string(),
            "until": owned.until.map(|hour| hour.start().to_string()),
        })
    });
    json!({
        "account": account.account.to_string(),
        "first_seen_at": account.first_seen_at.to_string(),
        "ownership": ownership.collect::<Vec<_>>(),
    })
}

async fn register(global: &Global, arguments: cli::AccountRegister) -> anyhow::Result<ExitCode> {
    let account = AccountId::parse(&arguments.account).with_context(|| format!("account {:?}", arguments.account))?;
    let customer = CustomerId::parse(&arguments.customer).context("--customer")?;
    let from = super::whole_hour(&arguments.from, "--from")?;
    let owner = customer.clone();
    let platform = Platform::open(global, Work::Database).await?;
    let registration = super::with_platform(platform, |stores| async move {
        let directory = AccountDirectory::new(stores.database.pool(Role::Aggregator)?);
        Ok(directory.register(account, &owner, from, edge::now()).await?)
    })
    .await?;
    let (outcome, rows_changed) = match &registration {
        Registration::Unchanged { .. } => ("unchanged", 0),
        Registration::Opened { rows_changed } => ("opened", *rows_changed),
        Registration::Extended { rows_changed } => ("extended", *rows_changed),
        Registration::Moved { rows_changed, .. } => ("moved", *rows_changed),
    };
    if global.json {
        print::json(&json!({
            "account": account.to_string(),
            "customer": customer.as_str(),
            "outcome": outcome,
            "usage_rows_changed": rows_changed,
        }));
    } else {
        print::line(&format!(
            "account {account}: {outcome}, {}'s from {}; {rows_changed} usage rows have a new owner",
            customer.as_str(),
            from.start()
        ));
    }
    Ok(ExitCode::SUCCESS)
}
