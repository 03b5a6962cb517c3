//! The port to the store of commit logs.

use std::future::Future;

use ingest::aws::AwsError;
use ingest::dynamodb::ItemError;
use thiserror::Error;

use crate::entry::Entry;
use crate::partition::Partition;

/// Append-only logs, one a partition.
pub trait CommitLog: Sync {
    /// Every entry after a version, in order, strongly consistent: what was appended before the call is in it.
    fn read_after(
        &self,
        partition: &Partition,
        version: u64,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadError>> + Send;

    /// Writes the entry if nothing stands at its version, or nothing at all.
    fn append(
        &self,
        partition: &Partition,
        entry: &Entry,
    ) -> impl Future<Output = Result<WriteUnits, AppendError>> + Send;
}

/// What a write cost, in DynamoDB write units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteUnits(pub u64);

/// Why a log could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store failed. Retry if passing.
    #[error(transparent)]
    Store(#[from] AwsError),
    /// An item is not one of ours. Stop: the partition cannot be trusted.
    #[error("commit log {partition}: {source}")]
    Item {
        /// Which log.
        partition: Partition,
        /// What is wrong with it.
        source: ItemError,
    },
}

/// Why an entry was not confirmed.
#[derive(Debug, Error)]
pub enum AppendError {
    /// Something stands at that version: another's entry, or our own from a try whose answer was lost. Read it.
    #[error("an entry stands there already")]
    Occupied,
    /// No answer: the entry may be there or not. Read the version.
    #[error("no answer: {0}")]
    Unknown(AwsError),
    /// The store refused it and nothing was written. Retry if passing.
    #[error(transparent)]
    Refused(AwsError),
}
