//! One batch of slices, from the stream to acknowledged: every partition on its own, the shard never held up by one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, stream};
use ingest::dead_letter::{DeadLetter, DeadLetters};
use ingest::{Bucket, Reason, RunId, Slice, SliceId, Timestamp, Window, stream_format};

use ingest::aws::AwsError;

use crate::acknowledgement::{
    Acknowledgement, AcknowledgementError, AcknowledgementStore, Acknowledgements, RunAcknowledged,
};
use crate::commit::{CommitError, Committed, Gain, Limits, Loaded, PartlyCommitted, commit};
use crate::commit_log::CommitLog;
use crate::entry::CommitId;
use crate::fold::Tally;

/// Buckets and windows committed at once. What is known of so many is outside the cache.
const PARTITIONS_AT_ONCE: usize = 16;

/// The port to where dead letters are kept.
pub trait DeadLetterStore: Sync {
    /// Sets records aside. One that was set aside before stays as it is.
    fn set_aside(&self, letters: &[DeadLetter]) -> impl Future<Output = Result<(), AwsError>> + Send;
}

impl DeadLetterStore for DeadLetters {
    async fn set_aside(&self, letters: &[DeadLetter]) -> Result<(), AwsError> {
        self.put(letters).await.map(drop)
    }
}

/// Counts slices and acknowledges them.
#[derive(Debug)]
pub struct Aggregator<L, A = Acknowledgements, D = DeadLetters> {
    log: L,
    acknowledgements: A,
    dead_letters: D,
    cache: Mutex<Cache>,
    /// Write units of slices that failed, to be acknowledged with them once they do not.
    unacknowledged_units: BTreeMap<(Bucket, Window), u64>,
    limits: Limits,
    random_id: fn() -> CommitId,
    counters: Arc<Counters>,
}

/// What has happened to aggregators since they started that no store says. Aggregators add to it; whoever runs them shows a
/// [`Counters::snapshot`] to its operator.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries of other writers that were met.
    pub conflicts: AtomicU64,
    /// Writes whose answer was lost.
    pub unknown_outcomes: AtomicU64,
    /// Slices set aside because their partition cannot be trusted.
    pub parked_slices: AtomicU64,
}

/// [`Counters`] at one time, in plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountersSnapshot {
    /// Entries of other writers that were met: more than a few mean that two aggregators read the same shard.
    pub conflicts: u64,
    /// Writes whose answer was lost: the network or the store is in trouble.
    pub unknown_outcomes: u64,
    /// Slices set aside because their partition cannot be trusted: someone has to look at it.
    pub parked_slices: u64,
}

impl Counters {
    /// Where they stand.
    pub fn snapshot(&self) -> CountersSnapshot {
        CountersSnapshot {
            conflicts: self.conflicts.load(Ordering::Relaxed),
            unknown_outcomes: self.unknown_outcomes.load(Ordering::Relaxed),
            parked_slices: self.parked_slices.load(Ordering::Relaxed),
        }
    }
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct BatchOutcome {
    /// What the logs gained; to be rolled up.
    pub gains: Vec<Gain>,
    /// Slices to try again, and why the last of them failed.
    pub failed: Vec<Slice>,
    /// Why.
    pub failure: Option<BatchFailure>,
}

/// Why slices are to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum BatchFailure {
    /// A log could not be written or read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Dead letters or acknowledgements could not be written, or acknowledgements not be looked up.
    #[error(transparent)]
    Store(#[from] AwsError),
}

impl BatchFailure {
    /// Whether the same batch may go through later; otherwise an operator has to act first.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Commit(error) => error.is_passing(),
            Self::Store(error) => error.kind.is_passing(),
        }
    }
}

impl<L: CommitLog, A: AcknowledgementStore, D: DeadLetterStore> Aggregator<L, A, D> {
    /// An aggregator that keeps at most `cache_bytes_max` of known identities; `random_id` gives fresh random ids.
    pub fn new(
        log: L,
        acknowledgements: A,
        dead_letters: D,
        cache_bytes_max: usize,
        random_id: fn() -> CommitId,
        counters: Arc<Counters>,
    ) -> Self {
        let cache = Mutex::new(Cache { bytes_max: cache_bytes_max, ..Cache::default() });
        let limits = Limits::default();
        let unacknowledged_units = BTreeMap::new();
        Self { log, acknowledgements, dead_letters, cache, unacknowledged_units, limits, random_id, counters }
    }

    /// The same with other limits, so that small tests see many entries and splits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    pub(crate) fn dead_letters(&self) -> &D {
        &self.dead_letters
    }

    /// Counts a batch. Each bucket and window is committed on its own; when one fails its slices come back in `failed` and
    /// the rest is done.
    pub async fn run(&mut self, batch: Vec<Slice>, now: Timestamp) -> BatchOutcome {
        let mut places = Places::new();
        for slice in batch {
            places.entry((slice.bucket, slice.window())).or_default().push(slice);
        }
        let done = commit_places(&self.log, &self.cache, places, &self.random_id, self.limits).await;

        let mut outcome = BatchOutcome::default();
        let mut acknowledged = Vec::new();
        let mut slices_done = Vec::new();
        // Slices that nothing was written for: copies of what is counted, or delivered before.
        let mut all_known = BTreeSet::new();
        for (place, slices, result) in done {
            let (mut committed, error) = match result {
                Ok(committed) => (committed, None),
                Err(failed) => (failed.committed, Some(failed.error)),
            };
            self.note(&committed);
            outcome.gains.append(&mut committed.gains);
            let failure = match error {
                Some(error) if error.is_of_the_log() => {
                    self.park(&slices, &committed, &error, now).await.err().map(BatchFailure::from)
                }
                error => error.map(BatchFailure::from),
            };
            let units = committed.units.0 + self.unacknowledged_units.remove(&place).unwrap_or_default();
            match failure {
                None => {
                    if units == 0 {
                        all_known.extend(slices.iter().map(|slice| slice.id));
                    }
                    acknowledged.extend(acknowledge(&slices, &committed, units));
                    slices_done.extend(slices);
                }
                Some(failure) => {
                    self.owe(place, units);
                    outcome.fail(slices, failure);
                }
            }
        }
        if let Err(failure) = self.say(&acknowledged, &all_known).await {
            // Counted but not acknowledged: the next try finds everything known and says so.
            for (slice, said) in slices_done.iter().zip(&acknowledged) {
                self.owe((slice.bucket, slice.window()), said.units);
            }
            outcome.fail(slices_done, failure);
        }
        outcome
    }

    /// Acknowledges slices, unless the same was said of them before: a redelivery costs a read a run, and no write. Only
    /// those in `maybe_said` are looked up.
    async fn say(&self, acknowledged: &[Acknowledgement], maybe_said: &BTreeSet<SliceId>) -> Result<(), BatchFailure> {
        let runs: Vec<RunId> = maybe_said.iter().map(|slice| slice.run).collect::<BTreeSet<_>>().into_iter().collect();
        let found = match self.acknowledgements.of_runs(&runs).await {
            Ok(found) => found,
            // Nobody counts by what stands there: it is said again beside it, and the close names what it cannot read.
            Err(error @ AcknowledgementError::Item(_)) => {
                tracing::error!(%error, "acknowledgements cannot be read; slices are acknowledged again");
                Vec::new()
            }
            Err(AcknowledgementError::Store(error)) => return Err(error.into()),
        };
        let found: BTreeMap<RunId, RunAcknowledged> = runs.into_iter().zip(found).collect();
        let is_said = |said: &Acknowledgement| {
            maybe_said.contains(&said.slice) && found.get(&said.slice.run).is_some_and(|run| run.says(said))
        };
        let unsaid: Vec<Acknowledgement> = acknowledged.iter().filter(|said| !is_said(said)).cloned().collect();
        let slices = acknowledged.len() - unsaid.len();
        if 0 < slices {
            tracing::debug!(slices, "said before");
        }
        if !unsaid.is_empty() {
            self.acknowledgements.acknowledge((self.random_id)(), &unsaid).await?;
        }
        Ok(())
    }

    fn owe(&mut self, place: (Bucket, Window), units: u64) {
        if 0 < units {
            *self.unacknowledged_units.entry(place).or_default() += units;
        }
    }

    fn note(&self, committed: &Committed) {
        self.counters.conflicts.fetch_add(committed.conflicts.into(), Ordering::Relaxed);
        self.counters.unknown_outcomes.fetch_add(committed.unknown_outcomes.into(), Ordering::Relaxed);
    }

    /// Sets slices aside, whole, of which a log that contradicts itself should have taken something.
    async fn park(
        &self,
        slices: &[Slice],
        committed: &Committed,
        error: &CommitError,
        now: Timestamp,
    ) -> Result<(), AwsError> {
        let letters =
            slices.iter().zip(&committed.tallies).filter(|(slice, tally)| (tally.all() as usize) < slice.parts());
        let letters: Vec<DeadLetter> = letters
            .map(|(slice, _)| DeadLetter {
                object: slice.id.letter_name(),
                offset: 0,
                number: 0,
                reason: Reason::PartitionUntrusted,
                bytes: stream_format::encode(std::slice::from_ref(slice)),
                is_whole: true,
                seen_at: now,
                resolved_at: None,
            })
            .collect();
        self.dead_letters.set_aside(&letters).await?;
        self.counters.parked_slices.fetch_add(letters.len() as u64, Ordering::Relaxed);
        tracing::error!(%error, slices = letters.len(), "a partition cannot be trusted; its slices are dead letters");
        Ok(())
    }
}

impl BatchOutcome {
    fn fail(&mut self, slices: Vec<Slice>, failure: BatchFailure) {
        self.failed.extend(slices);
        self.failure = Some(failure);
    }
}

type Places = BTreeMap<(Bucket, Window), Vec<Slice>>;

/// Commits each place on its own. A place's state leaves the cache when its commit begins and is back when it ends.
async fn commit_places<L: CommitLog>(
    log: &L,
    cache: &Mutex<Cache>,
    places: Places,
    random_id: &(dyn Fn() -> CommitId + Sync),
    limits: Limits,
) -> Vec<((Bucket, Window), Vec<Slice>, Result<Committed, Box<PartlyCommitted>>)> {
    stream::iter(places)
        .map(|(place, slices)| async move {
            let mut loaded = lock(cache).take(place);
            let result = commit(log, &mut loaded, &slices, random_id, limits).await;
            lock(cache).put(place, loaded);
            (place, slices, result)
        })
        .buffer_unordered(PARTITIONS_AT_ONCE)
        .collect()
        .await
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    // Taking and putting leave it whole, and it holds nothing that is not in a log.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Events of a slice that no trusted log knows; 0 unless its commit met one that cannot be trusted.
fn left_over(slice: &Slice, tally: &Tally) -> u64 {
    slice.events() as u64 - tally.counted - tally.duplicates
}

/// One acknowledgement a slice; the cost of the commit is shared evenly, the remainder with the first.
fn acknowledge<'a>(
    slices: &'a [Slice],
    committed: &'a Committed,
    units: u64,
) -> impl Iterator<Item = Acknowledgement> + 'a {
    let (share, remainder) = (units / slices.len() as u64, units % slices.len() as u64);
    let said = committed.tallies.iter().zip(&committed.through);
    slices.iter().zip(said).enumerate().map(move |(position, (slice, (tally, through)))| Acknowledgement {
        slice: slice.id,
        tally: *tally,
        parked: left_over(slice, tally),
        units: share + if position == 0 { remainder } else { 0 },
        through: through.clone(),
    })
}

/// Known states by bucket and window, the least recently used dropped first. Only speed depends on it.
#[derive(Debug, Default)]
struct Cache {
    bytes_max: usize,
    bytes: usize,
    uses: u64,
    places: BTreeMap<(Bucket, Window), (u64, usize, Loaded)>,
}

impl Cache {
    fn take(&mut self, place: (Bucket, Window)) -> Loaded {
        match self.places.remove(&place) {
            Some((_, bytes, loaded)) => {
                self.bytes -= bytes;
                loaded
            }
            None => Loaded::new(),
        }
    }

    fn put(&mut self, place: (Bucket, Window), loaded: Loaded) {
        if loaded.is_empty() {
            return;
        }
        self.uses += 1;
        let bytes = loaded.values().map(crate::known::Known::bytes).sum();
        self.bytes += bytes;
        self.places.insert(place, (self.uses, bytes, loaded));
        while self.bytes_max < self.bytes {
            let oldest = self.places.iter().min_by_key(|(_, (used, _, _))| *used).map(|(place, _)| *place);
            let Some(oldest) = oldest else { break };
            self.take(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use ingest::{AccountId, CounterKey, Dimensions, Hour, Identity, Meter, RunId, SliceGroup, SliceId};

    use super::*;
    use crate::commit_log::{AppendError, ReadError, WriteUnits};
    use crate::entry::Entry;
    use crate::memory_log::MemoryLog;
    use crate::partition::Partition;

    /// Sees during each append how many states are in the cache.
    struct Watching<'a> {
        log: MemoryLog,
        cache: &'a Mutex<Cache>,
        fewest: AtomicUsize,
    }

    impl CommitLog for Watching<'_> {
        async fn read_after(&self, partition: &Partition, version: u64) -> Result<Vec<Entry>, ReadError> {
            self.log.read_after(partition, version).await
        }

        async fn append(&self, partition: &Partition, entry: &Entry) -> Result<WriteUnits, AppendError> {
            // Lets the others begin.
            tokio::task::yield_now().await;
            let cached = lock(self.cache).places.len();
            self.fewest.fetch_min(cached, Ordering::Relaxed);
            self.log.append(partition, entry).await
        }
    }

    /// A slice of one new identity in each of so many hours.
    fn places(hours: i64, number: u32) -> Places {
        let account = AccountId::parse("000000000012").unwrap();
        let dimensions = Dimensions { region: "eu-west-1".into(), category: "Management".into() };
        let counter = CounterKey { meter: Meter::CloudTrailEvents, account, dimensions };
        let place = |hour: i64| {
            let hour = Hour::from_number(500_000 + hour).unwrap();
            let identities = vec![Identity::from_bytes([u8::try_from(number).unwrap(); 16])];
            let groups =
                vec![SliceGroup { counter: counter.clone(), identities, first: hour.start(), last: hour.start() }];
            let id = SliceId { run: RunId::from_bytes([1; 16]), number };
            ((account.bucket(), Window::Hour(hour)), vec![Slice::of_counts(id, account.bucket(), hour, groups)])
        };
        (0..hours).map(place).collect()
    }

    #[tokio::test]
    async fn only_the_states_of_the_commits_under_way_are_outside_the_cache() {
        let hours = 10 * PARTITIONS_AT_ONCE;
        let cache = Mutex::new(Cache { bytes_max: usize::MAX, ..Cache::default() });
        let log = Watching { log: MemoryLog::default(), cache: &cache, fewest: AtomicUsize::new(usize::MAX) };
        let random_id = || CommitId([7; 16]);
        for (number, fewest) in [(1, 0), (2, hours - PARTITIONS_AT_ONCE)] {
            log.fewest.store(usize::MAX, Ordering::Relaxed);
            let places = places(i64::try_from(hours).unwrap(), number);
            let done = commit_places(&log, &cache, places, &random_id, Limits::default()).await;
            assert!(done.iter().all(|(_, _, result)| result.is_ok()));
            assert_eq!((log.fewest.load(Ordering::Relaxed), lock(&cache).places.len()), (fewest, hours));
        }
    }

    #[test]
    fn the_cache_drops_what_was_used_least_recently_and_never_holds_more_than_its_bytes() {
        let state = |hour: i64| {
            let window = Window::Hour(Hour::from_number(500_000 + hour).unwrap());
            let partition = Partition::root(Bucket::new(1).unwrap(), window);
            ((partition.bucket, window), Loaded::from([(partition.clone(), crate::known::Known::empty(partition))]))
        };
        let one = state(0).1.values().map(crate::known::Known::bytes).sum::<usize>();
        let mut cache = Cache { bytes_max: 3 * one, ..Cache::default() };
        for hour in 0..3 {
            let (place, loaded) = state(hour);
            cache.put(place, loaded);
        }
        let used_again = cache.take(state(0).0);
        assert_eq!((used_again.len(), cache.bytes), (1, 2 * one));
        cache.put(state(0).0, used_again);
        for hour in 3..5 {
            let (place, loaded) = state(hour);
            cache.put(place, loaded);
        }
        let kept: Vec<_> = cache.places.keys().copied().collect();
        assert_eq!((kept, cache.bytes), (vec![state(0).0, state(3).0, state(4).0], 3 * one));
        // A commit that failed leaves nothing behind.
        cache.put(state(9).0, Loaded::new());
        assert_eq!(cache.places.len(), 3);
    }
}
