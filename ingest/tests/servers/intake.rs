//! From a delivery to the stream, with every store real.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_kinesis::types::ShardIteratorType;
use aws_sdk_s3::primitives::ByteStream;
use embedded::{DynamoDb, Kinesis, KinesisOptions, S3, S3Options};
use ingest::dead_letter::DeadLetters;
use ingest::digest::Stretch;
use ingest::expectations::Expectations;
use ingest::intake::{Edge, Intake, IntakeError, IntakeRules, Sinks};
use ingest::kinesis::StreamWriter;
use ingest::manifest::{Manifest, Manifests};
use ingest::notice::NamedObject;
use ingest::object_store::{ObjectStore, OpenError, Opened, S3Objects};
use ingest::{Declarations, Meters, NotCounted, Reason, RunId, Timestamp, stream_format};
use serde_json::json;

use crate::clients;

static RUNS: AtomicU64 = AtomicU64::new(0);

fn run_id() -> RunId {
    RunId::from_bytes(u128::from(RUNS.fetch_add(1, Ordering::Relaxed)).to_be_bytes())
}

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap()
}

struct Servers {
    kinesis: Kinesis,
    dynamodb: DynamoDb,
    s3: S3,
}

struct Fixture {
    servers: Servers,
    sinks: Sinks,
    stream: aws_sdk_kinesis::Client,
    objects: aws_sdk_s3::Client,
    intake: Intake<S3Objects>,
}

async fn fixture() -> Fixture {
    let servers = Servers {
        kinesis: Kinesis::start(KinesisOptions::default()).await.unwrap(),
        dynamodb: DynamoDb::in_memory().await.unwrap(),
        s3: S3::start(S3Options { directory: None, denied: vec!["/trail-logs/secret/".into()] }).await.unwrap(),
    };
    let stream = clients::kinesis(servers.kinesis.endpoint());
    let tables = clients::dynamodb(servers.dynamodb.endpoint());
    let objects = clients::s3(servers.s3.endpoint(), "any");
    stream.create_stream().stream_name("usage").shard_count(1).send().await.unwrap();
    while stream
        .describe_stream_summary()
        .stream_name("usage")
        .send()
        .await
        .unwrap()
        .stream_description_summary()
        .unwrap()
        .stream_status()
        .as_str()
        != "ACTIVE"
    {
        tokio::task::yield_now().await;
    }
    objects.create_bucket().bucket("trail-logs").send().await.unwrap();
    let sinks = Sinks {
        stream: StreamWriter::new(stream.clone(), "usage".into(), || 0),
        dead_letters: DeadLetters::new(tables.clone(), "letters".into(), || 0),
        manifests: Manifests::new(tables.clone(), "manifests".into(), || 0),
        expectations: Expectations::new(tables, "expectations".into(), || 0),
    };
    sinks.dead_letters.ensure_table().await.unwrap();
    sinks.manifests.ensure_table().await.unwrap();
    sinks.expectations.ensure_table().await.unwrap();
    let rules = IntakeRules { declared: Arc::new(Declarations::default()), meters: Arc::new(Meters::built_in()) };
    let edge = Edge { now, run_id };
    let intake = Intake::new(sinks.clone(), S3Objects::new(objects.clone()), rules, edge);
    Fixture { servers, sinks, stream, objects, intake }
}

impl Fixture {
    async fn put(&self, key: &str, content: &str) {
        let body = ByteStream::from(content.as_bytes().to_vec());
        self.objects.put_object().bucket("trail-logs").key(key).body(body).send().await.unwrap();
    }

    /// Usage events on the stream.
    async fn events(&self) -> usize {
        let shard = self.stream.get_shard_iterator().stream_name("usage").shard_id("shardId-000000000000");
        let iterator = shard.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap().shard_iterator;
        let records = self.stream.get_records().set_shard_iterator(iterator).send().await.unwrap().records;
        let slices = records.iter().flat_map(|record| stream_format::decode(record.data.as_ref()).unwrap());
        slices.map(|slice| slice.events()).sum()
    }

    async fn shutdown(self) {
        self.servers.kinesis.shutdown().await;
        self.servers.dynamodb.shutdown().await;
        self.servers.s3.shutdown().await;
    }
}

fn event(id: u8) -> String {
    format!(
        r#"{{"eventName":"X","eventTime":"2026-10-01T11:00:00Z","recipientAccountId":"111111111111","eventID":"00000000-0000-4000-8000-0000000000{id:02x}"}}"#
    )
}

/// A queue's messages, each a notice of one object.
fn queue(keys: &[&str]) -> Vec<u8> {
    let messages = keys.iter().map(|key| {
        let notice = json!({"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "trail-logs"}, "object": {"key": key}}}]});
        json!({"messageId": key, "body": notice.to_string(), "eventSource": "aws:sqs"})
    });
    json!({ "Records": messages.collect::<Vec<_>>() }).to_string().into_bytes()
}

fn named(manifests: &[Manifest]) -> Vec<(&str, u64)> {
    manifests.iter().map(|manifest| (manifest.object.name.as_str(), manifest.read)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_notices_puts_the_usage_of_its_objects_on_the_stream() {
    let fixture = fixture().await;
    fixture.put("a.json", &format!("{{\"Records\":[{},{}]}}", event(1), event(2))).await;
    fixture.put("b.json", &event(3)).await;
    let taken =
        fixture.intake.take("sqs:1".into(), queue(&["a.json", "gone.json", "b.json", "secret/c.json"])).await.unwrap();

    assert_eq!(named(&taken), [("s3://trail-logs/a.json", 2), ("s3://trail-logs/b.json", 1), ("sqs:1", 4)]);
    let own = &taken[2];
    assert_eq!(own.not_counted, [(NotCounted::ObjectNotice, 4)].into());
    assert_eq!(own.beside_dead_letters, [(Reason::ObjectMissing, 1), (Reason::ObjectDenied, 1)].into());
    assert_eq!(fixture.events().await, 3);
    let letters = fixture.sinks.dead_letters.list().await.unwrap();
    let mut reasons: Vec<_> = letters.iter().map(|letter| (letter.reason, letter.object.as_str())).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, [(Reason::ObjectMissing, "sqs:1"), (Reason::ObjectDenied, "sqs:1")]);
    for manifest in &taken {
        assert_eq!(fixture.sinks.manifests.of_object(&manifest.object).await.unwrap(), std::slice::from_ref(manifest));
    }

    // What was missing comes later: its dead letter, read again as it was kept, finds it.
    fixture.put("gone.json", &event(4)).await;
    let kept = letters.iter().find(|letter| letter.reason == Reason::ObjectMissing).unwrap();
    let again = fixture.intake.take("again".into(), [b"[", kept.bytes.as_slice(), b"]"].concat()).await.unwrap();
    assert_eq!(named(&again), [("s3://trail-logs/gone.json", 1), ("again", 1)]);
    assert_eq!(fixture.events().await, 4);
    fixture.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_delivery_form_is_taken_by_the_same_call() {
    let fixture = fixture().await;
    let envelope = json!({"detail-type": "AWS API Call via CloudTrail", "source": "aws.ec2", "account": "111111111111",
        "detail": serde_json::from_str::<serde_json::Value>(&event(5)).unwrap()});
    let sample = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "nat_gateway_bytes", "subject": "111111111111",
        "time": "2026-10-01T11:00:00Z", "data": {"resource": "nat-1", "value": 5, "unit": "bytes"}});
    let poison = json!({"specversion": "1.0", "id": "2"});
    for (name, delivery, read) in
        [("eventbridge:1", envelope.clone(), 1), ("samples:1", json!([sample, poison]), 2), ("nothing", json!([]), 0)]
    {
        let taken = fixture.intake.take(name.into(), delivery.to_string().into_bytes()).await.unwrap();
        assert_eq!(named(&taken), [(name, read)]);
    }
    assert_eq!(fixture.events().await, 2, "an event and a sample");
    fixture.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_file_makes_its_log_objects_expected() {
    let fixture = fixture().await;
    let key = "AWSLogs/111111111111/CloudTrail-Digest/eu-west-1/2026/10/01/111111111111_CloudTrail-Digest_eu-west-1_t_eu-west-1_20261001T120131Z.json";
    let digest = json!({
        "awsAccountId": "111111111111", "digestStartTime": "2026-10-01T11:01:31Z", "digestEndTime": "2026-10-01T12:01:31Z",
        "digestS3Bucket": "trail-logs", "digestS3Object": key,
        "logFiles": [{"s3Bucket": "trail-logs", "s3Object": "a.json", "hashValue": "ab".repeat(32), "hashAlgorithm": "SHA-256"}],
    });
    let body = ByteStream::from(digest.to_string().into_bytes());
    let put = fixture.objects.put_object().bucket("trail-logs").key(key).metadata("signature", "00ff").body(body);
    put.send().await.unwrap();
    let object = NamedObject::of_name(&format!("s3://trail-logs/{key}")).unwrap();
    let taken = fixture.intake.take_object(object).await.unwrap();
    assert_eq!(taken[0].not_counted, [(NotCounted::CloudTrailDigest, 1)].into());

    let [source] = &fixture.sinks.expectations.sources().await.unwrap()[..] else { panic!("one source") };
    let all = Stretch { start: Timestamp::MIN, end: now() };
    let seen = fixture.sinks.expectations.of_source(source, all).await.unwrap();
    assert_eq!((seen.len(), seen[0].signature.as_deref()), (1, Some("00ff")));
    assert_eq!(Some(seen[0].content_sha256), taken[0].content_sha256);
    assert_eq!(seen[0].digest.log_objects[0].object.key, "a.json");
    fixture.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_leaves_the_delivery_to_be_tried_again() {
    let fixture = fixture().await;
    let Fixture { servers: Servers { kinesis, dynamodb, s3 }, intake, .. } = fixture;
    s3.shutdown().await;
    let failed = intake.take("sqs:1".into(), queue(&["a.json"])).await.unwrap_err();
    assert!(matches!(&failed, IntakeError::Open { .. }) && failed.is_passing(), "{failed}");
    dynamodb.shutdown().await;
    let failed = intake.take("events".into(), b"{}".to_vec()).await.unwrap_err();
    assert!(matches!(&failed, IntakeError::Sink(_)) && failed.is_passing(), "{failed}");
    kinesis.shutdown().await;
}

/// An object without end, and a word when nobody reads it any more.
struct Endless(std::sync::mpsc::Sender<()>);

impl std::io::Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let line = b"{\"Findings\":[]}\n";
        let count = buffer.len() / line.len() * line.len();
        buffer[..count].copy_from_slice(&line.repeat(count / line.len()));
        Ok(count)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[derive(Clone)]
struct EndlessObjects(std::sync::mpsc::Sender<()>);

impl ObjectStore for EndlessObjects {
    type Body = Endless;

    async fn open(&self, _: &NamedObject) -> Result<Opened<Endless>, OpenError> {
        Ok(Opened { body: Endless(self.0.clone()), signature: None, written_at: None })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_any_more_is_not_read_on() {
    let fixture = fixture().await;
    let (said, has_ended) = std::sync::mpsc::channel();
    let rules = IntakeRules { declared: Arc::new(Declarations::default()), meters: Arc::new(Meters::built_in()) };
    let intake = Intake::new(fixture.sinks.clone(), EndlessObjects(said), rules, Edge { now, run_id });
    let object = NamedObject::of_name("s3://trail-logs/endless.json").unwrap();
    let taken = tokio::time::timeout(std::time::Duration::from_millis(50), intake.take_object(object)).await;
    assert!(taken.is_err(), "it has no end");
    // Its thread lets go of it.
    tokio::task::spawn_blocking(move || has_ended.recv().unwrap()).await.unwrap();
    drop(intake);
    fixture.shutdown().await;
}
