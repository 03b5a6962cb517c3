//! From log entries to usage rows: a cursor a partition, moved in the transaction that writes the rows.

use std::collections::{BTreeMap, HashMap};

use ingest::{CounterKey, Timestamp};
use thiserror::Error;

use crate::commit::Gain;
use crate::commit_log::{CommitLog, ReadError};
use crate::entry::Content;
use crate::known::Untrusted;
use crate::partition::Partition;
use crate::usage_rows::{Advance, AdvanceError, AdvanceOutcome, CounterTotal, DatabaseError, UsageRows};

/// Partitions in one transaction.
const TRANSACTION_PARTITIONS_MAX: usize = 64;

/// Why partitions were not rolled up. Nothing of the failing transaction stands.
#[derive(Debug, Error)]
pub enum RollUpError {
    /// The log cannot be read. Retry if passing.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log contradicts itself. Stop with this partition.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// PostgreSQL failed. Retry if passing.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The rows were refused.
    #[error(transparent)]
    Advance(#[from] AdvanceError),
}

impl RollUpError {
    /// Whether one partition's log or rows are at fault: all others of the call are rolled up.
    pub fn is_of_one_partition(&self) -> bool {
        matches!(
            self,
            Self::Untrusted(_) | Self::Read(ReadError::Item { .. }) | Self::Advance(AdvanceError::TotalWentBack { .. })
        )
    }
}

/// Rolls commit logs up into usage rows.
#[derive(Debug)]
pub struct RollUp<L> {
    log: L,
    rows: UsageRows,
}

impl<L: CommitLog> RollUp<L> {
    /// Rolls `log` up into `rows`.
    pub fn new(log: L, rows: UsageRows) -> Self {
        Self { log, rows }
    }

    /// Brings the usage rows of these partitions at least up to what they gained. Gains that connect to the cursor are
    /// applied as they are; for the others the log is read.
    ///
    /// A partition at fault does not hold up the others: they are done when its error is returned.
    pub async fn apply(&self, gains: Vec<Gain>, now: Timestamp) -> Result<(), RollUpError> {
        let mut by_partition = BTreeMap::<Partition, Vec<Gain>>::new();
        for gain in gains {
            by_partition.entry(gain.partition.clone()).or_default().push(gain);
        }
        let mut waiting: Vec<_> = by_partition.into_iter().collect();
        let mut at_fault = None;
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(TRANSACTION_PARTITIONS_MAX));
            let error = self.apply_some(&waiting, now).await?;
            at_fault = at_fault.or(error);
            waiting = rest;
        }
        at_fault.map_or(Ok(()), Err)
    }

    /// The answer is what is wrong with a partition, once the others are done.
    async fn apply_some(
        &self,
        partitions: &[(Partition, Vec<Gain>)],
        now: Timestamp,
    ) -> Result<Option<RollUpError>, RollUpError> {
        let mut at_fault = None;
        let mut behind: Vec<&(Partition, Vec<Gain>)> = partitions.iter().collect();
        // A cursor only moves forward, so each round ends a partition, leaves one out or meets a faster worker.
        while !behind.is_empty() {
            let names: Vec<String> = behind.iter().map(|(partition, _)| partition.to_string()).collect();
            let cursors = self.rows.cursors(&names).await?;
            let mut advances = Vec::new();
            let mut advancing = Vec::new();
            for (entry, name) in behind.iter().zip(&names) {
                let (partition, gains) = *entry;
                let cursor = cursors.get(name).copied().unwrap_or_default();
                let target = gains.iter().map(|gain| gain.to_version).max().unwrap_or_default();
                if cursor < target {
                    match self.advance(partition, gains, cursor, target).await {
                        Ok(advance) => {
                            advances.push(advance);
                            advancing.push(*entry);
                        }
                        Err(error) if error.is_of_one_partition() => at_fault = at_fault.or(Some(error)),
                        Err(error) => return Err(error),
                    }
                }
            }
            match self.rows.advance(&advances, now).await {
                Ok(outcomes) => {
                    let stale = advancing.into_iter().zip(outcomes);
                    let stale = stale.filter(|(_, outcome)| *outcome != AdvanceOutcome::Moved);
                    behind = stale.map(|(entry, _)| entry).collect();
                }
                Err(AdvanceError::TotalWentBack { partition, counter, stored, told }) => {
                    advancing.retain(|(other, _)| other.to_string() != partition);
                    assert!(advancing.len() < advances.len(), "a partition that was written is one of those to write");
                    behind = advancing;
                    let error = AdvanceError::TotalWentBack { partition, counter, stored, told };
                    at_fault = at_fault.or(Some(error.into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(at_fault)
    }

    async fn advance(
        &self,
        partition: &Partition,
        gains: &[Gain],
        cursor: u64,
        target: u64,
    ) -> Result<Advance, RollUpError> {
        let (to_version, totals) = match connect(gains, cursor) {
            Some(connected) => connected,
            None => self.read(partition, cursor).await?,
        };
        if to_version < target {
            // Entries are never deleted, so what was gained cannot be missing.
            let (partition, expected) = (partition.clone(), to_version + 1);
            return Err(Untrusted::Gap { partition, expected, found: target }.into());
        }
        let counters = totals.into_iter().map(|(counter, total)| CounterTotal {
            account: counter.account,
            meter: counter.meter,
            region: counter.dimensions.region.into_owned(),
            category: counter.dimensions.category.into_owned(),
            window: partition.hour,
            total,
            version: to_version,
        });
        let counters = counters.collect();
        Ok(Advance { partition: partition.to_string(), from_version: cursor, to_version, counters })
    }

    /// The newest totals in the entries after the cursor, checked: versions contiguous, totals growing by their groups.
    async fn read(&self, partition: &Partition, cursor: u64) -> Result<(u64, HashMap<CounterKey, u64>), RollUpError> {
        let mut version = cursor;
        let mut totals = HashMap::<CounterKey, u64>::new();
        for entry in self.log.read_after(partition, cursor).await? {
            if entry.version != version + 1 {
                let (partition, expected) = (partition.clone(), version + 1);
                return Err(Untrusted::Gap { partition, expected, found: entry.version }.into());
            }
            version = entry.version;
            let Content::Counted { groups, .. } = entry.content else { continue };
            for group in groups {
                let before = totals.get(&group.counter).copied();
                let counted = before.unwrap_or_default() + group.identities.len() as u64;
                let is_first = before.is_none() && 0 < cursor;
                if counted != group.total && !(is_first && counted <= group.total) {
                    let (partition, stored) = (partition.clone(), group.total);
                    return Err(Untrusted::WrongTotal { partition, version, stored, counted }.into());
                }
                totals.insert(group.counter, group.total);
            }
        }
        Ok((version, totals))
    }
}

/// The totals of gains that follow each other from the cursor on; `None` if they do not.
fn connect(gains: &[Gain], cursor: u64) -> Option<(u64, HashMap<CounterKey, u64>)> {
    let mut gains: Vec<&Gain> = gains.iter().filter(|gain| cursor < gain.to_version).collect();
    gains.sort_by_key(|gain| gain.from_version);
    let mut version = cursor;
    let mut totals = HashMap::new();
    for gain in gains {
        if gain.from_version != version {
            return None;
        }
        totals.extend(gain.totals.as_ref()?.iter().map(|(counter, total)| (counter.clone(), *total)));
        version = gain.to_version;
    }
    (cursor < version).then_some((version, totals))
}
