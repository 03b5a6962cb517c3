//! What a right count of a landing zone's month gives.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::LandingZone;
use crate::cloudtrail::{self, DigestsWritten, instant};

/// The known answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The seed.
    pub seed: u64,
    /// The first instant of the month.
    pub from: String,
    /// The first instant behind it.
    pub to: String,
    /// Whose accounts they are.
    pub customers: Vec<CustomerAccounts>,
    /// Source records below each folder.
    pub records: BTreeMap<String, u64>,
    /// Log objects, digest files and backfills among those.
    pub log_objects: u64,
    /// Digest files, backfills included.
    pub digests: u64,
    /// Backfill digest files.
    pub backfills: u64,
    /// Records that cannot be counted, by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Usage by meter, account and hour.
    #[serde(serialize_with = "rows")]
    pub usage: BTreeMap<UsageKey, u128>,
    /// When accounts are live.
    pub accounts: Vec<Life>,
}

/// One customer's accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CustomerAccounts {
    /// A name for it, `customer-1` and so on.
    pub customer: String,
    /// Its accounts.
    pub accounts: Vec<String>,
}

/// A stretch in which an account is live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Life {
    /// The account.
    pub account: String,
    /// Since when; before the month where it is older.
    pub from: String,
    /// Until when; `None` while it is live.
    pub until: Option<String>,
}

/// Names a total.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// The meter's name.
    pub meter: &'static str,
    /// Whose usage.
    pub account: String,
    /// Which hour, as whole hours since 1970.
    pub hour: i64,
}

impl Answer {
    pub(super) fn of(zone: &LandingZone, trail: &cloudtrail::Answer, digests: &DigestsWritten) -> Self {
        let customers = (0..zone.customers).map(|n| CustomerAccounts {
            customer: format!("customer-{}", n + 1),
            accounts: (0..zone.accounts_each).map(|m| zone.account(n * zone.accounts_each + m)).collect(),
        });
        let mut answer = Self {
            seed: zone.seed,
            from: instant(zone.begin()),
            to: instant(zone.end()),
            customers: customers.collect(),
            log_objects: trail.files,
            digests: digests.digests,
            backfills: digests.backfills,
            ..Self::default()
        };
        answer.read(super::TRAIL_BUCKET, trail.records + digests.digests);
        for (row, count) in &trail.rows {
            answer.add("cloudtrail_events", &row.account, row.hour * 3600, u128::from(*count));
        }
        answer
    }

    /// So many records lie below a folder.
    pub(super) fn read(&mut self, folder: &str, records: u64) {
        *self.records.entry(folder.to_owned()).or_default() += records;
    }

    /// So much usage at an instant, in raw units.
    pub(super) fn add(&mut self, meter: &'static str, account: &str, at: i64, quantity: u128) {
        let key = UsageKey { meter, account: account.to_owned(), hour: at.div_euclid(3600) };
        *self.usage.entry(key).or_default() += quantity;
    }

    /// Sums of the usage by meter.
    pub fn totals(&self) -> BTreeMap<&'static str, u128> {
        let mut totals = BTreeMap::new();
        for (key, quantity) in &self.usage {
            *totals.entry(key.meter).or_default() += quantity;
        }
        totals
    }
}

/// The rows in the form of `securebase usage --json`.
fn rows<S: Serializer>(usage: &BTreeMap<UsageKey, u128>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        meter: &'a str,
        account: &'a str,
        hour: String,
        quantity: String,
    }
    serializer.collect_seq(usage.iter().map(|(key, quantity)| Line {
        meter: key.meter,
        account: &key.account,
        hour: instant(key.hour * 3600),
        quantity: quantity.to_string(),
    }))
}
