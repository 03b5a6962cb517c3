//! `securebase status`.

use std::process::ExitCode;

use aggregator::directory::AccountDirectory;
use aggregator::usage_rows::UsageRows;
use serde_json::json;

use crate::cli::Global;
use crate::platform::{Platform, Work};
use crate::print;
use crate::stores::Role;

pub(super) async fn run(global: &Global) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Stores).await?;
    let (partitions, behind, dead_letters, accounts, unowned) = super::with_platform(platform, |stores| async move {
        let pool = stores.database.pool(Role::Aggregator)?;
        let acknowledged = stores.acknowledgements().partitions().await?;
        let names: Vec<String> = acknowledged.keys().map(ToString::to_string).collect();
        let cursors = UsageRows::new(pool.clone()).cursors(&names).await?;
        let is_behind = |name: &String, version: u64| cursors.get(name).copied().unwrap_or_default() < version;
        let behind =
            names.iter().zip(acknowledged.values()).filter(|(name, version)| is_behind(name, **version)).count();
        let letters = stores.dead_letters().heads().await?;
        let open = letters.iter().filter(|letter| letter.resolved_at.is_none()).count();
        let accounts = AccountDirectory::new(pool).list().await?;
        let unowned = accounts.iter().filter(|account| account.ownership.is_empty()).count();
        Ok((names.len(), behind, open, accounts.len(), unowned))
    })
    .await?;
    if global.json {
        print::json(&json!({
            "partitions": partitions,
            "partitions_behind": behind,
            "dead_letters_open": dead_letters,
            "accounts": accounts,
            "accounts_of_no_customer": unowned,
        }));
    } else {
        let row = |name: &str, number: usize| vec![name.to_owned(), print::count(number as u64)];
        let rows = [
            row("log partitions", partitions),
            row("not rolled up yet", behind),
            row("open dead letters", dead_letters),
            row("accounts", accounts),
            row("accounts of no customer", unowned),
        ];
        print::table(&["what", "number"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}
