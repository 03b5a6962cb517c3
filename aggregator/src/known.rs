//! What a partition's log says, loaded.

use std::collections::HashMap;

use ingest::{AccountId, CounterKey, Identity, Meter, SliceId, Window};
use thiserror::Error;

use crate::entry::{Content, Entry, EntryFact, EntryGroup};
use crate::facts::FactVersion;
use crate::partition::Partition;

mod facts;

use facts::KnownFacts;

/// The state a log adds up to. Changes only by entries that are in the store.
#[derive(Clone, Debug)]
pub struct Known {
    partition: Partition,
    version: u64,
    is_split: bool,
    /// Which slice each identity was counted from.
    identities: HashMap<(u32, Identity), u32>,
    /// Identities are told apart by meter and account, not by dimensions: the first copy sets those.
    scopes: HashMap<(Meter, AccountId), u32>,
    slices: Vec<SliceId>,
    slice_positions: HashMap<SliceId, u32>,
    totals: HashMap<CounterKey, u64>,
    facts: KnownFacts,
}

/// The log contradicts itself: nothing may be counted on it until an operator has looked. Stop.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Untrusted {
    /// Versions are not contiguous from 1.
    #[error("partition {partition}: entry {expected} is missing, entry {found} stands in its place")]
    Gap {
        /// Which log.
        partition: Partition,
        /// The version that belongs there.
        expected: u64,
        /// The version that was read.
        found: u64,
    },
    /// Entries that were seen before are not there any more.
    #[error("partition {partition}: entry {missing} is missing, the log ends before it and went up to entry {through}")]
    EndsEarly {
        /// Which log.
        partition: Partition,
        /// The first that is missing.
        missing: u64,
        /// The last that was seen.
        through: u64,
    },
    /// A running total is not the number of identities so far.
    #[error("partition {partition}: version {version} says {stored} for a counter that has {counted}")]
    WrongTotal {
        /// Which log.
        partition: Partition,
        /// In which entry.
        version: u64,
        /// The total as stored.
        stored: u64,
        /// The total by counting.
        counted: u64,
    },
    /// An identity stands in the log twice, or behind its end, or its sources do not add up; or a fact stands where it
    /// cannot: in another day's log, below one it should be above, or with another content than its hash says.
    #[error("partition {partition}: version {version} cannot follow what is before it")]
    Impossible {
        /// Which log.
        partition: Partition,
        /// In which entry.
        version: u64,
    },
}

impl Known {
    /// A log without entries.
    pub fn empty(partition: Partition) -> Self {
        Self {
            partition,
            version: 0,
            is_split: false,
            identities: HashMap::new(),
            scopes: HashMap::new(),
            slices: Vec::new(),
            slice_positions: HashMap::new(),
            totals: HashMap::new(),
            facts: KnownFacts::default(),
        }
    }

    /// Which log this is.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// The last entry's version; 0 for none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether unknown identities belong to the children.
    pub fn is_split(&self) -> bool {
        self.is_split
    }

    /// How many identities are counted here, and facts stated.
    pub fn identities(&self) -> usize {
        self.identities.len() + self.facts.len()
    }

    /// Which slice an identity was counted from, if it was.
    pub fn counted_from(&self, meter: Meter, account: AccountId, identity: Identity) -> Option<SliceId> {
        let scope = *self.scopes.get(&(meter, account))?;
        self.identities.get(&(scope, identity)).map(|&position| self.slices[position as usize])
    }

    /// The version of the fact that stands under a key.
    pub fn standing(&self, key: &Identity) -> Option<FactVersion> {
        self.facts.standing(key)
    }

    /// Which slice a version of a fact was stated from, if it was.
    pub fn stated_from(&self, key: &Identity, version: FactVersion) -> Option<SliceId> {
        self.facts.stated_from(key, version).map(|position| self.slices[position as usize])
    }

    /// A counter's total in this partition.
    pub fn total(&self, counter: &CounterKey) -> u64 {
        self.totals.get(counter).copied().unwrap_or_default()
    }

    /// Every counter with its total.
    pub fn totals(&self) -> impl Iterator<Item = (&CounterKey, u64)> {
        self.totals.iter().map(|(counter, &total)| (counter, total))
    }

    /// Memory this takes, in bytes, roughly.
    pub fn bytes(&self) -> usize {
        512 + self.identities.capacity() * 28 + self.slices.len() * 64 + self.totals.len() * 160 + self.facts.bytes()
    }

    /// Takes in the next entry, checked against what is before it. After an error the state is of no use.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Untrusted> {
        let version = entry.version;
        let impossible = || Untrusted::Impossible { partition: self.partition.clone(), version };
        let expected = self.version + 1;
        if version != expected {
            return Err(Untrusted::Gap { partition: self.partition.clone(), expected, found: version });
        }
        if self.is_split {
            return Err(impossible());
        }
        let is_of_window = match &entry.content {
            Content::Counted { .. } => matches!(self.partition.window, Window::Hour(_)),
            Content::Stated { .. } => matches!(self.partition.window, Window::Day(_)),
            Content::Split => true,
        };
        if !is_of_window {
            return Err(impossible());
        }
        match &entry.content {
            Content::Split => self.is_split = true,
            Content::Counted { slices, groups } => self.count(version, slices, groups)?,
            Content::Stated { slices, facts } => self.state(version, slices, facts)?,
        }
        self.version = version;
        Ok(())
    }

    fn count(&mut self, version: u64, slices: &[SliceId], groups: &[EntryGroup]) -> Result<(), Untrusted> {
        let partition = self.partition.clone();
        let impossible = || Untrusted::Impossible { partition: partition.clone(), version };
        let positions: Vec<u32> = slices.iter().map(|slice| self.position_of(*slice)).collect();
        for group in groups {
            let counted = self.total(&group.counter) + group.identities.len() as u64;
            if counted != group.total {
                return Err(Untrusted::WrongTotal { partition, version, stored: group.total, counted });
            }
            let scope = self.scope_of(group.counter.meter, group.counter.account);
            let sourced: usize = group.sources.iter().map(|&(_, count)| usize::from(count)).sum();
            if sourced != group.identities.len() {
                return Err(impossible());
            }
            for (slice, identity) in group.by_slice() {
                let position = positions.get(usize::from(slice)).copied().ok_or_else(impossible)?;
                if self.identities.insert((scope, *identity), position).is_some() {
                    return Err(impossible());
                }
            }
            self.totals.insert(group.counter.clone(), counted);
        }
        Ok(())
    }

    fn state(&mut self, version: u64, slices: &[SliceId], facts: &[EntryFact]) -> Result<(), Untrusted> {
        let positions: Vec<u32> = slices.iter().map(|slice| self.position_of(*slice)).collect();
        for stated in facts {
            let Partition { bucket, window, .. } = self.partition;
            let is_here = (stated.fact.key.account.bucket(), Window::Day(stated.fact.day())) == (bucket, window);
            let position = positions.get(usize::from(stated.slice)).filter(|_| is_here);
            if !position.is_some_and(|&position| self.facts.add(stated, position)) {
                return Err(Untrusted::Impossible { partition: self.partition.clone(), version });
            }
        }
        Ok(())
    }

    fn position_of(&mut self, slice: SliceId) -> u32 {
        let next = u32::try_from(self.slices.len()).expect("a partition splits long before 2^32 slices");
        *self.slice_positions.entry(slice).or_insert_with(|| {
            self.slices.push(slice);
            next
        })
    }

    fn scope_of(&mut self, meter: Meter, account: AccountId) -> u32 {
        let next = u32::try_from(self.scopes.len()).expect("a partition splits long before 2^32 accounts");
        *self.scopes.entry((meter, account)).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use ingest::{Dimensions, FactKey, FactValue, Quantity, RunId, Timestamp, UsageFact};

    use super::*;
    use crate::entry::{CommitId, EntryGroup};

    fn partition() -> Partition {
        Partition::parse("05/2026-10-01T13").unwrap()
    }

    /// Identities of the first slice, counted under a region.
    fn counted(version: u64, region: &'static str, identities: &[u8], total: u64) -> Entry {
        let group = EntryGroup {
            counter: CounterKey {
                meter: Meter::CloudTrailEvents,
                account: AccountId::parse("000000000012").unwrap(),
                dimensions: Dimensions { region: region.into(), category: "Management".into() },
            },
            total,
            identities: identities.iter().map(|id| Identity::from_bytes([*id; 16])).collect(),
            sources: vec![(0, u16::try_from(identities.len()).unwrap())],
        };
        let slices = vec![SliceId { run: RunId::from_bytes([1; 16]), number: 0 }];
        entry(version, Content::Counted { slices, groups: vec![group] })
    }

    fn entry(version: u64, content: Content) -> Entry {
        Entry { version, commit: CommitId([7; 16]), content }
    }

    fn fact(time: &str, revision: u64) -> EntryFact {
        let account = AccountId::parse("000000000012").unwrap();
        let time = Timestamp::parse_rfc3339(time).unwrap();
        let fact = UsageFact {
            key: FactKey { meter: Meter::NatGatewayBytes, account, resource: "r".into(), time, export: None },
            revision,
            dimensions: Dimensions { region: "r1".into(), category: "none".into() },
            end: None,
            value: FactValue::Amount(Quantity::whole(revision.into())),
        };
        EntryFact { hash: fact.content_hash(), fact, slice: 0 }
    }

    fn stated(version: u64, facts: &[EntryFact]) -> Entry {
        let slices = vec![SliceId { run: RunId::from_bytes([1; 16]), number: 0 }];
        entry(version, Content::Stated { slices, facts: facts.to_vec() })
    }

    /// Applies a log of facts and says whether the last entry is impossible.
    fn check_facts(log: &[Entry], is_possible: bool) {
        let bucket = AccountId::parse("000000000012").unwrap().bucket();
        let partition = Partition::parse(&format!("{:02}/2026-10-01", bucket.number())).unwrap();
        let mut known = Known::empty(partition.clone());
        let (last, before) = log.split_last().unwrap();
        for entry in before {
            known.apply(entry).unwrap();
        }
        let impossible = Err(Untrusted::Impossible { partition, version: last.version });
        assert_eq!(known.apply(last), if is_possible { Ok(()) } else { impossible }, "{log:?}");
    }

    #[test]
    fn a_log_of_facts_states_each_higher_than_the_one_before_it_and_where_it_belongs() {
        let first = fact("2026-10-01T12:00:00Z", 1);
        let one = stated(1, std::slice::from_ref(&first));
        check_facts(
            &[one.clone(), stated(2, &[fact("2026-10-01T12:00:00Z", 2), fact("2026-10-01T13:00:00Z", 0)])],
            true,
        );
        check_facts(&[one.clone(), entry(2, Content::Split)], true);
        check_facts(&[one.clone(), stated(2, std::slice::from_ref(&first))], false);
        check_facts(&[one.clone(), stated(2, &[fact("2026-10-01T12:00:00Z", 0)])], false);
        check_facts(&[one.clone(), entry(2, Content::Split), stated(3, &[fact("2026-10-01T12:00:00Z", 2)])], false);
        check_facts(&[stated(1, &[fact("2026-10-02T12:00:00Z", 1)])], false);
        check_facts(&[stated(1, &[EntryFact { slice: 1, ..first.clone() }])], false);
        let mut altered = first;
        altered.fact.value = FactValue::Amount(Quantity::whole(99));
        check_facts(&[stated(1, &[altered])], false);
        check_facts(&[counted(1, "r1", &[1], 1)], false);
        check(&[stated(1, &[])], Err(Untrusted::Impossible { partition: partition(), version: 1 }));
    }

    fn with_sources(mut entry: Entry, sources: &[(u16, u16)]) -> Entry {
        if let Content::Counted { groups, .. } = &mut entry.content {
            groups[0].sources = sources.to_vec();
        }
        entry
    }

    /// Applies a log and says what the last entry came to.
    fn check(log: &[Entry], expected: Result<(), Untrusted>) {
        let mut known = Known::empty(partition());
        let (last, before) = log.split_last().unwrap();
        for entry in before {
            known.apply(entry).unwrap();
        }
        assert_eq!(known.apply(last), expected, "{log:?}");
    }

    #[test]
    fn a_log_that_adds_up_is_taken_in() {
        let log = [counted(1, "r1", &[1, 2], 2), counted(2, "r2", &[3], 1), counted(3, "r1", &[4], 3)];
        check(&log, Ok(()));
        check(&[counted(1, "r1", &[1], 1), entry(2, Content::Split)], Ok(()));
    }

    #[test]
    fn a_log_that_contradicts_itself_is_not_trusted() {
        let first = counted(1, "r1", &[1, 2], 2);
        let impossible = |version| Err(Untrusted::Impossible { partition: partition(), version });
        let gap = |expected, found| Err(Untrusted::Gap { partition: partition(), expected, found });
        let wrong_total =
            |stored, counted| Err(Untrusted::WrongTotal { partition: partition(), version: 2, stored, counted });
        check(&[counted(2, "r1", &[1], 1)], gap(1, 2));
        check(&[first.clone(), counted(3, "r1", &[3], 3)], gap(2, 3));
        check(&[first.clone(), first.clone()], gap(2, 1));
        check(&[first.clone(), counted(2, "r1", &[3], 2)], wrong_total(2, 3));
        check(&[first.clone(), counted(2, "r1", &[3], 4)], wrong_total(4, 3));
        check(&[first.clone(), counted(2, "r2", &[3], 3)], wrong_total(3, 1));
        check(&[first.clone(), counted(2, "r1", &[2], 3)], impossible(2));
        // An identity counts once whatever its dimensions are.
        check(&[first.clone(), counted(2, "r2", &[2], 1)], impossible(2));
        check(&[counted(1, "r1", &[1, 1], 2)], impossible(1));
        check(&[entry(1, Content::Split), counted(2, "r1", &[1], 1)], impossible(2));
        check(&[entry(1, Content::Split), entry(2, Content::Split)], impossible(2));
        for sources in [&[][..], &[(0, 1)], &[(0, 3)], &[(1, 2)], &[(0, 1), (9, 1)]] {
            check(&[with_sources(first.clone(), sources)], impossible(1));
        }
    }
}
