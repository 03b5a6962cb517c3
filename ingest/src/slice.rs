//! Usage events of one reading, packed by where they will be counted.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::{AccountId, Bucket, Dimensions, Hour, Identity, Meter, Timestamp, UsageEvent};

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

/// What one run has for one bucket and hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub id: SliceId,
    /// The bucket of every account in it.
    pub bucket: Bucket,
    /// The hour of every event in it.
    pub hour: Hour,
    /// Its events by counter, in counter order.
    pub groups: Vec<SliceGroup>,
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

    /// Events in it.
    pub fn events(&self) -> usize {
        self.groups.iter().map(|group| group.identities.len()).sum()
    }
}

/// Packs the usage events of one run into slices.
///
/// Holds at most [`Packer::PENDING_MAX`] events, so that an object of any size is packed in bounded memory; an object
/// below that is packed without a single slice leaving before it is read to its end.
pub struct Packer {
    run: RunId,
    next_number: u32,
    pending_events: usize,
    pending: BTreeMap<(Bucket, Hour), Pending>,
}

#[derive(Default)]
struct Pending {
    events: usize,
    group_of: HashMap<CounterKey, usize>,
    groups: Vec<SliceGroup>,
}

impl Packer {
    /// Most events held before all of them leave as slices.
    pub const PENDING_MAX: usize = 131_072;

    /// A packer for one run.
    pub fn new(run: RunId) -> Self {
        Self { run, next_number: 0, pending_events: 0, pending: BTreeMap::new() }
    }

    /// Slices handed out so far.
    pub fn slices(&self) -> u32 {
        self.next_number
    }

    /// Adds one event; full slices go to `full`.
    pub fn add(&mut self, event: UsageEvent<'_>, full: &mut Vec<Slice>) {
        let place = (event.account.bucket(), event.event_time.hour());
        let pending = self.pending.entry(place).or_default();
        pending.add(event);
        self.pending_events += 1;
        if pending.events == Slice::IDENTITIES_MAX || pending.groups.len() == Slice::GROUPS_MAX {
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

    fn slice(&mut self, (bucket, hour): (Bucket, Hour), pending: Pending) -> Slice {
        let id = SliceId { run: self.run, number: self.next_number };
        self.next_number += 1;
        let mut groups = pending.groups;
        groups.sort_unstable_by(|a, b| a.counter.cmp(&b.counter));
        Slice { id, bucket, hour, groups }
    }
}

impl Pending {
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
            events in prop::collection::vec((0..5_u8, 0..4_u8, 0..3_u8, any::<u8>()), 0..400),
        ) {
            let mut packer = Packer::new(RunId::from_bytes([7; 16]));
            let mut slices = Vec::new();
            let mut expected = BTreeMap::<_, usize>::new();
            for &(account, hour, region, identity) in &events {
                *expected.entry((account, hour, region, identity)).or_default() += 1;
                packer.add(event(account, hour, region, identity), &mut slices);
            }
            slices.extend(packer.flush());
            let mut packed = BTreeMap::<_, usize>::new();
            for (number, slice) in slices.iter().enumerate() {
                prop_assert_eq!(slice.id.number as usize, number);
                for group in &slice.groups {
                    prop_assert_eq!(group.counter.account.bucket(), slice.bucket);
                    prop_assert!(slice.hour == group.first.hour() && slice.hour == group.last.hour());
                    for identity in &group.identities {
                        let account = group.counter.account.as_str().parse::<u8>().unwrap();
                        let region = group.counter.dimensions.region[1..].parse::<u8>().unwrap();
                        let hour = u8::try_from(slice.hour.number()).unwrap();
                        *packed.entry((account, hour, region, identity.as_bytes()[0])).or_default() += 1;
                    }
                }
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
