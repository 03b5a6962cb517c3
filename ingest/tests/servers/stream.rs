use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::ShardIteratorType;
use embedded::{Kinesis, KinesisOptions};
use ingest::Bucket;
use ingest::aws::AwsErrorKind;
use ingest::kinesis::{StreamRecord, StreamWriter, partition_key};

use crate::clients;

const STREAM: &str = "usage";

async fn with_stream(shards: i32) -> (Kinesis, Client) {
    let kinesis = Kinesis::start(KinesisOptions { enforce_limits: true }).await.unwrap();
    let client = clients::kinesis(kinesis.endpoint());
    client.create_stream().stream_name(STREAM).shard_count(shards).send().await.unwrap();
    loop {
        let stream = client.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        if stream.stream_description_summary.unwrap().stream_status.as_str() == "ACTIVE" {
            return (kinesis, client);
        }
        tokio::task::yield_now().await;
    }
}

/// Every record of the stream: its key and how often each body is there.
async fn arrived(client: &Client) -> BTreeMap<(String, Vec<u8>), usize> {
    let mut arrived = BTreeMap::new();
    for shard in client.list_shards().stream_name(STREAM).send().await.unwrap().shards() {
        let start = client.get_shard_iterator().stream_name(STREAM).shard_id(shard.shard_id());
        let start = start.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
        let mut iterator = start.shard_iterator.unwrap();
        loop {
            let page = client.get_records().shard_iterator(iterator).send().await.unwrap();
            if page.records().is_empty() {
                break;
            }
            for record in page.records {
                *arrived.entry((record.partition_key.unwrap(), record.data.into_inner())).or_default() += 1;
            }
            iterator = page.next_shard_iterator.unwrap();
        }
    }
    arrived
}

#[tokio::test]
async fn what_the_service_refuses_is_sent_again_and_nothing_else() {
    static WAITS: AtomicU32 = AtomicU32::new(0);
    let (kinesis, client) = with_stream(2).await;
    let writer = StreamWriter::new(client.clone(), STREAM.into(), || {
        WAITS.fetch_add(1, Ordering::Relaxed);
        u64::MAX
    });
    // More than a shard takes in a second, by count and, with the large ones, by bytes.
    let record = |number: u32| {
        let bucket = Bucket::new(u16::try_from(number).unwrap() % Bucket::COUNT).unwrap();
        let mut body = number.to_be_bytes().to_vec();
        body.resize(if number.is_multiple_of(500) { 900_000 } else { 20 }, 0);
        StreamRecord { bucket, body }
    };
    let records: Vec<StreamRecord> = (0..2_600).map(record).collect();
    writer.put(records.clone()).await.unwrap();
    assert!(0 < WAITS.load(Ordering::Relaxed), "the service refused nothing");

    let expected: BTreeMap<_, usize> =
        records.into_iter().map(|record| ((partition_key(record.bucket), record.body), 1)).collect();
    let arrived = arrived(&client).await;
    assert_eq!((arrived.len(), arrived.values().sum()), (expected.len(), expected.len()), "each record once");
    assert!(arrived == expected, "records arrived changed or under another key");
    kinesis.shutdown().await;
}

#[tokio::test]
async fn a_missing_stream_is_an_error_at_once() {
    let (kinesis, client) = with_stream(1).await;
    let writer = StreamWriter::new(client, "another".into(), || 0);
    let record = StreamRecord { bucket: Bucket::new(0).unwrap(), body: vec![1] };
    let missing = writer.put(vec![record]).await.unwrap_err();
    assert_eq!(missing.kind, AwsErrorKind::NotFound, "{missing}");
    writer.put(Vec::new()).await.unwrap();
    kinesis.shutdown().await;
}
