//! Usage events and facts of one reading, packed by where they will be counted.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::{
    AccountId, Bucket, Day, Dimensions, Hour, Identity, Meter, Statement, Timestamp, UsageEvent, UsageFact, Window,
};

/// One reading of a source object or delivery. Random, made at the edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId([u8; 16]);

impl RunId {
    /// The run with these random bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// Writes 32 lower-case hexadecimal digits.
impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names a slice: which run it belongs to and its number there, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceId {
    /// The reading it came from.
    pub run: RunId,
    /// Its number within the run, from 0.
    pub number: u32,
}

impl SliceId {
    /// What a dead letter of the slice has in place of an object's name.
    pub fn letter_name(&self) -> String {
        format!("{SLICE}{}/{}", self.run, self.number)
    }

    /// The slice that a name of a dead letter, or of a replay of one, stands for; `None`: it is an object's.
    pub fn of_letter_name(name: &str) -> Option<Self> {
        let (run, number) = name.strip_prefix(SLICE)?.split_once('/')?;
        Some(Self { run: RunId::parse(run)?, number: number.parse().ok()? })
    }
}

const SLICE: &str = "slice:";

/// What one run has for one partition: a bucket's hour of counts, or a bucket's day of facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub id: SliceId,
    /// The bucket of every account in it.
    pub bucket: Bucket,
    /// What is in it.
    pub content: SliceContent,
}

/// What is in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SliceContent {
    /// Usage events.
    Counts {
        /// The hour of every event in it.
        hour: Hour,
        /// Its events by counter, in counter order.
        groups: Vec<SliceGroup>,
    },
    /// Usage facts.
    Facts {
        /// The day of every fact in it.
        day: Day,
        /// Its facts in order of their keys; of facts with one key in order of reading.
        facts: Vec<SliceFact>,
    },
}

/// A fact on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFact {
    /// What it says.
    pub fact: UsageFact<'static>,
    /// Whether it stands for its record in the balance. The others of a record go beside its event, or its first fact.
    pub is_primary: bool,
}

/// The events of a slice that belong to one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceGroup {
    /// Which counter.
    pub counter: CounterKey,
    /// One identity an event, duplicates within the run included, in order of reading.
    pub identities: Vec<Identity>,
    /// Earliest event time among them.
    pub first: Timestamp,
    /// Latest event time among them.
    pub last: Timestamp,
}

/// Names a counter within its hour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey {
    /// What is counted.
    pub meter: Meter,
    /// For whom.
    pub account: AccountId,
    /// How it is split.
    pub dimensions: Dimensions<'static>,
}

impl Slice {
    /// Most identities in a slice: its stream form stays below a quarter of a Kinesis record.
    pub const IDENTITIES_MAX: usize = 8_192;

    /// Most counters in a slice: even with the longest dimensions it stays below one Kinesis record of 1 MiB.
    pub const GROUPS_MAX: usize = 512;

    /// Most facts in a slice: even with the longest names it stays below one Kinesis record of 1 MiB.
    pub const FACTS_MAX: usize = 256;

    /// A slice of usage events.
    pub fn of_counts(id: SliceId, bucket: Bucket, hour: Hour, groups: Vec<SliceGroup>) -> Self {
        Self { id, bucket, content: SliceContent::Counts { hour, groups } }
    }

    /// A slice of usage facts.
    pub fn of_facts(id: SliceId, bucket: Bucket, day: Day, facts: Vec<SliceFact>) -> Self {
        Self { id, bucket, content: SliceContent::Facts { day, facts } }
    }

    /// The window of its partition.
    pub fn window(&self) -> Window {
        match self.content {
            SliceContent::Counts { hour, .. } => Window::Hour(hour),
            SliceContent::Facts { day, .. } => Window::Day(day),
        }
    }

    /// Its usage events by counter; none in a slice of facts.
    pub fn groups(&self) -> &[SliceGroup] {
        match &self.content {
            SliceContent::Counts { groups, .. } => groups,
            SliceContent::Facts { .. } => &[],
        }
    }

    /// Its facts; none in a slice of counts.
    pub fn facts(&self) -> &[SliceFact] {
        match &self.content {
            SliceContent::Counts { .. } => &[],
            SliceContent::Facts { facts, .. } => facts,
        }
    }

    /// Events and facts in it, companions included.
    pub fn parts(&self) -> usize {
        match &self.content {
            SliceContent::Counts { .. } => self.events(),
            SliceContent::Facts { facts, .. } => facts.len(),
        }
    }

    /// Source records it stands for in the balance: its usage events, and its facts that are no companions of others.
    pub fn events(&self) -> usize {
        match &self.content {
            SliceContent::Counts { groups, .. } => groups.iter().map(|group| group.identities.len()).sum(),
            SliceContent::Facts { facts, .. } => facts.iter().filter(|fact| fact.is_primary).count(),
        }
    }
}

/// Packs the usage events and facts of one run into slices.
///
/// Holds at most [`Packer::PENDING_MAX`] events and facts, so that an object of any size is packed in bounded memory; an
/// object below that is packed without a single slice leaving before it is read to its end.
pub struct Packer {
    run: RunId,
    next_number: u32,
    pending_events: usize,
    pending: BTreeMap<(Bucket, Window, Part), Pending>,
    beside: Vec<u32>,
}

/// Which part of its record an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    /// It stands for the record in the balance.
    Record,
    /// It goes beside what stands for the record.
    Beside,
}

#[derive(Default)]
struct Pending {
    events: usize,
    group_of: HashMap<CounterKey, usize>,
    groups: Vec<SliceGroup>,
    facts: Vec<SliceFact>,
}

impl Packer {
    /// Most events and facts held before all of them leave as slices.
    pub const PENDING_MAX: usize = 131_072;

    /// A packer for one run.
    pub fn new(run: RunId) -> Self {
        Self { run, next_number: 0, pending_events: 0, pending: BTreeMap::new(), beside: Vec::new() }
    }

    /// Slices handed out so far.
    pub fn slices(&self) -> u32 {
        self.next_number
    }

    /// The numbers of slices handed out whose events go beside records: what becomes of them is no part of the balance.
    pub fn beside_slices(&self) -> &[u32] {
        &self.beside
    }

    /// Adds one event; full slices go to `full`.
    pub fn add(&mut self, event: UsageEvent<'_>, full: &mut Vec<Slice>) {
        self.add_as(Part::Record, event, full);
    }

    /// Adds an event that its record says beside; full slices go to `full`. Such events have slices of their own.
    pub fn add_beside(&mut self, event: UsageEvent<'_>, full: &mut Vec<Slice>) {
        self.add_as(Part::Beside, event, full);
    }

    fn add_as(&mut self, part: Part, event: UsageEvent<'_>, full: &mut Vec<Slice>) {
        let place = (event.account.bucket(), Window::Hour(event.event_time.hour()), part);
        self.pending.entry(place).or_default().add(event);
        self.added(place, full);
    }

    /// Adds everything a record says; full slices go to `full`.
    pub fn add_statement(&mut self, statement: Statement<'_>, full: &mut Vec<Slice>) {
        let (event, facts) = statement.into_parts();
        let mut is_primary = event.is_none();
        if let Some(event) = event {
            self.add(event, full);
        }
        for fact in facts {
            let place = (fact.key.account.bucket(), Window::Day(fact.day()), Part::Record);
            let pending = self.pending.entry(place).or_default();
            pending.facts.push(SliceFact { fact: fact.into_owned(), is_primary });
            pending.events += 1;
            self.added(place, full);
            is_primary = false;
        }
    }

    /// Adds a fact that is no record's own; full slices go to `full`.
    pub fn add_fact_beside(&mut self, fact: UsageFact<'_>, full: &mut Vec<Slice>) {
        let place = (fact.key.account.bucket(), Window::Day(fact.day()), Part::Record);
        let pending = self.pending.entry(place).or_default();
        pending.facts.push(SliceFact { fact: fact.into_owned(), is_primary: false });
        pending.events += 1;
        self.added(place, full);
    }

    /// Lets go of what is full after something was added there.
    fn added(&mut self, place: (Bucket, Window, Part), full: &mut Vec<Slice>) {
        self.pending_events += 1;
        let is_full = self.pending.get(&place).is_some_and(Pending::is_full);
        if is_full {
            let pending = self.pending.remove(&place).unwrap_or_default();
            self.pending_events -= pending.events;
            full.push(self.slice(place, pending));
        } else if self.pending_events == Self::PENDING_MAX {
            full.extend(self.flush());
        }
    }

    /// Hands out everything held.
    pub fn flush(&mut self) -> Vec<Slice> {
        self.pending_events = 0;
        let pending = std::mem::take(&mut self.pending);
        pending.into_iter().map(|(place, pending)| self.slice(place, pending)).collect()
    }

    fn slice(&mut self, (bucket, window, part): (Bucket, Window, Part), pending: Pending) -> Slice {
        let id = SliceId { run: self.run, number: self.next_number };
        if part == Part::Beside {
            self.beside.push(id.number);
        }
        self.next_number += 1;
        let Pending { mut groups, mut facts, .. } = pending;
        match window {
            Window::Hour(hour) => {
                groups.sort_unstable_by(|a, b| a.counter.cmp(&b.counter));
                Slice::of_counts(id, bucket, hour, groups)
            }
            Window::Day(day) => {
                facts.sort_by(|a, b| a.fact.key.cmp(&b.fact.key));
                Slice::of_facts(id, bucket, day, facts)
            }
        }
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        self.facts.len() == Slice::FACTS_MAX
            || self.groups.len() == Slice::GROUPS_MAX
            || (self.facts.is_empty() && self.events == Slice::IDENTITIES_MAX)
    }

    fn add(&mut self, event: UsageEvent<'_>) {
        let UsageEvent { meter, account, identity, event_time, dimensions } = event;
        let counter = CounterKey { meter, account, dimensions: dimensions.into_owned() };
        self.events += 1;
        let position = match self.group_of.get(&counter) {
            Some(&position) => position,
            None => {
                self.group_of.insert(counter.clone(), self.groups.len());
                let empty = SliceGroup { counter, identities: Vec::new(), first: event_time, last: event_time };
                self.groups.push(empty);
                self.groups.len() - 1
            }
        };
        let group = &mut self.groups[position];
        group.identities.push(identity);
        group.first = group.first.min(event_time);
        group.last = group.last.max(event_time);
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::{FactKey, FactValue, Quantity};

    fn event(account: u8, hour: u8, region: u8, identity: u8) -> UsageEvent<'static> {
        UsageEvent {
            meter: Meter::CloudTrailEvents,
            account: AccountId::parse(&format!("{account:012}")).unwrap(),
            identity: Identity::from_bytes([identity; 16]),
            event_time: Hour::from_number(i64::from(hour)).unwrap().start().saturating_add_secs(i64::from(identity)),
            dimensions: Dimensions { region: Cow::Owned(format!("r{region}")), category: Cow::Borrowed("Management") },
        }
    }

    proptest! {
        #[test]
        fn packing_loses_nothing_and_puts_every_event_in_its_place(
            events in prop::collection::vec((0..5_u8, 0..4_u8, 0..3_u8, any::<u8>(), any::<bool>()), 0..400),
        ) {
            let mut packer = Packer::new(RunId::from_bytes([7; 16]));
            let mut slices = Vec::new();
            let mut expected = BTreeMap::<_, usize>::new();
            for &(account, hour, region, identity, is_beside) in &events {
                *expected.entry((account, hour, region, identity, is_beside)).or_default() += 1;
                let event = event(account, hour, region, identity);
                if is_beside { packer.add_beside(event, &mut slices) } else { packer.add(event, &mut slices) }
            }
            slices.extend(packer.flush());
            let mut packed = BTreeMap::<_, usize>::new();
            for (number, slice) in slices.iter().enumerate() {
                prop_assert_eq!(slice.id.number as usize, number);
                let Window::Hour(hour) = slice.window() else { panic!("a slice of counts") };
                for group in slice.groups() {
                    prop_assert_eq!(group.counter.account.bucket(), slice.bucket);
                    prop_assert!(hour == group.first.hour() && hour == group.last.hour());
                    for identity in &group.identities {
                        let account = group.counter.account.as_str().parse::<u8>().unwrap();
                        let region = group.counter.dimensions.region[1..].parse::<u8>().unwrap();
                        let hour = u8::try_from(hour.number()).unwrap();
                        let is_beside = packer.beside_slices().contains(&slice.id.number);
                        *packed.entry((account, hour, region, identity.as_bytes()[0], is_beside)).or_default() += 1;
                    }
                }
            }
            prop_assert_eq!(packed, expected);
        }
    }

    fn fact(account: u8, day: u8, resource: u8, amount: u8) -> UsageFact<'static> {
        UsageFact {
            key: FactKey {
                meter: Meter::NatGatewayBytes,
                account: AccountId::parse(&format!("{account:012}")).unwrap(),
                resource: Cow::Owned(format!("nat-{resource}")),
                time: Hour::from_number(i64::from(day) * 24 + 5).unwrap().start(),
                export: None,
            },
            revision: 0,
            dimensions: Dimensions { region: Cow::Borrowed("eu-west-1"), category: Cow::Borrowed(Dimensions::NONE) },
            end: None,
            value: FactValue::Amount(Quantity::whole(amount.into())),
        }
    }

    proptest! {
        #[test]
        fn packing_facts_loses_none_and_lets_one_part_of_each_record_stand_for_it(
            records in prop::collection::vec(
                (any::<bool>(), prop::collection::vec((0..5_u8, 0..3_u8, 0..40_u8, any::<u8>()), 1..5)), 0..300,
            ),
        ) {
            let mut packer = Packer::new(RunId::from_bytes([7; 16]));
            let (mut slices, mut expected) = (Vec::new(), Vec::new());
            for (has_event, facts) in &records {
                let mut facts: Vec<_> =
                    facts.iter().map(|&(account, day, resource, amount)| fact(account, day, resource, amount)).collect();
                expected.extend(facts.iter().cloned().enumerate().map(|(place, fact)| (fact, !has_event && place == 0)));
                let statement = if *has_event {
                    Statement::beside(event(1, 1, 1, 1), facts)
                } else {
                    let others = facts.split_off(1);
                    Statement::of_facts(facts.remove(0), others)
                };
                packer.add_statement(statement, &mut slices);
            }
            slices.extend(packer.flush());
            prop_assert_eq!(slices.iter().map(Slice::events).sum::<usize>(), records.len());
            let mut packed = Vec::new();
            for slice in &slices {
                prop_assert!(slice.facts().len() <= Slice::FACTS_MAX);
                for SliceFact { fact, is_primary } in slice.facts() {
                    let place = (fact.key.account.bucket(), Window::Day(fact.day()));
                    prop_assert_eq!((slice.bucket, slice.window()), place);
                    packed.push((fact.clone(), *is_primary));
                }
            }
            for list in [&mut packed, &mut expected] {
                list.sort_by_key(|(fact, is_primary)| (fact.key.clone(), fact.content_hash(), *is_primary));
            }
            prop_assert_eq!(packed, expected);
        }
    }

    #[test]
    fn a_slice_leaves_when_it_is_full_and_memory_stays_bounded() {
        let mut packer = Packer::new(RunId::from_bytes([1; 16]));
        let mut full = Vec::new();
        for _ in 0..=Slice::IDENTITIES_MAX {
            packer.add(event(1, 1, 1, 1), &mut full);
        }
        assert_eq!(full.iter().map(Slice::events).collect::<Vec<_>>(), [Slice::IDENTITIES_MAX]);
        assert_eq!(packer.flush().iter().map(Slice::events).collect::<Vec<_>>(), [1]);
        // Over so many accounts and hours that no slice is full before.
        for n in 0..Packer::PENDING_MAX {
            let (account, hour) = (u8::try_from(n % 100).unwrap(), u8::try_from(n / 100 % 200).unwrap());
            packer.add(event(account, hour, 1, 1), &mut full);
        }
        assert_eq!(packer.pending_events, 0, "at the limit everything leaves");
    }
}
