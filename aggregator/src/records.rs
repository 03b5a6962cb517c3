//! Records of the stream, from whoever reads it: decoded and counted, or set aside; and from which one on a shard is to be
//! read again.

use std::collections::BTreeSet;

use ingest::dead_letter::DeadLetter;
use ingest::{Reason, Slice, SliceId, Timestamp, stream_format};

use crate::acknowledgement::AcknowledgementStore;
use crate::aggregator::{Aggregator, BatchFailure, DeadLetterStore};
use crate::commit::Gain;
use crate::commit_log::CommitLog;

/// A shard of a stream; records are named by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The stream's name.
    pub stream: String,
    /// The shard's id, such as `shardId-000000000000`.
    pub id: String,
}

/// A record as its reader has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredRecord {
    /// Its place in the shard.
    pub sequence_number: String,
    /// What a writer put on the stream.
    pub body: Vec<u8>,
}

/// What came of records of one shard.
#[derive(Debug, Default)]
pub struct RecordsOutcome {
    /// What the logs gained; to be rolled up.
    pub gains: Vec<Gain>,
    /// Records that nobody can read, set aside or to be.
    pub malformed: usize,
    /// Position of the first record that is not done; everything from it on is to be read again. Some records after it may
    /// be done: their events are known then.
    pub first_failed: Option<usize>,
    /// Why.
    pub failure: Option<BatchFailure>,
}

impl Shard {
    /// A record that nobody can read, whole, as a dead letter.
    pub(crate) fn malformed(&self, record: DeliveredRecord, now: Timestamp) -> DeadLetter {
        DeadLetter {
            object: format!("stream:{}/{}/{}", self.stream, self.id, record.sequence_number),
            offset: 0,
            number: 0,
            reason: Reason::SliceMalformed,
            bytes: record.body,
            is_whole: true,
            seen_at: now,
            resolved_at: None,
        }
    }

    /// The slices of a record, or the record as a dead letter, with an alarm.
    pub(crate) fn read(&self, record: DeliveredRecord, now: Timestamp) -> Result<Vec<Slice>, Box<DeadLetter>> {
        stream_format::decode(&record.body).map_err(|error| {
            let (shard, sequence_number) = (&self.id, &record.sequence_number);
            tracing::error!(%error, shard, sequence_number, "a stream record is malformed; it is a dead letter");
            Box::new(self.malformed(record, now))
        })
    }
}

impl<L: CommitLog, A: AcknowledgementStore, D: DeadLetterStore> Aggregator<L, A, D> {
    /// Counts records of one shard, given in the shard's order. A record that is not in the stream's format is set aside
    /// and is then done; so a record that is not done means that a store failed.
    pub async fn count(&mut self, shard: &Shard, records: Vec<DeliveredRecord>, now: Timestamp) -> RecordsOutcome {
        let mut batch = Vec::new();
        let mut slices_of = Vec::with_capacity(records.len());
        let (mut letters, mut first_letter) = (Vec::new(), None);
        for (position, record) in records.into_iter().enumerate() {
            match shard.read(record, now) {
                Ok(slices) => {
                    slices_of.push(slices.iter().map(|slice| slice.id).collect::<Vec<SliceId>>());
                    batch.extend(slices);
                }
                Err(letter) => {
                    slices_of.push(Vec::new());
                    letters.push(*letter);
                    first_letter.get_or_insert(position);
                }
            }
        }
        let set_aside = if letters.is_empty() { Ok(()) } else { self.dead_letters().set_aside(&letters).await };
        let counted = self.run(batch, now).await;
        let failed: BTreeSet<SliceId> = counted.failed.iter().map(|slice| slice.id).collect();
        let first_slice = slices_of.iter().position(|slices| slices.iter().any(|slice| failed.contains(slice)));
        let (first_letter, letter_failure) = match set_aside {
            Ok(()) => (None, None),
            Err(error) => (first_letter, Some(BatchFailure::from(error))),
        };
        RecordsOutcome {
            gains: counted.gains,
            malformed: letters.len(),
            first_failed: [first_slice, first_letter].into_iter().flatten().min(),
            failure: counted.failure.or(letter_failure),
        }
    }
}
