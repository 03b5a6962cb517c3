//! The stores of the simulated world, the order in which things happen in it, and the trace of both.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard};
use std::task::Poll;

use aggregator::acknowledgement::{ITEM_BYTES_MAX, RunAcknowledged};
use aggregator::close::Owners;
use aggregator::commit::{Gain, Limits};
use aggregator::directory::CustomerId;
use aggregator::entry::{CommitId, Entry};
use aggregator::facts::Standing;
use aggregator::partition::Partition;
use ingest::aws::{AwsError, AwsErrorKind};
use ingest::dynamodb::Item;
use ingest::manifest::Manifest;
use ingest::{AccountId, ContentHash, CounterKey, Hour, Identity, Meter, Reason, RunId, Timestamp};
use sha2::{Digest, Sha256};

use super::fault::{Fault, Sabotage};
use super::month::Month;
use super::source::{Scope, Sources};
use super::{Options, START_AT};
use crate::random::{Draws, Stream as About};

/// The stores, shared by everyone in the world. One thread: the lock is never waited for.
#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) draws: Draws,
    pub(super) options: Options,
    /// Faults are over: what is left comes to its end.
    pub(super) is_calm: bool,
    pub(super) step: u64,
    skew_seconds: i64,
    faults_scale: u8,
    pub(super) limits: Limits,
    pub(super) cache_bytes: usize,
    /// Bytes of an item of acknowledgements: small ones hold one slice, or a part of one.
    pub(super) item_bytes_max: usize,
    pub(super) trace: Trace,
    pub(super) violation: Option<String>,
    pub(super) met: BTreeMap<&'static str, u64>,

    pub(super) sources: Sources,
    pub(super) stream: Stream,
    pub(super) logs: BTreeMap<Partition, Vec<Entry>>,
    pub(super) late_entries: Vec<(Partition, Entry)>,
    /// Acknowledgements, and markers of them, that nobody waits for any more.
    pub(super) late_items: Vec<Item>,
    /// What each process remembers and no store holds; only of a sabotaged cache.
    pub(super) phantoms: BTreeMap<u32, Vec<(Partition, Entry)>>,
    /// What is remembered apart from the counts; only where that is the sabotage.
    pub(super) remembered: BTreeMap<Partition, Vec<Entry>>,
    /// Every identity in an entry that landed.
    pub(super) counted: BTreeSet<(Meter, AccountId, Hour, Identity)>,
    /// What each counter of each log came to, and all counters of a scope together.
    pub(super) totals: BTreeMap<(String, CounterKey), u64>,
    pub(super) sums: BTreeMap<Scope, u64>,
    /// Versions of facts in entries that landed, and the last of each key.
    pub(super) stated: u64,
    pub(super) last_stated: BTreeMap<Identity, (u64, ContentHash)>,
    pub(super) manifests: Vec<Manifest>,
    /// Acknowledgements as they are written, and what they come to.
    pub(super) receipts: BTreeMap<RunId, Vec<Item>>,
    pub(super) acknowledged: BTreeMap<RunId, RunAcknowledged>,
    /// Logs that acknowledged slices name and that are not rolled up so far yet, each with the highest version.
    pub(super) owed: BTreeMap<String, u64>,
    pub(super) markers: BTreeMap<Vec<u8>, Marker>,
    pub(super) letters: BTreeMap<String, Letter>,
    pub(super) triggers: VecDeque<Vec<Gain>>,
    pub(super) cursors: BTreeMap<String, u64>,
    pub(super) rows: BTreeMap<RowKey, Row>,
    pub(super) standing: Standing,
    pub(super) in_force: BTreeMap<String, u64>,
    pub(super) owners: Owners,
    pub(super) directory_version: i64,
    pub(super) month: Month,
    /// When usage, rows or the directory changed last.
    pub(super) changed_at: u64,
}

/// What a sweep will look at: as it is written, and the logs that it names.
#[derive(Clone, Debug)]
pub(super) struct Marker {
    pub(super) item: Item,
    pub(super) names: BTreeMap<String, u64>,
}

/// A dead letter, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) reason: Reason,
    pub(super) object: String,
    pub(super) bytes: Vec<u8>,
    pub(super) is_open: bool,
}

/// Partition, account, meter, hour, region, category.
pub(super) type RowKey = (String, AccountId, Meter, Hour, String, String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) total: u64,
    pub(super) owner: Option<CustomerId>,
}

/// A stream of shards; which of them a bucket's records go to changes.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The buckets of each shard; none of one that is closed.
    shards: Vec<Vec<u16>>,
    pub(super) records: Vec<Record>,
    sequence: u64,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) shard: usize,
    pub(super) sequence: u64,
    pub(super) body: Vec<u8>,
    pub(super) is_poison: bool,
}

#[derive(Debug)]
pub(super) struct Trace {
    hash: Sha256,
    lines: Option<Vec<String>>,
}

thread_local! {
    static IDS: Cell<u64> = const { Cell::new(0) };
}

/// The ids of this run, one after the other: no two are the same, as with random ones.
pub(super) fn next_id() -> CommitId {
    let number = IDS.with(|ids| {
        ids.set(ids.get() + 1);
        ids.get()
    });
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    CommitId(bytes)
}

/// Lets others go on; the process may never come back from it.
pub(super) async fn step() {
    let mut has_waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A call that did not do what it should.
pub(super) fn failure(operation: &'static str, kind: AwsErrorKind) -> AwsError {
    AwsError { operation, kind, said: "as the seed says".to_owned() }
}

impl World {
    pub(super) fn new(options: &Options) -> Self {
        IDS.with(|ids| ids.set(0));
        let mut draws = Draws::new(options.seed, About::Simulation, 0);
        let faults_scale = draws.pick(&[1, 1, 2, 4]);
        let limits = Limits {
            entry_bytes_max: draws.pick(&[700, 1_500, Entry::BYTES_MAX]),
            split_at_identities: draws.pick(&[4, 6, 12, 100_000]),
        };
        let cache_bytes = draws.pick(&[0, 20_000, 1 << 20]);
        let item_bytes_max = draws.pick(&[150, 150, 150, ITEM_BYTES_MAX]);
        let sources = Sources::from_seed(options, &mut draws);
        let owners = sources.first_owners();
        let lines = options.keeps_trace.then(Vec::new);
        let state = State {
            draws,
            options: options.clone(),
            is_calm: false,
            step: 0,
            skew_seconds: 0,
            faults_scale,
            limits,
            cache_bytes,
            item_bytes_max,
            trace: Trace { hash: Sha256::new(), lines },
            violation: None,
            met: BTreeMap::new(),
            sources,
            stream: Stream { shards: vec![(0..32).collect()], ..Stream::default() },
            logs: BTreeMap::new(),
            late_entries: Vec::new(),
            late_items: Vec::new(),
            phantoms: BTreeMap::new(),
            remembered: BTreeMap::new(),
            counted: BTreeSet::new(),
            totals: BTreeMap::new(),
            sums: BTreeMap::new(),
            stated: 0,
            last_stated: BTreeMap::new(),
            manifests: Vec::new(),
            receipts: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            owed: BTreeMap::new(),
            markers: BTreeMap::new(),
            letters: BTreeMap::new(),
            triggers: VecDeque::new(),
            cursors: BTreeMap::new(),
            rows: BTreeMap::new(),
            standing: Standing::default(),
            in_force: BTreeMap::new(),
            owners,
            directory_version: 0,
            month: Month::default(),
            changed_at: 0,
        };
        Self { state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the world in hand")
    }
}

impl State {
    /// Whether a fault strikes here and now. Draws whether or not it may, so that switching a fault off leaves the rest of
    /// a seed's choices nearly as they were.
    pub(super) fn strikes(&mut self, fault: Fault, percent: u8) -> bool {
        self.befalls(fault, u64::from(percent) * 10)
    }

    /// The same for what can happen at any step.
    pub(super) fn befalls(&mut self, fault: Fault, per_thousand: u64) -> bool {
        let is_hit = self.draws.below(1_000) < per_thousand * u64::from(self.faults_scale);
        let strikes = is_hit && !self.is_calm && !self.options.without.contains(&fault);
        if strikes {
            self.meet(fault.as_str());
        }
        strikes
    }

    pub(super) fn is(&self, sabotage: Sabotage) -> bool {
        self.options.sabotage == Some(sabotage)
    }

    pub(super) fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    pub(super) fn now(&self) -> Timestamp {
        self.right_now().saturating_add_secs(self.skew_seconds)
    }

    /// What a clock would say that is right.
    pub(super) fn right_now(&self) -> Timestamp {
        START_AT.saturating_add_secs(i64::try_from(self.step).expect("few steps"))
    }

    pub(super) fn set_clock_right(&mut self) {
        self.skew_seconds = 0;
    }

    pub(super) fn say(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>6} {}", self.step, line());
        self.trace.hash.update(line.as_bytes());
        self.trace.hash.update([b'\n']);
        if let Some(lines) = &mut self.trace.lines {
            lines.push(line);
        }
    }

    /// Something must hold and does not. The first such thing ends the run.
    pub(super) fn ensure(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            let what = what();
            self.say(|| format!("WRONG: {what}"));
            self.violation = Some(what);
        }
    }

    /// What happens by itself between two steps of anybody.
    pub(super) fn turn(&mut self) {
        self.step += 1;
        let step = self.step;
        let arrived = self.sources.objects.iter().filter(|object| object.arrives_at == step).count();
        for _ in 0..arrived {
            self.meet(Fault::Late.as_str());
        }
        if self.is_calm {
            return;
        }
        if !self.late_entries.is_empty() && self.draws.percent(6) {
            self.land_late();
        }
        if !self.late_items.is_empty() && self.draws.percent(6) {
            self.keep_late();
        }
        if self.befalls(Fault::ClockJump, 4) {
            self.skew_seconds = [-1_500, -60, 0, 90, 1_700][usize::try_from(self.draws.below(5)).unwrap_or(0)];
            self.say(|| "the clock jumps".to_owned());
        }
        if self.befalls(Fault::ShardChange, 2) {
            self.reshard();
        }
        if self.befalls(Fault::StreamLost, 1) {
            let shard = usize::try_from(self.draws.below(self.stream.shards.len() as u64)).unwrap_or(0);
            self.stream.records.retain(|record| record.shard != shard || record.is_poison);
            self.say(|| format!("shard {shard} is lost"));
        }
        if self.befalls(Fault::Poison, 1) {
            let body = [&b"not a slice"[..], b"[{\"specversion\":\"1.0\"}]", b"[", b""]
                [usize::try_from(self.draws.below(4)).unwrap_or(0)];
            let number = self.stream.sequence;
            self.put(u16::try_from(number % 32).unwrap_or(0), [body, number.to_string().as_bytes()].concat(), true);
            self.sources.stream_poison += 1;
        }
        if self.is(Sabotage::EntryExpires) && self.draws.percent(2) {
            let which = usize::try_from(self.draws.below(self.logs.len() as u64)).unwrap_or(0);
            if let Some(entry) = self.logs.values_mut().nth(which).and_then(Vec::pop) {
                self.say(|| format!("entry {} expires", entry.version));
            }
        }
    }

    pub(super) fn land_late(&mut self) {
        let which = usize::try_from(self.draws.below(self.late_entries.len() as u64)).unwrap_or(0);
        let (partition, entry) = self.late_entries.swap_remove(which);
        let landed = self.append(&partition, &entry);
        self.say(|| {
            format!(
                "a late write of entry {} to {partition} {}",
                entry.version,
                if landed { "lands" } else { "is refused" }
            )
        });
    }

    /// Puts a record on the open shard of its bucket.
    pub(super) fn put(&mut self, bucket: u16, body: Vec<u8>, is_poison: bool) {
        let shard =
            self.stream.shards.iter().position(|buckets| buckets.contains(&bucket)).expect("every bucket has one");
        self.stream.sequence += 1;
        let sequence = self.stream.sequence;
        self.stream.records.push(Record { shard, sequence, body, is_poison });
        self.say(|| format!("record {sequence} goes to shard {shard}"));
    }

    fn reshard(&mut self) {
        let open: Vec<usize> = (0..self.stream.shards.len()).filter(|&n| !self.stream.shards[n].is_empty()).collect();
        let one = open[usize::try_from(self.draws.below(open.len() as u64)).unwrap_or(0)];
        let mut buckets = std::mem::take(&mut self.stream.shards[one]);
        if 3 < open.len() || buckets.len() < 2 {
            if let Some(&other) = open.iter().find(|&&other| other != one) {
                buckets.extend(std::mem::take(&mut self.stream.shards[other]));
            }
            self.stream.shards.push(buckets);
            self.say(|| format!("shard {one} is merged"));
        } else {
            let half = buckets.split_off(buckets.len() / 2);
            self.stream.shards.extend([buckets, half]);
            self.say(|| format!("shard {one} is split"));
        }
    }

    pub(super) fn change(&mut self) {
        self.changed_at = self.step;
    }
}

impl Trace {
    pub(super) fn sha256(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}
