//! A bucket's hour, read from its logs up to a cut: every counter with its identities, each checked.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ingest::{AccountId, CounterKey, Identity, Meter, RunId};
use thiserror::Error;

use crate::commit_log::{CommitLog, ReadError};
use crate::entry::{Content, Entry};
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
    /// The readings each account's were counted from.
    pub runs: BTreeMap<AccountId, BTreeSet<RunId>>,
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

impl PrefixError {
    /// Whether the logs themselves are at fault, so that the rest can be looked at without them.
    pub fn is_of_the_logs(&self) -> bool {
        !matches!(self, Self::Read(ReadError::Store(_)))
    }
}

/// How far logs count.
#[derive(Clone, Copy, Debug)]
pub enum Cut<'a> {
    /// To their ends.
    End,
    /// Up to these versions; a log that is not named counts for nothing.
    At(&'a BTreeMap<Partition, u64>),
}

/// Reads every log of a bucket's hour, named by its root, up to a cut.
pub async fn read_hour<L: CommitLog>(log: &L, root: Partition, cut: Cut<'_>) -> Result<CountedHour, PrefixError> {
    let mut hour = CountedHour::default();
    let mut seen = HashSet::new();
    let mut waiting = match cut {
        Cut::End => vec![(root, None)],
        // A child can be rolled up before its parent is, so nothing is left to following splits.
        Cut::At(versions) => {
            let is_of_hour = |(log, _): &(&Partition, &u64)| (log.bucket, log.window) == (root.bucket, root.window);
            let of_hour = versions.range(root.clone()..).take_while(is_of_hour);
            of_hour.map(|(log, version)| (log.clone(), Some(*version))).collect()
        }
    };
    while let Some((partition, cut)) = waiting.pop() {
        let entries = log.read_after(&partition, 0).await?;
        let known = hour.add_log(&partition, entries, cut, &mut seen)?;
        if known.is_split() && cut.is_none() {
            waiting.extend(partition.children().map(|child| (child, None)));
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

type Seen = HashSet<(Meter, AccountId, Identity)>;

impl CountedHour {
    fn add_log(
        &mut self,
        partition: &Partition,
        entries: Vec<Entry>,
        cut: Option<u64>,
        seen: &mut Seen,
    ) -> Result<Known, PrefixError> {
        let mut known = Known::empty(partition.clone());
        for entry in entries {
            if cut.is_some_and(|cut| cut < entry.version) {
                self.entries_after += 1;
                continue;
            }
            known.apply(&entry)?;
            let Content::Counted { slices, groups } = entry.content else { continue };
            for group in groups {
                let CounterKey { meter, account, .. } = group.counter;
                if let Some(twice) = group.identities.iter().find(|identity| !seen.insert((meter, account, **identity)))
                {
                    tracing::error!(%partition, %account, identity = ?twice, "an event is counted in two logs");
                    return Err(PrefixError::CountedTwice(partition.clone()));
                }
                let runs = group.sources.iter().map(|(slice, _)| slices[usize::from(*slice)].run);
                self.runs.entry(account).or_default().extend(runs);
                self.counters.entry(group.counter).or_default().extend(group.identities);
            }
        }
        match cut {
            // Entries are never deleted, so what was rolled up cannot be missing.
            Some(cut) if known.version() < cut => {
                let (partition, missing) = (partition.clone(), known.version() + 1);
                Err(Untrusted::EndsEarly { partition, missing, through: cut }.into())
            }
            _ => Ok(known),
        }
    }
}
