//! One module a command: it opens the stores, asks a room, prints the answer and leaves.

mod accounts;
mod agreements;
mod audit;
mod close;
mod completions;
mod customers;
mod dead_letters;
#[cfg(feature = "local")]
mod demo;
mod digests;
mod evidence;
mod invoice;
mod keys;
mod meters;
mod outbox;
mod rate_cards;
pub(crate) mod receipts;
mod replay;
mod serve;
mod simulate;
mod sources;
mod status;
mod usage;
mod verify;

use std::future::Future;
use std::process::ExitCode;

use aggregator::usage_rows::UsageRows;
use ingest::Timestamp;
use tokio::sync::watch;

use crate::cli::{Cli, Command};
use crate::platform::Platform;
use crate::stores::{Role, Stores};

/// The command was interrupted by Ctrl-C. What is half done is known: the same command again counts nothing twice.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        #[cfg(feature = "local")]
        Command::Demo(demo) => demo::run(global, demo).await,
        #[cfg(not(feature = "local"))]
        Command::Demo(_) => anyhow::bail!("this build has no embedded stores, which the demo needs"),
        Command::Replay(replay) => replay::run(global, replay).await,
        Command::Serve(serve) => serve::run(global, serve).await,
        Command::Usage(usage) => usage::run(global, usage).await,
        Command::Customers(customers) => customers::run(global, customers).await,
        Command::Accounts(accounts) => accounts::run(global, accounts).await,
        Command::Meters(meters) => meters::run(global, meters).await,
        Command::Invoice(invoice) => invoice::run(global, invoice).await,
        Command::RateCards(cards) => rate_cards::run(global, cards).await,
        Command::Simulate(simulate) => simulate::run(global, simulate).await,
        Command::Agree(agree) => agreements::agree(global, agree).await,
        Command::Coupons(coupons) => agreements::coupons(global, coupons).await,
        Command::TaxRates(rates) => agreements::tax_rates(global, rates).await,
        Command::Close(arguments) => close::run(global, arguments).await,
        Command::Evidence(evidence) => evidence::run(global, evidence).await,
        Command::Verify(arguments) => verify::run(global, arguments).await,
        Command::Receipts(receipts) => receipts::run(global, receipts).await,
        Command::Outbox(outbox) => outbox::run(global, outbox).await,
        Command::DeadLetters(letters) => dead_letters::run(global, letters).await,
        Command::Sources(arguments) => sources::run(global, arguments),
        Command::Digests(digests) => digests::run(global, digests).await,
        Command::Audit(audit) => audit::run(global, audit).await,
        Command::Keys(keys) => keys::run(global, keys).await,
        Command::Status => status::run(global).await,
        Command::Completions(completions) => Ok(completions::run(&completions)),
    }
}

/// Works with the stores until the work is done, is interrupted, or can no longer be done, and leaves them in order.
async fn with_platform<T, F>(platform: Platform, work: impl FnOnce(Stores) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let outcome = watched(&platform, work(platform.stores.clone())).await;
    let closed = platform.close().await;
    let outcome = outcome?;
    closed?;
    Ok(outcome)
}

/// Works until the work is done, is interrupted, or can no longer be done because the counting has stopped.
async fn watched<T>(platform: &Platform, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        outcome = work => outcome,
        reason = failed(platform.failures()) => Err(anyhow::anyhow!(reason)),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Err(Interrupted.into())
        }
    }
}

/// Resolves once one of these has something: the work cannot go on.
async fn failed(failures: Vec<watch::Receiver<Option<String>>>) -> String {
    let failed = failures.into_iter().map(|mut failure| {
        Box::pin(async move {
            match failure.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_default(),
                Err(_) => "counting and roll-up have ended".to_owned(),
            }
        })
    });
    let failed: Vec<_> = failed.collect();
    if failed.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(failed).await.0
}

/// Waits until usage rows hold everything that is acknowledged, so that nothing already counted is left out of an answer.
async fn caught_up(stores: &Stores) -> anyhow::Result<()> {
    let unswept = stores.acknowledgements().unswept().await?;
    crate::replay::rolled_up(&UsageRows::new(stores.database.pool(Role::Aggregator)?), &unswept.partitions).await
}

/// Who gives the command, as the audit trail names them.
fn operator() -> String {
    let named = ["SECUREBASE_OPERATOR", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    match named.filter(|name| !name.trim().is_empty()) {
        Some(name) => format!("operator:{}", name.trim()),
        None => "operator".to_owned(),
    }
}

fn instant(text: &str, option: &str) -> anyhow::Result<Timestamp> {
    Timestamp::parse_rfc3339(text).map_err(|error| anyhow::anyhow!("{option} {text}: {error}"))
}

fn whole_hour(text: &str, option: &str) -> anyhow::Result<ingest::Hour> {
    let instant = instant(text, option)?;
    let hour = instant.hour();
    anyhow::ensure!(hour.start() == instant, "{option} {text}: must be a whole hour");
    Ok(hour)
}
