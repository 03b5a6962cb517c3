//! `securebase audit`.

use std::process::ExitCode;

use anyhow::Context;
use api::audit::archive::{Archive, Archived, archive, witnesses};
use api::audit::{ArchivedMonths, FolderArchive, S3Archive, Verification, Witness, archived_months, verify_after};
use serde_json::json;

use crate::cli::{self, Global, StoresChoice};
use crate::platform::{Platform, Work};
use crate::stores::{Role, Stores};
use crate::{edge, print};

/// The archive of a home.
const FOLDER: &str = "audit-archive";

/// Partitions of the audit trail that are made ahead.
const MONTHS_AHEAD: i32 = 3;

const MAKE_PARTITIONS: &str = "select make_audit_partitions($1)";

/// Between two looks at what is to be archived: heads are written once a day, whoever looks first.
const ARCHIVE_SECONDS: u64 = 3_600;

pub(super) async fn run(global: &Global, command: cli::Audit) -> anyhow::Result<ExitCode> {
    let platform = Platform::open(global, Work::Database).await?;
    match command {
        cli::Audit::Verify(place) => {
            let place = place.archive.or_else(|| default_place(global));
            let found = super::with_platform(platform, |stores| async move {
                let (heads, months) = match &place {
                    Some(place) => Place::open(&stores, place).await?.known().await?,
                    None => Default::default(),
                };
                let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
                let verification = verify_after(&mut connection, &heads, &months).await?;
                Ok((verification, months))
            })
            .await?;
            let (found, months) = found;
            Ok(report(global, &found, &months))
        }
        cli::Audit::Archive(place) => {
            let place = place.archive.or_else(|| default_place(global));
            let place = place.context("stores in AWS need --archive s3://BUCKET/PREFIX")?;
            let archived = super::with_platform(platform, |stores| async move { write(&stores, &place).await }).await?;
            let Archived { day, months } = &archived;
            if global.json {
                print::json(&json!({ "day": day, "months": months }));
            } else {
                print::line(&match day {
                    Some(day) => format!("wrote the heads of {day}"),
                    None => "the heads of today are there already".to_owned(),
                });
                for month in months {
                    print::line(&format!("archived the events of {month}"));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A home keeps its own archive; in AWS it is named.
pub(super) fn default_place(global: &Global) -> Option<String> {
    let folder = || global.home.join(FOLDER).to_string_lossy().into_owned();
    (global.stores == StoresChoice::Local).then(folder)
}

/// Makes partitions ahead and writes down what is due.
async fn write(stores: &Stores, place: &str) -> anyhow::Result<Archived> {
    let mut connection = stores.database.pool(Role::Operator)?.acquire().await?;
    sqlx::query(MAKE_PARTITIONS).bind(MONTHS_AHEAD).execute(&mut *connection).await?;
    let now = edge::now();
    Ok(match Place::open(stores, place).await? {
        Place::Folder(folder) => archive(&mut connection, &folder, now).await?,
        Place::Bucket(bucket) => archive(&mut connection, &bucket, now).await?,
    })
}

/// Writes down what is due now and then, until aborted. A failure is logged, and tried again the next time.
pub(super) async fn keep_archiving(stores: Stores, place: String) {
    loop {
        match write(&stores, &place).await {
            Ok(archived) if archived != Archived::default() => tracing::info!(?archived, "audit trail archived"),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(alarm = "audit", error = format!("{error:#}"), "the audit trail is not archived");
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(ARCHIVE_SECONDS)).await;
    }
}

enum Place {
    Folder(FolderArchive),
    Bucket(S3Archive),
}

impl Place {
    /// `s3://BUCKET/PREFIX`, or a folder.
    async fn open(stores: &Stores, place: &str) -> anyhow::Result<Self> {
        let Some(rest) = place.strip_prefix("s3://") else { return Ok(Self::Folder(FolderArchive::new(place))) };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        anyhow::ensure!(!bucket.is_empty(), "--archive {place}: expected s3://BUCKET/PREFIX");
        let client = stores.objects.clone().context("a bucket needs --stores aws")?;
        Ok(Self::Bucket(S3Archive::new(client, bucket.to_owned(), prefix, edge::now())))
    }

    /// The heads of days, and the months that were archived.
    async fn known(&self) -> anyhow::Result<(Vec<Witness>, ArchivedMonths)> {
        async fn of(place: &impl Archive) -> anyhow::Result<(Vec<Witness>, ArchivedMonths)> {
            let heads = witnesses(place).await?;
            let months = archived_months(place, &heads).await?;
            Ok((heads, months))
        }
        match self {
            Self::Folder(folder) => of(folder).await,
            Self::Bucket(bucket) => of(bucket).await,
        }
    }
}

/// Exit code 1 when something is not what it was.
fn report(global: &Global, found: &Verification, archive: &ArchivedMonths) -> ExitCode {
    let Verification { chains, events, witnessed, breaks } = found;
    let ArchivedMonths { months, events: archived_events, .. } = archive;
    if global.json {
        let breaks: Vec<String> = breaks.iter().map(ToString::to_string).collect();
        print::json(&json!({
            "chains": chains,
            "events": events,
            "archived_months": months,
            "archived_events": archived_events,
            "witnessed": witnessed,
            "breaks": breaks,
        }));
    } else {
        for broken in breaks {
            print::line(&format!("BROKEN {broken}"));
        }
        print::line(&format!(
            "{} events in {} chains followed, {} more in {} archived months, {} heads of the archive compared: {}",
            print::count(*events),
            print::count(*chains),
            print::count(*archived_events),
            print::count(*months),
            print::count(*witnessed),
            if breaks.is_empty() { "nothing was changed".to_owned() } else { format!("{} BREAKS", breaks.len()) }
        ));
    }
    if breaks.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
