//! Writes a month of a landing zone in every form it is delivered, and the known answer beside it.

use std::path::PathBuf;
use std::process::ExitCode;

use benches::landing_zone::{ANSWER_FILE, LandingZone, write};
use chrono::{DateTime, Utc};
use clap::Parser;

/// Make a month of a landing zone from a seed: the same arguments give the same bytes.
///
/// OUT/trail-logs is the bucket of CloudTrail objects and digest files, OUT/notices the notices that name them; OUT/events
/// holds findings, rule invocations and the life of accounts, OUT/samples usage samples, OUT/focus a FOCUS export that is
/// restated. OUT/declared.toml says which source counts where several tell the same, OUT/answer.json what a right count
/// gives: usage by meter, account and hour.
#[derive(Parser)]
#[command(name = "landing_zone", after_help = "Example: landing_zone --out month --customers 3 --events 30000")]
struct Config {
    /// The folder to write to; it must not hold trail-logs already
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Customers; every account belongs to one
    #[arg(long, default_value_t = 3)]
    customers: u32,
    /// AWS accounts of each customer
    #[arg(long, default_value_t = 2)]
    accounts: u32,
    /// Distinct CloudTrail events; by default 10,000 for each customer
    #[arg(long)]
    events: Option<u64>,
    /// Where every random choice comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first instant of the month, a whole UTC day (RFC 3339)
    #[arg(long, default_value = "2026-10-01T00:00:00Z")]
    from: DateTime<Utc>,
    /// Days
    #[arg(long, default_value_t = 31)]
    days: u32,
    /// Distinct GuardDuty findings of each account
    #[arg(long, default_value_t = 12)]
    findings: u32,
    /// Evaluations of Config rules of each account
    #[arg(long, default_value_t = 400)]
    evaluations: u32,
    /// Regions that are used, at most 5
    #[arg(long, default_value_t = 2)]
    regions: usize,
    /// Copies delivered again, in percent
    #[arg(long, default_value_t = 2, value_name = "PERCENT")]
    duplicates: u8,
    /// What is delivered late, in percent
    #[arg(long, default_value_t = 3, value_name = "PERCENT")]
    late: u8,
    /// Log objects in bursts, in percent
    #[arg(long, default_value_t = 5, value_name = "PERCENT")]
    bursts: u8,
    /// Add records that cannot be counted, and an export that is cut off
    #[arg(long)]
    faults: bool,
}

fn main() -> ExitCode {
    let config = Config::parse();
    let usual = LandingZone::new(config.seed, config.customers, config.from, config.days);
    let zone = LandingZone {
        accounts_each: config.accounts,
        events: config.events.unwrap_or(usual.events),
        findings_each: config.findings,
        evaluations_each: config.evaluations,
        regions: config.regions,
        duplicates_percent: config.duplicates,
        late_percent: config.late,
        burst_percent: config.bursts,
        faults: config.faults,
        ..usual
    };
    match write(&config.out, &zone) {
        Ok(answer) => {
            let records: u64 = answer.records.values().sum();
            println!(
                "{records} records, {} log objects and {} digest files: {}",
                answer.log_objects,
                answer.digests,
                config.out.display()
            );
            for (meter, total) in answer.totals() {
                println!("{meter:<24} {total}");
            }
            println!("The known answer: {}", config.out.join(ANSWER_FILE).display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cannot write to {}: {error}", config.out.display());
            ExitCode::FAILURE
        }
    }
}
