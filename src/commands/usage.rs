//! `securebase usage`.

use std::process::ExitCode;

use aggregator::directory::CustomerId;
use aggregator::meters::MeterBook;
use anyhow::Context;
use api::{Grouping, Statements, UsageQuery, UsageScope, usage};
use ingest::Meter;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::print;
use crate::stores::Role;

const IS_CUSTOMER: &str = "select exists (select from customers where customer_id = $1)";

pub(super) async fn run(global: &Global, arguments: cli::Usage) -> anyhow::Result<ExitCode> {
    // A sample meter is data: whether it is defined, the database says.
    let meter = Meter::parse_stored(&arguments.meter).with_context(|| format!("--meter {}", arguments.meter))?;
    let from = super::instant(&arguments.from, "--from")?;
    let to = super::instant(&arguments.to, "--to")?;
    let grouping = Grouping::parse(&arguments.group_by).context("--group-by")?;
    let query = UsageQuery::new(meter, from, to, grouping.clone())?;
    let scope = match &arguments.customer {
        Some(customer) => UsageScope::Customer(CustomerId::parse(customer).context("--customer")?),
        None if arguments.all => UsageScope::AllAccounts,
        None => anyhow::bail!("say whose usage: --all, or --customer ID"),
    };
    let platform = Platform::open(global, Work::Database).await?;
    let answer = super::with_platform(platform, |stores| async move {
        if matches!(meter, Meter::Sample(_)) {
            let meters = MeterBook::new(stores.database.pool(Role::Aggregator)?).read().await?;
            let is_defined = meters.get(meter).is_some();
            anyhow::ensure!(is_defined, "--meter {meter}: unknown meter; see securebase meters list");
        }
        let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
        if let UsageScope::Customer(customer) = &scope {
            let is_known: bool =
                sqlx::query_scalar(IS_CUSTOMER).bind(customer.as_str()).fetch_one(&mut *connection).await?;
            anyhow::ensure!(is_known, "there is no customer {customer}: add it with securebase customers add");
        }
        Ok(usage(&mut connection, &query, &scope, Statements::Unnamed).await?)
    })
    .await?;
    if global.json {
        print::json(&answer);
        return Ok(ExitCode::SUCCESS);
    }
    let mut head: Vec<&str> = grouping.keys().iter().map(|key| key.as_str()).collect();
    head.push("quantity");
    let rows = answer.rows.iter().map(|row| {
        let keys = row.keys.iter().map(|(_, value)| value.clone().unwrap_or_else(|| "none".to_owned()));
        keys.chain([row.quantity.clone()]).collect()
    });
    print::table(&head, &rows.collect::<Vec<_>>());
    print::line(&match answer.complete_through {
        Some(instant) => format!("Complete until {instant}."),
        None => "Completeness is not proven: no source in scope is proven or reconciled.".to_owned(),
    });
    Ok(ExitCode::SUCCESS)
}
