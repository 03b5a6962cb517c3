//! The clock and the dice: read here, passed on as values.

use aggregator::deployment::DeploymentId;
use aggregator::entry::CommitId;
use ingest::{RunId, Timestamp};

/// The calendar.
#[expect(clippy::disallowed_methods, reason = "the one place where a function reads the calendar")]
pub fn now() -> Timestamp {
    Timestamp::from(chrono::Utc::now())
}

/// Uniform bits, for jitter.
#[expect(clippy::disallowed_methods, reason = "the one place where a function throws dice")]
pub fn random() -> u64 {
    rand::random()
}

/// A fresh id of a commit.
pub fn commit_id() -> CommitId {
    CommitId(random_bytes())
}

/// A fresh id of a reading.
pub fn run_id() -> RunId {
    RunId::from_bytes(random_bytes())
}

/// A fresh name of a set of logs.
pub fn deployment_id() -> DeploymentId {
    DeploymentId::from_bytes(random_bytes())
}

fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    let (low, high) = bytes.split_at_mut(8);
    low.copy_from_slice(&random().to_le_bytes());
    high.copy_from_slice(&random().to_le_bytes());
    bytes
}
