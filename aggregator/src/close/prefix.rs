//! A bucket's hour, read from its logs up to a cut: every counter with its identities, each checked.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ingest::{AccountId, CounterKey, Identity, Meter, RunId};
use thiserror::Error;

use crate::commit_log::{CommitLog, ReadError};
use crate::entry::Content;
use crate::known::{Known, Untrusted};
use crate::partition::Partition;

/// Everything that is counted in one bucket and hour, its split logs included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountedHour {
    /// How far each log was read: every log that has an entry.
    pub versions: BTreeMap<Partition, u64>,
    /// Entries behind the cut, which are not in it.
    pub entries_after: u64,
    /// The identities of each counter, sorted.
    pub counters: BTreeMap<CounterKey, Vec<Identity>>,
    /// The readings they were counted from.
    pub runs: BTreeSet<RunId>,
}

/// Why logs do not add up to anything.
#[derive(Debug, Error)]
pub enum PrefixError {
    /// The log cannot be read. Retry if passing.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log contradicts itself. Stop: someone has to look at it.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// An identity is in two logs of one hour. Stop: someone has to look at them.
    #[error("an event is counted in two logs, one of them {0}")]
    CountedTwice(Partition),
}

/// Reads a bucket's hour from its root on. `cut` says up to which version a log counts: `None` for all of it, 0 for none.
pub async fn read_hour<L: CommitLog>(
    log: &L,
    root: Partition,
    cut: &(dyn Fn(&Partition) -> Option<u64> + Sync),
) -> Result<CountedHour, PrefixError> {
    let mut hour = CountedHour::default();
    let mut seen = HashSet::<(Meter, AccountId, Identity)>::new();
    let mut waiting = vec![root];
    while let Some(partition) = waiting.pop() {
        let mut known = Known::empty(partition.clone());
        let cut = cut(&partition);
        for entry in log.read_after(&partition, 0).await? {
            if cut.is_some_and(|cut| cut < entry.version) {
                hour.entries_after += 1;
                continue;
            }
            known.apply(&entry)?;
            let Content::Counted { slices, groups } = entry.content else { continue };
            hour.runs.extend(slices.iter().map(|slice| slice.run));
            for group in groups {
                let CounterKey { meter, account, .. } = group.counter;
                for identity in &group.identities {
                    if !seen.insert((meter, account, *identity)) {
                        return Err(PrefixError::CountedTwice(partition));
                    }
                }
                hour.counters.entry(group.counter).or_default().extend(group.identities);
            }
        }
        if let Some(cut) = cut
            && known.version() < cut
        {
            // Entries are never deleted, so what was rolled up cannot be missing.
            let expected = known.version() + 1;
            return Err(Untrusted::Gap { partition, expected, found: cut }.into());
        }
        if known.is_split() {
            waiting.extend(partition.children());
        }
        if 0 < known.version() {
            hour.versions.insert(partition, known.version());
        }
    }
    for identities in hour.counters.values_mut() {
        identities.sort_unstable();
    }
    Ok(hour)
}
