//! From log entries to usage rows: a cursor a partition, moved in the transaction that writes the rows.

use std::collections::{BTreeMap, HashMap};

use ingest::{CounterKey, Timestamp, Window};
use thiserror::Error;

use crate::commit::Gain;
use crate::commit_log::{CommitLog, ReadError};
use crate::entry::Content;
use crate::fact_rows::FactError;
use crate::known::Untrusted;
use crate::partition::Partition;
use crate::usage_rows::{Advance, AdvanceError, AdvanceOutcome, CounterTotal, DatabaseError, UsageRows};

mod facts;
mod store;

pub use store::RollUpStore;

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
    /// The rows of facts were refused. Retry or stop, as it says.
    #[error(transparent)]
    Facts(#[from] FactError),
}

impl RollUpError {
    /// Whether one partition's log or rows are at fault, so that the others can go on without it.
    fn is_of_one_partition(&self) -> bool {
        match self {
            Self::Untrusted(_) | Self::Read(ReadError::Item { .. }) => true,
            Self::Advance(error) => error.partition().is_some(),
            Self::Facts(error) => error.partition().is_some(),
            Self::Read(ReadError::Store(_)) | Self::Database(_) => false,
        }
    }
}

/// A partition that was left out: its usage rows stay as they are until someone has looked at it.
#[derive(Debug, Error)]
#[error("partition {partition} is not rolled up: {reason}")]
pub struct Refused {
    /// Which partition.
    pub partition: Partition,
    /// What is wrong with its log or its rows.
    #[source]
    pub reason: RollUpError,
}

/// Rolls commit logs up into usage rows.
#[derive(Debug)]
pub struct RollUp<L, R = UsageRows> {
    log: L,
    rows: R,
}

impl<L: CommitLog, R: RollUpStore> RollUp<L, R> {
    /// Rolls `log` up into `rows`.
    pub fn new(log: L, rows: R) -> Self {
        Self { log, rows }
    }

    /// Brings the usage rows of these partitions at least up to what they gained. Gains that connect to the cursor are
    /// applied as they are; for the others the log is read.
    ///
    /// A partition whose log or rows cannot be trusted does not hold up the others: it is left out, with an alarm, and
    /// returned. After an error some partitions may be rolled up; the same call again does the rest.
    pub async fn apply(&self, gains: Vec<Gain>, now: Timestamp) -> Result<Vec<Refused>, RollUpError> {
        let mut by_partition = BTreeMap::<Partition, Vec<Gain>>::new();
        for gain in gains {
            by_partition.entry(gain.partition.clone()).or_default().push(gain);
        }
        let is_of_facts = |(partition, _): &(Partition, Vec<Gain>)| matches!(partition.window, Window::Day(_));
        let (facts, mut waiting): (Vec<_>, Vec<_>) = by_partition.into_iter().partition(is_of_facts);
        let mut refused = Vec::new();
        while !waiting.is_empty() {
            let rest = waiting.split_off(waiting.len().min(TRANSACTION_PARTITIONS_MAX));
            self.apply_some(&waiting, now, &mut refused).await?;
            waiting = rest;
        }
        self.apply_facts(&facts, now, &mut refused).await?;
        Ok(refused)
    }

    async fn apply_some(
        &self,
        partitions: &[(Partition, Vec<Gain>)],
        now: Timestamp,
        refused: &mut Vec<Refused>,
    ) -> Result<(), RollUpError> {
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
                        Err(reason) if reason.is_of_one_partition() => refused.push(refuse(partition, reason)),
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
                // Nothing of the transaction stands: again, without the one at fault.
                Err(error) => {
                    let at_fault = advances.iter().position(|advance| error.partition() == Some(&advance.partition));
                    let Some(at_fault) = at_fault else { return Err(error.into()) };
                    let (partition, _) = advancing.remove(at_fault);
                    refused.push(refuse(partition, error.into()));
                    behind = advancing;
                }
            }
        }
        Ok(())
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
            let (partition, missing) = (partition.clone(), to_version + 1);
            return Err(Untrusted::EndsEarly { partition, missing, through: target }.into());
        }
        // A partition of facts has no counters.
        let counters = partition.hour().into_iter().flat_map(|window| {
            totals.iter().map(move |(counter, &total)| CounterTotal {
                account: counter.account,
                meter: counter.meter,
                region: counter.dimensions.region.clone().into_owned(),
                category: counter.dimensions.category.clone().into_owned(),
                window,
                total,
                version: to_version,
            })
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

fn refuse(partition: &Partition, reason: RollUpError) -> Refused {
    tracing::error!(%partition, %reason, "a partition cannot be trusted; its usage rows stay as they are");
    Refused { partition: partition.clone(), reason }
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
