//! The rooms between the stream and the API, running in this process: the aggregator, the roll-up and its sweep.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use aggregator::acknowledgement::AcknowledgementError;
use aggregator::aggregator::{Aggregator, Counters, CountersSnapshot};
use aggregator::commit::Gain;
use aggregator::commit_log::ReadError;
use aggregator::consumer::{Checkpoint, ConsumerOptions, consume};
use aggregator::directory::AccountDirectory;
use aggregator::dynamodb_log::DynamoDbLog;
use aggregator::fact_rows::FactError;
use aggregator::partition::Partition;
use aggregator::rollup::{Refused, RollUp, RollUpError};
use aggregator::sweep::{Sweep, SweepError};
use aggregator::usage_rows::{AdvanceError, DatabaseError, UsageRows};
use aggregator::worker_record::WorkerRecord;
use futures::FutureExt;
use ingest::backoff::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::edge;
use crate::stores::{Role, Stores};

/// Known identities kept by all shards together. Only speed depends on it.
const CACHE_BYTES_MAX: usize = 256 << 20;
/// Batches of gains that may wait for the roll-up; then the aggregator waits.
const GAINS_WAITING_MAX: usize = 64;
/// How often the sweep looks at what was counted since the last one, and lets go on what goes on.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Failed tries before a person at a terminal is told why nothing moves.
const TRIES_BEFORE_SAID: u32 = 3;
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10), tries_max: u32::MAX };

/// The running workers. Dropped, they end where they are; what was not rolled up is found by the next first sweep.
pub(crate) struct Workers {
    consumer: JoinHandle<()>,
    roll_up: JoinHandle<()>,
    receipts: JoinHandle<()>,
    /// What an operator must act on, once there is something.
    pub(crate) failure: watch::Receiver<Option<String>>,
}

impl Workers {
    /// Rolls up what an earlier process counted and did not, then starts the aggregator on every shard and the roll-up
    /// behind it.
    pub(crate) async fn start(
        stores: &Stores,
        shards: usize,
        flush_interval: Duration,
        checkpoints: Option<mpsc::UnboundedSender<Checkpoint>>,
    ) -> anyhow::Result<Self> {
        let pool = stores.database.pool(Role::Aggregator)?;
        let roll_up = RollUp::new(stores.commit_log(), UsageRows::new(pool.clone()));
        let sweep = Sweep::new(roll_up, stores.acknowledgements(), AccountDirectory::new(pool.clone()));
        let counters = Arc::new(Counters::default());
        let record = WorkerRecord::new(pool, edge::run_id().to_string(), edge::now());
        let mut worker =
            RollUpWorker { sweep, refused: BTreeSet::new(), counters: counters.clone(), recorded: None, record };
        worker.sweep().await?;

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
        let consuming = consume(stores.kinesis.clone(), options, stores.dead_letters(), aggregator, gains);
        let consumer = supervise("counting", consuming, failed.clone());
        let roll_up = supervise("roll-up", worker.run(gained), failed);
        let receipts = tokio::spawn(refresh_receipts(stores.clone()));
        Ok(Self { consumer, roll_up, receipts, failure })
    }

    /// Ends all, and returns when they have ended.
    pub(crate) async fn stop(mut self) {
        self.receipts.abort();
        self.roll_up.abort();
        self.consumer.abort();
        // An aborted task reports just that.
        let _ = (&mut self.receipts).await;
        let _ = (&mut self.roll_up).await;
        let _ = (&mut self.consumer).await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.receipts.abort();
        self.roll_up.abort();
        self.consumer.abort();
    }
}

/// Works out every minute through which hour sources are complete. Counting does not wait for it, and it fails on its own:
/// the close works it out again.
async fn refresh_receipts(stores: Stores) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if let Err(error) = crate::commands::receipts::refresh(&stores, None).await {
            tracing::error!(%error, "completeness is not worked out; the next try is in a minute");
        }
    }
}

/// Runs a worker; says so when it ends by an error or a panic.
fn supervise<E: std::fmt::Display>(
    name: &'static str,
    work: impl Future<Output = Result<(), E>> + Send + 'static,
    failed: watch::Sender<Option<String>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let reason = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{name} stopped: {error}"),
            Err(_) => format!("{name} stopped by a bug in this program; its report is above"),
        };
        failed.send_replace(Some(reason));
    })
}

struct RollUpWorker {
    sweep: Sweep<DynamoDbLog>,
    /// Partitions that a person at a terminal was told about.
    refused: BTreeSet<Partition>,
    /// What the aggregators of this process have met.
    counters: Arc<Counters>,
    /// What the record says of them.
    recorded: Option<CountersSnapshot>,
    record: WorkerRecord,
}

impl RollUpWorker {
    async fn run(mut self, mut gained: mpsc::Receiver<Vec<Gain>>) -> Result<(), SweepError> {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                biased;
                first = gained.recv() => {
                    let Some(mut gains) = first else { return Ok(()) };
                    while let Ok(more) = gained.try_recv() {
                        gains.extend(more);
                    }
                    self.apply(gains).await?;
                }
                _ = sweep.tick() => self.sweep().await?,
            }
        }
    }

    /// Everything that has to be done whatever became of its trigger.
    async fn sweep(&mut self) -> Result<(), SweepError> {
        let swept = until_done(|| self.sweep.run(edge::now())).await?;
        self.say(swept.refused);
        self.recorded = None;
        self.keep_record().await
    }

    /// Writes down what was met, if there is more than the record says: a process may be killed long before its next sweep.
    async fn keep_record(&mut self) -> Result<(), SweepError> {
        let counters = self.counters.snapshot();
        if self.recorded != Some(counters) {
            until_done(|| self.record.write(counters, edge::now())).await?;
            self.recorded = Some(counters);
        }
        Ok(())
    }

    async fn apply(&mut self, gains: Vec<Gain>) -> Result<(), SweepError> {
        let refused = until_done(|| self.sweep.roll_up().apply(gains.clone(), edge::now())).await?;
        self.say(refused);
        self.keep_record().await
    }

    fn say(&mut self, refused: Vec<Refused>) {
        for one in refused {
            if self.refused.insert(one.partition.clone()) {
                crate::print::note(&format!("securebase: {one}"));
            }
        }
    }
}

/// Tries until it is done, or can not be done by waiting.
async fn until_done<T, E, F>(mut work: impl FnMut() -> F) -> Result<T, SweepError>
where
    E: Into<SweepError>,
    F: Future<Output = Result<T, E>>,
{
    let mut tries = 0;
    loop {
        match work().await.map_err(Into::into) {
            Err(error) if is_passing(&error) => {
                tries += 1;
                if tries == TRIES_BEFORE_SAID {
                    crate::print::note(&format!("securebase: still trying to roll up: {error}"));
                }
                tokio::time::sleep(BACKOFF.wait(tries, edge::random()).unwrap_or(BACKOFF.cap)).await;
            }
            outcome => return outcome,
        }
    }
}

fn is_passing(error: &SweepError) -> bool {
    let database = match error {
        SweepError::Store(error)
        | SweepError::Acknowledgements(AcknowledgementError::Store(error))
        | SweepError::RollUp(RollUpError::Read(ReadError::Store(error))) => return error.kind.is_passing(),
        SweepError::Directory(error)
        | SweepError::RollUp(
            RollUpError::Database(error)
            | RollUpError::Advance(AdvanceError::Database(error))
            | RollUpError::Facts(FactError::Database(error)),
        ) => error,
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
