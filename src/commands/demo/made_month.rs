//! The month that the demo makes: a landing zone in every form it is delivered, and whether the counts are its known answer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aggregator::directory::{AccountDirectory, CustomerId};
use anyhow::Context;
use benches::landing_zone::{
    ANSWER_FILE, DECLARED_FILE, EVENTS_FOLDER, EXPORT_FOLDER, LandingZone, SAMPLES_FOLDER, TRAIL_BUCKET, write,
};
use billing::Month;
use ingest::{AccountId, Declarations, Hour, Timestamp};
use serde::Deserialize;
use sqlx::PgPool;
use sqlx::types::chrono::{DateTime, Utc};

use crate::stores::{Role, Stores};
use crate::{edge, print};

const SEED: u64 = 1;
/// Below this many events there is one account a customer and only the first week of the month, so that a small demo is quick.
const EVENTS_OF_A_MONTH: u64 = 10_000;
const SMALL_DAYS: u32 = 7;
/// Differences that are printed of a meter; the others are counted.
const SHOWN: usize = 5;

/// A month that was made, and what a right count of it gives.
pub(super) struct MadeMonth {
    pub(super) period: Month,
    folder: PathBuf,
    answer: Answer,
}

/// The known answer, as it is written.
#[derive(Deserialize)]
struct Answer {
    customers: Vec<OfCustomer>,
    usage: Vec<Total>,
    accounts: Vec<Life>,
}

#[derive(Deserialize)]
struct OfCustomer {
    accounts: Vec<String>,
}

#[derive(Deserialize)]
struct Total {
    meter: String,
    account: String,
    hour: String,
    quantity: String,
}

#[derive(Deserialize)]
struct Life {
    account: String,
    from: String,
    until: Option<String>,
}

/// Totals of one meter by account and hour, as decimal text.
type Totals = BTreeMap<(String, Hour), String>;

impl MadeMonth {
    /// The month before this one; made once a home.
    pub(super) fn make(home: &Path, customers: usize, events: u64) -> anyhow::Result<Self> {
        let today = DateTime::<Utc>::from(edge::now());
        let month = Month::containing(today.into()).context("no such month")?;
        let period = Month::beginning(month.first_day() - chrono::Months::new(1)).context("no such month")?;
        let folder = home.join(format!("demo-month-{period}-{events}"));
        if !folder.join(ANSWER_FILE).exists() {
            // What an interrupted demo left is half a month.
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            let (accounts_each, days) = if events < EVENTS_OF_A_MONTH { (1, SMALL_DAYS) } else { (2, period.days()) };
            let whole = LandingZone::new(SEED, u32::try_from(customers)?, period.start().into(), days);
            let zone = LandingZone { events, accounts_each, ..whole };
            let made = write(&folder, &zone)?;
            print::line(&format!(
                "Made {period} of a landing zone in every form it is delivered: {} CloudTrail events in {} objects, and {} other records.",
                print::count(events),
                print::count(made.log_objects),
                print::count(
                    made.records.iter().filter(|(folder, _)| *folder != TRAIL_BUCKET).map(|(_, count)| count).sum()
                )
            ));
        }
        let file = folder.join(ANSWER_FILE);
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let answer = serde_json::from_slice(&text).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(Self { period, folder, answer })
    }

    /// What is replayed. The notices beside would name the bucket's objects once more, and the digest files, one an hour, account
    /// and Region, prove what the answer shows here.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let folders = [&*format!("{TRAIL_BUCKET}/AWSLogs/*/CloudTrail"), EVENTS_FOLDER, SAMPLES_FOLDER, EXPORT_FOLDER];
        folders.into_iter().map(|name| self.folder.join(name)).collect()
    }

    /// Which sources count, as the home says from now on if it said nothing before.
    pub(super) fn declared(&self, file_of_home: &Path) -> anyhow::Result<Declarations> {
        let text = fs::read_to_string(self.folder.join(DECLARED_FILE))?;
        if !file_of_home.exists() {
            fs::write(file_of_home, &text)?;
        }
        Ok(Declarations::parse(&text)?)
    }

    /// Gives every account to its customer; those that nobody has usage of are the first one's.
    pub(super) async fn register(
        &self,
        directory: &AccountDirectory,
        customers: &[CustomerId],
        from: Hour,
    ) -> anyhow::Result<()> {
        let mut owners = BTreeMap::<&str, &CustomerId>::new();
        let first = customers.first().context("the demo has customers")?;
        owners.extend(self.answer.accounts.iter().map(|life| (life.account.as_str(), first)));
        for (of_customer, customer) in self.answer.customers.iter().zip(customers) {
            owners.extend(of_customer.accounts.iter().map(|account| (account.as_str(), customer)));
        }
        for (account, customer) in owners {
            directory.register(AccountId::parse(account)?, customer, from, edge::now()).await?;
        }
        Ok(())
    }

    /// Compares every hour of every meter with the known answer, and says so. An error if anything differs.
    pub(super) async fn compare(&self, stores: &Stores) -> anyhow::Result<()> {
        let pool = stores.database.pool(Role::Operator)?;
        let mut known = self.known()?;
        let (from, until) = (self.period.start(), self.period.end());
        for meter in metered(&pool, from, until).await? {
            known.entry(meter).or_default();
        }
        let (mut rows, mut differing) = (Vec::new(), Vec::new());
        for (meter, known) in &known {
            let counted = counted(&pool, meter, from, until).await?;
            let keys: std::collections::BTreeSet<_> = known.keys().chain(counted.keys()).collect();
            let differs = |key: &&&(String, Hour)| known.get(**key) != counted.get(**key);
            let wrong: Vec<_> = keys.iter().filter(differs).collect();
            for (account, hour) in wrong.iter().take(SHOWN).map(|key| **key) {
                let of = |totals: &Totals| totals.get(&(account.clone(), *hour)).cloned();
                let (known, counted) = (of(known).unwrap_or_default(), of(&counted).unwrap_or_default());
                differing.push(format!("{meter} of {account} at {hour}: known {known:?}, counted {counted:?}"));
            }
            rows.push(vec![
                meter.clone(),
                print::count(keys.len() as u64),
                sum(known),
                sum(&counted),
                print::count(wrong.len() as u64),
            ]);
        }
        print::line("\nThe known answer beside what was counted, hour by hour and account by account, in raw units:");
        print::table(&["meter", "hours", "known answer", "counted", "hours that differ"], &rows);
        anyhow::ensure!(differing.is_empty(), "the counts are not the known answer: {}", differing.join("; "));
        print::line("Difference 0.\n");
        Ok(())
    }

    /// The answer by meter, with the seconds that accounts were live in the month.
    fn known(&self) -> anyhow::Result<BTreeMap<String, Totals>> {
        let mut known = BTreeMap::<String, Totals>::new();
        for total in &self.answer.usage {
            let hour = Timestamp::parse_rfc3339(&total.hour)?.hour();
            let of_meter = known.entry(total.meter.clone()).or_default();
            of_meter.insert((total.account.clone(), hour), total.quantity.clone());
        }
        let (from, until) = (self.period.start(), self.period.end());
        let lives = known.entry("accounts".to_owned()).or_default();
        for life in &self.answer.accounts {
            let end = life.until.as_deref().map(Timestamp::parse_rfc3339).transpose()?;
            let end = end.map_or(until, |end| end.min(until)).micros();
            let mut at = Timestamp::parse_rfc3339(&life.from)?.max(from).micros();
            while at < end {
                let hour = Timestamp::from_micros(at).context("an instant of the month")?.hour();
                let behind = end.min(hour.start().saturating_add_secs(3_600).micros());
                lives.insert((life.account.clone(), hour), ((behind - at) / 1_000_000).to_string());
                at = behind;
            }
        }
        Ok(known)
    }
}

/// The sum of whole numbers; `-` where one is none.
fn sum(totals: &Totals) -> String {
    let sum = totals.values().map(|total| total.parse::<u128>().ok()).sum::<Option<u128>>();
    sum.map_or_else(|| "-".to_owned(), |sum| sum.to_string())
}

async fn counted(pool: &PgPool, meter: &str, from: Timestamp, until: Timestamp) -> anyhow::Result<Totals> {
    let (from, until) = (DateTime::<Utc>::from(from), DateTime::<Utc>::from(until));
    let rows: Vec<(String, DateTime<Utc>, String)> =
        sqlx::query_as(COUNTED).bind(meter).bind(from).bind(until).fetch_all(pool).await?;
    let total = |(account, at, total)| ((account, Timestamp::from(at).hour()), total);
    Ok(rows.into_iter().map(total).collect())
}

async fn metered(pool: &PgPool, from: Timestamp, until: Timestamp) -> anyhow::Result<Vec<String>> {
    let (from, until) = (DateTime::<Utc>::from(from), DateTime::<Utc>::from(until));
    Ok(sqlx::query_scalar(METERED).bind(from).bind(until).fetch_all(pool).await?)
}

const COUNTED: &str = "
    select account_id, window_start, trim_scale(sum(total))::text from usage_rows
    where meter = $1 and $2 <= window_start and window_start < $3
    group by account_id, window_start having sum(total) <> 0";

const METERED: &str = "select distinct meter from usage_rows where $1 <= window_start and window_start < $2";
