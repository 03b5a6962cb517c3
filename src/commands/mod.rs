//! One module a command: it opens the stores, asks a room, prints the answer and leaves.

mod accounts;
mod customers;
mod dead_letters;
#[cfg(feature = "local")]
mod demo;
mod invoice;
mod replay;
mod serve;
mod status;
mod usage;

use std::future::Future;
use std::process::ExitCode;

use ingest::Timestamp;
use tokio::sync::watch;

use crate::cli::{Cli, Command, Global};
use crate::platform::Platform;
use crate::stores::Stores;

/// The exit code of a process that was interrupted (POSIX: 128 + SIGINT).
const INTERRUPTED: u8 = 130;

pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    let work = async {
        match cli.command {
            #[cfg(feature = "local")]
            Command::Demo(demo) => return demo::run(&global, demo).await,
            #[cfg(not(feature = "local"))]
            Command::Demo(_) => anyhow::bail!("this build has no embedded stores, which the demo needs"),
            Command::Serve(serve) => return serve::run(&global, serve).await,
            other => interruptible(&global, other).await,
        }
    };
    work.await
}

/// Commands that end at once on Ctrl-C. What is half done is known: the same command again counts nothing twice.
async fn interruptible(global: &Global, command: Command) -> anyhow::Result<ExitCode> {
    let work = async {
        match command {
            Command::Demo(_) | Command::Serve(_) => unreachable!("they end by Ctrl-C in their own order"),
            Command::Replay(replay) => replay::run(global, replay).await,
            Command::Usage(usage) => usage::run(global, usage).await,
            Command::Customers(customers) => customers::run(global, customers).await,
            Command::Accounts(accounts) => accounts::run(global, accounts).await,
            Command::Invoice(invoice) => invoice::run(global, invoice).await,
            Command::DeadLetters(letters) => dead_letters::run(global, letters).await,
            Command::Status => status::run(global).await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// Works with the stores, and leaves them in order whether the work succeeds or not.
async fn with_platform<T, F>(platform: Platform, work: impl FnOnce(Stores) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let failure = platform.failure();
    let stores = platform.stores.clone();
    let outcome = tokio::select! {
        outcome = work(stores) => outcome,
        reason = failed(failure) => Err(anyhow::anyhow!(reason)),
    };
    let closed = platform.close().await;
    let outcome = outcome?;
    closed?;
    Ok(outcome)
}

/// Resolves once the counting in this process has stopped for good.
async fn failed(failure: Option<watch::Receiver<Option<String>>>) -> String {
    let Some(mut failure) = failure else { return std::future::pending().await };
    let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    match reason {
        Some(reason) => reason,
        None => std::future::pending().await,
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
