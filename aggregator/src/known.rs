//! What a partition's log says, loaded.

use std::collections::HashMap;

use ingest::{AccountId, CounterKey, Identity, Meter, SliceId};
use thiserror::Error;

use crate::entry::{Content, Entry};
use crate::partition::Partition;

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
}

/// The log contradicts itself: nothing may be counted on it until an operator has looked. Stop.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Untrusted {
    /// Versions are not contiguous from 1.
    #[error("partition {partition}: version {found} stands where {expected} belongs")]
    Gap {
        /// Which log.
        partition: Partition,
        /// The version that belongs there.
        expected: u64,
        /// The version that was read.
        found: u64,
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
    /// An identity stands in the log twice, or behind its end, or its sources do not add up.
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

    /// How many identities are counted here.
    pub fn identities(&self) -> usize {
        self.identities.len()
    }

    /// Which slice an identity was counted from, if it was.
    pub fn counted_from(&self, meter: Meter, account: AccountId, identity: Identity) -> Option<SliceId> {
        let scope = *self.scopes.get(&(meter, account))?;
        self.identities.get(&(scope, identity)).map(|&position| self.slices[position as usize])
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
        512 + self.identities.capacity() * 28 + self.slices.len() * 64 + self.totals.len() * 160
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
        match &entry.content {
            Content::Split => self.is_split = true,
            Content::Counted { slices, groups } => {
                let positions: Vec<u32> = slices.iter().map(|slice| self.position_of(*slice)).collect();
                for group in groups {
                    let counted = self.total(&group.counter) + group.identities.len() as u64;
                    if counted != group.total {
                        let partition = self.partition.clone();
                        return Err(Untrusted::WrongTotal { partition, version, stored: group.total, counted });
                    }
                    let scope = self.scope_of(group.counter.meter, group.counter.account);
                    let mut sourced = 0;
                    for (slice, identity) in group.by_slice() {
                        let position = positions.get(usize::from(slice)).copied();
                        let position = position
                            .ok_or_else(|| Untrusted::Impossible { partition: self.partition.clone(), version })?;
                        if self.identities.insert((scope, *identity), position).is_some() {
                            return Err(Untrusted::Impossible { partition: self.partition.clone(), version });
                        }
                        sourced += 1;
                    }
                    if sourced != group.identities.len() {
                        return Err(Untrusted::Impossible { partition: self.partition.clone(), version });
                    }
                    self.totals.insert(group.counter.clone(), counted);
                }
            }
        }
        self.version = version;
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
