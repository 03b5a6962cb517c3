//! Several writers on the same logs, interleaved step by step from a seed, with every fault an append can meet, against a
//! recount that shares nothing with the code under test.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future as _, poll_fn};
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use ingest::aws::{AwsError, AwsErrorKind};
use ingest::{
    AccountId, Bucket, Dimensions, FactKey, FactValue, Hour, Identity, Meter, Quantity, RunId, SliceFact, SliceGroup,
    SliceId, UsageFact, Window,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::entry::{EntryFact, EntryGroup};
use crate::facts::FactVersion;

const SEEDS: u64 = 400;
/// Polls of one run; far above what any seed needs.
const POLLS_MAX: usize = 200_000;

#[test]
fn every_event_counts_once_however_writers_interleave_and_fail() {
    let mut met = Met::default();
    for seed in 0..SEEDS {
        let run = Run::from_seed(seed, Sabotage::None);
        met.add(&run.play().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}")));
    }
    // The runs are worth nothing unless they meet what they are about.
    for (what, often) in [
        ("conflicts", met.conflicts),
        ("lost answers", met.unknown_outcomes),
        ("late writes that landed", met.landed_late),
        ("failed commits", met.failed),
        ("commits that failed halfway", met.partly_done),
        ("splits", met.splits),
        ("splits of children", met.deep_splits),
        ("folds of several entries", met.long_folds),
        ("stale caches", met.stale_caches),
        ("duplicates", met.duplicates),
        ("redeliveries", met.redeliveries),
        ("gains to apply as they are", met.plain_gains),
        ("gains to read", met.gains_to_read),
        ("gains of facts", met.gains_of_facts),
        ("splits of facts", met.splits_of_facts),
        ("changed facts", met.changes),
        ("facts superseded before they came", met.superseded),
    ] {
        assert!(SEEDS / 10 < often, "{what}: only {often} in {SEEDS} runs");
    }
}

#[test]
fn a_log_that_breaks_its_promise_is_noticed() {
    for sabotage in [Sabotage::Overwrites, Sabotage::ConfirmsWithoutWriting] {
        let noticed = (0..40).filter(|&seed| Run::from_seed(seed, sabotage).play().is_err()).count();
        assert!(20 < noticed, "{sabotage:?} was noticed in {noticed} of 40 runs");
    }
}

/// What a log does that it must not.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sabotage {
    None,
    /// It puts without the condition.
    Overwrites,
    /// It says yes to one append in eight and writes nothing.
    ConfirmsWithoutWriting,
}

/// What runs met.
#[derive(Default)]
struct Met {
    conflicts: u64,
    unknown_outcomes: u64,
    landed_late: u64,
    failed: u64,
    partly_done: u64,
    splits: u64,
    deep_splits: u64,
    long_folds: u64,
    stale_caches: u64,
    duplicates: u64,
    redeliveries: u64,
    plain_gains: u64,
    gains_to_read: u64,
    gains_of_facts: u64,
    splits_of_facts: u64,
    changes: u64,
    superseded: u64,
}

impl Met {
    fn add(&mut self, other: &Self) {
        self.conflicts += other.conflicts;
        self.unknown_outcomes += other.unknown_outcomes;
        self.landed_late += other.landed_late;
        self.failed += other.failed;
        self.partly_done += other.partly_done;
        self.splits += other.splits;
        self.deep_splits += other.deep_splits;
        self.long_folds += other.long_folds;
        self.stale_caches += other.stale_caches;
        self.duplicates += other.duplicates;
        self.redeliveries += other.redeliveries;
        self.plain_gains += other.plain_gains;
        self.gains_to_read += other.gains_to_read;
        self.gains_of_facts += other.gains_of_facts;
        self.splits_of_facts += other.splits_of_facts;
        self.changes += other.changes;
        self.superseded += other.superseded;
    }
}

/// One slice as a writer was given it and what the writer said about it.
struct Delivered {
    slice: SliceId,
    tally: Tally,
}

/// A slice and the partitions that hold it.
type Named = (SliceId, Vec<(Partition, u64)>);

#[derive(Default)]
struct Seen {
    delivered: Vec<Delivered>,
    /// What each commit gained, and the partitions it named for each of its slices.
    gains: Vec<(Vec<Gain>, Vec<Named>)>,
    met: Met,
}

struct Run {
    seed: u64,
    limits: Limits,
    slices: Vec<Slice>,
    /// What each writer is given, in order.
    queues: Vec<VecDeque<Slice>>,
    log: SteppedLog,
}

impl Run {
    fn from_seed(seed: u64, sabotage: Sabotage) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = Limits {
            entry_bytes_max: one_of(&mut rng, [500, 700, 1_500, Entry::BYTES_MAX]),
            // Above the number of scopes one identity can stand in, or splitting would never part them.
            split_at_identities: one_of(&mut rng, [9, 12, 30, SPLIT_AT_IDENTITIES]),
        };
        let slices = random_slices(&mut rng);
        let mut queues = vec![VecDeque::new(); rng.random_range(1..=3)];
        let mut deliveries = Vec::new();
        for slice in &slices {
            deliveries.extend(std::iter::repeat_n(slice, rng.random_range(1..=3)));
        }
        deliveries.shuffle(&mut rng);
        for slice in deliveries {
            let writer = rng.random_range(0..queues.len());
            queues[writer].push_back(slice.clone());
        }
        let faults_percent = one_of(&mut rng, [0, 10, 40]);
        Self { seed, limits, slices, queues, log: SteppedLog::new(rng, faults_percent, sabotage) }
    }

    /// Lets the writers do their work in the seed's order, then compares.
    fn play(self) -> Result<Met, String> {
        let Self { seed, limits, slices, queues, log } = self;
        let seen = Mutex::new(Seen::default());
        {
            let mut writers: Vec<_> = (0_u64..)
                .zip(queues)
                .map(|(number, queue)| {
                    Some(Box::pin(write(&log, queue, StdRng::seed_from_u64(seed << 8 | number), limits, &seen)))
                })
                .collect();
            let mut order = StdRng::seed_from_u64(!seed);
            let mut polls = 0;
            while writers.iter().any(Option::is_some) {
                let turn = order.random_range(0..writers.len());
                let Some(writer) = &mut writers[turn] else { continue };
                if let Poll::Ready(result) = writer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    result?;
                    writers[turn] = None;
                }
                polls += 1;
                if polls == POLLS_MAX {
                    return Err("the writers come to no end".to_owned());
                }
            }
        }
        log.land_everything();
        compare(&slices, &log, seen.into_inner().unwrap(), limits)
    }
}

/// A writer: takes some slices, commits each place, puts back what failed, and keeps, drops or ages its cache.
async fn write(
    log: &SteppedLog,
    mut queue: VecDeque<Slice>,
    rng: StdRng,
    limits: Limits,
    seen: &Mutex<Seen>,
) -> Result<(), String> {
    let rng = Mutex::new(rng);
    let pick = |below: u32| rng.lock().unwrap().random_range(0..below);
    let commit_id = || CommitId(rng.lock().unwrap().random());
    let mut loaded = Loaded::new();
    let mut aged = Loaded::new();
    while !queue.is_empty() {
        let size = rng.lock().unwrap().random_range(1..=queue.len());
        let mut places = BTreeMap::<(Bucket, Window), Vec<Slice>>::new();
        for slice in queue.drain(..size) {
            places.entry((slice.bucket, slice.window())).or_default().push(slice);
        }
        for slices in places.into_values() {
            match pick(8) {
                0 => loaded.clear(),
                1 => aged.clone_from(&loaded),
                2 => {
                    seen.lock().unwrap().met.stale_caches += 1;
                    loaded.clone_from(&aged);
                }
                3 => loaded.retain(|_, _| pick(2) == 0),
                _ => {}
            }
            match commit(log, &mut loaded, &slices, &commit_id, limits).await {
                Ok(committed) => {
                    let mut seen = seen.lock().unwrap();
                    seen.met.conflicts += u64::from(committed.conflicts);
                    seen.met.unknown_outcomes += u64::from(committed.unknown_outcomes);
                    for (slice, tally) in slices.iter().zip(&committed.tallies) {
                        seen.delivered.push(Delivered { slice: slice.id, tally: *tally });
                    }
                    let named = slices.iter().map(|slice| slice.id).zip(committed.through);
                    seen.gains.push((committed.gains, named.collect()));
                }
                Err(failed) if failed.error.is_passing() => {
                    let mut seen = seen.lock().unwrap();
                    seen.met.failed += 1;
                    seen.met.partly_done += u64::from(0 < failed.committed.units.0);
                    seen.gains.push((failed.committed.gains, Vec::new()));
                    for slice in slices {
                        if pick(2) == 0 { queue.push_front(slice) } else { queue.push_back(slice) }
                    }
                }
                Err(failed) => return Err(failed.to_string()),
            }
        }
    }
    Ok(())
}

/// Some slices of few accounts, hours, counters and identities, so that nearly everything occurs more than once.
fn random_slices(rng: &mut StdRng) -> Vec<Slice> {
    let accounts = same_bucket_accounts(rng.random_range(1..=3));
    let hours = rng.random_range(1..=2);
    let pool = rng.random_range(5..=120_u8);
    let slices = rng.random_range(2..=20);
    let mut numbers = BTreeMap::<RunId, u32>::new();
    let mut made = Vec::new();
    for _ in 0..slices {
        let run = RunId::from_bytes([rng.random_range(0..4); 16]);
        let number = numbers.entry(run).or_default();
        let id = SliceId { run, number: *number };
        *number += 1;
        let hour = Hour::from_number(500_000 + rng.random_range(0..hours)).unwrap();
        let mut groups = BTreeMap::<CounterKey, Vec<Identity>>::new();
        for _ in 0..rng.random_range(1..=25) {
            let counter = CounterKey {
                meter: one_of(rng, [Meter::CloudTrailEvents, Meter::GuardDutyFindings]),
                account: accounts[rng.random_range(0..accounts.len())],
                dimensions: Dimensions {
                    region: Cow::Borrowed(one_of(rng, ["eu-west-1", "us-east-1"])),
                    category: Cow::Borrowed(one_of(rng, ["Management", Dimensions::NONE])),
                },
            };
            groups.entry(counter).or_default().push(Identity::from_bytes([rng.random_range(0..pool); 16]));
        }
        let groups = groups.into_iter().map(|(counter, identities)| {
            let (first, last) = (hour.start(), hour.start());
            SliceGroup { counter, identities, first, last }
        });
        let groups = groups.collect();
        if rng.random_range(0..3) == 0 {
            let facts = (0..rng.random_range(1..=25)).map(|_| random_fact(rng, &accounts, pool));
            let mut facts: Vec<SliceFact> = facts.collect();
            facts.sort_by(|a, b| a.fact.key.cmp(&b.fact.key));
            made.push(Slice::of_facts(id, accounts[0].bucket(), facts[0].fact.day(), facts));
        } else {
            made.push(Slice::of_counts(id, accounts[0].bucket(), hour, groups));
        }
    }
    made
}

/// A fact of one day, with a key, a revision and a content that others are likely to have too.
fn random_fact(rng: &mut StdRng, accounts: &[AccountId], pool: u8) -> SliceFact {
    let key = FactKey {
        meter: one_of(rng, [Meter::NatGatewayBytes, Meter::DataTransferBytes]),
        account: accounts[rng.random_range(0..accounts.len())],
        resource: Cow::Owned(format!("r{}", rng.random_range(0..pool.div_ceil(8)))),
        time: Hour::from_number(500_000 + rng.random_range(0..2)).unwrap().start(),
        export: None,
    };
    let fact = UsageFact {
        key,
        revision: rng.random_range(0..3),
        dimensions: Dimensions { region: Cow::Borrowed("eu-west-1"), category: Cow::Borrowed(Dimensions::NONE) },
        end: None,
        value: FactValue::Amount(Quantity::whole(rng.random_range(0..2))),
    };
    SliceFact { fact, is_primary: rng.random_range(0..3) != 0 }
}

fn same_bucket_accounts(count: usize) -> Vec<AccountId> {
    let accounts = (0..).map(|number| AccountId::parse(&format!("{number:012}")).unwrap());
    accounts.filter(|account| account.bucket() == Bucket::new(5).unwrap()).take(count).collect()
}

fn one_of<T: Copy, const N: usize>(rng: &mut StdRng, values: [T; N]) -> T {
    values[rng.random_range(0..N)]
}

/// Logs that let other writers go between any two steps, and that fail as the seed says.
struct SteppedLog {
    faults_percent: u32,
    sabotage: Sabotage,
    state: Mutex<State>,
}

struct State {
    rng: StdRng,
    logs: BTreeMap<Partition, Vec<Entry>>,
    /// Writes nobody got an answer to that are still on their way.
    late: Vec<(Partition, Entry)>,
    landed_late: u64,
}

impl SteppedLog {
    fn new(rng: StdRng, faults_percent: u32, sabotage: Sabotage) -> Self {
        let state = State { rng, logs: BTreeMap::new(), late: Vec::new(), landed_late: 0 };
        Self { faults_percent, sabotage, state: Mutex::new(state) }
    }

    fn land_everything(&self) {
        let mut state = self.state.lock().unwrap();
        while let Some((partition, entry)) = state.late.pop() {
            state.landed_late += u64::from(state.store(&partition, &entry, self.sabotage));
        }
    }

    /// What happens between two steps of a writer.
    fn meanwhile(&self, state: &mut State) {
        if !state.late.is_empty() && state.rng.random_range(0..3) == 0 {
            let which = state.rng.random_range(0..state.late.len());
            let (partition, entry) = state.late.swap_remove(which);
            state.landed_late += u64::from(state.store(&partition, &entry, self.sabotage));
        }
    }

    fn is_faulty(&self, state: &mut State) -> bool {
        state.rng.random_range(0..100) < self.faults_percent
    }
}

impl State {
    /// Puts the entry under its condition; says whether it stands there now.
    fn store(&mut self, partition: &Partition, entry: &Entry, sabotage: Sabotage) -> bool {
        let log = self.logs.entry(partition.clone()).or_default();
        if let Some(stored) = log.iter_mut().find(|stored| stored.version == entry.version) {
            if sabotage == Sabotage::Overwrites {
                *stored = entry.clone();
                return true;
            }
            return false;
        }
        log.push(entry.clone());
        true
    }
}

async fn step() {
    let mut is_second = false;
    poll_fn(|_| if std::mem::replace(&mut is_second, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

fn failure(kind: AwsErrorKind) -> AwsError {
    AwsError { operation: "PutItem", kind, said: "as the seed says".to_owned() }
}

impl CommitLog for SteppedLog {
    async fn read_after(&self, partition: &Partition, version: u64) -> Result<Vec<Entry>, ReadError> {
        step().await;
        let entries = {
            let mut state = self.state.lock().unwrap();
            self.meanwhile(&mut state);
            if self.is_faulty(&mut state) {
                return Err(ReadError::Store(failure(AwsErrorKind::Throttled)));
            }
            let entries = state.logs.get(partition).cloned().unwrap_or_default();
            entries.into_iter().filter(|entry| version < entry.version).collect()
        };
        step().await;
        Ok(entries)
    }

    async fn append(&self, partition: &Partition, entry: &Entry) -> Result<WriteUnits, AppendError> {
        step().await;
        let answer = {
            let mut state = self.state.lock().unwrap();
            self.meanwhile(&mut state);
            let fault = if self.is_faulty(&mut state) { state.rng.random_range(1..=5) } else { 0 };
            match fault {
                _ if self.sabotage == Sabotage::ConfirmsWithoutWriting && state.rng.random_range(0..8) == 0 => {
                    Ok(WriteUnits(1))
                }
                0 if state.store(partition, entry, self.sabotage) => Ok(WriteUnits(1)),
                0 => Err(AppendError::Occupied),
                // Its answer is lost.
                1 => {
                    state.store(partition, entry, self.sabotage);
                    Err(AppendError::Unknown(failure(AwsErrorKind::Unreachable)))
                }
                // A retry inside the client meets its own entry.
                2 => {
                    state.store(partition, entry, self.sabotage);
                    Err(AppendError::Occupied)
                }
                // It is lost on the way.
                3 => Err(AppendError::Unknown(failure(AwsErrorKind::Unreachable))),
                // It arrives when nobody waits for it any more.
                4 => {
                    state.late.push((partition.clone(), entry.clone()));
                    Err(AppendError::Unknown(failure(AwsErrorKind::Unreachable)))
                }
                _ => Err(AppendError::Refused(failure(AwsErrorKind::Throttled))),
            }
        };
        step().await;
        answer
    }
}

type Scope = (Meter, AccountId, Window);
/// Every version of every fact.
type Versions = BTreeMap<FactKey<'static>, BTreeSet<FactVersion>>;

/// Everything that must hold afterwards, recounted from what was sent and what is stored.
fn compare(slices: &[Slice], log: &SteppedLog, seen: Seen, limits: Limits) -> Result<Met, String> {
    let State { logs, landed_late, .. } = &*log.state.lock().unwrap();
    let mut met = Met { landed_late: *landed_late, ..seen.met };
    let ensure = |holds: bool, what: &dyn Fn() -> String| if holds { Ok(()) } else { Err(what()) };

    let mut sent = BTreeMap::<Scope, BTreeSet<Identity>>::new();
    for slice in slices {
        for group in slice.groups() {
            let scope = (group.counter.meter, group.counter.account, slice.window());
            sent.entry(scope).or_default().extend(&group.identities);
        }
    }

    let mut versions_sent = Versions::new();
    for part in slices.iter().flat_map(Slice::facts) {
        versions_sent.entry(part.fact.key.clone()).or_default().insert(FactVersion::of(&part.fact));
    }
    let mut stated = Versions::new();

    let mut counted = BTreeMap::<Scope, BTreeSet<Identity>>::new();
    let mut totals = BTreeMap::<Scope, u64>::new();
    for (partition, entries) in logs {
        let mut running = BTreeMap::<CounterKey, u64>::new();
        let mut known = Known::empty(partition.clone());
        for (entry, place) in entries.iter().zip(1..) {
            ensure(entry.version == place, &|| format!("{partition}: {} stands at {place}", entry.version))?;
            ensure(stored_bytes(partition, entry) <= limits.entry_bytes_max, &|| {
                format!("{partition}: entry {place} takes {} bytes", stored_bytes(partition, entry))
            })?;
            known.apply(entry).map_err(|error| error.to_string())?;
            let groups = match &entry.content {
                Content::Counted { groups, .. } => groups,
                Content::Stated { facts, .. } => {
                    for EntryFact { fact, .. } in facts {
                        let is_new = stated.entry(fact.key.clone()).or_default().insert(FactVersion::of(fact));
                        ensure(is_new, &|| format!("{partition}: entry {place} states {:?} again", fact.key))?;
                    }
                    continue;
                }
                Content::Split => {
                    met.splits += 1;
                    met.deep_splits += u64::from(partition.to_string().matches('/').count() == 2);
                    met.splits_of_facts += u64::from(matches!(partition.window, Window::Day(_)));
                    continue;
                }
            };
            for group in groups {
                let total = running.entry(group.counter.clone()).or_default();
                *total += group.identities.len() as u64;
                ensure(*total == group.total, &|| format!("{partition}: entry {place} has a wrong total"))?;
                let scope = (group.counter.meter, group.counter.account, partition.window);
                for identity in &group.identities {
                    let is_new = counted.entry(scope).or_default().insert(*identity);
                    ensure(is_new, &|| format!("{partition}: entry {place} counts {identity:?} again"))?;
                }
            }
        }
        for (counter, total) in running {
            *totals.entry((counter.meter, counter.account, partition.window)).or_default() += total;
        }
    }
    ensure(counted == sent, &|| "what is counted is not what was sent".to_owned())?;
    let expected: BTreeMap<Scope, u64> = sent.iter().map(|(scope, ids)| (*scope, ids.len() as u64)).collect();
    ensure(totals == expected, &|| format!("totals {totals:?}, not {expected:?}"))?;

    ensure(stated.iter().all(|(key, said)| versions_sent.get(key).is_some_and(|sent| said.is_subset(sent))), &|| {
        "a fact is stated that nobody sent".to_owned()
    })?;
    let standing = |versions: &Versions| -> Vec<_> {
        versions.iter().map(|(key, versions)| (key.clone(), *versions.last().expect("there is one"))).collect()
    };
    ensure(standing(&stated) == standing(&versions_sent), &|| {
        "what stands is not the highest that was sent".to_owned()
    })?;
    met.changes += stated.values().map(|versions| versions.len() as u64 - 1).sum::<u64>();
    let superseded = |(key, sent): (&FactKey<'static>, &BTreeSet<FactVersion>)| (sent.len() - stated[key].len()) as u64;
    met.superseded += versions_sent.iter().map(superseded).sum::<u64>();

    let distinct = expected.values().sum::<u64>() + stated.values().map(|versions| versions.len() as u64).sum::<u64>();
    compare_tallies(slices, &seen.delivered, distinct, &mut met)?;
    compare_gains(slices, logs, &seen.gains, &mut met)?;
    Ok(met)
}

fn compare_tallies(slices: &[Slice], delivered: &[Delivered], distinct: u64, met: &mut Met) -> Result<(), String> {
    let mut tallies = BTreeMap::<SliceId, Tally>::new();
    for Delivered { slice, tally } in delivered {
        let first = tallies.entry(*slice).or_insert(*tally);
        if first != tally {
            return Err(format!("{slice:?} was {first:?} and is {tally:?}"));
        }
    }
    met.redeliveries += (delivered.len() - tallies.len()) as u64;
    for slice in slices {
        let Some(tally) = tallies.get(&slice.id) else { return Err(format!("{:?} was not done", slice.id)) };
        met.duplicates += tally.duplicates;
        let is_whole = tally.counted + tally.duplicates == slice.events() as u64 && tally.all() == slice.parts() as u64;
        if !is_whole {
            return Err(format!("{:?} has {} events and is {tally:?}", slice.id, slice.events()));
        }
    }
    let counted: u64 = tallies.values().map(|tally| tally.counted + tally.beside.stated).sum();
    if counted == distinct { Ok(()) } else { Err(format!("slices say {counted} of {distinct} were counted")) }
}

/// A gain's totals are the newest in the entries it stands for, and the partitions named for a slice hold it.
fn compare_gains(
    slices: &[Slice],
    logs: &BTreeMap<Partition, Vec<Entry>>,
    all: &[(Vec<Gain>, Vec<Named>)],
    met: &mut Met,
) -> Result<(), String> {
    for (gains, committed) in all {
        for Gain { partition, from_version, to_version, totals } in gains {
            let entries = logs.get(partition).map(Vec::as_slice).unwrap_or_default();
            let mut newest = HashMap::new();
            for entry in entries.iter().filter(|entry| entry.version <= *to_version) {
                let Content::Counted { groups, .. } = &entry.content else { continue };
                for EntryGroup { counter, total, .. } in groups {
                    if *from_version < entry.version {
                        newest.insert(counter.clone(), *total);
                    }
                }
            }
            match totals {
                None if matches!(partition.window, Window::Day(_)) => met.gains_of_facts += 1,
                Some(totals) if *totals != newest => {
                    return Err(format!("{partition} {from_version}..{to_version} gained {newest:?}, not {totals:?}"));
                }
                Some(_) => {
                    met.plain_gains += u64::from(from_version < to_version);
                    met.long_folds += u64::from(from_version + 2 < *to_version);
                }
                None => met.gains_to_read += 1,
            }
        }
        for (slice, through) in committed {
            let slice = slices.iter().find(|sent| sent.id == *slice).ok_or("a slice that nobody sent")?;
            compare_named(slice, through, logs)?;
        }
    }
    Ok(())
}

/// The partitions named for a slice hold all of it, and each of them some of it.
fn compare_named(
    slice: &Slice,
    through: &[(Partition, u64)],
    logs: &BTreeMap<Partition, Vec<Entry>>,
) -> Result<(), String> {
    let mut sought = BTreeSet::new();
    for group in slice.groups() {
        let (meter, account) = (group.counter.meter, group.counter.account);
        sought.extend(group.identities.iter().map(|identity| (meter, account, *identity)));
    }
    // A version that is higher holds it as well: it is superseded.
    let mut facts: BTreeSet<_> =
        slice.facts().iter().map(|part| (part.fact.key.clone(), FactVersion::of(&part.fact))).collect();
    for (partition, version) in through {
        let before = (sought.len(), facts.len());
        for entry in logs.get(partition).into_iter().flatten().filter(|entry| entry.version <= *version) {
            if let Content::Stated { facts: stated, .. } = &entry.content {
                for EntryFact { fact, .. } in stated {
                    facts.retain(|(key, version)| *key != fact.key || FactVersion::of(fact) < *version);
                }
            }
            let Content::Counted { groups, .. } = &entry.content else { continue };
            for EntryGroup { counter, identities, .. } in groups {
                for identity in identities {
                    sought.remove(&(counter.meter, counter.account, *identity));
                }
            }
        }
        if (sought.len(), facts.len()) == before {
            return Err(format!("{:?} is said to be in {partition} and is not", slice.id));
        }
    }
    if sought.is_empty() && facts.is_empty() { Ok(()) } else { Err(format!("{:?} is not in {through:?}", slice.id)) }
}

/// Size of an entry's item.
///
/// Source: Amazon DynamoDB Developer Guide, "DynamoDB item sizes and formats": names and values in UTF-8, a number one
/// byte for two digits and one more, lists and maps 3 bytes and 1 for each element.
fn stored_bytes(partition: &Partition, entry: &Entry) -> usize {
    let number = |value: u64| value.to_string().len().div_ceil(2) + 1;
    let head = "partition".len() + partition.to_string().len() + "version".len() + number(entry.version);
    let head = head + "commit".len() + 16;
    match &entry.content {
        Content::Split => head + "split".len() + 2,
        Content::Stated { slices, facts } => {
            // As if no fact had anything in common with its neighbour.
            let facts = facts.iter().map(|EntryFact { fact, .. }| {
                let UsageFact { key, dimensions, .. } = fact;
                let texts = [key.meter.as_str(), &key.resource, &dimensions.region, &dimensions.category];
                1 + 3 + 7 * 2 + texts.map(str::len).iter().sum::<usize>() + 12 + 58
            });
            head + "slices".len() + 3 + slices.len() * (20 + 1) + "facts".len() + 3 + facts.sum::<usize>()
        }
        Content::Counted { slices, groups } => {
            let slices = "slices".len() + 3 + slices.len() * (20 + 1);
            let groups = groups.iter().map(|EntryGroup { counter, total, identities, sources }| {
                let texts = [counter.meter.as_str(), &counter.dimensions.region, &counter.dimensions.category];
                let texts = texts.map(str::len).iter().sum::<usize>() + 12;
                1 + 3 + 7 * 2 + texts + number(*total) + identities.len() * 16 + sources.len() * 4
            });
            head + slices + "groups".len() + 3 + groups.sum::<usize>()
        }
    }
}
