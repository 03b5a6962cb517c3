//! From slices on a stream to usage rows, every server real.

use std::collections::BTreeMap;
use std::time::Duration;

use aggregator::commit::{Gain, Limits};
use aggregator::commit_log::CommitLog as _;
use aggregator::consumer::{ConsumerOptions, consume};
use aggregator::entry::{CommitId, Content, Entry};
use aggregator::known::Untrusted;
use aggregator::partition::Partition;
use aggregator::rollup::{RollUp, RollUpError};
use aggregator::usage_rows::{AdvanceError, CounterTotal};
use embedded::{Kinesis, KinesisOptions};
use ingest::kinesis::{StreamRecord, StreamWriter, pack};
use ingest::{Hour, Meter, Reason, Window};
use tokio::sync::mpsc;

use crate::clients;
use crate::stage::{Stage, account, advance, events as counter, hour, now};
use crate::tables::{Counts, Event, HOUR, SMALL, Tables, events, recount, slices};

const STREAM: &str = "usage";

async fn with_stream(shards: i32) -> (Kinesis, aws_sdk_kinesis::Client) {
    let kinesis = Kinesis::start(KinesisOptions::default()).await.unwrap();
    let client = clients::kinesis(kinesis.endpoint());
    client.create_stream().stream_name(STREAM).shard_count(shards).send().await.unwrap();
    loop {
        let stream = client.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        if stream.stream_description_summary.unwrap().stream_status.as_str() == "ACTIVE" {
            return (kinesis, client);
        }
        tokio::task::yield_now().await;
    }
}

/// The usage rows by meter, account and hour, partitions and dimensions together.
pub(crate) async fn in_rows(stage: &Stage) -> Counts {
    let mut counts = Counts::new();
    for ((_, counter), (_, total)) in stage.rows().await {
        let mut parts = counter.split(' ');
        let account = ingest::AccountId::parse(parts.next().unwrap()).unwrap();
        let meter = Meter::parse_stored(parts.next().unwrap()).unwrap();
        *counts.entry((meter, account, hour(parts.next().unwrap()))).or_default() += total;
    }
    counts
}

/// What a sweep asks for: partitions at the versions that acknowledgements name, whatever became of the gains.
fn sweep(acknowledged: BTreeMap<Partition, u64>) -> Vec<Gain> {
    let gain = |(partition, version)| Gain { partition, from_version: version, to_version: version, totals: None };
    acknowledged.into_iter().map(gain).collect()
}

#[tokio::test]
async fn slices_on_a_stream_become_usage_rows_that_equal_a_recount() {
    let ((stage, anna, berta), tables) = (Stage::with_customers().await, Tables::set().await);
    stage.directory.register(account(0), &anna, hour("2026-01-01T00"), now()).await.unwrap();
    stage.directory.register(account(1), &berta, hour("2026-01-01T00"), now()).await.unwrap();
    let (kinesis, stream) = with_stream(2).await;
    let writer = StreamWriter::new(stream.clone(), STREAM.into(), || 0);

    let runs: Vec<Vec<Event>> = (0..4).map(|run| events(run, 500)).collect();
    let mut sent = Vec::new();
    for (run, events) in (0..).zip(&runs) {
        let run_slices = slices(run, events);
        sent.extend(run_slices.iter().map(|slice| (run, slice.id.number)));
        // Each slice twice, in records of their own and packed together.
        let mut records = pack(run_slices.clone());
        records.extend(run_slices.into_iter().flat_map(|slice| pack(vec![slice])));
        if run == 1 {
            let bucket = records[0].bucket;
            records.push(StreamRecord { bucket, body: b"[{\"specversion\":\"1.0\"}]".to_vec() });
        }
        writer.put(records).await.unwrap();
    }

    let options = ConsumerOptions {
        stream: STREAM.into(),
        flush_interval: Duration::from_millis(5),
        clock: now,
        random: || 0,
        checkpoints: None,
    };
    let (gains, mut gained) = mpsc::channel(4);
    let aggregators: Vec<_> = (0..2).map(|_| tables.aggregator(20_000, SMALL)).collect();
    let aggregators = std::sync::Mutex::new(aggregators);
    let consumer = tokio::spawn(consume(
        stream,
        options,
        tables.dead_letters.clone(),
        move || aggregators.lock().unwrap().pop().expect("two shards"),
        gains,
    ));

    let roll_up = RollUp::new(tables.log.clone(), stage.rows.clone());
    let mut batches = 0;
    while let Some(gain) = gained.recv().await {
        batches += 1;
        // Every third trigger is lost.
        if batches % 3 != 0 {
            roll_up.apply(gain.clone(), now()).await.unwrap();
            roll_up.apply(gain, now()).await.unwrap();
        }
        let mut acknowledged = Vec::new();
        for run in 0..4 {
            acknowledged.extend(tables.acknowledged(run).await.slices.into_keys().map(|number| (run, number)));
        }
        if acknowledged == sent {
            break;
        }
    }
    gained.close();
    while gained.recv().await.is_some() {}
    consumer.await.unwrap().unwrap();

    let acknowledged = tables.acknowledgements.partitions().await.unwrap();
    roll_up.apply(sweep(acknowledged.clone()), now()).await.unwrap();
    let rows = stage.rows().await;
    assert_eq!(in_rows(&stage).await, recount(&runs));
    assert_eq!(tables.counted().await, recount(&runs));
    stage.agrees_with_a_naive_recomputation().await;
    roll_up.apply(sweep(acknowledged), now()).await.unwrap();
    assert_eq!(stage.rows().await, rows, "a sweep that finds nothing changes nothing");

    let letters = tables.dead_letters.list().await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, Reason::SliceMalformed);
    assert_eq!(letters[0].bytes, b"[{\"specversion\":\"1.0\"}]");
    assert!(letters[0].object.starts_with("stream:usage/shardId-"), "{}", letters[0].object);
    kinesis.shutdown().await;
    tables.server.shutdown().await;
}

#[tokio::test]
async fn rolling_up_from_nothing_but_names_gives_the_same_rows_as_from_gains() {
    let tables = Tables::set().await;
    let (by_gains, by_names) = (Stage::set().await, Stage::set().await);
    let runs: Vec<Vec<Event>> = (0..4).map(|run| events(run, 300)).collect();
    let mut aggregator = tables.aggregator(1 << 20, SMALL);
    let roll_up = RollUp::new(tables.log.clone(), by_gains.rows.clone());
    let mut held_back = Vec::new();
    for (run, events) in (0..).zip(&runs) {
        let outcome = aggregator.run(slices(run, events), now()).await;
        assert!(outcome.failure.is_none(), "{outcome:?}");
        // Gains come out of order too.
        if run == 1 {
            held_back = outcome.gains;
        } else {
            roll_up.apply(outcome.gains, now()).await.unwrap();
        }
    }
    roll_up.apply(held_back, now()).await.unwrap();
    let all = sweep(tables.acknowledgements.partitions().await.unwrap());
    RollUp::new(tables.log.clone(), by_names.rows.clone()).apply(all, now()).await.unwrap();
    assert_eq!(by_gains.rows().await, by_names.rows().await);
    assert_eq!(in_rows(&by_gains).await, recount(&runs));
    tables.server.shutdown().await;
}

#[tokio::test]
async fn a_partition_at_fault_does_not_hold_up_the_others() {
    let (stage, tables) = (Stage::set().await, Tables::set().await);
    let event = |hour, identity| Event { account: 1, hour: HOUR + hour, region: 0, identity };
    let all: Vec<Event> = (0..4).map(|at| event(at, 1)).collect();
    let outcome = tables.aggregator(0, SMALL).run(slices(1, &all), now()).await;
    assert!(outcome.failure.is_none(), "{outcome:?}");
    let root = |at: i64| Partition::root(account(1).bucket(), Window::Hour(Hour::from_number(HOUR + at).unwrap()));
    let roll_up = RollUp::new(tables.log.clone(), stage.rows.clone());
    let wanted = |versions: [u64; 4]| sweep((0..).map(root).zip(versions).collect());
    let stray = |version| Entry { version, commit: CommitId([1; 16]), content: Content::Split };

    // A gap, and an end that is missing.
    tables.log.append(&root(0), &stray(3)).await.unwrap();
    let refused = roll_up.apply(wanted([3, 5, 1, 0]), now()).await.unwrap();
    let gap = Untrusted::Gap { partition: root(0), expected: 2, found: 3 };
    let end = Untrusted::EndsEarly { partition: root(1), missing: 2, through: 5 };
    for (refused, expected) in refused.iter().zip([&gap, &end]) {
        assert!(matches!(&refused.reason, RollUpError::Untrusted(found) if found == expected), "{refused}");
    }
    assert_eq!(refused.iter().map(|one| one.partition.clone()).collect::<Vec<_>>(), [root(0), root(1)]);
    assert_eq!(
        refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            format!(
                "partition {0} is not rolled up: partition {0}: entry 2 is missing, entry 3 stands in its place",
                root(0)
            ),
            format!(
                "partition {0} is not rolled up: partition {0}: entry 2 is missing, the log ends before it and went up to \
                 entry 5",
                root(1)
            ),
        ],
        "for whoever has to look"
    );
    let refused = roll_up.apply(wanted([0, 1, 1, 1]), now()).await.unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    let counted = |ats: std::ops::Range<i64>| -> Counts {
        ats.map(|at| ((Meter::CloudTrailEvents, account(1), root(at).hour().unwrap()), 1)).collect()
    };
    assert_eq!(in_rows(&stage).await, counted(1..4), "all but the gap");

    // A row that says more than its log does.
    let counter = counter(account(1), &root(3).window.to_string(), 9, 2);
    let more = advance(&root(3).to_string(), (1, 2), &[CounterTotal { region: "region-0".into(), ..counter }]);
    stage.rows.advance(&[more], now()).await.unwrap();
    let later: Vec<Event> = (2..4).flat_map(|at| [event(at, 2), event(at, 3)]).collect();
    // One identity an entry.
    let mut aggregator = tables.aggregator(0, Limits { entry_bytes_max: 1, ..SMALL });
    let outcome = aggregator.run(slices(2, &later), now()).await;
    assert!(outcome.failure.is_none(), "{outcome:?}");
    // And a text that PostgreSQL cannot store, which another writer let into a log.
    let Content::Counted { slices: from, mut groups } =
        tables.log.read_after(&root(2), 0).await.unwrap()[0].content.clone()
    else {
        panic!("events were counted there");
    };
    groups[0].counter.dimensions.region = "\0".into();
    let unstorable =
        Entry { version: 1, commit: CommitId([2; 16]), content: Content::Counted { slices: from, groups } };
    tables.log.append(&root(4), &unstorable).await.unwrap();
    let mut gains = wanted([0, 0, 3, 3]);
    gains.extend(sweep([(root(4), 1)].into()));
    let refused = roll_up.apply(gains, now()).await.unwrap();
    let [unstorable, back] = &refused[..] else { panic!("{refused:?}") };
    assert!(matches!(&back.reason, RollUpError::Advance(AdvanceError::TotalWentBack { .. })), "{back}");
    assert!(matches!(&unstorable.reason, RollUpError::Advance(AdvanceError::Malformed { .. })), "{unstorable}");
    assert_eq!((&unstorable.partition, &back.partition), (&root(4), &root(3)));
    assert_eq!(in_rows(&stage).await[&(Meter::CloudTrailEvents, account(1), root(2).hour().unwrap())], 3);
    tables.server.shutdown().await;
}
