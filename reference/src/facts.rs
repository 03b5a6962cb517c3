//! Facts: a keyed map in which the highest (revision, content hash) stands, and what stands comes to.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::event::first_16;
use crate::number::Number;
use crate::recount::Line;
use crate::time::{HOUR, hour, written};

/// How the values of a meter add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adds {
    /// Amounts, each in the hour it begins in.
    Sum,
    /// The highest level of a resource in an hour.
    Max,
    /// Levels times the seconds they last; farther apart than this many seconds they are not known to have lasted.
    OverTime {
        /// The longest gap.
        gap_seconds: i64,
    },
    /// Seconds from live to gone.
    Interval,
}

impl Adds {
    /// How a meter that is no data adds up; counts that come as samples or rows are sums.
    pub(crate) fn of(meter: &str) -> Option<Self> {
        Some(match meter {
            "cloudtrail_events" | "guardduty_findings" | "security_hub_findings" | "config_rule_evaluations" => {
                Self::Sum
            }
            "nat_gateway_bytes" | "data_transfer_bytes" => Self::Sum,
            "log_storage_gb" | "archive_storage_gb" => Self::OverTime { gap_seconds: 48 * 3600 },
            "accounts" | "organizational_units" | "service_control_policies" => Self::Interval,
            _ => return None,
        })
    }
}

/// Whether a meter is no data: its rules are in the program.
pub fn is_built_in(meter: &str) -> bool {
    Adds::of(meter).is_some()
}

/// One statement about a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub key: Key,
    /// A higher one corrects a lower one.
    pub revision: u64,
    /// `none` where it has none.
    pub region: String,
    /// `none` where it has none.
    pub category: String,
    /// Where the stretch ends, in microseconds since 1970.
    pub end: Option<i64>,
    /// What it says.
    pub says: Says,
}

/// What a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The meter's name.
    pub meter: String,
    /// 12 digits.
    pub account: String,
    /// Which resource of the account.
    pub resource: String,
    /// Microseconds since 1970.
    pub time: i64,
    /// The export it is a row of, and which edition.
    pub export: Option<(String, u64)>,
}

/// What a fact says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// So much in the stretch that begins then.
    Amount(Number),
    /// So much then.
    Level(Number),
    /// Live from then on.
    Live,
    /// Not live from then on.
    Gone,
}

impl Key {
    /// The key hashed.
    pub fn identity(&self) -> [u8; 16] {
        let (scope, edition) = match &self.export {
            Some((scope, edition)) => (scope.clone(), edition.to_string()),
            None => (String::new(), String::new()),
        };
        let time = written(self.time);
        hashed(&[&self.meter, &self.account, &self.resource, &time, &scope, &edition])
    }

    /// The line its time lies in.
    pub fn line(&self) -> Line {
        Line { meter: self.meter.clone(), account: self.account.clone(), hour: hour(self.time) }
    }
}

impl Fact {
    /// What it says, hashed.
    pub fn content_hash(&self) -> [u8; 16] {
        let (kind, number) = match &self.says {
            Says::Amount(number) => ("amount", number.to_string()),
            Says::Level(number) => ("level", number.to_string()),
            Says::Live => ("live", String::new()),
            Says::Gone => ("gone", String::new()),
        };
        let end = self.end.map_or_else(String::new, written);
        hashed(&[&self.region, &self.category, &end, kind, &number])
    }

    /// What evidence hashes of it.
    pub fn mark(&self) -> Mark {
        let value = match &self.says {
            Says::Amount(number) => format!("amount {number}"),
            Says::Level(number) => format!("level {number}"),
            Says::Live => "live".to_owned(),
            Says::Gone => "gone".to_owned(),
        };
        (self.key.identity(), self.revision, self.key.time, value)
    }

    /// Whether a store can keep it: what holds for every fact, whatever its source.
    pub(crate) fn is_sound(&self) -> bool {
        let level = match &self.says {
            Says::Level(level) => Some(level),
            _ => None,
        };
        is_name(&self.key.resource)
            && self.revision <= i64::MAX as u64
            && self.end.is_none_or(|end| self.key.time < end)
            && level.is_none_or(|level| !level.is_negative() && level.decimals() <= 12)
    }
}

/// Whether a text can name a resource.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=512).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn hashed(texts: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text);
        hash.update([0]);
    }
    first_16(&hash.finalize())
}

/// The facts that stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    standing: BTreeMap<Key, Fact>,
    /// How many rows each edition that was read to its end has.
    ends: BTreeMap<(String, u64), u64>,
}

impl Facts {
    /// Adds one; `false` if what stands is as high.
    pub fn add(&mut self, fact: Fact) -> bool {
        let version = |fact: &Fact| (fact.revision, fact.content_hash());
        if self.standing.get(&fact.key).is_some_and(|known| version(&fact) <= version(known)) {
            return false;
        }
        self.standing.insert(fact.key.clone(), fact);
        true
    }

    pub(crate) fn end_export(&mut self, export: (String, u64), rows: u64) {
        let known = self.ends.entry(export).or_default();
        *known = rows.max(*known);
    }

    /// Every fact that stands, in force or not.
    pub fn standing(&self) -> impl Iterator<Item = &Fact> {
        self.standing.values()
    }

    /// The editions that count: of each export and period the highest that was read to its end and has its rows.
    fn in_force(&self) -> BTreeMap<&str, u64> {
        let mut rows = BTreeMap::<(&str, u64), u64>::new();
        for fact in self.standing.values() {
            if let Some((scope, edition)) = &fact.key.export {
                *rows.entry((scope, *edition)).or_default() += 1;
            }
        }
        let mut best = BTreeMap::<&str, u64>::new();
        for ((scope, edition), expected) in &self.ends {
            if *expected <= rows.get(&(scope.as_str(), *edition)).copied().unwrap_or(0) {
                let known = best.entry(scope).or_insert(*edition);
                *known = (*edition).max(*known);
            }
        }
        best
    }

    /// The facts in force, those of one resource of a meter and account together, in order of time.
    fn series(&self) -> BTreeMap<(&str, &str, &str), Vec<&Fact>> {
        let in_force = self.in_force();
        let mut series = BTreeMap::<_, Vec<&Fact>>::new();
        for fact in self.standing.values() {
            let Key { meter, account, resource, export, .. } = &fact.key;
            if export.as_ref().is_none_or(|(scope, edition)| in_force.get(scope.as_str()) == Some(edition)) {
                series.entry((meter.as_str(), account.as_str(), resource.as_str())).or_default().push(fact);
            }
        }
        for facts in series.values_mut() {
            facts.sort_by_key(|fact| fact.key.time);
        }
        series
    }

    /// What every hour from `from` and before `until` came to (microseconds since 1970), in raw units, with the facts that
    /// bear on the hour. `meters` are those that are data.
    pub fn lines(&self, from: i64, until: i64, meters: &BTreeMap<String, Adds>) -> BTreeMap<Line, (Number, Vec<Mark>)> {
        let mut found = BTreeMap::<Line, (Number, Vec<Mark>)>::new();
        for ((meter, account, _), facts) in self.series() {
            let how = Adds::of(meter).or_else(|| meters.get(meter).copied());
            let mut hours = BTreeMap::<i64, Number>::new();
            for (at, share) in shares(how, &facts, from, until) {
                *hours.entry(at.div_euclid(HOUR) * HOUR).or_default() += &share;
            }
            for (begin, share) in hours {
                let line = Line { meter: meter.to_owned(), account: account.to_owned(), hour: hour(begin) };
                let (total, marks) = found.entry(line).or_default();
                *total += &share;
                // What is of the hour, and the last before it that is no amount.
                let is_before = |fact: &&&Fact| fact.key.time < begin && !matches!(fact.says, Says::Amount(_));
                let is_within = |fact: &&&Fact| begin <= fact.key.time && fact.key.time < begin + HOUR;
                let before = facts.iter().rfind(is_before);
                marks.extend(before.into_iter().chain(facts.iter().filter(is_within)).map(|fact| fact.mark()));
            }
        }
        found
    }

    /// The totals of [`Self::lines`]; those that come to nothing are left out.
    pub fn totals(&self, from: i64, until: i64, meters: &BTreeMap<String, Adds>) -> BTreeMap<Line, Number> {
        let lines = self.lines(from, until, meters).into_iter().map(|(line, (total, _))| (line, total));
        lines.filter(|(_, total)| !total.is_zero()).collect()
    }
}

/// Key, revision, time in microseconds since 1970, and value of a fact, as evidence hashes them.
pub type Mark = ([u8; 16], u64, i64, String);

/// The hash that evidence has of these facts, in whatever order.
pub fn marks_sha256(mut marks: Vec<Mark>) -> [u8; 32] {
    marks.sort();
    let mut hash = Sha256::new();
    for (key, revision, time, value) in marks {
        hash.update(key);
        hash.update(revision.to_be_bytes());
        hash.update(time.to_be_bytes());
        hash.update(value);
        hash.update([0]);
    }
    hash.finalize().into()
}

/// What the facts of one resource add to which hours, also where it is nothing: an instant of the hour and a number.
fn shares(how: Option<Adds>, facts: &[&Fact], from: i64, until: i64) -> Vec<(i64, Number)> {
    let mut shares = match how {
        Some(Adds::OverTime { gap_seconds }) => over_time(facts, gap_seconds, from, until),
        Some(Adds::Max) => highest(facts, from, until),
        Some(Adds::Interval) => live(facts, from, until),
        Some(Adds::Sum) | None => Vec::new(),
    };
    for fact in facts {
        if let Says::Amount(amount) = &fact.says
            && from <= fact.key.time
            && fact.key.time < until
        {
            shares.push((fact.key.time, amount.clone()));
        }
    }
    shares
}

/// A level lasts until the next one that is near enough, or until its own end; nothing lasts however long.
fn over_time(facts: &[&Fact], gap_seconds: i64, from: i64, until: i64) -> Vec<(i64, Number)> {
    let mut shares = Vec::new();
    let levels = facts.iter().filter_map(|fact| match &fact.says {
        Says::Level(level) => Some((fact.key.time, fact.end, level)),
        _ => None,
    });
    let levels: Vec<_> = levels.collect();
    for (position, (time, end, level)) in levels.iter().enumerate() {
        let next = levels.get(position + 1).map(|(next, _, _)| *next);
        let stated = end.unwrap_or(*time).min(next.unwrap_or(i64::MAX));
        let lasts = match next {
            Some(next) if level.is_zero() || next <= stated + gap_seconds * 1_000_000 => next,
            _ => stated,
        };
        shares.extend(hours(*time, lasts, from, until).map(|(at, micros)| (at, level.for_micros(micros))));
    }
    shares
}

/// The highest level of each hour.
fn highest(facts: &[&Fact], from: i64, until: i64) -> Vec<(i64, Number)> {
    let mut highest = BTreeMap::<i64, Number>::new();
    for fact in facts {
        if let Says::Level(level) = &fact.says
            && from <= fact.key.time
            && fact.key.time < until
        {
            let of_hour = highest.entry(fact.key.time.div_euclid(HOUR) * HOUR).or_insert_with(|| level.clone());
            *of_hour = level.clone().max(of_hour.clone());
        }
    }
    highest.into_iter().collect()
}

/// Seconds from the first time it is live to the first time it is gone, and so on; what is not gone is live until the end.
fn live(facts: &[&Fact], from: i64, until: i64) -> Vec<(i64, Number)> {
    let mut shares = Vec::new();
    let mut since = None;
    let mut lived = |start: i64, end: i64| {
        shares.extend(hours(start, end, from, until).map(|(at, micros)| (at, Number::whole(1).for_micros(micros))));
    };
    for fact in facts {
        match (&fact.says, since) {
            (Says::Live, None) => since = Some(fact.key.time),
            (Says::Gone, Some(start)) => {
                lived(start, fact.key.time);
                since = None;
            }
            _ => {}
        }
    }
    if let Some(start) = since {
        lived(start, until);
    }
    shares
}

/// The hours of a stretch within bounds, each with how many microseconds of it.
fn hours(start: i64, end: i64, from: i64, until: i64) -> impl Iterator<Item = (i64, i64)> {
    let (mut at, end) = (start.max(from), end.min(until));
    std::iter::from_fn(move || {
        let begin = at;
        if end <= begin {
            return None;
        }
        at = end.min((begin.div_euclid(HOUR) + 1) * HOUR);
        Some((begin, at - begin))
    })
}
