//! From which record on a shard is read again.

use std::sync::Arc;

use aggregator::aggregator::Aggregator;
use aggregator::commit::Limits;
use aggregator::memory_log::{Fault, MemoryLog};
use aggregator::records::{DeliveredRecord, Shard};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use ingest::dead_letter::DeadLetters;
use ingest::{Reason, Slice, stream_format};

use crate::stage::now;
use crate::tables::{Event, HOUR, Tables, commit_id, slices};

fn shard() -> Shard {
    Shard { stream: "usage".into(), id: "shardId-000000000003".into() }
}

fn record(number: u8, body: Vec<u8>) -> DeliveredRecord {
    DeliveredRecord { sequence_number: format!("4954{number}"), body }
}

/// One event in each hour, a record each; the second record is in another form.
fn records() -> Vec<DeliveredRecord> {
    let event = |hour| Event { account: 1, hour: HOUR + hour, region: 0, identity: 7 };
    let mut records: Vec<_> =
        (0_u8..4).map(|at| record(at, stream_format::encode(&slices(at, &[event(i64::from(at))])))).collect();
    records.insert(1, record(9, b"{}".to_vec()));
    records
}

#[tokio::test]
async fn the_first_record_that_is_not_counted_is_named_and_its_neighbours_are_done() {
    let tables = Tables::set().await;
    // Hours are committed in order: the third append is of the record at position 3.
    let log = MemoryLog::with_faults(vec![Fault::None, Fault::Throttled, Fault::None, Fault::None]);
    let (acknowledgements, dead_letters) = (tables.acknowledgements.clone(), tables.dead_letters.clone());
    let mut aggregator = Aggregator::new(log, acknowledgements, dead_letters, 1 << 20, commit_id, Arc::default());

    let outcome = aggregator.count(&shard(), records(), now()).await;
    assert_eq!(outcome.first_failed, Some(3));
    assert!(outcome.failure.is_some_and(|failure| failure.is_passing()));
    assert_eq!(outcome.gains.len(), 3, "what is done gains");
    for (run, acknowledged) in [(0, true), (1, true), (2, false), (3, true)] {
        assert_eq!(!tables.acknowledged(run).await.slices.is_empty(), acknowledged, "run {run}");
    }
    let letters = tables.dead_letters.list().await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason, &*letters[0].bytes), (Reason::SliceMalformed, b"{}".as_slice()));
    assert_eq!(letters[0].object, "stream:usage/shardId-000000000003/49549");

    let again = aggregator.count(&shard(), records().split_off(3), now()).await;
    assert!(again.first_failed.is_none() && again.failure.is_none(), "{again:?}");
    for run in 0..4 {
        let tally = tables.acknowledged(run).await.slices[&0].tally;
        assert_eq!((tally.counted, tally.duplicates), (1, 0), "run {run}");
    }
    tables.server.shutdown().await;
}

#[tokio::test]
async fn what_is_delivered_again_is_said_once_whoever_counts_it() {
    let tables = Tables::set().await;
    let event = |hour, identity| Event { account: 1, hour: HOUR + hour, region: 0, identity };
    let first = slices(1, &[event(0, 1), event(1, 1), event(1, 2)]);
    let copy = slices(2, &[event(0, 1), event(1, 2)]);
    // Whoever is killed remembers nothing, so each delivery has an aggregator of its own.
    let delivered = async |batch: &[Slice]| {
        let before = tables.acknowledgement_items().await;
        let outcome = tables.aggregator(1 << 20, Limits::default()).run(batch.to_vec(), now()).await;
        assert!(outcome.failure.is_none(), "{outcome:?}");
        // A marker, and an item for each run.
        tables.acknowledgement_items().await - before
    };
    assert_eq!(delivered(&first).await, 2);
    assert_eq!(delivered(&copy).await, 2, "of a copy nothing was said before");
    let said = [tables.acknowledged(1).await, tables.acknowledged(2).await];
    let all = [first.clone(), copy.clone()].concat();
    for batch in [&first, &copy, &all] {
        assert_eq!(delivered(batch).await, 0);
    }
    assert_eq!([tables.acknowledged(1).await, tables.acknowledged(2).await], said);

    // Beside what is new, and beside what was never acknowledged, what was said is not said again.
    let third = slices(3, &[event(0, 1), event(2, 1)]);
    assert_eq!(delivered(&third[..1]).await, 2);
    assert_eq!(delivered(&[all, third.clone()].concat()).await, 2);
    let tallies: Vec<_> = tables.acknowledged(3).await.slices.into_values().map(|said| said.tally.counted).collect();
    assert_eq!(tallies, [0, 1]);

    // What cannot be read stands in nobody's way: it is said again beside it.
    let put = tables.client().put_item().table_name("acknowledgements");
    let [run, batch] = [vec![2; 16], vec![9; 20]].map(|bytes| AttributeValue::B(Blob::new(bytes)));
    put.item("run", run).item("batch", batch).send().await.unwrap();
    assert_eq!(delivered(&copy).await, 2);
    tables.server.shutdown().await;
}

#[tokio::test]
async fn a_record_that_cannot_be_set_aside_is_read_again() {
    let tables = Tables::set().await;
    let missing = DeadLetters::new(tables.client(), "dead_letters_later".into(), || 0);
    let acknowledgements = tables.acknowledgements.clone();
    let mut aggregator =
        Aggregator::new(tables.log.clone(), acknowledgements, missing.clone(), 1 << 20, commit_id, Arc::default());
    let outcome = aggregator.count(&shard(), records(), now()).await;
    assert_eq!(outcome.first_failed, Some(1));
    assert!(outcome.failure.is_some_and(|failure| !failure.is_passing()), "there is no such table");
    assert!(!tables.acknowledged(3).await.slices.is_empty(), "the others are counted");

    missing.ensure_table().await.unwrap();
    let again = aggregator.count(&shard(), records().split_off(1), now()).await;
    assert!(again.first_failed.is_none(), "{again:?}");
    assert_eq!(missing.list().await.unwrap().len(), 1);
    tables.server.shutdown().await;
}
