use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use embedded::{Kinesis, KinesisOptions};

const STREAM: &str = "usage";
const SHARD: &str = "shardId-000000000000";

fn client(endpoint: &str) -> Client {
    let connections =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .credentials_provider(Credentials::new("any", "any", None, None, "test"))
        .http_client(connections)
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

async fn with_stream(options: KinesisOptions) -> (Kinesis, Client) {
    let kinesis = Kinesis::start(options).await.unwrap();
    let client = client(kinesis.endpoint());
    client.create_stream().stream_name(STREAM).shard_count(1).send().await.unwrap();
    loop {
        let stream = client.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        if stream.stream_description_summary.unwrap().stream_status.as_str() == "ACTIVE" {
            return (kinesis, client);
        }
        tokio::task::yield_now().await;
    }
}

fn record(content: impl Into<Vec<u8>>) -> PutRecordsRequestEntry {
    PutRecordsRequestEntry::builder().partition_key("0").data(Blob::new(content)).build().unwrap()
}

async fn iterator(client: &Client) -> String {
    let trim_horizon = ShardIteratorType::TrimHorizon;
    let answer = client.get_shard_iterator().stream_name(STREAM).shard_id(SHARD).shard_iterator_type(trim_horizon);
    answer.send().await.unwrap().shard_iterator.unwrap()
}

/// The records from the iterator on, and the next iterator.
async fn read(client: &Client, iterator: String) -> (Vec<(String, Vec<u8>)>, String) {
    let answer = client.get_records().shard_iterator(iterator).send().await.unwrap();
    let records = answer.records.into_iter().map(|one| (one.sequence_number, one.data.into_inner())).collect();
    (records, answer.next_shard_iterator.unwrap())
}

#[tokio::test]
async fn records_come_back_in_order_and_large_requests_pass() {
    let (kinesis, client) = with_stream(KinesisOptions::default()).await;
    let sent: Vec<Vec<u8>> = (0..4_u8).map(|n| vec![n; 1_000_000]).collect();
    let put = client.put_records().stream_name(STREAM).set_records(Some(sent.iter().cloned().map(record).collect()));
    assert_eq!(put.send().await.unwrap().failed_record_count, Some(0));
    let (records, _) = read(&client, iterator(&client).await).await;
    assert_eq!(records.into_iter().map(|(_, content)| content).collect::<Vec<_>>(), sent);
    kinesis.shutdown().await;
}

#[tokio::test]
async fn a_server_that_enforces_limits_refuses_single_records_of_a_request() {
    let (kinesis, client) = with_stream(KinesisOptions { enforce_limits: true }).await;
    let put = client.put_records().stream_name(STREAM).set_records(Some(vec![record(vec![0; 600_000]); 4]));
    let answer = put.send().await.unwrap();
    assert_eq!(answer.failed_record_count, Some(3), "one megabyte a second fits one of them");
    kinesis.shutdown().await;
}

#[tokio::test]
async fn forgotten_records_are_gone_and_later_ones_stay() {
    let (kinesis, client) = with_stream(KinesisOptions::default()).await;
    let sent = (0..10_u8).map(|n| record(vec![n])).collect();
    client.put_records().stream_name(STREAM).set_records(Some(sent)).send().await.unwrap();
    let (records, after_all) = read(&client, iterator(&client).await).await;
    assert_eq!(kinesis.forget_through(STREAM, SHARD, &records[6].0).await, 7);
    assert_eq!(kinesis.forget_through(STREAM, SHARD, &records[6].0).await, 0);
    assert_eq!(kinesis.forget_through("no such stream", SHARD, &records[6].0).await, 0);
    let (left, _) = read(&client, iterator(&client).await).await;
    assert_eq!(left, records[7..]);
    client.put_records().stream_name(STREAM).records(record("later")).send().await.unwrap();
    let (later, _) = read(&client, after_all).await;
    assert_eq!(later.len(), 1, "a reader goes on where it was");
    kinesis.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_beside_many_writers_misses_no_record() {
    const WRITERS: usize = 4;
    const PUTS: usize = 40;
    const RECORDS: usize = 50;
    let (kinesis, client) = with_stream(KinesisOptions::default()).await;
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (client, done) = (client.clone(), Arc::clone(&done));
        async move {
            let mut at = iterator(&client).await;
            let mut seen = BTreeSet::new();
            loop {
                let was_done = done.load(Ordering::SeqCst);
                let (records, next) = read(&client, at).await;
                if was_done && records.is_empty() {
                    return seen;
                }
                seen.extend(records.into_iter().map(|(_, content)| content));
                at = next;
            }
        }
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                for put in 0..PUTS {
                    let records = (0..RECORDS).map(|n| record(format!("{writer} {put} {n}"))).collect();
                    client.put_records().stream_name(STREAM).set_records(Some(records)).send().await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    assert_eq!(reader.await.unwrap().len(), WRITERS * PUTS * RECORDS);
    kinesis.shutdown().await;
}

#[tokio::test]
async fn a_stopped_server_answers_no_more() {
    let kinesis = Kinesis::start(KinesisOptions::default()).await.unwrap();
    let address = kinesis.endpoint().strip_prefix("http://").unwrap().to_owned();
    assert!(std::net::TcpStream::connect(&address).is_ok());
    kinesis.shutdown().await;
    assert!(std::net::TcpStream::connect(&address).is_err());
}
