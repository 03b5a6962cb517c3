//! Deliveries of sources, taken in by the real function and counted by the real function behind the stream.

use std::collections::BTreeMap;

use aggregator::meters::{MeterBook, NewMeter};
use aws_sdk_s3::primitives::ByteStream;
use ingest::{Reason, Timestamp};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::deliveries::{
    self, api_call, cloudwatch_logs, firehose, function_url, gzip, notification, object_created, s3, s3_test, sns, sqs,
};
use crate::faults::{Fault, Proxy};
use crate::runtime_api::{Environment, Function, NotStarted, Outcome};
use crate::stage::{BUCKET, Counts, Program, Stage};

const ACCOUNT: &str = "123456789012";

/// A CloudTrail event of the first hour.
pub(crate) fn event(number: u32) -> Value {
    json!({
        "eventVersion": "1.11",
        "eventTime": "2026-10-24T00:20:48Z",
        "eventSource": "ec2.amazonaws.com",
        "eventName": "DescribeInstances",
        "awsRegion": "eu-central-1",
        "eventID": format!("00000000-0000-4000-8000-{number:012}"),
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
    })
}

/// A log object as CloudTrail delivers it.
pub(crate) fn log_object(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let records: Vec<Value> = numbers.into_iter().map(event).collect();
    gzip(json!({ "Records": records }).to_string().as_bytes())
}

/// So many events of the account in the first hour.
pub(crate) fn of_first_hour(count: u64) -> Counts {
    BTreeMap::from([((ACCOUNT.to_owned(), "2026-10-24T00".to_owned()), count)])
}

pub(crate) async fn put(stage: &Stage, key: &str, content: Vec<u8>) {
    stage.objects().put_object().bucket(BUCKET).key(key).body(ByteStream::from(content)).send().await.unwrap();
}

/// Dead letters: why, where from, and what is kept.
pub(crate) async fn letters(stage: &Stage) -> Vec<(Reason, String, String)> {
    let letters = stage.tables.dead_letters().list().await.unwrap();
    assert!(letters.iter().all(|letter| letter.is_whole), "{letters:?}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let mut letters: Vec<_> =
        letters.into_iter().map(|letter| (letter.reason, letter.object, text(letter.bytes))).collect();
    letters.sort_unstable();
    letters
}

fn taken_in(readings: u64, records: u64, dead_letters: u64) -> Value {
    json!({ "batchItemFailures": [], "readings": readings, "records": records, "dead_letters": dead_letters })
}

async fn set() -> (Stage, Environment) {
    let stage = Stage::set().await;
    stage.create_stream_and_bucket().await;
    let aggregate = Environment::start(&stage.function(Program::Aggregate)).await.unwrap();
    (stage, aggregate)
}

#[tokio::test]
async fn a_notice_in_any_wrapping_brings_the_events_of_its_object_and_they_count_once() {
    let (stage, mut aggregate) = set().await;
    let function = stage.function(Program::Ingest);
    // A key that notices write otherwise than it is.
    let (key, encoded) = ("AWSLogs/o 1/a+b.json.gz", "AWSLogs/o+1/a%2Bb.json.gz");
    put(&stage, key, log_object(0..5)).await;
    let direct = s3(BUCKET, &[encoded]);
    let bridged = object_created(BUCKET, key);
    let wrapped = notification(&direct).to_string();
    let done = json!({ "batchItemFailures": [] });
    let deliveries = [
        (direct.clone(), taken_in(2, 6, 0)),
        (sns(&direct), taken_in(2, 6, 0)),
        (bridged.clone(), taken_in(2, 6, 0)),
        (s3_test(BUCKET), taken_in(1, 1, 0)),
        (sqs([("m1", direct.as_str()), ("m2", wrapped.as_str()), ("m3", bridged.as_str())], 1), done),
    ];
    // Warm but for the first; and each of them cold.
    let mut warm = Environment::start(&function).await.unwrap();
    for (delivery, answer) in &deliveries {
        assert_eq!(&warm.invoke(delivery).await.answer(), answer, "{}", warm.log());
    }
    for (delivery, answer) in &deliveries[2..] {
        let mut cold = Environment::start(&function).await.unwrap();
        assert_eq!(&cold.invoke(delivery).await.answer(), answer);
    }
    stage.count(&mut aggregate).await;
    assert_eq!(stage.in_logs().await, of_first_hour(5));
    assert_eq!(letters(&stage).await, []);
    stage.close().await;
}

#[tokio::test]
async fn an_event_counts_once_whichever_ways_it_comes() {
    let (stage, mut aggregate) = set().await;
    put(&stage, "a.json.gz", log_object(0..4)).await;
    let mut ingest = Environment::start(&stage.function(Program::Ingest)).await.unwrap();
    let (one, two, three) = (event(1), event(2), event(3));
    for delivery in [s3(BUCKET, &["a.json.gz"]), api_call(&one), cloudwatch_logs(&[&two, &three, &event(4)])] {
        ingest.invoke(&delivery).await.answer();
    }
    let (plain, packed) = (event(5).to_string(), gzip(three.to_string().as_bytes()));
    let answer = ingest.invoke(&firehose([("r1", plain.as_bytes()), ("r2", &packed), ("r3", b"{")])).await.answer();
    let kept = |id: &str, data: &[u8]| {
        use base64::Engine as _;
        json!({ "recordId": id, "result": "Ok", "data": base64::engine::general_purpose::STANDARD.encode(data) })
    };
    // Firehose delivers what it was given, to wherever it delivers.
    let records = [kept("r1", plain.as_bytes()), kept("r2", &packed), kept("r3", b"{")];
    assert_eq!(answer, json!({ "records": records }));
    stage.count(&mut aggregate).await;
    assert_eq!(stage.in_logs().await, of_first_hour(6));
    let letters = letters(&stage).await;
    assert_eq!(letters.iter().map(|(reason, _, _)| *reason).collect::<Vec<_>>(), [Reason::BrokenJson]);
    stage.close().await;
}

#[tokio::test]
async fn a_message_whose_object_cannot_be_fetched_now_holds_up_no_other() {
    let (stage, mut aggregate) = set().await;
    put(&stage, "a.json.gz", log_object(0..3)).await;
    let proxy = Proxy::before(stage.s3.endpoint()).await;
    let mut function = stage.function(Program::Ingest);
    function.variables.insert("AWS_ENDPOINT_URL_S3".into(), proxy.endpoint.clone());
    function.variables.insert("AWS_MAX_ATTEMPTS".into(), "1".into());
    let mut ingest = Environment::start(&function).await.unwrap();
    proxy.plan((1..=100).map(|request| (request, Fault::Down)), ingest.pid());
    let (notice, inline) = (s3(BUCKET, &["a.json.gz"]), api_call(&event(9)));
    let batch = sqs([("m1", notice.as_str()), ("m2", inline.as_str()), ("m3", "poison")], 1);
    let answer = ingest.invoke(&batch).await.answer();
    assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": "m1" }] }));
    assert!(ingest.log().contains("a message is to be delivered again"), "{}", ingest.log());
    stage.count(&mut aggregate).await;
    assert_eq!(stage.in_logs().await, of_first_hour(1));

    // Directly from S3 there is no part of it to answer for: Lambda tries all of it again.
    let outcome = ingest.invoke(&notice).await;
    assert!(matches!(&outcome, Outcome::Error { kind, .. } if kind == "Store.Failed"), "{outcome:?}");

    proxy.plan([], ingest.pid());
    let again = sqs([("m1", notice.as_str()), ("m3", "poison")], 2);
    assert_eq!(ingest.invoke(&again).await.answer(), json!({ "batchItemFailures": [] }));
    stage.count(&mut aggregate).await;
    assert_eq!(stage.in_logs().await, of_first_hour(4));
    // The same message received twice is the same dead letter.
    let kept = r#"{"messageId":"m3","eventSource":"aws:sqs","body":"poison"}"#;
    assert_eq!(letters(&stage).await, [(Reason::NotJson, "sqs:m3".to_owned(), kept.to_owned())]);
    stage.close().await;
}

#[tokio::test]
async fn a_function_that_runs_out_of_time_says_so_and_names_what_is_left() {
    let (stage, mut aggregate) = set().await;
    put(&stage, "a.json.gz", log_object(0..3)).await;
    let proxy = Proxy::before(stage.s3.endpoint()).await;
    let mut function = stage.function(Program::Ingest);
    function.variables.insert("AWS_ENDPOINT_URL_S3".into(), proxy.endpoint.clone());
    function.timeout = std::time::Duration::from_millis(2_000);
    let mut ingest = Environment::start(&function).await.unwrap();
    proxy.plan((1..=100).map(|request| (request, Fault::Hangs)), ingest.pid());
    let notice = s3(BUCKET, &["a.json.gz"]);
    let inline = api_call(&event(9));
    let answer = ingest.invoke(&sqs([("m1", notice.as_str()), ("m2", inline.as_str())], 1)).await.answer();
    assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": "m1" }] }));
    let outcome = ingest.invoke(&notice).await;
    assert!(matches!(&outcome, Outcome::Error { kind, .. } if kind == "Deadline.Exceeded"), "{outcome:?}");
    // The same environment goes on.
    proxy.plan([], ingest.pid());
    assert_eq!(ingest.invoke(&notice).await.answer(), taken_in(2, 4, 0));
    stage.count(&mut aggregate).await;
    assert_eq!(stage.in_logs().await, of_first_hour(4));
    stage.close().await;
}

fn sample(id: u32, meter: &str, value: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id.to_string(), "source": "/collectors/nat", "type": meter, "subject": ACCOUNT,
        "time": format!("2026-10-24T00:{id:02}:00Z"), "data": { "resource": "nat-1", "value": value, "unit": "bytes" },
    })
}

/// Status, media type and body of an answer.
fn http(answer: &Value) -> (u64, &str, Value) {
    let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    (answer["statusCode"].as_u64().unwrap(), answer["headers"]["content-type"].as_str().unwrap(), body)
}

#[tokio::test]
async fn samples_come_over_http_one_or_many_and_broken_ones_are_named() {
    let (stage, mut aggregate) = set().await;
    let mut ingest = Environment::start(&stage.function(Program::Ingest)).await.unwrap();
    let one = json!({ "content-type": "application/cloudevents+json; charset=utf-8" });
    let many = json!({ "content-type": "application/cloudevents-batch+json" });
    let nat = |id| sample(id, "nat_gateway_bytes", "10");
    let request = function_url(&one, nat(1).to_string().as_bytes(), true);
    let receipt = |read: u64| json!({ "read": read, "usage": read, "not_counted": {}, "dead_letters": {} });
    let answer = ingest.invoke(&request.to_string()).await.answer();
    assert_eq!(http(&answer), (202, "application/json", receipt(1)), "{}", ingest.log());

    let binary = json!({ "content-type": "application/json", "ce-specversion": "1.0", "ce-id": "2", "ce-source": "/c",
        "ce-type": "nat_gateway_bytes", "ce-subject": ACCOUNT, "ce-time": "2026-10-24T00:02:00Z" });
    let body = br#"{"resource":"nat-1","value":10,"unit":"bytes"}"#;
    let answer = ingest.invoke(&function_url(&binary, body, false).to_string()).await.answer();
    assert_eq!(http(&answer), (202, "application/json", receipt(1)));

    // In a batch the good ones are taken, and each broken one is named.
    let batch =
        json!([nat(1), nat(3), sample(4, "unheard_of", "1"), sample(5, "nat_gateway_bytes", "ten")]).to_string();
    let request = function_url(&many, batch.as_bytes(), false).to_string();
    for _ in 0..2 {
        let answer = ingest.invoke(&request).await.answer();
        let (status, media_type, problem) = http(&answer);
        assert_eq!((status, media_type), (422, "application/problem+json"));
        assert_eq!(
            (&problem["type"], &problem["usage"]),
            (&json!("urn:securebase:problem:samples-refused"), &json!(2))
        );
        let named: Vec<_> = problem["events"].as_array().unwrap().iter().collect();
        let of = |number: usize| (&named[number]["number"], &named[number]["id"], &named[number]["reason"]);
        assert_eq!(of(0), (&json!(2), &json!("4"), &json!("meter_unknown")));
        assert_eq!(of(1), (&json!(3), &json!("5"), &json!("sample_malformed")));
        assert!(problem["request_id"].as_str().unwrap().starts_with("00000000-"), "{problem}");
    }
    stage.count(&mut aggregate).await;
    let facts: u64 = stage.facts().await;
    assert_eq!(facts, 3, "samples 1 to 3, each once");
    // Sent twice, set aside once.
    let letters: Vec<_> = letters(&stage).await.into_iter().map(|(reason, _, kept)| (reason, kept)).collect();
    let kept = [sample(4, "unheard_of", "1"), sample(5, "nat_gateway_bytes", "ten")].map(|sample| sample.to_string());
    assert_eq!(letters, [(Reason::MeterUnknown, kept[0].clone()), (Reason::SampleMalformed, kept[1].clone())]);
    stage.close().await;
}

#[tokio::test]
async fn a_request_that_brings_no_samples_or_comes_from_nobody_is_refused_and_keeps_nothing() {
    let (stage, _aggregate) = set().await;
    let mut ingest = Environment::start(&stage.function(Program::Ingest)).await.unwrap();
    let good = sample(1, "nat_gateway_bytes", "10").to_string();
    let with =
        |media_type: &str, body: &str| function_url(&json!({ "content-type": media_type }), body.as_bytes(), false);
    let mut unsigned = with("application/cloudevents+json", &good);
    unsigned["requestContext"]["authorizer"] = Value::Null;
    let mut get = with("application/cloudevents+json", &good);
    get["requestContext"]["http"]["method"] = json!("GET");
    let mut not_base64 = with("application/cloudevents+json", &good);
    not_base64["isBase64Encoded"] = json!(true);
    for (request, status) in [
        (unsigned, 403),
        (get, 405),
        (not_base64, 400),
        (with("application/json", &good), 415),
        (with("application/cloudevents-batch+json", &good), 400),
        (with("application/cloudevents-batch+json", "[{}]"), 400),
        (with("application/cloudevents+json", &" ".repeat((1 << 20) + 1)), 413),
    ] {
        let answer = ingest.invoke(&request.to_string()).await.answer();
        let (said, media_type, problem) = http(&answer);
        assert_eq!((said, media_type, &problem["status"]), (status, "application/problem+json", &json!(status)));
    }
    assert_eq!(letters(&stage).await, []);

    // A store that is away: the sender is told to come again.
    let proxy = Proxy::before(stage.dynamodb.endpoint()).await;
    let mut function = stage.function(Program::Ingest);
    function.variables.insert("AWS_ENDPOINT_URL_DYNAMODB".into(), proxy.endpoint.clone());
    function.variables.insert("AWS_MAX_ATTEMPTS".into(), "1".into());
    function.timeout = std::time::Duration::from_millis(2_000);
    let mut ingest = Environment::start(&function).await.unwrap();
    proxy.plan((1..=1_000).map(|request| (request, Fault::Hangs)), ingest.pid());
    let answer = ingest.invoke(&with("application/cloudevents+json", &good).to_string()).await.answer();
    assert_eq!((http(&answer).0, &answer["headers"]["retry-after"]), (503, &json!("5")));
    stage.close().await;
}

#[tokio::test]
async fn meters_come_from_the_database_and_declared_sources_from_a_setting_or_an_object() {
    let (stage, mut aggregate) = set().await;
    let pool = PgPool::connect(&stage.database_url("securebase_aggregator")).await.unwrap();
    let meter = NewMeter {
        name: "requests_served".into(),
        aggregation: "sum".into(),
        gap_seconds_max: None,
        description: "requests".into(),
    };
    MeterBook::new(pool.clone())
        .define(&meter, Timestamp::parse_rfc3339("2026-10-01T00:00:00Z").unwrap())
        .await
        .unwrap();
    pool.close().await;
    let declared = "[[declared]]\nmeter = \"nat_gateway_bytes\"\nsource = \"focus_export\"\n";
    put(&stage, "sources.toml", declared.into()).await;
    let mut function = stage.function(Program::Ingest);
    let database = stage.database_url("securebase_aggregator");
    for (sources, database, expected) in [
        // read, usage, not counted, dead letters
        (String::new(), None, [2, 1, 0, 1]),
        (declared.to_owned(), Some(&database), [2, 1, 1, 0]),
        (format!("s3://{BUCKET}/sources.toml"), Some(&database), [2, 1, 1, 0]),
    ] {
        function.variables.insert("SECUREBASE_SOURCES".into(), sources);
        function.variables.remove("SECUREBASE_DATABASE_URL");
        function.variables.extend(database.map(|url| ("SECUREBASE_DATABASE_URL".to_owned(), url.clone())));
        let mut ingest = Environment::start(&function).await.unwrap();
        let mut served = sample(1, "requests_served", "7");
        served["data"]["unit"] = json!("each");
        let batch = json!([served, sample(1, "nat_gateway_bytes", "7")]).to_string();
        let request =
            function_url(&json!({ "content-type": "application/cloudevents-batch+json" }), batch.as_bytes(), false);
        let answer = ingest.invoke(&request.to_string()).await.answer();
        let (_, _, receipt) = http(&answer);
        let count = |member: &str| match &receipt[member] {
            Value::Object(counts) => counts.values().map(|count| count.as_u64().unwrap()).sum(),
            count => count.as_u64().unwrap(),
        };
        assert_eq!(["read", "usage", "not_counted", "dead_letters"].map(count), expected, "{receipt}");
    }
    stage.count(&mut aggregate).await;

    for (sources, told) in [
        ("s3://trail-logs", "give s3://BUCKET/KEY"),
        ("[[declared]]\nmeter = \"x\"", "SECUREBASE_SOURCES:"),
        ("s3://trail-logs/gone.toml", "s3://trail-logs/gone.toml: "),
    ] {
        let function = Function {
            variables: function
                .variables
                .clone()
                .into_iter()
                .chain([("SECUREBASE_SOURCES".into(), sources.into())])
                .collect(),
            ..function.clone()
        };
        let NotStarted { told: said, .. } = Environment::start(&function).await.map(drop).unwrap_err();
        let (_, message) = said.unwrap();
        assert!(message.contains(told), "{message}");
    }
    stage.close().await;
}

#[tokio::test]
async fn what_nobody_knows_is_set_aside_whole() {
    let (stage, _aggregate) = set().await;
    let mut ingest = Environment::start(&stage.function(Program::Ingest)).await.unwrap();
    for (delivery, answer) in [
        ("{}", taken_in(1, 1, 1)),
        (r#"{"Records":[]}"#, taken_in(1, 0, 0)),
        (&deliveries::schedule("2026-10-24T00:00:00Z"), taken_in(1, 1, 0)),
    ] {
        assert_eq!(ingest.invoke(delivery).await.answer(), answer, "{delivery}");
    }
    let letters = letters(&stage).await;
    assert_eq!((letters.len(), letters[0].0, letters[0].2.as_str()), (1, Reason::NotRecognized, "{}"));
    assert!(letters[0].1.starts_with("delivery:"), "{letters:?}");
    stage.close().await;
}

#[tokio::test]
async fn bombs_and_endless_deliveries_are_read_in_the_memory_a_function_has() {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let (stage, mut aggregate) = set().await;
    let mut ingest = Environment::start(&stage.function(Program::Ingest)).await.unwrap();
    let bomb = json!({ "awslogs": { "data": encode(&gzip(&vec![b' '; 300 << 20])) } });
    let layers = (0..10).fold(event(0).to_string(), |body, _| json!({ "Sns": { "Message": body } }).to_string());
    let nothing = json!({ "Findings": [] }).to_string();
    let deliveries = [
        // What Lambda hands a function at most is 6 MB.
        json!({ "Records": [event(1), bomb, event(2)] }).to_string(),
        json!({ "Records": [event(3), serde_json::from_str::<Value>(&layers).unwrap()] }).to_string(),
        format!("[{}{}]", event(4), format!(",{nothing}").repeat(300_000)),
        format!("[{},{}1{}]", event(5), "[".repeat(2_000_000), "]".repeat(2_000_000)),
        format!("[{},{{\"a\":\"{}\"}}]", event(6), "x".repeat(5_500_000)),
    ];
    for delivery in &deliveries {
        assert!(delivery.len() < 6_000_000);
        ingest.invoke(delivery).await.answer();
    }
    let mib = ingest.peak_kib() >> 10;
    assert!(mib < 256, "{mib} MiB");
    stage.count(&mut aggregate).await;
    assert_eq!(stage.in_logs().await, of_first_hour(6));
    let letters = stage.tables.dead_letters().list().await.unwrap();
    let mut reasons: Vec<Reason> = letters.iter().map(|letter| letter.reason).collect();
    reasons.sort_unstable();
    use Reason::{GzipBomb, NestedTooDeep, RecordTooLarge, WrappedTooDeep};
    assert_eq!(reasons, [RecordTooLarge, NestedTooDeep, GzipBomb, WrappedTooDeep]);
    stage.close().await;
}
