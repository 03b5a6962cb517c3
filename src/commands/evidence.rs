//! `securebase evidence`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use aggregator::close::{Period, closes_of, evidence_of, identities};
use aggregator::directory::CustomerId;
use aggregator::meters::MeterBook;
use anyhow::Context;
use flate2::read::GzDecoder;
use serde_json::json;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::print;
use crate::stores::{Role, Stores};

pub(super) async fn run(global: &Global, command: cli::Evidence) -> anyhow::Result<ExitCode> {
    let cli::Evidence::Export(arguments) = command;
    let period = Period::parse(&arguments.period).with_context(|| format!("--period {}", arguments.period))?;
    let customer = CustomerId::parse(&arguments.customer).context("--customer")?;
    // The logs are only read for identities.
    let work = if arguments.with_identities { Work::Stores } else { Work::Database };
    let platform = Platform::open(global, work).await?;
    let (out, with_identities) = (arguments.out, arguments.with_identities);
    let (cut, sha256, document) = super::with_platform(platform, |stores| async move {
        load(&stores, &customer, period, arguments.cut, with_identities).await
    })
    .await?;
    match &out {
        Some(path) => {
            fs::write(path, &document).with_context(|| format!("--out {}", path.display()))?;
            if global.json {
                print::json(&json!({ "cut": cut, "evidence_sha256": hex::encode(sha256), "bytes": document.len() }));
            } else {
                print::line(&format!("cut {cut}, evidence {}", hex::encode(sha256)));
            }
        }
        // A reader that has gone away, as `head` does, is no failure of the command.
        None => drop(std::io::stdout().write_all(&document)),
    }
    Ok(ExitCode::SUCCESS)
}

async fn load(
    stores: &Stores,
    customer: &CustomerId,
    period: Period,
    cut: Option<i32>,
    with_identities: bool,
) -> anyhow::Result<(i32, [u8; 32], Vec<u8>)> {
    let pool = stores.database.pool(Role::Aggregator)?;
    let closes = closes_of(&pool, customer, period).await?;
    let close = match cut {
        None => closes.last(),
        Some(cut) => closes.iter().find(|close| close.cut == cut),
    };
    let close = close.with_context(|| match cut {
        None => format!("{period} is not closed for {customer}: securebase close --period {period}"),
        Some(cut) => format!("{period} has no cut {cut} for {customer}"),
    })?;
    let stored =
        evidence_of(&pool, close.close_id).await?.context("a close has no evidence: the database is corrupt")?;
    let mut document = Vec::new();
    GzDecoder::new(stored.as_slice()).read_to_end(&mut document).context("the stored evidence is damaged")?;
    if with_identities {
        let meters = MeterBook::new(pool).read().await?;
        let behind = identities(&stores.commit_log(), &document, &meters).await?;
        document.extend(behind);
    }
    Ok((close.cut, close.evidence_sha256, document))
}
