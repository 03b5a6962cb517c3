//! `securebase replay`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{self, Global};
use crate::platform::{Platform, Work};
use crate::reading::Reading;
use crate::replay::{Balance, Besides, OwnerGone, Replay, Source, expand};
use crate::{declared, print};

/// How often a client asks whether the owner of the stores is still there.
const OWNER_CHECK_EVERY: Duration = Duration::from_millis(250);
/// How often a lost owner is replaced before the command gives up.
const OWNERS_MAX: u32 = 5;

pub(super) async fn run(global: &Global, arguments: cli::Replay) -> anyhow::Result<ExitCode> {
    let files = expand(&arguments.paths)?;
    let mut owners = 0;
    let balance = loop {
        owners += 1;
        let sources = files.iter().cloned().map(Source::File).collect();
        match replay(global, sources, arguments.resume, arguments.objects.clone()).await {
            // Everything that was counted is known: reading all of it again counts nothing twice.
            Err(error) if error.is::<OwnerGone>() && owners < OWNERS_MAX => {
                print::note("securebase: the process that owned the stores has gone; starting again");
            }
            outcome => break outcome?,
        }
    };
    report(global, &balance);
    Ok(if balance.balances() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Opens the stores and reads everything once.
async fn replay(
    global: &Global,
    sources: Vec<Source>,
    resume: bool,
    objects: Option<PathBuf>,
) -> anyhow::Result<Balance> {
    // Before any store is opened: what cannot be meant is said at once.
    let declared = declared::load(global)?;
    let platform = Platform::open(global, Work::Stores).await?;
    let owner = platform.owner_address().map(str::to_owned);
    super::with_platform(platform, |stores| async move {
        let reading = Reading::new(&stores, declared, objects).await?;
        let replay = Replay { stores: &stores, resume, reading };
        tokio::select! {
            outcome = replay.run(sources) => match outcome {
                // An owner that dies makes calls fail before anyone asks for it.
                Err(error) if is_gone(owner.as_deref()).await => {
                    tracing::debug!(%error, "the owner has gone");
                    Err(OwnerGone.into())
                }
                outcome => outcome,
            },
            () = gone(owner.as_deref()) => Err(OwnerGone.into()),
        }
    })
    .await
}

async fn gone(owner: Option<&str>) {
    if owner.is_none() {
        return std::future::pending().await;
    }
    while !is_gone(owner).await {
        tokio::time::sleep(OWNER_CHECK_EVERY).await;
    }
}

async fn is_gone(owner: Option<&str>) -> bool {
    match owner {
        Some(address) => tokio::net::TcpStream::connect(address).await.is_err(),
        None => false,
    }
}

/// Prints the balance: one line of JSON, or a table.
pub(super) fn report(global: &Global, balance: &Balance) {
    if global.json {
        print::json(balance);
        return;
    }
    let mut rows = vec![vec!["read".to_owned(), print::count(balance.read)]];
    rows.push(vec!["counted".to_owned(), print::count(balance.counted)]);
    rows.push(vec!["duplicates".to_owned(), print::count(balance.duplicates)]);
    for (kind, count) in &balance.not_counted {
        rows.push(vec![format!("not counted: {kind}"), print::count(*count)]);
    }
    for (reason, count) in &balance.dead_letters {
        rows.push(vec![format!("dead letter: {reason}"), print::count(*count)]);
    }
    let Besides { counted, duplicates, dead_letters } = &balance.beside;
    for (what, count) in [("counted", counted), ("duplicates", duplicates)] {
        if 0 < *count {
            rows.push(vec![format!("beside records: {what}"), print::count(*count)]);
        }
    }
    for (reason, count) in dead_letters {
        rows.push(vec![format!("beside records: dead letter: {reason}"), print::count(*count)]);
    }
    print::table(&["records", "number"], &rows);
    let millis = u64::try_from(balance.seconds.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = balance.read.saturating_mul(1_000) / millis;
    let units_per_million = balance.write_units.saturating_mul(1_000_000).checked_div(balance.counted);
    print::line(&format!(
        "{} of {} files in {:.1} s, {} records/s, {} write units{}",
        balance.files,
        balance.files + balance.skipped_files,
        balance.seconds.as_secs_f64(),
        print::count(rate),
        print::count(balance.write_units),
        units_per_million.map_or_else(String::new, |units| format!(" ({} per million counted)", print::count(units))),
    ));
    print::line(if balance.balances() { "It balances." } else { "IT DOES NOT BALANCE." });
    if !balance.dead_letters.is_empty() || !dead_letters.is_empty() {
        print::line("Look at what was set aside with: securebase dead-letters list");
    }
}
