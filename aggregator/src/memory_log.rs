//! The commit log in memory: the test double of the port, with faults on request.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ingest::aws::{AwsError, AwsErrorKind};

use crate::commit_log::{AppendError, CommitLog, ReadError, WriteUnits};
use crate::entry::Entry;
use crate::partition::Partition;

/// What happens to one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is written and confirmed.
    None,
    /// It is written, but the answer is lost.
    AnswerLost,
    /// It is written, but a retry inside the client meets its own entry.
    MeetsItself,
    /// Nothing is written and nobody answers.
    Lost,
    /// Nothing is written; the store says so.
    Throttled,
}

/// Logs in memory. `faults` decides what happens to each append, in order; none left means none.
#[derive(Debug, Default)]
pub struct MemoryLog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    logs: BTreeMap<Partition, Vec<Entry>>,
    faults: Vec<Fault>,
}

impl MemoryLog {
    /// Empty logs, with faults for the next appends; the last one comes first.
    pub fn with_faults(faults: Vec<Fault>) -> Self {
        Self { state: Mutex::new(State { logs: BTreeMap::new(), faults }) }
    }

    /// Everything that was appended.
    pub fn logs(&self) -> BTreeMap<Partition, Vec<Entry>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).logs.clone()
    }
}

impl CommitLog for MemoryLog {
    async fn read_after(&self, partition: &Partition, version: u64) -> Result<Vec<Entry>, ReadError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = state.logs.get(partition).map(Vec::as_slice).unwrap_or_default();
        Ok(entries.iter().filter(|entry| version < entry.version).cloned().collect())
    }

    async fn append(&self, partition: &Partition, entry: &Entry) -> Result<WriteUnits, AppendError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = state.faults.pop().unwrap_or(Fault::None);
        let failure = |kind| AwsError { operation: "PutItem", kind, said: "fault".to_owned() };
        match fault {
            Fault::Lost => return Err(AppendError::Unknown(failure(AwsErrorKind::Unreachable))),
            Fault::Throttled => return Err(AppendError::Refused(failure(AwsErrorKind::Throttled))),
            Fault::None | Fault::AnswerLost | Fault::MeetsItself => {}
        }
        let entries = state.logs.entry(partition.clone()).or_default();
        if entries.iter().any(|stored| stored.version == entry.version) {
            return Err(AppendError::Occupied);
        }
        entries.push(entry.clone());
        match fault {
            Fault::AnswerLost => Err(AppendError::Unknown(failure(AwsErrorKind::Unreachable))),
            Fault::MeetsItself => Err(AppendError::Occupied),
            _ => Ok(WriteUnits(1)),
        }
    }
}
