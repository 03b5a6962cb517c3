//! `securebase demo`: the whole chain on real input, for a first look.

mod made_month;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use aggregator::close::{self, Period, Request};
use aggregator::directory::{AccountDirectory, CustomerId, NewCustomer};
use anyhow::Context;
use api::api_keys::NewKey;
use api::auth::Scope;
use api::{Grouping, Statements, UsageQuery, UsageScope, usage};
use billing::{Customers, Month, load_invoice, render_text};
use ingest::{AccountId, Hour, Meter, Timestamp};
use rust_decimal::Decimal;

use crate::cli::{self, Global, StoresChoice};
use crate::platform::{Platform, Work};
use crate::reading::Reading;
use crate::replay::{Replay, Source, expand};
use crate::stores::{Role, Stores};
use crate::{declared, edge, print};

use made_month::MadeMonth;

/// The customers of the demo: id, name, tier, address.
const CUSTOMERS: [(&str, &str, &str, &str); 3] = [
    ("acme-bank", "Acme Bank AG", "fintech", "Bahnhofstrasse 1, 8001 Zürich"),
    ("clinic-north", "Clinic North GmbH", "healthcare", "Hafenstraße 20, 20457 Hamburg"),
    ("startup-labs", "Startup Labs Inc.", "standard", "1 Market Street, San Francisco"),
];
/// First hour of every demo contract; rate cards are in force from here on.
const CONTRACT_START: &str = "2020-01-01T00";

pub(super) async fn run(global: &Global, arguments: cli::Demo) -> anyhow::Result<ExitCode> {
    // Its customers and logs are made up.
    anyhow::ensure!(global.stores == StoresChoice::Local, "the demo works with local stores only: leave --stores away");
    let platform = Platform::open(global, Work::Serving).await?;
    let (customer, period) = match super::watched(&platform, chain(global, &arguments, &platform)).await {
        Ok(billed) => billed,
        Err(error) => {
            platform.close().await?;
            return Err(error);
        }
    };
    if arguments.exit {
        platform.close().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let listener = match tokio::net::TcpListener::bind(arguments.listen).await {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            super::serve::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?
        }
        bound => bound.with_context(|| format!("cannot listen on {}", arguments.listen))?,
    };
    let key = super::keys::create(
        &platform.stores,
        NewKey {
            customer: Some(customer),
            name: "demo".to_owned(),
            scopes: [Scope::ReadUsage, Scope::ReadInvoices].into_iter().collect(),
            expires_at: None,
        },
    )
    .await?
    .1;
    print::line("Ask for this customer's usage, hour by hour:");
    print::line(&format!("  {}", curl(&key, listener.local_addr()?, period)));
    super::serve::serve(global, platform, listener).await?;
    Ok(ExitCode::SUCCESS)
}

/// The line that asks the live API for the usage of the month that was billed.
fn curl(key: &str, address: SocketAddr, period: Month) -> String {
    format!(
        "curl -H 'Authorization: Bearer {key}' 'http://{address}/v1/usage?meter=cloudtrail_events\
         &from={}&to={}&group_by=account,category,hour'",
        period.start(),
        period.end()
    )
}

/// From logs to an issued invoice; returns whose, and for which month.
async fn chain(global: &Global, arguments: &cli::Demo, platform: &Platform) -> anyhow::Result<(CustomerId, Month)> {
    let stores = &platform.stores;
    let made = match &arguments.logs {
        Some(_) => None,
        None => Some(MadeMonth::make(&global.home, CUSTOMERS.len(), arguments.events)?),
    };
    let directory = AccountDirectory::new(stores.database.pool(Role::Aggregator)?);
    let customers = add_customers(&directory).await?;
    super::rate_cards::load_seeded(stores).await?;

    let (paths, declared) = match &made {
        Some(made) => (made.paths(), Arc::new(made.declared(&declared::path(global))?)),
        None => (arguments.logs.iter().cloned().collect(), declared::load(global)?),
    };
    let paths: Vec<String> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    print::line(&format!("Replaying {}", paths.join(", ")));
    let sources = expand(&paths)?.into_iter().map(Source::File).collect();
    let reading = Reading::new(stores, declared, None).await?;
    let balance = Replay { stores, resume: false, reading }.run(sources).await?;
    super::replay::report(global, &balance);
    anyhow::ensure!(balance.balances(), "the replay does not balance");

    let period = match &made {
        Some(made) => {
            made.register(&directory, &customers, Hour::parse_key(CONTRACT_START)?).await?;
            super::caught_up(stores).await?;
            made.compare(stores).await?;
            made.period
        }
        None => {
            let months = register_accounts(stores, &directory, &customers).await?;
            let now = edge::now();
            let ended = months.iter().filter(|(month, _)| month.end() <= now);
            *ended.max_by_key(|(_, events)| **events).context("no usage in a month that has ended")?.0
        }
    };
    close_month(stores, period, &customers).await?;
    let report = super::invoice::issue_month(stores, period, Customers::Only(customers), 0).await?;
    let pool = stores.database.pool(Role::Billing)?;
    let mut shown = None;
    for result in report.results {
        if let Some(reason) = result.outcome.reason() {
            anyhow::bail!("no invoice for {}: {reason}", result.customer);
        }
        let Some(invoice) = result.outcome.billed() else { continue };
        print::line(&format!(
            "{}: {} for {period}, total {} {}",
            result.customer.as_str(),
            invoice.number.as_deref().unwrap_or("no number"),
            invoice.total,
            invoice.total.currency()
        ));
        if shown.is_none() {
            let document = load_invoice(&mut *pool.acquire().await?, &invoice.id).await?;
            shown = document.map(|document| (result.customer, document));
        }
    }
    let (customer, invoice) = shown.context("no customer has an invoice")?;
    print::line(&format!("\n{}", render_text(&invoice)));
    let number = invoice.number.as_deref().context("an issued invoice has a number")?;
    let pdf = global.home.join(format!("{number}.pdf"));
    super::invoice::write_pdf(stores, number, &pdf).await?;
    print::line(&format!("As a PDF: {}\n", pdf.display()));
    Ok((customer, period))
}

/// Closes the month of these customers, because invoices are made from closes only. Records that were set aside do not stop a
/// demo: then the close says so, and for which reason it was made.
async fn close_month(stores: &Stores, period: Month, customers: &[CustomerId]) -> anyhow::Result<()> {
    let mut request = Request {
        period: Period::parse(&period.to_string())?,
        customers: Some(customers.to_vec()),
        actor: "demo".to_owned(),
        override_because: None,
        is_dry_run: false,
    };
    let closes = super::close::close(stores, &request).await?;
    let refused = closes.iter().filter(|close| close.outcome == close::Outcome::Refused);
    let refused: Vec<CustomerId> = refused.map(|close| close.customer.clone()).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let missing: usize = closes.iter().map(|close| close.blockers.len()).sum();
    print::line(&format!("{missing} things stand in the way of closing {period}; the demo closes it all the same."));
    request.customers = Some(refused);
    request.override_because = Some("the demo bills what could be counted".to_owned());
    let closes = super::close::close(stores, &request).await?;
    let open = closes.iter().find(|close| close.outcome == close::Outcome::Refused);
    anyhow::ensure!(open.is_none(), "{period} cannot be closed: see `securebase close --period {period}`");
    Ok(())
}

async fn add_customers(directory: &AccountDirectory) -> anyhow::Result<Vec<CustomerId>> {
    let mut customers = Vec::new();
    for (id, name, tier, address) in CUSTOMERS {
        let customer = NewCustomer {
            id: CustomerId::parse(id)?,
            name: name.to_owned(),
            tier: tier.to_owned(),
            currency: "USD".to_owned(),
            tax_rate: Decimal::new(8, 2),
            contract_start: Hour::parse_key(CONTRACT_START)?,
            billing_address: address.to_owned(),
            tax_id: String::new(),
        };
        directory.create_customer(&customer, edge::now()).await?;
        customers.push(customer.id);
    }
    Ok(customers)
}

/// Gives each account that has usage and no owner to the customers in turn; returns the events of each month.
async fn register_accounts(
    stores: &Stores,
    directory: &AccountDirectory,
    customers: &[CustomerId],
) -> anyhow::Result<BTreeMap<Month, u64>> {
    let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
    let grouping = Grouping::parse("account,month")?;
    let query = UsageQuery::new(Meter::CloudTrailEvents, hour(CONTRACT_START)?, hour("2100-01-01T00")?, grouping)?;
    let answer = usage(&mut connection, &query, &UsageScope::AllAccounts, Statements::Unnamed).await?;
    let from = Hour::parse_key(CONTRACT_START)?;
    let owned: std::collections::BTreeSet<AccountId> = directory
        .list()
        .await?
        .into_iter()
        .filter(|account| !account.ownership.is_empty())
        .map(|account| account.account)
        .collect();
    let mut months = BTreeMap::<Month, u64>::new();
    let mut accounts = std::collections::BTreeSet::new();
    for row in &answer.rows {
        let value = |name: &str| {
            let found = row.keys.iter().find(|(key, _)| key.as_str() == name);
            found.and_then(|(_, value)| value.as_deref()).unwrap_or_default()
        };
        accounts.insert(AccountId::parse(value("account"))?);
        let month = value("month");
        let month = Month::parse(month.get(..7).unwrap_or(month))?;
        *months.entry(month).or_default() += row.quantity.parse::<u64>().unwrap_or_default();
    }
    for (account, customer) in accounts.into_iter().zip(customers.iter().cycle()) {
        if !owned.contains(&account) {
            directory.register(account, customer, from, edge::now()).await?;
        }
    }
    Ok(months)
}

fn hour(key: &str) -> anyhow::Result<Timestamp> {
    Ok(Hour::parse_key(key)?.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_asks_for_the_month_that_was_billed() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        assert_eq!(
            curl("KEY", address, Month::parse("2026-10").unwrap()),
            "curl -H 'Authorization: Bearer KEY' 'http://127.0.0.1:8080/v1/usage?meter=cloudtrail_events\
             &from=2026-10-01T00:00:00Z&to=2026-11-01T00:00:00Z&group_by=account,category,hour'"
        );
    }
}
