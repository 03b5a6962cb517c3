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
use ingest::{Slice, Timestamp};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::aggregator::{Aggregator, BatchFailure};
use crate::commit::Gain;
use crate::commit_log::CommitLog;
use crate::records::{DeliveredRecord, Shard};

/// Records in one GetRecords call (Kinesis API reference: at most 10,000 and 10 MiB).
const GET_RECORDS_MAX: i32 = 1_000;
/// Wait before asking an empty shard again. A shard takes five reads a second in AWS; the local stream has no limit.
const IDLE_WAIT: Duration = Duration::from_millis(25);
/// Wait before listing shards again when none of them is left to read.
const LIST_WAIT: Duration = Duration::from_secs(1);
/// Events that make a batch whatever its age.
const BATCH_EVENTS_MAX: usize = 100_000;
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10), tries_max: u32::MAX };

/// From which try on a failure that ought to pass is an error in the log, so that someone sees why nothing moves.
const TRIES_BEFORE_ALARM: u32 = 5;

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

/// Reads every shard from its beginning until `gains` is closed or something needs an operator. When shards are split or
/// merged, their children are read once they are.
///
/// `aggregator` makes one aggregator a shard: a bucket never spans two that are open.
pub async fn consume<L: CommitLog + Send + 'static>(
    client: Client,
    options: ConsumerOptions,
    dead_letters: DeadLetters,
    aggregator: impl Fn() -> Aggregator<L>,
    gains: mpsc::Sender<Vec<Gain>>,
) -> Result<(), ConsumerError> {
    let mut lineage = Lineage::default();
    let mut readers = JoinSet::new();
    while !gains.is_closed() {
        let mut failures = Failures::new("listing shards", options.random);
        let listed = loop {
            match list_shards(&client, &options.stream).await {
                Ok(listed) => break listed,
                Err(_) if gains.is_closed() => break Vec::new(),
                Err(error) if error.kind.is_passing() => failures.wait(&error).await,
                Err(error) => return Err(error.into()),
            }
        };
        for shard in lineage.begin(&listed) {
            let reader = ShardReader {
                client: client.clone(),
                options: options.clone(),
                dead_letters: dead_letters.clone(),
                aggregator: aggregator(),
                gains: gains.clone(),
            };
            readers.spawn(reader.run(shard));
        }
        match readers.join_next().await {
            Some(ended) => lineage.end(ended??),
            None => tokio::time::sleep(LIST_WAIT).await,
        }
    }
    while let Some(ended) = readers.join_next().await {
        ended??;
    }
    Ok(())
}

/// A shard as the stream lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ListedShard {
    id: String,
    /// The shards it was split off or merged from; they may be gone.
    parents: Vec<String>,
}

/// Which shards were begun and which are read to their end.
#[derive(Debug, Default)]
struct Lineage {
    begun: BTreeSet<String>,
    ended: BTreeSet<String>,
}

impl Lineage {
    /// The shards to begin now: a child waits for those of its parents that are still there.
    fn begin(&mut self, listed: &[ListedShard]) -> Vec<String> {
        let is_there = |id: &String| listed.iter().any(|shard| shard.id == *id);
        let is_ready =
            |shard: &&ListedShard| shard.parents.iter().all(|parent| self.ended.contains(parent) || !is_there(parent));
        let ready: Vec<String> = listed
            .iter()
            .filter(|shard| !self.begun.contains(&shard.id))
            .filter(is_ready)
            .map(|shard| shard.id.clone())
            .collect();
        self.begun.extend(ready.iter().cloned());
        ready
    }

    fn end(&mut self, shard: String) {
        self.ended.insert(shard);
    }
}

async fn list_shards(client: &Client, stream: &str) -> Result<Vec<ListedShard>, AwsError> {
    let mut listed = Vec::new();
    let mut next = None;
    loop {
        let request = match next.take() {
            Some(token) => client.list_shards().next_token(token),
            None => client.list_shards().stream_name(stream),
        };
        let page = request.send().await.map_err(|error| AwsError::new("ListShards", error))?;
        listed.extend(
            page.shards().iter().map(|shard| ListedShard {
                id: shard.shard_id().to_owned(),
                parents: shard
                    .parent_shard_id()
                    .into_iter()
                    .chain(shard.adjacent_parent_shard_id())
                    .map(str::to_owned)
                    .collect(),
            }),
        );
        match page.next_token {
            Some(token) => next = Some(token),
            None => return Ok(listed),
        }
    }
}

/// Tries of one thing that ought to go through.
struct Failures {
    what: &'static str,
    random: fn() -> u64,
    tries: u32,
}

impl Failures {
    fn new(what: &'static str, random: fn() -> u64) -> Self {
        Self { what, random, tries: 0 }
    }

    /// Says that another try has failed, and waits before the next.
    async fn wait(&mut self, error: &impl std::fmt::Display) {
        self.note(error);
        tokio::time::sleep(BACKOFF.wait(self.tries, (self.random)()).unwrap_or(BACKOFF.cap)).await;
    }

    fn note(&mut self, error: &impl std::fmt::Display) {
        self.tries += 1;
        let (what, tries) = (self.what, self.tries);
        if tries < TRIES_BEFORE_ALARM {
            tracing::warn!(%error, tries, "{what} failed; trying again");
        } else {
            tracing::error!(%error, tries, "{what} keeps failing; still trying");
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
    /// Reads a shard to its end, or until `gains` is closed.
    async fn run(mut self, shard: String) -> Result<String, ConsumerError> {
        let named = Shard { stream: self.options.stream.clone(), id: shard.clone() };
        let mut last_sequence_number = None::<String>;
        let mut iterator = None::<String>;
        let mut batch = Vec::new();
        let mut batch_events = 0;
        let mut oldest = None::<Instant>;
        let mut failures = Failures::new("reading the stream", self.options.random);
        loop {
            if self.gains.is_closed() {
                return Ok(shard);
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
                    failures.wait(&error).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            failures.tries = 0;
            let is_idle = records.is_empty();
            for record in records {
                let sequence_number = record.sequence_number.clone();
                match named.read(record, (self.options.clock)()) {
                    Ok(slices) => {
                        batch_events += slices.iter().map(Slice::events).sum::<usize>();
                        batch.extend(slices);
                        oldest.get_or_insert_with(now);
                    }
                    Err(letter) => self.set_aside(&letter).await?,
                }
                last_sequence_number = Some(sequence_number);
            }
            match next {
                Some(next) => iterator = Some(next),
                None => {
                    // The shard is closed: its children hold what comes after.
                    self.flush(batch).await?;
                    self.checkpoint(&shard, last_sequence_number.as_deref());
                    return Ok(shard);
                }
            }
            if is_idle {
                tokio::time::sleep(IDLE_WAIT).await;
            }
        }
    }

    fn checkpoint(&self, shard: &str, sequence_number: Option<&str>) {
        if self.gains.is_closed() {
            // The last batch may have been left undone.
            return;
        }
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

    async fn read(&self, iterator: String) -> Result<(Vec<DeliveredRecord>, Option<String>), AwsError> {
        let request = self.client.get_records().shard_iterator(iterator).limit(GET_RECORDS_MAX);
        let answer = request.send().await.map_err(|error| AwsError::new("GetRecords", error))?;
        let records = answer
            .records
            .into_iter()
            .map(|record| DeliveredRecord { sequence_number: record.sequence_number, body: record.data.into_inner() });
        Ok((records.collect(), answer.next_shard_iterator))
    }

    /// Counts a batch, again and again until all of it is done.
    async fn flush(&mut self, mut batch: Vec<Slice>) -> Result<(), ConsumerError> {
        let mut failures = Failures::new("counting", self.options.random);
        while !batch.is_empty() {
            let outcome = self.aggregator.run(batch, (self.options.clock)()).await;
            // A closed channel means that the process ends: what was counted is found by the next sweep.
            if !outcome.gains.is_empty() && self.gains.send(outcome.gains).await.is_err() {
                return Ok(());
            }
            batch = outcome.failed;
            match outcome.failure {
                Some(failure) if failure.is_passing() => failures.wait(&failure).await,
                Some(failure) => return Err(failure.into()),
                None => {}
            }
        }
        Ok(())
    }

    /// Sets a record that nobody can read aside, whole, again and again until it is.
    async fn set_aside(&self, letter: &DeadLetter) -> Result<(), AwsError> {
        let mut failures = Failures::new("setting a stream record aside", self.options.random);
        loop {
            match self.dead_letters.put(std::slice::from_ref(letter)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind.is_passing() => failures.wait(&error).await,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The age of a batch is processing time of this loop; event time comes with the events.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str]) -> ListedShard {
        ListedShard { id: id.to_owned(), parents: parents.iter().map(|&parent| parent.to_owned()).collect() }
    }

    #[test]
    fn children_are_begun_once_all_their_parents_are_read_or_gone() {
        let mut lineage = Lineage::default();
        let listed = [shard("b", &["a"]), shard("c", &["a"]), shard("d", &["b", "c"]), shard("e", &["forgotten", "c"])];
        assert_eq!(lineage.begin(&listed), ["b", "c"], "their parent is gone");
        assert_eq!(lineage.begin(&listed), [""; 0], "each once");
        lineage.end("c".to_owned());
        assert_eq!(lineage.begin(&listed), ["e"]);
        lineage.end("b".to_owned());
        assert_eq!(lineage.begin(&listed), ["d"]);
        lineage.end("d".to_owned());
        // Children that came with a split, and the split shard no longer listed.
        assert_eq!(lineage.begin(&[shard("f", &["d"]), shard("g", &["e"]), shard("e", &[])]), ["f"]);
    }

    /// Keeps the level of every event.
    struct Levels(std::sync::Arc<std::sync::Mutex<Vec<tracing::Level>>>);

    impl tracing::Subscriber for Levels {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            self.0.lock().unwrap().push(*event.metadata().level());
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_failure_that_does_not_pass_is_an_error_in_the_log_from_the_fifth_try_on() {
        let levels = std::sync::Arc::default();
        tracing::subscriber::with_default(Levels(std::sync::Arc::clone(&levels)), || {
            let mut failures = Failures::new("counting", || 0);
            for _ in 0..6 {
                failures.note(&"no answer");
            }
        });
        use tracing::Level;
        let expected = [[Level::WARN; 4].as_slice(), &[Level::ERROR; 2]].concat();
        assert_eq!(*levels.lock().unwrap(), expected);
    }
}
