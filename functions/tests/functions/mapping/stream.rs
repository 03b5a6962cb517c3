//! The mapping of a stream: Kinesis or DynamoDB Streams.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Millis;
use super::answer::{Verdict, read};
use crate::runtime_api::Outcome;

/// "Lambda parameters for Amazon Kinesis Data Streams event source mappings", and the page for DynamoDB.
#[derive(Clone, Debug)]
pub(crate) struct StreamSettings {
    /// `BatchSize`, 1 to 10,000.
    pub(crate) batch_size: usize,
    /// `MaximumBatchingWindowInSeconds`, 0 to 300 s.
    pub(crate) batch_window: Millis,
    /// `ParallelizationFactor`, 1 to 10.
    pub(crate) parallelization_factor: usize,
    /// `ReportBatchItemFailures`.
    pub(crate) reports: bool,
    /// `BisectBatchOnFunctionError`.
    pub(crate) bisects: bool,
    /// `MaximumRetryAttempts`, 0 to 10,000; without it until the record expires.
    pub(crate) retries_max: Option<u32>,
    /// `MaximumRecordAgeInSeconds`, 60 s to 7 days; without it until the record expires.
    pub(crate) record_age_max: Option<Millis>,
    /// How long the stream keeps a record: 24 h for DynamoDB, 24 h to 365 days for Kinesis.
    pub(crate) retention: Millis,
}

/// A batch holds at most what a synchronous invocation may carry ("Lambda quotas": 6 MB).
pub(crate) const PAYLOAD_BYTES_MAX: usize = 6 << 20;
/// What a record's frame takes in an event beside its body in base64.
const FRAME_BYTES: usize = 500;

/// A record's place in its shard: a decimal number, of up to 56 digits with Kinesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SequenceNumber(String);

impl SequenceNumber {
    pub(crate) fn new(digits: impl Into<String>) -> Self {
        let digits = digits.into();
        assert!(!digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()), "{digits}");
        Self(digits)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.len(), &self.0).cmp(&(other.0.len(), &other.0))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A record of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) sequence_number: SequenceNumber,
    /// Decides the shard, and within it the order that parallelization keeps.
    pub(crate) key: String,
    pub(crate) arrived_at: Millis,
    pub(crate) body: Arc<[u8]>,
}

impl Record {
    fn bytes(&self) -> usize {
        self.body.len().div_ceil(3) * 4 + FRAME_BYTES
    }
}

/// One invocation.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) id: u64,
    pub(crate) shard: String,
    pub(crate) records: Vec<Record>,
}

/// Records that a mapping has given up; they go to the on-failure destination, whole where that is S3.
///
/// "Retain discarded batch records for a Kinesis Data Streams event source in Lambda".
#[derive(Clone, Debug)]
pub(crate) struct Discarded {
    pub(crate) shard: String,
    pub(crate) records: Vec<Record>,
    pub(crate) cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    RetriesExhausted,
    TooOld,
}

/// The mapping.
#[derive(Debug)]
pub(crate) struct StreamMapping {
    settings: StreamSettings,
    shards: BTreeMap<String, Shard>,
    under_way: BTreeMap<u64, (String, usize)>,
    next_attempt: u64,
    /// What went to the on-failure destination.
    pub(crate) discarded: Vec<Discarded>,
    /// What the stream let go of before it was done: lost.
    pub(crate) expired: Vec<Record>,
}

#[derive(Debug)]
struct Shard {
    parents: Vec<String>,
    is_closed: bool,
    /// Partition keys are spread over as many as the parallelization factor; each has one batch under way at a time, so that
    /// order is kept per key.
    lanes: Vec<Lane>,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Record>,
    /// Since when the next batch is gathered.
    gathering_since: Millis,
    /// What is left of a batch that failed, in order.
    pieces: VecDeque<Piece>,
    under_way: Option<Piece>,
    not_before: Millis,
}

#[derive(Clone, Debug)]
struct Piece {
    records: Vec<Record>,
    retries: u32,
}

impl StreamMapping {
    pub(crate) fn new(settings: StreamSettings) -> Self {
        assert!((1..=10_000).contains(&settings.batch_size));
        assert!(settings.batch_window <= 300_000);
        assert!((1..=10).contains(&settings.parallelization_factor));
        assert!(settings.retries_max.is_none_or(|retries| retries <= 10_000));
        assert!(settings.record_age_max.is_none_or(|age| (60_000..=604_800_000).contains(&age)));
        Self {
            settings,
            shards: BTreeMap::new(),
            under_way: BTreeMap::new(),
            next_attempt: 1,
            discarded: Vec::new(),
            expired: Vec::new(),
        }
    }

    /// Adds a shard. It is read once its parents are done: "Using Lambda to process records from Amazon Kinesis Data
    /// Streams" promises order, which for a key holds across a split or merge.
    pub(crate) fn open(&mut self, shard: &str, parents: &[&str]) {
        for parent in parents {
            self.shards.get_mut(*parent).expect("a parent is there").is_closed = true;
        }
        let lanes = (0..self.settings.parallelization_factor).map(|_| Lane::default()).collect();
        let parents = parents.iter().map(|&parent| parent.to_owned()).collect();
        assert!(self.shards.insert(shard.to_owned(), Shard { parents, is_closed: false, lanes }).is_none());
    }

    /// A record arrives.
    pub(crate) fn put(&mut self, shard: &str, record: Record) {
        let shard = self.shards.get_mut(shard).expect("the shard is open");
        assert!(!shard.is_closed, "a closed shard takes no records");
        let lane_of_key = record.key.bytes().fold(7_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte));
        let lanes = shard.lanes.len();
        let lane = &mut shard.lanes[lane_of_key % lanes];
        assert!(lane.waiting.back().is_none_or(|last| last.sequence_number < record.sequence_number));
        if lane.waiting.is_empty() {
            lane.gathering_since = lane.gathering_since.max(record.arrived_at);
        }
        lane.waiting.push_back(record);
    }

    /// The invocations to make now.
    pub(crate) fn due(&mut self, now: Millis) -> Vec<Attempt> {
        let readable: Vec<String> = self.shards.keys().filter(|name| self.is_readable(name)).cloned().collect();
        let mut attempts = Vec::new();
        for name in readable {
            let shard = self.shards.get_mut(&name).expect("it is readable");
            for (number, lane) in shard.lanes.iter_mut().enumerate() {
                if lane.under_way.is_some() || now < lane.not_before {
                    continue;
                }
                self.expired.extend(lane.drop_older(now, self.settings.retention));
                if let Some(age) = self.settings.record_age_max {
                    let records = lane.drop_older(now, age);
                    if !records.is_empty() {
                        self.discarded.push(Discarded { shard: name.clone(), records, cause: Cause::TooOld });
                    }
                }
                let Some(piece) = lane.pieces.pop_front().or_else(|| lane.gather(&self.settings, now)) else {
                    continue;
                };
                let id = self.next_attempt;
                self.next_attempt += 1;
                attempts.push(Attempt { id, shard: name.clone(), records: piece.records.clone() });
                lane.under_way = Some(piece);
                self.under_way.insert(id, (name.clone(), number));
            }
        }
        attempts
    }

    /// When the next invocation may be due, unless something arrives or ends before.
    pub(crate) fn next_at(&self) -> Option<Millis> {
        let shards = self.shards.iter().filter(|(name, _)| self.is_readable(name));
        let lanes = shards.flat_map(|(_, shard)| &shard.lanes).filter(|lane| lane.under_way.is_none());
        lanes.filter_map(|lane| lane.next_at(&self.settings)).min()
    }

    /// An invocation has ended.
    pub(crate) fn complete(&mut self, attempt: u64, outcome: &Outcome, now: Millis) {
        let (name, number) = self.under_way.remove(&attempt).expect("it is under way");
        let lane = &mut self.shards.get_mut(&name).expect("its shard is there").lanes[number];
        let piece = lane.under_way.take().expect("it is under way");
        lane.gathering_since = now;
        if let Some(records) = lane.go_on(piece, &read(outcome, self.settings.reports), &self.settings, now) {
            self.discarded.push(Discarded { shard: name, records, cause: Cause::RetriesExhausted });
        }
    }

    /// Whether everything that arrived is done, discarded or expired.
    pub(crate) fn is_done(&self) -> bool {
        self.shards.values().all(Shard::is_drained)
    }

    fn is_readable(&self, shard: &str) -> bool {
        self.shards[shard].parents.iter().all(|parent| self.shards[parent].is_drained() && self.is_readable(parent))
    }
}

impl Shard {
    fn is_drained(&self) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.is_empty() && lane.pieces.is_empty() && lane.under_way.is_none())
    }
}

impl Lane {
    fn drop_older(&mut self, now: Millis, age_max: Millis) -> Vec<Record> {
        let is_old = |record: &Record| record.arrived_at + age_max < now;
        let mut dropped = Vec::new();
        for piece in &mut self.pieces {
            dropped.extend(piece.records.extract_if(.., |record| is_old(record)));
        }
        self.pieces.retain(|piece| !piece.records.is_empty());
        while self.waiting.front().is_some_and(is_old) {
            dropped.extend(self.waiting.pop_front());
        }
        dropped
    }

    /// A batch, once there is a full one, or its window is over.
    ///
    /// "How Lambda processes records from stream and queue-based event sources", batching behavior: until the window
    /// expires, the batch size is met, or the payload reaches 6 MB.
    fn gather(&mut self, settings: &StreamSettings, now: Millis) -> Option<Piece> {
        let full = self.full(settings);
        let is_due = full.is_some() || self.gathering_since + settings.batch_window <= now;
        let count = full.unwrap_or(self.waiting.len());
        if count == 0 || !is_due {
            return None;
        }
        Some(Piece { records: self.waiting.drain(..count).collect(), retries: 0 })
    }

    /// How many records make a full batch, if there are so many.
    fn full(&self, settings: &StreamSettings) -> Option<usize> {
        let mut bytes = 0;
        for (count, record) in self.waiting.iter().enumerate() {
            bytes += record.bytes();
            if count == settings.batch_size || PAYLOAD_BYTES_MAX < bytes {
                return Some(count.max(1));
            }
        }
        (self.waiting.len() == settings.batch_size).then_some(settings.batch_size)
    }

    fn next_at(&self, settings: &StreamSettings) -> Option<Millis> {
        if !self.pieces.is_empty() {
            return Some(self.not_before);
        }
        if self.waiting.is_empty() {
            return None;
        }
        let window = if self.full(settings).is_some() { 0 } else { settings.batch_window };
        Some(self.not_before.max(self.gathering_since + window))
    }

    /// What is left of a batch, to be tried again; or, when its retries are used up, to be discarded.
    fn go_on(
        &mut self,
        piece: Piece,
        verdict: &Verdict,
        settings: &StreamSettings,
        now: Millis,
    ) -> Option<Vec<Record>> {
        let Piece { mut records, retries } = piece;
        let failed_from = match verdict {
            Verdict::Done => return None,
            // "If the batchItemFailures array contains multiple items, Lambda uses the record with the lowest sequence
            // number as the checkpoint."
            Verdict::Again(items) => {
                // Assumed: items that are not in the batch fail all of it.
                let is_named = |record: &Record| items.contains(&record.sequence_number.0);
                records.iter().position(is_named)
            }
            Verdict::Failed => None,
        };
        let mut split = false;
        match failed_from {
            // The checkpoint moves to there. With bisecting the batch is bisected at the returned sequence number, and only
            // the rest is retried.
            Some(position) => {
                records.drain(..position);
                split = settings.bisects && 0 < position;
            }
            // "If the invocation fails and BisectBatchOnFunctionError is turned on, the batch is bisected regardless of
            // your ReportBatchItemFailures setting."
            None if settings.bisects && 1 < records.len() => {
                let second = records.split_off(records.len() / 2);
                self.pieces.push_front(Piece { records: second, retries });
                split = true;
            }
            None => {}
        }
        // "Splitting batches doesn't consume the retry quota."
        let retries = if split { retries } else { retries + 1 };
        if settings.retries_max.is_some_and(|max| max < retries) {
            return Some(records);
        }
        self.pieces.push_front(Piece { records, retries });
        // Assumed: a wait that doubles up to about a minute. The pages say that retries back off, not how.
        self.not_before = now + if split { 0 } else { 1_000 << retries.min(6) };
        None
    }
}
