//! CloudTrail log objects as AWS delivers them, made from a seed, with the known answer.
//!
//! Everything is a function of the [`Plan`] and a number: [`Plan::log_object`] names the k-th object and
//! [`Plan::write_records`] writes its text, without state between calls. [`write_month`] puts a whole tree on disk.

mod digests;
mod event;
mod tree;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use thiserror::Error;

use event::Event;

use crate::random::{Draws, Stream};

pub use digests::{DigestsWritten, write_digests};
pub(crate) use tree::gzip;
pub use tree::{ANSWER_FILE, LOGS_FOLDER, Written, write_month, write_objects};

/// Events of one log object when the plan does not say how many objects there are; measured on delivered logs.
pub const EVENTS_PER_FILE: u64 = 209;

/// The regions that appear; the first ones more often.
pub const REGIONS: [&str; 5] = ["us-east-1", "us-west-2", "eu-central-1", "eu-west-1", "ap-southeast-2"];

/// An object holds events of five minutes.
const WINDOW_SECONDS: i64 = 300;
/// Account ids repeat beyond this many accounts.
const ACCOUNTS_MAX: u32 = 10_000_000;
/// One object's text is held in memory, so its size has a limit: about 250 MB.
const EVENTS_PER_FILE_MAX: u64 = 100_000;
/// The first instant of the year 9000 less the first of 1970, in hours: beyond it a date has no four digits to trust.
const LAST_HOUR: i64 = 61_626_000;

/// What to make: same plan, same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where every random choice comes from.
    pub seed: u64,
    /// Distinct events; the copies of `duplicates_percent` come on top.
    pub events: u64,
    /// Log objects; `None` gives one for [`EVENTS_PER_FILE`] events.
    pub files: Option<u64>,
    /// AWS accounts that have events. See [`Plan::account`].
    pub accounts: u32,
    /// No event happens before this instant.
    pub from: DateTime<Utc>,
    /// No event happens this many hours after `from` or later.
    pub hours: u32,
    /// Copies delivered again, as a share of `events`.
    pub duplicates_percent: u8,
    /// Events delivered one to seven hours after the others of their object, as a share of `events`.
    pub late_percent: u8,
    /// Objects whose events happen in one of a few busy hours, as a share of the objects.
    pub burst_percent: u8,
    /// How many of [`REGIONS`] have events.
    pub regions: usize,
}

/// The plan cannot be carried out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Events need an account to happen in.
    #[error("accounts must be between 1 and {ACCOUNTS_MAX}")]
    Accounts,
    /// Events need time to happen in, in years that have four digits.
    #[error("hours must be at least 1 and end before the year 9000")]
    Hours,
    /// Fewer objects would hold more events each than fit in memory.
    #[error("files must be at least 1, and so many that none holds more than {EVENTS_PER_FILE_MAX} events")]
    Files,
    /// More than everything.
    #[error("a percentage is at most 100")]
    Percent,
    /// Events need a Region to happen in.
    #[error("regions must be between 1 and {}", REGIONS.len())]
    Regions,
}

/// One log object: where AWS would put it, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogObject {
    /// The key below the trail's prefix, `AWSLogs/<account>/CloudTrail/<region>/YYYY/MM/DD/<name>.json.gz`.
    pub key: String,
    /// The account the object was delivered for; every event in it is of this account.
    pub account: String,
    /// The region of every event in it.
    pub region: &'static str,
    window_start: i64,
    /// When it was delivered, in seconds since 1970.
    delivered_at: i64,
}

/// What a right count of the delivered objects must give.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The plan's seed.
    pub seed: u64,
    /// Log objects.
    pub files: u64,
    /// Records in all objects, copies included: `events` + `duplicates`.
    pub records: u64,
    /// Distinct events: the sum of `rows`.
    pub events: u64,
    /// Copies of events that are in the objects already.
    pub duplicates: u64,
    /// Bytes of all objects before compression.
    pub raw_bytes: u64,
    /// Bytes of all objects as stored.
    pub stored_bytes: u64,
    /// Distinct events per account, hour, region and category, in this order.
    #[serde(serialize_with = "rows")]
    pub rows: BTreeMap<Row, u64>,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The recipient account.
    pub account: String,
    /// The hour of the event time, as whole hours since 1970-01-01T00:00:00Z.
    pub hour: i64,
    /// The event's `awsRegion`.
    pub region: &'static str,
    /// The event's `eventCategory`.
    pub category: &'static str,
}

impl Plan {
    /// The plan with the usual shape of delivery: no copies, nothing late, [`EVENTS_PER_FILE`] events an object.
    pub fn new(seed: u64, events: u64, accounts: u32, from: DateTime<Utc>, hours: u32) -> Self {
        Self {
            seed,
            events,
            files: None,
            accounts,
            from,
            hours,
            duplicates_percent: 0,
            late_percent: 0,
            burst_percent: 0,
            regions: REGIONS.len(),
        }
    }

    /// Whether the plan can be carried out; every other method expects that it can.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.accounts == 0 || self.accounts > ACCOUNTS_MAX {
            return Err(PlanError::Accounts);
        }
        let start = self.from.timestamp().div_euclid(3600);
        if self.hours == 0 || start < 0 || start + i64::from(self.hours) > LAST_HOUR {
            return Err(PlanError::Hours);
        }
        if self.files == Some(0) || self.events / self.file_count().max(1) > EVENTS_PER_FILE_MAX {
            return Err(PlanError::Files);
        }
        if self.duplicates_percent > 100 || self.late_percent > 100 || self.burst_percent > 100 {
            return Err(PlanError::Percent);
        }
        if !(1..=REGIONS.len()).contains(&self.regions) {
            return Err(PlanError::Regions);
        }
        Ok(())
    }

    /// How many log objects there are.
    pub fn file_count(&self) -> u64 {
        self.files.unwrap_or_else(|| self.events.div_ceil(EVENTS_PER_FILE))
    }

    /// The id of account `n` of this plan, from 0 to `accounts` - 1. Every eighth begins with a zero.
    pub fn account(&self, n: u32) -> String {
        let random = Draws::new(self.seed, Stream::Account, u64::from(n)).below(100_000);
        let head = if n.is_multiple_of(8) { random % 10_000 } else { random.max(10_000) };
        // An affine map modulo 10^7 with a factor coprime to 10 meets every number once: no two accounts are the same.
        let tail = (u64::from(n) * 7_654_321 + self.seed % 10_000_000) % 10_000_000;
        format!("{head:05}{tail:07}")
    }

    /// Names log object `k`, from 0 to [`Plan::file_count`] - 1.
    pub fn log_object(&self, k: u64) -> LogObject {
        let (account, region) = self.owner(k);
        let mut draws = Draws::new(self.seed, Stream::Delivery, k);
        let span = u128::from(self.hours) * 3600;
        let offset = u128::from(k) * span / u128::from(self.file_count().max(1));
        let even = self.from.timestamp() + i64::try_from(offset).expect("an offset lies within the hours");
        let window_start = self.burst(k).unwrap_or(even);
        let delay = i64::try_from(draws.below(300)).expect("a delay is below 300 seconds");
        let delivered_at = DateTime::from_timestamp(window_start + WINDOW_SECONDS + 300 + delay, 0)
            .expect("a checked plan ends before the year 9000");
        let account = self.account(account);
        let region = REGIONS[region];
        let mut key = format!(
            "{LOGS_FOLDER}/{account}/CloudTrail/{region}/{}/{account}_CloudTrail_{region}_{}_",
            delivered_at.format("%Y/%m/%d"),
            delivered_at.format("%Y%m%dT%H%MZ"),
        );
        draws.push_letters_and_digits(&mut key, 16);
        key.push_str(".json.gz");
        LogObject { key, account, region, window_start, delivered_at: delivered_at.timestamp() }
    }

    /// Where the window of object `k` begins if it is one of a burst: in the busy hour of its week.
    fn burst(&self, k: u64) -> Option<i64> {
        let mut draws = Draws::new(self.seed, Stream::Burst, k);
        if self.burst_percent == 0 || !draws.percent(self.burst_percent) {
            return None;
        }
        let weeks = u64::from(self.hours).div_ceil(24 * 7);
        let week = draws.below(weeks);
        let hours = (u64::from(self.hours) - week * 24 * 7).min(24 * 7);
        let hour = week * 24 * 7 + Draws::new(self.seed, Stream::Burst, u64::MAX - week).below(hours);
        let seconds = hour * 3600 + draws.below(3600 / WINDOW_SECONDS.unsigned_abs()) * WINDOW_SECONDS.unsigned_abs();
        Some(self.from.timestamp().saturating_add_unsigned(seconds))
    }

    /// Appends the text of log object `k`, `{"Records":[..]}`, and adds what is in it to `answer`.
    pub fn write_records(&self, k: u64, out: &mut String, answer: &mut Answer) {
        let begin = out.len();
        let object = self.log_object(k);
        out.push_str("{\"Records\":[");
        let own = self.first_event(k)..self.first_event(k + 1);
        for index in own.clone() {
            let event = self.event(&object, index);
            let row = Row {
                account: object.account.clone(),
                hour: event.at.div_euclid(3600),
                region: object.region,
                category: event.category(),
            };
            *answer.rows.entry(row).or_default() += 1;
            answer.events += 1;
            event.write(out);
            out.push(',');
        }

        // A copy is an event of the same account and region: AWS delivers again what it delivered before.
        let earlier = self.earlier_file(k).unwrap_or(k);
        let earlier_object = self.log_object(earlier);
        let source = self.first_event(earlier)..self.first_event(earlier + 1);
        let mut draws = Draws::new(self.seed, Stream::Copy, k);
        for _ in self.copies_before(k)..self.copies_before(k + 1) {
            let (object, range) = if source.is_empty() { (&object, &own) } else { (&earlier_object, &source) };
            if range.is_empty() {
                break;
            }
            self.event(object, range.start + draws.below(range.end - range.start)).write(out);
            out.push(',');
            answer.duplicates += 1;
        }

        if out.ends_with(',') {
            out.pop();
        }
        out.push_str("]}");
        answer.seed = self.seed;
        answer.files += 1;
        answer.records = answer.events + answer.duplicates;
        answer.raw_bytes += u64::try_from(out.len() - begin).expect("a length fits 64 bits");
    }

    fn event<'a>(&'a self, object: &'a LogObject, index: u64) -> Event<'a> {
        let mut draws = Draws::new(self.seed, Stream::Event, index);
        // First of all, so that no two events can have the same: see `Draws::new`.
        let id = draws.uuid();
        let begin = self.from.timestamp();
        let end = begin + i64::from(self.hours) * 3600;
        let window = WINDOW_SECONDS.min(end - object.window_start).unsigned_abs();
        let mut at = object.window_start.saturating_add_unsigned(draws.below(window));
        if draws.percent(self.late_percent) {
            at = at.saturating_sub_unsigned(3600 + draws.below(6 * 3600)).max(begin);
        }
        Event::new(draws, id, at, &object.account, object.region)
    }

    /// Account number and region number of object `k`: every account in turn on even numbers, the first ones more often
    /// on odd ones.
    fn owner(&self, k: u64) -> (u32, usize) {
        let mut draws = Draws::new(self.seed, Stream::Owner, k);
        let accounts = u64::from(self.accounts);
        let account = if k.is_multiple_of(2) {
            (k / 2) % accounts
        } else {
            let favoured = draws.below(accounts) + 1;
            draws.below(favoured)
        };
        let favoured = draws.below(self.regions as u64) + 1;
        let region = draws.below(favoured);
        (u32::try_from(account).expect("below accounts"), usize::try_from(region).expect("below the regions"))
    }

    /// The nearest of the 500 objects before `k` that has the same account and region.
    fn earlier_file(&self, k: u64) -> Option<u64> {
        let owner = self.owner(k);
        (k.saturating_sub(500)..k).rev().find(|earlier| self.owner(*earlier) == owner)
    }

    /// Objects differ in size, by up to twice the mean, and still share out every event once.
    fn first_event(&self, k: u64) -> u64 {
        let files = self.file_count().max(1);
        if k == 0 || k >= files {
            return if k == 0 { 0 } else { self.events };
        }
        let mean = self.events / files;
        let even = share(self.events, k, files);
        even - mean / 2 + Draws::new(self.seed, Stream::Size, k).below(mean + 1)
    }

    fn copies_before(&self, k: u64) -> u64 {
        let copies = share(self.events, u64::from(self.duplicates_percent), 100);
        share(copies, k, self.file_count().max(1))
    }
}

/// `whole` x `part` / `parts`, rounded down, without overflow for `part` <= `parts`.
fn share(whole: u64, part: u64, parts: u64) -> u64 {
    let product = u128::from(whole) * u128::from(part) / u128::from(parts);
    u64::try_from(product).expect("a part is at most the whole")
}

impl Answer {
    /// Adds the answer of other log objects of the same plan.
    pub fn merge(&mut self, other: Self) {
        self.seed = other.seed;
        self.files += other.files;
        self.records += other.records;
        self.events += other.events;
        self.duplicates += other.duplicates;
        self.raw_bytes += other.raw_bytes;
        self.stored_bytes += other.stored_bytes;
        for (row, quantity) in other.rows {
            *self.rows.entry(row).or_default() += quantity;
        }
    }
}

/// The rows in the form of `securebase usage --json`: RFC 3339 hours and decimal strings.
fn rows<S: Serializer>(rows: &BTreeMap<Row, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        account: &'a str,
        hour: String,
        region: &'a str,
        category: &'a str,
        quantity: String,
    }
    serializer.collect_seq(rows.iter().map(|(row, quantity)| Line {
        account: &row.account,
        hour: instant(row.hour * 3600),
        region: row.region,
        category: row.category,
        quantity: quantity.to_string(),
    }))
}

pub(crate) fn instant(seconds: i64) -> String {
    let mut text = String::with_capacity(20);
    push_instant(&mut text, seconds);
    text
}

fn push_instant(out: &mut String, seconds: i64) {
    let instant = DateTime::from_timestamp(seconds, 0).expect("a checked plan ends before the year 9000");
    write!(out, "{}", instant.to_rfc3339_opts(SecondsFormat::Secs, true)).expect("a string takes every write");
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    fn plan(seed: u64) -> Plan {
        let from = DateTime::parse_from_rfc3339("2026-10-01T00:00:00Z").unwrap().to_utc();
        Plan { duplicates_percent: 7, late_percent: 5, ..Plan::new(seed, 8_000, 12, from, 24) }
    }

    fn objects(plan: &Plan) -> (Vec<(LogObject, String)>, Answer) {
        plan.check().unwrap();
        let mut answer = Answer::default();
        let objects = (0..plan.file_count())
            .map(|k| {
                let mut text = String::new();
                plan.write_records(k, &mut text, &mut answer);
                (plan.log_object(k), text)
            })
            .collect();
        (objects, answer)
    }

    fn records(text: &str) -> Vec<Value> {
        let mut object: Value = serde_json::from_str(text).unwrap();
        serde_json::from_value(object["Records"].take()).unwrap()
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(objects(&plan(1)), objects(&plan(1)));
        let (one, other) = (objects(&plan(1)).0, objects(&plan(2)).0);
        assert!(one.iter().zip(&other).all(|(one, other)| one.1 != other.1 && one.0.key != other.0.key));
    }

    #[test]
    fn the_answer_is_what_a_naive_count_of_the_text_gives() {
        let plan = plan(3);
        let (objects, answer) = objects(&plan);
        let mut rows: BTreeMap<[String; 4], u64> = BTreeMap::new();
        let (mut ids, mut read) = (BTreeSet::new(), 0);
        for record in objects.iter().flat_map(|(_, text)| records(text)) {
            read += 1;
            let text = |name: &str| record[name].as_str().unwrap().to_owned();
            if ids.insert(text("eventID")) {
                let hour = format!("{}:00:00Z", &text("eventTime")[..13]);
                *rows
                    .entry([text("recipientAccountId"), hour, text("awsRegion"), text("eventCategory")])
                    .or_default() += 1;
            }
        }
        let answered: BTreeMap<[String; 4], u64> = answer
            .rows
            .iter()
            .map(|(row, n)| {
                ([row.account.clone(), instant(row.hour * 3600), row.region.into(), row.category.into()], *n)
            })
            .collect();
        assert_eq!(answered, rows);
        assert_eq!((answer.events, answer.records), (plan.events, read));
        assert_eq!(answer.duplicates, 560, "seven in a hundred of 8,000");
        assert_eq!(answer.files, 39);
        let categories: BTreeSet<_> = answer.rows.keys().map(|row| row.category).collect();
        assert_eq!(Vec::from_iter(categories), ["Data", "Insight", "Management", "NetworkActivity"]);
        let accounts: BTreeSet<_> = answer.rows.keys().map(|row| row.account.clone()).collect();
        assert_eq!(accounts, (0..12).map(|n| plan.account(n)).collect());
    }

    #[test]
    fn an_object_is_delivered_five_to_fifteen_minutes_after_its_events_unless_they_are_late() {
        let plan = Plan { late_percent: 0, duplicates_percent: 0, ..plan(4) };
        for (object, text) in objects(&plan).0 {
            let stamp = object.key.rsplit('_').nth(1).unwrap().trim_end_matches('Z');
            let delivered = chrono::NaiveDateTime::parse_from_str(&format!("{stamp}00"), "%Y%m%dT%H%M%S").unwrap();
            for record in records(&text) {
                let at = DateTime::parse_from_rfc3339(record["eventTime"].as_str().unwrap()).unwrap().to_utc();
                assert!(plan.from <= at && at < plan.from + chrono::TimeDelta::hours(24));
                let minutes = (delivered.and_utc() - at).num_seconds();
                // The name is cut to the minute.
                assert!((240..=900).contains(&minutes), "{minutes} {}", object.key);
                assert_eq!(record["recipientAccountId"], object.account.as_str());
                assert!(object.key.contains(&format!("/{}/CloudTrail/{}/2026/10/0", object.account, object.region)));
            }
        }
    }

    #[test]
    fn events_have_the_size_of_delivered_ones() {
        let from = plan(0).from;
        let (objects, _) = objects(&Plan::new(5, 30_000, 3, from, 24));
        let mut sizes: Vec<usize> =
            objects.iter().flat_map(|(_, text)| records(text)).map(|record| record.to_string().len()).collect();
        sizes.sort_unstable();
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((1_100..=1_350).contains(&mean), "{mean}");
        assert!(600 <= sizes[0], "{}", sizes[0]);
        assert!(sizes[sizes.len() * 999 / 1000] <= 4_096, "{}", sizes[sizes.len() * 999 / 1000]);
        assert!((29_000..=32_000).contains(sizes.last().unwrap()), "{:?}", sizes.last());
    }

    #[test]
    fn a_burst_fills_one_hour_of_each_week() {
        let calm = Plan { files: Some(2_000), ..Plan::new(8, 20_000, 3, plan(0).from, 31 * 24) };
        let busiest = |plan: &Plan| {
            let mut hours = BTreeMap::<i64, u64>::new();
            for k in 0..plan.file_count() {
                *hours.entry(plan.log_object(k).window_start.div_euclid(3600)).or_default() += 1;
            }
            let mut counts: Vec<u64> = hours.into_values().collect();
            counts.sort_unstable_by_key(|count| std::cmp::Reverse(*count));
            counts
        };
        assert!(busiest(&calm)[0] <= 3);
        let counts = busiest(&Plan { burst_percent: 20, regions: 2, ..calm.clone() });
        assert!(40 <= counts[4] && counts[5] <= 3, "{:?}", &counts[..6]);
        let regions: BTreeSet<_> = (0..200).map(|k| Plan { regions: 2, ..calm.clone() }.log_object(k).region).collect();
        assert_eq!(Vec::from_iter(regions), ["us-east-1", "us-west-2"]);
    }

    #[test]
    fn account_ids_have_twelve_digits_and_no_two_are_the_same() {
        let plan = plan(6);
        let ids: BTreeSet<_> = (0..10_000).map(|n| plan.account(n)).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_digit())));
        assert!(plan.account(0).starts_with('0') && !plan.account(1).starts_with('0'));
    }

    #[test]
    fn a_plan_that_cannot_be_carried_out_is_refused() {
        for (wrong, error) in [
            (Plan { accounts: 0, ..plan(0) }, PlanError::Accounts),
            (Plan { hours: 0, ..plan(0) }, PlanError::Hours),
            (Plan { hours: u32::MAX, ..plan(0) }, PlanError::Hours),
            (Plan { files: Some(0), ..plan(0) }, PlanError::Files),
            (Plan { files: Some(1), events: 1_000_000_000, ..plan(0) }, PlanError::Files),
            (Plan { late_percent: 101, ..plan(0) }, PlanError::Percent),
            (Plan { burst_percent: 101, ..plan(0) }, PlanError::Percent),
            (Plan { regions: 0, ..plan(0) }, PlanError::Regions),
            (Plan { regions: 6, ..plan(0) }, PlanError::Regions),
        ] {
            assert_eq!(wrong.check(), Err(error));
        }
        assert_eq!(Plan { events: u64::MAX, duplicates_percent: 100, ..plan(0) }.check(), Ok(()));
    }

    #[test]
    fn few_events_in_many_objects_and_none_at_all_are_plans_too() {
        for (events, files, objects_expected) in [(0, None, 0), (1, None, 1), (3, Some(10), 10), (500, Some(1), 1)] {
            let plan = Plan { events, files, ..plan(7) };
            let (objects, answer) = objects(&plan);
            assert_eq!((objects.len(), answer.events), (objects_expected, events));
        }
    }
}
