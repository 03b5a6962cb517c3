//! A batch of facts against what is known: which are new or changed, which are copies or superseded.

use std::collections::{BTreeMap, HashMap, HashSet};

use ingest::{Identity, Slice, SliceContent, SliceFact, SliceId};

use super::{Folded, Tally};
use crate::entry::{Content, EntryFact};
use crate::facts::FactVersion;
use crate::known::Known;
use crate::partition::Partition;

/// Folds delivered slices of facts into a partition.
///
/// A fact is new if nothing stands under its key, a change if it is higher than what stands. Everything else is a copy or
/// superseded, and never written. So what stands in the end depends on nothing but the facts.
pub(super) fn fold(known: &Known, batch: &[Slice], entry_bytes_max: usize) -> Folded {
    let mut folded = Folded::default();
    let mut fresh = HashMap::<Identity, Vec<(FactVersion, SliceId)>>::new();
    let mut drafts = Drafts::new(entry_bytes_max);
    for (position, slice) in batch.iter().enumerate() {
        let mut tally = Tally::default();
        let mut mine = HashSet::<(Identity, FactVersion)>::new();
        let mut elsewhere = BTreeMap::<Partition, Vec<SliceFact>>::new();
        for part in slice.facts() {
            let (key, version) = (part.fact.key.identity(), FactVersion::of(&part.fact));
            let said = fresh.get(&key).map(Vec::as_slice).unwrap_or_default();
            let stated_from = said.iter().find(|(said, _)| *said == version).map(|(_, from)| *from);
            let standing = said.last().map(|(version, _)| *version).max(known.standing(&key));
            match stated_from.or_else(|| known.stated_from(&key, version)) {
                Some(from) if from == slice.id && mine.insert((key, version)) => tally.state(part),
                Some(_) => tally.know(part),
                None if Some(version) < standing => tally.know(part),
                None if known.is_split() => {
                    elsewhere.entry(known.partition().child_of(&key)).or_default().push(part.clone());
                }
                None => {
                    fresh.entry(key).or_default().push((version, slice.id));
                    mine.insert((key, version));
                    drafts.add(part, version, slice.id);
                    tally.state(part);
                }
            }
        }
        for (child, facts) in elsewhere {
            let SliceContent::Facts { day, .. } = slice.content else { continue };
            let part = Slice::of_facts(slice.id, slice.bucket, day, facts);
            folded.to_children.entry(child).or_default().push((position, part));
        }
        folded.tallies.push(tally);
    }
    folded.contents = drafts.finish();
    folded
}

/// Collects facts into entries of at most `entry_bytes_max`.
struct Drafts {
    entry_bytes_max: usize,
    done: Vec<Content>,
    slices: Vec<SliceId>,
    facts: Vec<EntryFact>,
    bytes: usize,
}

impl Drafts {
    fn new(entry_bytes_max: usize) -> Self {
        let (done, slices, facts) = (Vec::new(), Vec::new(), Vec::new());
        Self { entry_bytes_max, done, slices, facts, bytes: super::ENTRY_BYTES }
    }

    fn add(&mut self, part: &SliceFact, version: FactVersion, slice: SliceId) {
        let bytes = EntryFact::bytes_max(&part.fact) + super::SLICE_BYTES;
        if self.entry_bytes_max < self.bytes + bytes {
            self.close();
        }
        if self.slices.last() != Some(&slice) {
            self.slices.push(slice);
        }
        let position = u16::try_from(self.slices.len() - 1).expect("an entry holds fewer slices than its bytes allow");
        self.facts.push(EntryFact { fact: part.fact.clone(), hash: version.hash, slice: position });
        self.bytes += bytes;
    }

    fn close(&mut self) {
        let (slices, facts) = (std::mem::take(&mut self.slices), std::mem::take(&mut self.facts));
        self.bytes = super::ENTRY_BYTES;
        if !facts.is_empty() {
            self.done.push(Content::Stated { slices, facts });
        }
    }

    fn finish(mut self) -> Vec<Content> {
        self.close();
        self.done
    }
}
