use std::convert::Infallible;

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::{Beside, Judged, Rules, Timestamp, Verdict, read_object};

fn object(key: &str) -> NamedObject {
    NamedObject {
        bucket: "trail-logs".into(),
        key: key.into(),
        version_id: None,
        etag: Some("b21b84d653bb07b05b1e6b33684dc11b".into()),
        sequencer: Some("0C0F6F405D6ED209E1".into()),
        size: Some(1305),
    }
}

fn s3(key: &str) -> Value {
    json!({
        "eventVersion": "2.5", "eventSource": "aws:s3", "awsRegion": "us-east-2", "eventTime": "2026-10-01T12:00:00.000Z",
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0", "bucket": {"name": "trail-logs", "arn": "arn:aws:s3:::trail-logs"},
            "object": {"key": key, "size": 1305, "eTag": "b21b84d653bb07b05b1e6b33684dc11b", "sequencer": "0C0F6F405D6ED209E1"},
        },
    })
}

fn event_bridge_of(detail_type: &str, key: &str) -> Value {
    json!({
        "version": "0", "id": "17793124-05d4-b198-2fde-7ededc63b103", "detail-type": detail_type, "source": "aws.s3",
        "account": "111122223333", "time": "2026-10-01T12:00:00Z", "region": "us-east-2",
        "detail": {
            "version": "0", "bucket": {"name": "trail-logs"}, "reason": "PutObject",
            "object": {"key": key, "size": 1305, "etag": "b21b84d653bb07b05b1e6b33684dc11b", "sequencer": "0C0F6F405D6ED209E1"},
        },
    })
}

fn records(records: &[Value]) -> Value {
    json!({ "Records": records })
}

fn sqs(body: &str) -> Value {
    json!({"messageId": "059f36b4", "body": body, "eventSource": "aws:sqs", "awsRegion": "us-east-2"})
}

fn sns(message: &str) -> Value {
    json!({"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": {"Type": "Notification", "Message": message}})
}

fn sns_envelope(message: &str) -> Value {
    json!({"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-2:1:t", "Message": message})
}

/// What one entry of a delivery came to, by the door that opens deliveries.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Object(NamedObject),
    NotCounted(NotCounted),
    DeadLetter(Reason, String),
}

fn read(delivered: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
    let each = |judged: Judged<'_>| {
        let kept = || String::from_utf8_lossy(judged.bytes).into_owned();
        found.push(match (&judged.verdict, judged.beside.as_slice()) {
            (Verdict::NotCounted(NotCounted::ObjectNotice), [Beside::Object(object)]) => {
                Found::Object((**object).clone())
            }
            (Verdict::NotCounted(kind), []) => Found::NotCounted(*kind),
            (Verdict::DeadLetter(reason), []) => Found::DeadLetter(*reason, kept()),
            other => panic!("{other:?}"),
        });
        Ok::<_, Infallible>(())
    };
    read_object("notice.json", delivered, Rules::at(now), each).unwrap();
    found
}

#[track_caller]
fn check(delivered: &Value, expected: &[Entry]) {
    let found: Vec<Entry> = read(delivered.to_string().as_bytes())
        .into_iter()
        .map(|found| match found {
            Found::Object(object) => Entry::Object(object),
            Found::NotCounted(kind) => Entry::NotCounted(kind),
            Found::DeadLetter(reason, _) => Entry::DeadLetter(reason),
        })
        .collect();
    assert_eq!(found, expected, "{delivered}");
}

#[test]
fn every_route_of_a_notice_names_the_same_object() {
    let named = [Entry::Object(object("AWSLogs/1/a.json.gz"))];
    let direct = records(&[s3("AWSLogs/1/a.json.gz")]);
    let text = direct.to_string();
    let bridge = event_bridge_of("Object Created", "AWSLogs/1/a.json.gz");
    check(&s3("AWSLogs/1/a.json.gz"), &named);
    check(&direct, &named);
    check(&records(&[sns(&text)]), &named);
    check(&records(&[sqs(&text)]), &named);
    check(&records(&[sqs(&sns_envelope(&text).to_string())]), &named);
    check(&bridge, &named);
    check(&records(&[sqs(&bridge.to_string())]), &named);
    check(&records(&[sqs(&sns_envelope(&bridge.to_string()).to_string())]), &named);
    check(&sqs(&text), &named);
}

#[test]
fn a_key_is_decoded_where_s3_encodes_it_and_left_alone_where_event_bridge_does_not() {
    for (encoded, key) in [
        ("my+file%3Da.json.gz", "my file=a.json.gz"),
        ("a%2Bb", "a+b"),
        ("%C3%A9t%c3%a9", "été"),
        ("a%20b", "a b"),
        ("100%25", "100%"),
    ] {
        check(&s3(encoded), &[Entry::Object(object(key))]);
        check(&event_bridge_of("Object Created", encoded), &[Entry::Object(object(encoded))]);
    }
    for wrong in ["%", "%4", "%zz", "%FF", ""] {
        check(&s3(wrong), &[Entry::DeadLetter(Reason::NoticeMalformed)]);
    }
}

#[test]
fn a_version_and_an_entity_tag_are_kept_as_they_are() {
    let mut notice = s3("k");
    notice["s3"]["object"]["versionId"] = json!("IYV3p45BT0ac8hjHg1houSdS1a.Mro8e");
    notice["s3"]["object"]["eTag"] = json!("\"quoted\"");
    let expected = NamedObject {
        version_id: Some("IYV3p45BT0ac8hjHg1houSdS1a.Mro8e".into()),
        etag: Some("quoted".into()),
        ..object("k")
    };
    assert_eq!(expected.to_string(), "s3://trail-logs/k version IYV3p45BT0ac8hjHg1houSdS1a.Mro8e");
    check(&notice, &[Entry::Object(expected)]);
}

#[test]
fn what_is_no_creation_is_not_counted() {
    let test =
        json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b", "Time": "2026-10-01T00:00:00.000Z"});
    check(&test, &[Entry::NotCounted(NotCounted::S3TestEvent)]);
    check(&records(&[sns(&test.to_string())]), &[Entry::NotCounted(NotCounted::S3TestEvent)]);
    for name in [
        "ObjectRemoved:Delete",
        "ObjectRestore:Completed",
        "s3:LifecycleExpiration:Delete",
        "ReducedRedundancyLostObject",
    ] {
        let mut notice = s3("k");
        notice["eventName"] = json!(name);
        check(&notice, &[Entry::NotCounted(NotCounted::S3OtherNotice)]);
    }
    for detail_type in ["Object Deleted", "Object Restore Completed", "Object Annotation Created", "Object Tags Added"]
    {
        check(&event_bridge_of(detail_type, "k"), &[Entry::NotCounted(NotCounted::S3OtherNotice)]);
    }
    let confirmation = json!({"Type": "SubscriptionConfirmation", "TopicArn": "t", "SubscribeURL": "https://x"});
    check(&records(&[sqs(&confirmation.to_string())]), &[Entry::NotCounted(NotCounted::SnsConfirmation)]);
}

#[test]
fn garbage_in_a_batch_leaves_its_neighbours_alone_and_is_kept_as_it_came() {
    let good = records(&[s3("a")]).to_string();
    let half = records(&[s3("b"), json!({"eventSource": "aws:s3", "eventVersion": "2.1"}), json!("text")]).to_string();
    let batch = records(&[sqs(&good), sqs("not json at all"), sqs(&half), sqs("{\"x\":1}"), json!({"y": 1})]);
    let found = read(batch.to_string().as_bytes());
    assert_eq!((&found[0], &found[2]), (&Found::Object(object("a")), &Found::Object(object("b"))));
    let set_aside: Vec<_> = found
        .iter()
        .filter_map(|found| match found {
            Found::DeadLetter(reason, kept) => Some((*reason, kept.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(set_aside[0].0, Reason::NotJson);
    assert!(set_aside[0].1.contains("not json at all"), "{:?}", set_aside[0]);
    assert_eq!(
        set_aside[1..],
        [
            (Reason::NoticeMalformed, r#"{"eventSource":"aws:s3","eventVersion":"2.1"}"#),
            (Reason::NotRecognized, "\"text\""),
            (Reason::NotRecognized, "{\"x\":1}"),
            (Reason::NotRecognized, "{\"y\":1}"),
        ]
    );
}

#[test]
fn a_version_of_another_major_number_is_set_aside() {
    let mut notice = s3("k");
    notice["eventVersion"] = json!("3.0");
    check(&notice, &[Entry::DeadLetter(Reason::NoticeVersion)]);
    let mut bridge = event_bridge_of("Object Created", "k");
    bridge["detail"]["event-version"] = json!("2.0");
    check(&bridge, &[Entry::DeadLetter(Reason::NoticeVersion)]);
    bridge["detail"]["event-version"] = json!("1.1");
    check(&bridge, &[Entry::Object(object("k"))]);
}

#[test]
fn an_object_is_found_by_its_name() {
    let named = NamedObject { etag: None, sequencer: None, size: None, ..object("a/b c") };
    assert_eq!(NamedObject::of_name(&named.name()), Some(named));
    for other in ["/a/b", "s3://", "s3://trail-logs/", "s3://../x", "file"] {
        assert_eq!(NamedObject::of_name(other), None, "{other}");
    }
}

#[test]
fn a_bucket_that_could_lead_elsewhere_is_no_bucket() {
    for bucket in ["..", "a/b", "", "ab", ".hidden", "with space"] {
        let mut notice = s3("k");
        notice["s3"]["bucket"]["name"] = json!(bucket);
        check(&notice, &[Entry::DeadLetter(Reason::NoticeMalformed)]);
    }
}

const KEYS: [&str; 19] = [
    "Records",
    "eventSource",
    "EventSource",
    "source",
    "Type",
    "body",
    "Message",
    "Sns",
    "s3",
    "bucket",
    "object",
    "key",
    "name",
    "detail",
    "detail-type",
    "eventName",
    "eventVersion",
    "Event",
    "TopicArn",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        proptest::sample::select(vec![
            "aws:s3",
            "aws:sqs",
            "aws:sns",
            "aws.s3",
            "Notification",
            "Object Created",
            "2.1",
            "k%2",
            "{}"
        ])
        .prop_map(Value::from),
        Just(Value::from(records(&[s3("k")]).to_string())),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from), object_of(inner),]
    })
}

fn object_of(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec((proptest::sample::select(KEYS.to_vec()), inner), 0..5).prop_map(|members| {
        members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
    })
}

proptest! {
    #[test]
    fn any_json_is_judged_and_what_is_kept_of_it_is_judged_the_same(value in object_of(any_json())) {
        for found in read(value.to_string().as_bytes()) {
            if let Found::DeadLetter(reason, kept) = found {
                // As a replay reads it: the only element of an array.
                let again = read(format!("[{kept}]").as_bytes());
                prop_assert!(again.iter().any(|found| matches!(found, Found::DeadLetter(again, _) if *again == reason)), "{}", kept);
            }
        }
    }

    #[test]
    fn a_key_survives_its_encoding(key in "\\PC{1,40}") {
        let encoded: String = key.bytes().map(|byte| match byte {
            b' ' => "+".to_owned(),
            byte if byte.is_ascii_alphanumeric() || b"/-_.*".contains(&byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        }).collect();
        prop_assert_eq!(decode_key(&encoded), Some(key));
    }
}
