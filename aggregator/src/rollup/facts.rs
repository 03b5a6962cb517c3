//! The roll-up of facts: what logs state goes to the facts that stand, and from there to usage rows.

use std::collections::BTreeSet;

use ingest::{Bucket, Timestamp, UsageFact};

use super::{Refused, RollUp, RollUpError, RollUpStore, TRANSACTION_PARTITIONS_MAX, refuse};
use crate::commit::Gain;
use crate::commit_log::CommitLog;
use crate::entry::Content;
use crate::fact_rows::{FactAdvance, FactsAdvanced};
use crate::known::Untrusted;
use crate::partition::Partition;
use crate::usage_rows::AdvanceOutcome;

/// Facts in one transaction, about.
const TRANSACTION_FACTS_MAX: usize = 50_000;

type Behind<'a> = Vec<(&'a Partition, u64)>;

impl<L: CommitLog, R: RollUpStore> RollUp<L, R> {
    /// Counts what goes on without a word: what is live, up to the hour of `now`; and puts exports in force that a process
    /// completed and did not. For a sweep.
    pub async fn go_on(&self, now: Timestamp) -> Result<(), RollUpError> {
        self.rows.go_on(now).await?;
        for export in self.rows.exports_complete().await? {
            self.rows.put_in_force(&export, now).await?;
        }
        Ok(())
    }

    /// Rolls partitions of facts up, those of a bucket together.
    pub(super) async fn apply_facts(
        &self,
        partitions: &[(Partition, Vec<Gain>)],
        now: Timestamp,
        refused: &mut Vec<Refused>,
    ) -> Result<(), RollUpError> {
        // Partitions come in order of their buckets.
        for of_bucket in partitions.chunk_by(|(a, _), (b, _)| a.bucket == b.bucket) {
            let bucket = of_bucket[0].0.bucket;
            let target = |gains: &[Gain]| gains.iter().map(|gain| gain.to_version).max().unwrap_or_default();
            let mut waiting: Behind<'_> =
                of_bucket.iter().map(|(partition, gains)| (partition, target(gains))).collect();
            while !waiting.is_empty() {
                let rest = waiting.split_off(waiting.len().min(TRANSACTION_PARTITIONS_MAX));
                self.apply_bucket(bucket, waiting, now, refused).await?;
                waiting = rest;
            }
        }
        Ok(())
    }

    async fn apply_bucket(
        &self,
        bucket: Bucket,
        mut behind: Behind<'_>,
        now: Timestamp,
        refused: &mut Vec<Refused>,
    ) -> Result<(), RollUpError> {
        let mut complete = BTreeSet::new();
        // A cursor only moves forward, so each round ends a partition, leaves one out or meets a faster worker.
        while !behind.is_empty() {
            let names: Vec<String> = behind.iter().map(|(partition, _)| partition.to_string()).collect();
            let cursors = self.rows.cursors(&names).await?;
            let (mut advances, mut advancing, mut later, mut facts) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for (one, name) in behind.into_iter().zip(&names) {
                let ((partition, target), cursor) = (one, cursors.get(name).copied().unwrap_or_default());
                if target <= cursor {
                    continue;
                }
                if TRANSACTION_FACTS_MAX < facts {
                    later.push(one);
                    continue;
                }
                match self.read_facts(partition, cursor, target).await {
                    Ok(advance) => {
                        facts += advance.facts.len();
                        advances.push(advance);
                        advancing.push(one);
                    }
                    Err(reason) if reason.is_of_one_partition() => refused.push(refuse(partition, reason)),
                    Err(error) => return Err(error),
                }
            }
            match self.rows.advance_facts(bucket, &advances, now).await {
                Ok(FactsAdvanced { outcomes, exports_complete }) => {
                    complete.extend(exports_complete);
                    let stale = advancing.into_iter().zip(outcomes);
                    let stale = stale.filter(|(_, outcome)| *outcome != AdvanceOutcome::Moved);
                    behind = stale.map(|(one, _)| one).collect();
                }
                // Nothing of the transaction stands: again, without the one at fault.
                Err(error) => {
                    let is_at_fault = |advance: &FactAdvance| error.partition() == Some(&advance.partition.to_string());
                    let Some(at_fault) = advances.iter().position(is_at_fault) else { return Err(error.into()) };
                    let (partition, _) = advancing.remove(at_fault);
                    refused.push(refuse(partition, error.into()));
                    behind = advancing;
                }
            }
            behind.extend(later);
        }
        for export in complete {
            self.rows.put_in_force(&export, now).await?;
        }
        Ok(())
    }

    /// What a log states after the cursor, checked: versions contiguous, each fact as its hash says.
    async fn read_facts(&self, partition: &Partition, cursor: u64, target: u64) -> Result<FactAdvance, RollUpError> {
        let mut version = cursor;
        let mut facts: Vec<UsageFact<'static>> = Vec::new();
        for entry in self.log.read_after(partition, cursor).await? {
            let (partition, expected) = (partition.clone(), version + 1);
            if entry.version != expected {
                return Err(Untrusted::Gap { partition, expected, found: entry.version }.into());
            }
            version = entry.version;
            match entry.content {
                Content::Stated { facts: stated, .. } => {
                    if stated.iter().any(|stated| stated.hash != stated.fact.content_hash()) {
                        return Err(Untrusted::Impossible { partition, version }.into());
                    }
                    facts.extend(stated.into_iter().map(|stated| stated.fact));
                }
                Content::Split => {}
                Content::Counted { .. } => return Err(Untrusted::Impossible { partition, version }.into()),
            }
        }
        if version < target {
            // Entries are never deleted, so what was gained cannot be missing.
            let (partition, missing) = (partition.clone(), version + 1);
            return Err(Untrusted::EndsEarly { partition, missing, through: target }.into());
        }
        Ok(FactAdvance { partition: partition.clone(), from_version: cursor, to_version: version, facts })
    }
}
