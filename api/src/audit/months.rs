//! Archived months, followed: every chain from month to month, so that what left the database stays provable.
//!
//! The end of each chain in each month is a witness of the database, as the heads of a day are; and where the database
//! begins later, because its old months were detached, its first event must follow what the archive ends with.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};

use chrono::{Months as CalendarMonths, NaiveDate};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use super::archive::{Archive, ArchiveError, MonthIndex, object_name};
use super::chain::{Break, ChainedEvent, Followed};
use super::verify::{Head, Witness};

/// An event's line: its details have 64 KiB at most, and every byte of them may be escaped.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// What was found in the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchivedMonths {
    /// Months that have an index.
    pub months: u64,
    /// Events followed.
    pub events: u64,
    /// The first break of each chain that has one, and objects that are not what the index says.
    pub breaks: Vec<Break>,
    /// Where each chain ends in each month, in order.
    ends: BTreeMap<String, Vec<End>>,
    /// The end of the last month, in microseconds since 1970.
    end_at: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    object: String,
    followed: Followed,
}

impl ArchivedMonths {
    /// What the months know of the database's events.
    pub(super) fn witnesses(&self) -> Vec<Witness> {
        let head = |end: &End| Head {
            chain: end.followed.chain.clone(),
            sequence: end.followed.sequence,
            hash: hex::encode(end.followed.hash),
        };
        let ends = self.ends.values().flatten();
        ends.map(|end| Witness { name: end.object.clone(), heads: vec![head(end)] }).collect()
    }

    /// Where a chain goes on in the database: before its first event there, or from the start.
    pub(super) fn before(&self, chain: &str, first: Option<i64>) -> Followed {
        let ends = self.ends.get(chain).map_or(&[][..], Vec::as_slice);
        let before = match first {
            Some(first) => ends.iter().find(|end| end.followed.sequence == first - 1),
            None => ends.last(),
        };
        before.map_or_else(|| Followed::new(chain), |end| end.followed.clone())
    }

    /// The last archived event of a chain, and the instant from which on later events are.
    pub(super) fn border(&self, chain: &str) -> Option<(i64, i64)> {
        let last = self.ends.get(chain).and_then(|ends| ends.last()).map_or(0, |end| end.followed.sequence);
        self.end_at.map(|end_at| (last, end_at))
    }

    fn broken(&mut self, object: &str, what: impl Into<String>) {
        self.breaks.push(Break::Archive { object: object.to_owned(), what: what.into() });
    }
}

/// What witnesses know of an event: chain, number, who, hash.
type Known<'a> = BTreeMap<(&'a str, i64), Vec<(&'a str, &'a str)>>;

/// Reads every archived month and follows its chains, past what these witnesses know of them.
pub async fn archived_months(place: &impl Archive, witnesses: &[Witness]) -> Result<ArchivedMonths, ArchiveError> {
    let mut found = ArchivedMonths::default();
    let mut known = Known::new();
    for (witness, head) in witnesses.iter().flat_map(|one| one.heads.iter().map(move |head| (one, head))) {
        known.entry((&head.chain, head.sequence)).or_default().push((&witness.name, &head.hash));
    }
    let names = place.names("events/").await?;
    let folders: BTreeSet<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("events/")?.split_once('/'))
        .map(|(folder, _)| folder)
        .collect();
    let mut chains: BTreeMap<String, Followed> = BTreeMap::new();
    // Chains that broke: what comes after is no more to be told apart.
    let mut given_up = BTreeSet::new();
    let mut before: Option<NaiveDate> = None;
    for folder in folders {
        let Some(month) = first_day(folder) else {
            found.broken(&format!("events/{folder}"), "is no month");
            continue;
        };
        let index_name = format!("events/{folder}/index.json");
        if !names.contains(&index_name) {
            // The last one may be at work, or was cut short and is finished by the next run.
            if names.iter().any(|name| name > &format!("events/{folder}/~")) {
                found.broken(&index_name, "is missing");
            }
            continue;
        }
        if let Some(before) = before.and_then(|before| before.checked_add_months(CalendarMonths::new(1)))
            && before != month
        {
            found.broken(&format!("events/{}/index.json", before.format("%Y-%m")), "is missing");
        }
        before = Some(month);
        found.end_at = Some(end_of(month));
        let bytes = place.get(&index_name).await?;
        let Ok(index) = serde_json::from_slice::<MonthIndex>(&bytes) else {
            found.broken(&index_name, "cannot be read");
            continue;
        };
        if index.month != folder {
            found.broken(&index_name, "is of another month");
        }
        found.months += 1;
        let mut expected = BTreeSet::from([index_name.clone()]);
        for chain in &index.chains {
            let name = format!("events/{folder}/{}.jsonl.gz", object_name(&chain.chain));
            expected.insert(name.clone());
            if !names.contains(&name) {
                found.broken(&name, "is missing");
                given_up.insert(chain.chain.clone());
                continue;
            }
            let bytes = place.get(&name).await?;
            if hex::encode(Sha256::digest(&bytes)) != chain.sha256 {
                found.broken(&name, "was changed: its SHA-256 is not the index's");
                given_up.insert(chain.chain.clone());
            }
            if given_up.contains(&chain.chain) {
                continue;
            }
            let followed = chains.entry(chain.chain.clone()).or_insert_with(|| Followed::new(&chain.chain));
            match follow(&bytes, followed, month, &known) {
                Ok(events) if events == chain.events => {
                    found.events += events;
                    let end = End { object: name, followed: followed.clone() };
                    found.ends.entry(chain.chain.clone()).or_default().push(end);
                }
                Ok(events) => {
                    found.broken(&name, format!("has {events} events, and the index says {}", chain.events));
                    given_up.insert(chain.chain.clone());
                }
                Err(what) => {
                    found.broken(&name, what);
                    given_up.insert(chain.chain.clone());
                }
            }
        }
        let folder_name = format!("events/{folder}/");
        for stray in names.iter().filter(|name| name.starts_with(&folder_name) && !expected.contains(*name)) {
            found.broken(stray, "is not in the month's index");
        }
    }
    Ok(found)
}

fn midnight(day: NaiveDate) -> i64 {
    day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros()
}

/// Where the next month begins, in microseconds since 1970.
fn end_of(month: NaiveDate) -> i64 {
    month.checked_add_months(CalendarMonths::new(1)).map_or(i64::MAX, midnight)
}

/// `2026-08`.
fn first_day(folder: &str) -> Option<NaiveDate> {
    let day = NaiveDate::parse_from_str(&format!("{folder}-01"), "%Y-%m-%d").ok()?;
    (day.format("%Y-%m").to_string() == folder).then_some(day)
}

/// Goes on over a month's events of one chain; returns how many they are, or what is wrong.
fn follow(bytes: &[u8], followed: &mut Followed, month: NaiveDate, known: &Known<'_>) -> Result<u64, String> {
    let mut lines = BufReader::new(GzDecoder::new(bytes));
    let mut events = 0;
    loop {
        let mut line = Vec::new();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.map_err(|_| "cannot be inflated")? == 0 {
            return Ok(events);
        }
        let event: ChainedEvent =
            serde_json::from_slice(&line).map_err(|_| format!("has something else than event {}", events + 1))?;
        if !(midnight(month)..end_of(month)).contains(&event.occurred_at) {
            return Err(format!("holds event {} of another month", event.sequence));
        }
        let breaks = |broken: Break| format!("breaks: {broken}");
        followed.follow(&event).map_err(breaks)?;
        for (witness, hash) in known.get(&(&followed.chain, followed.sequence)).into_iter().flatten() {
            let hash = hex::decode(hash).unwrap_or_default();
            followed.ends_at(followed.sequence, &hash, witness).map_err(breaks)?;
        }
        events += 1;
    }
}
