//! One commit in a partition's log.

use std::fmt;

use ingest::{ContentHash, CounterKey, Identity, SliceId, UsageFact};

/// Names a commit, so that a write whose answer was lost can be recognized. Random, made at the edge.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitId(pub [u8; 16]);

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Version `version` of a partition. Written once under the condition that nothing stands there; never changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log, from 1 without gaps.
    pub version: u64,
    /// Who wrote it.
    pub commit: CommitId,
    /// What it says.
    pub content: Content,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These identities are counted from now on.
    Counted {
        /// The slices they came from; groups refer to them by position.
        slices: Vec<SliceId>,
        /// The new identities by counter.
        groups: Vec<EntryGroup>,
    },
    /// These facts are stated from now on: each stands under its key until a higher one is.
    Stated {
        /// The slices they came from; facts refer to them by position.
        slices: Vec<SliceId>,
        /// The facts that were new or changed.
        facts: Vec<EntryFact>,
    },
    /// The log ends here: identities and facts not known in it belong to its children.
    Split,
}

/// The new identities of one counter. Their number is the delta: there is no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryGroup {
    /// Which counter.
    pub counter: CounterKey,
    /// The counter's total in this partition, these identities included.
    pub total: u64,
    /// The identities, those of one slice together.
    pub identities: Vec<Identity>,
    /// For each slice in turn: its position in the entry, and how many of `identities` are its own.
    pub sources: Vec<(u16, u16)>,
}

/// A fact in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryFact {
    /// What it says.
    pub fact: UsageFact<'static>,
    /// The hash of what it says, as it was when it was written.
    pub hash: ContentHash,
    /// The position of the slice it came from.
    pub slice: u16,
}

impl Entry {
    /// Most bytes of an entry; DynamoDB takes 400 KB an item, names and overhead included.
    pub const BYTES_MAX: usize = 350_000;
}

impl EntryFact {
    /// Bytes of a fact when stored, at most: in a group of its own.
    pub(crate) fn bytes_max(fact: &UsageFact<'_>) -> usize {
        let scope = fact.key.export.as_ref().map_or(0, |export| export.scope.len());
        200 + fact.key.resource.len() + scope + fact.dimensions.region.len() + fact.dimensions.category.len()
    }
}

impl EntryGroup {
    /// Bytes of a group's counter, total and frame when stored, at most.
    pub(crate) fn frame_bytes(counter: &CounterKey) -> usize {
        110 + counter.dimensions.region.len() + counter.dimensions.category.len()
    }

    /// Each identity with the position of the slice it came from.
    pub fn by_slice(&self) -> impl Iterator<Item = (u16, &Identity)> {
        let positions = self.sources.iter().flat_map(|&(slice, count)| std::iter::repeat_n(slice, count.into()));
        positions.zip(&self.identities)
    }
}
