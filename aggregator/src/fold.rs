//! A batch against what is known: what is new, what is a duplicate, what was delivered before.

mod facts;
#[cfg(test)]
mod random_batches;

use std::collections::{BTreeMap, HashMap, HashSet};

use ingest::{AccountId, CounterKey, Identity, Meter, Slice, SliceContent, SliceFact, SliceGroup, SliceId, Window};

use crate::entry::{Content, EntryGroup};
use crate::known::Known;
use crate::partition::Partition;

/// What became of one delivered slice, in events, and in facts that stand for their records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Counted, or stated, and this slice is where they came from. A redelivery finds the same number.
    pub counted: u64,
    /// Known from elsewhere, or from earlier in this slice; or superseded before they came.
    pub duplicates: u64,
    /// The same of facts that were said beside an event, or beside another fact, of their record.
    pub beside: Beside,
}

/// What became of facts that do not stand for their records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// New or changed, and this slice is where they came from.
    pub stated: u64,
    /// Known from elsewhere, or superseded before they came.
    pub known: u64,
}

impl Tally {
    /// Adds what became of another part of the slice.
    pub fn add(&mut self, other: &Self) {
        self.counted += other.counted;
        self.duplicates += other.duplicates;
        self.beside.stated += other.beside.stated;
        self.beside.known += other.beside.known;
    }

    /// How much of the slice is dealt with.
    pub fn all(&self) -> u64 {
        self.counted + self.duplicates + self.beside.stated + self.beside.known
    }

    fn state(&mut self, part: &SliceFact) {
        *(if part.is_primary { &mut self.counted } else { &mut self.beside.stated }) += 1;
    }

    fn know(&mut self, part: &SliceFact) {
        *(if part.is_primary { &mut self.duplicates } else { &mut self.beside.known }) += 1;
    }
}

/// A batch folded into what is known.
#[derive(Debug, Default)]
pub struct Folded {
    /// What the next entries say, in order; none if nothing is new.
    pub contents: Vec<Content>,
    /// One for each slice of the batch, in its order.
    pub tallies: Vec<Tally>,
    /// What a split partition does not know, for its children; the number is the slice's position in the batch.
    pub to_children: BTreeMap<Partition, Vec<(usize, Slice)>>,
}

type Scoped = (Meter, AccountId, Identity);

/// Folds delivered slices into a partition. The order of slices decides which copy counts, and nothing else. What is new
/// is cut into entries of at most `entry_bytes_max`.
pub fn fold(known: &Known, batch: &[Slice], entry_bytes_max: usize) -> Folded {
    match known.partition().window {
        Window::Hour(_) => fold_counts(known, batch, entry_bytes_max),
        Window::Day(_) => facts::fold(known, batch, entry_bytes_max),
    }
}

fn fold_counts(known: &Known, batch: &[Slice], entry_bytes_max: usize) -> Folded {
    let mut folded = Folded::default();
    let mut fresh = HashMap::<Scoped, SliceId>::new();
    let mut drafts = Drafts::new(known, entry_bytes_max);
    for (position, slice) in batch.iter().enumerate() {
        let mut tally = Tally::default();
        let mut mine = HashSet::<Scoped>::new();
        for group in slice.groups() {
            let (meter, account) = (group.counter.meter, group.counter.account);
            let mut elsewhere = BTreeMap::<Partition, Vec<Identity>>::new();
            for &identity in &group.identities {
                let scoped = (meter, account, identity);
                let counted_from = known.counted_from(meter, account, identity).or_else(|| fresh.get(&scoped).copied());
                match counted_from {
                    Some(from) if from == slice.id && mine.insert(scoped) => tally.counted += 1,
                    Some(_) => tally.duplicates += 1,
                    None if known.is_split() => {
                        elsewhere.entry(known.partition().child_of(&identity)).or_default().push(identity);
                    }
                    None => {
                        fresh.insert(scoped, slice.id);
                        mine.insert(scoped);
                        drafts.add(&group.counter, slice.id, identity);
                        tally.counted += 1;
                    }
                }
            }
            for (child, identities) in elsewhere {
                let part = SliceGroup { identities, ..group.clone() };
                add_part(folded.to_children.entry(child).or_default(), position, slice, part);
            }
        }
        folded.tallies.push(tally);
    }
    folded.contents = drafts.finish();
    folded
}

/// Adds a group to what a child gets of a slice of counts.
fn add_part(parts: &mut Vec<(usize, Slice)>, position: usize, slice: &Slice, group: SliceGroup) {
    let SliceContent::Counts { hour, .. } = slice.content else { return };
    match parts.last_mut() {
        Some((last, Slice { content: SliceContent::Counts { groups, .. }, .. })) if *last == position => {
            groups.push(group)
        }
        _ => parts.push((position, Slice::of_counts(slice.id, slice.bucket, hour, vec![group]))),
    }
}

/// Collects new identities into entries of at most `entry_bytes_max`.
struct Drafts<'a> {
    known: &'a Known,
    entry_bytes_max: usize,
    done: Vec<Content>,
    totals: HashMap<CounterKey, u64>,
    slices: Vec<SliceId>,
    groups: BTreeMap<CounterKey, NewIdentities>,
    bytes: usize,
}

/// What one counter gains in the entry being drafted.
#[derive(Default)]
struct NewIdentities {
    identities: Vec<Identity>,
    sources: Vec<(u16, u16)>,
}

/// Bytes a slice takes in an entry.
const SLICE_BYTES: usize = 24;
/// Bytes of an entry before its first slice: keys, commit id and frame.
const ENTRY_BYTES: usize = 256;
/// Bytes a group takes for the slice its identities came from.
const SOURCE_BYTES: usize = 4;

impl<'a> Drafts<'a> {
    fn new(known: &'a Known, entry_bytes_max: usize) -> Self {
        let (done, slices) = (Vec::new(), Vec::new());
        let (totals, groups) = (HashMap::new(), BTreeMap::new());
        Self { known, entry_bytes_max, done, totals, slices, groups, bytes: ENTRY_BYTES }
    }

    fn add(&mut self, counter: &CounterKey, slice: SliceId, identity: Identity) {
        let worst = Identity::BYTES + SOURCE_BYTES + SLICE_BYTES + EntryGroup::frame_bytes(counter);
        if self.entry_bytes_max < self.bytes + worst {
            self.close();
        }
        if self.slices.last() != Some(&slice) {
            self.slices.push(slice);
            self.bytes += SLICE_BYTES;
        }
        let position = u16::try_from(self.slices.len() - 1).expect("an entry holds fewer slices than its bytes allow");
        if !self.groups.contains_key(counter) {
            self.bytes += EntryGroup::frame_bytes(counter);
            self.groups.insert(counter.clone(), NewIdentities::default());
        }
        let group = self.groups.get_mut(counter).expect("it was just put there");
        group.identities.push(identity);
        self.bytes += Identity::BYTES;
        match group.sources.last_mut() {
            Some((last, count)) if *last == position => *count += 1,
            _ => {
                group.sources.push((position, 1));
                self.bytes += SOURCE_BYTES;
            }
        }
    }

    fn close(&mut self) {
        let slices = std::mem::take(&mut self.slices);
        let groups = std::mem::take(&mut self.groups);
        self.bytes = ENTRY_BYTES;
        let groups = groups.into_iter().map(|(counter, NewIdentities { identities, sources })| {
            let total = self.totals.entry(counter.clone()).or_insert_with(|| self.known.total(&counter));
            *total += identities.len() as u64;
            EntryGroup { total: *total, counter, identities, sources }
        });
        let groups: Vec<_> = groups.collect();
        if !groups.is_empty() {
            self.done.push(Content::Counted { slices, groups });
        }
    }

    fn finish(mut self) -> Vec<Content> {
        self.close();
        self.done
    }
}
