//! The rooms between the stream and the API, running in this process: the aggregator, the roll-up and its sweep.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aggregator::acknowledgement::AcknowledgementError;
use aggregator::aggregator::{Aggregator, Counters};
use aggregator::commit::Gain;
use aggregator::consumer::{Checkpoint, ConsumerOptions, consume};
use aggregator::dynamodb_log::DynamoDbLog;
use aggregator::partition::Partition;
use aggregator::rollup::{RollUp, RollUpError};
use aggregator::usage_rows::{AdvanceError, DatabaseError, UsageRows};
use ingest::backoff::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::edge;
use crate::stores::{Role, Stores};

/// Known identities kept by all shards together. Only speed depends on it.
const CACHE_BYTES_MAX: usize = 256 << 20;
/// Batches of gains that may wait for the roll-up; then the aggregator waits.
const GAINS_WAITING_MAX: usize = 64;
/// How often the sweep looks again at what was counted since, whatever became of its trigger.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10), tries_max: u32::MAX };

/// The running workers.
pub(crate) struct Workers {
    consumer: JoinHandle<()>,
    roll_up: JoinHandle<()>,
    /// What an operator must act on, once there is something.
    pub(crate) failure: watch::Receiver<Option<String>>,
}

impl Workers {
    /// Starts the aggregator on every shard and the roll-up behind it. The first sweep takes what an earlier process
    /// counted and did not roll up.
    pub(crate) fn start(
        stores: &Stores,
        shards: usize,
        flush_interval: Duration,
        checkpoints: Option<mpsc::UnboundedSender<Checkpoint>>,
    ) -> anyhow::Result<Self> {
        let (failed, failure) = watch::channel(None);
        let (gains, gained) = mpsc::channel(GAINS_WAITING_MAX);
        let options = ConsumerOptions {
            stream: stores.name.clone(),
            flush_interval,
            clock: edge::now,
            random: edge::random,
            checkpoints,
        };
        let cache_bytes = CACHE_BYTES_MAX / shards.max(1);
        let counters = Arc::new(Counters::default());
        let shard_stores = stores.clone();
        let aggregator = move || {
            let stores = &shard_stores;
            let (log, acknowledgements) = (stores.commit_log(), stores.acknowledgements());
            Aggregator::new(
                log,
                acknowledgements,
                stores.dead_letters(),
                cache_bytes,
                edge::commit_id,
                counters.clone(),
            )
        };
        let (kinesis, dead_letters) = (stores.kinesis.clone(), stores.dead_letters());
        let consumer_failed = failed.clone();
        let consumer = tokio::spawn(async move {
            if let Err(error) = consume(kinesis, options, dead_letters, aggregator, gains).await {
                consumer_failed.send_replace(Some(format!("counting stopped: {error}")));
            }
        });
        let rows = UsageRows::new(stores.database.pool(Role::Aggregator)?);
        let worker = RollUpWorker { roll_up: RollUp::new(stores.commit_log(), rows), stores: stores.clone() };
        let roll_up = tokio::spawn(async move {
            if let Err(error) = worker.run(gained).await {
                failed.send_replace(Some(format!("roll-up stopped: {error}")));
            }
        });
        Ok(Self { consumer, roll_up, failure })
    }

    /// Ends both. What was not rolled up is found by the next sweep.
    pub(crate) async fn stop(self) {
        self.roll_up.abort();
        self.consumer.abort();
        // An aborted task reports just that.
        let _ = self.roll_up.await;
        let _ = self.consumer.await;
    }
}

struct RollUpWorker {
    roll_up: RollUp<DynamoDbLog>,
    stores: Stores,
}

impl RollUpWorker {
    async fn run(self, mut gained: mpsc::Receiver<Vec<Gain>>) -> Result<(), RollUpFailure> {
        // What an earlier process acknowledged and did not roll up: one scan, at the start.
        self.sweep(self.stores.acknowledgements().partitions().await?).await?;
        let mut recent = BTreeMap::<Partition, u64>::new();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                biased;
                first = gained.recv() => {
                    let Some(mut gains) = first else { return Ok(()) };
                    while let Ok(more) = gained.try_recv() {
                        gains.extend(more);
                    }
                    for gain in &gains {
                        recent.insert(gain.partition.clone(), gain.to_version);
                    }
                    self.apply(gains).await?;
                }
                _ = sweep.tick() => self.sweep(std::mem::take(&mut recent)).await?,
            }
        }
    }

    /// Brings partitions to at least these versions, reading the logs of those that are not there yet.
    async fn sweep(&self, acknowledged: BTreeMap<Partition, u64>) -> Result<(), RollUpFailure> {
        let gains = acknowledged.into_iter().map(|(partition, version)| Gain {
            partition,
            from_version: version,
            to_version: version,
            totals: None,
        });
        self.apply(gains.collect()).await
    }

    async fn apply(&self, gains: Vec<Gain>) -> Result<(), RollUpFailure> {
        let mut tries = 0;
        loop {
            match self.roll_up.apply(gains.clone(), edge::now()).await {
                Ok(()) => return Ok(()),
                Err(error) if is_passing(&error) => {
                    tries += 1;
                    tracing::warn!(%error, "rolling up again");
                    tokio::time::sleep(BACKOFF.wait(tries, edge::random()).unwrap_or(BACKOFF.cap)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RollUpFailure {
    #[error(transparent)]
    RollUp(#[from] RollUpError),
    #[error(transparent)]
    Sweep(#[from] AcknowledgementError),
}

fn is_passing(error: &RollUpError) -> bool {
    let database = match error {
        RollUpError::Read(aggregator::commit_log::ReadError::Store(error)) => return error.kind.is_passing(),
        RollUpError::Database(error) | RollUpError::Advance(AdvanceError::Database(error)) => error,
        _ => return false,
    };
    match database {
        // A full disk does not pass by waiting: someone has to make room.
        DatabaseError::Unavailable(source) => {
            source.as_database_error().and_then(|error| error.code()).is_none_or(|code| code != "53100")
        }
        DatabaseError::Refused(_) => false,
    }
}
