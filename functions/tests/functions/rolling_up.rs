//! Entries of the commit log, rolled up by the real function.

use aggregator::commit_log::CommitLog as _;
use ingest::stream_format;
use serde_json::json;

use crate::deliveries::{KinesisRecord, commit_log, kinesis, schedule};
use crate::runtime_api::{Environment, NotStarted, Outcome};
use crate::stage::{Event, HOUR, Program, Stage, recount, slices};

fn events() -> Vec<Event> {
    (0..200).map(|n| Event { account: u64::from(n % 9), hour: HOUR + i64::from(n % 4), identity: n }).collect()
}

/// Counts events in two batches, and says which entries the logs have now.
async fn count(stage: &Stage, events: &[Event]) -> Vec<(String, u64)> {
    let mut environment = Environment::start(&stage.function(Program::Aggregate)).await.unwrap();
    for (run, half) in events.chunks(events.len() / 2).enumerate() {
        let body = stream_format::encode(&slices(run as u64, half));
        let record = KinesisRecord { sequence_number: format!("{run}"), partition_key: "07".into(), body };
        environment.invoke(&kinesis("usage", "shardId-000000000000", [record])).await.answer();
    }
    let mut entries = Vec::new();
    for (partition, _) in stage.tables.acknowledgements().partitions().await.unwrap() {
        let log = stage.tables.commit_log().read_after(&partition, 0).await.unwrap();
        entries.extend(log.iter().map(|entry| (partition.to_string(), entry.version)));
    }
    entries
}

fn stream_of(entries: &[(String, u64)]) -> String {
    let record = |((partition, version), n): (&(String, u64), u32)| (n.to_string(), partition.clone(), *version);
    commit_log(entries.iter().zip(100..).map(record))
}

#[tokio::test]
async fn entries_become_usage_rows_in_any_order_and_however_often_they_come() {
    let stage = Stage::set().await;
    let events = events();
    let entries = count(&stage, &events).await;
    let function = stage.function(Program::Rollup);
    let mut environment = Environment::start(&function).await.unwrap();
    let done = json!({ "batchItemFailures": [] });

    let (some, mut others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(partition, _)| partition.as_str() < "16");
    others.reverse();
    for entries in [&some, &others, &some] {
        assert_eq!(environment.invoke(&stream_of(entries)).await.answer(), done, "{}", environment.log());
    }
    assert_eq!(stage.in_rows().await, recount(events));
    stage.close().await;
}

#[tokio::test]
async fn a_sweep_finds_what_the_stream_did_not_bring() {
    let stage = Stage::set().await;
    let events = events();
    let entries = count(&stage, &events).await;
    let partitions = stage.tables.acknowledgements().partitions().await.unwrap().len();
    let mut environment = Environment::start(&stage.function(Program::Rollup)).await.unwrap();
    environment.invoke(&stream_of(&entries[..entries.len() / 3])).await.answer();
    // The second has nothing left to look at.
    for (event, partitions) in
        [(schedule("2026-11-01T00:00:00Z"), partitions), (r#"{"securebase":"sweep"}"#.to_owned(), 0)]
    {
        let answer = environment.invoke(&event).await.answer();
        assert_eq!(answer, json!({ "partitions": partitions, "refused": 0 }));
        assert_eq!(stage.in_rows().await, recount(events.clone()));
    }
    stage.close().await;
}

#[tokio::test]
async fn entries_are_delivered_again_when_the_database_does_not_take_them() {
    let stage = Stage::set().await;
    let events = events();
    let entries = count(&stage, &events).await;
    let mut function = stage.function(Program::Rollup);
    let url = function.variables.get_mut("SECUREBASE_DATABASE_URL").unwrap();
    url.push_str("?options=-c%20lock_timeout%3D50ms");
    let mut environment = Environment::start(&function).await.unwrap();
    let mut someone = stage.pool.begin().await.unwrap();
    sqlx::query("lock table usage_rows").execute(&mut *someone).await.unwrap();
    let answer = environment.invoke(&stream_of(&entries)).await.answer();
    assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": "100" }] }), "{}", environment.log());
    someone.rollback().await.unwrap();
    assert_eq!(environment.invoke(&stream_of(&entries)).await.answer(), json!({ "batchItemFailures": [] }));
    assert_eq!(stage.in_rows().await, recount(events));
    stage.close().await;
}

#[tokio::test]
async fn a_database_of_other_logs_is_refused_before_anything_is_rolled_up() {
    let stage = Stage::set().await;
    let function = stage.function(Program::Rollup);
    drop(Environment::start(&function).await.unwrap());
    let other = embedded::DynamoDb::in_memory().await.unwrap();
    let tables = functions::clients::Tables::new(
        &crate::stage::sdk(other.endpoint()),
        &functions::settings::StoreSettings { name: crate::stage::NAME.into() },
    );
    tables.commit_log().ensure_table().await.unwrap();
    let mut elsewhere = function;
    elsewhere.variables.insert("AWS_ENDPOINT_URL_DYNAMODB".into(), other.endpoint().into());
    let NotStarted { told, .. } = Environment::start(&elsewhere).await.map(drop).unwrap_err();
    assert!(told.unwrap().1.starts_with("the database belongs to other counters"));
    other.shutdown().await;
    stage.close().await;
}

#[tokio::test]
async fn a_killed_roll_up_leaves_nothing_half_done() {
    let stage = Stage::set().await;
    let events = events();
    let entries = count(&stage, &events).await;
    let proxy = crate::faults::Proxy::before(stage.dynamodb.endpoint()).await;
    let mut function = stage.function(Program::Rollup);
    function.variables.insert("AWS_ENDPOINT_URL_DYNAMODB".into(), proxy.endpoint.clone());
    for request in [3, 20] {
        let mut environment = Environment::start(&function).await.unwrap();
        proxy.plan([(request, crate::faults::Fault::KilledAfter)], environment.pid());
        let outcome = environment.invoke(&stream_of(&entries)).await;
        assert_eq!(outcome, Outcome::Exited { signal: Some(9) });
    }
    let mut environment = Environment::start(&function).await.unwrap();
    proxy.plan([], environment.pid());
    environment.invoke(&stream_of(&entries)).await.answer();
    assert_eq!(stage.in_rows().await, recount(events));
    stage.close().await;
}
