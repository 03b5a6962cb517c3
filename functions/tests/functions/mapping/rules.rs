//! The mappings keep the documented rules: each test is one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Millis;
use super::answer::{Verdict, read};
use super::queue::{QueueMapping, QueueSettings};
use super::random::Random;
use super::stream::{Attempt, Cause, PAYLOAD_BYTES_MAX, Record, SequenceNumber, StreamMapping, StreamSettings};
use crate::runtime_api::Outcome;

const STREAM: StreamSettings = StreamSettings {
    batch_size: 10,
    batch_window: 0,
    parallelization_factor: 1,
    reports: true,
    bisects: false,
    retries_max: None,
    record_age_max: None,
    retention: 604_800_000,
};

const QUEUE: QueueSettings = QueueSettings {
    batch_size: 10,
    batch_window: 0,
    reports: true,
    concurrency_max: 2,
    visibility_timeout: 360_000,
    receives_max: 3,
};

fn record(number: u64, key: &str, arrived_at: Millis) -> Record {
    let sequence_number = SequenceNumber::new(number.to_string());
    Record { sequence_number, key: key.to_owned(), arrived_at, body: Arc::from(b"{}".as_slice()) }
}

fn numbers(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.sequence_number.as_str().parse().unwrap()).collect()
}

fn failures(items: Value) -> Outcome {
    Outcome::Answer(json!({ "batchItemFailures": items }))
}

fn from(number: u64) -> Outcome {
    failures(json!([{ "itemIdentifier": number.to_string() }]))
}

fn done() -> Outcome {
    failures(json!([]))
}

/// Ten records on one shard at time 0.
fn ten(settings: StreamSettings) -> StreamMapping {
    let mut mapping = StreamMapping::new(settings);
    mapping.open("a", &[]);
    for number in 1..=10 {
        mapping.put("a", record(number, "key", 0));
    }
    mapping
}

/// Invokes until nothing is left; `function` sees the numbers of a batch. Returns what it saw.
fn run(mapping: &mut StreamMapping, mut function: impl FnMut(&[u64]) -> Outcome) -> Vec<Vec<u64>> {
    let (mut seen, mut now) = (Vec::new(), 0);
    while !mapping.is_done() {
        let attempts = mapping.due(now);
        for Attempt { id, records, .. } in &attempts {
            let batch = numbers(records);
            let outcome = function(&batch);
            seen.push(batch);
            mapping.complete(*id, &outcome, now);
        }
        if attempts.is_empty() {
            now = mapping.next_at().unwrap_or(now).max(now + 1);
        }
    }
    seen
}

#[test]
fn an_answer_is_read_as_the_pages_say() {
    let again = |items: &[&str]| Verdict::Again(items.iter().map(|&item| item.to_owned()).collect());
    for (answer, verdict) in [
        (json!({ "batchItemFailures": [] }), Verdict::Done),
        (json!({ "batchItemFailures": null }), Verdict::Done),
        (json!({}), Verdict::Done),
        (Value::Null, Verdict::Done),
        (json!({ "batchItemFailures": [{ "itemIdentifier": "7" }, { "itemIdentifier": "5" }] }), again(&["7", "5"])),
        (json!({ "batchItemFailures": [{ "itemIdentifier": "" }] }), Verdict::Failed),
        (json!({ "batchItemFailures": [{ "itemIdentifier": null }] }), Verdict::Failed),
        (json!({ "batchItemFailures": [{ "identifier": "7" }] }), Verdict::Failed),
        (json!({ "batchItemFailures": "7" }), Verdict::Failed),
        (json!("no"), Verdict::Failed),
    ] {
        assert_eq!(read(&Outcome::Answer(answer.clone()), true), verdict, "{answer}");
        assert_eq!(read(&Outcome::Answer(answer.clone()), false), Verdict::Done, "{answer}: failures are not reported");
    }
    let error = Outcome::Error { kind: "Any".to_owned(), message: String::new() };
    for outcome in [error, Outcome::TimedOut, Outcome::Exited { signal: Some(9) }] {
        assert_eq!((read(&outcome, true), read(&outcome, false)), (Verdict::Failed, Verdict::Failed));
    }
}

#[test]
fn a_batch_goes_when_it_is_full_when_its_window_is_over_or_at_six_megabytes() {
    let mut mapping = StreamMapping::new(StreamSettings { batch_size: 3, batch_window: 2_000, ..STREAM });
    mapping.open("a", &[]);
    mapping.put("a", record(1, "key", 100));
    assert!(mapping.due(2_099).is_empty());
    assert_eq!(mapping.next_at(), Some(2_100));
    let attempt = mapping.due(2_100).remove(0);
    assert_eq!(numbers(&attempt.records), [1], "the window is over");
    mapping.complete(attempt.id, &done(), 2_200);
    for number in 2..=5 {
        mapping.put("a", record(number, "key", 2_300));
    }
    let attempt = mapping.due(2_300).remove(0);
    assert_eq!(numbers(&attempt.records), [2, 3, 4], "a full batch waits for no window");
    mapping.complete(attempt.id, &done(), 2_300);
    assert!(mapping.due(2_301).is_empty());

    let mut mapping = StreamMapping::new(StreamSettings { batch_window: 2_000, ..STREAM });
    mapping.open("a", &[]);
    for number in 1..=3 {
        let body = Arc::from(vec![0; PAYLOAD_BYTES_MAX / 3]);
        mapping.put("a", Record { body, ..record(number, "key", 0) });
    }
    assert_eq!(numbers(&mapping.due(0).remove(0).records), [1, 2], "a third one would be too much");
}

#[test]
fn the_lowest_sequence_number_is_where_a_batch_is_tried_again_from() {
    for bisects in [false, true] {
        let mut mapping = ten(StreamSettings { bisects, ..STREAM });
        let mut outcomes = vec![
            done(),
            from(8),
            failures(json!([{ "itemIdentifier": "9" }, { "itemIdentifier": "4" }, { "itemIdentifier": "6" }])),
        ];
        let seen = run(&mut mapping, |_| outcomes.pop().unwrap());
        let all: Vec<u64> = (1..=10).collect();
        assert_eq!(seen, [&all[..], &all[3..], &all[7..]], "bisecting at the number returned is no other split");
    }
    let mut mapping = ten(STREAM);
    let mut outcomes = vec![done(), from(99)];
    assert_eq!(run(&mut mapping, |_| outcomes.pop().unwrap()).len(), 2, "a number of no record fails the batch");
}

#[test]
fn a_failed_batch_is_bisected_in_order_without_using_up_retries_until_the_bad_record_is_alone() {
    let mut mapping = ten(StreamSettings { bisects: true, retries_max: Some(2), ..STREAM });
    let mut good = Vec::new();
    let seen = run(&mut mapping, |batch| {
        if batch.contains(&7) {
            return Outcome::TimedOut;
        }
        good.extend_from_slice(batch);
        done()
    });
    assert_eq!(good, [1, 2, 3, 4, 5, 6, 8, 9, 10]);
    assert_eq!(seen.iter().filter(|batch| **batch == [7]).count(), 3, "a try and two retries");
    let [discarded] = &mapping.discarded[..] else { panic!("{:?}", mapping.discarded) };
    assert_eq!((numbers(&discarded.records), discarded.cause), (vec![7], Cause::RetriesExhausted));
}

#[test]
fn without_bisecting_the_whole_batch_is_given_up_when_its_retries_are_used_up() {
    let mut mapping = ten(StreamSettings { retries_max: Some(2), ..STREAM });
    let seen = run(&mut mapping, |batch| if batch.contains(&7) { Outcome::TimedOut } else { done() });
    assert_eq!(seen.len(), 3);
    assert_eq!(numbers(&mapping.discarded[0].records).len(), 10);
}

#[test]
fn a_record_is_given_up_when_it_is_too_old_and_lost_when_the_stream_lets_go_of_it() {
    let minute = 60_000;
    let mut mapping = ten(StreamSettings { record_age_max: Some(minute), ..STREAM });
    mapping.put("a", record(11, "key", minute));
    run(&mut mapping, |batch| if batch.contains(&1) { Outcome::TimedOut } else { done() });
    assert_eq!(mapping.discarded[0].cause, Cause::TooOld);
    assert_eq!(numbers(&mapping.discarded[0].records), (1..=10).collect::<Vec<_>>());

    let mut mapping = ten(StreamSettings { retention: 3_600_000, ..STREAM });
    run(&mut mapping, |_| Outcome::TimedOut);
    assert_eq!((mapping.discarded.len(), mapping.expired.len()), (0, 10), "nothing keeps what the stream lets go of");
}

#[test]
fn a_factor_lets_that_many_batches_of_a_shard_be_under_way_and_keeps_the_order_of_each_key() {
    let mut mapping = StreamMapping::new(StreamSettings { batch_size: 2, parallelization_factor: 3, ..STREAM });
    mapping.open("a", &[]);
    for number in 1..=60 {
        mapping.put("a", record(number, &format!("{}", number % 5), 0));
    }
    let mut order = BTreeMap::<String, Vec<u64>>::new();
    while !mapping.is_done() {
        let mut attempts = mapping.due(0);
        assert!(attempts.len() <= 3 && mapping.due(0).is_empty());
        attempts.reverse();
        for attempt in attempts {
            for record in &attempt.records {
                let number = record.sequence_number.as_str().parse().unwrap();
                order.entry(record.key.clone()).or_default().push(number);
            }
            mapping.complete(attempt.id, &done(), 0);
        }
    }
    assert_eq!(order.len(), 5);
    assert!(order.values().all(|numbers| numbers.len() == 12 && numbers.is_sorted()), "{order:?}");
}

#[test]
fn a_shard_is_read_when_its_parents_are_done() {
    let mut mapping = ten(STREAM);
    mapping.open("b", &["a"]);
    mapping.put("b", record(20, "key", 0));
    mapping.open("c", &["b"]);
    mapping.put("c", record(30, "key", 0));
    assert_eq!(run(&mut mapping, |_| done())[1..], [vec![20], vec![30]]);
}

#[test]
fn what_fails_in_a_queue_becomes_visible_again_and_goes_to_the_dead_letter_queue_in_the_end() {
    let mut queue = QueueMapping::new(QUEUE, Random::new(2));
    for id in ["a", "b", "c"] {
        queue.send(id.to_owned(), "{}".to_owned(), 0);
    }
    let mut tries = BTreeMap::<String, u32>::new();
    let mut now = 0;
    while !queue.is_done() {
        for batch in queue.due(now) {
            for message in &batch.messages {
                *tries.entry(message.id.clone()).or_default() += 1;
            }
            let is_bad = batch.messages.iter().any(|message| message.id == "b");
            queue.complete(batch.id, &if is_bad { failures(json!([{ "itemIdentifier": "b" }])) } else { done() });
        }
        now = queue.next_at(now).unwrap_or(now).max(now + 1);
    }
    assert_eq!(tries["b"], 3, "{tries:?}");
    assert!(tries["a"] == 1 && tries["c"] == 1, "{tries:?}");
    assert_eq!(queue.dead.len(), 1);
    assert!(2 * QUEUE.visibility_timeout <= now, "each try waits for the visibility timeout: {now}");
}

#[test]
fn a_message_id_that_is_not_in_the_batch_fails_all_of_it() {
    let mut queue = QueueMapping::new(QUEUE, Random::new(1));
    queue.send("a".to_owned(), "{}".to_owned(), 0);
    let batch = queue.due(0).remove(0);
    queue.complete(batch.id, &failures(json!([{ "itemIdentifier": "x" }])));
    assert!(!queue.is_done());
}

/// One seed of a stream with every setting and every outcome, as text.
fn trace(seed: u64) -> String {
    let mut random = Random::new(seed);
    let settings = StreamSettings {
        batch_size: 1 + usize::try_from(random.below(12)).unwrap(),
        batch_window: random.below(3) * 1_000,
        parallelization_factor: 1 + usize::try_from(random.below(4)).unwrap(),
        reports: random.one_in(2),
        bisects: random.one_in(2),
        retries_max: random.one_in(2).then_some(3),
        record_age_max: random.one_in(4).then_some(90_000),
        retention: 86_400_000,
    };
    let mut trace = format!("{settings:?}\n");
    let can_discard = settings.retries_max.is_some() || settings.record_age_max.is_some();
    let mut mapping = StreamMapping::new(settings);
    mapping.open("a", &[]);
    let (mut now, mut sent, mut done_with) = (0, 0, BTreeSet::new());
    while sent < 80 || !mapping.is_done() {
        if sent < 80 && random.one_in(2) {
            sent += 1;
            if sent == 40 {
                mapping.open("b", &["a"]);
            }
            let key = random.below(6).to_string();
            mapping.put(if sent < 40 { "a" } else { "b" }, record(sent, &key, now));
        }
        for Attempt { id, shard, records } in mapping.due(now) {
            let batch = numbers(&records);
            let outcome = match random.below(6) {
                0 => Outcome::TimedOut,
                1 => Outcome::Error { kind: String::new(), message: String::new() },
                2 => from(*random.pick(&batch)),
                _ => done(),
            };
            trace += &format!("{now} {shard} {batch:?} {outcome:?}\n");
            mapping.complete(id, &outcome, now);
            done_with.extend(batch);
        }
        now += random.below(500);
        if sent == 80 {
            now = mapping.next_at().unwrap_or(now).max(now);
        }
    }
    let discarded: usize = mapping.discarded.iter().map(|discarded| discarded.records.len()).sum();
    assert!(can_discard || discarded == 0, "{trace}");
    assert!(mapping.expired.is_empty(), "{trace}");
    let never_seen = 80 - done_with.len();
    assert!(never_seen <= discarded, "a record was neither delivered nor discarded: {trace}");
    trace
}

#[test]
fn one_seed_gives_one_trace_and_no_record_is_left_out() {
    for seed in 0..400 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}
