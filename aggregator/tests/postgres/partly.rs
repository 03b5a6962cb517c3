//! What becomes of a batch that is counted in part: nothing that was appended is lost to the roll-up or to the balance.

use std::sync::Arc;

use aggregator::acknowledgement::Acknowledgements;
use aggregator::aggregator::{Aggregator, CountersSnapshot};
use aggregator::commit::Limits;
use aggregator::commit_log::CommitLog as _;
use aggregator::entry::{Content, Entry};
use aggregator::memory_log::{Fault, MemoryLog};
use aggregator::partition::Partition;
use ingest::{Hour, Identity, Window, stream_format};

use crate::stage::{account, now};
use crate::tables::{Event, HOUR, SMALL, Tables, commit_id, slices};

fn event(identity: u32) -> Event {
    Event { account: 1, hour: HOUR, region: 0, identity }
}

fn root() -> Partition {
    Partition::root(account(1).bucket(), Window::Hour(Hour::from_number(HOUR).unwrap()))
}

fn child_of(event: &Event) -> Partition {
    let mut identity = [0; 16];
    identity[..4].copy_from_slice(&event.identity.to_be_bytes());
    root().child_of(&Identity::from_bytes(identity))
}

/// Entries of one identity each.
const TINY: Limits = Limits { entry_bytes_max: 1, ..SMALL };

#[tokio::test]
async fn slices_are_set_aside_for_what_an_untrusted_partition_lacks_and_acknowledged_for_the_rest() {
    let tables = Tables::set().await;
    let mut aggregator = tables.aggregator(1 << 20, SMALL);
    let fill: Vec<Event> = (0..40).map(event).collect();
    assert!(aggregator.run(slices(1, &fill), now()).await.failure.is_none());

    // Children are committed in falling order.
    let bad = (1_000..).map(event).find(|event| child_of(event).to_string().ends_with("/7")).unwrap();
    let good = (1_000..).map(event).find(|event| child_of(event).to_string().ends_with("/9")).unwrap();
    let stray = Entry { version: 2, commit: commit_id(), content: Content::Split };
    tables.log.append(&child_of(&bad), &stray).await.unwrap();
    let mut batch = Vec::new();
    for (number, events) in (0..).zip([vec![event(0)], vec![good], vec![event(1), bad]]) {
        let mut slice = slices(2, &events).remove(0);
        slice.id.number = number;
        batch.push(slice);
    }
    for delivery in 0..2 {
        let outcome = aggregator.run(batch.clone(), now()).await;
        assert!(outcome.failed.is_empty() && outcome.failure.is_none(), "{outcome:?}");
        let gained: Vec<_> =
            outcome.gains.iter().map(|gain| (gain.partition.clone(), gain.to_version - gain.from_version)).collect();
        let each = if delivery == 0 { 1 } else { 0 };
        assert_eq!(gained, [(root(), each), (child_of(&good), each)], "the split and the sound child's entry");
    }

    let acknowledged = tables.acknowledged(2).await.slices;
    let said = |number| {
        let said = &acknowledged[&number];
        let through: Vec<_> = said.through.iter().map(|(partition, _)| partition.clone()).collect();
        (said.tally.counted, said.tally.duplicates, said.parked, through)
    };
    assert_eq!(said(0), (0, 1, 0, vec![root()]));
    assert_eq!(said(1), (1, 0, 0, vec![child_of(&good)]));
    assert_eq!(said(2), (0, 1, 1, vec![root()]));
    assert_eq!(acknowledged.values().map(|said| said.units).sum::<u64>(), 2);
    let expected = CountersSnapshot { conflicts: 0, unknown_outcomes: 0, parked_slices: 2 };
    assert_eq!(tables.counters.snapshot(), expected, "once for each delivery");
    let letters = tables.dead_letters.list().await.unwrap();
    let parked: Vec<_> = letters.iter().map(|letter| stream_format::decode(&letter.bytes).unwrap()).collect();
    assert_eq!(parked, [&batch[2..]], "whole, to be replayed");
    tables.server.shutdown().await;
}

#[tokio::test]
async fn what_a_failed_batch_has_appended_is_gained_at_once_and_paid_for_once() {
    let tables = Tables::set().await;
    let log = MemoryLog::with_faults(vec![Fault::Throttled, Fault::None, Fault::None]);
    let missing = Acknowledgements::new(tables.client(), "acknowledged_later".into(), || 0);
    let mut aggregator =
        Aggregator::new(log, missing.clone(), tables.dead_letters.clone(), 1 << 20, commit_id, Arc::default())
            .with_limits(TINY);
    let batch = slices(1, &[event(1), event(2), event(3)]);

    let throttled = aggregator.run(batch.clone(), now()).await;
    assert!(throttled.failure.is_some_and(|failure| failure.is_passing()));
    assert_eq!(throttled.failed, batch);
    assert_eq!((throttled.gains.len(), throttled.gains[0].from_version, throttled.gains[0].to_version), (1, 0, 2));

    let unacknowledged = aggregator.run(throttled.failed, now()).await;
    assert!(unacknowledged.failure.is_some_and(|failure| !failure.is_passing()), "there is no such table");
    assert_eq!(unacknowledged.failed, batch);
    assert_eq!((unacknowledged.gains[0].from_version, unacknowledged.gains[0].to_version), (2, 3));

    missing.ensure_table().await.unwrap();
    let done = aggregator.run(unacknowledged.failed, now()).await;
    assert!(done.failure.is_none() && done.failed.is_empty(), "{done:?}");
    let acknowledged = missing.of_run(batch[0].id.run).await.unwrap().slices;
    let said = &acknowledged[&0];
    assert_eq!((said.units, said.tally.counted, &said.through[..]), (3, 3, &[(root(), 3)][..]));
    tables.server.shutdown().await;
}
