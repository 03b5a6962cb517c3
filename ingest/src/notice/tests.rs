use proptest::prelude::*;
use serde_json::json;

use super::*;

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

#[track_caller]
fn check(delivered: &Value, expected: &[Entry]) {
    let found = entries(delivered.to_string().as_bytes()).unwrap_or_else(|| panic!("no notice: {delivered}"));
    let found: Vec<Entry> = found.into_iter().map(|read| read.entry).collect();
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
    let batch =
        records(&[sqs(&good), sqs("not json at all"), sqs(&half), sqs("{\"eventName\":\"X\"}"), json!({"x": 1})]);
    check(
        &batch,
        &[
            Entry::Object(object("a")),
            Entry::DeadLetter(Reason::BrokenJson),
            Entry::Object(object("b")),
            Entry::DeadLetter(Reason::NoticeMalformed),
            Entry::Other,
            Entry::Other,
            Entry::Other,
        ],
    );
    let texts: Vec<String> = entries(batch.to_string().as_bytes()).unwrap().into_iter().map(|read| read.text).collect();
    assert_eq!(texts[1], "not json at all");
    assert_eq!(texts[3], r#"{"eventSource":"aws:s3","eventVersion":"2.1"}"#);
    assert_eq!(texts[4..], ["\"text\"", "{\"eventName\":\"X\"}", "{\"x\":1}"]);
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
fn a_bucket_that_could_lead_elsewhere_is_no_bucket() {
    for bucket in ["..", "a/b", "", "ab", ".hidden", "with space"] {
        let mut notice = s3("k");
        notice["s3"]["bucket"]["name"] = json!(bucket);
        check(&notice, &[Entry::DeadLetter(Reason::NoticeMalformed)]);
    }
}

#[test]
fn endless_wrapping_ends_as_a_dead_letter() {
    let mut text = records(&[s3("k")]).to_string();
    for _ in 0..10 {
        text = sns_envelope(&text).to_string();
    }
    check(&records(&[sqs(&text)]), &[Entry::DeadLetter(Reason::NoticeMalformed)]);
}

#[test]
fn events_and_other_json_are_no_notices() {
    for other in [
        "{}",
        "[]",
        "1",
        "{\"Records\":1}",
        "{\"eventName\":\"X\"}",
        r#"{"detail-type":"GuardDuty Finding","source":"aws.guardduty","detail":{}}"#,
        "not json",
    ] {
        assert_eq!(entries(other.as_bytes()), None, "{other}");
    }
}

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
        let keys = [
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
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((proptest::sample::select(keys.to_vec()), inner), 0..5).prop_map(|members| members
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_gives_entries_that_read_the_same_again(value in any_json()) {
        // What a dead letter keeps must be judged as the whole was.
        for read in entries(value.to_string().as_bytes()).unwrap_or_default() {
            if let Entry::Object(_) | Entry::NotCounted(_) | Entry::DeadLetter(Reason::NoticeVersion) = &read.entry {
                let again = entries(read.text.as_bytes()).unwrap();
                prop_assert_eq!(again.len(), 1);
                prop_assert_eq!(&again[0].entry, &read.entry);
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
