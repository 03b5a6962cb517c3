//! Reading the stream where Lambda does not: a task a shard, batches by size and age, retried until they are done.
//!
//! Keeps no checkpoint. The local stream lives in memory; after a restart what was not acknowledged is read again from
//! its source, and everything else is known.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::ShardIteratorType;
use ingest::aws::AwsError;
use ingest::backoff::Backoff;
use ingest::dead_letter::{DeadLetter, DeadLetters};
use ingest::{Reason, Slice, Timestamp, stream_format};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::aggregator::{Aggregator, BatchFailure};
use crate::commit::Gain;
use crate::commit_log::CommitLog;

/// Records in one GetRecords call (Kinesis API reference: at most 10,000 and 10 MiB).
const GET_RECORDS_MAX: i32 = 1_000;
/// Wait before asking an empty shard again. A shard takes five reads a second in AWS; the local stream has no limit.
const IDLE_WAIT: Duration = Duration::from_millis(25);
/// Events that make a batch whatever its age.
const BATCH_EVENTS_MAX: usize = 100_000;
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10), tries_max: u32::MAX };

/// How the consumer runs.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Which stream.
    pub stream: String,
    /// How old the first slice of a batch may become: longer is cheaper, shorter is fresher.
    pub flush_interval: Duration,
    /// Reads the clock.
    pub clock: fn() -> Timestamp,
    /// Feeds the jitter of waits.
    pub random: fn() -> u64,
    /// Told how far each shard is done, so that a stream in memory can let go of it.
    pub checkpoints: Option<mpsc::UnboundedSender<Checkpoint>>,
}

/// Everything in a shard up to here is counted and acknowledged, or a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which shard.
    pub shard: String,
    /// The sequence number of the last record that is done.
    pub sequence_number: String,
}

/// Why the consumer stopped: an operator has to act.
#[derive(Debug, Error)]
pub enum ConsumerError {
    /// The stream cannot be read.
    #[error(transparent)]
    Stream(#[from] AwsError),
    /// What was read cannot be counted.
    #[error(transparent)]
    Batch(#[from] BatchFailure),
    /// A shard's task ended on its own.
    #[error("a shard reader failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Reads every shard from its beginning until `gains` is closed or something needs an operator.
///
/// `aggregator` makes one aggregator a shard: a bucket never spans two.
pub async fn consume<L: CommitLog + Send + 'static>(
    client: Client,
    options: ConsumerOptions,
    dead_letters: DeadLetters,
    aggregator: impl Fn() -> Aggregator<L>,
    gains: mpsc::Sender<Vec<Gain>>,
) -> Result<(), ConsumerError> {
    let mut shards = JoinSet::new();
    for shard in list_shards(&client, &options.stream).await? {
        let reader = ShardReader {
            client: client.clone(),
            options: options.clone(),
            dead_letters: dead_letters.clone(),
            aggregator: aggregator(),
            gains: gains.clone(),
        };
        shards.spawn(reader.run(shard));
    }
    while let Some(ended) = shards.join_next().await {
        ended??;
    }
    Ok(())
}

async fn list_shards(client: &Client, stream: &str) -> Result<BTreeSet<String>, AwsError> {
    let mut shards = BTreeSet::new();
    let mut next = None;
    loop {
        let request = match next.take() {
            Some(token) => client.list_shards().next_token(token),
            None => client.list_shards().stream_name(stream),
        };
        let page = request.send().await.map_err(|error| AwsError::new("ListShards", error))?;
        shards.extend(page.shards().iter().map(|shard| shard.shard_id().to_owned()));
        match page.next_token {
            Some(token) => next = Some(token),
            None => return Ok(shards),
        }
    }
}

struct ShardReader<L> {
    client: Client,
    options: ConsumerOptions,
    dead_letters: DeadLetters,
    aggregator: Aggregator<L>,
    gains: mpsc::Sender<Vec<Gain>>,
}

impl<L: CommitLog> ShardReader<L> {
    async fn run(mut self, shard: String) -> Result<(), ConsumerError> {
        let mut last_sequence_number = None::<String>;
        let mut iterator = None::<String>;
        let mut batch = Vec::new();
        let mut batch_events = 0;
        let mut oldest = None::<Instant>;
        let mut failures = 0;
        loop {
            if self.gains.is_closed() {
                return Ok(());
            }
            let is_due = oldest.is_some_and(|oldest| self.options.flush_interval <= oldest.elapsed());
            if is_due || BATCH_EVENTS_MAX <= batch_events {
                self.flush(std::mem::take(&mut batch)).await?;
                (batch_events, oldest) = (0, None);
                self.checkpoint(&shard, last_sequence_number.as_deref());
            }
            let read = match iterator.take() {
                Some(iterator) => self.read(iterator).await,
                None => match self.iterator(&shard, last_sequence_number.as_deref()).await {
                    Ok(iterator) => self.read(iterator).await,
                    Err(error) => Err(error),
                },
            };
            let (records, next) = match read {
                Ok(read) => read,
                Err(error) if error.kind.is_passing() || error.said.contains("ExpiredIterator") => {
                    failures += 1;
                    let wait = BACKOFF.wait(failures, (self.options.random)()).unwrap_or(BACKOFF.cap);
                    tracing::warn!(%error, shard, "reading the stream again");
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            failures = 0;
            let is_idle = records.is_empty();
            for (sequence_number, body) in records {
                match stream_format::decode(&body) {
                    Ok(slices) => {
                        batch_events += slices.iter().map(Slice::events).sum::<usize>();
                        batch.extend(slices);
                        oldest.get_or_insert_with(now);
                    }
                    Err(error) => self.set_aside(&shard, &sequence_number, body, &error).await?,
                }
                last_sequence_number = Some(sequence_number);
            }
            match next {
                Some(next) => iterator = Some(next),
                None => {
                    // The shard is closed: its children hold what comes after.
                    self.flush(batch).await?;
                    return Ok(());
                }
            }
            if is_idle {
                tokio::time::sleep(IDLE_WAIT).await;
            }
        }
    }

    fn checkpoint(&self, shard: &str, sequence_number: Option<&str>) {
        if let (Some(checkpoints), Some(sequence_number)) = (&self.options.checkpoints, sequence_number) {
            let (shard, sequence_number) = (shard.to_owned(), sequence_number.to_owned());
            // Nobody listening means that the process ends.
            let _ = checkpoints.send(Checkpoint { shard, sequence_number });
        }
    }

    async fn iterator(&self, shard: &str, after: Option<&str>) -> Result<String, AwsError> {
        let request = self.client.get_shard_iterator().stream_name(&self.options.stream).shard_id(shard);
        let request = match after {
            Some(sequence_number) => request
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(sequence_number),
            None => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
        };
        let answer = request.send().await.map_err(|error| AwsError::new("GetShardIterator", error))?;
        Ok(answer.shard_iterator.unwrap_or_default())
    }

    async fn read(&self, iterator: String) -> Result<(Vec<(String, Vec<u8>)>, Option<String>), AwsError> {
        let request = self.client.get_records().shard_iterator(iterator).limit(GET_RECORDS_MAX);
        let answer = request.send().await.map_err(|error| AwsError::new("GetRecords", error))?;
        let records = answer.records.into_iter();
        let records = records.map(|record| (record.sequence_number, record.data.into_inner())).collect();
        Ok((records, answer.next_shard_iterator))
    }

    /// Counts a batch, again and again until all of it is done.
    async fn flush(&mut self, mut batch: Vec<Slice>) -> Result<(), ConsumerError> {
        let mut tries = 0;
        while !batch.is_empty() {
            let outcome = self.aggregator.run(batch, (self.options.clock)()).await;
            // A closed channel means that the process ends: what was counted is found by the next sweep.
            if !outcome.gains.is_empty() && self.gains.send(outcome.gains).await.is_err() {
                return Ok(());
            }
            batch = outcome.failed;
            match outcome.failure {
                Some(failure) if failure.is_passing() => {
                    tries += 1;
                    tracing::warn!(%failure, slices = batch.len(), "counting again");
                    let wait = BACKOFF.wait(tries, (self.options.random)()).unwrap_or(BACKOFF.cap);
                    tokio::time::sleep(wait).await;
                }
                Some(failure) => return Err(failure.into()),
                None => {}
            }
        }
        Ok(())
    }

    /// Sets a record that nobody can read aside, whole, again and again until it is.
    async fn set_aside(
        &self,
        shard: &str,
        sequence_number: &str,
        body: Vec<u8>,
        error: &stream_format::FormatError,
    ) -> Result<(), AwsError> {
        tracing::error!(%error, shard, sequence_number, "a stream record is malformed; it is a dead letter");
        let letter = DeadLetter {
            object: format!("stream:{}/{shard}/{sequence_number}", self.options.stream),
            offset: 0,
            reason: Reason::SliceMalformed,
            bytes: body,
            is_whole: true,
            seen_at: (self.options.clock)(),
            resolved_at: None,
        };
        let mut tries = 0;
        loop {
            match self.dead_letters.put(std::slice::from_ref(&letter)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind.is_passing() => {
                    tries += 1;
                    tracing::warn!(%error, "setting aside again");
                    let wait = BACKOFF.wait(tries, (self.options.random)()).unwrap_or(BACKOFF.cap);
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The age of a batch is processing time of this loop; event time comes with the events.
fn now() -> Instant {
    Instant::now()
}
