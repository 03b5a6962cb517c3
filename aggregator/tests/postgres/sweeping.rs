//! Sweeps: what is acknowledged reaches usage rows whatever became of its trigger, and is looked at once.

use std::collections::BTreeMap;

use aggregator::aggregator::CountersSnapshot;
use aggregator::commit_log::CommitLog as _;
use aggregator::entry::{Content, Entry};
use aggregator::rollup::RollUp;
use aggregator::sweep::Sweep;
use aggregator::worker_record::{Met, WorkerRecord};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use ingest::Timestamp;

use crate::stage::{Stage, now};
use crate::tables::{SMALL, Tables, commit_id, events, recount, slices};

#[tokio::test]
async fn a_sweep_reads_what_is_new_and_never_the_history() {
    let (stage, tables) = (Stage::set().await, Tables::set().await);
    let roll_up = RollUp::new(tables.log.clone(), stage.rows.clone());
    let sweep = Sweep::new(roll_up, tables.acknowledgements.clone(), stage.directory.clone());
    assert_eq!(sweep.run(now()).await.unwrap().partitions, 0);

    let runs: Vec<_> = (0..3).map(|run| events(run, 60)).collect();
    let mut aggregator = tables.aggregator(1 << 20, SMALL);
    for (run, events) in (0..).zip(&runs[..2]) {
        // Its gains are lost: nobody rolls them up.
        assert!(aggregator.run(slices(run, events), now()).await.failure.is_none());
    }
    let named = tables.acknowledgements.partitions().await.unwrap();
    assert_eq!(tables.acknowledgements.unswept().await.unwrap().partitions, named);
    assert_eq!(sweep.run(now()).await.unwrap().partitions, named.len());
    assert_eq!(crate::chain::in_rows(&stage).await, recount(&runs[..2]));
    assert_eq!(tables.acknowledgements.unswept().await.unwrap().partitions, BTreeMap::new());
    assert_eq!(sweep.run(now()).await.unwrap().partitions, 0);

    // A log that cannot be trusted stays to be swept; the others are done.
    assert!(aggregator.run(slices(2, &runs[2]), now()).await.failure.is_none());
    let unswept = tables.acknowledgements.unswept().await.unwrap().partitions;
    let is_new = |(partition, version): &(&_, &u64)| named.get(partition).is_none_or(|before| before < version);
    let (broken, version) = unswept.iter().find(is_new).map(|(one, version)| (one.clone(), *version)).unwrap();
    let stray = Entry { version: version + 2, commit: commit_id(), content: Content::Split };
    tables.log.append(&broken, &stray).await.unwrap();
    for _ in 0..2 {
        let swept = sweep.run(now()).await.unwrap();
        assert_eq!(
            swept.refused.iter().map(|one| one.partition.clone()).collect::<Vec<_>>(),
            std::slice::from_ref(&broken)
        );
        assert!(tables.acknowledgements.unswept().await.unwrap().partitions.contains_key(&broken));
    }
    tables.server.shutdown().await;
}

#[tokio::test]
async fn acknowledgements_from_before_there_were_markers_are_swept_once() {
    let (stage, tables) = (Stage::set().await, Tables::set().await);
    let events = events(0, 60);
    assert!(tables.aggregator(1 << 20, SMALL).run(slices(0, &events), now()).await.failure.is_none());
    // As an earlier version left them: without a marker.
    let bytes = |bytes: &[u8]| AttributeValue::B(Blob::new(bytes));
    let (client, table) = (tables.client(), "acknowledgements");
    let markers = ingest::dynamodb::query_all(&client, table, ("run", bytes(b"unswept")));
    for marker in markers.await.unwrap() {
        let key = ["run", "batch"].map(|name| (name.to_owned(), marker[name].clone()));
        let delete = client.delete_item().table_name(table).set_key(Some(key.into()));
        delete.send().await.unwrap();
    }
    let roll_up = RollUp::new(tables.log.clone(), stage.rows.clone());
    let sweep = Sweep::new(roll_up, tables.acknowledgements.clone(), stage.directory.clone());
    assert!(0 < sweep.run(now()).await.unwrap().partitions);
    assert_eq!(crate::chain::in_rows(&stage).await, recount(&[events]));
    assert_eq!(sweep.run(now()).await.unwrap().partitions, 0, "the history is not read again");
    tables.server.shutdown().await;
}

#[tokio::test]
async fn what_workers_have_met_is_added_and_forgotten_after_a_month() {
    let stage = Stage::set().await;
    let counters = |conflicts| CountersSnapshot { conflicts, unknown_outcomes: 1, parked_slices: 0 };
    let record = |worker: &str| WorkerRecord::new(stage.pool.clone(), worker.to_owned(), now());
    let later = |days: i64| -> Timestamp { now().saturating_add_secs(days * 24 * 3_600) };
    record("a").write(counters(1), now()).await.unwrap();
    record("a").write(counters(3), later(1)).await.unwrap();
    record("b").write(counters(5), later(2)).await.unwrap();
    let met = async |since| WorkerRecord::since(&stage.pool, since).await.unwrap();
    let both = CountersSnapshot { conflicts: 8, unknown_outcomes: 2, parked_slices: 0 };
    assert_eq!(met(now()).await, Met { workers: 2, counters: both });
    assert_eq!(met(later(2)).await, Met { workers: 1, counters: counters(5) });
    record("b").write(counters(5), later(31)).await.unwrap();
    assert_eq!(met(later(1)).await.workers, 2);
    record("b").write(counters(5), later(32)).await.unwrap();
    assert_eq!(met(now()).await.workers, 1);
}
