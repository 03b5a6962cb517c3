//! Writes CloudTrail log objects as AWS delivers them, and the known answer beside them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use benches::cloudtrail::{ANSWER_FILE, LOGS_FOLDER, Plan, write_month};
use chrono::{DateTime, Utc};
use clap::Parser;

/// Make CloudTrail log objects from a seed: the same arguments give the same bytes.
///
/// OUT/AWSLogs holds the objects as AWS names and delivers them; OUT/answer.json says what a right count of them gives:
/// distinct events per account, hour, region and category.
#[derive(Parser)]
#[command(name = "generate", after_help = "Example: generate --out logs --events 200000 --duplicates 2 --late 1")]
struct Config {
    /// The folder to write to; it must not hold AWSLogs already
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Distinct events; copies come on top
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Where every random choice comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// AWS accounts that have events
    #[arg(long, default_value_t = 3)]
    accounts: u32,
    /// No event happens before this instant (RFC 3339)
    #[arg(long, default_value = "2026-10-01T00:00:00Z")]
    from: DateTime<Utc>,
    /// No event happens this many hours after --from or later
    #[arg(long, default_value_t = 744)]
    hours: u32,
    /// Copies delivered again, in percent of --events
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    duplicates: u8,
    /// Events delivered hours after the others of their object, in percent of --events
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    late: u8,
    /// Log objects; by default one for 209 events
    #[arg(long)]
    files: Option<u64>,
}

fn main() -> ExitCode {
    let config = Config::parse();
    let plan = Plan {
        seed: config.seed,
        events: config.events,
        files: config.files,
        accounts: config.accounts,
        from: config.from,
        hours: config.hours,
        duplicates_percent: config.duplicates,
        late_percent: config.late,
        ..Plan::new(config.seed, config.events, config.accounts, config.from, config.hours)
    };
    #[expect(clippy::disallowed_methods, reason = "the program reports how long it took")]
    let started_at = Instant::now();
    match write_month(&config.out, &plan) {
        Ok(answer) => {
            println!(
                "{} events and {} copies in {} files, {} MB ({} MB gzipped), {:.1} s: {}, {}",
                answer.events,
                answer.duplicates,
                answer.files,
                answer.raw_bytes / 1_000_000,
                answer.stored_bytes / 1_000_000,
                started_at.elapsed().as_secs_f64(),
                config.out.join(LOGS_FOLDER).display(),
                config.out.join(ANSWER_FILE).display(),
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot write to {}: {error}", config.out.display());
            ExitCode::FAILURE
        }
    }
}
