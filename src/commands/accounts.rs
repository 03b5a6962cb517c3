//! `securebase accounts`.

use std::process::ExitCode;

use aggregator::directory::{
    Account, AccountDirectory, CustomerId, OrganizationId, OrganizationRegistration, Ownership, Registration,
};
use anyhow::Context;
use ingest::AccountId;
use serde_json::json;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::Accounts) -> anyhow::Result<ExitCode> {
    match command {
        cli::Accounts::List { unknown: false } => list(global).await,
        cli::Accounts::List { unknown: true } => unknown(global).await,
        cli::Accounts::Register(arguments) => register(global, arguments).await,
        cli::Accounts::Organizations => organizations(global).await,
        cli::Accounts::RegisterOrganization(arguments) => register_organization(global, arguments).await,
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
    json!({
        "account": account.account.to_string(),
        "first_seen_at": account.first_seen_at.to_string(),
        "ownership": ownership_json(&account.ownership),
    })
}

fn ownership_json(ownership: &[Ownership]) -> Vec<serde_json::Value> {
    let owned = |owned: &Ownership| {
        json!({
            "customer": owned.customer.as_str(),
            "from": owned.from.start().to_string(),
            "until": owned.until.map(|hour| hour.start().to_string()),
        })
    };
    ownership.iter().map(owned).collect()
}

/// Accounts with usage that is nobody's, and what to say to change that.
async fn unknown(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let unknown = super::with_platform(platform, |stores| async move {
        Ok(AccountDirectory::new(stores.database.pool(Role::Aggregator)?).unknown().await?)
    })
    .await?;
    if global.json {
        let accounts = unknown.iter().map(|one| {
            json!({
                "account": one.account.to_string(),
                "first_seen_at": one.first_seen_at.to_string(),
                "organization": one.organization.as_ref().map(OrganizationId::as_str),
                "first_hour": one.hours.map(|(first, _)| first.start().to_string()),
                "last_hour": one.hours.map(|(_, last)| last.start().to_string()),
                "usage_rows": one.usage_rows,
            })
        });
        print::json(&json!({ "accounts": accounts.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let rows = unknown.iter().map(|one| {
        let hour = |hour: Option<ingest::Hour>| hour.map_or_else(|| "-".to_owned(), |hour| hour.to_string());
        vec![
            one.account.to_string(),
            one.organization.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            hour(one.hours.map(|(first, _)| first)),
            hour(one.hours.map(|(_, last)| last)),
            print::count(one.usage_rows),
        ]
    });
    print::table(&["account", "organization", "first hour", "last hour", "usage rows"], &rows.collect::<Vec<_>>());
    if !unknown.is_empty() {
        print::line(
            "Give one its owner, with its history: securebase accounts register ACCOUNT --customer ID --from TIME",
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn organizations(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    let organizations = super::with_platform(platform, |stores| async move {
        Ok(AccountDirectory::new(stores.database.pool(Role::Aggregator)?).organizations().await?)
    })
    .await?;
    if global.json {
        let organizations = organizations.iter().map(|one| {
            json!({
                "organization": one.organization.as_str(),
                "accounts": one.accounts,
                "listed_at": one.listed_at.map(|at| at.to_string()),
                "accounts_not_listed": one.not_listed.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "ownership": ownership_json(&one.ownership),
            })
        });
        print::json(&json!({ "organizations": organizations.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for one in &organizations {
        let row = |customer: &str, from: String, until: String| {
            vec![one.organization.to_string(), print::count(one.accounts), customer.to_owned(), from, until]
        };
        if one.ownership.is_empty() {
            rows.push(row("none", String::new(), String::new()));
        }
        for owned in &one.ownership {
            let until = owned.until.map_or_else(|| "open".to_owned(), |hour| hour.start().to_string());
            rows.push(row(owned.customer.as_str(), owned.from.start().to_string(), until));
        }
    }
    print::table(&["organization", "accounts", "customer", "from", "until"], &rows);
    for one in organizations.iter().filter(|one| !one.not_listed.is_empty()) {
        let accounts: Vec<String> = one.not_listed.iter().map(ToString::to_string).collect();
        let listed_at = one.listed_at.map_or_else(String::new, |at| at.to_string());
        print::line(&format!(
            "{}: live by its events, and not in its list of {listed_at}: {}",
            one.organization,
            accounts.join(", ")
        ));
    }
    Ok(ExitCode::SUCCESS)
}

async fn register_organization(global: &Global, arguments: cli::OrganizationRegister) -> anyhow::Result<ExitCode> {
    let organization = OrganizationId::parse(&arguments.organization)
        .with_context(|| format!("organization {:?}", arguments.organization))?;
    let customer = CustomerId::parse(&arguments.customer).context("--customer")?;
    let from = super::whole_hour(&arguments.from, "--from")?;
    let (registered, owner) = (organization.clone(), customer.clone());
    let platform = Platform::open(global, Work::Database).await?;
    let (registration, followed) = super::with_platform(platform, |stores| async move {
        let directory = AccountDirectory::new(stores.database.pool(Role::Aggregator)?);
        let registration = directory.register_organization(&registered, &owner, from).await?;
        // Not left to the next sweep: the answer says what came of it.
        Ok((registration, directory.follow_organizations(edge::now()).await?))
    })
    .await?;
    let outcome = match registration {
        OrganizationRegistration::Unchanged { .. } => "unchanged",
        OrganizationRegistration::Registered { former: None } => "registered",
        OrganizationRegistration::Registered { former: Some(_) } => "moved",
    };
    if global.json {
        print::json(&json!({
            "organization": organization.as_str(),
            "customer": customer.as_str(),
            "outcome": outcome,
            "accounts_changed": followed.accounts,
            "usage_rows_changed": followed.rows_changed,
        }));
    } else {
        print::line(&format!(
            "organization {organization}: {outcome}, {}'s from {}; {} accounts follow, {} usage rows have a new owner",
            customer.as_str(),
            from.start(),
            followed.accounts,
            followed.rows_changed
        ));
    }
    Ok(ExitCode::SUCCESS)
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
