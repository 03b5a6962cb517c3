//! A month of a landing zone in every form it is delivered, made from a seed, with the known answer.
//!
//! CloudTrail objects with their digest chains, notices of them, GuardDuty findings with their updates, invocations of
//! Config rules, the life of accounts, usage samples, and a FOCUS export that is restated. Copies, late deliveries and
//! corrections are part of it; with [`LandingZone::faults`] also records that cannot be counted.

mod answer;
mod evaluations;
mod export;
mod files;
mod findings;
mod notices;
mod organization;
mod samples;

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use chrono::{DateTime, Utc};

use crate::cloudtrail::{Plan, PlanError, REGIONS, write_digests, write_objects};

pub use answer::{Answer, CustomerAccounts, Life, UsageKey};

/// The folder of the bucket of logs, and its name.
pub const TRAIL_BUCKET: &str = "trail-logs";
/// The folder of events as EventBridge, Config and GuardDuty deliver them.
pub const EVENTS_FOLDER: &str = "events";
/// The folder of usage samples.
pub const SAMPLES_FOLDER: &str = "samples";
/// The folder of the FOCUS export.
pub const EXPORT_FOLDER: &str = "focus";
/// The folder of the notices that name what is in the bucket of logs.
pub const NOTICES_FOLDER: &str = "notices";
/// The known answer.
pub const ANSWER_FILE: &str = "answer.json";
/// Which sources are declared: data transfer from the FOCUS export.
pub const DECLARED_FILE: &str = "declared.toml";

/// What to make: same landing zone, same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LandingZone {
    /// Where every random choice comes from.
    pub seed: u64,
    /// Customers; every account belongs to one.
    pub customers: u32,
    /// AWS accounts of each.
    pub accounts_each: u32,
    /// Distinct CloudTrail events.
    pub events: u64,
    /// The first instant of the month, a whole UTC day.
    pub from: DateTime<Utc>,
    /// Days.
    pub days: u32,
    /// Distinct GuardDuty findings of each account.
    pub findings_each: u32,
    /// Evaluations of Config rules of each account.
    pub evaluations_each: u32,
    /// Regions that are used.
    pub regions: usize,
    /// Copies delivered again, in percent.
    pub duplicates_percent: u8,
    /// What is delivered late, in percent.
    pub late_percent: u8,
    /// Log objects in bursts, in percent.
    pub burst_percent: u8,
    /// Whether records that cannot be counted are among the others.
    pub faults: bool,
}

impl LandingZone {
    /// A month of the usual shape.
    pub fn new(seed: u64, customers: u32, from: DateTime<Utc>, days: u32) -> Self {
        Self {
            seed,
            customers,
            accounts_each: 2,
            events: u64::from(customers) * 10_000,
            from,
            days,
            findings_each: 12,
            evaluations_each: 400,
            regions: 2,
            duplicates_percent: 2,
            late_percent: 3,
            burst_percent: 5,
            faults: false,
        }
    }

    /// How its CloudTrail objects are made.
    pub fn trail(&self) -> Plan {
        Plan {
            duplicates_percent: self.duplicates_percent,
            late_percent: self.late_percent,
            burst_percent: self.burst_percent,
            regions: self.regions,
            ..Plan::new(self.seed, self.events, self.accounts(), self.from, self.days * 24)
        }
    }

    fn accounts(&self) -> u32 {
        self.customers.saturating_mul(self.accounts_each)
    }

    /// The id of the `n`th account; the accounts of a customer follow each other.
    pub fn account(&self, n: u32) -> String {
        self.trail().account(n)
    }

    /// The id of an account beyond those that have usage.
    fn trail_account(&self, n: u32) -> String {
        self.trail().account(n)
    }

    fn region(&self, account: u32) -> &'static str {
        REGIONS[usize::try_from(account).expect("an index fits") % self.regions]
    }

    fn begin(&self) -> i64 {
        self.from.timestamp()
    }

    fn end(&self) -> i64 {
        self.begin() + i64::from(self.days) * 86_400
    }

    fn check(&self) -> Result<(), PlanError> {
        if self.begin().rem_euclid(86_400) != 0 {
            return Err(PlanError::Hours);
        }
        self.trail().check()
    }
}

/// Writes everything below `dir`, the answer last. A folder that holds a bucket of logs already is refused.
pub fn write(dir: &Path, zone: &LandingZone) -> io::Result<Answer> {
    zone.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let bucket = dir.join(TRAIL_BUCKET);
    if bucket.exists() {
        let message = format!("{} is there already: choose an empty folder", bucket.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let trail = zone.trail();
    let objects = write_objects(&bucket, &trail)?;
    let digests = write_digests(&bucket, &trail, TRAIL_BUCKET, &objects.content_sha256)?;
    let mut answer = Answer::of(zone, &objects.answer, &digests);
    notices::write(dir, zone, &digests, &mut answer)?;
    findings::write(dir, zone, &mut answer)?;
    evaluations::write(dir, zone, &mut answer)?;
    organization::write(dir, zone, &mut answer)?;
    samples::write(dir, zone, &mut answer)?;
    export::write(dir, zone, &mut answer)?;
    if zone.faults {
        files::write_faults(dir, zone, &mut answer)?;
    }
    fs::write(dir.join(DECLARED_FILE), export::DECLARED)?;
    let mut file = BufWriter::new(fs::File::create(dir.join(ANSWER_FILE))?);
    serde_json::to_writer_pretty(&mut file, &answer)?;
    file.write_all(b"\n")?;
    file.flush()?;
    Ok(answer)
}

#[cfg(test)]
mod tests;
