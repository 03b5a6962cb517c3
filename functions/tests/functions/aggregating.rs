//! Batches of the stream, counted by the real function.

use std::time::Duration;

use ingest::{Reason, stream_format};
use serde_json::json;

use crate::deliveries::{KinesisRecord, kinesis};
use crate::faults::{Fault, Proxy};
use crate::runtime_api::{Environment, Function, Outcome};
use crate::stage::{Event, HOUR, Program, Stage, recount, slices};

const SHARD: &str = "shardId-000000000003";

fn events(run: u32) -> Vec<Event> {
    let event = |n: u32| Event { account: u64::from(n % 7), hour: HOUR + i64::from(n % 3), identity: n + run * 20 };
    (0..60).map(event).collect()
}

/// One record a slice, and poison behind the first.
fn bodies(run: u64, events: &[Event]) -> Vec<Vec<u8>> {
    let mut bodies: Vec<_> = slices(run, events).into_iter().map(|slice| stream_format::encode(&[slice])).collect();
    bodies.insert(1, format!("{{\"poison of run\":{run}}}").into_bytes());
    bodies
}

/// Sequence numbers count from the run's thousand on.
fn batch(run: u64, bodies: &[Vec<u8>]) -> String {
    let records = bodies.iter().zip(0..).map(|(body, n)| KinesisRecord {
        sequence_number: (run * 1_000 + n).to_string(),
        partition_key: "07".into(),
        body: body.clone(),
    });
    kinesis("usage", SHARD, records)
}

#[tokio::test]
async fn batches_are_counted_once_cold_and_warm_and_poison_is_set_aside() {
    let stage = Stage::set().await;
    let function = stage.function(Program::Aggregate);
    let done = json!({ "batchItemFailures": [] });
    let mut environment = Environment::start(&function).await.unwrap();
    for run in 0..3 {
        let events = events(run);
        let delivery = batch(run.into(), &bodies(run.into(), &events));
        // Warm but for the first, and everything twice.
        for _ in 0..2 {
            assert_eq!(environment.invoke(&delivery).await.answer(), done, "{}", environment.log());
        }
    }
    // Cold: nothing is known in memory.
    let mut other = Environment::start(&function).await.unwrap();
    let delivery = batch(9, &bodies(9, &events(0)));
    assert_eq!(other.invoke(&delivery).await.answer(), done);

    assert_eq!(stage.in_logs().await, recount((0..3).flat_map(events)));
    let letters = stage.tables.dead_letters().list().await.unwrap();
    let mut objects: Vec<_> = letters.iter().map(|letter| (letter.reason, letter.object.as_str())).collect();
    objects.sort_unstable();
    let expected = [1, 1_001, 2_001, 9_001].map(|number| format!("stream:usage/{SHARD}/{number}"));
    assert_eq!(objects, expected.each_ref().map(|object| (Reason::SliceMalformed, object.as_str())));
    stage.close().await;
}

/// A function whose tables are behind a proxy.
async fn with_proxy(stage: &Stage) -> (Proxy, Function) {
    let proxy = Proxy::before(stage.dynamodb.endpoint()).await;
    let mut function = stage.function(Program::Aggregate);
    function.variables.insert("AWS_ENDPOINT_URL_DYNAMODB".into(), proxy.endpoint.clone());
    (proxy, function)
}

#[tokio::test]
async fn a_batch_that_meets_a_broken_store_names_the_first_record_that_is_not_done() {
    let stage = Stage::set().await;
    let (proxy, mut function) = with_proxy(&stage).await;
    // Without the SDK's own tries and waits.
    function.variables.insert("AWS_MAX_ATTEMPTS".into(), "1".into());
    let mut environment = Environment::start(&function).await.unwrap();
    let events = events(0);
    let bodies = bodies(0, &events);
    let delivery = batch(0, &bodies);

    // Down from the first request on, for longer than the SDK tries.
    proxy.plan((1..=1_000).map(|request| (request, Fault::Down)), environment.pid());
    let answer = environment.invoke(&delivery).await.answer();
    assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": "0" }] }));
    assert!(environment.log().contains("records are to be delivered again"), "{}", environment.log());

    // Only the part from the failed record on is delivered again.
    proxy.plan([], environment.pid());
    let rest = kinesis(
        "usage",
        SHARD,
        bodies.iter().zip(0..).map(|(body, n): (_, u64)| KinesisRecord {
            sequence_number: n.to_string(),
            partition_key: "07".into(),
            body: body.clone(),
        }),
    );
    assert_eq!(environment.invoke(&rest).await.answer(), json!({ "batchItemFailures": [] }));
    assert_eq!(stage.in_logs().await, recount(events));
    stage.close().await;
}

#[tokio::test]
async fn a_function_that_is_killed_around_any_request_counts_nothing_twice() {
    let stage = Stage::set().await;
    let events = events(0);
    let delivery = batch(0, &bodies(0, &events));
    let (proxy, function) = with_proxy(&stage).await;
    let mut kills = 0;
    'killing: for request in 1.. {
        for fault in [Fault::KilledBefore, Fault::KilledAfter] {
            let mut environment = Environment::start(&function).await.unwrap();
            proxy.plan([(request, fault)], environment.pid());
            match environment.invoke(&delivery).await {
                Outcome::Exited { signal: Some(9) } => kills += 1,
                // Fewer requests than that: everything is known, and only acknowledged again.
                Outcome::Answer(answer) => {
                    assert_eq!(answer, json!({ "batchItemFailures": [] }));
                    break 'killing;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(4 <= kills, "{kills} kills");
    assert_eq!(stage.in_logs().await, recount(events));
    stage.close().await;
}

#[tokio::test]
async fn a_function_gives_up_before_lambda_ends_it_and_keeps_what_it_knows() {
    let stage = Stage::set().await;
    let (proxy, mut function) = with_proxy(&stage).await;
    function.timeout = Duration::from_millis(1_500);
    let mut environment = Environment::start(&function).await.unwrap();
    let events = events(0);
    let delivery = batch(0, &bodies(0, &events));
    proxy.plan((1..=1_000).map(|request| (request, Fault::Hangs)), environment.pid());
    let outcome = environment.invoke(&delivery).await;
    let Outcome::Error { message, .. } = &outcome else { panic!("{outcome:?}") };
    assert!(message.starts_with("not done within"), "{message}");

    proxy.plan([], environment.pid());
    assert_eq!(environment.invoke(&delivery).await.answer(), json!({ "batchItemFailures": [] }));
    assert_eq!(stage.in_logs().await, recount(events));
    stage.close().await;
}
