//! `securebase status`.

use std::process::ExitCode;

use aggregator::directory::{AccountDirectory, AccountLimit, account_limits};
use aggregator::fact_rows::{FactRows, FactsReport};
use aggregator::usage_rows::UsageRows;
use aggregator::worker_record::{Met, WorkerRecord};
use serde_json::json;

use crate::cli::Global;
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

/// How far back it is said what the processes that count have met, in seconds.
const MET_WITHIN_SECONDS: i64 = 24 * 3_600;

struct Status {
    partitions: u64,
    behind: usize,
    dead_letters: usize,
    accounts: usize,
    unknown: usize,
    facts: FactsReport,
    limits: Vec<AccountLimit>,
    met: Met,
}

pub(super) async fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Stores).await?;
    let status = super::with_platform(platform, |stores| async move { status(&stores).await }).await?;
    let counters = status.met.counters;
    if global.json {
        let limits = status.limits.iter().map(|limit| {
            json!({
                "customer": limit.customer.as_str(),
                "accounts_used": limit.used(),
                "accounts_allowed": limit.allowed,
                "exceeded": limit.is_exceeded(),
            })
        });
        print::json(&json!({
            "partitions": status.partitions,
            "partitions_behind": status.behind,
            "dead_letters_open": status.dead_letters,
            "accounts": status.accounts,
            "accounts_of_no_customer": status.unknown,
            "facts": status.facts.facts,
            "exports_in_force": status.facts.exports_in_force,
            "exports_incomplete": status.facts.exports_incomplete,
            "gaps": status.facts.gaps,
            "account_limits": limits.collect::<Vec<_>>(),
            "last_24_hours": {
                "workers": status.met.workers,
                "conflicts": counters.conflicts,
                "unknown_outcomes": counters.unknown_outcomes,
                "parked_slices": counters.parked_slices,
            },
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let row = |name: &str, number: u64| vec![name.to_owned(), print::count(number)];
    let rows = [
        row("log partitions", status.partitions),
        row("not rolled up yet", status.behind as u64),
        row("open dead letters", status.dead_letters as u64),
        row("accounts", status.accounts as u64),
        row("accounts of no customer", status.unknown as u64),
        row("facts", status.facts.facts),
        row("exports in force", status.facts.exports_in_force),
        row("exports not complete", status.facts.exports_incomplete),
        row("gaps between samples", status.facts.gaps),
        row("entries of other writers met in 24 hours", counters.conflicts),
        row("writes without an answer in 24 hours", counters.unknown_outcomes),
        row("slices parked in 24 hours", counters.parked_slices),
    ];
    print::table(&["what", "number"], &rows);
    if !status.limits.is_empty() {
        let rows = status.limits.iter().map(|limit| {
            let used = format!("{} / {}", limit.used(), limit.allowed);
            vec![limit.customer.to_string(), used, if limit.is_exceeded() { "exceeded" } else { "" }.to_owned()]
        });
        print::line("");
        print::table(&["customer", "accounts", ""], &rows.collect::<Vec<_>>());
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(stores: &Stores) -> anyhow::Result<Status> {
    let pool = stores.database.pool(Role::Aggregator)?;
    let rows = UsageRows::new(pool.clone());
    let unswept = stores.acknowledgements().unswept().await?.partitions;
    let names: Vec<String> = unswept.keys().map(ToString::to_string).collect();
    let cursors = rows.cursors(&names).await?;
    let is_behind = |name: &String, version: u64| cursors.get(name).copied().unwrap_or_default() < version;
    let behind = names.iter().zip(unswept.values()).filter(|(name, version)| is_behind(name, **version)).count();
    let letters = stores.dead_letters().heads().await?;
    let directory = AccountDirectory::new(pool.clone());
    let mut connection = pool.acquire().await?;
    let now = edge::now();
    Ok(Status {
        partitions: rows.partitions().await?,
        behind,
        dead_letters: letters.iter().filter(|letter| letter.resolved_at.is_none()).count(),
        accounts: directory.list().await?.len(),
        unknown: directory.unknown().await?.len(),
        facts: FactRows::new(pool.clone()).report().await?,
        limits: account_limits(&mut connection, now).await?,
        met: WorkerRecord::since(&pool, now.saturating_add_secs(-MET_WITHIN_SECONDS)).await?,
    })
}
