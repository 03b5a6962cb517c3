use std::sync::atomic::Ordering;

use aggregator::commit_log::{AppendError, CommitLog as _};
use aggregator::entry::{CommitId, Content, Entry, EntryGroup};
use aggregator::partition::Partition;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use ingest::stream_format;
use ingest::{CounterKey, Dimensions, Hour, Identity, Meter, Reason, RunId, SliceId, Window};

use crate::stage::{account, now};
use crate::tables::{Counts, Event, HOUR, SMALL, Tables, commit_id, events, recount, slices};

/// An entry of one group; identities differ between entries, and the total is as if there were no others.
fn entry(version: u64, identities: u32) -> Entry {
    let identity = |n: u32| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&version.to_be_bytes());
        bytes[8..12].copy_from_slice(&n.to_be_bytes());
        Identity::from_bytes(bytes)
    };
    let group = EntryGroup {
        counter: CounterKey {
            meter: Meter::CloudTrailEvents,
            account: account(1),
            dimensions: Dimensions { region: "é\"1\"".into(), category: "none".into() },
        },
        total: identities.into(),
        identities: (0..identities).map(identity).collect(),
        sources: vec![(0, 1), (1, u16::try_from(identities - 1).unwrap())],
    };
    let slices = (0..2).map(|number| SliceId { run: RunId::from_bytes([3; 16]), number: u32::MAX - number }).collect();
    Entry { version, commit: commit_id(), content: Content::Counted { slices, groups: vec![group] } }
}

#[tokio::test]
async fn a_log_of_several_pages_comes_back_as_written_and_nothing_is_overwritten() {
    let tables = Tables::set().await;
    let partition = Partition::parse("07/2026-10-01T13/a").unwrap();
    // Full entries, small ones behind them, so that versions sort as numbers, and the end.
    let mut written: Vec<Entry> = (1..5).map(|version| entry(version, 21_000)).collect();
    written.extend((5..12).map(|version| entry(version, 2)));
    written.push(Entry { version: 12, commit: commit_id(), content: Content::Split });
    for entry in &written {
        let units = tables.log.append(&partition, entry).await.unwrap().0;
        let expected = if entry.version < 5 { 329..=342 } else { 1..=1 };
        assert!(expected.contains(&units), "version {} cost {units} units", entry.version);
    }
    assert_eq!(tables.log.read_after(&partition, 0).await.unwrap(), written);
    assert_eq!(tables.log.read_after(&partition, 3).await.unwrap(), written[3..]);
    assert_eq!(tables.log.read_after(&partition, 12).await.unwrap(), []);

    for version in [1, 7, 12] {
        let other = Entry { commit: CommitId([0xff; 16]), ..entry(version, 3) };
        assert!(matches!(tables.log.append(&partition, &other).await, Err(AppendError::Occupied)), "{version}");
    }
    assert_eq!(tables.log.read_after(&partition, 0).await.unwrap(), written, "who comes second changes nothing");
    let sibling = Partition::parse("07/2026-10-01T13").unwrap();
    assert_eq!(tables.log.read_after(&sibling, 0).await.unwrap(), [], "each log on its own");
    tables.server.shutdown().await;
}

#[tokio::test]
async fn four_aggregators_on_the_same_slices_count_every_event_once() {
    let tables = Tables::set().await;
    let runs: Vec<Vec<Event>> = (0..4).map(|run| events(run, 400)).collect();
    let all: Vec<_> = runs.iter().zip(0..).flat_map(|(events, run)| slices(run, events)).collect();
    let workers = (0..4).map(|worker| {
        // No cache, a tiny one, and enough.
        let mut aggregator = tables.aggregator([0, 5_000, 1 << 20, 1 << 20][worker], SMALL);
        let mut mine = all.clone();
        mine.rotate_left(worker * all.len() / 4);
        if worker % 2 == 1 {
            mine.reverse();
        }
        tokio::spawn(async move {
            let mut rest = mine.as_slice();
            while !rest.is_empty() {
                let (batch, later) = rest.split_at((5 + worker).min(rest.len()));
                rest = later;
                let mut batch = batch.to_vec();
                while !batch.is_empty() {
                    let outcome = aggregator.run(batch, now()).await;
                    assert!(outcome.failure.as_ref().is_none_or(|failure| failure.is_passing()), "{outcome:?}");
                    batch = outcome.failed;
                }
            }
        })
    });
    for worker in futures::future::join_all(workers.collect::<Vec<_>>()).await {
        worker.unwrap();
    }

    assert_eq!(tables.counted().await, recount(&runs));
    assert!(0 < tables.counters.conflicts.load(Ordering::Relaxed), "they never met");
    let logs = tables.acknowledgements.partitions().await.unwrap();
    assert!(logs.keys().any(|log| log.to_string().matches('/').count() == 2), "nothing was split");
    let mut counted = 0;
    for (run, events) in (0..).zip(&runs) {
        let acknowledged = tables.acknowledged(run).await;
        let expected = slices(run, events);
        assert!(acknowledged.slices.keys().copied().eq(0..u32::try_from(expected.len()).unwrap()));
        for slice in expected {
            let acknowledged = &acknowledged.slices[&slice.id.number];
            let tally = acknowledged.tally;
            assert_eq!(tally.counted + tally.duplicates, slice.events() as u64, "{:?}", slice.id);
            assert_eq!(acknowledged.parked, 0);
            counted += tally.counted;
        }
    }
    assert_eq!(counted, recount(&runs).values().sum::<u64>());
    assert_eq!(tables.dead_letters.list().await.unwrap(), []);
    tables.server.shutdown().await;
}

/// Appends to the log of an account's hour, whatever it says.
async fn plant(tables: &Tables, hour: i64, entries: &[Entry]) -> Partition {
    let partition = Partition::root(account(1).bucket(), Window::Hour(Hour::from_number(hour).unwrap()));
    for entry in entries {
        tables.log.append(&partition, entry).await.unwrap();
    }
    partition
}

#[tokio::test]
async fn slices_of_a_log_that_cannot_be_trusted_are_set_aside_and_the_others_go_on() {
    let tables = Tables::set().await;
    let split = |version| Entry { version, commit: commit_id(), content: Content::Split };
    plant(&tables, HOUR, &[entry(1, 2), entry(3, 2)]).await;
    plant(&tables, HOUR + 1, &[entry(1, 2), entry(2, 2)]).await;
    let mut again = entry(1, 2);
    if let Content::Counted { groups, .. } = &mut again.content {
        groups[0].total = 4;
    }
    plant(&tables, HOUR + 2, &[entry(1, 2), Entry { version: 2, ..again }]).await;
    plant(&tables, HOUR + 3, &[split(1), entry(2, 2)]).await;
    let foreign = Partition::root(account(1).bucket(), Window::Hour(Hour::from_number(HOUR + 4).unwrap()));
    let item = tables.client().put_item().table_name("commit_log");
    let item = item.item("partition", AttributeValue::S(foreign.to_string()));
    let item = item.item("version", AttributeValue::N("1".into()));
    item.item("commit", AttributeValue::B(Blob::new([1; 16]))).send().await.unwrap();

    let at_fault = 5;
    let event = |hour, identity| Event { account: 1, hour: HOUR + hour, region: 0, identity };
    // One more hour than is at fault.
    let all: Vec<Event> = (0..=at_fault).flat_map(|hour| [event(hour, 100), event(hour, 101)]).collect();
    let batch = slices(9, &all);
    let mut aggregator = tables.aggregator(1 << 20, SMALL);
    for delivery in 1..=2 {
        let outcome = aggregator.run(batch.clone(), now()).await;
        assert!(outcome.failed.is_empty() && outcome.failure.is_none(), "{outcome:?}");
        assert_eq!(outcome.gains.len(), 1, "the healthy log alone");
        assert_eq!(tables.counters.parked_slices.load(Ordering::Relaxed), delivery * 5);
    }

    let letters = tables.dead_letters.list().await.unwrap();
    assert_eq!(letters.len(), 5, "a second delivery sets nothing aside again");
    let mut parked = Vec::new();
    for letter in letters {
        assert_eq!((letter.reason, letter.is_whole), (Reason::PartitionUntrusted, true));
        parked.extend(stream_format::decode(&letter.bytes).unwrap());
    }
    parked.sort_by_key(|slice| slice.id);
    assert_eq!(parked, batch[..5], "whole, to be replayed");

    let acknowledged = tables.acknowledged(9).await;
    assert_eq!(acknowledged.slices.len(), batch.len(), "all are dealt with");
    for slice in &batch {
        let acknowledged = &acknowledged.slices[&slice.id.number];
        let is_at_fault = slice.window() < Window::Hour(Hour::from_number(HOUR + at_fault).unwrap());
        assert_eq!(acknowledged.parked, if is_at_fault { 2 } else { 0 });
        assert_eq!(acknowledged.tally.counted, if is_at_fault { 0 } else { 2 });
        assert_eq!(acknowledged.through.is_empty(), is_at_fault, "nothing to wait for");
    }
    let healthy = (Meter::CloudTrailEvents, account(1), Hour::from_number(HOUR + at_fault).unwrap());
    assert_eq!(tables.counted().await, Counts::from([(healthy, 2)]));
    tables.server.shutdown().await;
}

#[tokio::test]
async fn a_thousand_slices_of_a_split_log_are_acknowledged_at_once() {
    let tables = Tables::set().await;
    let event = |identity| Event { account: 1, hour: HOUR, region: 0, identity };
    let fill: Vec<Event> = (0..200).map(event).collect();
    let mut batch = slices(1, &fill);
    for number in 0..1_000 {
        let mut slice = slices(2, &[event(1_000 + number)]).remove(0);
        slice.id.number = number;
        batch.push(slice);
    }
    let outcome = tables.aggregator(0, SMALL).run(batch[..1].to_vec(), now()).await;
    assert!(outcome.failure.is_none(), "{outcome:?}");
    let outcome = tables.aggregator(0, SMALL).run(batch[1..].to_vec(), now()).await;
    assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
    let acknowledged = tables.acknowledged(2).await;
    assert_eq!(acknowledged.slices.len(), 1_000);
    assert!(acknowledged.slices.values().all(|slice| slice.tally.counted == 1 && slice.through.len() == 1));
    tables.server.shutdown().await;
}
