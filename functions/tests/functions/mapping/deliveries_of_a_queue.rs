//! The ingest function behind a queue of notices: messages that come twice or late, poison among them, functions that are
//! killed, stores that fail. In the end each event is counted once, and each poisoned message is kept once, whole.

use std::collections::{BTreeMap, BTreeSet};

use ingest::Reason;
use serde_json::{Value, json};

use super::Millis;
use super::queue::{QueueMapping, QueueSettings};
use super::random::Random;
use crate::deliveries::{self, api_call, notification, object_created, s3};
use crate::faults::{Fault, Proxy};
use crate::runtime_api::{Environment, Outcome};
use crate::stage::{BUCKET, Program, Stage};
use crate::taking_in::{event, letters, log_object, of_first_hour, put};

const SEEDS: u64 = 3;
const VISIBILITY: Millis = 60_000;

/// What is in the queue, and what must come of it.
#[derive(Default)]
struct Queue {
    messages: BTreeMap<String, String>,
    /// Events that must be counted.
    events: BTreeSet<u32>,
    /// Messages that must be set aside, and why.
    poison: BTreeMap<String, Reason>,
}

impl Queue {
    fn send(&mut self, id: &str, body: String) {
        assert!(self.messages.insert(id.to_owned(), body).is_none());
    }

    fn poison(&mut self, id: &str, reason: Reason, body: String) {
        self.poison.insert(id.to_owned(), reason);
        self.send(id, body);
    }
}

/// Events of objects by notices in every wrapping, some of them twice; events by themselves; and poison.
async fn queue(stage: &Stage) -> Queue {
    let mut queue = Queue::default();
    for object in 0..6_u32 {
        let key = format!("{object}.json.gz");
        let events = object * 10..object * 10 + 12;
        queue.events.extend(events.clone());
        put(stage, &key, log_object(events)).await;
        let direct = s3(BUCKET, &[&key]);
        match object % 3 {
            0 => queue.send(&format!("direct-{object}"), direct.clone()),
            1 => queue.send(&format!("topic-{object}"), notification(&direct).to_string()),
            _ => queue.send(&format!("bridge-{object}"), object_created(BUCKET, &key)),
        }
        // A producer that did not hear the queue's answer.
        if object % 2 == 0 {
            queue.send(&format!("again-{object}"), direct);
        }
    }
    for number in [3, 70, 71] {
        queue.events.insert(number);
        queue.send(&format!("event-{number}"), api_call(&event(number)));
    }
    let mut accountless = event(90);
    accountless["recipientAccountId"] = json!("12345678901");
    queue.poison("text", Reason::NotJson, "no JSON at all".to_owned());
    queue.poison("cut", Reason::BrokenJson, s3(BUCKET, &["0.json.gz"])[..200].to_owned());
    queue.poison("unknown", Reason::NotRecognized, json!({ "hello": "world" }).to_string());
    queue.poison("missing", Reason::ObjectMissing, s3(BUCKET, &["later.json.gz"]));
    queue.poison("denied", Reason::ObjectDenied, s3(BUCKET, &["secret/0.json.gz"]));
    queue.poison("version", Reason::NoticeVersion, s3(BUCKET, &["0.json.gz"]).replace("\"2.1\"", "\"3.0\""));
    queue.poison("account", Reason::AccountMalformed, accountless.to_string());
    queue
}

struct Hosts<'s> {
    stage: &'s Stage,
    idle: Vec<(Environment, Proxy)>,
    kills: u64,
}

impl Hosts<'_> {
    async fn invoke(&mut self, event: &str, faults: Vec<(u32, Fault)>) -> Outcome {
        let (mut environment, proxy) = match self.idle.pop() {
            Some(host) => host,
            None => {
                let proxy = Proxy::before(self.stage.dynamodb.endpoint()).await;
                let mut function = self.stage.function(Program::Ingest);
                function.variables.insert("AWS_ENDPOINT_URL_DYNAMODB".to_owned(), proxy.endpoint.clone());
                function.variables.insert("AWS_MAX_ATTEMPTS".to_owned(), "1".to_owned());
                (Environment::start(&function).await.unwrap(), proxy)
            }
        };
        proxy.plan(faults, environment.pid());
        let outcome = environment.invoke(event).await;
        match &outcome {
            Outcome::Answer(_) | Outcome::Error { .. } => self.idle.push((environment, proxy)),
            Outcome::Exited { .. } | Outcome::TimedOut => self.kills += 1,
        }
        outcome
    }
}

fn fate(random: &mut Random) -> Vec<(u32, Fault)> {
    let request = 1 + u32::try_from(random.below(12)).unwrap();
    match random.below(6) {
        0 => vec![(request, Fault::KilledBefore)],
        1 => vec![(request, Fault::KilledAfter)],
        2 => vec![(request, Fault::AnswerLost)],
        3 => vec![(request, Fault::Down)],
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn whatever_goes_wrong_each_message_has_its_effect_once_and_poison_is_kept_whole() {
    let mut kills = 0;
    for seed in 1..=SEEDS {
        println!("seed {seed}");
        kills += check(seed).await;
    }
    assert!(0 < kills, "no seed kills a function");
}

async fn check(seed: u64) -> u64 {
    let stage = Stage::set().await;
    stage.create_stream_and_bucket().await;
    let mut random = Random::new(seed);
    let settings = QueueSettings {
        batch_size: 1 + usize::try_from(random.below(10)).unwrap(),
        batch_window: 0,
        reports: true,
        concurrency_max: 2,
        visibility_timeout: VISIBILITY,
        receives_max: 20,
    };
    let mut mapping = QueueMapping::new(settings, Random::new(seed + 1_000));
    let queue = queue(&stage).await;
    for (id, body) in &queue.messages {
        mapping.send(id.clone(), body.clone(), 0);
    }
    let mut hosts = Hosts { stage: &stage, idle: Vec::new(), kills: 0 };
    let (mut now, mut ends): (Millis, BTreeMap<(Millis, u64), Outcome>) = (0, BTreeMap::new());
    let (mut invocations, mut received) = (0_u64, 0);
    while !mapping.is_done() {
        for ((_, batch), outcome) in ends.extract_if(..=(now, u64::MAX), |_, _| true).collect::<Vec<_>>() {
            mapping.complete(batch, &outcome);
        }
        for batch in mapping.due(now) {
            invocations += 1;
            received += batch.messages.len();
            let messages = batch.messages.iter().map(|message| (message.id.as_str(), message.body.as_str()));
            let receives = batch.messages.iter().map(|message| message.receives).max().unwrap_or_default();
            let outcome = hosts.invoke(&deliveries::sqs(messages, receives), fate(&mut random)).await;
            // Now and then an invocation outlasts the time for which its messages are hidden.
            let lasts = if random.one_in(6) { VISIBILITY + 5_000 } else { 5 + random.below(3_000) };
            ends.insert((now + lasts, batch.id), outcome);
        }
        let next = ends.keys().next().map(|(at, _)| *at).into_iter().chain(mapping.next_at(now)).min();
        now = next.unwrap_or(now).max(now + 1);
    }
    println!(
        "  {} messages received {received} times in {invocations} invocations, {} kills",
        queue.messages.len(),
        hosts.kills
    );
    assert_eq!(mapping.dead, [], "a failure that passes kills no message");

    let mut aggregate = Environment::start(&stage.function(Program::Aggregate)).await.unwrap();
    stage.count(&mut aggregate).await;
    assert_eq!(stage.in_logs().await, of_first_hour(queue.events.len() as u64));
    let kept = letters(&stage).await;
    let expected: BTreeMap<String, Reason> =
        queue.poison.iter().map(|(id, reason)| (format!("sqs:{id}"), *reason)).collect();
    assert_eq!(kept.len(), expected.len(), "each once: {kept:#?}");
    for (reason, object, bytes) in &kept {
        assert_eq!(expected.get(object), Some(reason), "{object}");
        // Whole: the message, or the record in it that can be judged again by itself.
        let body = &queue.messages[object.strip_prefix("sqs:").unwrap()];
        let kept: Value = serde_json::from_str(bytes).unwrap();
        let whole: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let is_whole = kept["body"] == **body || kept == whole || kept == whole["Records"][0];
        assert!(is_whole, "{object}: {bytes}");
    }

    // What was wrong is put right, and what was kept is handed in again, twice.
    put(&stage, "later.json.gz", log_object(80..84)).await;
    put(&stage, "secret.json.gz", log_object(84..86)).await;
    for _ in 0..2 {
        for (_, object, bytes) in &kept {
            let repaired = match object.as_str() {
                "sqs:missing" => bytes.clone(),
                "sqs:denied" => bytes.replace("secret/0", "secret"),
                "sqs:version" => bytes.replace("3.0", "2.1"),
                "sqs:account" => bytes.replace("12345678901", "123456789012"),
                _ => continue,
            };
            let repaired = if repaired.contains("s3SchemaVersion") { format!("[{repaired}]") } else { repaired };
            let outcome = hosts.invoke(&deliveries::sqs([(object.as_str(), repaired.as_str())], 1), Vec::new()).await;
            assert_eq!(outcome.answer(), json!({ "batchItemFailures": [] }));
        }
    }
    stage.count(&mut aggregate).await;
    // Four and two events of objects, and the one whose account was wrong.
    assert_eq!(stage.in_logs().await, of_first_hour(queue.events.len() as u64 + 7));
    assert_eq!(letters(&stage).await.len(), kept.len());
    let kills = hosts.kills;
    drop(hosts);
    stage.close().await;
    kills
}
