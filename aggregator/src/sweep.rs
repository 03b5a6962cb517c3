//! What has to be done now and then, whatever became of every trigger.

use std::collections::BTreeSet;

use ingest::Timestamp;
use ingest::aws::AwsError;
use thiserror::Error;

use crate::acknowledgement::{AcknowledgementError, Acknowledgements};
use crate::commit::Gain;
use crate::commit_log::CommitLog;
use crate::directory::{AccountDirectory, Followed};
use crate::partition::Partition;
use crate::rollup::{Refused, RollUp, RollUpError};
use crate::usage_rows::DatabaseError;

/// Sweeps: brings usage rows up to everything that is acknowledged, counts what goes on without a word, and lets accounts
/// follow their organizations. Sweeping again changes nothing.
#[derive(Debug)]
pub struct Sweep<L> {
    roll_up: RollUp<L>,
    acknowledgements: Acknowledgements,
    directory: AccountDirectory,
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Partitions that were acknowledged since the last sweep, or left out by it.
    pub partitions: usize,
    /// Partitions left out because their log or rows cannot be trusted. They come back with every sweep.
    pub refused: Vec<Refused>,
    /// Accounts that followed their organization.
    pub followed: Followed,
}

/// Why a sweep did not come to its end. What it did stays.
#[derive(Debug, Error)]
pub enum SweepError {
    /// What is acknowledged cannot be read. Retry if passing.
    #[error(transparent)]
    Acknowledgements(#[from] AcknowledgementError),
    /// Markers cannot be taken away. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
    /// Usage rows cannot be written. Retry if passing.
    #[error(transparent)]
    RollUp(#[from] RollUpError),
    /// The directory cannot be written. Retry if passing.
    #[error(transparent)]
    Directory(#[from] DatabaseError),
}

impl<L: CommitLog> Sweep<L> {
    /// Sweeps what is acknowledged to `acknowledgements` into what `roll_up` writes.
    pub fn new(roll_up: RollUp<L>, acknowledgements: Acknowledgements, directory: AccountDirectory) -> Self {
        Self { roll_up, acknowledgements, directory }
    }

    /// The roll-up behind it.
    pub fn roll_up(&self) -> &RollUp<L> {
        &self.roll_up
    }

    /// Sweeps once.
    pub async fn run(&self, now: Timestamp) -> Result<Swept, SweepError> {
        let unswept = self.acknowledgements.unswept().await?;
        let gain = |(partition, &version): (&Partition, &u64)| Gain {
            partition: partition.clone(),
            from_version: version,
            to_version: version,
            totals: None,
        };
        let refused = self.roll_up.apply(unswept.partitions.iter().map(gain).collect(), now).await?;
        let left_out: BTreeSet<Partition> = refused.iter().map(|one| one.partition.clone()).collect();
        self.acknowledgements.swept(&unswept, &left_out).await?;
        self.roll_up.go_on(now).await?;
        let followed = self.directory.follow_organizations(now).await?;
        Ok(Swept { partitions: unswept.partitions.len(), refused, followed })
    }
}
