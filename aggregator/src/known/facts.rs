//! The facts a log has stated, by key.

use std::collections::HashMap;

use ingest::Identity;

use crate::entry::EntryFact;
use crate::facts::FactVersion;

/// Every version that was stated, lowest first: the last one stands, the others tell a redelivery from a copy.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownFacts {
    stated: HashMap<Identity, Vec<(FactVersion, u32)>>,
    versions: usize,
}

impl KnownFacts {
    /// How many versions were stated.
    pub(super) fn len(&self) -> usize {
        self.versions
    }

    /// Memory this takes, in bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.stated.capacity() * 48 + self.versions * 40
    }

    /// The version that stands under a key.
    pub(super) fn standing(&self, key: &Identity) -> Option<FactVersion> {
        self.stated.get(key)?.last().map(|(version, _)| *version)
    }

    /// Where the slice stands that stated a version.
    pub(super) fn stated_from(&self, key: &Identity, version: FactVersion) -> Option<u32> {
        self.stated.get(key)?.iter().find(|(stated, _)| *stated == version).map(|(_, slice)| *slice)
    }

    /// Takes in what an entry states; `false` if it cannot: its hash is not that of its content, or it is not higher than
    /// what stands.
    pub(super) fn add(&mut self, stated: &EntryFact, slice: u32) -> bool {
        let version = FactVersion::of(&stated.fact);
        let key = stated.fact.key.identity();
        if version.hash != stated.hash || Some(version) <= self.standing(&key) {
            return false;
        }
        self.stated.entry(key).or_default().push((version, slice));
        self.versions += 1;
        true
    }
}
