//! Objects that notices name, from S3 and from a folder.

use std::convert::Infallible;
use std::io::Read as _;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use embedded::{S3, S3Options};
use ingest::aws::AwsErrorKind;
use ingest::notice::NamedObject;
use ingest::object_store::{Folder, ObjectStore, OpenError, S3Objects};
use ingest::{Beside, ObjectRead, Reason, Rules, Timestamp, read_object};

use crate::clients;

const EVENT: &str = r#"{"eventName":"X","eventTime":"2026-10-01T11:00:00Z","recipientAccountId":"111111111111"}"#;

fn named(key: &str) -> NamedObject {
    NamedObject {
        bucket: "trail-logs".into(),
        key: key.into(),
        version_id: None,
        etag: None,
        sequencer: None,
        size: None,
    }
}

async fn put(client: &Client, key: &str, content: Vec<u8>) -> String {
    let put = client.put_object().bucket("trail-logs").key(key).metadata("signature", "00ff");
    let put = put.body(ByteStream::from(content)).send().await.unwrap();
    put.e_tag.unwrap().trim_matches('"').to_owned()
}

async fn read(store: &impl ObjectStore, object: &NamedObject) -> Result<ObjectRead, OpenError> {
    let opened = store.open(object).await?;
    let name = object.name();
    let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
    let read = move || read_object(&name, opened.body, Rules::at(now), |_| Ok::<_, Infallible>(())).unwrap();
    Ok(tokio::task::spawn_blocking(read).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_object_of_a_notice_is_read_from_s3_whatever_its_key() {
    let server = S3::start(S3Options::default()).await.unwrap();
    let client = clients::s3(server.endpoint(), "any");
    client.create_bucket().bucket("trail-logs").send().await.unwrap();
    let key = "AWSLogs/1/my file=a+b é.json";
    // Above what one network read brings.
    let content = format!("{{\"Records\":[{}]}}", vec![EVENT; 20_000].join(","));
    let etag = put(&client, key, content.into_bytes()).await;
    let notice = serde_json::json!({"Records": [{
        "eventVersion": "2.5", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "trail-logs"},
               "object": {"key": "AWSLogs/1/my+file%3Da%2Bb+%C3%A9.json", "eTag": etag}},
    }]});
    let mut named = Vec::new();
    let now = Timestamp::parse_rfc3339("2026-11-01T00:00:00Z").unwrap();
    let _ = read_object("notice.json", notice.to_string().as_bytes(), Rules::at(now), |judged| {
        named.extend(judged.beside.into_iter().filter_map(|beside| match beside {
            Beside::Object(object) => Some(*object),
            _ => None,
        }));
        Ok::<_, Infallible>(())
    })
    .unwrap();
    let [object] = &named[..] else { panic!("{named:?}") };
    assert_eq!(object.key, key);

    let store = S3Objects::new(client.clone());
    assert_eq!(read(&store, object).await.unwrap().read, 20_000);
    assert_eq!(store.open(object).await.unwrap().signature.as_deref(), Some("00ff"));

    put(&client, key, b"{}".to_vec()).await;
    let changed = store.open(object).await.unwrap_err();
    assert!(matches!(changed, OpenError::Changed) && changed.reason() == Some(Reason::ObjectChanged), "{changed:?}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_says_whether_to_set_aside_to_retry_or_to_stop() {
    let options = S3Options { directory: None, denied: vec!["/trail-logs/secret/".into()] };
    let server = S3::start(options).await.unwrap();
    let client = clients::s3(server.endpoint(), "any");
    client.create_bucket().bucket("trail-logs").send().await.unwrap();
    let store = S3Objects::new(client);
    let reason = async |object: NamedObject| store.open(&object).await.unwrap_err().reason();
    assert_eq!(reason(named("none")).await, Some(Reason::ObjectMissing));
    assert_eq!(reason(named("secret/a")).await, Some(Reason::ObjectDenied));
    assert_eq!(reason(NamedObject { bucket: "other-bucket".into(), ..named("a") }).await, Some(Reason::ObjectMissing));

    let stranger = S3Objects::new(clients::s3(server.endpoint(), "wrong"));
    let refused = stranger.open(&named("a")).await.unwrap_err();
    assert!(
        matches!(&refused, OpenError::Service(error) if error.kind == AwsErrorKind::NotAllowed)
            && !refused.is_passing(),
        "{refused:?}"
    );
    server.shutdown().await;

    let gone = store.open(&named("a")).await.unwrap_err();
    assert!(gone.reason().is_none() && gone.is_passing(), "{gone:?}");
}

#[tokio::test]
async fn a_folder_stands_for_its_buckets_and_never_leads_out() {
    let root = tempfile::tempdir().unwrap();
    let bucket = root.path().join("folder/trail-logs/AWSLogs/1");
    std::fs::create_dir_all(&bucket).unwrap();
    std::fs::write(bucket.join("a b.json"), EVENT).unwrap();
    std::fs::write(root.path().join("outside.json"), EVENT).unwrap();
    let store = Folder::new(root.path().join("folder"));
    assert_eq!(read(&store, &named("AWSLogs/1/a b.json")).await.unwrap().read, 1);
    let one_bucket = Folder::new(root.path().join("folder/trail-logs"));
    let mut text = String::new();
    one_bucket.open(&named("AWSLogs/1/a b.json")).await.unwrap().body.read_to_string(&mut text).unwrap();
    assert_eq!(text, EVENT);

    for key in
        ["../outside.json", "../../outside.json", "/etc/hostname", "AWSLogs/1/../1/a b.json", "AWSLogs/1", "a\0b", "x"]
    {
        let refused = store.open(&named(key)).await.unwrap_err();
        assert!(matches!(refused, OpenError::Missing), "{key:?}: {refused:?}");
    }
    let other_size = NamedObject { size: Some(3), ..named("AWSLogs/1/a b.json") };
    assert!(matches!(store.open(&other_size).await.unwrap_err(), OpenError::Changed));
}
