//! The recount: a set of what was seen and a map of what it came to.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::declared::Rules;
use crate::event::{Unit, account_of_object};
use crate::exports::{self, Origin};
use crate::facts::{Fact, Facts, Mark};
use crate::forms::{Door, Judged, Outcome};
use crate::number::Number;
use crate::object::{content, records_of_content};

/// Where a unit is counted: meter, account and hour. Regions and categories do not tell units apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The meter's name.
    pub meter: String,
    /// 12 digits.
    pub account: String,
    /// As `2026-10-01T13`.
    pub hour: String,
}

/// What was read so far, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recount {
    /// Objects read.
    pub objects: u64,
    /// Records read: counted, duplicates, not counted and dead letters together.
    pub read: u64,
    /// Units that were known before.
    pub duplicates: u64,
    /// Not counted, by kind.
    pub not_counted: BTreeMap<&'static str, u64>,
    /// Dead letters, by reason.
    pub dead_letters: BTreeMap<&'static str, u64>,
    /// Facts that were new, or higher than what stood, where a record is about nothing else.
    pub stated: u64,
    /// The facts that stand.
    pub facts: Facts,
    rules: Rules,
    /// The set: identities by where they count, each with the region and category of its first copy.
    seen: BTreeMap<Line, BTreeMap<[u8; 16], (String, String)>>,
}

impl Recount {
    /// A recount that is told which sources count and which meters are data.
    pub fn under(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Reads one object as stored. `now` in microseconds since 1970. Returns what became of each of its records.
    pub fn add_object(&mut self, name: &str, stored: &[u8], now: i64) -> Vec<Judged> {
        self.add_object_written_at(name, stored, None, now)
    }

    /// Reads one object of which it is known when it was written (microseconds since 1970): the edition of an export whose name
    /// does not say.
    pub fn add_object_written_at(
        &mut self,
        name: &str,
        stored: &[u8],
        written_at: Option<i64>,
        now: i64,
    ) -> Vec<Judged> {
        self.objects += 1;
        let (content, fault) = content(stored);
        let judged = match exports::read(&content, fault, Origin { name, written_at }, &self.rules, now) {
            Some(export) => {
                for (edition, rows) in export.ends {
                    self.facts.end_export(edition, rows);
                }
                export.judged
            }
            None => {
                let object_account = account_of_object(name);
                let mut door = Door { rules: &self.rules, now, object_account, judged: Vec::new() };
                for record in records_of_content(&content, fault) {
                    door.judge(&record, 0);
                }
                door.judged
            }
        };
        for Judged { outcome, beside } in &judged {
            self.read += 1;
            match outcome {
                Outcome::Counts(unit) => {
                    self.duplicates += u64::from(!self.add(unit.clone()));
                }
                Outcome::States(facts) => {
                    let is_new = self.state(facts);
                    self.stated += u64::from(is_new);
                    self.duplicates += u64::from(!is_new);
                }
                Outcome::NotCounted(kind) => *self.not_counted.entry(kind).or_default() += 1,
                Outcome::DeadLetter(reason) => *self.dead_letters.entry(reason).or_default() += 1,
            }
            for outcome in beside {
                match outcome {
                    Outcome::Counts(unit) => {
                        self.add(unit.clone());
                    }
                    Outcome::States(facts) => {
                        self.state(facts);
                    }
                    Outcome::NotCounted(_) | Outcome::DeadLetter(_) => {}
                }
            }
        }
        judged
    }

    /// Whether the first of the facts is new, or higher than what stood.
    fn state(&mut self, facts: &[Fact]) -> bool {
        let mut new = facts.iter().map(|fact| self.facts.add(fact.clone())).collect::<Vec<_>>().into_iter();
        new.next().unwrap_or(false)
    }

    /// What facts come to in each of these hours, and the facts that bear on it.
    pub fn fact_lines(&self, from: i64, until: i64) -> BTreeMap<Line, (Number, Vec<Mark>)> {
        self.facts.lines(from, until, &self.rules.meters)
    }

    /// What facts come to in the hours from `from` and before `until` (microseconds since 1970), in raw units.
    pub fn fact_totals(&self, from: i64, until: i64) -> BTreeMap<Line, Number> {
        self.facts.totals(from, until, &self.rules.meters)
    }

    /// Counts a unit; `false` if it was known.
    pub fn add(&mut self, unit: Unit) -> bool {
        let Unit { meter, account, hour, identity, region, category } = unit;
        let seen = self.seen.entry(Line { meter, account, hour }).or_default();
        if seen.contains_key(&identity) {
            return false;
        }
        seen.insert(identity, (region, category));
        true
    }

    /// How many units are counted.
    pub fn counted(&self) -> u64 {
        self.seen.values().map(|seen| seen.len() as u64).sum()
    }

    /// The map: what each line came to.
    pub fn totals(&self) -> BTreeMap<Line, u64> {
        self.seen.iter().map(|(line, seen)| (line.clone(), seen.len() as u64)).collect()
    }

    /// What each line came to by the region and category of the first copies, in the order they were read.
    pub fn totals_by_dimensions(&self) -> BTreeMap<(Line, String, String), u64> {
        let mut totals = BTreeMap::new();
        for (line, seen) in &self.seen {
            for (region, category) in seen.values() {
                *totals.entry((line.clone(), region.clone(), category.clone())).or_default() += 1;
            }
        }
        totals
    }

    /// The identities of a line, sorted; none for a line without usage.
    pub fn identities(&self, line: &Line) -> BTreeSet<[u8; 16]> {
        self.seen.get(line).map(|seen| seen.keys().copied().collect()).unwrap_or_default()
    }

    /// SHA-256 over the sorted identities of a line, 16 bytes each.
    pub fn identities_sha256(&self, line: &Line) -> [u8; 32] {
        identities_sha256(&self.identities(line))
    }
}

/// SHA-256 over sorted identities, 16 bytes each.
pub fn identities_sha256(identities: &BTreeSet<[u8; 16]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for identity in identities {
        hash.update(identity);
    }
    hash.finalize().into()
}
