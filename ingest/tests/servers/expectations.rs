//! What must have been read, kept and found again.

use embedded::DynamoDb;
use ingest::digest::{
    Chain, Digest, LogObject, ObjectName, PreviousDigest, PublicKeys, SeenDigest, Stretch, TrailSource,
};
use ingest::expectations::Expectations;
use ingest::{AccountId, Timestamp};

use crate::clients;

fn at(hour: i64) -> Timestamp {
    Timestamp::parse_rfc3339("2026-10-01T00:01:31Z").unwrap().saturating_add_secs(hour * 3_600)
}

fn source(region: &str) -> TrailSource {
    TrailSource { account: AccountId::parse("000000000012").unwrap(), region: region.into(), trail: "a_b".into() }
}

fn name(kind: &str, hour: i64) -> ObjectName {
    ObjectName { bucket: "trail-logs".into(), key: format!("AWSLogs/{kind}/{hour:03}.json.gz") }
}

fn seen(region: &str, hour: i64, objects: usize) -> SeenDigest {
    let log_object = |n: usize| LogObject {
        object: ObjectName {
            bucket: if n == 3 { "other-bucket".into() } else { "trail-logs".into() },
            key: format!("{}-{n:05}", name("log", hour).key.repeat(3)),
        },
        sha256: [n as u8; 32],
    };
    let previous = (0 < hour).then(|| PreviousDigest {
        object: name("digest", hour - 1),
        sha256: [hour as u8 - 1; 32],
        signature: "00ff".into(),
    });
    SeenDigest {
        digest: Digest {
            source: source(region),
            start: at(hour),
            end: at(hour + 1),
            end_as_written: at(hour + 1).to_string(),
            is_backfill: hour == 5,
            object: name("digest", hour),
            previous,
            key_fingerprint: "31e8".into(),
            log_objects: (0..objects).map(log_object).collect(),
        },
        content_sha256: [hour as u8; 32],
        signature: (hour == 2).then(|| "abcd".into()),
        seen_at: at(100),
    }
}

#[tokio::test]
async fn digests_of_any_size_are_found_by_source_and_time_and_form_their_chain() {
    let server = DynamoDb::in_memory().await.unwrap();
    let expectations = Expectations::new(clients::dynamodb(server.endpoint()), "expectations".into(), || 0);
    expectations.ensure_table().await.unwrap();
    expectations.ensure_table().await.unwrap();
    // Three items' worth of log objects in one of them.
    let mut ours: Vec<_> = (0..6).map(|hour| seen("eu-west-1", hour, if hour == 3 { 6_000 } else { 4 })).collect();
    let other = seen("us-east-1", 0, 0);
    expectations.put(&ours).await.unwrap();
    expectations.put(&[other.clone(), ours[3].clone()]).await.unwrap();

    assert_eq!(expectations.sources().await.unwrap(), [source("eu-west-1"), source("us-east-1")]);
    let all = Stretch { start: at(0), end: at(50) };
    let found = expectations.of_source(&source("eu-west-1"), all).await.unwrap();
    assert!(found == ours, "found {} digests", found.len());
    assert_eq!(expectations.of_source(&source("us-east-1"), all).await.unwrap(), [other]);
    let chain = Chain::of(&found, &PublicKeys::default());
    assert_eq!(chain.covered, [Stretch { start: at(0), end: at(5) }], "a backfill covers nothing");

    let part = expectations.of_source(&source("eu-west-1"), Stretch { start: at(2), end: at(4) }).await.unwrap();
    assert!(part == ours[2..4], "ends after 2 and through 4");
    // The same name with another content is another item: both are there to be seen.
    ours[4].content_sha256 = [0xee; 32];
    expectations.put(&ours[4..5]).await.unwrap();
    let found = expectations.of_source(&source("eu-west-1"), Stretch { start: at(4), end: at(5) }).await.unwrap();
    assert_eq!(found.iter().map(|seen| seen.content_sha256[0]).collect::<Vec<_>>(), [4, 0xee]);
    server.shutdown().await;
}
