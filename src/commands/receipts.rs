//! `securebase receipts`: what the sources of customers' meters promise, and through which hour they keep it.

use std::process::ExitCode;

use aggregator::close::Period;
use aggregator::directory::CustomerId;
use aggregator::receipts::{
    Completeness, Proofs, Receipts, Source, SourceClass, SourceReport, Sources, import_digests, import_lists,
};
use aggregator::usage_rows::UsageRows;
use anyhow::Context;
use ingest::Meter;
use ingest::digest::{PublicKeys, Stretch};
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

/// How far back digests are looked for again without a period: a late backfill is found by the close of its month.
const LOOK_BACK_SECONDS: i64 = 7 * 24 * 3_600;

pub(super) async fn run(global: &Global, command: cli::Receipts) -> anyhow::Result<ExitCode> {
    match command {
        cli::Receipts::Declare(arguments) => declare(global, arguments).await,
        cli::Receipts::List { customer } => list(global, customer).await,
    }
}

async fn declare(global: &Global, arguments: cli::ReceiptsDeclare) -> anyhow::Result<ExitCode> {
    let class = SourceClass::parse(&arguments.class);
    let source = Source {
        customer: CustomerId::parse(&arguments.customer).context("--customer")?,
        meter: Meter::parse_stored(&arguments.meter).with_context(|| format!("--meter {}", arguments.meter))?,
        kind: arguments.kind,
        class: class.with_context(|| format!("--class {}: proven, reconciled or best-effort", arguments.class))?,
        lateness_seconds: arguments.lateness_seconds,
        since: super::whole_hour(&arguments.since, "--since")?,
        trail: arguments.trail,
        lanes: arguments.lanes,
    };
    let platform = Platform::open(global, Work::Database).await?;
    let changed = super::with_platform(platform, |stores| async move {
        let sources = Sources::new(stores.database.pool(Role::Aggregator)?);
        Ok(sources.declare(&source, &arguments.by, edge::now()).await?)
    })
    .await?;
    if global.json {
        print::json(&json!({ "changed": changed }));
    } else {
        print::line(if changed { "declared" } else { "declared so already" });
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(global: &Global, customer: Option<String>) -> anyhow::Result<ExitCode> {
    let customer = customer.map(|id| CustomerId::parse(&id).context("--customer")).transpose()?;
    let platform = Platform::open(global, Work::Stores).await?;
    let mut reports = super::with_platform(platform, |stores| async move { refresh(&stores, None).await }).await?;
    reports.retain(|report| customer.as_ref().is_none_or(|customer| report.source.customer == *customer));
    if global.json {
        print::json(&json!({ "sources": reports.iter().map(as_json).collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            let source = &report.source;
            let through = report.complete_through().map_or_else(|| "-".to_owned(), |hour| hour.to_string());
            let waits_for = report.through.waits_for.clone();
            vec![
                source.customer.to_string(),
                source.meter.to_string(),
                source.kind.clone(),
                source.class.to_string(),
                through,
                waits_for,
            ]
        })
        .collect();
    print::table(&["customer", "meter", "kind", "class", "complete through", "waits for"], &rows);
    Ok(ExitCode::SUCCESS)
}

/// Takes digests and lists over, marks what is counted, and works out through which hour every source is complete.
///
/// With a period, digests of all of it are looked at again; without, those of the last week.
pub(crate) async fn refresh(stores: &Stores, period: Option<Period>) -> anyhow::Result<Vec<SourceReport>> {
    let now = edge::now();
    let pool = stores.database.pool(Role::Aggregator)?;
    let proofs = Proofs::new(pool.clone());
    let stretch = match period {
        // A digest that is late, or covers a late delivery, ends after the period.
        Some(period) => Stretch { start: period.start(), end: period.end().saturating_add_secs(LOOK_BACK_SECONDS) },
        None => Stretch { start: now.saturating_add_secs(-LOOK_BACK_SECONDS), end: now },
    };
    import_digests(&stores.expectations(), &proofs, &PublicKeys::default(), stretch, now).await?;
    import_lists(&pool, &proofs, now).await?;
    let receipts = Receipts {
        manifests: stores.manifests(),
        acknowledgements: stores.acknowledgements(),
        rows: UsageRows::new(pool.clone()),
    };
    proofs.refresh(&receipts, &stores.commit_log(), now).await?;
    Ok(Completeness::new(pool).refresh(now).await?)
}

/// A source and what of it is there.
pub(super) fn as_json(report: &SourceReport) -> Value {
    let source = &report.source;
    let accounts = report.accounts.iter().map(|account| {
        let lanes = account.lanes.iter().map(|lane| {
            let gaps = lane.gaps.iter().map(|(from, until)| json!([from.to_string(), until.to_string()]));
            json!({
                "lane": lane.lane,
                "expected": lane.expected,
                "counted": lane.done,
                "gaps": gaps.collect::<Vec<_>>(),
            })
        });
        json!({
            "account": account.account.as_str(),
            "from": account.from.to_string(),
            "until": account.until.map(|until| until.to_string()),
            "is_complete": account.through.until.is_none(),
            "waits_for": account.through.waits_for,
            "lanes": lanes.collect::<Vec<_>>(),
        })
    });
    json!({
        "customer": source.customer.as_str(),
        "meter": source.meter.as_str(),
        "kind": source.kind,
        "class": source.class.as_str(),
        "lateness_seconds": source.lateness_seconds,
        "since": source.since.start().to_string(),
        "trail": source.trail,
        "lanes": source.lanes,
        "complete_through": report.complete_through().map(|hour| hour.start().to_string()),
        "waits_for": report.through.waits_for,
        "accounts": accounts.collect::<Vec<_>>(),
    })
}
