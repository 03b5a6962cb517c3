//! Reading a stream that is resharded, and servers that do not answer at first.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aggregator::commit::Gain;
use aggregator::consumer::{Checkpoint, ConsumerError, ConsumerOptions, consume};
use aws_sdk_kinesis::Client;
use embedded::{Kinesis, KinesisOptions};
use ingest::dead_letter::DeadLetters;
use ingest::kinesis::{StreamRecord, StreamWriter, pack};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clients;
use crate::stage::now;
use crate::tables::{Event, HOUR, SMALL, Tables, slices};

const STREAM: &str = "usage";
/// The middle of the hash keys: where a shard of all of them is split.
const MIDDLE: &str = "170141183460469231731687303715884105728";

/// Events of as many accounts, so that they are spread over the hash keys.
fn some(first_identity: u32) -> Vec<Event> {
    (0..40).map(|n| Event { account: n.into(), hour: HOUR, region: 0, identity: first_identity + n }).collect()
}

async fn until_active(client: &Client) {
    loop {
        let stream = client.describe_stream_summary().stream_name(STREAM).send().await.unwrap();
        if stream.stream_description_summary.unwrap().stream_status.as_str() == "ACTIVE" {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn with_stream() -> (Kinesis, Client) {
    let kinesis = Kinesis::start(KinesisOptions::default()).await.unwrap();
    let client = clients::kinesis(kinesis.endpoint());
    client.create_stream().stream_name(STREAM).shard_count(1).send().await.unwrap();
    until_active(&client).await;
    (kinesis, client)
}

async fn put(client: &Client, run: u8, events: &[Event]) {
    StreamWriter::new(client.clone(), STREAM.into(), || 0).put(pack(slices(run, events))).await.unwrap();
}

/// A consumer of the stream, its gains and its checkpoints.
struct Reading {
    consumer: JoinHandle<Result<(), ConsumerError>>,
    gained: mpsc::Receiver<Vec<Gain>>,
    checkpoints: mpsc::UnboundedReceiver<Checkpoint>,
}

impl Reading {
    fn begin(tables: &Tables, client: Client, dead_letters: DeadLetters) -> Self {
        let (gains, gained) = mpsc::channel(4);
        let (told, checkpoints) = mpsc::unbounded_channel();
        let options = ConsumerOptions {
            stream: STREAM.into(),
            flush_interval: Duration::from_millis(5),
            clock: now,
            random: || 0,
            checkpoints: Some(told),
        };
        let aggregators: Vec<_> = (0..4).map(|_| tables.aggregator(20_000, SMALL)).collect();
        let aggregators = Mutex::new(aggregators);
        let aggregator = move || aggregators.lock().unwrap().pop().expect("one a shard");
        let consumer = tokio::spawn(consume(client, options, dead_letters, aggregator, gains));
        Self { consumer, gained, checkpoints }
    }

    /// Waits until a run is counted and acknowledged.
    async fn until_counted(&mut self, tables: &Tables, run: u8, events: &[Event]) {
        let sent = slices(run, events).len();
        while tables.acknowledged(run).await.slices.len() < sent {
            self.gained.recv().await.expect("the consumer goes on");
        }
    }

    /// Closes the gains and waits for the consumer; says which shards it was done with something of.
    async fn end(mut self) -> Vec<String> {
        self.gained.close();
        while self.gained.recv().await.is_some() {}
        self.consumer.await.unwrap().unwrap();
        let mut shards = Vec::new();
        while let Some(checkpoint) = self.checkpoints.recv().await {
            shards.push(checkpoint.shard);
        }
        shards.dedup();
        shards
    }
}

#[tokio::test]
async fn the_children_of_a_split_or_merged_shard_are_read_after_it() {
    let tables = Tables::set().await;
    let (kinesis, client) = with_stream().await;
    let mut reading = Reading::begin(&tables, client.clone(), tables.dead_letters.clone());
    let shard = |number: u32| format!("shardId-{number:012}");

    put(&client, 1, &some(0)).await;
    reading.until_counted(&tables, 1, &some(0)).await;
    let split = client.split_shard().stream_name(STREAM).shard_to_split(shard(0)).new_starting_hash_key(MIDDLE);
    split.send().await.unwrap();
    until_active(&client).await;
    put(&client, 2, &some(100)).await;
    reading.until_counted(&tables, 2, &some(100)).await;
    let merge = client.merge_shards().stream_name(STREAM).shard_to_merge(shard(1)).adjacent_shard_to_merge(shard(2));
    merge.send().await.unwrap();
    until_active(&client).await;
    put(&client, 3, &some(200)).await;
    reading.until_counted(&tables, 3, &some(200)).await;

    let shards = reading.end().await;
    assert_eq!((&shards[0], shards.last()), (&shard(0), Some(&shard(3))), "{shards:?}");
    assert!(shards.contains(&shard(1)) && shards.contains(&shard(2)), "{shards:?}");
    kinesis.shutdown().await;
    tables.server.shutdown().await;
}

/// Hangs up on so many connections, then lets the others through to a server.
async fn after_hanging_up(endpoint: &str, times: u32) -> (String, Arc<AtomicU32>) {
    let to: SocketAddr = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let left = Arc::new(AtomicU32::new(times));
    let counter = Arc::clone(&left);
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            if counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                continue;
            }
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                // Ends when either side hangs up.
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (endpoint, left)
}

#[tokio::test]
async fn shards_are_listed_and_records_set_aside_again_until_the_servers_answer() {
    let tables = Tables::set().await;
    let (kinesis, client) = with_stream().await;
    let bucket = slices(1, &some(0))[0].bucket;
    let poison = StreamRecord { bucket, body: b"no batch".to_vec() };
    StreamWriter::new(client.clone(), STREAM.into(), || 0).put(vec![poison]).await.unwrap();
    put(&client, 1, &some(0)).await;

    let (endpoint, stream_left) = after_hanging_up(kinesis.endpoint(), 5).await;
    let retries = aws_sdk_kinesis::config::retry::RetryConfig::disabled();
    let config = clients::kinesis(&endpoint).config().to_builder().retry_config(retries).build();
    let flaky_stream = Client::from_conf(config);
    // More than one put tries.
    let (endpoint, letters_left) = after_hanging_up(tables.server.endpoint(), 30).await;
    let retries = aws_sdk_dynamodb::config::retry::RetryConfig::disabled();
    let config = clients::dynamodb(&endpoint).config().to_builder().retry_config(retries).build();
    let flaky_letters = DeadLetters::new(aws_sdk_dynamodb::Client::from_conf(config), "dead_letters".into(), || 0);

    let mut reading = Reading::begin(&tables, flaky_stream, flaky_letters);
    reading.until_counted(&tables, 1, &some(0)).await;
    assert_eq!((stream_left.load(Ordering::Relaxed), letters_left.load(Ordering::Relaxed)), (0, 0));
    assert_eq!(tables.dead_letters.list().await.unwrap()[0].bytes, b"no batch");
    reading.end().await;
    kinesis.shutdown().await;
    tables.server.shutdown().await;
}

#[tokio::test]
async fn a_consumer_that_comes_late_reads_the_whole_lineage_parents_first() {
    let tables = Tables::set().await;
    let (kinesis, client) = with_stream().await;
    put(&client, 1, &some(0)).await;
    let split = client.split_shard().stream_name(STREAM).shard_to_split("shardId-000000000000");
    split.new_starting_hash_key(MIDDLE).send().await.unwrap();
    until_active(&client).await;
    put(&client, 2, &some(100)).await;

    let mut reading = Reading::begin(&tables, client, tables.dead_letters.clone());
    reading.until_counted(&tables, 2, &some(100)).await;
    assert_eq!(tables.acknowledged(1).await.slices.len(), slices(1, &some(0)).len(), "the parent came first");
    reading.end().await;
    kinesis.shutdown().await;
    tables.server.shutdown().await;
}
