//! `securebase customers`.

use std::process::ExitCode;
use std::str::FromStr;

use aggregator::directory::{AccountDirectory, CustomerCreated, CustomerId, NewCustomer};
use anyhow::Context;
use rust_decimal::Decimal;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::Role;
use crate::{edge, print};

pub(super) async fn run(global: &Global, command: cli::Customers) -> anyhow::Result<ExitCode> {
    let cli::Customers::Add(arguments) = command;
    let customer = NewCustomer {
        id: CustomerId::parse(&arguments.customer).with_context(|| format!("customer {:?}", arguments.customer))?,
        name: arguments.name,
        tier: arguments.tier,
        currency: "USD".to_owned(),
        tax_rate: Decimal::from_str(&arguments.tax_rate).context("--tax-rate must be a decimal such as 0.08")?,
        contract_start: super::whole_hour(&arguments.contract_start, "--contract-start")?,
        billing_address: arguments.address,
        tax_id: arguments.tax_id,
    };
    let id = customer.id.clone();
    let platform = Platform::open(global, Work::Database).await?;
    let created = super::with_platform(platform, |stores| async move {
        let directory = AccountDirectory::new(stores.database.pool(Role::Aggregator)?);
        Ok(directory.create_customer(&customer, edge::now()).await?)
    })
    .await?;
    let outcome = match created {
        CustomerCreated::New => "added",
        CustomerCreated::Unchanged => "unchanged",
    };
    if global.json {
        print::json(&serde_json::json!({ "customer": id.as_str(), "outcome": outcome }));
    } else {
        print::line(&format!("customer {} {outcome}", id.as_str()));
    }
    Ok(ExitCode::SUCCESS)
}
