//! Counting a batch: load, fold, append, and again when another was faster.

use std::collections::{BTreeMap, HashMap};

use ingest::{CounterKey, Slice, Window};
use thiserror::Error;

use crate::commit_log::{AppendError, CommitLog, ReadError, WriteUnits};
use crate::entry::{CommitId, Content, Entry};
use crate::fold::{Folded, Tally, fold};
use crate::known::{Known, Untrusted};
use crate::partition::Partition;

/// From how many identities on a log is split. A cold load of a full one reads 1.6 MB.
pub const SPLIT_AT_IDENTITIES: usize = 100_000;

/// Where entries and logs end; only the defaults are for use, simulations set smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of an entry.
    pub entry_bytes_max: usize,
    /// From how many identities on a log is split.
    pub split_at_identities: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entry_bytes_max: Entry::BYTES_MAX, split_at_identities: SPLIT_AT_IDENTITIES }
    }
}

/// Tries against conflicts before the batch goes back to the stream.
const CONFLICTS_MAX: u32 = 100;

/// What counting a batch in one bucket and window came to.
#[derive(Debug, Default)]
pub struct Committed {
    /// One for each slice, in order.
    pub tallies: Vec<Tally>,
    /// For each slice, in order: the partitions that know identities of it, at versions that hold them.
    pub through: Vec<Vec<(Partition, u64)>>,
    /// Every partition that was looked at, and what its log gained.
    pub gains: Vec<Gain>,
    /// What it cost.
    pub units: WriteUnits,
    /// How often another writer was faster.
    pub conflicts: u32,
    /// How often an answer was lost: the entry had to be looked up, or a retry within the client met what an earlier try of it
    /// had written.
    pub unknown_outcomes: u32,
}

/// What one log gained: everything of the batch is in it at `to_version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gain {
    /// Which log.
    pub partition: Partition,
    /// Its version before our first entry; equal to `to_version` when nothing was new.
    pub from_version: u64,
    /// Its version now.
    pub to_version: u64,
    /// The newest total of every counter named between the two; `None` when entries of others lie between, and for facts,
    /// which are read from the log.
    pub totals: Option<HashMap<CounterKey, u64>>,
}

/// A batch of which not everything was counted. What was appended before the error stays and is known next time.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct PartlyCommitted {
    /// What was done: its gains are to be rolled up, its cost was paid, its tallies lack what is not counted.
    pub committed: Committed,
    /// Why not everything.
    #[source]
    pub error: CommitError,
}

/// Why a batch was not counted in a partition.
#[derive(Debug, Error)]
pub enum CommitError {
    /// The log cannot be read. Retry if passing.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log contradicts itself. Stop: park the batch.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The entry cannot be written. Retry if passing.
    #[error(transparent)]
    Append(AppendError),
    /// Others were faster every time. Retry.
    #[error("partition {0}: others were faster {CONFLICTS_MAX} times")]
    Contended(Partition),
}

impl CommitError {
    /// Whether the same batch may go through later; otherwise someone has to look.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Read(ReadError::Store(error)) => error.kind.is_passing(),
            Self::Append(AppendError::Refused(error) | AppendError::Unknown(error)) => error.kind.is_passing(),
            Self::Append(AppendError::Occupied) | Self::Contended(_) => true,
            Self::Read(ReadError::Item { .. }) | Self::Untrusted(_) => false,
        }
    }

    /// Whether the log itself is at fault, so that the rest of the shard can go on without it.
    pub fn is_of_the_log(&self) -> bool {
        matches!(self, Self::Untrusted(_) | Self::Read(ReadError::Item { .. }))
    }
}

/// Known states by partition; the caller keeps them between batches, or does not.
pub type Loaded = BTreeMap<Partition, Known>;

/// Counts slices of one bucket and window. `loaded` may hold what is known of their partitions from before; it comes back
/// holding what is known now. `commit_id` gives a fresh random id for each entry.
pub async fn commit<L: CommitLog>(
    log: &L,
    loaded: &mut Loaded,
    slices: &[Slice],
    commit_id: &(dyn Fn() -> CommitId + Sync),
    limits: Limits,
) -> Result<Committed, Box<PartlyCommitted>> {
    let (tallies, through) = (vec![Tally::default(); slices.len()], vec![Vec::new(); slices.len()]);
    let committed = Committed { tallies, through, ..Committed::default() };
    let mut writer = Writer { log, commit_id, limits, committed };
    match writer.commit_all(loaded, slices).await {
        Ok(()) => Ok(writer.committed),
        Err(error) => Err(Box::new(PartlyCommitted { committed: writer.committed, error })),
    }
}

struct Writer<'a, L> {
    log: &'a L,
    commit_id: &'a (dyn Fn() -> CommitId + Sync),
    limits: Limits,
    committed: Committed,
}

enum Appended {
    Ours,
    /// Another's entry stands there; the known state has taken it in.
    Others,
}

impl<L: CommitLog> Writer<'_, L> {
    async fn commit_all(&mut self, loaded: &mut Loaded, slices: &[Slice]) -> Result<(), CommitError> {
        let Some(first) = slices.first() else { return Ok(()) };
        assert!(
            slices.iter().all(|slice| (slice.bucket, slice.window()) == (first.bucket, first.window())),
            "a batch is of one bucket and window"
        );
        let root = Partition::root(first.bucket, first.window());
        let mut waiting = vec![(root, slices.iter().cloned().enumerate().collect::<Vec<_>>())];
        while let Some((partition, parts)) = waiting.pop() {
            let known = loaded.remove(&partition);
            let (positions, batch): (Vec<usize>, Vec<Slice>) = parts.into_iter().unzip();
            let (known, folded) = self.commit_one(&partition, known, &batch).await?;
            for (position, tally) in positions.iter().zip(&folded.tallies) {
                self.committed.tallies[*position].add(tally);
                if 0 < tally.all() {
                    self.committed.through[*position].push((partition.clone(), known.version()));
                }
            }
            for (child, parts) in folded.to_children {
                waiting.push((child, parts.into_iter().map(|(part, slice)| (positions[part], slice)).collect()));
            }
            loaded.insert(partition, known);
        }
        Ok(())
    }

    async fn commit_one(
        &mut self,
        partition: &Partition,
        known: Option<Known>,
        batch: &[Slice],
    ) -> Result<(Known, Folded), CommitError> {
        let mut known = match known {
            Some(known) => known,
            None => {
                let mut known = Known::empty(partition.clone());
                self.catch_up(&mut known).await?;
                known
            }
        };
        let mut gain = Gain {
            partition: partition.clone(),
            from_version: known.version(),
            to_version: known.version(),
            totals: matches!(partition.window, Window::Hour(_)).then(HashMap::new),
        };
        let folded = self.append_all(&mut known, &mut gain, batch).await;
        gain.to_version = known.version();
        // What an error leaves behind is a gain, too.
        if folded.is_ok() || gain.from_version < gain.to_version {
            self.committed.gains.push(gain);
        }
        Ok((known, folded?))
    }

    /// Folds and appends until everything of the batch that belongs here is known.
    async fn append_all(&mut self, known: &mut Known, gain: &mut Gain, batch: &[Slice]) -> Result<Folded, CommitError> {
        let mut conflicts = 0;
        'fold: loop {
            let is_full = self.limits.split_at_identities <= known.identities() && !known.is_split();
            let folded = if is_full { None } else { Some(fold(known, batch, self.limits.entry_bytes_max)) };
            let contents = folded.as_ref().map_or(vec![Content::Split], |folded| folded.contents.clone());
            for content in contents {
                let entry = Entry { version: known.version() + 1, commit: (self.commit_id)(), content };
                match self.append(known, gain, &entry).await? {
                    Appended::Ours => note_totals(gain, &entry),
                    Appended::Others => {
                        tracing::debug!(partition = %known.partition(), version = entry.version, "met another writer");
                        conflicts += 1;
                        self.committed.conflicts += 1;
                        if conflicts == CONFLICTS_MAX {
                            return Err(CommitError::Contended(known.partition().clone()));
                        }
                        continue 'fold;
                    }
                }
            }
            if let Some(folded) = folded {
                return Ok(folded);
            }
        }
    }

    /// Appends one entry. What is known changes only by what the store is seen to hold.
    async fn append(&mut self, known: &mut Known, gain: &mut Gain, entry: &Entry) -> Result<Appended, CommitError> {
        match self.log.append(known.partition(), entry).await {
            Ok(units) => {
                self.committed.units.0 += units.0;
                known.apply(entry)?;
                return Ok(Appended::Ours);
            }
            Err(AppendError::Occupied) => {}
            Err(AppendError::Unknown(error)) => {
                self.note_lost_answer(known, entry);
                let entries = self.log.read_after(known.partition(), known.version()).await?;
                if entries.is_empty() {
                    return Err(CommitError::Append(AppendError::Unknown(error)));
                }
                return take_in(known, gain, entry, &entries);
            }
            Err(refused @ AppendError::Refused(_)) => return Err(CommitError::Append(refused)),
        }
        let entries = self.log.read_after(known.partition(), known.version()).await?;
        if entries.first().is_some_and(|first| first.commit == entry.commit) {
            self.note_lost_answer(known, entry);
        }
        take_in(known, gain, entry, &entries)
    }

    fn note_lost_answer(&mut self, known: &Known, entry: &Entry) {
        tracing::debug!(partition = %known.partition(), version = entry.version, "lost the answer to a write");
        self.committed.unknown_outcomes += 1;
    }

    async fn catch_up(&mut self, known: &mut Known) -> Result<(), CommitError> {
        for entry in self.log.read_after(known.partition(), known.version()).await? {
            known.apply(&entry)?;
        }
        Ok(())
    }
}

/// Takes in what stands at and after our version: ours if its commit id is ours.
fn take_in(known: &mut Known, gain: &mut Gain, ours: &Entry, entries: &[Entry]) -> Result<Appended, CommitError> {
    // With others' entries behind ours the rest of the fold is stale, so ours counts only when it is the last.
    let is_ours = matches!(entries, [only] if only.commit == ours.commit);
    if !is_ours {
        gain.totals = None;
    }
    for entry in entries {
        known.apply(entry)?;
    }
    Ok(if is_ours { Appended::Ours } else { Appended::Others })
}

fn note_totals(gain: &mut Gain, entry: &Entry) {
    if let (Some(totals), Content::Counted { groups, .. }) = (&mut gain.totals, &entry.content) {
        totals.extend(groups.iter().map(|group| (group.counter.clone(), group.total)));
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use ingest::{AccountId, Dimensions, Hour, Identity, Meter, RunId, SliceGroup, SliceId};

    use super::*;
    use crate::memory_log::{Fault, MemoryLog};

    fn slice(number: u32, identities: &[u8]) -> Slice {
        let account = AccountId::parse("000000000012").unwrap();
        let hour = Hour::parse_key("2026-10-01T13").unwrap();
        let counter = CounterKey {
            meter: Meter::CloudTrailEvents,
            account,
            dimensions: Dimensions { region: "eu-west-1".into(), category: "Management".into() },
        };
        let identities = identities.iter().map(|id| Identity::from_bytes([*id; 16])).collect();
        let groups = vec![SliceGroup { counter, identities, first: hour.start(), last: hour.start() }];
        Slice::of_counts(SliceId { run: RunId::from_bytes([1; 16]), number }, account.bucket(), hour, groups)
    }

    /// A log in memory never waits.
    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("nothing to wait for")
    }

    /// Different ids, as random ones are.
    fn ids() -> impl Fn() -> CommitId + Sync {
        let next = std::sync::atomic::AtomicU64::new(1);
        move || {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            CommitId(u128::from(number).to_be_bytes())
        }
    }

    #[test]
    fn each_fault_of_an_append_ends_in_one_count() {
        for (fault, fails, unknown_outcomes) in [
            (Fault::None, false, 0),
            (Fault::AnswerLost, false, 1),
            (Fault::MeetsItself, false, 1),
            (Fault::Lost, true, 0),
            (Fault::Throttled, true, 0),
        ] {
            let (log, ids) = (MemoryLog::with_faults(vec![fault]), ids());
            let batch = [slice(0, &[1, 2, 2])];
            let mut loaded = Loaded::new();
            let mut first = now(commit(&log, &mut loaded, &batch, &ids, Limits::default()));
            assert_eq!(first.is_err(), fails, "{fault:?}: {first:?}");
            if let Err(failed) = &first {
                assert!(failed.error.is_passing() && loaded.is_empty(), "{fault:?}: nothing unsure is kept");
                assert_eq!((failed.committed.units.0, failed.committed.gains.len()), (0, 0), "{fault:?}");
                first = now(commit(&log, &mut loaded, &batch, &ids, Limits::default()));
            }
            let committed = first.unwrap();
            assert_eq!((committed.conflicts, committed.unknown_outcomes), (0, unknown_outcomes), "{fault:?}");
            assert_eq!(committed.tallies, [Tally { counted: 2, duplicates: 1, ..Tally::default() }], "{fault:?}");
            assert_eq!(log.logs().into_values().map(|log| log.len()).collect::<Vec<_>>(), [1], "{fault:?}");
            let gain = &committed.gains[0];
            assert_eq!((gain.from_version, gain.to_version), (0, 1), "{fault:?}");
            assert_eq!(gain.totals.as_ref().unwrap()[&batch[0].groups()[0].counter], 2, "{fault:?}");
        }
    }

    #[test]
    fn a_stale_cache_finds_what_another_has_counted_and_split() {
        let (log, ids) = (MemoryLog::default(), ids());
        let limits = Limits { split_at_identities: 3, ..Limits::default() };
        let run = |loaded: &mut Loaded, slice: Slice| now(commit(&log, loaded, &[slice], &ids, limits)).unwrap();
        let (mut mine, mut yours) = (Loaded::new(), Loaded::new());
        run(&mut mine, slice(0, &[1]));
        run(&mut yours, slice(1, &[2, 3]));
        let split = run(&mut yours, slice(2, &[3, 4]));
        assert_eq!(split.tallies, [Tally { counted: 1, duplicates: 1, ..Tally::default() }]);
        assert_eq!(split.gains.len(), 2, "the split log and the child");
        let late = run(&mut mine, slice(3, &[1, 2, 3, 4, 5]));
        assert_eq!(late.tallies, [Tally { counted: 1, duplicates: 4, ..Tally::default() }]);
        assert_eq!(late.conflicts, 1, "the split log is met once, and its children are read");
        assert_eq!(late.gains[0].totals, None, "others' entries lie between");
        let again = run(&mut Loaded::new(), slice(2, &[3, 4]));
        assert_eq!(again.tallies, split.tallies, "a redelivery says the same");
        assert_eq!(again.units, WriteUnits(0));
    }

    #[test]
    fn what_was_appended_before_a_failure_is_gained_and_its_cost_told() {
        // One identity an entry; the third append is throttled.
        let limits = Limits { entry_bytes_max: 1, ..Limits::default() };
        let (log, ids) = (MemoryLog::with_faults(vec![Fault::Throttled, Fault::AnswerLost, Fault::None]), ids());
        let batch = [slice(0, &[1, 2, 3])];
        let mut loaded = Loaded::new();
        let failed = now(commit(&log, &mut loaded, &batch, &ids, limits)).unwrap_err();
        assert!(failed.error.is_passing() && loaded.is_empty(), "{failed}");
        let totals = |total| Some(HashMap::from([(batch[0].groups()[0].counter.clone(), total)]));
        let partition = Partition::root(batch[0].bucket, batch[0].window());
        let gain = Gain { partition: partition.clone(), from_version: 0, to_version: 2, totals: totals(2) };
        assert_eq!((failed.committed.gains, failed.committed.units), (vec![gain], WriteUnits(1)), "one answer is lost");
        assert_eq!(failed.committed.tallies, [Tally::default()], "a partition's tallies come when it is done");

        let done = now(commit(&log, &mut loaded, &batch, &ids, limits)).unwrap();
        let gain = Gain { partition: partition.clone(), from_version: 2, to_version: 3, totals: totals(3) };
        assert_eq!((done.gains, done.units), (vec![gain], WriteUnits(1)));
        assert_eq!(done.tallies, [Tally { counted: 3, duplicates: 0, ..Tally::default() }]);
        assert_eq!(done.through, [[(partition, 3)]]);
    }

    #[test]
    fn what_a_partition_counted_before_a_child_of_it_turned_out_bad_is_told() {
        let (log, ids) = (MemoryLog::default(), ids());
        let limits = Limits { split_at_identities: 2, ..Limits::default() };
        let known = [slice(0, &[1, 2])];
        let mut loaded = Loaded::new();
        now(commit(&log, &mut loaded, &known, &ids, limits)).unwrap();
        let root = Partition::root(known[0].bucket, known[0].window());
        let child = root.child_of(&Identity::from_bytes([3; 16]));
        now(log.append(&child, &Entry { version: 2, commit: CommitId([9; 16]), content: Content::Split })).unwrap();

        let batch = [slice(1, &[1]), slice(2, &[2, 3])];
        let failed = now(commit(&log, &mut loaded, &batch, &ids, limits)).unwrap_err();
        assert!(failed.error.is_of_the_log(), "{failed}");
        let duplicate = Tally { counted: 0, duplicates: 1, ..Tally::default() };
        assert_eq!(failed.committed.tallies, [duplicate, duplicate]);
        assert_eq!(failed.committed.through, [[(root.clone(), 2)], [(root.clone(), 2)]]);
        assert_eq!(failed.committed.units, WriteUnits(1), "the root was split");
        let gain = Gain { partition: root.clone(), from_version: 1, to_version: 2, totals: Some(HashMap::new()) };
        assert_eq!(failed.committed.gains, [gain]);
        assert_eq!(loaded.into_keys().collect::<Vec<_>>(), [root], "what is sure is kept");
    }

    #[test]
    fn a_slice_names_the_partitions_that_know_identities_of_it_and_no_others() {
        let (log, ids) = (MemoryLog::default(), ids());
        let limits = Limits { split_at_identities: 2, ..Limits::default() };
        let run = |slices: &[Slice]| now(commit(&log, &mut Loaded::new(), slices, &ids, limits)).unwrap();
        let first = slice(0, &[1, 2]);
        let root = Partition::root(first.bucket, first.window());
        let child = |id| root.child_of(&Identity::from_bytes([id; 16]));
        run(&[first]);
        let committed = run(&[slice(1, &[]), slice(2, &[2]), slice(3, &[3]), slice(4, &[3, 1]), slice(5, &[4])]);
        let named = committed.through.into_iter().map(|mut through| {
            through.sort_unstable();
            through
        });
        let expected = [
            vec![],
            vec![(root.clone(), 2)],
            vec![(child(3), 1)],
            vec![(root.clone(), 2), (child(3), 1)],
            vec![(child(4), 1)],
        ];
        assert_eq!(named.collect::<Vec<_>>(), expected);
        assert_ne!(child(3), child(4), "or the test says little");
    }

    #[test]
    fn a_log_that_contradicts_itself_is_told_from_one_that_cannot_be_reached() {
        let log = MemoryLog::default();
        let batch = [slice(0, &[1])];
        let root = Partition::root(batch[0].bucket, batch[0].window());
        let stray = Entry { version: 2, commit: CommitId([9; 16]), content: Content::Split };
        now(log.append(&root, &stray)).unwrap();
        let met = now(commit(&log, &mut Loaded::new(), &batch, &ids(), Limits::default())).unwrap_err().error;
        assert!(met.is_of_the_log() && !met.is_passing(), "{met}");
        assert!(!CommitError::Contended(root).is_of_the_log());
    }
}
