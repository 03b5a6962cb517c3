//! The real programs behind the mappings: a stream that is counted, and a log that is rolled up, while functions are killed,
//! stores fail and answers are lost. In the end counters and usage rows equal a naive recount.
//!
//! A seed decides what arrives when, how batches are cut and what goes wrong where. What two functions do at once is theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::ShardIteratorType;
use futures::future::join_all;
use ingest::Reason;
use ingest::kinesis::{pack, partition_key};
use serde_json::json;

use super::Millis;
use super::random::Random;
use super::stream::{Attempt, Cause, Discarded, Record, SequenceNumber, StreamMapping, StreamSettings};
use crate::deliveries::{self, KinesisRecord};
use crate::faults::{Fault, Proxy};
use crate::runtime_api::{Environment, Function, Outcome};
use crate::stage::{Counts, Event, HOUR, NAME, Program, Stage, recount, sdk, slices, until_active};

/// Seeds of a short run; `make mapping` runs more.
const SEEDS: u64 = 2;
const FIRST_SEED: u64 = 1;
const RUNS: u64 = 6;
const DAY: Millis = 86_400_000;
/// What Lambda would wait for a function that does not answer.
const FUNCTION_TIMEOUT: Millis = 60_000;

#[tokio::test]
async fn whatever_goes_wrong_counters_and_rows_equal_a_recount() {
    let setting = |name, default| env::var(name).map_or(default, |text| text.parse().expect("a whole number"));
    let first = setting("SECUREBASE_MAPPING_FIRST_SEED", FIRST_SEED);
    let seeds = setting("SECUREBASE_MAPPING_SEEDS", SEEDS);
    let mut total = Summary::default();
    for seed in first..first + seeds {
        println!("seed {seed}; again with: make mapping FIRST_SEED={seed} SEEDS=1");
        let summary = Chain::set(seed).await.run().await;
        println!("  {summary:?}");
        total.add(&summary);
    }
    println!("{seeds} seeds, difference 0: {total:?}");
}

/// What happened in a run.
#[derive(Debug, Default)]
struct Summary {
    records: u64,
    invocations: u64,
    cold_starts: u64,
    kills: u64,
    errors: u64,
    partial_answers: u64,
    records_delivered_again: u64,
    records_discarded: u64,
    /// Of those, the ones that were given up for their age.
    records_too_old: u64,
    events: u64,
    counted: u64,
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.invocations += other.invocations;
        self.cold_starts += other.cold_starts;
        self.kills += other.kills;
        self.errors += other.errors;
        self.partial_answers += other.partial_answers;
        self.records_delivered_again += other.records_delivered_again;
        self.records_discarded += other.records_discarded;
        self.records_too_old += other.records_too_old;
        self.events += other.events;
        self.counted += other.counted;
    }
}

/// What is put on the stream, and when.
enum Put {
    Record { key: String, body: Vec<u8> },
    Split,
}

/// An execution environment with its own way to the tables.
struct Host {
    environment: Environment,
    proxy: Proxy,
}

struct Chain {
    stage: Stage,
    random: Random,
    now: Millis,
    events: Vec<Event>,
    puts: BTreeMap<(Millis, usize), Put>,
    poison: u64,
    kinesis: aws_sdk_kinesis::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    /// Where the reading of each shard goes on.
    iterators: BTreeMap<String, Option<String>>,
    stream: StreamMapping,
    log: StreamMapping,
    seen_entries: BTreeSet<(String, u64)>,
    idle: BTreeMap<Program, Vec<Host>>,
    /// Invocations whose outcome is known and whose end, in simulated time, is still to come.
    ends: BTreeMap<(Millis, Program, u64), Outcome>,
    delivered: BTreeSet<String>,
    summary: Summary,
}

impl Chain {
    async fn set(seed: u64) -> Self {
        let stage = Stage::set().await;
        let mut random = Random::new(seed);
        let kinesis = aws_sdk_kinesis::Client::new(&sdk(stage.kinesis.endpoint()));
        let dynamodb = aws_sdk_dynamodb::Client::new(&sdk(stage.dynamodb.endpoint()));
        kinesis.create_stream().stream_name(NAME).shard_count(2).send().await.unwrap();
        until_active(&kinesis).await;
        let (events, puts, poison) = deliveries_of(&mut random);
        let stream = StreamMapping::new(StreamSettings {
            batch_size: 1 + usize::try_from(random.below(30)).unwrap(),
            batch_window: random.below(4) * 1_000,
            parallelization_factor: 1 + usize::try_from(random.below(3)).unwrap(),
            // Without it Lambda takes a partial answer for success and the rest of the batch is gone: seed 2 showed it.
            reports: true,
            bisects: random.one_in(2),
            retries_max: random.one_in(3).then_some(1),
            record_age_max: random.one_in(2).then(|| age_max(&mut random)),
            retention: 7 * DAY,
        });
        let mut log = StreamMapping::new(StreamSettings {
            batch_size: 1 + usize::try_from(random.below(100)).unwrap(),
            batch_window: random.below(2) * 1_000,
            parallelization_factor: 1 + usize::try_from(random.below(3)).unwrap(),
            reports: true,
            bisects: random.one_in(2),
            retries_max: random.one_in(3).then_some(1),
            record_age_max: random.one_in(2).then(|| age_max(&mut random)),
            retention: DAY,
        });
        for shard in ["shardId-0", "shardId-1"] {
            log.open(shard, &[]);
        }
        Self {
            stage,
            random,
            now: 0,
            events,
            puts,
            poison,
            kinesis,
            dynamodb,
            iterators: BTreeMap::new(),
            stream,
            log,
            seen_entries: BTreeSet::new(),
            idle: BTreeMap::new(),
            ends: BTreeMap::new(),
            delivered: BTreeSet::new(),
            summary: Summary::default(),
        }
    }

    async fn run(mut self) -> Summary {
        self.drive().await;
        // What the mappings gave up went whole to the on-failure destination: an operator hands in what is kept there.
        for Discarded { shard, records, cause } in std::mem::take(&mut self.stream.discarded) {
            self.summary.records_discarded += records.len() as u64;
            self.summary.records_too_old += if cause == Cause::TooOld { records.len() as u64 } else { 0 };
            let batch = self.event(Program::Aggregate, &shard, &records);
            let ends = [records.first(), records.last()].map(|record| record.unwrap().sequence_number.as_str());
            let kept = deliveries::given_up(NAME, &shard, ends, records.len(), &batch);
            self.invoke_undisturbed(Program::Aggregate, &kept).await;
        }
        self.read_log().await;
        self.drive().await;
        if !self.log.discarded.is_empty() {
            self.invoke_undisturbed(Program::Rollup, &deliveries::schedule("2026-11-01T00:00:00Z")).await;
        }
        self.check().await;
        self.stage.close().await;
        self.summary
    }

    /// Until nothing is left to arrive, to deliver or to end.
    async fn drive(&mut self) {
        loop {
            if self.put_what_is_due().await {
                self.read_stream().await;
            }
            let ended: Vec<_> = self.ends.extract_if(..=(self.now, Program::Rollup, u64::MAX), |_, _| true).collect();
            for ((_, program, attempt), outcome) in ended {
                let now = self.now;
                self.mapping(program).complete(attempt, &outcome, now);
            }
            let mut attempts = Vec::new();
            for program in Program::MAPPED {
                let now = self.now;
                attempts.extend(self.mapping(program).due(now).into_iter().map(|attempt| (program, attempt)));
            }
            if !attempts.is_empty() {
                self.invoke(attempts).await;
                continue;
            }
            let ends = self.ends.keys().next().map(|(at, _, _)| *at);
            let puts = self.puts.keys().next().map(|(at, _)| *at);
            let next = [ends, puts, self.stream.next_at(), self.log.next_at()].into_iter().flatten().min();
            let Some(next) = next else { return };
            self.now = next.max(self.now + 1);
        }
    }

    fn mapping(&mut self, program: Program) -> &mut StreamMapping {
        match program {
            Program::Aggregate => &mut self.stream,
            _ => &mut self.log,
        }
    }

    /// Whether anything was.
    async fn put_what_is_due(&mut self) -> bool {
        let due: Vec<_> = self.puts.extract_if(..=(self.now, usize::MAX), |_, _| true).collect();
        let is_any = !due.is_empty();
        for (_, put) in due {
            match put {
                Put::Record { key, body } => {
                    self.summary.records += 1;
                    let put = self.kinesis.put_record().stream_name(NAME).partition_key(key).data(Blob::new(body));
                    put.send().await.unwrap();
                }
                Put::Split => {
                    // What the parent has is read before its children are.
                    self.read_stream().await;
                    // A quarter of all hash keys: half of the first of two shards.
                    let split = self.kinesis.split_shard().stream_name(NAME).shard_to_split("shardId-000000000000");
                    split.new_starting_hash_key((u128::MAX / 4).to_string()).send().await.unwrap();
                    until_active(&self.kinesis).await;
                }
            }
        }
        is_any
    }

    /// What has arrived on the stream, shard by shard.
    async fn read_stream(&mut self) {
        let listed = self.kinesis.list_shards().stream_name(NAME).send().await.unwrap();
        for shard in listed.shards() {
            let id = shard.shard_id();
            if !self.iterators.contains_key(id) {
                let parents: Vec<&str> = shard.parent_shard_id().into_iter().collect();
                self.stream.open(id, &parents);
                let asked = self.kinesis.get_shard_iterator().stream_name(NAME).shard_id(id);
                let given = asked.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
                self.iterators.insert(id.to_owned(), given.shard_iterator);
            }
            while let Some(iterator) = self.iterators[id].clone() {
                let read = self.kinesis.get_records().shard_iterator(iterator).send().await.unwrap();
                self.iterators.insert(id.to_owned(), read.next_shard_iterator.clone());
                for record in read.records() {
                    let record = Record {
                        sequence_number: SequenceNumber::new(record.sequence_number()),
                        key: record.partition_key().unwrap_or_default().to_owned(),
                        arrived_at: self.now,
                        body: Arc::from(record.data().as_ref()),
                    };
                    self.stream.put(id, record);
                }
                if read.records().is_empty() {
                    break;
                }
            }
        }
    }

    /// What has been appended to commit logs, as the stream of their table would bring it.
    async fn read_log(&mut self) {
        let mut fresh = BTreeSet::new();
        let mut start = None;
        loop {
            let page = self.dynamodb.scan().table_name(format!("{NAME}-commit-log")).consistent_read(true);
            let page = page.set_exclusive_start_key(start).send().await.unwrap();
            for item in page.items() {
                let (AttributeValue::S(partition), AttributeValue::N(version)) = (&item["partition"], &item["version"])
                else {
                    panic!("{item:?}")
                };
                let key = (partition.clone(), version.parse().unwrap());
                if !self.seen_entries.contains(&key) {
                    fresh.insert(key);
                }
            }
            start = page.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        for (partition, version) in fresh {
            let shard = format!("shardId-{}", partition.bytes().map(u64::from).sum::<u64>() % 2);
            self.seen_entries.insert((partition.clone(), version));
            let record = Record {
                sequence_number: SequenceNumber::new((100_000 + self.seen_entries.len()).to_string()),
                key: partition,
                arrived_at: self.now,
                body: Arc::from(version.to_string().as_bytes()),
            };
            self.log.put(&shard, record);
        }
    }

    fn event(&self, program: Program, shard: &str, records: &[Record]) -> String {
        match program {
            Program::Aggregate => {
                let record = |record: &'_ Record| -> KinesisRecord {
                    KinesisRecord {
                        sequence_number: record.sequence_number.as_str().to_owned(),
                        partition_key: record.key.clone(),
                        body: record.body.to_vec(),
                    }
                };
                deliveries::kinesis(NAME, shard, records.iter().map(record))
            }
            _ => deliveries::commit_log(records.iter().map(|record| {
                let version = std::str::from_utf8(&record.body).unwrap().parse().unwrap();
                (record.sequence_number.as_str().to_owned(), record.key.clone(), version)
            })),
        }
    }

    /// Makes invocations that are due at once, at once; each meets its own fate.
    async fn invoke(&mut self, attempts: Vec<(Program, Attempt)>) {
        let mut running = Vec::new();
        for (program, attempt) in attempts {
            for record in &attempt.records {
                let name = format!("{program:?} {} {}", attempt.shard, record.sequence_number.as_str());
                self.summary.records_delivered_again += u64::from(!self.delivered.insert(name));
            }
            let event = self.event(program, &attempt.shard, &attempt.records);
            let mut host = self.host(program).await;
            let faults = fate(&mut self.random);
            // Until then the invocation is under way.
            let end = self.now + 5 + self.random.below(3_000);
            running.push(async move {
                host.proxy.plan(faults, host.environment.pid());
                let outcome = host.environment.invoke(&event).await;
                (program, attempt.id, end, outcome, host)
            });
        }
        for (program, attempt, end, outcome, host) in join_all(running).await {
            self.summary.invocations += 1;
            let end = match &outcome {
                Outcome::Answer(answer) => {
                    let is_partial = answer["batchItemFailures"].as_array().is_some_and(|items| !items.is_empty());
                    self.summary.partial_answers += u64::from(is_partial);
                    self.idle.entry(program).or_default().push(host);
                    end
                }
                Outcome::Error { .. } => {
                    self.summary.errors += 1;
                    self.idle.entry(program).or_default().push(host);
                    end
                }
                // A kill stands for a crash, and for Lambda's own when time is up.
                Outcome::Exited { .. } | Outcome::TimedOut => {
                    self.summary.kills += 1;
                    self.now + if self.random.one_in(2) { FUNCTION_TIMEOUT } else { 200 }
                }
            };
            self.ends.insert((end, program, attempt), outcome);
        }
        self.read_log().await;
    }

    /// An idle environment, or a cold one. Lambda lets go of one now and then.
    async fn host(&mut self, program: Program) -> Host {
        let idle = self.idle.entry(program).or_default();
        if self.random.one_in(8) {
            idle.clear();
        }
        if let Some(host) = idle.pop() {
            return host;
        }
        self.summary.cold_starts += 1;
        let proxy = Proxy::before(self.stage.dynamodb.endpoint()).await;
        let mut function: Function = self.stage.function(program);
        function.variables.insert("AWS_ENDPOINT_URL_DYNAMODB".to_owned(), proxy.endpoint.clone());
        // What the SDK tries again by itself is no trouble, and its waits are real ones.
        function.variables.insert("AWS_MAX_ATTEMPTS".to_owned(), "1".to_owned());
        function.timeout = Duration::from_millis(FUNCTION_TIMEOUT);
        let environment = Environment::start(&function).await.unwrap();
        Host { environment, proxy }
    }

    async fn invoke_undisturbed(&mut self, program: Program, event: &str) {
        let mut host = self.host(program).await;
        host.proxy.plan([], host.environment.pid());
        let answer = host.environment.invoke(event).await.answer();
        if program == Program::Aggregate {
            assert_eq!(answer, json!({ "batchItemFailures": [] }));
        }
    }

    async fn check(&mut self) {
        assert!(self.stream.is_done() && self.log.is_done());
        assert!(self.stream.expired.is_empty() && self.log.expired.is_empty());
        let expected = recount(self.events.iter().copied());
        self.summary.events = self.events.len() as u64;
        self.summary.counted = expected.values().sum();
        assert_eq!(difference(&self.stage.in_logs().await, &expected), [], "counters and recount, {:?}", self.summary);
        assert_eq!(difference(&self.stage.in_rows().await, &expected), [], "rows and recount, {:?}", self.summary);

        let mut counted = 0;
        for run in 0..RUNS {
            let mut name = [0; 16];
            name[8..].copy_from_slice(&run.to_be_bytes());
            let run = ingest::RunId::from_bytes(name);
            let acknowledged = self.stage.tables.acknowledgements().of_run(run).await.unwrap();
            counted += acknowledged.slices.values().map(|slice| slice.tally.counted).sum::<u64>();
        }
        assert_eq!(counted, self.summary.counted, "receipts say what was counted");

        let letters = self.stage.tables.dead_letters().list().await.unwrap();
        assert!(
            letters.iter().all(|letter| letter.reason == Reason::SliceMalformed && letter.bytes.starts_with(b"poison"))
        );
        assert_eq!(letters.len() as u64, self.poison, "each poisoned record once");
    }
}

/// Where two counts are not the same.
fn difference(found: &Counts, expected: &Counts) -> Vec<((String, String), u64, u64)> {
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let of = |counts: &Counts, key| counts.get(key).copied().unwrap_or_default();
    let both = keys.into_iter().map(|key| (key.clone(), of(found, key), of(expected, key)));
    both.filter(|(_, found, expected)| found != expected).collect()
}

/// Runs of events, each event about twice among them, as records on the stream over a minute; some of them are put twice, as
/// a producer does whose answer was lost; and poison between them.
fn deliveries_of(random: &mut Random) -> (Vec<Event>, BTreeMap<(Millis, usize), Put>, u64) {
    let (mut events, mut puts, mut poison) = (Vec::new(), BTreeMap::new(), 0);
    let mut put = |at: Millis, put: Put| {
        let number = puts.len();
        puts.insert((at, number), put);
    };
    for run in 0..RUNS {
        let event = |random: &mut Random| {
            let identity = u32::try_from(random.below(600)).unwrap();
            // Where an event belongs is part of it.
            Event { account: u64::from(identity % 11), hour: HOUR + i64::from(identity % 5), identity }
        };
        let read: Vec<Event> = (0..40 + random.below(80)).map(|_| event(random)).collect();
        for slice in slices(run, &read) {
            for record in pack(vec![slice]) {
                let record = || Put::Record { key: partition_key(record.bucket), body: record.body.clone() };
                put(moment(random), record());
                if random.one_in(15) {
                    put(moment(random), record());
                }
            }
        }
        if random.one_in(3) {
            poison += 1;
            let (key, body) = (format!("{:02}", random.below(32)), format!("poison {run}").into_bytes());
            put(moment(random), Put::Record { key, body });
        }
        events.extend(read);
    }
    if random.one_in(2) {
        put(30_000, Put::Split);
    }
    (events, puts, poison)
}

/// How old a record may become: not much more than the shortest that Lambda takes, so that kills make some too old.
fn age_max(random: &mut Random) -> Millis {
    60_000 + random.below(30_000)
}

/// Some time within a minute.
fn moment(random: &mut Random) -> Millis {
    random.below(120) * 500
}

/// What goes wrong in one invocation, by the number of its request to the tables.
fn fate(random: &mut Random) -> Vec<(u32, Fault)> {
    let request = 1 + u32::try_from(random.below(10)).unwrap();
    match random.below(10) {
        0 => vec![(request, Fault::KilledBefore)],
        1 => vec![(request, Fault::KilledAfter)],
        2 => vec![(request, Fault::AnswerLost)],
        3 => vec![(request, Fault::Down)],
        4 => (request..request + 2).map(|request| (request, Fault::Throttled)).collect(),
        _ => Vec::new(),
    }
}
