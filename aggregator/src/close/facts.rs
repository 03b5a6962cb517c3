//! What facts come to in a period: every log of facts read up to the cut, evaluated once, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use futures::{StreamExt, stream};
use ingest::{AccountId, Bucket, FactValue, Hour, Meters, Quantity, RunId, UsageFact, Window};
use sha2::{Digest, Sha256};

use super::period::Period;
use super::prefix::PrefixError;
use super::snapshot::{Snapshot, TotalKey};
use super::totals::LineKey;
use crate::commit_log::{CommitLog, ReadError};
use crate::entry::{Content, Entry};
use crate::facts::{Generations, Standing, evaluate};
use crate::known::{Known, Untrusted};
use crate::partition::Partition;

/// Logs read at once.
const READS_AT_ONCE: usize = 16;
/// Facts kept between the two passes over buckets; those of other buckets are read twice.
const FACTS_KEPT_MAX: usize = 1_000_000;

/// What the facts of every account that has an owner come to, whoever's.
#[derive(Debug, Default)]
pub(super) struct FactTotals {
    /// The totals, as usage rows have them.
    pub(super) totals: BTreeMap<TotalKey, Quantity>,
    /// SHA-256 over the facts that bear on each line.
    pub(super) lines: BTreeMap<LineKey, [u8; 32]>,
    /// Those facts, sorted, if they are kept.
    pub(super) marks: BTreeMap<LineKey, Vec<Mark>>,
    /// The readings that stated each account's facts of the period.
    pub(super) runs: BTreeMap<AccountId, BTreeSet<RunId>>,
    /// How far the logs of each bucket were read.
    pub(super) cut: BTreeMap<Bucket, BTreeMap<Partition, u64>>,
    /// Entries behind the cut, by bucket.
    pub(super) entries_after: BTreeMap<Bucket, u64>,
    /// What cannot be trusted, or not be evaluated, by bucket: what it states is in no total.
    pub(super) untrusted: BTreeMap<Bucket, Vec<String>>,
}

/// What is kept of the facts behind the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Their hashes.
    Hashes,
    /// What is hashed, too.
    Marks,
}

/// The facts of one bucket, read.
#[derive(Default)]
struct BucketFacts {
    standing: Standing,
    runs: BTreeMap<AccountId, BTreeSet<RunId>>,
    versions: BTreeMap<Partition, u64>,
    entries_after: u64,
    untrusted: Vec<String>,
}

/// Folds every log of facts up to where it is rolled up, and evaluates the period.
pub(super) async fn fold<L: CommitLog>(
    log: &L,
    snapshot: &Snapshot,
    meters: &Meters,
    period: Period,
    keep: Keep,
) -> Result<FactTotals, PrefixError> {
    let mut by_bucket = BTreeMap::<Bucket, Vec<(Partition, u64)>>::new();
    for (partition, version) in &snapshot.cursors {
        if let Window::Day(_) = partition.window {
            by_bucket.entry(partition.bucket).or_default().push((partition.clone(), *version));
        }
    }
    let mut totals = FactTotals::default();
    // Which exports are in force is a matter of all their facts, in whatever buckets.
    let mut generations = Generations::default();
    let mut kept = BTreeMap::new();
    let mut facts_kept = 0;
    for (bucket, logs) in &by_bucket {
        let read = read_bucket(log, logs, period).await?;
        generations.merge(&read.standing.generations());
        if facts_kept + read.standing.len() <= FACTS_KEPT_MAX {
            facts_kept += read.standing.len();
            kept.insert(*bucket, read);
        }
    }
    for (bucket, logs) in by_bucket {
        let read = match kept.remove(&bucket) {
            Some(read) => read,
            None => read_bucket(log, &logs, period).await?,
        };
        let marks = totals.add_bucket(bucket, read, &generations, meters, snapshot, period);
        if keep == Keep::Marks {
            totals.marks.extend(marks);
        }
    }
    Ok(totals)
}

async fn read_bucket<L: CommitLog>(
    log: &L,
    logs: &[(Partition, u64)],
    period: Period,
) -> Result<BucketFacts, PrefixError> {
    let mut facts = BucketFacts::default();
    // Collected first: the compiler cannot tell that a closure over references is as general as a task needs.
    let reads: Vec<_> = logs.iter().map(|(partition, cut)| read_log(log, partition, *cut)).collect();
    let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
    while let Some((partition, cut, entries)) = reads.next().await {
        let added = match entries {
            Ok(entries) => facts.add_log(partition, cut, entries, period),
            Err(error) => Err(error.into()),
        };
        match added {
            Ok(()) => {}
            Err(error) if error.is_of_the_logs() => facts.untrusted.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(facts)
}

/// The facts that stand in a bucket's day, named by its root, to the end of its logs: in force or not, ends of exports among them.
pub async fn read_day<L: CommitLog>(log: &L, root: Partition) -> Result<Vec<UsageFact<'static>>, PrefixError> {
    let mut standing = Standing::default();
    let mut waiting = vec![root];
    while let Some(partition) = waiting.pop() {
        let mut known = Known::empty(partition.clone());
        for entry in log.read_after(&partition, 0).await? {
            known.apply(&entry)?;
            let Content::Stated { facts, .. } = entry.content else { continue };
            for stated in facts {
                standing.add(stated.fact);
            }
        }
        if known.is_split() {
            waiting.extend(partition.children());
        }
    }
    Ok(standing.facts().cloned().collect())
}

async fn read_log<'a, L: CommitLog>(
    log: &L,
    partition: &'a Partition,
    cut: u64,
) -> (&'a Partition, u64, Result<Vec<Entry>, ReadError>) {
    (partition, cut, log.read_after(partition, 0).await)
}

impl BucketFacts {
    fn add_log(
        &mut self,
        partition: &Partition,
        cut: u64,
        entries: Vec<Entry>,
        period: Period,
    ) -> Result<(), PrefixError> {
        let mut known = Known::empty(partition.clone());
        for entry in entries {
            if cut < entry.version {
                self.entries_after += 1;
                continue;
            }
            known.apply(&entry)?;
            let Content::Stated { slices, facts } = entry.content else { continue };
            for stated in facts {
                if period.has(stated.fact.key.time.hour()) {
                    let run = slices[usize::from(stated.slice)].run;
                    self.runs.entry(stated.fact.key.account).or_default().insert(run);
                }
                self.standing.add(stated.fact);
            }
        }
        if known.version() < cut {
            let (partition, missing) = (partition.clone(), known.version() + 1);
            return Err(Untrusted::EndsEarly { partition, missing, through: cut }.into());
        }
        self.versions.insert(partition.clone(), known.version());
        Ok(())
    }
}

impl FactTotals {
    fn add_bucket(
        &mut self,
        bucket: Bucket,
        read: BucketFacts,
        generations: &Generations,
        meters: &Meters,
        snapshot: &Snapshot,
        period: Period,
    ) -> BTreeMap<LineKey, Vec<Mark>> {
        let mut untrusted = read.untrusted;
        let hours = period.start().hour()..period.end().hour();
        let mut marks = BTreeMap::<LineKey, Vec<Mark>>::new();
        for series in read.standing.series_under(generations) {
            let key = &series[0].key;
            if !snapshot.owners.contains_key(&key.account) {
                continue;
            }
            let added = match meters.get(key.meter) {
                None => Err(format!("meter {} is not defined", key.meter)),
                Some(definition) => match evaluate(definition, &series, hours.clone(), hours.end) {
                    Ok(evaluated) => self.add_series(&series, evaluated.hours, &mut marks),
                    Err(error) => Err(error.to_string()),
                },
            };
            untrusted.extend(added.err());
        }
        for (line, marks) in &mut marks {
            marks.sort_unstable();
            self.lines.insert(line.clone(), marks_sha256(marks));
        }
        self.runs.extend(read.runs);
        self.cut.insert(bucket, read.versions);
        self.entries_after.insert(bucket, read.entries_after);
        untrusted.sort_unstable();
        untrusted.dedup();
        if !untrusted.is_empty() {
            self.untrusted.insert(bucket, untrusted);
        }
        marks
    }

    fn add_series(
        &mut self,
        series: &[UsageFact<'static>],
        evaluated: crate::facts::Hourly,
        marks: &mut BTreeMap<LineKey, Vec<Mark>>,
    ) -> Result<(), String> {
        let (account, meter) = (series[0].key.account, series[0].key.meter);
        let mut windows = BTreeSet::new();
        for ((window, dimensions), contribution) in evaluated {
            let (region, category) = (dimensions.region.into_owned(), dimensions.category.into_owned());
            let total = self.totals.entry(TotalKey { account, meter, window, region, category });
            let total = total.or_insert(Quantity::ZERO);
            let sum = total.checked_add(contribution.value);
            *total =
                sum.ok_or_else(|| format!("the total of {meter} of account {account} at {window} is out of range"))?;
            windows.insert(window);
        }
        for window in windows {
            let bearing = bearing(series, window..following(window));
            marks.entry(LineKey { account, meter, window }).or_default().extend(bearing.map(Mark::of));
        }
        Ok(())
    }
}

fn following(hour: Hour) -> Hour {
    Hour::from_number(hour.number() + 1).unwrap_or(hour)
}

/// The facts of a resource, in order of time, that bear on an hour: those of the hour, and the last one before it that is no
/// amount.
fn bearing<'a>(series: &'a [UsageFact<'static>], hour: Range<Hour>) -> impl Iterator<Item = &'a UsageFact<'static>> {
    let begins = series.partition_point(|fact| fact.key.time < hour.start.start());
    let ends = series.partition_point(|fact| fact.key.time < hour.end.start());
    let before = series[..begins].iter().rev().find(|fact| !matches!(fact.value, FactValue::Amount(_)));
    before.into_iter().chain(&series[begins..ends])
}

/// What evidence hashes of a fact: key, revision, time and value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    key: [u8; 16],
    revision: u64,
    time: i64,
    /// The kind, and the number behind a space if there is one.
    value: String,
}

/// Writes key, revision, time in microseconds and value with spaces between.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", hex::encode(self.key), self.revision, self.time, self.value)
    }
}

impl Mark {
    fn of(fact: &UsageFact<'_>) -> Self {
        let number = fact.value.number().map(|number| format!(" {number}")).unwrap_or_default();
        Self {
            key: *fact.key.identity().as_bytes(),
            revision: fact.revision,
            time: fact.key.time.micros(),
            value: format!("{}{number}", fact.value.kind()),
        }
    }
}

/// SHA-256 over sorted marks: key, revision and time (eight bytes each, big endian), the value and a zero byte.
fn marks_sha256(sorted: &[Mark]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for Mark { key, revision, time, value } in sorted {
        hash.update(key);
        hash.update(revision.to_be_bytes());
        hash.update(time.to_be_bytes());
        hash.update(value);
        hash.update([0]);
    }
    hash.finalize().into()
}
