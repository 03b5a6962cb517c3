//! `securebase close`.

use std::process::ExitCode;

use aggregator::close::{AccountUsage, Closer, CustomerClose, Outcome, Period, Request};
use aggregator::directory::CustomerId;
use aggregator::dynamodb_log::DynamoDbLog;
use aggregator::receipts::{Receipts, SourceClass, SourceReport};
use aggregator::usage_rows::UsageRows;
use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

/// The exit code of a close that was refused because something is missing.
pub(super) const REFUSED: u8 = 3;
/// Blockers of one customer that are printed; the others are counted. JSON has all of them.
const BLOCKERS_SHOWN: usize = 20;

pub(super) async fn run(global: &Global, arguments: cli::Close) -> anyhow::Result<ExitCode> {
    let period = Period::parse(&arguments.period).with_context(|| format!("--period {}", arguments.period))?;
    let customers = match &arguments.customer {
        Some(customer) => Some(vec![CustomerId::parse(customer).context("--customer")?]),
        None => None,
    };
    let request = Request {
        period,
        customers,
        actor: arguments.by.clone(),
        override_because: arguments.r#override.clone(),
        is_dry_run: arguments.dry_run,
    };
    let platform = Platform::open(global, Work::Stores).await?;
    let closes = super::with_platform(platform, |stores| async move { close(&stores, &request).await }).await?;
    let is_refused = closes.iter().any(|close| close.outcome == Outcome::Refused);
    if global.json {
        let closes: Vec<Value> = closes.iter().map(|close| as_json(close, period)).collect();
        print::json(&json!({ "period": period.to_string(), "closes": closes }));
    } else {
        for close in &closes {
            show(close, period);
        }
        let count = |is_so: fn(&Outcome) -> bool| closes.iter().filter(|close| is_so(&close.outcome)).count();
        print::line(&format!(
            "{} closed, {} unchanged, {} refused",
            count(|outcome| matches!(outcome, Outcome::Closed { .. })),
            count(|outcome| matches!(outcome, Outcome::Unchanged { .. })),
            count(|outcome| *outcome == Outcome::Refused),
        ));
    }
    Ok(if is_refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

/// Closes on these stores, once everything they have acknowledged is rolled up and what digests say is known.
pub(super) async fn close(stores: &Stores, request: &Request) -> anyhow::Result<Vec<CustomerClose>> {
    // What cannot be rolled up is named by the close, not by this wait.
    if let Err(error) = super::caught_up(stores).await {
        print::note(&format!("securebase: {error}"));
    }
    let closer = closer(stores)?;
    super::receipts::refresh(stores, Some(request.period)).await?;
    Ok(closer.close(request, edge::now()).await?)
}

pub(super) fn closer(stores: &Stores) -> anyhow::Result<Closer<DynamoDbLog>> {
    let pool = stores.database.pool(Role::Aggregator)?;
    Ok(Closer {
        log: stores.commit_log(),
        receipts: Receipts {
            manifests: stores.manifests(),
            acknowledgements: stores.acknowledgements(),
            rows: UsageRows::new(pool.clone()),
        },
        dead_letters: stores.dead_letters(),
        pool,
    })
}

fn show(close: &CustomerClose, period: Period) {
    print::line(&format!("{} {period}: {}", close.customer, said(&close.outcome)));
    let rows: Vec<Vec<String>> = close.accounts.iter().map(|usage| usage_row(usage, &close.sources)).collect();
    if !rows.is_empty() {
        print::table(&["account", "meter", "source", "total", "first hour", "last hour", "quietest"], &rows);
    }
    for report in &close.sources {
        show_source(report);
    }
    if 0 < close.entries_after {
        print::line(&format!("{} log entries came after the cut; they are in the next one", close.entries_after));
    }
    for blocker in close.blockers.iter().take(BLOCKERS_SHOWN) {
        print::line(&format!("  missing: {blocker}"));
    }
    if BLOCKERS_SHOWN < close.blockers.len() {
        print::line(&format!("  and {} more; --json names all", close.blockers.len() - BLOCKERS_SHOWN));
    }
}

fn show_source(report: &SourceReport) {
    let source = &report.source;
    for account in &report.accounts {
        for lane in &account.lanes {
            let gaps: Vec<String> = lane.gaps.iter().map(|(from, until)| format!("{from} to {until}")).collect();
            let missing = if gaps.is_empty() { "no gap".to_owned() } else { format!("missing {}", gaps.join(", ")) };
            print::line(&format!(
                "  {} {} {}: {} of {} expected are counted, {missing}",
                source.meter, account.account, lane.lane, lane.done, lane.expected
            ));
        }
    }
}

fn said(outcome: &Outcome) -> String {
    let evidence = |hash: &[u8; 32]| hex::encode(hash);
    match outcome {
        Outcome::Closed { cut, evidence_sha256 } => format!("cut {cut}, evidence {}", evidence(evidence_sha256)),
        Outcome::Unchanged { cut, .. } => format!("cut {cut} stands: nothing has changed since"),
        Outcome::Refused => "REFUSED, something is missing".to_owned(),
        Outcome::WouldClose => "nothing is missing".to_owned(),
    }
}

fn class_of(usage: &AccountUsage, sources: &[SourceReport]) -> SourceClass {
    let declared = sources.iter().find(|report| report.source.meter == usage.meter);
    declared.map_or(SourceClass::BestEffort, |report| report.source.class)
}

fn usage_row(usage: &AccountUsage, sources: &[SourceReport]) -> Vec<String> {
    let quietest = usage.quietest.map_or_else(String::new, |(from, hours)| format!("{hours} h from {from}"));
    vec![
        usage.account.to_string(),
        usage.meter.to_string(),
        class_of(usage, sources).to_string(),
        usage.total.map_or_else(|| "out of range".to_owned(), |total| total.to_string()),
        usage.first.to_string(),
        usage.last.to_string(),
        quietest,
    ]
}

fn as_json(close: &CustomerClose, period: Period) -> Value {
    let (outcome, cut, evidence) = match &close.outcome {
        Outcome::Closed { cut, evidence_sha256 } => ("closed", Some(cut), Some(hex::encode(evidence_sha256))),
        Outcome::Unchanged { cut, evidence_sha256 } => ("unchanged", Some(cut), Some(hex::encode(evidence_sha256))),
        Outcome::Refused => ("refused", None, None),
        Outcome::WouldClose => ("would_close", None, None),
    };
    let accounts = close.accounts.iter().map(|usage| {
        json!({
            "account": usage.account.as_str(),
            "meter": usage.meter.as_str(),
            "source_class": class_of(usage, &close.sources).as_str(),
            "total": usage.total.map(|total| total.to_string()),
            "first_hour": usage.first.start().to_string(),
            "last_hour": usage.last.start().to_string(),
            "quietest_from": usage.quietest.map(|(from, _)| from.start().to_string()),
            "quietest_hours": usage.quietest.map_or(0, |(_, hours)| hours),
        })
    });
    json!({
        "customer": close.customer.as_str(),
        "period": period.to_string(),
        "outcome": outcome,
        "cut": cut,
        "evidence_sha256": evidence,
        "source_class": close.class.as_str(),
        "accounts": accounts.collect::<Vec<_>>(),
        "sources": close.sources.iter().map(super::receipts::as_json).collect::<Vec<_>>(),
        "entries_after": close.entries_after,
        "missing": close.blockers.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
